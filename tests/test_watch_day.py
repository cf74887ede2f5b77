"""A watcher that is killed while files come: every file has one row, and it says what `predict` says."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import watch_day


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_every_file_has_one_row_whenever_the_watcher_is_killed(tmp_path: Path) -> None:
    outcome = watch_day.run_day(tmp_path, files=200, kills=2, seconds=3, seed=3, again=False)
    assert outcome.faults == 0, outcome
    assert outcome.files == 200
    assert 200 <= outcome.rows <= 220
    assert outcome.unreadable > 0
