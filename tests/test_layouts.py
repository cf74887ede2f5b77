from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softpatch.data.layouts import Dataset, Sample, open_dataset, recognise_layout
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
        mask = sample.mask_path and str(sample.mask_path.relative_to(dataset.root))
        yield str(sample.path.relative_to(dataset.root)), sample.is_anomalous, sample.kind, mask


def test_a_plain_folder_is_training_data_without_labels(tmp_path: Path) -> None:
    write_all(tmp_path, "b.png", "shift 2/a.jpg")
    (tmp_path / "notes.txt").touch()
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.category, dataset.test) == ("folder", tmp_path.name, ())
    assert names(dataset.train, tmp_path) == ["b.png", "shift 2/a.jpg"]
    assert {(sample.is_anomalous, sample.kind, sample.mask_path) for sample in dataset.train} == {
        (False, "unlabelled", None)
    }
    with pytest.raises(InputError, match=r"category 'bottle' is not in .* without categories"):
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
    assert [(sample.kind, sample.is_anomalous, sample.mask_path) for sample in dataset.train] == [
        ("good", False, None),
        ("bad", True, None),
        ("good", False, None),
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
    with pytest.raises(InputError, match="holds the categories a, b; choose one with --category"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"category 'readme' is not in .*, which holds a, b"):
        open_dataset(tmp_path, category="readme")
    with pytest.raises(InputError, match=r"category 'a' is not in .*/b, which is the category 'b' itself"):
        open_dataset(tmp_path / "b", category="a")


def test_a_named_layout_that_does_not_fit(tmp_path: Path) -> None:
    mvtec(tmp_path)
    with pytest.raises(InputError, match=r"'btad' needs .* train/ok and test, but .* lacks train/ok"):
        open_dataset(tmp_path, layout="btad")
    with pytest.raises(InputError, match=r"'visa' needs .* Data/Images, but"):
        open_dataset(tmp_path, layout="visa")
    with pytest.raises(InputError, match="layout 'coco' is unknown; choose auto, folder, mvtec, visa, btad"):
        open_dataset(tmp_path, layout="coco")
    assert len(open_dataset(tmp_path, layout="folder").train) == 8  # as asked: every image, masks too
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
    with pytest.raises(InputError, match="is not a table in CSV"):
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
    ref = Sample(path, False, None, "good").ref
    assert ref.name == str(path)
    assert torch.equal(ref.read(), torch.ones(3, 4, 6))


def test_masks_are_true_where_they_are_not_black(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    values = np.array([[0, 1, 2, 255, 0, 7]] * 4, np.uint8)
    expected = torch.from_numpy(values > 0)
    for name, mask in (("m.png", values), ("m.bmp", values), ("bit.png", values > 0), ("rgb.png", None)):
        coloured = np.dstack([values * 0, values, values * 0]) if mask is None else mask
        sample = Sample(image, True, write(tmp_path / name, coloured), "crack")
        assert sample.read_mask().dtype == torch.bool
        assert torch.equal(sample.read_mask(), expected)


def test_without_a_mask_nothing_is_marked(tmp_path: Path) -> None:
    mask = Sample(write(tmp_path / "a.png"), True, None, "crack").read_mask()
    assert (mask.dtype, tuple(mask.shape), bool(mask.any())) == (torch.bool, (4, 6), False)


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    turned = write(tmp_path / "turned.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(ImageError, match=r"turned\.png is 4 x 6 pixels; .* its image's size, 6 x 4"):
        Sample(image, True, turned, "crack").read_mask()
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
        Sample(image, True, tmp_path / "empty.png", "crack").read_mask()
