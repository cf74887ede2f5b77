"""What happens to a whole run from outside: signals, closed streams, terminals of few letters, killed runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import plate

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

TINY = ["--backbone", "resnet18", "--weights", "random", "--resize", "64", "--crop", "64", "--device", "cpu"]


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


def _as_usual() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests are run by nohup


def test_a_terminal_that_is_closed_leaves_nothing(plates: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    subprocess.run(command("fit", plates, "-o", tmp_path / "m", *TINY), check=True, capture_output=True)
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


def test_what_a_killed_run_left_is_removed_by_the_next(plates: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    from softpatch.atomic import temporary_prefix

    prefix = temporary_prefix().replace(str(os.getpid()), ended.stdout.decode().strip())
    left, mine = tmp_path / f"{prefix}abc.safetensors", tmp_path / f"{temporary_prefix()}abc"
    (tmp_path / f"{prefix}folder/new").mkdir(parents=True)
    for path in (left, mine, tmp_path / ".softpatch-notes"):
        path.write_bytes(b"half")
    assert subprocess.run(command("fit", plates, "-o", tmp_path / "m", *TINY), check=False).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"plates", "m", mine.name, ".softpatch-notes"}


def test_closed_streams_do_not_fail_a_run(plates: Path, tmp_path: Path) -> None:
    shell = " ".join(f"'{part}'" for part in command("fit", plates, "-o", tmp_path / "m", *TINY))
    assert subprocess.run(f"{shell} >&- 2>&-", shell=True, check=False).returncode == 0
    assert (tmp_path / "m").is_file()


def test_a_terminal_of_few_letters(plates: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run(
        command("fit", plates, "-o", tmp_path / "Prüfung", *TINY), env=environment, capture_output=True, check=False
    )
    assert (run.returncode, run.stdout.isascii()) == (0, True)
    assert b"Pr\\xfcfung: learned from 12 images" in run.stdout


def test_a_reader_that_left_does_not_fail_a_run(plates: Path, tmp_path: Path) -> None:
    fit = " ".join(f"'{part}'" for part in command("fit", plates, "-o", tmp_path / "m", *TINY))
    for line in (f"{fit} | true", f"{fit} --list | true"):
        assert subprocess.run(["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], check=False).returncode == 0
    wrong = " ".join(command("bogus"))
    assert subprocess.run(["bash", "-c", f"{wrong} 2>/dev/full"], check=False).returncode == 2
