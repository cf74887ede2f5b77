"""How long a user waits for a command, beside what importing torch alone takes: `python benchmarks/startup.py IMAGES`.

Every command is a new process, and they take turns, so that a machine that gets slower slows all of them. IMAGES is a
folder of a product's images to fit; two of the commands judge its first image. The last line is no command: a frame of
256 pixels after another, judged by a model that stays loaded.
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

from softpatch import SoftPatch
from softpatch.data.framing import Framing
from softpatch.data.inputs import choose_images

_SECONDS = {
    "help": 0.3,
    "a wrong option": 0.5,
    "a missing file": 0.5,
    "predict one image": 2.0,
    "a frame, in Python": 0.015,
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

    def cells(self) -> tuple[str, str, str, str]:
        """What it is, how long it takes, how many times as long as importing torch, and what it should take."""
        limit, most = _SECONDS.get(self.command), _MOST_OF_TORCH.get(self.command)
        missed = limit is not None and self.seconds > limit and (most is None or self.of_torch > most)
        target = "" if limit is None else f"{limit:g} s" + (f" or {most} times torch" if most else "")
        return self.command, f"{self.seconds:.3g} s", f"{self.of_torch:.2f}", target + (", missed" if missed else "")


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | median | times `import torch` | target |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)])


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
        frame = seconds_per_frame(Path(model), images, rounds)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    medians |= {**first, "a frame, in Python": frame}
    return [Row(name, value, value / medians["import torch"]) for name, value in medians.items()]


def seconds_per_frame(model: Path, images: Path, rounds: int) -> float:
    """The median time of `predict` for one frame after another, once compiled code is loaded."""
    detector = SoftPatch.load(model)
    refs = choose_images(images, "train").refs[:20]
    frames = [Framing.square(256, 256).apply(ref.read()).mul(255).byte().permute(1, 2, 0).numpy() for ref in refs]
    taken = []
    for turn in range(rounds + 1):
        for frame in frames:
            start = time.perf_counter()
            detector.predict(frame)
            if turn:
                taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Measure, print a line per command, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rows = measured(given.images, given.rounds)
    print(table(rows))
    if given.output:
        given.output.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
