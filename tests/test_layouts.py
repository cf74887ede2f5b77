import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from softpatch.data.inputs import choose_images
from softpatch.data.layouts import Dataset, Sample, open_dataset, recognise_layout
from softpatch.data.layouts.samples import is_good
from softpatch.data.masks import match_masks, read_mask
from softpatch.errors import ImageError, InputError

HEADER = "object,split,label,image,mask\n"


def write(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6), np.uint8) if pixels is None else pixels).save(path)
    return path


def write_all(root: Path, *names: str) -> None:
    for name in names:
        write(root / name)


def mvtec(folder: Path) -> Path:
    write_all(folder, "train/good/001.png", "train/good/000.png")
    write_all(folder, "test/good/000.png", "test/crack/000.png", "test/crack/001.png", "test/hole/000.JPG")
    write_all(folder, "ground_truth/crack/000_mask.png", "ground_truth/hole/000_mask.png")
    return folder


def btad(folder: Path) -> Path:
    write_all(folder, "train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp")
    write_all(folder, "ground_truth/ko/0000.png", "ground_truth/ko/0001.bmp")
    return folder


def visa(root: Path, *categories: str) -> Path:
    rows = [HEADER]
    for category in categories:
        good, bad, mask = (
            f"{category}/Data/{name}"
            for name in ("Images/Normal/{}.JPG", "Images/Anomaly/0.JPG", "Masks/Anomaly/0.png")
        )
        write_all(root, good.format("0000"), good.format("0001"), good.format("0002"), bad)
        write(root / mask, np.eye(4, 6, dtype=np.uint8))
        rows += [f"{category},train,normal,{good.format(name)},\n" for name in ("0002", "0000")]
        rows += [
            f"{category},test,normal,{good.format('0001')},\n",
            f"{category},test,anomaly,{bad},{mask}\n",
        ]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("".join(rows), encoding="utf-8-sig")
    return root


def names(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [str(sample.path.relative_to(root)) for sample in samples]


def described(dataset: Dataset) -> Iterator[tuple[str, bool, str, str | None]]:
    for sample in dataset.test:
        mask = next((str(path.relative_to(dataset.root)) for path in sample.mask_paths), None)
        yield str(sample.path.relative_to(dataset.root)), sample.is_anomalous, sample.kind, mask


def test_a_plain_folder_is_training_data_without_labels(tmp_path: Path) -> None:
    write_all(tmp_path, "b.png", "shift 2/a.jpg")
    (tmp_path / "notes.txt").touch()
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.category, dataset.test) == ("folder", tmp_path.name, ())
    assert names(dataset.train, tmp_path) == ["b.png", "shift 2/a.jpg"]
    assert {(sample.is_anomalous, sample.kind, sample.mask_paths) for sample in dataset.train} == {
        (False, "unlabelled", ())
    }
    with pytest.raises(InputError, match=r"`category` 'bottle' is not in .* without categories"):
        open_dataset(tmp_path, category="bottle")


def test_mvtec(tmp_path: Path) -> None:
    dataset = open_dataset(mvtec(tmp_path / "tile"))
    assert (dataset.layout, dataset.category, dataset.root) == ("mvtec", "tile", tmp_path / "tile")
    assert names(dataset.train, dataset.root) == ["train/good/000.png", "train/good/001.png"]
    assert {(sample.is_anomalous, sample.kind) for sample in dataset.train} == {(False, "good")}
    assert list(described(dataset)) == [
        ("test/crack/000.png", True, "crack", "ground_truth/crack/000_mask.png"),
        ("test/crack/001.png", True, "crack", None),  # its mask is missing
        ("test/good/000.png", False, "good", None),
        ("test/hole/000.JPG", True, "hole", "ground_truth/hole/000_mask.png"),
    ]


def test_the_case_of_names_does_not_matter(tmp_path: Path) -> None:
    write_all(tmp_path, "Train/Good/0.png", "TEST/OK/1.png", "TEST/Crack/2.png", "Ground_Truth/crack/2.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, [sample.kind for sample in dataset.test]) == ("mvtec", ["Crack", "good"])
    assert dataset.test[0].mask_paths == (tmp_path / "Ground_Truth/crack/2.png",)


def test_unsorted_training_images_have_no_label(tmp_path: Path) -> None:
    write_all(tmp_path, "train/unsorted/0.png", "test/good/1.png", "test/crack/2.png")
    (sample,) = open_dataset(tmp_path).train
    assert (sample.kind, sample.is_anomalous) == ("unlabelled", False)


def test_visa_rearranged_as_mvtec(tmp_path: Path) -> None:
    write_all(tmp_path, "train/good/0.JPG", "train/0.JPG", "train/bad/1.JPG")
    write_all(tmp_path, "test/good/2.JPG", "test/bad/3.JPG", "ground_truth/bad/3.png")
    write_all(tmp_path, "ground_truth/bad/1.png")  # of another image than train/bad/1.JPG, perhaps
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert [(sample.kind, sample.is_anomalous, sample.mask_paths) for sample in dataset.train] == [
        ("good", False, ()),
        ("bad", True, ()),
        ("good", False, ()),
    ]
    assert list(described(dataset)) == [
        ("test/bad/3.JPG", True, "bad", "ground_truth/bad/3.png"),
        ("test/good/2.JPG", False, "good", None),
    ]


def test_empty_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "test" / "scratch").mkdir()
    write(tmp_path / "test" / ".thumbnails" / "000.png")
    assert {sample.kind for sample in open_dataset(tmp_path).test} == {"good", "crack", "hole"}


def test_a_test_image_without_a_label_is_refused(tmp_path: Path) -> None:
    write(mvtec(tmp_path) / "test" / "x.png")
    with pytest.raises(InputError, match=r"test/x\.png has no label"):
        open_dataset(tmp_path)


def test_btad(tmp_path: Path) -> None:
    dataset = open_dataset(btad(tmp_path / "01"))
    assert (dataset.layout, dataset.category) == ("btad", "01")
    assert [(sample.kind, sample.is_anomalous) for sample in dataset.train] == [("good", False)]
    assert list(described(dataset)) == [
        ("test/ko/0000.bmp", True, "ko", "ground_truth/ko/0000.png"),
        ("test/ko/0001.bmp", True, "ko", "ground_truth/ko/0001.bmp"),
        ("test/ok/0000.bmp", False, "good", None),
    ]


@pytest.mark.parametrize("given", ["root", "category", "both"])
def test_visa(tmp_path: Path, given: str) -> None:
    visa(tmp_path, "candle", "pcb1")
    root = tmp_path if given == "root" else tmp_path / "pcb1"
    dataset = open_dataset(root, category=None if given == "category" else "pcb1")
    assert (dataset.layout, dataset.category, dataset.root) == ("visa", "pcb1", tmp_path / "pcb1")
    assert names(dataset.train, dataset.root) == [
        "Data/Images/Normal/0000.JPG",
        "Data/Images/Normal/0002.JPG",
    ]
    assert list(described(dataset)) == [
        ("Data/Images/Anomaly/0.JPG", True, "anomaly", "Data/Masks/Anomaly/0.png"),
        ("Data/Images/Normal/0001.JPG", False, "good", None),
    ]
    assert torch.equal(dataset.test[0].read_mask(), torch.eye(4, 6, dtype=torch.bool))


def test_a_dot_has_a_name_and_a_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visa(tmp_path, "candle")
    monkeypatch.chdir(tmp_path / "candle")
    assert open_dataset(Path()).category == "candle"
    assert open_dataset(Path(".."), category="candle").layout == "visa"


@pytest.mark.parametrize(("layout", "write_category"), [("mvtec", mvtec), ("btad", btad)])
def test_a_folder_of_categories(tmp_path: Path, layout: str, write_category: object) -> None:
    for name in ("b", "a"):
        write_category(tmp_path / name)  # type: ignore[operator]
    write(tmp_path / "readme" / "picture.png")
    assert recognise_layout(tmp_path) == layout
    assert open_dataset(tmp_path, category="b").root == tmp_path / "b"
    with pytest.raises(InputError, match="holds the categories a, b; choose one as `category`"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"`category` 'readme' is not in .*, which holds a, b"):
        open_dataset(tmp_path, category="readme")
    with pytest.raises(InputError, match=r"`category` 'a' is not in .*/b, which is the category 'b' itself"):
        open_dataset(tmp_path / "b", category="a")


def test_a_named_layout_that_does_not_fit(tmp_path: Path) -> None:
    mvtec(tmp_path)
    with pytest.raises(InputError, match=r"'btad' needs .* train/ok and test, but .* is none"):
        open_dataset(tmp_path, layout="btad")
    with pytest.raises(InputError, match=r"'visa' needs .* Data/Images, but"):
        open_dataset(tmp_path, layout="visa")
    with pytest.raises(InputError, match="`layout` 'coco' is unknown; choose from auto, folder, lookout, visa, "):
        open_dataset(tmp_path, layout="coco")
    plain = open_dataset(tmp_path, layout="folder")
    assert (len(plain.train), [each.kind for each in plain.passed_over]) == (6, ["mask"] * 2)
    for layout in ("auto", "folder", "mvtec"):
        with pytest.raises(InputError, match=r"missing (does not exist|is not a folder)"):
            open_dataset(tmp_path / "missing", layout=layout)


def test_a_dataset_without_test_images(tmp_path: Path) -> None:
    write(tmp_path / "train" / "good" / "0.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="test holds no images"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("pcb1,test,anomaly,../secret.png,", "points outside"),
        ("pcb1,test,anomaly,/etc/secret.png,", "points outside"),
        ("pcb1,test,anomaly,pcb1/Data/Images/Normal/0001.JPG,pcb1/../../x.png", "points outside"),
        ("pcb1,test,anomaly,pcb1/Data/Images/Anomaly/7.JPG,", r"7\.JPG is missing"),
        ("pcb1,test,anomaly,pcb1/Data/Images/Normal/0001.JPG,pcb1/7.png", r"7\.png is missing"),
        ("pcb1,validation,normal,pcb1/Data/Images/Normal/0001.JPG,", "split is train or test"),
        ("pcb1,test,fine,pcb1/Data/Images/Normal/0001.JPG,", "label normal or anomaly"),
        ("pcb1,test,normal,,", "each row holds object, split"),
        ("pcb1,test", "each row holds object, split"),
    ],
)
def test_broken_rows_of_visa_are_quoted(tmp_path: Path, row: str, message: str) -> None:
    table = visa(tmp_path, "pcb1") / "split_csv" / "1cls.csv"
    table.write_text(table.read_text() + row + "\n")
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path, category="pcb1")
    assert "'split': '" + row.split(",")[1] in str(caught.value)


def test_an_image_listed_twice(tmp_path: Path) -> None:
    table = visa(tmp_path, "pcb1") / "split_csv" / "1cls.csv"
    table.write_text(table.read_text() + "pcb1,test,normal,pcb1/Data/Images/Normal/0001.JPG,\n")
    with pytest.raises(InputError, match=r"lists .*0001\.JPG 2 times"):
        open_dataset(tmp_path, category="pcb1")


def test_rows_of_other_categories_need_not_exist(tmp_path: Path) -> None:
    table = visa(tmp_path, "pcb1") / "split_csv" / "1cls.csv"
    table.write_text(table.read_text() + "pcb2,test,normal,pcb2/Data/Images/Normal/0001.JPG,\n")
    assert len(open_dataset(tmp_path / "pcb1").test) == 2


def test_broken_tables_of_visa(tmp_path: Path) -> None:
    table = visa(tmp_path, "pcb1") / "split_csv" / "1cls.csv"
    table.write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(InputError, match="cannot be read: 'utf-8' codec"):
        open_dataset(tmp_path / "pcb1")
    table.write_text(HEADER)
    with pytest.raises(InputError, match="lists no train images of 'pcb1'"):
        open_dataset(tmp_path / "pcb1")
    table.unlink()
    with pytest.raises(InputError, match=r"1cls\.csv is missing"):
        open_dataset(tmp_path / "pcb1")


def test_unreadable_folders_are_input_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(InputError, match="secret cannot be read: Permission denied"):
        open_dataset(tmp_path / "secret", layout="mvtec")


def test_a_sample_reads_its_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.full((4, 6), 255, np.uint8))
    ref = Sample(path, False, (), "good").ref
    assert ref.name == str(path)
    assert torch.equal(ref.read(), torch.ones(3, 4, 6))


def test_masks_are_true_where_they_are_not_black(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    values = np.array([[0, 1, 2, 255, 0, 7]] * 4, np.uint8)
    expected = torch.from_numpy(values > 0)
    for name, mask in (("m.png", values), ("m.bmp", values), ("bit.png", values > 0), ("rgb.png", None)):
        coloured = np.dstack([values * 0, values, values * 0]) if mask is None else mask
        sample = Sample(image, True, (write(tmp_path / name, coloured),), "crack")
        assert sample.read_mask().dtype == torch.bool
        assert torch.equal(sample.read_mask(), expected)


def test_without_a_mask_nothing_is_marked(tmp_path: Path) -> None:
    mask = Sample(write(tmp_path / "a.png"), True, (), "crack").read_mask()
    assert (mask.dtype, tuple(mask.shape), bool(mask.any())) == (torch.bool, (4, 6), False)


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    turned = write(tmp_path / "turned.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(ImageError, match=r"turned\.png is 4 x 6 pixels; .* its image's size, 6 x 4"):
        Sample(image, True, (turned,), "crack").read_mask()
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
        Sample(image, True, (tmp_path / "empty.png",), "crack").read_mask()


# --- names of classes and masks ---


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "OK",
        "Normal",
        "NORMAL",
        "ok_front",
        "okay",
        "MT_Free",
        "defect_free",
        "no_defect",
        "NODefect_images",
        "IO",
    ],
)
def test_names_of_the_good_class(name: str) -> None:
    assert is_good(name)


@pytest.mark.parametrize(
    "name",
    [
        "bad",
        "NG",
        "abnormal",
        "ABNORMAL",
        "not_ok",
        "not-good",
        "broken",
        "normalised",
        "nok",
        "normals",
        "NIO",
        "ok_button_missing",
        "no_screw",
    ],
)
def test_names_of_other_classes(name: str) -> None:
    assert not is_good(name)


def test_without_a_good_class_it_stops(tmp_path: Path) -> None:
    write_all(tmp_path, "train/0.png", "test/A/0.png", "test/B/0.png")
    with pytest.raises(InputError, match=r"test holds the folders 'A', 'B', and none is named as that of good images"):
        open_dataset(tmp_path)


RED = np.zeros((4, 6, 3), np.uint8)
RED[1:3, 2:5, 0] = 128
MARKED = torch.from_numpy(RED[..., 0] > 0)


def masks_of_one_truth(folder: Path) -> Iterator[Path]:
    """The same mask, as editors and tools write it."""
    grey = (RED[..., 0] > 0).astype(np.uint8)
    for value in (1, 2, 236, 255):
        yield write(folder / f"{value}.png", grey * np.uint8(value))
    yield write(folder / "bit.png", grey > 0)
    yield write(folder / "rgb.BMP", RED)
    for name, options in (("deep.png", {}), ("deep.tif", {}), ("packed.tif", {"compression": "tiff_deflate"})):
        Image.fromarray(grey.astype(np.uint16) * 1000).save(folder / name, **options)
        yield folder / name
    palette = Image.fromarray(grey).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette.gif")
    yield from (folder / "palette.png", folder / "palette.gif")
    for name, ink, ground in (("white", 255, 0), ("black", 0, 0), ("clear white ground", 255, 255)):
        layer = np.full((4, 6, 4), ground, np.uint8)
        layer[..., 3] = 0
        layer[MARKED.numpy()] = (ink, ink, ink, 255)
        yield write(folder / f"{name}.png", layer)
    opaque = np.dstack([RED, np.full((4, 6), 255, np.uint8)])
    yield write(folder / "opaque.png", opaque)


def test_a_mask_is_a_mask_whatever_its_file(tmp_path: Path) -> None:
    for path in masks_of_one_truth(tmp_path):
        assert torch.equal(read_mask(path), MARKED), path.name


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_ringing_of_a_lossy_mask_marks_nothing(tmp_path: Path, name: str) -> None:
    marked = np.zeros((96, 96), np.uint8)
    marked[20:60, 30:70] = 255
    Image.fromarray(marked).save(tmp_path / name, quality=60)
    assert torch.equal(read_mask(tmp_path / name), torch.from_numpy(marked > 0))


def test_masks_are_turned_as_images_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_mask(tmp_path / "a.png"), torch.from_numpy(np.rot90(RED[..., 0] > 0, -1).copy()))


@pytest.mark.parametrize(
    "name", ["000.png", "000.PNG", "000_mask.png", "000_GT.bmp", "000_label.tif", "mask_000.png", "000-drawn.by.me.gif"]
)
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    image = tmp_path / "000.jpg"
    assert match_masks([image, tmp_path / "00.jpg"], [tmp_path / name]) == (
        {image: (tmp_path / name,), tmp_path / "00.jpg": ()},
        [],
    )


def test_masks_that_match_nothing_and_images_without_masks_are_told(tmp_path: Path) -> None:
    mvtec(tmp_path)
    write_all(tmp_path, "ground_truth/crack/0000.png", "ground_truth/dent/000.png", "ground_truth/good/000.png")
    notes = open_dataset(tmp_path).notes
    assert notes == (
        "2 masks in ground_truth match no image: `crack/0000.png`, `dent/000.png`.",
        "1 of 3 defective images have no mask: `crack/001.png`.",
    )


def test_masks_of_all_kinds_in_one_folder(tmp_path: Path) -> None:
    write_all(tmp_path, "train/0.png", "test/good/1.png", "test/crack/2.png", "test/dent/3.png", "test/dent/2.png")
    write_all(tmp_path, "ground_truth/3.png", "ground_truth/2.png", "ground_truth/hole/4.png")
    dataset = open_dataset(tmp_path)
    assert {sample.path.name for sample in dataset.test if sample.mask_paths} == {"3.png"}  # 2.png may be of either
    assert dataset.notes[0] == "2 masks in ground_truth match no image: `ground_truth/2.png`, `hole/4.png`."


def test_masks_lie_in_any_folder_named_for_them(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "ground_truth").rename(tmp_path / "Masks")
    assert sum(bool(sample.mask_paths) for sample in open_dataset(tmp_path).test) == 2
    for mask in list((tmp_path / "Masks").rglob("*_mask.png")):
        mask.rename(tmp_path / "Masks" / f"{mask.parent.name}.png" if mask.parent.name == "hole" else mask)
    dataset = open_dataset(tmp_path)
    assert "1 mask in Masks match no image: `Masks/hole.png`." in dataset.notes


# --- other layouts ---


def photograph(path: Path, seed: int = 0) -> Path:
    return write(path, np.random.default_rng(seed).integers(0, 256, (16, 24), dtype=np.uint8))


def photographs(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        photograph(root / name, number)


def marked(path: Path) -> Path:
    pixels = np.zeros((16, 24), np.uint8)
    pixels[4:8, 5:12] = 255
    return write(path, pixels)


def of(dataset: Dataset) -> tuple[list[str], dict[str, tuple[str, list[str]]]]:
    """The training images, and the test images with their kind and masks, all below the dataset's folder."""
    root = dataset.root
    return names(dataset.train, root), {
        sample.path.relative_to(root).as_posix(): (
            sample.kind,
            [mask.relative_to(root).as_posix() for mask in sample.mask_paths],
        )
        for sample in dataset.test
    }


def test_mvtec_ad_2(tmp_path: Path) -> None:
    photographs(tmp_path, "train/good/0.png", "validation/good/1.png", "test_private/0.png", "test_private_mixed/0.png")
    photographs(tmp_path, "test_public/good/2.png", "test_public/bad/3.png")
    marked(tmp_path / "test_public/ground_truth/bad/3_mask.png")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "mvtec-ad-2"
    assert of(dataset) == (
        ["train/good/0.png"],
        {
            "test_public/bad/3.png": ("bad", ["test_public/ground_truth/bad/3_mask.png"]),
            "test_public/good/2.png": ("good", []),
        },
    )
    assert len(dataset.passed_over) == 4


def test_mvtec_loco(tmp_path: Path) -> None:
    photographs(tmp_path, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        photographs(tmp_path, f"test/{kind}/000.png", f"test/{kind}/001.png")
        for name in ("000/000", "000/001", "001/000"):
            marked(tmp_path / f"ground_truth/{kind}/{name}.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.notes) == ("mvtec-loco", ())
    _, test = of(dataset)
    assert test["test/logical_anomalies/000.png"][1] == [
        f"ground_truth/logical_anomalies/000/{name}.png" for name in ("000", "001")
    ]
    assert test["test/structural_anomalies/001.png"][1] == ["ground_truth/structural_anomalies/001/000.png"]


def test_several_masks_of_an_image_are_joined(tmp_path: Path) -> None:
    image = photograph(tmp_path / "a.png")
    left, right = np.zeros((2, 16, 24), np.uint8)
    left[:, :3], right[:, 20:] = 236, 240
    masks = (write(tmp_path / "l.png", left), write(tmp_path / "r.png", right))
    assert torch.equal(Sample(image, True, masks, "x").read_mask(), torch.from_numpy((left + right) > 0))


def test_mvtec_3d(tmp_path: Path) -> None:
    for part in ("train/good", "test/good", "test/hole"):
        photographs(tmp_path, f"{part}/rgb/000.png", f"{part}/xyz/000.tiff")
    write(tmp_path / "test/good/gt/000.png")
    marked(tmp_path / "test/hole/gt/000.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.notes) == ("mvtec-3d", ())
    assert of(dataset) == (
        ["train/good/rgb/000.png"],
        {
            "test/good/rgb/000.png": ("good", []),
            "test/hole/rgb/000.png": ("hole", ["test/hole/gt/000.png"]),
        },
    )
    assert {each.kind for each in dataset.passed_over} == {"depth map"}


def test_kolektor_sdd(tmp_path: Path) -> None:
    for number in range(12):
        photograph(tmp_path / f"kos{number:02}/Part0.jpg", number)
        mask = tmp_path / f"kos{number:02}/Part0_label.bmp"
        marked(mask) if number in (3, 7) else write(mask, np.zeros((16, 24), np.uint8))
    dataset = open_dataset(tmp_path)
    train, test = of(dataset)
    assert (dataset.layout, dataset.is_split, len(train), len(test)) == ("kolektor", False, 8, 4)
    assert test["kos03/Part0.jpg"] == ("defect", ["kos03/Part0_label.bmp"])
    assert not set(train) & set(test)
    assert len(dataset.passed_over) == 12


def test_kolektor_sdd_2(tmp_path: Path) -> None:
    for part in ("train", "test"):
        photographs(tmp_path, f"{part}/10.png", f"{part}/11.png")
        write(tmp_path / f"{part}/10_GT.png", np.zeros((16, 24), np.uint8))
        marked(tmp_path / f"{part}/11_GT.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.is_split) == ("kolektor", True)
    assert [(sample.path.name, sample.kind) for sample in dataset.train] == [("10.png", "good"), ("11.png", "defect")]
    assert of(dataset)[1] == {"test/10.png": ("good", []), "test/11.png": ("defect", ["test/11_GT.png"])}


def test_dagm(tmp_path: Path) -> None:
    for part in ("Train", "Test"):
        photographs(tmp_path, f"Class1/{part}/0001.PNG", f"Class1/{part}/0002.PNG")
        marked(tmp_path / f"Class1/{part}/Label/0002_label.PNG")
    dataset = open_dataset(tmp_path, category="Class1")
    assert (dataset.layout, [sample.kind for sample in dataset.train]) == ("dagm", ["good", "defect"])
    assert of(dataset)[1]["Test/0002.PNG"] == ("defect", ["Test/Label/0002_label.PNG"])


def real_iad(root: Path, **changes: object) -> Path:
    folder = root / "realiad_1024" / "toy"
    photographs(folder, "OK/S0001/a.jpg", "OK/S0002/b.jpg", "NG/BX/S0003/c.jpg")
    marked(folder / "NG/BX/S0003/c.png")
    defect = {"anomaly_class": "BX", "image_path": "NG/BX/S0003/c.jpg", "mask_path": "NG/BX/S0003/c.png"}
    table = {
        "meta": {"normal_class": "OK"},
        "train": [{"anomaly_class": "OK", "image_path": "OK/S0001/a.jpg", "mask_path": None}],
        "test": [{"anomaly_class": "OK", "image_path": "OK/S0002/b.jpg", "mask_path": None}, {**defect, **changes}],
    }
    (root / "realiad_jsons/realiad_jsons").mkdir(parents=True)
    (root / "realiad_jsons/realiad_jsons/toy.json").write_text(json.dumps(table))
    return folder


def test_real_iad(tmp_path: Path) -> None:
    dataset = open_dataset(real_iad(tmp_path))
    assert dataset.layout == "real-iad"
    assert of(dataset) == (
        ["OK/S0001/a.jpg"],
        {"NG/BX/S0003/c.jpg": ("BX", ["NG/BX/S0003/c.png"]), "OK/S0002/b.jpg": ("good", [])},
    )
    assert open_dataset(tmp_path / "realiad_1024", category="toy") == dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_path": "../../secret.png"}, "points outside"),
        ({"mask_path": "/etc/passwd"}, "points outside"),
        ({"image_path": "NG/BX/none.jpg"}, "is missing; complete the dataset"),
        ({"image_path": 3}, "each has an image_path and an anomaly_class"),
        ({"anomaly_class": None}, "each has an image_path and an anomaly_class"),
    ],
)
def test_broken_tables_of_real_iad(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(real_iad(tmp_path, **changes))


def test_folders_named_by_label(tmp_path: Path) -> None:
    photographs(tmp_path, *(f"OK/{number}.png" for number in range(6)), "crack/7.png", "dent/8.png")
    marked(tmp_path / "mask/crack/7.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.is_split) == ("labelled", False)
    train, test = of(dataset)
    assert train == [f"OK/{number}.png" for number in (0, 1, 2, 3, 5)]
    assert test == {
        "OK/4.png": ("good", []),
        "crack/7.png": ("crack", ["mask/crack/7.png"]),
        "dent/8.png": ("dent", []),
    }
    assert dataset.notes == ("1 of 2 defective images have no mask: `dent/8.png`.",)


def test_masks_beside_labelled_images(tmp_path: Path) -> None:
    photographs(tmp_path, *(f"OK/S1/{number}.jpg" for number in range(5)), "NG/BX/S3/7.jpg", "NG/BX/S3/8.jpg")
    marked(tmp_path / "NG/BX/S3/7.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, of(dataset)[1]["NG/BX/S3/7.jpg"]) == ("labelled", ("NG", ["NG/BX/S3/7.png"]))
    assert dataset.notes == ("1 of 2 defective images have no mask: `S3/8.jpg`.",)


def test_folders_that_hold_sorted_folders_are_plain(tmp_path: Path) -> None:
    photographs(tmp_path, "monday/good/0.png", "monday/bad/1.png", "tuesday/good/2.png", "tuesday/bad/3.png")
    assert open_dataset(tmp_path).layout == "folder"


# --- found by trying to break it ---


def test_images_of_one_stem_share_their_mask(tmp_path: Path) -> None:
    mvtec(tmp_path)
    write(tmp_path / "test/hole/000.bmp")
    assert [len(sample.mask_paths) for sample in open_dataset(tmp_path).test if sample.kind == "hole"] == [1, 1]
    for number in range(6):
        photograph(tmp_path / f"k/kos{number}/Part0.jpg", number)
        marked(tmp_path / f"k/kos{number}/Part0_label.bmp")
    photograph(tmp_path / "k/kos3/PART0.png")
    assert len([sample for sample in open_dataset(tmp_path / "k").test if sample.is_anomalous]) == 7


def test_names_of_folders_decide_before_masks_beside_images(tmp_path: Path) -> None:
    photographs(tmp_path, *(f"good/{number}.png" for number in range(5)), "bad/6.png", "bad/7.png")
    marked(tmp_path / "bad/6_label.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, [sample.path.parent.name for sample in dataset.train]) == ("labelled", ["good"] * 4)


def test_kolektor_from_a_zip_of_a_mac_and_in_capitals(tmp_path: Path) -> None:
    photograph(tmp_path / "a/__MACOSX/kos01/._Part0.jpg")
    for number in range(6):
        photograph(tmp_path / f"a/kos{number}/Part0.jpg", number)
        marked(tmp_path / f"a/kos{number}/Part0_label.bmp")
    assert open_dataset(tmp_path / "a").layout == "kolektor"
    for part in ("Train", "Test"):
        photograph(tmp_path / f"b/{part}/1.png")
        marked(tmp_path / f"b/{part}/1_GT.png")
    assert (open_dataset(tmp_path / "b").is_split, len(open_dataset(tmp_path / "b").train)) == (True, 1)


def test_a_black_label_of_dagm_marks_a_good_image(tmp_path: Path) -> None:
    for part in ("Train", "Test"):
        photographs(tmp_path, f"{part}/1.PNG", f"{part}/2.PNG")
        write(tmp_path / f"{part}/Label/1_label.PNG", np.zeros((16, 24), np.uint8))
        marked(tmp_path / f"{part}/Label/2_label.PNG")
    assert [sample.kind for sample in open_dataset(tmp_path).test] == ["good", "defect"]


@pytest.mark.parametrize(
    "names",
    [
        ("good/0.png", "bad/1.png", "overview.png"),
        ("train/good/0.png", "train/bad/1.png"),
        ("a/good/0.png", "a/crack/1.png", "b/good/2.png"),
    ],
)
def test_labels_that_are_not_used_are_told(tmp_path: Path, names: tuple[str, ...]) -> None:
    photographs(tmp_path, *names)
    (note,) = open_dataset(tmp_path).notes
    assert "whose images are taken alike, without labels" in note
    assert choose_images(tmp_path, "train").notes == (note,)


def test_masks_of_tools(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = np.ascontiguousarray(np.rot90(RED, 2))
    Image.fromarray(turned).save(tmp_path / "turned.tif", compression="tiff_lzw", exif=exif)
    layer = np.zeros((4, 6, 4), np.uint8)
    layer[MARKED.numpy()] = (255, 0, 0, 100)
    write(tmp_path / "stroke.png", layer)
    opaque = np.dstack([np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 255, np.uint8)])
    opaque[MARKED.numpy()] = (255, 255, 255, 100)
    write(tmp_path / "on black.png", opaque)
    labels = np.zeros((4, 6, 3), np.uint8)
    labels[MARKED.numpy()] = 1
    labels[1, 2] = 3
    Image.fromarray(labels).save(tmp_path / "labels.webp", lossless=True)
    Image.fromarray(labels).save(tmp_path / "labels.jp2")
    for path in tmp_path.iterdir():
        assert torch.equal(read_mask(path), MARKED), path.name


def test_a_deep_colour_mask_whose_values_are_lost_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RED.astype(np.uint16), photometric="rgb", compression="zlib")
    with pytest.raises(ImageError, match="16-bit colour, whose small values are lost"):
        read_mask(tmp_path / "a.tif")


def test_accents_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    image, mask = tmp_path / "pr\u00fcf.png", tmp_path / "pru\u0308f_mask.png"
    assert match_masks([image], [mask]) == ({image: (mask,)}, [])
