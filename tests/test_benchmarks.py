"""The benchmarks run and compute what they say; how fast anything is, no test asks."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import gpu
import performance
from performance import Row, cached_norms_loop, fallen

from softpatch.memory.coreset import greedy_coreset


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_its_benchmark_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="there is no CUDA GPU here"):
        gpu.main()


def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--backbone", "builtin-v1", "--images", "8", "--batch", "4", "--side", "64"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options, "-o", str(output)])
    gpu.main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["unit"] for row in rows].count("images") == 5  # network; fit and predict, twice
    assert all(row["value"] > 0 for row in rows)


def test_the_references_pick_as_the_coreset_does() -> None:
    points = torch.rand(300, 8, generator=torch.Generator().manual_seed(0)).half()
    picks = greedy_coreset(points, torch.arange(300), 20).tolist()
    assert cached_norms_loop(points.float(), picks[0], 20) == picks


def test_a_ratio_that_fell_is_told() -> None:
    row = Row("search", "brute force", ours_s=1.0, reference_s=2.0, target=3)
    assert fallen([row], {row.key: 2.0 / performance.BAND - 0.1}) == []
    assert fallen([row], {row.key: 4.0}) == ["search; brute force: 2.00 times faster, it was 4.00"]
    assert fallen([row], {}) == []
