"""The record of training images: kept by a fit, found again in the file, refused where it cannot be."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import tiny_softpatch
from softpatch.data.images import file_ref, pixel_digests
from softpatch.errors import ModelFileError
from softpatch.estimator import SoftPatch
from softpatch.training_record import (
    TrainingRecord,
    below_common_folder,
    checked_record,
    stored_record,
    training_record,
)
from test_model_file import forge, header_of

RECORD = TrainingRecord("/photos", ("a/1.png", "b/2.png"), (b"a" * 16, b"b" * 16), (1,), ((0, False), (2, False)))


def test_names_are_below_the_folder_that_all_files_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refs = [file_ref(Path(name)) for name in ("photos/a/1.png", "./photos/b/../b/2.png")]
    record = training_record(refs, RECORD.digests, [0], [(0, False)])
    assert record.folder == str(tmp_path / "photos")
    assert record.names == ("a/1.png", "b/2.png")
    assert record.paths == (str(tmp_path / "photos/a/1.png"), str(tmp_path / "photos/b/2.png"))


def test_images_in_memory_have_no_folder() -> None:
    assert below_common_folder(["image 0", "image 1"]) == (None, ("image 0", "image 1"))
    assert below_common_folder(["/photos/1.png", "image 1"]) == (None, ("/photos/1.png", "image 1"))
    assert below_common_folder(["/photos/1.png"]) == ("/photos", ("1.png",))
    assert below_common_folder(["/a/1.png", "/b/1.png"]) == ("/", ("a/1.png", "b/1.png"))


def test_a_fit_records_what_it_learned_from(plate_folder: Path, tmp_path: Path) -> None:
    estimator = tiny_softpatch(preset="patchcore").fit(plate_folder)
    record = estimator.detector.record
    assert record is not None
    assert record.folder == str(plate_folder / "train/good")
    assert record.names == (*(f"{number:03d}.png" for number in range(12)), "200.png")
    pixels = file_ref(Path(record.paths[-1])).read()
    assert record.digests[-1] == pixel_digests(pixels[None])[0]
    assert record.calibrated == tuple(range(13))
    estimator.save(tmp_path / "model")
    assert SoftPatch.load(tmp_path / "model").detector.record == record


def test_copies_are_not_recorded(good_images: np.ndarray) -> None:
    record = tiny_softpatch(preset="patchcore").fit([*good_images, good_images[0]]).detector.record
    assert record is not None
    assert record.names == tuple(f"image {number}" for number in range(12))


def test_a_name_that_is_no_text_comes_back(tmp_path: Path, good_images: np.ndarray) -> None:
    name = os.fsdecode(b"a\xff.png")
    record = TrainingRecord(str(tmp_path), (name,), (b"a" * 16,), (0,), ((0, False),))
    estimator = tiny_softpatch(preset="patchcore").fit(good_images)
    values, digests = stored_record(record)
    checked = {**values, "names": list(values["names"])}
    assert checked_record(checked, digests, images=1, copies=1, scores=1) == record
    forge_names(estimator, tmp_path / "model", {"names": [name, *(f"{n}.png" for n in range(11))]})
    assert SoftPatch.load(tmp_path / "model").detector.record.names[0] == name


def forge_names(estimator: SoftPatch, path: Path, change: dict[str, object]) -> None:
    estimator.save(path)
    header = header_of(path)
    forge(path, {**header, "record": {**header["record"], **change}}, load_file(path))


def test_ten_thousand_names() -> None:
    names = [f"line 3/2024-05-01/camera 1/{number:08d}.png" for number in range(10_000)]
    digests = np.arange(10_000 * 16, dtype=np.uint32).astype(np.uint8).reshape(-1, 16)
    digests[:, :2] = np.arange(10_000, dtype=np.uint16)[:, None].view(np.uint8)
    values = {"folder": "/photos", "names": names, "calibrated": [0], "symmetries": [[0, False]]}
    record = checked_record(values, digests, images=10_000, copies=1, scores=1)
    assert stored_record(record)[0]["names"] == tuple(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["1.png"]}, "names 1 of 13 training images"),
        ({"names": "x" * 13}, "are not paths"),
        ({"names": [""] * 13}, "are not paths"),
        ({"names": [3] * 13}, "are not paths"),
        ({"names": ["a\0"] * 13}, "are not paths"),
        ({"folder": 3}, "are not paths"),
        ({"folder": "/photos", "names": ["../1.png"] * 13}, "lead out of their folder"),
        ({"folder": "/photos", "names": ["/etc/1.png"] * 13}, "lead out of their folder"),
        ({"calibrated": [0]}, "do not belong to as many"),
        ({"calibrated": [*range(12), 13]}, "do not belong to as many"),
        ({"calibrated": [*range(12), 11]}, "do not belong to as many"),
        ({"calibrated": [*range(12), -1]}, "do not belong to as many"),
        ({"calibrated": [*range(12), True]}, "do not belong to as many"),
        ({"calibrated": 3}, "not a sensible"),
        ({"symmetries": []}, "do not make"),
        ({"symmetries": [[5, False]]}, "do not make"),
        ({"symmetries": [[0, 0]]}, "do not make"),
        ({"symmetries": [[1, False]]}, "do not make"),
        ({"symmetries": [[0]]}, "not a sensible"),
        ({"symmetries": None}, "not a sensible"),
    ],
)
def test_senseless_records(fitted: SoftPatch, tmp_path: Path, change: dict[str, object], message: str) -> None:
    forge_names(fitted, tmp_path / "model", change)
    with pytest.raises(ModelFileError, match=message):
        SoftPatch.load(tmp_path / "model")


@pytest.mark.parametrize(
    "digests",
    [
        torch.zeros(13, 16, dtype=torch.uint8),
        torch.arange(13 * 8, dtype=torch.uint8).view(13, 8),
        torch.arange(12 * 16, dtype=torch.uint8).view(12, 16),
        torch.arange(13 * 16).view(13, 16),
        None,
    ],
)
def test_senseless_digests(fitted: SoftPatch, tmp_path: Path, digests: torch.Tensor | None) -> None:
    path = tmp_path / "model"
    fitted.save(path)
    tensors = {**load_file(path), "record.digests": digests}
    forge(path, header_of(path), {name: each for name, each in tensors.items() if each is not None})
    with pytest.raises(ModelFileError, match="digest"):
        SoftPatch.load(path)


def test_patches_of_images_that_were_not_learned_from(fitted: SoftPatch, tmp_path: Path) -> None:
    path = tmp_path / "model"
    fitted.save(path)
    tensors = load_file(path)
    tensors["classification.owners"][0] = 13
    forge(path, header_of(path), tensors)
    with pytest.raises(ModelFileError, match="images that it did not learn from"):
        SoftPatch.load(path)


def test_an_older_file_has_none(fitted: SoftPatch, tmp_path: Path, good_images: np.ndarray) -> None:
    path = tmp_path / "model"
    fitted.save(path)
    header = {name: value for name, value in header_of(path).items() if name != "record"}
    forge(path, header, {name: each for name, each in load_file(path).items() if name != "record.digests"})
    loaded = SoftPatch.load(path)
    assert loaded.detector.record is None
    assert loaded.predict(good_images[0]).image_score == fitted.predict(good_images[0]).image_score
