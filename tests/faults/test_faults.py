"""Bad input of every kind ends well or in one sentence: a third of the table here, all with `make faults`."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import plate, tiny_softpatch
from faults.cases import FORMATS, ROW, Case, _load, cases, encoded, listed, lookout, model_bytes, summed_up
from softpatch.data.decode import read_image
from softpatch.data.masks import looks_like_mask, read_mask
from softpatch.errors import SoftPatchError
from softpatch.estimator import SoftPatch

ALL = bool(os.environ.get("SOFTPATCH_ALL_FAULTS"))
BROAD = settings(
    max_examples=400 if ALL else 25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def ends_well(case: Case, folder: Path) -> None:
    """Do what a case says: nothing but an error of ours may come of it, and that is one line."""
    try:
        case.done(folder)
    except SoftPatchError as error:
        message = str(error)
        assert message
        assert "\n" not in message, case
        assert "Traceback" not in message, case


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import numpy as np

    fitted: SoftPatch = tiny_softpatch().fit(np.stack([plate(seed) for seed in range(12)]))
    return model_bytes(fitted.detector, tmp_path_factory.mktemp("model"))


def test_there_are_many_cases_of_every_kind(model: bytes) -> None:
    table = cases(model)
    assert len({str(case) for case in table}) == len(table) >= 1000


@pytest.mark.parametrize("part", range(10))
def test_bad_input_ends_well(part: int, model: bytes, tmp_path: Path) -> None:
    step = 10 if ALL else 30
    for number, case in enumerate(cases(model)[part::step]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with warnings.catch_warnings(action="ignore"):
            try:
                ends_well(case, folder)
            except Exception as error:
                pytest.fail(f"{case}: {type(error).__name__}: {error}")


@BROAD
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_images_of_any_bytes(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    content = bytearray(encoded(suffix))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    for read in (read_image, read_mask, looks_like_mask):
        ends_well(Case("image", suffix, lambda _, read=read: read(path)), tmp_path)


@BROAD
@given(st.data())
def test_model_files_of_any_bytes(tmp_path: Path, model: bytes, data: st.DataObject) -> None:
    content = bytearray(model)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 6000) - 1))] = data.draw(st.integers(0, 255))
    ends_well(Case("model file", "any", lambda folder: _load(bytes(content), folder)), tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)


@BROAD
@given(st.lists(st.dictionaries(st.sampled_from(sorted(ROW)), JSON, max_size=4), max_size=3))
def test_rows_of_any_json(tmp_path: Path, changes: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps({**ROW, **change}) + "\n" for change in changes)
    ends_well(Case("rows", "any", lambda folder: summed_up(text, folder)), tmp_path)


ATTRIBUTES = ["source-ref", "l-metadata", "l-label", "m-ref", "m-ref-metadata", "mask-ref", "mask-ref-metadata"]
METADATA = st.dictionaries(st.sampled_from(["type", "class-name", "internal-color-map"]), JSON, max_size=3)


@BROAD
@given(st.lists(st.dictionaries(st.sampled_from(ATTRIBUTES), JSON | METADATA, max_size=5), max_size=3))
def test_manifests_of_any_json(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps({"source-ref": "s3://b/1.png", **line}) + "\n" for line in lines)
    ends_well(Case("manifest", "any", lambda folder: lookout(text, folder)), tmp_path)


@BROAD
@given(
    st.text(max_size=80) | st.dictionaries(st.sampled_from(["seed", "method", "data", "resize"]), JSON).map(json.dumps)
)
def test_task_lists_of_any_text(tmp_path: Path, text: str) -> None:
    for content in (text, f"[[tasks]]\n{text}", "[[tasks]]\n" + text.strip("{}").replace(":", " =").replace(",", "\n")):
        ends_well(Case("task list", "any", lambda folder, content=content: listed(content, folder)), tmp_path)
