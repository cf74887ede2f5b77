"""The benchmarks run and compute what they say; how fast anything is, no test asks."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import gpu
import performance
import robust
import startup
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
    assert [row["unit"] for row in rows].count("images") == 7  # network; fit and predict, three times
    assert all(row["value"] > 0 for row in rows)


def test_a_command_that_takes_too_long_is_told() -> None:
    # a slow machine is slow for torch as well
    rows = [startup.Row("help", 0.31, 0.1), startup.Row("help", 0.29, 0.1), startup.Row("fit, later", 9.0, 4.0)]
    rows += [startup.Row("predict one image", 3.0, ratio) for ratio in (1.4, 1.6)]
    assert startup.table(rows).splitlines()[2:] == [
        "| help | 0.31 s | 0.10 | 0.3 s, missed |",
        "| help | 0.29 s | 0.10 | 0.3 s |",
        "| fit, later | 9 s | 4.00 |  |",
        "| predict one image | 3 s | 1.40 | 2 s or 1.5 times torch |",
        "| predict one image | 3 s | 1.60 | 2 s or 1.5 times torch, missed |",
    ]


def test_the_references_pick_as_the_coreset_does() -> None:
    points = torch.rand(300, 8, generator=torch.Generator().manual_seed(0)).half()
    picks = greedy_coreset(points, torch.arange(300), 20).tolist()
    assert cached_norms_loop(points.float(), picks[0], 20) == picks


def test_a_ratio_that_fell_is_told() -> None:
    row = Row("search", "brute force", ours_s=1.0, reference_s=2.0, target=3)
    assert fallen([row], {row.key: 2.0 / performance.BAND - 0.1}) == []
    assert fallen([row], {row.key: 4.0}) == ["search; brute force: 2.00 times faster, it was 4.00"]
    assert fallen([row], {}) == []


def test_the_robust_laboratory_from_images_to_the_table(
    plate_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, rows = tmp_path / "cache", tmp_path / "rows.jsonl"
    ideas = ["all patches", "k = 2", "trusted 75%", "agreement"]
    for words in (
        ["prepare", str(plate_folder), "--cache", str(cache)],
        ["judge", "--cache", str(cache), "-o", str(rows), "--ideas", *ideas],
        ["table", "-o", str(rows)],
    ):
        monkeypatch.setattr(sys, "argv", ["robust.py", *words])
        robust.main()
    measured = [json.loads(line) for line in rows.read_text().splitlines()]
    found = {(row["protocol"], row["noise_ratio"], row["idea"]): row for row in measured}
    assert len(found) == len(robust.CONDITIONS) * (len(ideas) + 1)
    clean = found["clean", 0.0, "bound"], found["clean", 0.0, "all patches"]
    assert clean[0]["image_auroc"] == clean[1]["image_auroc"] > 0.9
    (case,) = (case for *_, case in robust.cases(cache, "plates-builtin-v1-0", {("overlap", 0.4)}))
    assert case.injected.tolist() == [False] * 13 + [True] * 5
    assert case.among[torch.arange(18), :, torch.arange(18)].isinf().all()
    assert "| k = 2 |" in capsys.readouterr().out


def test_what_the_other_sets_choose_is_read_on_this_one() -> None:
    scores = {"a": {"bound": 0.9, "one": 0.9, "two": 0.8}, "b": {"bound": 0.9, "one": 0.7, "two": 0.85}}
    rows = [
        {
            "set": name,
            "protocol": protocol,
            "noise_ratio": ratio,
            "idea": idea,
            "image_auroc": value,
            "pixel_auroc": None,
        }
        for name, ideas in scores.items()
        for idea, value in ideas.items()
        for protocol, ratio in robust.CONDITIONS
    ]
    lines = robust.table(rows).splitlines()
    assert "| one | " + " | ".join(["0.100 / 0.200"] * 7) + " |" in lines
    assert "| a | two | 0.100 | 0.000 |" in lines
    assert "| b | one | 0.200 | 0.050 |" in lines
