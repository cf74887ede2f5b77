"""What happens to a whole run from outside: signals, closed streams, terminals of few letters, killed runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch.atomic import check_can_write, temporary_prefix

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

TINY = ["--resize", "64", "--crop", "64", "--device", "cpu", "--symmetries", "none"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "softpatch", *map(str, arguments)]


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    folder = tmp_path / "plates"
    folder.mkdir()
    for seed in range(12):
        Image.fromarray(plate(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("seconds", [0.05, 2.5])
def test_several_signals_at_once_print_no_traceback(plates: Path, tmp_path: Path, seconds: float) -> None:
    run = subprocess.Popen(command("fit", plates, "-o", tmp_path / "m", *TINY), stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert "Traceback" not in err
    assert run.returncode in (130, 143, -signal.SIGINT, -signal.SIGTERM)  # the latter before Python itself is there
    assert not (tmp_path / "m").exists()


WITH_ALL = pytest.mark.skipif(not os.environ.get("SOFTPATCH_ALL_FAULTS"), reason="runs with make faults")


def _as_usual() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests are run by nohup


@WITH_ALL
def test_a_terminal_that_is_closed_leaves_nothing(plates: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    tiny_softpatch(preset="patchcore").fit(plates).save(tmp_path / "m")
    many = [plates] * 400
    with subprocess.Popen(
        command("predict", tmp_path / "m", *many, "-o", results, "--maps"), preexec_fn=_as_usual
    ) as run:
        for _ in range(600):
            if results.exists() and any(results.iterdir()):
                break
            time.sleep(0.05)
        run.send_signal(signal.SIGHUP)
        run.wait(timeout=60)
    assert run.returncode == 129
    assert list(results.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    prefix = temporary_prefix().replace(str(os.getpid()), ended.stdout.decode().strip())
    left, mine = tmp_path / f"{prefix}abc.safetensors", tmp_path / f"{temporary_prefix()}abc"
    (tmp_path / f"{prefix}folder/new").mkdir(parents=True)
    for path in (left, mine, tmp_path / ".softpatch-notes"):
        path.write_bytes(b"half")
    check_can_write(tmp_path / "m")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, ".softpatch-notes"}


def shell(line: str) -> int:
    """The exit status of the first command of a line; to list is enough, and takes no time to compile."""
    return subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], check=False).returncode


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("| true", 0),
        ("--layout x 2>/dev/full", 2),
        pytest.param(">&- 2>&-", 0, marks=WITH_ALL),
        pytest.param("2>&-", 0, marks=WITH_ALL),
        pytest.param("--layout x 2>&-", 2, marks=WITH_ALL),
    ],
)
def test_streams_that_are_closed_or_full_or_not_read(plates: Path, end: str, status: int) -> None:
    line = " ".join(f"'{part}'" for part in command("fit", plates, "--list"))
    assert shell(f"{line} {end}") == status


def test_a_terminal_of_few_letters(plates: Path) -> None:
    (plates / "0.png").rename(plates / "Prüfung.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run(command("fit", plates, "--list"), env=environment, capture_output=True, check=False)
    assert (run.returncode, run.stdout.isascii()) == (0, True)
    assert b"Pr\\xfcfung.png: image" in run.stdout
