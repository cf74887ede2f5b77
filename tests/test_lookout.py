"""Datasets of Amazon Lookout for Vision: manifests, files copied from a bucket, coloured masks, and what is refused."""

import csv
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from softpatch import cli
from softpatch.data.decisions import read_decisions
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import Dataset, Sample, open_dataset, recognise_layout
from softpatch.data.layouts.bucket import local_files
from softpatch.data.layouts.ground_truth import read_manifest
from softpatch.data.masks import colours_in, read_mask
from softpatch.deploy.export.agreement import images_to_check
from softpatch.errors import ImageError, InputError

WHITE, GREEN, BLUE = (255, 255, 255), (0x2C, 0xA0, 0x2C), (0x1F, 0x77, 0xB4)
COLOURS = {
    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
    "1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0},
    "2": {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.0},
}


def line(key: str, name: str | None = None, mask: str | None = None, **more: Any) -> dict[str, Any]:
    """A line as Lookout for Vision writes it; `more` replaces what it holds."""
    found: dict[str, Any] = {"source-ref": f"s3://bucket/{key}"}
    if name is not None:
        found["anomaly-label"] = int(name != "normal")
        found["anomaly-label-metadata"] = {
            "confidence": 1,
            "job-name": "labeling-job/anomaly-label",
            "class-name": name,
            "human-annotated": "yes",
            "creation-date": "2020-11-10T03:37:09.600",
            "type": "groundtruth/image-classification",
        }
    if mask is not None:
        found["anomaly-mask-ref"] = f"s3://bucket/{mask}"
        found["anomaly-mask-ref-metadata"] = {
            "internal-color-map": COLOURS,
            "type": "groundtruth/semantic-segmentation",
            "human-annotated": "yes",
            "creation-date": "2021-11-23T20:31:57.758889",
            "job-name": "labeling-job/segmentation-job",
        }
    return {**found, **more}


def manifest(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def picture(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def painted(*colours: tuple[int, int, int]) -> np.ndarray:
    """A white mask (4, 6, 3), a pixel of each colour in its first row."""
    pixels = np.full((4, 6, 3), 255, np.uint8)
    for place, colour in enumerate(colours):
        pixels[0, place] = colour
    return pixels


def of(samples: Iterable[Sample], root: Path) -> dict[str, str]:
    return {sample.path.relative_to(root).as_posix(): sample.kind for sample in samples}


def divided(root: Path) -> Path:
    """A project with two datasets, at the top of a copied bucket."""
    for key in ("line/train/n.png", "line/train/a.png", "line/train/u.png", "line/test/n.png", "line/test/a.png"):
        picture(root / key)
    lines = [line("line/train/n.png", "normal"), line("line/train/a.png", "anomaly"), line("line/train/u.png")]
    manifest(root / "train.manifest", lines)
    manifest(root / "test.manifest", [line("line/test/n.png", "normal"), line("line/test/a.png", "anomaly")])
    return root


# --- parts ---


def test_two_manifests_divide_a_dataset(tmp_path: Path) -> None:
    dataset = open_dataset(divided(tmp_path))
    assert (dataset.layout, dataset.category, dataset.is_split) == ("lookout", tmp_path.name, True)
    assert of(dataset.train, tmp_path) == {
        "line/train/a.png": "anomaly",
        "line/train/n.png": "good",
        "line/train/u.png": "unlabelled",
    }
    assert of(dataset.test, tmp_path) == {"line/test/a.png": "anomaly", "line/test/n.png": "good"}
    assert [sample.is_anomalous for sample in dataset.train] == [True, False, False]
    assert [sample.is_anomalous for sample in dataset.test] == [True, False]
    assert dataset.notes == ("none of the 1 defective image has a mask in test.manifest.",)


def test_manifests_decide_before_folders_named_train_and_test(tmp_path: Path) -> None:
    for key in ("train/normal/0.png", "train/normal/1.png", "test/normal/2.png", "test/anomaly/3.png"):
        picture(tmp_path / key)
    assert recognise_layout(tmp_path) == "mvtec"
    manifest(tmp_path / "train.manifest", [line("train/normal/0.png", "normal")])
    manifest(tmp_path / "test.manifest", [line("test/anomaly/3.png", "anomaly")])
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "lookout"
    assert [*of(dataset.train, tmp_path), *of(dataset.test, tmp_path)] == ["train/normal/0.png", "test/anomaly/3.png"]


@pytest.mark.parametrize("name", ["output.manifest", "train.manifest", "TEST.MANIFEST"])
def test_one_manifest_is_a_dataset_that_nobody_divided(tmp_path: Path, name: str) -> None:
    lines = [line(f"{number}.png", "normal") for number in range(6)]
    lines += [line("7.png", "anomaly"), line("8.png"), line("9.png"), line("a.png"), line("b.png"), line("c.png")]
    for each in lines:
        picture(tmp_path / each["source-ref"].removeprefix("s3://bucket/"))
    manifest(tmp_path / name, lines)
    dataset = open_dataset(tmp_path)
    assert not dataset.is_split
    assert of(dataset.test, tmp_path) == {"4.png": "good", "7.png": "anomaly"}
    assert list(of(dataset.train, tmp_path)) == [f"{each}.png" for each in "0123589abc"]
    assert len(choose_images(tmp_path, "predict").refs) == 12


def test_the_folder_that_amazon_exports(tmp_path: Path) -> None:
    """Manifests in `datasets`, images and masks below `train` and `test`, under the keys that they had."""
    for part, name in (("train", "normal"), ("test", "anomaly")):
        picture(tmp_path / f"{part}/images/old/{part}.png")
        picture(tmp_path / f"{part}/masks/old/{part}.png", painted(GREEN))
        key = f"export/v1/{part}"
        lines = [line(f"{key}/images/old/{part}.png", name, f"{key}/masks/old/{part}.png")]
        manifest(tmp_path / f"datasets/{part}.manifest", lines)
    dataset = open_dataset(tmp_path)
    assert of(dataset.train, tmp_path) == {"train/images/old/train.png": "good"}
    assert of(dataset.test, tmp_path) == {"test/images/old/test.png": "scratch"}
    alone = open_dataset(tmp_path / "datasets" / "test.manifest")
    assert alone.test == dataset.test


def test_a_manifest_of_test_images_by_itself(tmp_path: Path) -> None:
    root = divided(tmp_path)
    alone = open_dataset(root / "test.manifest")
    assert (alone.layout, alone.category, alone.train, alone.is_split) == ("lookout", "test", (), True)
    assert alone.test == open_dataset(root).test
    chosen = choose_images(root / "test.manifest", "predict")
    assert [Path(ref.name).name for ref in chosen.refs] == ["a.png", "n.png"]
    train = open_dataset(root / "train.manifest")
    assert (train.train, train.test) == (open_dataset(root).train, ())
    with pytest.raises(InputError, match=r"test\.manifest has no training images, only 2 for testing"):
        choose_images(root / "test.manifest", "train")
    (root / "test.manifest").rename(root / "test.jsonl")
    assert open_dataset(root / "train.manifest").is_split is False
    (root / "test.jsonl").rename(root / "test.manifest")
    with pytest.raises(InputError, match=r"`layout` 'mvtec' is of a folder, but .*test\.manifest is a manifest"):
        open_dataset(root / "test.manifest", layout="mvtec")
    with pytest.raises(InputError, match=r"`category` 'a' is not in .*test\.manifest, a manifest of one product"):
        open_dataset(root / "test.manifest", category="a")


def test_a_manifest_may_have_any_suffix_where_it_is_named(tmp_path: Path) -> None:
    moved = (divided(tmp_path) / "test.manifest").rename(tmp_path / "test-2021.jsonl")
    assert len(open_dataset(moved).test) == 2
    (tmp_path / "train.manifest").unlink()
    assert recognise_layout(tmp_path) != "lookout"


def test_other_manifests_beside_those_of_the_parts(tmp_path: Path) -> None:
    root = divided(tmp_path)
    shutil.copyfile(root / "train.manifest", root / "output.manifest")
    assert len(open_dataset(root).train) == 3
    shutil.copyfile(root / "train.manifest", root / "train-2.manifest")
    with pytest.raises(InputError, match=r"holds the manifests output.manifest, test.manifest, train-2.manifest, tr"):
        open_dataset(root)


def test_files_of_that_suffix_that_are_no_manifests(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "program.manifest").write_text("<?xml version='1.0'?><assembly/>")
    assert recognise_layout(tmp_path) == "folder"
    with pytest.raises(InputError, match=r"'lookout' needs .* a manifest of Lookout for Vision, .* holds none"):
        open_dataset(tmp_path, layout="lookout")


def test_a_folder_of_products(tmp_path: Path) -> None:
    divided(tmp_path / "a")
    divided(tmp_path / "b")
    assert len(open_dataset(tmp_path, layout="lookout", category="b").train) == 3
    assert recognise_layout(tmp_path) == "folder"


def test_test_images_without_a_label_are_left_out(tmp_path: Path) -> None:
    root = divided(tmp_path)
    picture(root / "line/test/u.png")
    with (root / "test.manifest").open("a") as file:
        file.write(json.dumps(line("line/test/u.png")))  # the last line without its end
    dataset = open_dataset(root)
    assert len(dataset.test) == 2
    assert [(each.path.name, each.kind) for each in dataset.passed_over] == [("u.png", "test image without a label")]
    assert dataset.notes[0] == "images in test.manifest that have no label are left out, 1 of 3."


# --- labels ---


def labelled(tmp_path: Path, **content: Any) -> Dataset:
    """A manifest of one line, with what it holds beside its `source-ref`."""
    picture(tmp_path / "0.png")
    manifest(tmp_path / "m.manifest", [{**line("0.png"), **content}])
    return open_dataset(tmp_path)


def classified(name: object, **more: Any) -> dict[str, Any]:
    return {"class-name": name, "type": "groundtruth/image-classification", **more}


def with_map(job: str, colour_map: object, mask: object = "s3://b/m.png") -> dict[str, Any]:
    return {f"{job}-ref": mask, f"{job}-ref-metadata": {"internal-color-map": colour_map}}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"my-job": 0, "my-job-metadata": classified("anomaly")}, "anomaly"),
        ({"auto-label": 1, "auto-label-metadata": classified("normal")}, "good"),  # the class decides
        ({"a-label": 0, "a-label-metadata": {"class-name": "Normal"}}, "good"),
        ({"a": 3, "a-metadata": classified("scratch")}, "scratch"),
        ({"a": 0, "a-metadata": classified("normal"), "b": 1, "b-metadata": classified("normal")}, "good"),
        ({"a-metadata": {"type": "groundtruth/image-classification", "failure-reason": "x"}}, "unlabelled"),
        ({"boxes": {}, "boxes-metadata": {"type": "groundtruth/object-detection", "class-map": {}}}, "unlabelled"),
        ({"id": 7, "note": "x", "label-of-shift": "b"}, "unlabelled"),
    ],
)
def test_what_a_line_says_of_its_image(tmp_path: Path, content: dict[str, Any], kind: str) -> None:
    dataset = labelled(tmp_path, **content)
    assert [sample.kind for sample in (*dataset.train, *dataset.test)] == [kind]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"anomaly-label": 1}, "has the label 'anomaly-label' without 'anomaly-label-metadata', whose class-name says"),
        ({"anomaly-label": 1, "anomaly-label-metadata": None}, "has the label 'anomaly-label' without"),
        ({"a-mask-ref": "s3://b/m.png"}, "has the mask 'a-mask-ref' without 'a-mask-ref-metadata', whose internal-co"),
        ({"source-ref": f"s3://bucket/{'x/' * 600}0.png"}, "names a file by 1,217 characters; s3://bucket/key has at"),
        ({"a-metadata": classified(None)}, "has no class-name in 'a-metadata'; it is normal or anomaly"),
        ({"a-metadata": classified(" ")}, "has no class-name in 'a-metadata'"),
        (
            {"a-metadata": classified("normal"), "b-metadata": classified("anomaly")},
            "labels its image 'normal' by 'a' and 'anomaly' by 'b'; leave one of these labels",
        ),
        ({"source-ref": 3}, "each line is a JSON object whose source-ref is s3://bucket/key"),
        ({"source-ref": "images/0.png"}, "names 'images/0.png'; the place of a file is s3://bucket/key"),
        ({"source-ref": "/etc/passwd"}, "names '/etc/passwd'; the place of a file is"),
        ({"source-ref": "https://x/0.png"}, "the place of a file is s3://bucket/key"),
        ({"source-ref": "s3://bucket/"}, "the place of a file is s3://bucket/key"),
        ({"source-ref": "s3://bucket"}, "the place of a file is s3://bucket/key"),
        ({"source-ref": "s3://../0.png"}, "points outside its folder"),
        ({"source-ref": "s3://bucket/a/../../0.png"}, "points outside its folder; a key has no '..'"),
        ({"source-ref": "s3://bucket/..\\0.png"}, "points outside its folder"),
        ({"source-ref": "s3://bucket/C:/0.png"}, "points outside its folder"),
        ({"source-ref": "s3://bucket/\0.png"}, "points outside its folder"),
        ({"source-ref": "s3://bucket/\ud800.png"}, r"is missing \(1 of 1 files of bucket 'bucket' are\)"),
        (with_map("m", {}, 3), "has '3' as 'm-ref'; the mask of an image is s3://bucket/key"),
        (with_map("m", {}, "s3://bucket/../m.png"), "points outside its folder"),
        (with_map("m", {"0": 3}), "has '3' in internal-color-map; each has a class-name"),
        (with_map("m", [3]), r"has '\[3\]' in internal-color-map; each has a class-name"),
        (with_map("m", {"1": {"class-name": "a", "hex-color": "red"}}), "has the hex-color 'red'; a colour is like"),
        (with_map("a", {}) | with_map("b", {}), "names the masks 'a-ref' and 'b-ref'; leave one of them"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        labelled(tmp_path, **content)
    assert str(caught.value).startswith(f"line 1 of {tmp_path / 'm.manifest'}")
    assert len(str(caught.value).splitlines()) == 1


GOOD_LINE = json.dumps(line("0.png", "normal")).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_LINE + b"\n{broken", r"line 2 of .*m.manifest is no JSON \(Expecting property name .* at column 2\); a"),
        (GOOD_LINE[:-20], r"line 1 of .* is no JSON \("),
        (b'{"source-ref"\n: "s3://bucket/0.png"}', "line 1 of .* a manifest has a whole JSON object per line"),
        (b"[" + GOOD_LINE + b"]", "line 1 of .* each line is a JSON object"),
        (GOOD_LINE + b"\n[]\n", r"line 2 of .* is '\[\]'; each line is a JSON object whose source-ref"),
        (GOOD_LINE + b'\n{"source-ref": NaN}', r"line 2 of .* is no JSON \(NaN is no value of JSON\)"),
        (GOOD_LINE.replace(b'label": 0', b'label": -Infinity'), r"line 1 of .* \(-Infinity is no value of JSON\)"),
        (GOOD_LINE + b"\n" + b"[" * 100_000, r"line 2 of .* is no JSON \(nested too deeply\)"),
        (GOOD_LINE + b'\n{"a": ' + b"9" * 5000 + b"}", r"line 2 of .* is no JSON \(Exceeds the limit \(4300"),
        (GOOD_LINE + b"\n" + b" " * 1_000_000 + b"x", "line 2 of .* has 1,000,001 characters, more than the 1,000,000"),
        (GOOD_LINE + b"\n\xff\xfe", "m.manifest cannot be read: 'utf-8' codec .*; save it in UTF-8"),
        (GOOD_LINE.decode().encode("utf-16"), "m.manifest cannot be read: 'utf-8' codec .*; save it in UTF-8"),
        (GOOD_LINE + b"\r\n\r\n" + GOOD_LINE, "line 3 of .* names 's3://bucket/0.png' again, after line 1 of .*; an"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "m.manifest").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + GOOD_LINE, GOOD_LINE + b"\r\n", b"\n \n" + GOOD_LINE + b"\n\n", GOOD_LINE.replace(b", ", b",")],
)
def test_manifests_of_other_editors(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "m.manifest").write_bytes(content)
    assert of(open_dataset(tmp_path).train, tmp_path) == {"0.png": "good"}


def test_names_beyond_ascii_and_with_spaces(tmp_path: Path) -> None:
    picture(tmp_path / "pr\u00fcf\u2028 stand/0 1.png")
    (tmp_path / "m.manifest").write_text(
        json.dumps(line("pr\u00fcf\u2028 stand/0 1.png", "normal"), ensure_ascii=False), encoding="utf-8"
    )
    assert len(open_dataset(tmp_path).train) == 1


def test_a_manifest_that_lists_nothing(tmp_path: Path) -> None:
    (divided(tmp_path) / "test.manifest").write_text("\n\n")
    with pytest.raises(InputError, match=r"test\.manifest lists no images; a manifest has a JSON object"):
        open_dataset(tmp_path)


def test_an_image_for_training_and_for_testing(tmp_path: Path) -> None:
    root = divided(tmp_path)
    with (root / "test.manifest").open("a") as file:
        file.write(json.dumps(line("line//train/n.png", "normal")))
    with pytest.raises(
        InputError, match=r"line 3 of .*test\.manifest names .* again, after line 1 of .*train\.manifest"
    ):
        open_dataset(root)


# --- places ---


@pytest.mark.parametrize("place", ["bucket/line/a", "line/a", "a", "."])
def test_where_a_copied_bucket_lies(tmp_path: Path, place: str) -> None:
    for name in ("0.png", "b/0.png"):
        picture(tmp_path / place / name)
    manifest(tmp_path / "m.manifest", [line("line/a/0.png", "normal"), line("line/a/b/0.png", "anomaly")])
    dataset = open_dataset(tmp_path)
    assert [sample.path for sample in dataset.train] == [tmp_path / place / "0.png"]
    assert [sample.path for sample in dataset.test] == [tmp_path / place / "b/0.png"]


def test_no_image_is_taken_for_another_of_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "good/0.png")
    picture(tmp_path / "0.png")  # not bad/0.png
    manifest(tmp_path / "m.manifest", [line("good/0.png", "normal"), line("bad/0.png", "anomaly")])
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path)
    assert str(caught.value) == (
        f"line 2 of {tmp_path}/m.manifest names 's3://bucket/bad/0.png', but {tmp_path}/bad/0.png is missing "
        "(1 of 2 files of bucket 'bucket' are); copy them with aws s3 sync, or give the folder that they lie in"
    )


def test_where_images_were_looked_for(tmp_path: Path) -> None:
    manifest(tmp_path / "m.manifest", [line("a/b/0.png", "normal"), line("a/c/0.png", "normal")])
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path)
    places = " or ".join(f"{tmp_path}/{place}" for place in ("bucket/a/b/0.png", "a/b/0.png", "b/0.png"))
    assert f"names 's3://bucket/a/b/0.png', but {places} is missing (2 of 2 files of bucket 'bucket' are)" in str(
        caught.value
    )


def test_several_buckets(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png")
    picture(tmp_path / "job/0.png", painted(BLUE))
    with_mask = line("images/0.png", "anomaly", "x")
    with_mask["anomaly-mask-ref"] = "s3://other/output/job/0.png"
    manifest(tmp_path / "m.manifest", [with_mask])
    (sample,) = open_dataset(tmp_path).test
    assert (sample.path, sample.mask_paths) == (tmp_path / "images/0.png", (tmp_path / "job/0.png",))


def test_links_lead_to_images(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/0.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/line").symlink_to(tmp_path / "elsewhere")
    manifest(tmp_path / "data/m.manifest", [line("line/0.png", "normal")])
    assert len(open_dataset(tmp_path / "data").train) == 1


def test_a_folder_that_is_named_like_an_image_is_missing(tmp_path: Path) -> None:
    (tmp_path / "0.png").mkdir()
    manifest(tmp_path / "m.manifest", [line("0.png", "normal")])
    with pytest.raises(InputError, match="is missing"):
        open_dataset(tmp_path)


# --- masks ---


def masked(tmp_path: Path, pixels: np.ndarray, **more: Any) -> Sample:
    """The sample of a defective image with this mask."""
    picture(tmp_path / "0.png")
    picture(tmp_path / "m.png", pixels)
    manifest(tmp_path / "m.manifest", [line("0.png", "anomaly", "m.png", **more)])
    (sample,) = open_dataset(tmp_path).test
    return sample


@pytest.mark.parametrize(
    ("colours", "kind"),
    [((GREEN,), "scratch"), ((BLUE,), "dent"), ((GREEN, BLUE), "dent, scratch"), (((1, 2, 3),), "anomaly")],
)
def test_what_is_not_background_is_anomalous(tmp_path: Path, colours: tuple[Any, ...], kind: str) -> None:
    sample = masked(tmp_path, painted(*colours))
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0, : len(colours)] = True
    assert torch.equal(sample.read_mask(), expected)
    assert (sample.kind, sample.is_anomalous) == (kind, True)


def test_masks_with_a_palette_as_ground_truth_writes_them(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    indices = Image.fromarray(np.array([[0, 1, 2, 0, 0, 0]] * 4, np.uint8), mode="P")
    indices.putpalette([*WHITE, *GREEN, *BLUE])
    indices.save(tmp_path / "m.png")
    manifest(tmp_path / "m.manifest", [line("0.png", "anomaly", "m.png")])
    (sample,) = open_dataset(tmp_path).test
    assert sample.read_mask()[0].tolist() == [False, True, True, False, False, False]
    assert sample.kind == "dent, scratch"


def test_a_colour_map_without_background_has_a_white_one(tmp_path: Path) -> None:
    colour_map = {"internal-color-map": {"0": {"class-name": "cracked", "hex-color": "#23A436"}}}
    sample = masked(tmp_path, painted((0x23, 0xA4, 0x36)), **{"anomaly-mask-ref-metadata": colour_map})
    assert (int(sample.read_mask().sum()), sample.kind) == (1, "cracked")


def test_another_colour_of_the_background(tmp_path: Path) -> None:
    colour_map = {"internal-color-map": {"0": {"class-name": "background", "hex-color": "#2ca02c"}}}
    sample = masked(tmp_path, painted(GREEN, GREEN), **{"anomaly-mask-ref-metadata": colour_map})
    assert (int((~sample.read_mask()).sum()), sample.kind) == (2, "anomaly")


def test_a_mask_without_a_label_is_the_label(tmp_path: Path) -> None:
    for name, pixels in (("a", painted()), ("b", painted(GREEN))):
        picture(tmp_path / f"{name}.png")
        picture(tmp_path / f"masks/{name}.png", pixels)
    manifest(tmp_path / "m.manifest", [line(f"{name}.png", None, f"masks/{name}.png") for name in "ab"])
    dataset = open_dataset(tmp_path)
    assert (of(dataset.train, tmp_path), of(dataset.test, tmp_path)) == ({"a.png": "good"}, {"b.png": "scratch"})
    assert int(dataset.test[0].read_mask().sum()) == 1


def test_masks_of_good_images_are_not_read(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    manifest(tmp_path / "m.manifest", [line("0.png", "normal", "missing.png")])
    (sample,) = open_dataset(tmp_path).train
    assert (sample.mask_paths, sample.read_mask().any()) == ((), False)


def test_masks_that_cannot_be_read(tmp_path: Path) -> None:
    masked(tmp_path, painted(GREEN))
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a mask of .*0\.png cannot be read: .*m\.png: the file is not a PNG"):
        open_dataset(tmp_path)
    (tmp_path / "m.png").unlink()
    with pytest.raises(InputError, match=r"names 's3://bucket/m\.png', but .* is missing"):
        open_dataset(tmp_path)
    picture(tmp_path / "m.png", painted(GREEN)[:3])
    (sample,) = open_dataset(tmp_path).test
    with pytest.raises(ImageError, match=r"m\.png is 6 x 3 pixels; a mask has its image's size, 6 x 4"):
        sample.read_mask()


def test_a_background_in_other_formats(tmp_path: Path) -> None:
    large = np.full((32, 48, 3), 255, np.uint8)
    large[8:16, 8:24] = GREEN
    expected = torch.from_numpy((large != 255).any(axis=2))
    for name, options in (("a.bmp", {}), ("a.tif", {}), ("lzw.tif", {"compression": "tiff_lzw"}), ("a.gif", {})):
        Image.fromarray(large).save(tmp_path / name, **options)
        assert torch.equal(read_mask(tmp_path / name, WHITE), expected), name
        assert colours_in(tmp_path / name, (GREEN, BLUE)) == [GREEN], name
    Image.fromarray(large).save(tmp_path / "a.jpg", quality=95)
    found = read_mask(tmp_path / "a.jpg", WHITE)
    assert float((found != expected).float().mean()) < 0.02  # blurred colours at the border
    layer = np.dstack([large, (large[..., 0] != 255) * np.uint8(255)])
    Image.fromarray(layer).save(tmp_path / "clear.png")
    assert torch.equal(read_mask(tmp_path / "clear.png", WHITE), expected)


# --- the whole way ---


def as_lookout(plates: Path, root: Path) -> Path:
    """The images of a dataset in the MVTec AD layout as a copied bucket with its manifests, masks white and green."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for path in sorted(plates.glob("t*/*/*.png")):
        part, kind = path.parts[-3:-1]
        key = f"plates/{part}/{kind}/{path.name}"
        picture(root / key, np.asarray(Image.open(path)))
        mask = plates / "ground_truth" / kind / f"{path.stem}_mask.png"
        if kind == "blot":
            pixels = np.where(np.asarray(Image.open(mask))[..., None] > 0, GREEN, WHITE).astype(np.uint8)
            picture(root / f"plates/masks/{path.name}", pixels)
        name = "anomaly" if kind == "blot" or path.stem == "200" else "normal"
        parts[part].append(line(key, name, f"plates/masks/{path.name}" if kind == "blot" else None))
    for part, lines in parts.items():
        manifest(root / f"{part}.manifest", lines)
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert leaving.value.code == 0, err
    return out, err


def test_the_same_figures_as_in_the_layout_of_mvtec(plate_folder: Path, tmp_path: Path, capsys) -> None:
    copied = as_lookout(plate_folder, tmp_path / "copied")
    figures, rows = {}, {}
    for folder in (plate_folder, copied):
        model = tmp_path / f"{folder.name}.safetensors"
        out, err = run(capsys, "fit", folder, "-o", model, "--resize", 64, "--coreset-ratio", 0.1)
        assert "learned from 13 images" in out
        assert "is a dataset in the" in err
        out, _ = run(capsys, "evaluate", model, folder, "--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv")
        figures[folder.name] = json.loads((tmp_path / "e.json").read_text())
        rows[folder.name] = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
        (tmp_path / "e.csv").unlink()
    kinds = [figures[folder.name].pop("kinds") for folder in (plate_folder, copied)]
    assert figures[copied.name] == figures[plate_folder.name]
    assert figures[copied.name]["image_auroc"] is not None
    assert figures[copied.name]["images_with_mask"] == 8
    assert 0.5 < figures[copied.name]["pixel_auroc"] <= 1
    assert [kind["kind"] for kind in kinds[0]] == ["good", "blot"]
    assert [kind["kind"] for kind in kinds[1]] == ["good", "scratch"]
    scores = [{Path(row["path"]).name: row["image_score"] for row in rows[name]} for name in rows]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 8


def test_labels_as_decisions(plate_folder: Path, tmp_path: Path, capsys) -> None:
    copied = as_lookout(plate_folder, tmp_path / "copied")
    picture(copied / "plates/train/good/300.png")
    with (copied / "train.manifest").open("a") as file:
        file.write(json.dumps(line("plates/train/good/300.png")))
    decided = read_decisions(copied / "train.manifest")
    assert decided.pop(str(copied / "plates/train/good/200.png")) == "reject"
    assert decided == {str(copied / f"plates/train/good/{number:03d}.png"): "keep" for number in range(12)}
    model = tmp_path / "a.safetensors"
    _, err = run(capsys, "fit", copied, "-o", model, "--resize", 64, "--decisions", copied / "train.manifest")
    assert "Decisions: 1 images rejected, 12 kept." in err


def test_labelled_defects_that_are_learned_from_are_told(tmp_path: Path) -> None:
    notes = choose_images(divided(tmp_path), "train").notes
    assert notes[1:] == (
        "1 of 3 training images are labelled as defective; that alone changes nothing, --decisions can reject them.",
    )


def test_a_class_that_means_no_label_is_refused(tmp_path: Path) -> None:
    line = {"source-ref": "s3://b/1.png", "l": 1, "l-metadata": {"class-name": "Unlabelled"}}
    (tmp_path / "a.manifest").write_text(json.dumps(line))
    with pytest.raises(
        InputError, match="has the class-name 'Unlabelled'; leave the label out of an image without one"
    ):
        read_manifest(tmp_path / "a.manifest")


def test_files_that_are_missing_everywhere_are_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(Path, "is_file", lambda path: looked.append(path) or False)
    folder = "/".join("d" * 50)
    references = {f"s3://b/{folder}/{number}.png": f"line {number}" for number in range(2000)}
    with pytest.raises(InputError, match="2000 of 2000 files of bucket 'b' are"):
        local_files(references, [tmp_path])
    assert len(looked) < 10 * len(references)


def test_the_manifest_of_the_documentation(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs/how-to/coming-from-lookout-for-vision.md"
    (text,) = re.findall(r"^```json\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for number in (1, 2, 3):
        picture(tmp_path / f"circuit-board/train/{number}.png")
    picture(tmp_path / "circuit-board/masks/2.png", painted(GREEN))
    (tmp_path / "circuit-board/all.manifest").write_text(text)
    dataset = open_dataset(tmp_path / "circuit-board")
    assert of(dataset.train, tmp_path / "circuit-board") == {"train/1.png": "good", "train/3.png": "unlabelled"}
    assert of(dataset.test, tmp_path / "circuit-board") == {"train/2.png": "scratch"}
    assert int(dataset.test[0].read_mask().sum()) == 1


def test_an_export_is_checked_with_the_labels_of_a_manifest(tmp_path: Path) -> None:
    refs, labels = images_to_check(divided(tmp_path) / "test.manifest", "auto", None)
    assert ([Path(ref.name).name for ref in refs], labels) == (["a.png", "n.png"], [True, False])
