"""How long a user waits for a command, beside what importing torch alone takes: `python benchmarks/startup.py IMAGES`.

Every command is a new process, and they take turns, so that a machine that gets slower slows all of them. IMAGES is a
folder of a product's images to fit; two of the commands judge its first image.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from softpatch.data.inputs import choose_images

_SECONDS = {
    "help": 0.3,
    "a wrong option": 0.5,
    "a missing file": 0.5,
    "predict one image": 2.0,
}
"""What they should take on two quiet cores."""
_MOST_OF_TORCH = {"predict one image": 1.5}
"""What they may take beside `python -c 'import torch'`."""


@dataclass(frozen=True)
class Row:
    """A command's median time, and how many times as long as importing torch that is."""

    command: str
    seconds: float
    of_torch: float
    target: float | None

    def __str__(self) -> str:
        limit, most = self.target, _MOST_OF_TORCH.get(self.command)
        missed = limit is not None and self.seconds > limit and (most is None or self.of_torch > most)
        target = "" if limit is None else f"  target {limit} s" + (f" or {most} times torch" if most else "")
        times = f"{self.seconds:.2f} s  {self.of_torch:.2f} times torch"
        return f"{self.command:<32} {times}{target}{'  MISSED' if missed else ''}"


def seconds(command: list[str], cache: Path) -> float:
    """Run a command with the caches in a folder, and say how long it took; whatever it answers is left aside."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache)}
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def measured(images: Path, rounds: int) -> list[Row]:
    """Time every command in turns, `rounds` times, and give the medians."""
    softpatch = [sys.executable, "-m", "softpatch"]
    one = choose_images(images, "train").refs[0].name
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, cache = str(work / "model.safetensors"), work / "cache"
        fit = [*softpatch, "fit", str(images), "-o", model]
        predict = [*softpatch, "predict", model, one, "-o", str(work / "results")]
        first = {"fit, the first ever": seconds(fit, cache), "fit, later": seconds(fit, cache)}
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "help": [*softpatch, "--help"],
            "a wrong option": [*softpatch, "predict", model, one, "--colour"],
            "a missing file": [*softpatch, "predict", model, str(work / "none.png")],
            "predict one image": predict,
            "predict the folder": [*predict[:5], str(images), *predict[6:]],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                taken[name].append(seconds(command, cache))
    medians = {**{name: statistics.median(times) for name, times in taken.items()}, **first}
    torch = medians["import torch"]
    return [Row(name, value, value / torch, _SECONDS.get(name)) for name, value in medians.items()]


def main() -> None:
    """Measure, print a line per command, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rows = measured(given.images, given.rounds)
    print("\n".join(map(str, rows)))
    if given.output:
        given.output.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
