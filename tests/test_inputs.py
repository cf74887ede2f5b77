"""Images of every kind that a user may give, and of folders what serves the purpose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softpatch.data.frames import Frame
from softpatch.data.images import ImageRef
from softpatch.data.inputs import ChosenImages, choose_images, is_one_image
from softpatch.errors import InputError
from test_decode import RGB, assert_same, unit


def refs_of(images: object) -> tuple[ImageRef, ...]:
    return choose_images(images, "train").refs  # type: ignore[arg-type]


def test_image_refs_of_every_kind(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    given = [
        str(tmp_path),
        tmp_path / "a.png",
        Image.fromarray(RGB),
        RGB,
        ImageRef("mine", lambda _: unit(RGB)),
    ]
    refs = refs_of(given)
    assert [ref.name for ref in refs] == [str(tmp_path / "a.png")] * 2 + ["image 2", "image 3", "mine"]
    for ref in refs:
        assert_same(ref.read(), unit(RGB))
    stack = np.stack([RGB, 255 - RGB])
    assert_same(refs_of(stack)[1].read(), unit(255 - RGB))
    tensor = torch.stack([unit(RGB), unit(255 - RGB)]).double().requires_grad_()
    assert_same(refs_of(tensor)[1].read(), unit(255 - RGB))
    assert refs_of(tensor)[1].name == "image 1"


@pytest.mark.parametrize(
    "convert",
    [
        lambda grey: grey,
        lambda grey: grey[:, :, None],
        lambda grey: np.stack([grey] * 3, axis=2),
        lambda grey: grey.astype(np.uint16) * 257,
        lambda grey: grey / 255,
        lambda grey: (grey / 255).astype(np.float32)[:, ::-1][:, ::-1],
        lambda grey: torch.from_numpy(grey),
        lambda grey: torch.from_numpy(grey)[None] / 255,
        lambda grey: torch.from_numpy(grey).expand(3, -1, -1),
        lambda grey: Image.fromarray(grey),
    ],
)
def test_a_frame_of_any_kind_is_one_image(convert: Callable[[np.ndarray], Frame]) -> None:
    frame = convert(RGB[:, :, 0])
    (ref,) = refs_of(frame)
    assert is_one_image(frame)
    assert not is_one_image([frame])
    assert ref.name == "image 0"
    assert_same(ref.read(), unit(RGB[:, :, :1].repeat(3, axis=2)))
    assert [each.name for each in refs_of([frame, frame])] == ["image 0", "image 1"]


def test_what_is_one_image(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert is_one_image(tmp_path / "a.png")
    assert is_one_image(refs_of(RGB)[0])
    for several in (tmp_path, str(tmp_path), [tmp_path / "a.png"], RGB[None], torch.zeros(1, 3, 4, 4)):
        assert not is_one_image(several)


def test_reading_hands_out_copies() -> None:
    tensor = torch.zeros(1, 3, 4, 4)
    refs_of(tensor)[0].read().fill_(1)
    array = np.zeros((1, 4, 4, 3), np.uint8)
    refs_of(array)[0].read().fill_(1)
    assert tensor.sum() == 0
    assert array.sum() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), r"not \(2, 4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.int32), r"not \(4, 4, 3\) int32"),
        (np.zeros(4, np.uint8), r"not \(4,\) uint8"),
        (np.full((4, 4), 255.0), "not 255 to 255; divide 8-bit values by 255"),
        (np.ma.zeros((4, 4)), "no masked values"),
        ([np.zeros((1, 2, 4, 4), np.uint8)], r"not \(1, 2, 4, 4\) uint8"),
        (torch.zeros(4, 4, 3), r"not \(4, 4, 3\) torch.float32"),
        (torch.zeros(3, 4, 4, dtype=torch.int16), "torch.int16"),
        (torch.zeros(2, 4, 4, 3), r"not \(2, 4, 4, 3\) torch.float32"),
        (torch.full((2, 3, 4, 4), 255.0), "not 255 to 255; divide 8-bit values by 255"),
        (torch.full((2, 3, 4, 4), torch.nan), "not nan to nan"),
        (torch.zeros(2, 3, 0, 4), r"not \(2, 3, 0, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "not sparse, nested or meta"),
        (torch.zeros(2, 3, 4, 4).to_sparse(), "not sparse, nested or meta"),
        (np.zeros((2, 4, 0, 3), np.uint8), r"not \(2, 4, 0, 3\)"),
        ("", "images are '', which names nothing"),
        ("a\0b.png", "does not exist|cannot be read"),
        ([3], "not int"),
        (None, "not None"),
    ],
)
def test_other_things_are_not_images(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refs_of(given)


def names(chosen: ChosenImages, root: Path) -> list[str]:
    return [Path(ref.name).relative_to(root).as_posix() for ref in chosen.refs]


def test_a_dataset_is_divided_by_the_purpose(plate_folder: Path) -> None:
    train, predict = choose_images(plate_folder, "train"), choose_images([str(plate_folder)], "predict")
    assert {name.split("/")[0] for name in names(train, plate_folder)} == {"train"}
    assert {name.split("/")[0] for name in names(predict, plate_folder)} == {"test"}
    assert train.notes == (f"{plate_folder} is a dataset in the mvtec layout; only its training images are used.",)
    plain = choose_images(plate_folder, "predict", layout="folder")
    assert (len(plain.refs), plain.notes) == (21, ())
    assert [each.kind for each in plain.passed_over] == ["mask"] * 4


def test_labelled_images_that_nobody_divided_are_all_judged(tmp_path: Path) -> None:
    for name in [*(f"good/{number}.png" for number in range(10)), "crack/0.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    train, predict = choose_images(tmp_path, "train"), choose_images(tmp_path, "predict")
    assert names(train, tmp_path) == [f"good/{number}.png" for number in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert "Every fifth good image" in train.notes[1]
    assert (len(predict.refs), predict.notes) == (11, ())


@pytest.mark.parametrize("given", [{"layout": "mvtec"}, {"category": "bottle"}])
def test_options_of_a_dataset_do_not_go_with_several_images(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(InputError, match="goes with the one folder of a dataset, not with several images"):
        choose_images([tmp_path, tmp_path], "train", **given)


def test_a_category_of_a_plain_folder_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a plain folder of images without categories"):
        choose_images(tmp_path, "train", category="bottle")
