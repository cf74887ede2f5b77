"""A region of interest: what of every image is looked at, read from a mask or from polygons.

It is kept as text, so that it is one setting among others: a bitmap of 256 x 256 pixels, stretched over the image.
"""

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from softpatch.config import ROI_SIDE, unpacked_roi
from softpatch.data.image_bounds import MAX_PIXELS
from softpatch.data.images import ImageRef
from softpatch.data.masks import read_mask
from softpatch.data.pixels import UNSCALED
from softpatch.errors import ImageError, InputError

_LARGEST_FILE = 50_000_000  # bytes of JSON
Polygon = list[tuple[float, float]]


def read_roi(path: Path) -> tuple[str, tuple[int, int]]:
    """Read a region of interest as the setting `roi` takes it, and the (width, height) of the image it was drawn on.

    A mask is an image in which any colour but black is looked at. JSON is that of LabelMe, whose polygons, rectangles
    and circles are, or COCO, as CVAT exports it, with the annotations of one image. Raises `InputError` for a file that
    is neither, and for one that marks nothing.
    """
    try:
        mask = _drawn(path) if path.suffix.lower() == ".json" else read_mask(path).numpy()
    except ImageError as error:
        raise InputError(f"the region of interest {path} cannot be read: {error}") from error
    if not mask.any():
        raise InputError(f"the region of interest {path} marks nothing; paint white what is to be looked at")
    height, width = mask.shape
    return packed_roi(mask), (width, height)


def resolve_roi(given: str | Path) -> tuple[str, tuple[int, int] | None]:
    """The setting `roi` of a file (see `read_roi`), or of text that is one already, whose size is not known.

    Raises `InputError` as `read_roi` does, and for anything but text or a path.
    """
    if isinstance(given, str):
        try:
            unpacked_roi(given)
        except InputError:
            pass  # it names a file
        else:
            return given, None
    if not isinstance(given, (str, Path)) or not str(given):
        raise InputError(f"`roi` is {given!r}; it must be the path of a mask or of polygons in JSON")
    return read_roi(Path(given))


def check_roi_size(size: tuple[int, int], refs: Sequence[ImageRef]) -> None:
    """Raise `InputError` where the first image that can be read has another (width, height) than it was drawn on."""
    for ref in refs:
        try:
            height, width = ref.load(UNSCALED).shape[1:]
        except ImageError:
            continue
        if (width, height) != size:
            raise InputError(
                f"the region of interest was drawn on {size[0]} x {size[1]} pixels, and {ref.name} has "
                f"{width} x {height}; draw it on one of the images"
            )
        return


def packed_roi(mask: NDArray[np.bool_]) -> str:
    """The setting `roi` of a mask (H, W), true where an image is looked at, of any size."""
    height, width = mask.shape
    rows, columns = (((np.arange(ROI_SIDE) + 0.5) * side / ROI_SIDE).astype(int) for side in (height, width))
    packed = np.packbits(mask[rows][:, columns])
    return base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode()


@lru_cache(8)
def roi_mask(roi: str, width: int, height: int) -> NDArray[np.bool_]:
    """Where an image of this size is looked at: bool (height, width)."""
    bits: NDArray[np.bool_] = np.unpackbits(np.frombuffer(unpacked_roi(roi), np.uint8)).astype(np.bool_)
    rows, columns = (((np.arange(side) + 0.5) * ROI_SIDE / side).astype(int) for side in (height, width))
    looked_at: NDArray[np.bool_] = bits.reshape(ROI_SIDE, ROI_SIDE)[rows][:, columns]
    return looked_at


def _drawn(path: Path) -> NDArray[np.bool_]:
    """What the polygons in a JSON file hold: bool (height, width)."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        size, polygons = _of_labelme(content) if "shapes" in content else _of_coco(content)
        width, height = (int(side) for side in size)
        if not 0 < width * height <= MAX_PIXELS:
            raise ValueError(f"its image has {width} x {height} pixels")
        canvas = Image.new("1", (width, height))
        draw = ImageDraw.Draw(canvas)
        for polygon in polygons:
            corners = [(float(x), float(y)) for x, y in polygon]
            if not np.isfinite(corners).all():
                raise ValueError("it has corners that are not finite numbers")
            draw.polygon(corners, fill=1)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"the region of interest {path} is neither LabelMe's JSON nor COCO with one marked image ({error}); export "
            "it again, or paint a mask"
        ) from error
    return np.asarray(canvas)


def _of_labelme(content: dict[str, Any]) -> tuple[tuple[int, int], list[Polygon]]:
    kinds: dict[str, Callable[[Polygon], Polygon]] = {"polygon": list, "rectangle": _rectangle, "circle": _circle}
    polygons = [kinds[shape.get("shape_type", "polygon")](shape["points"]) for shape in content["shapes"]]
    return (content["imageWidth"], content["imageHeight"]), polygons


def _of_coco(content: dict[str, Any]) -> tuple[tuple[int, int], list[Polygon]]:
    marked = {annotation["image_id"] for annotation in content["annotations"]}
    if len(marked) != 1:
        raise ValueError(f"it marks {len(marked)} images")
    image = next(image for image in content["images"] if image["id"] in marked)
    polygons = [polygon for annotation in content["annotations"] for polygon in _of_annotation(annotation)]
    return (image["width"], image["height"]), polygons


def _of_annotation(annotation: dict[str, Any]) -> Iterator[Polygon]:
    outlines = annotation.get("segmentation")
    if not outlines:
        left, top, width, height = annotation["bbox"]
        yield _rectangle([(left, top), (left + width, top + height)])
        return
    for outline in outlines:
        yield list(zip(outline[::2], outline[1::2], strict=True))


def _rectangle(corners: Polygon) -> Polygon:
    (left, top), (right, bottom) = corners
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _circle(points: Polygon) -> Polygon:
    (x, y), (other_x, other_y) = points
    radius, angles = np.hypot(other_x - x, other_y - y), np.linspace(0, 2 * np.pi, 180, endpoint=False)
    return [(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles]
