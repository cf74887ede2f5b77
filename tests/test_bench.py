"""The benchmark: tasks are checked, rows are resumed, every method runs end to end."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faults.cases import ROW
from softpatch.bench import cflow, igd, mutual, padim, runner, summary
from softpatch.bench.figures import draw_figures
from softpatch.bench.methods import METHODS
from softpatch.bench.panel import draw_panels
from softpatch.bench.rows import finished, read_rows, row_file, task_key
from softpatch.bench.runner import run_tasks
from softpatch.bench.task import Task, read_tasks, task_of
from softpatch.cli import main
from softpatch.config import Runtime
from softpatch.data.cells import table_cell
from softpatch.errors import InputError, SoftPatchError
from softpatch.progress import silent

TINY = {"resize": 64, "crop": 64, "coreset_ratio": 0.1, "budget": "small"}
CPU = Runtime("cpu", workers=1)


def tiny_task(**values: object) -> Task:
    plain = {"data": "plates", "category": "plates", "method": "softpatch+", "noise_ratio": 0.2, **TINY}
    return task_of({**plain, **values})


def rows_of(tasks: list[Task], root: Path, **more: Any) -> list[dict[str, Any]]:
    output = root / "rows.jsonl"
    run_tasks(tasks, output, root, CPU, **more)
    return read_rows(output)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nose": 0.1}, "a task has no 'nose'; it has data, category, method, protocol, noise_ratio"),
        (
            {"method": "softpatch++"},
            r"`method` 'softpatch\+\+' is unknown; choose from padim, cflow, igd, musc, meds, patchcore",
        ),
        (
            {"protocol": "mixed"},
            "`protocol` 'mixed' is unknown; choose from clean, no-overlap, overlap, overlap-distinct",
        ),
        ({"layout": "voc"}, "`layout` 'voc' is unknown; choose from auto, folder, lookout, visa"),
        ({"noise_ratio": 0.1, "protocol": "clean"}, "`noise_ratio` is 0.1 in the protocol 'clean'; it is 0 in 'clean'"),
        ({"noise_ratio": 0, "protocol": "overlap"}, "`noise_ratio` is 0 in the protocol 'overlap'"),
        ({"noise_ratio": 1.5}, "`noise_ratio` is 1.5; it lies between 0 and 1"),
        ({"noise_ratio": "much"}, "`noise_ratio` is 'much'; it must be float"),
        ({"seed": 0.5}, "`seed` is 0.5; it must be int"),
        ({"seed": True}, "`seed` is True; it must be int"),
        ({"noise_ratio": True}, "`noise_ratio` is True; it must be float"),
        ({"coreset_ratio": 7}, "`coreset_ratio` is 7"),
    ],
)
def test_a_bad_task_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tiny_task(**values)


def test_a_task_needs_data_category_and_method() -> None:
    with pytest.raises(InputError, match="a task needs `method`, which is not given"):
        task_of({"data": "a", "category": "b"})


def test_a_task_is_its_row() -> None:
    task = tiny_task(discriminators=["lof"])
    row = json.loads(json.dumps(task.as_row()))
    assert task_key(task_of(row)) == task_key(task)
    assert row["coreset_ratio"] == 0.1
    assert task.detector_settings().discriminators == ("lof",)


def test_a_list_file_gives_every_combination_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(
        """
        [defaults]
        data = "mvtec_ad"
        coreset_ratio = 0.01
        [[tasks]]
        category = ["bottle", "screw"]
        noise_ratio = [0, 0.1]
        method = ["patchcore", "softpatch+"]
        seed = [0, 1]
        [[tasks]]
        category = "bottle"
        noise_ratio = 0.1
        method = "patchcore"
        [[tasks]]
        category = "bottle"
        method = "softpatch+"
        discriminators = [["nearest"], ["gaussian", "lof"]]
        """
    )
    tasks = read_tasks(path)
    assert len(tasks) == 16 + 2
    assert {(task.protocol, task.noise_ratio) for task in tasks} == {("clean", 0), ("overlap", 0.1)}
    assert tasks[-1].detector_settings().discriminators == ("gaussian", "lof")
    assert all(task.detector_settings().coreset_ratio == 0.01 for task in tasks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[tasks", "is no TOML"),
        ("[task]\na = 1", r"has a part 'task'; its parts are \[defaults\] and \[\[tasks\]\]"),
        ("[defaults]\na = 1", r"has no \[\[tasks\]\]"),
        ("tasks = 3", r"has no \[\[tasks\]\]"),
        ('[[tasks]]\ndata = "a"\ncategory = "b"\nmethod = "c"', "task 1: method 'c' is unknown"),
    ],
)
def test_a_bad_list_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_tasks(path)
    with pytest.raises(InputError, match="cannot read the task list"):
        read_tasks(tmp_path)
    with pytest.raises(InputError, match=r"no task list .*missing\.toml; those that come along are figure4, figure5"):
        read_tasks(tmp_path / "missing.toml")


def test_a_shipped_list_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = read_tasks(TASK_LISTS[3])
    assert read_tasks(Path("quick")) == read_tasks(Path("quick.toml")) == quick
    Path("quick.toml").write_text('[[tasks]]\ndata = "a"\ncategory = "b"\nmethod = "padim"')
    assert len(read_tasks(Path("quick.toml"))) == 1  # a file of one's own goes first
    with pytest.raises(InputError, match="no task list"):
        read_tasks(Path("lists/quick.toml"))


TASK_LISTS = sorted((Path(runner.__file__).parent / "tasks").glob("*.toml"))


def test_there_is_a_list_for_every_table_and_figure() -> None:
    names = [f"table{number:02}" for number in range(1, 11)]
    assert [path.stem for path in TASK_LISTS] == ["figure4", "figure5", "figure6", "quick", "shared", *names]


@pytest.mark.parametrize("path", TASK_LISTS, ids=lambda path: path.stem)
def test_the_shipped_lists_are_valid(path: Path) -> None:
    assert len(read_tasks(path)) >= 16


def test_the_lists_ask_for_what_the_paper_has() -> None:
    for number in range(1, 11):
        asked = {
            (task.category, task.protocol, task.noise_ratio, task.method)
            for task in read_tasks(TASK_LISTS[0].with_name(f"table{number:02}.toml"))
        }
        printed = {
            (each.category, each.protocol, each.noise_ratio, each.method)
            for each in summary.paper_numbers()
            if each.table == number and each.category != "average" and each.method in METHODS
        }
        assert printed <= asked


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_end_to_end(method: str, plate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(igd.BUDGETS, "small", replace(igd.BUDGETS["small"], images=400, width=8))
    monkeypatch.setitem(cflow.BUDGETS, "small", replace(cflow.BUDGETS["small"], steps=60))
    (row,) = rows_of([tiny_task(method=method)], plate_folder.parent)
    assert row["error"] is None
    assert (row["method"], row["noise_ratio"], row["coreset_ratio"]) == (method, 0.2, 0.1)
    assert row["image_auroc"] > 0.6
    assert row["pixel_auroc"] > 0.6
    assert row["training_images"] == (13 if METHODS[method].clean_training else 15)
    assert row["test_images"] == 8
    assert [name.split("/")[0] for name in row["injected"]] == ["test", "test"]  # seen from the category's folder
    assert all((plate_folder / name).is_file() for name in row["injected"])
    assert row["fit_seconds"] > 0
    assert row["images_per_second"] > 0
    assert row["peak_memory"] > 10**7


def test_methods_see_the_same_contamination(plate_folder: Path) -> None:
    tasks = [tiny_task(method=method, seed=seed) for method in ("patchcore", "padim") for seed in (0, 1)]
    rows = rows_of(tasks, plate_folder.parent)
    injected = {(row["method"], row["seed"]): row["injected"] for row in rows}
    assert injected["patchcore", 0] == injected["padim", 0]
    assert injected["patchcore", 1] == injected["padim", 1]
    assert injected["patchcore", 0] != injected["patchcore", 1]


def test_features_are_computed_once(plate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = runner.Features.of

    def of(self: runner.Features, refs: Any, seed: int, **more: Any) -> torch.Tensor:
        before = self.images
        found = real(self, refs, seed, **more)
        seen.append(str(self.images - before))
        return found

    monkeypatch.setattr(runner.Features, "of", of)
    rows_of([tiny_task(method=method) for method in ("patchcore", "softpatch-lof")], plate_folder.parent)
    assert seen == ["15", "8", "0", "0"]


def test_rows_that_are_there_are_not_run_again(plate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [tiny_task(seed=seed) for seed in (0, 1)]
    before = rows_of(tasks[:1], plate_folder.parent)
    output = plate_folder.parent / "rows.jsonl"
    with output.open("a") as file:
        file.write('{"task_key": "cut o')  # killed in the middle of a row
    assert read_rows(output) == before
    after = rows_of(tasks, plate_folder.parent)
    assert after[:1] == before
    assert [row["seed"] for row in after] == [0, 1]
    monkeypatch.setattr(runner, "run_group", lambda *_, **__: pytest.fail("nothing is left to run"))
    assert rows_of(tasks, plate_folder.parent) == after


def test_a_task_that_fails_has_a_row_and_the_others_go_on(plate_folder: Path) -> None:
    tasks = [tiny_task(data="nowhere"), tiny_task(lof_neighbors=30), tiny_task(method="patchcore")]
    rows = rows_of(tasks, plate_folder.parent)
    assert [bool(row["error"]) for row in rows].count(True) == 2
    assert len(runner.failures(rows)) == 2
    assert finished(rows) == {task_key(tasks[2])}
    again = rows_of(tasks, plate_folder.parent)  # failed ones are tried again
    assert len(again) == 5


def test_too_many_images_for_the_budget_are_told(plate_folder: Path) -> None:
    runtime = Runtime("cpu", workers=1, memory_budget="0.01MB")
    run_tasks([tiny_task()], plate_folder.parent / "rows.jsonl", plate_folder.parent, runtime)
    (row,) = read_rows(plate_folder.parent / "rows.jsonl")
    assert re.search(
        r"the patch embeddings of \d+ images take 0\.\d GB .* `memory_budget` 0\.01MB; allow more", row["error"]
    )


def test_several_processes_give_the_same_rows(plate_folder: Path) -> None:
    tasks = [tiny_task(method="patchcore", weights=weights) for weights in ("pretrained", "random")]
    here = rows_of(tasks, plate_folder.parent)
    (plate_folder.parent / "rows.jsonl").unlink()
    told: list[tuple[str, int, int]] = []
    there = rows_of(tasks, plate_folder.parent, jobs=2, progress=lambda *where: told.append(where))
    assert told[0] == ("tasks", 0, 2)
    assert told[-1] == ("tasks", 2, 2)
    measured = ("weights", "image_auroc", "pixel_auroc", "injected")
    assert sorted([row[name] for name in measured] for row in there) == sorted(
        [row[name] for name in measured] for row in here
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(ROW) + "\nnonsense\n", "line 2, is no JSON"),
        ("[1]\n", r"line 1, is no row of a benchmark: it is '\[1\]', not a JSON object"),
        ('{"a": 1}\n', "its task_key is 'None' and must be text"),
        ("my notes, a line without an end", "line 1, is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": ' + "9" * 5000 + "}\n", "line 1, is no JSON"),
        (json.dumps({**ROW, "seed": "0"}) + "\n", "its seed is '0' and must be a number"),
        (json.dumps({**ROW, "image_auroc": "high"}) + "\n", "its image_auroc is 'high' and must be a number or null"),
        (json.dumps({**ROW, "maps": 3}) + "\n", "its maps is '3' and must be text or null"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_and_left_alone(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_rows(path)
    with pytest.raises(InputError, match=message), row_file(path):
        pytest.fail("nothing may be added here")
    assert path.read_text() == content


@pytest.mark.parametrize("cut", ["", '{"task_k', '{"task_key": "x', json.dumps(ROW)])
def test_a_row_that_was_cut_off_is_taken_away_and_a_whole_one_stays(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + cut)
    kept = [ROW, ROW] if cut == json.dumps(ROW) else [ROW]
    with row_file(path) as (rows, append):
        assert rows == kept
        append({**ROW, "seed": 1})
    assert [row["seed"] for row in read_rows(path)] == [0] * len(kept) + [1]


def test_two_runs_do_not_add_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.jsonl"
    with row_file(path) as (_, append):
        with pytest.raises(InputError, match="another run adds to the rows"), row_file(path):
            pytest.fail("it is locked")
        append(ROW)
    with row_file(path) as (rows, _):
        assert rows == [ROW]


def test_nothing_of_a_row_becomes_a_path_or_a_formula(tmp_path: Path) -> None:
    names = {"data": "../../x$^$", "backbone": "x/../../../ESCAPED", "category": "\n=1+1", "method": "patchcore"}
    rows = [{**ROW, **names, "images_per_second": 1, "machine": "m", "threads": 1}]
    rows += [{**rows[0], "noise_ratio": 0.1, "protocol": "overlap", "task_key": "1"}]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        main(["bench", "summary", str(tmp_path / "in/rows.jsonl"), "-o", str(tmp_path / "in/out")])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert "noise-ratio-x-x-ESCAPED.png" in {path.name for path in (tmp_path / "in/out").iterdir()}
    with (tmp_path / "in/out/summary.csv").open(newline="") as file:
        assert {row["category"] for row in csv.DictReader(file)} == {"'\n=1+1"}
    with pytest.raises(InputError, match="lie outside"):
        draw_panels([{**rows[0], "maps": "../secret.safetensors"}], tmp_path, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["=1", " =1", "\n=1", "\t=1", "\r\n@x", "\uff1d1", "a;=1", "a; +1", "-1", "@SUM(A1)", "\u00a0=1", "a\n-1"],
)
def test_cells_that_a_spreadsheet_would_compute(text: str) -> None:
    assert table_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=b", "x - y", "good/000.png", "", "1;2", "a@b.c"])
def test_cells_that_are_text(text: str) -> None:
    assert table_cell(text) == text


@pytest.mark.parametrize(
    ("method", "option", "message"),
    [
        ("patchcore", ["--budget", "small"], "--budget small does not apply: patchcore trains no network"),
        ("padim", ["--coreset-ratio", "0.5"], "--coreset-ratio 0.5 does not apply: padim has no coreset"),
    ],
)
def test_options_that_do_not_apply(method: str, option: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "run", "--data", "d", "--category", "c", "--method", method, *option])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--method", "padim"], ["--seed", "3"], ["--noise", "0.1"]])
def test_options_of_one_task_do_not_go_with_a_list(tmp_path: Path, option: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "run", "table01", "-o", str(tmp_path / "rows.jsonl"), *option])
    assert leaving.value.code == 2
    assert f"{option[0]} is of one task, not of the list table01" in capsys.readouterr().err


@pytest.mark.parametrize("images", [1, 4, 7, 24, 36])
def test_meds_is_the_mean_over_all_memories(images: int) -> None:
    distances = torch.rand(2, 3, images, generator=torch.Generator().manual_seed(images))
    size = max(1, round(mutual.MEMORY_SHARE * images))
    memories = [distances[:, :, list(chosen)].amin(dim=2) for chosen in combinations(range(images), size)]
    expected = torch.stack(memories).mean(dim=0)
    assert torch.allclose(mutual.mean_over_memories(distances), expected, rtol=1e-5)


def test_musc_is_the_mean_of_the_nearest() -> None:
    distances = torch.tensor([9.0, 1, 7, 2, 6, 3, 8, 5, 4, 10]).view(1, 1, 10)
    assert mutual.mean_of_nearest(distances).tolist() == [[2.0]]
    assert mutual.mean_of_nearest(distances[:, :, :2]).tolist() == [[1.0]]


def test_padim_is_a_gaussian_per_position() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(count, 3, 4, generator=generator) for count in (40, 5))
    scores = padim.distances(test, *padim.fit_gaussians(train))
    for position in range(3):
        points = train[:, position].double()
        covariance = torch.cov(points.T) + padim.EPSILON * torch.eye(4)
        centred = test[:, position].double() - points.mean(dim=0)
        expected = torch.einsum("nd,de,ne->n", centred, torch.linalg.inv(covariance), centred).sqrt()
        assert torch.allclose(scores[:, position].double(), expected, rtol=1e-4)


def test_the_flow_has_the_density_that_its_jacobian_says() -> None:
    flow = cflow.make_flow(6, seed=0)
    values, conditions = torch.randn(4, 6), cflow.where((2, 2))
    found = cflow.log_likelihood(flow, values, conditions)
    for number in range(4):

        def latent(value: torch.Tensor, condition: torch.Tensor = conditions[number]) -> torch.Tensor:
            return flow(value[None], [condition[None]])[0][0]

        jacobian = torch.autograd.functional.jacobian(latent, values[number])
        normal = torch.distributions.Normal(0, 1).log_prob(latent(values[number])).sum()
        expected = (normal + torch.linalg.slogdet(jacobian).logabsdet) / 6
        assert torch.allclose(found[number], expected, atol=1e-4)


def test_a_flow_learns_where_patches_lie() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(40, 4, 6, generator=generator)
    patches[..., 0] = patches[..., 1] + 0.1 * patches[..., 0]
    patches[:, 2] += 3  # another mean at one position
    likelihoods = []
    for steps in (1, 400):
        training = cflow.Training(epochs=10**6, steps=steps, batch=64, learning_rate=5e-3)
        flow = cflow.train_flow(patches, (2, 2), training, 0, torch.device("cpu"), progress=silent)
        likelihoods.append(cflow.log_likelihoods(flow, patches, (2, 2), torch.device("cpu")))
    assert likelihoods[1].mean() > likelihoods[0].mean() + 0.3
    elsewhere = cflow.log_likelihoods(flow, patches.roll(1, 1), (2, 2), torch.device("cpu"))
    assert elsewhere[:, 3].mean() < likelihoods[1][:, 3].mean() - 0.3


def test_maps_side_by_side_come_apart_again() -> None:
    maps = [torch.randn(2, 3, 4, 5).half(), torch.randn(2, 6, 2, 2).half()]
    parts = cflow.unflattened(cflow.flattened(maps), [(3, 4, 5), (6, 2, 2)])
    for part, each in zip(parts, maps, strict=True):
        assert torch.equal(part, each.flatten(2).mT)


def test_flows_are_the_same_for_the_same_seed() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (cflow.make_flow(6, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_padim_chooses_channels_by_seed() -> None:
    fine = torch.arange(60.0).view(1, 60, 1, 1).expand(1, 60, 4, 4)  # every value says its channel
    coarse = torch.arange(60.0, 448.0).view(1, 388, 1, 1).expand(1, 388, 2, 2)
    chosen = padim.chosen_channels([fine, coarse], "resnet18", 0)
    assert chosen.shape == (1, 16, 100)
    assert (chosen == chosen[:, :1]).all()
    assert len(set(chosen[0, 0].tolist())) == 100
    assert torch.equal(chosen, padim.chosen_channels([fine, coarse], "resnet18", 0))
    assert not torch.equal(chosen, padim.chosen_channels([fine, coarse], "resnet18", 1))
    few = padim.chosen_channels([fine], "builtin-v1", 0)
    assert torch.equal(few[0, 0], torch.arange(60.0).half())


def test_what_a_seed_decides_is_not_shared(plate_folder: Path) -> None:
    tasks = [tiny_task(method="patchcore", weights="random", seed=seed) for seed in (1, 0)]
    rows = rows_of(tasks, plate_folder.parent)
    (plate_folder.parent / "rows.jsonl").unlink()
    (alone,) = rows_of(tasks[1:], plate_folder.parent)  # the network of seed 0, whoever is before it in the list
    assert next(row["pixel_auroc"] for row in rows if row["seed"] == 0) == alone["pixel_auroc"]


def test_a_process_that_is_killed_is_told(plate_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [tiny_task(method="patchcore", weights=weights) for weights in ("pretrained", "random")]
    monkeypatch.setattr(runner, "_work", killed)
    with pytest.raises(SoftPatchError, match=r"2 of 2 tasks were not run: a process was killed"):
        rows_of(tasks, plate_folder.parent, jobs=2)


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stop_ends_all_processes_and_keeps_the_rows(plate_folder: Path, number: int, code: int) -> None:
    root = plate_folder.parent
    rows, listed = root / "rows.jsonl", root / "tasks.toml"
    listed.write_text(
        '[[tasks]]\ndata = "plates"\ncategory = "plates"\nmethod = ["patchcore", "padim"]\nresize = 64\ncrop = 64\n'
        f"seed = {list(range(300))}\n"
    )
    command = [sys.executable, "-m", "softpatch", "bench", "run", listed, "--root", root, "-o", rows, "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: len(read_rows(rows)) > 1)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "" or number == signal.SIGKILL
    wait_until(lambda: not group_lives(process.pid))
    assert all(row["error"] is None for row in read_rows(rows))


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("it did not come within a minute")


def group_lives(leader: int) -> bool:
    """Whether a process of the group is there."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def fixed_rows() -> list[dict[str, Any]]:
    rows = []
    for category, lift in (("bottle", 0.0), ("screw", -0.1)):
        for method, fall in (("patchcore", 1.0), ("softpatch+", 0.1)):
            for ratio in (0.0, 0.1, 0.4):
                for seed in (0, 1):
                    protocol = "overlap" if ratio else "clean"
                    place = {"category": category, "method": method, "noise_ratio": ratio, "seed": seed}
                    task = task_of({"data": "mvtec_ad", "protocol": protocol, "backbone": "resnet18", **place})
                    value = 0.98 + lift - fall * ratio * (1 + 0.1 * seed)
                    measured = {"image_auroc": value, "pixel_auroc": value - 0.05, "images_per_second": 20.0 + seed}
                    rows.append({"task_key": task_key(task), **task.as_row(), **measured, "error": None, **MACHINE})
    return rows


MACHINE = {"machine": "a processor", "threads": 2}


def test_a_table_from_fixed_rows() -> None:
    failed = {**fixed_rows()[0], "error": "no memory", "image_auroc": None}
    found = summary.tables([*fixed_rows(), failed])
    assert [(table.contamination, table.metric) for table in found] == [
        ("clean", "image_auroc"),
        ("clean", "pixel_auroc"),
        ("overlap 10%", "image_auroc"),
        ("overlap 10%", "pixel_auroc"),
        ("overlap 40%", "image_auroc"),
        ("overlap 40%", "pixel_auroc"),
    ]
    text = summary.as_markdown(found).split("\n\n")
    assert text[::2] == [f"**mvtec_ad, {category}, resnet18**" for category in ("bottle", "screw", "average")]
    assert text[5] == (
        "| image / pixel AUROC | clean, 2 seeds | overlap 10%, 2 seeds | overlap 40%, 2 seeds |\n"
        "|---|---|---|---|\n"
        "| patchcore | 0.930 ± 0.000 / 0.880 ± 0.000 | 0.825 ± 0.007 / 0.775 ± 0.007 "
        "| 0.510 ± 0.028 / 0.460 ± 0.028 |\n"
        "| softpatch+ | 0.930 ± 0.000 / 0.880 ± 0.000 | 0.919 ± 0.001 / 0.869 ± 0.001 "
        "| 0.888 ± 0.003 / 0.838 ± 0.003 |"
    )
    assert summary.as_markdown(found[::2]).splitlines()[4].startswith("| patchcore | 0.980 ± 0.000 / - | 0.875")
    assert summary.as_csv(found[4:5]).splitlines()[:2] == [
        "dataset,protocol,noise_ratio,backbone,settings,metric,category,method,value,deviation,seeds",
        "mvtec_ad,overlap,0.4,resnet18,,image_auroc,bottle,patchcore,0.56000,0.02828,2",
    ]


def test_an_average_is_over_categories_that_all_methods_have() -> None:
    rows = [row for row in fixed_rows() if (row["category"], row["method"]) != ("screw", "patchcore")]
    assert not any(category == summary.AVERAGE for table in summary.tables(rows) for category, _ in table.cells)


def test_later_rows_take_the_place_of_earlier_ones() -> None:
    rows = fixed_rows()
    better = {**rows[0], "image_auroc": 1.0}
    cell = summary.tables([rows[0], better])[0].cells["bottle", "patchcore"]
    assert (cell.value, cell.seeds) == (1.0, 1)
    with pytest.raises(InputError, match="no rows without an error"):
        summary.tables([{**rows[0], "error": "no"}])


def test_our_numbers_beside_the_papers() -> None:
    text = summary.beside_paper(summary.tables(fixed_rows()))
    assert "**Table 1 of the paper**" in text
    assert "| overlap 10% | bottle | patchcore | image AUROC | resnet18 | 0.875 ± 0.007 | 0.869 | +0.006 |" in text
    assert "cable" not in text
    assert "| average of 2 of 15 | patchcore | image AUROC | resnet18 | 0.825 ± 0.007 | 0.778 | - |" in text


def averages_beside_the_papers(categories: list[str], **settings: object) -> str:
    """What `summary --paper` says of some values of SoftPatch and PatchCore in these categories."""
    rows = []
    for category in categories:
        for method, value in (("softpatch-lof", 0.9), ("patchcore", 0.8)):
            task = task_of({"data": "mvtec_ad", "category": category, "method": method, **settings})
            measured = {"image_auroc": value, "pixel_auroc": value, "error": None}
            rows.append({"task_key": task_key(task), **task.as_row(), **measured})
    return summary.beside_paper(summary.tables(rows))


def test_numbers_of_neighbours_beside_the_papers() -> None:
    categories = sorted({each.category for each in summary.paper_numbers() if each.table == 1} - {"average"})
    text = averages_beside_the_papers(categories, lof_neighbors=3)
    assert text.splitlines()[0] == "**Table 8 of the paper**"  # other tables are of another LOF-K
    assert text.splitlines()[4:] == [
        "| overlap 10% | average | softpatch-lof, K = 3 | image AUROC | builtin-v1, lof_neighbors=3 "
        "| 0.900 | 0.983 | -0.083 |",
        "| overlap 10% | average | softpatch-lof, K = 3 | pixel AUROC | builtin-v1, lof_neighbors=3 "
        "| 0.900 | 0.955 | -0.055 |",
    ]
    text = averages_beside_the_papers(categories)
    assert "| softpatch-lof, K = 6 | pixel AUROC | builtin-v1 | 0.900 | 0.975 |" in text


def test_no_denoising_beside_the_papers() -> None:
    text = averages_beside_the_papers(["bottle", "screw"], noise_ratio=0.4)
    table = text[text.index("**Table 9") : text.index("**Table 10")]
    assert [line.split(" | ")[2:] for line in table.splitlines() if " 40% " in line] == [
        ["patchcore", "image AUROC", "builtin-v1", "0.800", "0.242", "- |"],
        ["patchcore", "pixel AUROC", "builtin-v1", "0.800", "0.425", "- |"],
        ["softpatch-lof", "image AUROC", "builtin-v1", "0.900", "0.896", "- |"],
        ["softpatch-lof", "pixel AUROC", "builtin-v1", "0.900", "0.802", "- |"],
    ]


def test_figures_are_drawn_for_what_the_rows_have(tmp_path: Path) -> None:
    rows = fixed_rows()
    assert [path.name for path in draw_figures(rows, tmp_path)] == [
        "noise-ratio-mvtec_ad-resnet18.png",
        "images-per-second.png",
    ]
    varied = [{**row, "discard_fraction": fraction, "task_key": f"{row['task_key']}{fraction}"} for row in rows
              for fraction in (0.1, 0.5)]  # fmt: skip
    assert "discard-fraction-mvtec_ad-resnet18.png" in [path.name for path in draw_figures(rows + varied, tmp_path)]
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    return int(left.value.code or 0)


def test_the_command_runs_tasks_and_sums_up(plate_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = plate_folder.parent, plate_folder.parent / "out"
    listed = root / "tasks.toml"
    listed.write_text(
        '[[tasks]]\ndata = "plates"\ncategory = "plates"\nmethod = ["patchcore", "softpatch+"]\nresize = 64\n'
        "crop = 64\nnoise_ratio = [0, 0.2]\n"
    )
    rows = str(output / "rows.jsonl")
    where = ("--root", str(root), "-o", rows, "--device", "cpu")
    assert command("run", str(listed), *where, "--maps") == 0
    assert "4 of 4 tasks were run, 0 failed" in capsys.readouterr().out
    assert command("summary", rows, "--paper", "-o", str(output)) == 0
    assert "summary.md, summary.csv, paper.md, noise-ratio-plates-builtin-v1.png" in capsys.readouterr().out
    assert "\n| softpatch+ | " in (output / "summary.md").read_text()
    assert len(list(output.glob("maps-plates-plates-*.png"))) == 2  # clean and contaminated
    assert command("run", "--data", "nowhere", "--category", "x", "--method", "padim", *where) == 2
    assert "x, padim: " in capsys.readouterr().err
    assert command("run", "--data", "nowhere", *where) == 2
    assert "a task needs --method, which is not given. See softpatch bench run --help." in capsys.readouterr().err


def test_a_products_own_folder_is_a_task(plate_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled = plate_folder.parent / "sorted"
    labelled.mkdir()
    shutil.copytree(plate_folder / "train/good", labelled / "good")
    shutil.copytree(plate_folder / "test/blot", labelled / "blot")
    options = ["--method", "patchcore", "--noise", "0.2", "--device", "cpu"]
    for folder in (plate_folder, labelled):
        rows = plate_folder.parent / f"{folder.name}.jsonl"
        assert command("run", "--data", str(folder), *options, "-o", str(rows)) == 0
        (row,) = read_rows(rows)
        assert (row["category"], row["error"]) == (folder.name, None)
    shutil.rmtree(labelled / "blot")
    assert command("run", "--data", str(labelled), *options, "-o", str(rows.with_name("other.jsonl"))) == 2
    assert "--noise 0.2 needs anomalous test images" in capsys.readouterr().err


def test_a_folder_of_several_products_is_none(plate_folder: Path) -> None:
    shutil.copytree(plate_folder, plate_folder.parent / "line/plates")
    shutil.copytree(plate_folder, plate_folder.parent / "line/tiles")
    task = task_of({"data": "line", "method": "patchcore"})
    run_tasks([task], plate_folder.parent / "rows.jsonl", plate_folder.parent, Runtime("cpu"))
    (row,) = read_rows(plate_folder.parent / "rows.jsonl")
    assert "holds the categories plates, tiles; choose one as `category`" in row["error"]


def test_a_list_is_told_of_its_own_fields_not_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('[[tasks]]\ndata = "d"\nmethod = "patchcore"\ncoreset_ratio = 7\n')
    assert command("run", str(tmp_path / "a.toml"), "-o", str(tmp_path / "rows.jsonl")) == 2
    assert "task 1: coreset_ratio is 7;" in capsys.readouterr().err


def test_a_summary_is_not_written_over_its_rows(tmp_path: Path, capsys) -> None:
    (tmp_path / "summary.csv").write_text(json.dumps(ROW) + "\n")
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "summary", str(tmp_path / "summary.csv"), "-o", str(tmp_path)])
    assert leaving.value.code == 2
    assert "may be overwritten by a result" in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.csv").read_text()) == ROW


def test_an_empty_list_makes_no_task(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[tasks]]\ndata = "d"\ncategory = "c"\nmethod = "patchcore"\nnoise_ratio = []\n')
    with pytest.raises(InputError, match="noise_ratio is an empty list, which makes no task"):
        read_tasks(tmp_path / "a.toml")
