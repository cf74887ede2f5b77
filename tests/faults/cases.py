"""The table of bad inputs: what is done, by kind. Every one must end well or in one sentence that a user can act on.

A case is a function that makes its files in an empty folder and calls softpatch on them. Adding one is adding an entry.
"""

import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from safetensors.torch import load, save

from softpatch.bench.rows import read_rows, row_file
from softpatch.bench.summary import as_csv, as_markdown, tables
from softpatch.bench.task import read_tasks
from softpatch.config import Runtime, Settings
from softpatch.data.decode import is_picture, read_image
from softpatch.data.folder import look_into
from softpatch.data.inputs import choose_images
from softpatch.data.layouts import open_dataset
from softpatch.data.masks import looks_like_mask, read_mask
from softpatch.estimator import SoftPatch
from softpatch.features.weights import read_weights
from softpatch.model_file import load_detector, save_detector
from softpatch.stored_model import contents_digest

CPU = Runtime("cpu", workers=1)


@dataclass(frozen=True)
class Case:
    """A bad input: its `kind`, a `name`, and what is `done` with it in an empty folder."""

    kind: str
    name: str
    done: Callable[[Path], object]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


# --- images ---

PIXELS = np.random.default_rng(0).integers(60, 200, (40, 56, 3), dtype=np.uint8)
FORMATS = {
    "png": {},
    "bmp": {},
    "gif": {},
    "ppm": {},
    "tga": {},
    "jp2": {},
    "tif": {},
    "jpg": {"quality": 90},
    "webp": {"lossless": True},
}
DAMAGES = ["cut 5 %", "cut 30 %", "cut 60 %", "cut 95 %", "zeros from 40 %", "zeros from 90 %", "noise in the middle"]
DAMAGES += ["no header", "twice the header", "ones in the header", "another suffix", "JPEG end early"]


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "ppm": "PPM"}.get(suffix, suffix.upper())
    Image.fromarray(PIXELS).save(buffer, kind, **FORMATS[suffix])
    return buffer.getvalue()


def damaged(content: bytes, damage: str) -> bytes:
    size = len(content)
    if damage.startswith("cut"):
        return content[: size * int(damage.split()[1]) // 100]
    if damage.startswith("zeros"):
        start = size * int(damage.split()[2]) // 100
        return content[:start] + bytes(size - start)
    if damage == "noise in the middle":
        noise = np.random.default_rng(1).bytes(size // 5)
        return content[: size // 3] + noise + content[size // 3 + len(noise) :]
    return {
        "no header": content[12:],
        "twice the header": content[:24] + content,
        "ones in the header": content[:16] + b"\xff" * 12 + content[28:],
        "another suffix": content,
        "JPEG end early": content[: size // 2] + b"\xff\xd9",
    }[damage]


def read_whole_or_not(suffix: str, damage: str, folder: Path) -> object:
    """What is read in spite of the damage is an image, and where a file was cut, it is the whole one."""
    path = folder / f"a.{'png' if damage == 'another suffix' and suffix not in ('tga',) else suffix}"
    content = damaged(encoded(suffix), damage)
    path.write_bytes(content)
    is_picture(path)
    looks_like_mask(path)
    image = read_image(path)
    assert image.ndim == 3
    assert len(image) == 3
    assert 0 <= image.min() <= image.max() <= 1
    if damage.startswith("cut") and suffix != "tga":
        (folder / f"whole.{suffix}").write_bytes(encoded(suffix))
        assert torch.equal(image, read_image(folder / f"whole.{suffix}"))
    return image


def image_cases() -> Iterator[Case]:
    for suffix in FORMATS:
        for damage in DAMAGES:
            yield Case("damaged image", f"{suffix}, {damage}", partial(read_whole_or_not, suffix, damage))


def png_of(width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(encoded("jpg"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def bmp_of(width: int, height: int) -> bytes:
    content = bytearray(encoded("bmp"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def tiff_of(width: int, height: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS, photometric="rgb", **options)
    buffer.seek(0)
    with tifffile.TiffFile(buffer, mode="r+b") as file:
        for name, value in (("ImageWidth", width), ("ImageLength", height)):
            file.pages.first.tags[name].overwrite(value)
    return buffer.getvalue()


SIZES = [(0, 0), (1, 0), (1, 1_000_000), (8_000_000, 1), (12_000, 12_000), (60_000, 60_000), (20_000, 2)]


def claim(suffix: str, make: Callable[[int, int], bytes], size: tuple[int, int], folder: Path) -> object:
    path = folder / f"a.{suffix}"
    path.write_bytes(make(*size))
    return read_image(path)


def size_cases() -> Iterator[Case]:
    makers: dict[str, tuple[str, Callable[[int, int], bytes]]] = {
        "png": ("png", png_of),
        "jpg": ("jpg", lambda width, height: jpeg_of(width % 65536, height % 65536)),
        "bmp": ("bmp", bmp_of),
        "tif": ("tif", lambda width, height: tiff_of(max(width, 1), max(height, 1))),
        "deflated tif": ("tif", lambda width, height: tiff_of(max(width, 1), max(height, 1), compression="zlib")),
        "pgm": ("pgm", lambda width, height: b"P5 %d %d 255\n" % (width, height)),
    }
    for name, (suffix, make) in makers.items():
        for size in SIZES:
            yield Case("claimed size", f"{name} of {size[0]} x {size[1]}", partial(claim, suffix, make, size))


# --- model files ---


def model_bytes(detector: Any, folder: Path) -> bytes:
    path = folder / "model"
    save_detector(detector, path)
    content = path.read_bytes()
    path.unlink()
    return content


def _load(content: bytes, folder: Path) -> object:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return load_detector(path, CPU)


WRONG: list[Any] = [None, "x", -1, 0, [], {}, [[]], True, 1e308, 2**70, "../../x", "\0", [1, [2]], math.inf]
HEADER_FIELDS = ["format_version", "settings", "backbone", "grid", "threshold", "check_threshold", "map_threshold"]
HEADER_FIELDS += ["training_images", "copies", "contamination", "record", "digest", "package_version"]
RECORD_FIELDS = ["folder", "names", "calibrated", "symmetries"]
TENSORS = ["patches", "weights", "owners"]


def with_header(content: bytes, change: Callable[[dict[str, Any]], None], *, signed: bool = True) -> bytes:
    """The same model with another header, whose digest is right if `signed`."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["softpatch"])
    tensors = load(content)
    change(header)
    if signed:
        header.pop("digest", None)
        header["digest"] = contents_digest(header, {name: each.numpy() for name, each in tensors.items()})
    return save(tensors, metadata={"softpatch": json.dumps(header)})


def with_field(content: bytes, name: str, value: Any, folder: Path) -> object:
    return _load(with_header(content, lambda header: header.update({name: value}), signed=name != "digest"), folder)


def with_setting(content: bytes, name: str, value: Any, folder: Path) -> object:
    return _load(with_header(content, lambda header: header["settings"].update({name: value})), folder)


def with_record(content: bytes, name: str, value: Any, folder: Path) -> object:
    return _load(with_header(content, lambda header: header["record"].update({name: value})), folder)


def with_tensor(content: bytes, name: str, change: Callable[[torch.Tensor], torch.Tensor], folder: Path) -> object:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["softpatch"])
    tensors = load(content)
    tensors[f"classification.{name}"] = change(tensors[f"classification.{name}"]).contiguous()
    header.pop("digest")
    header["digest"] = contents_digest(header, {name: each.numpy() for name, each in tensors.items()})
    return _load(save(tensors, metadata={"softpatch": json.dumps(header)}), folder)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "halved": lambda tensor: tensor[: len(tensor) // 2],
    "empty": lambda tensor: tensor[:0],
    "negative": lambda tensor: -tensor - 1,
    "of another dtype": lambda tensor: tensor.double(),
    "not finite": lambda tensor: tensor.float().fill_(math.nan).to(tensor.dtype),
    "with an axis more": lambda tensor: tensor[None],
}


def model_cases(content: bytes) -> Iterator[Case]:
    for damage in DAMAGES[:-2]:
        yield Case("model file", damage, lambda folder, damage=damage: _load(damaged(content, damage), folder))
    for place in range(0, 400, 20):
        flipped = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
        yield Case("model file", f"byte {place} flipped", partial(_load, flipped))
    for name in HEADER_FIELDS:
        for value in WRONG:
            shown = f"{name} = {str(value)[:12]!r}"
            yield Case("model header", shown, partial(with_field, content, name, value))
    for name in [field.name for field in fields(Settings)]:
        for value in (None, "x", -1, [], 2**70, 1e308):
            yield Case("model setting", f"{name} = {value!r}", partial(with_setting, content, name, value))
    for name in RECORD_FIELDS:
        for value in WRONG:
            yield Case("model record", f"{name} = {str(value)[:12]!r}", partial(with_record, content, name, value))
    for name in TENSORS:
        for what, change in CHANGES.items():
            yield Case("model tensor", f"{name} {what}", partial(with_tensor, content, name, change))


# --- rows and task lists ---

ROW: dict[str, Any] = {
    "task_key": "{}",
    "data": "d",
    "category": "c",
    "method": "patchcore",
    "protocol": "clean",
    "noise_ratio": 0,
    "seed": 0,
    "backbone": "b",
    "weights": "w",
    "error": None,
    "image_auroc": 0.5,
    "pixel_auroc": None,
    "images_per_second": 1.0,
    "maps": None,
}


def summed_up(text: str, folder: Path) -> object:
    path = folder / "rows.jsonl"
    path.write_text(text)
    before = path.read_bytes()
    try:
        with row_file(path) as (rows, _):
            pass
    except Exception:
        assert path.read_bytes() == before
        raise
    assert read_rows(path) == rows
    found = tables(rows)
    return as_markdown(found), as_csv(found)


def row_cases() -> Iterator[Case]:
    texts = {
        "nothing": "",
        "text": "my notes",
        "text and its end": "my notes\n",
        "a list": "[1, 2]\n",
        "a number": "3\n",
        "nested 5,000 deep": "[" * 5000 + "]" * 5000 + "\n",
        "objects 5,000 deep": '{"a":' * 5000 + "1" + "}" * 5000 + "\n",
        "5,000 digits": '{"seed": ' + "9" * 5000 + "}\n",
        "not UTF-8": json.dumps(ROW) + "\n\udcff\n".encode("utf-8", "surrogatepass").decode("latin-1"),
        "a NUL": "\0\n",
        "cut off": json.dumps(ROW) + '\n{"task_key": "',
        "twice": (json.dumps(ROW) + "\n") * 2,
    }
    for name, text in texts.items():
        yield Case("rows", name, partial(summed_up, text))
    for name in ROW:
        missing = {key: value for key, value in ROW.items() if key != name}
        yield Case("rows", f"without {name}", partial(summed_up, json.dumps(missing) + "\n"))
        for value in (None, "x", -1, [], {}, 1e308, True):
            text = json.dumps({**ROW, name: value}) + "\n"
            yield Case("rows", f"{name} = {value!r}", partial(summed_up, text))


def listed(text: str, folder: Path) -> object:
    path = folder / "tasks.toml"
    path.write_text(text, errors="surrogateescape")
    return read_tasks(path)


TASK = {"data": '"d"', "category": '"c"', "method": '"patchcore"', "noise_ratio": "0.1", "seed": "0"}


def task_cases() -> Iterator[Case]:
    texts = {
        "nothing": "",
        "no TOML": "= = =",
        "not UTF-8": "a = '\udcff'",
        "nested 5,000 deep": "a = " + "[" * 5000 + "]" * 5000,
        "5,000 digits": "[[tasks]]\nseed = " + "9" * 5000,
        "tasks is a number": "tasks = 3",
        "tasks is a table": "[tasks]\na = 1",
        "tasks is a list of numbers": "tasks = [1]",
        "defaults is a number": "defaults = 3\n[[tasks]]\nmethod = 'x'",
        "defaults is a list": "defaults = [1]\n[[tasks]]\nmethod = 'x'",
        "a million tasks": "[[tasks]]\n" + "\n".join(f"{name} = {list(range(100))}" for name in ("seed", "data", "a")),
        "another part": "[other]\na = 1",
    }
    for name, text in texts.items():
        yield Case("task list", name, partial(listed, text))
    names = [*TASK, "protocol", "backbone", "weights", "layout", "budget", "resize", "layers", "discriminators", "none"]
    for name in names:
        for value in ("''", "'x'", "-1", "[]", "{}", "nan", "inf", "true", "[[1]]", "9223372036854775807"):
            entry = {**TASK, name: value}
            text = "[[tasks]]\n" + "\n".join(f"{key} = {shown}" for key, shown in entry.items())
            yield Case("task list", f"{name} = {value}", partial(listed, text))


# --- from Python ---


def constructed(name: str, value: Any, _: Path) -> object:
    return SoftPatch(**{name: value})


GIVEN: dict[str, Callable[[Path], Any]] = {
    "None": lambda _: None,
    "a number": lambda _: 3,
    "nothing": lambda _: "",
    "an empty list": lambda _: [],
    "bytes": lambda _: b"abc",
    "a NUL": lambda _: "a\0b",
    "a name too long": lambda _: "x" * 5000,
    "a missing path": lambda folder: folder / "none",
    "an empty folder": lambda folder: folder,
    "a list of lists": lambda _: [[1]],
    "an array without pixels": lambda _: np.zeros((2, 0, 0, 3), np.uint8),
    "an array of floats": lambda _: np.zeros((2, 4, 4, 3)),
    "an array of objects": lambda _: np.array([object()]),
    "a flat array": lambda _: np.zeros(4, np.uint8),
    "a tensor without pixels": lambda _: torch.zeros(2, 3, 0, 4),
    "a tensor of bytes": lambda _: torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
    "a tensor out of range": lambda _: torch.full((2, 3, 4, 4), 2.0),
    "a tensor of nan": lambda _: torch.full((2, 3, 4, 4), math.nan),
    "a complex tensor": lambda _: torch.zeros(2, 3, 4, 4, dtype=torch.complex64),
    "a meta tensor": lambda _: torch.zeros(2, 3, 4, 4, device="meta"),
    "a sparse tensor": lambda _: torch.zeros(2, 3, 4, 4).to_sparse(),
    "a tiny float tensor": lambda _: torch.zeros(2, 3, 4, 4, dtype=torch.float8_e4m3fn),
    "a dictionary": lambda _: {"a": 1},
}


def fitted_on(make: Callable[[Path], Any], folder: Path) -> object:
    return SoftPatch(device="cpu").fit(make(folder))


def python_cases() -> Iterator[Case]:
    for name in [field.name for field in fields(Settings)] + ["preset", "device", "batch_size", "workers"]:
        for value in ("x", -1, 3.5, object(), [object()], math.nan):
            yield Case(
                "setting", f"{name} = {type(value).__name__} {str(value)[:8]}", partial(constructed, name, value)
            )
    for name, make in GIVEN.items():
        yield Case("images given", name, partial(fitted_on, make))
        yield Case("images chosen", name, lambda folder, make=make: choose_images(make(folder), "predict"))
    for name, value in {
        "None": None,
        "3": 3,
        "nothing": "",
        "a NUL": "a\0b",
        "long": "x" * 5000,
        "a folder": ".",
    }.items():
        yield Case("load", name, lambda _, value=value: SoftPatch.load(value))
        yield Case("weights", name, lambda _, value=value: SoftPatch(device="cpu", weights=value).fit(_some_images()))


def _some_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)


# --- weights, masks, folders, datasets ---


def weights_cases() -> Iterator[Case]:
    contents = {
        "empty": b"",
        "text": b"abc",
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "a zip of nothing": b"PK\x05\x06" + bytes(18),
        "safetensors of nothing": struct.pack("<Q", 2) + b"{}",
        "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
        "a header that is no JSON": struct.pack("<Q", 4) + b"xxxx",
    }
    for name, content in contents.items():
        for suffix in (".safetensors", ".pt", ""):

            def read(folder: Path, content: bytes = content, suffix: str = suffix) -> object:
                path = folder / f"weights{suffix}"
                path.write_bytes(content)
                return read_weights(path)

            yield Case("weights file", f"{name}{suffix}", read)


def mask_cases() -> Iterator[Case]:
    for suffix in FORMATS:
        for damage in DAMAGES[:6]:

            def read(folder: Path, suffix: str = suffix, damage: str = damage) -> object:
                path = folder / f"mask.{suffix}"
                path.write_bytes(damaged(encoded(suffix), damage))
                return read_mask(path)

            yield Case("damaged mask", f"{suffix}, {damage}", read)


def visa(folder: Path, row: str) -> object:
    category = folder / "pcb"
    for name in ("Images/Normal/0.JPG", "Images/Normal/1.JPG", "Images/Anomaly/2.JPG"):
        path = category / "Data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(path, "JPEG")
    (folder / "split_csv").mkdir()
    table = "object,split,label,image,mask\npcb,train,normal,pcb/Data/Images/Normal/0.JPG,\n"
    table += "pcb,test,normal,pcb/Data/Images/Normal/1.JPG,\n" + row
    (folder / "split_csv/1cls.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    return open_dataset(category)


def dataset_cases() -> Iterator[Case]:
    rows = {
        "outside": "pcb,test,anomaly,../../../etc/passwd,\n",
        "absolute": "pcb,test,anomaly,/etc/passwd,\n",
        "missing": "pcb,test,anomaly,pcb/none.JPG,\n",
        "a NUL": "pcb,test,anomaly,pcb/\0.JPG,\n",
        "no columns": "pcb\n",
        "many columns": "pcb," * 40 + "\n",
        "not UTF-8": "pcb,test,anomaly,\udcff,\n",
        "a quote without end": 'pcb,test,anomaly,"pcb/Data\n',
        "a field of a megabyte": "pcb,test,anomaly," + "x" * 1_000_000 + ",\n",
        "another split": "pcb,validation,anomaly,pcb/Data/Images/Anomaly/2.JPG,\n",
    }
    for name, row in rows.items():
        yield Case("dataset table", f"VisA, {name}", lambda folder, row=row: visa(folder, row))
    for name, text in {
        "no JSON": "{",
        "a list": "[]",
        "deep": "[" * 5000,
        "digits": "9" * 5000,
        "null": "null",
    }.items():

        def real_iad(folder: Path, text: str = text) -> object:
            (folder / "toy/OK").mkdir(parents=True)
            (folder / "toy.json").write_text(text)
            return open_dataset(folder / "toy")

        yield Case("dataset table", f"Real-IAD, {name}", real_iad)
    yield from manifest_cases()


def lookout(text: str, folder: Path) -> object:
    """A dataset of a good image, and of what the text says in the second line of its manifest."""
    for name in ("0.png", "1.png", "m.png"):
        (folder / name).write_bytes(encoded("png"))
    first = '{"source-ref": "s3://b/0.png", "l": 0, "l-metadata": {"class-name": "normal"}}\n'
    (folder / "all.manifest").write_bytes((first + text).encode("utf-8", "surrogateescape"))
    dataset = open_dataset(folder)
    assert dataset.layout == "lookout"
    return [sample.read_mask() for sample in (*dataset.train, *dataset.test)]


def manifest_cases() -> Iterator[Case]:
    texts = {
        "nothing": "",
        "no JSON": "{",
        "a list": "[]",
        "deep": "[" * 50_000,
        "objects deep": '{"a":' * 50_000,
        "digits": '{"source-ref": ' + "9" * 5000 + "}",
        "null": "null",
        "a NUL": "\0",
        "not UTF-8": "\udcff",
        "long": "x" * 1_000_001,
        "the first again": '{"source-ref": "s3://b/0.png"}',
        "half a character": '{"source-ref": "s3://b/\\ud800.png"}',
        "a name too long": '{"source-ref": "s3://b/' + "x" * 5000 + '"}',
        "a deep key": '{"source-ref": "s3://' + "b/" * 20_000 + '1.png"}',
    }
    for name, text in texts.items():
        yield Case("manifest", name, partial(lookout, text))
    colours = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"}, "1": {"class-name": "a", "hex-color": "#0"}}
    entry: dict[str, Any] = {
        "source-ref": "s3://b/1.png",
        "l": 1,
        "l-metadata": {"class-name": "anomaly", "type": "groundtruth/image-classification"},
        "m-ref": "s3://b/m.png",
        "m-ref-metadata": {"internal-color-map": {"0": colours["0"]}, "type": "groundtruth/semantic-segmentation"},
    }
    for value in [*WRONG, "s3://b/../1.png", "s3://b//etc/passwd", "s3://b/C:\\1.png", "s3://b", "s3://"]:
        for name in entry:
            yield Case(
                "manifest", f"{name} = {str(value)[:16]!r}", partial(lookout, json.dumps({**entry, name: value}))
            )
        for name in ("type", "class-name", "internal-color-map"):
            changed = {key: {**each, name: value} if isinstance(each, dict) else each for key, each in entry.items()}
            yield Case("manifest", f"all {name} = {str(value)[:16]!r}", partial(lookout, json.dumps(changed)))
        colour_map = {"internal-color-map": {**colours, "1": {"class-name": "a", "hex-color": value}}}
        text = json.dumps({**entry, "m-ref-metadata": colour_map})
        yield Case("manifest", f"hex-color = {str(value)[:16]!r}", partial(lookout, text))


def folder_cases() -> Iterator[Case]:
    def loops(folder: Path) -> object:
        (folder / "a").symlink_to(folder)
        (folder / "b.png").symlink_to(folder / "b.png")
        return look_into(folder)

    def deep(folder: Path) -> object:
        below = folder
        for _ in range(60):
            below = below / "d"
        below.mkdir(parents=True)
        (below / "a.png").write_bytes(encoded("png"))
        return look_into(folder)

    def strange(folder: Path) -> object:
        for name in ("\n.png", "\x1b[31m.png", "a;=1.png", " .png", b"\xff.png".decode(errors="surrogateescape")):
            (folder / name).write_bytes(encoded("png"))
        return look_into(folder)

    for name, done in (("links in circles", loops), ("60 folders deep", deep), ("strange names", strange)):
        yield Case("folder", name, done)
    for layout in (
        "lookout",
        "mvtec",
        "visa",
        "btad",
        "dagm",
        "kolektor",
        "real-iad",
        "mvtec-3d",
        "mvtec-ad-2",
        "labelled",
        "x",
    ):
        yield Case("folder", f"empty as {layout}", lambda folder, layout=layout: open_dataset(folder, layout=layout))


def cases(model: bytes) -> list[Case]:
    """All cases, by kind; `model` is a whole model file."""
    parts = (
        image_cases(),
        size_cases(),
        mask_cases(),
        model_cases(model),
        row_cases(),
        task_cases(),
        python_cases(),
        weights_cases(),
        dataset_cases(),
        folder_cases(),
    )
    return [case for part in parts for case in part]
