"""The page of an audit: what a training folder holds, for a person to answer keep, reject or unsure."""

import base64
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from softpatch.atomic import move_together, remove_leftovers, temporary_prefix
from softpatch.data.cells import path_cell
from softpatch.errors import InputError, SoftPatchError
from softpatch.progress import Progress, silent
from softpatch.review.audit import AuditedImage, AuditedRegion, FolderAudit
from softpatch.review.groups import GroupKind
from softpatch.review.page import visible_text, write_page
from softpatch.review.small_pictures import crop_around, crop_picture, small_heat, small_picture

PAGE = "index.html"
MOST_INSIDE = 300
"""Of so many images the pictures are inside the page; of more they lie in folders beside it."""
_FOLDERS = ("thumbnails", "pictures", "crops")
_OURS = re.compile(r"\d{5,}(-\w+)*\.(jpg|png)")
_THUMBNAIL, _PICTURE = 180, 640  # pixels of the longer side
_ALWAYS_LARGE, _SUSPECT = 100, 0.05  # so many of the first, and all so suspicious, are shown larger and with crops
_MOST_REGIONS = 3  # with crops, per image
_KINDS: dict[GroupKind, str] = {
    "repeated defect": "The same defect again and again",
    "variant": "A variant of the product",
    "copies": "Copies of one image",
    "unlike the rest": "Unlike all others",
    "exposure": "Exposed differently",
    "blur": "Blurred",
}
Read = Callable[[str], Tensor]
Keep = Callable[[str, bytes], str]


def write_audit_page(
    audit: FolderAudit,
    folder: Path,
    read: Read,
    *,
    title: str = "Audit of a training folder",
    progress: Progress = silent,
) -> None:
    """Write `index.html` into `folder`, and beside it crops of the suspects and, of many images, their pictures.

    The page opens from a disk, without a server or a network. `read` gives the image (3, H, W) in [0, 1] of a path as
    the audit has it; one that cannot be read any more has no picture. The page begins with the audit's decisions, and
    shows paths below the folder that all images share. What an earlier page left is replaced, all at once. Raises
    `InputError` where there are no images, or the folder cannot be written.
    """
    if not audit.images:
        raise InputError("there are no images to show; audit a folder that holds some")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=folder) as temporary:
            new = Path(temporary)
            keep = partial(_keep, new, len(audit.images) <= MOST_INSIDE)
            root = _shared_folder([image.path for image in audit.images])
            images = []
            for number, image in enumerate(audit.images):
                decision = audit.decisions.get(image.path)
                images.append({**_image(number, image, root, read, keep), "decision": decision})
                progress("draw", number + 1, len(audit.images))
            _write(audit, images, root, title, new)
            pictures = sorted(path.relative_to(new) for path in new.glob("*/*"))
            obsolete = sorted(set(_pictures(folder)) - set(pictures))
            move_together(new, [*pictures, Path(PAGE)], folder, obsolete)  # the page comes last
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}; choose a folder you may write to"
        ) from error


def _write(audit: FolderAudit, images: list[dict[str, Any]], root: str, title: str, folder: Path) -> None:
    hypotheses = audit.hypotheses
    data = {
        "id": audit_id(audit),
        "images": images,
        "groups": [
            {
                "kind": group.kind,
                "title": _KINDS[group.kind],
                "evidence": visible_text(group.evidence),
                "images": list(group.images),
            }
            for group in audit.groups
        ],
        "hypotheses": {
            "centres": hypotheses.centres.tolist(),
            "slopes": hypotheses.slopes.tolist(),
            "weights": hypotheses.weights.tolist(),
        },
    }
    write_page(
        folder / PAGE,
        "audit.html",
        styles=("audit.css",),
        scripts=("elements.js", "belief.js", "decisions.js", "gallery.js", "detail.js", "audit.js"),
        data=data,
        title=visible_text(title),
        kinds={group.kind: _KINDS[group.kind] for group in audit.groups},
        count=len(images),
        root=visible_text(root),
    )


def audit_id(audit: FolderAudit) -> str:
    """What tells an audit from others: a digest of its paths, scores and decisions. Answers are kept under it."""
    told = [
        [path_cell(image.path), image.prediction.image_score, audit.decisions.get(image.path)] for image in audit.images
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _shared_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all of the paths, "" where there is none.

    It is not made absolute: a page that is passed on does not tell where the images lay.
    """
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120  names are text
    except ValueError:
        return ""


def _shown(path: str, root: str) -> str:
    """A path as the page shows it: below the `root` where it lies there."""
    return visible_text(path.removeprefix(os.path.join(root, "")))  # noqa: PTH118  names are text


def _image(number: int, image: AuditedImage, root: str, read: Read, keep: Keep) -> dict[str, Any]:
    """What the page knows of an image, its pictures kept."""
    prediction = image.prediction
    found: dict[str, Any] = {
        "path": _shown(image.path, root),
        "key": path_cell(image.path),
        "evidence": image.evidence,
        "margin": round(prediction.margin, 4) if math.isfinite(prediction.margin) else None,
        "score": prediction.image_score,
        "threshold": prediction.threshold,
        "width": prediction.width,
        "height": prediction.height,
        "regions": [_region(region, root) for region in image.regions],
    }
    pixels = _read(read, image.path)
    if pixels is None:
        return found
    name = f"{number + 1:05d}"
    found["thumbnail"] = keep(f"thumbnails/{name}.jpg", small_picture(pixels, _THUMBNAIL))
    heat = small_heat(prediction)
    if heat:
        found["heat"] = keep(f"thumbnails/{name}-heat.png", heat)
    if number < _ALWAYS_LARGE or image.suspicion >= _SUSPECT:
        found["picture"] = keep(f"pictures/{name}.jpg", small_picture(pixels, _PICTURE))
        for place, region in enumerate(image.regions[:_MOST_REGIONS]):
            crops = _crops(pixels, region, read, keep, f"{name}-{place + 1}")
            found["regions"][place] |= crops
    return found


def _region(region: AuditedRegion, root: str) -> dict[str, Any]:
    counterpart = region.counterpart
    return {
        "box": list(region.box),
        "area": region.area,
        "agreeing": region.agreeing,
        "counterpart": counterpart and _shown(counterpart.path, root),
    }


def _crops(pixels: Tensor, region: AuditedRegion, read: Read, keep: Keep, name: str) -> dict[str, str]:
    """Pictures of a region and of what it should look like, at one scale."""
    height, width = pixels.shape[1:]
    box = crop_around(region.box, region.box, width, height)
    crops = {"crop": keep(f"crops/{name}.jpg", crop_picture(pixels, box))}
    if region.counterpart is not None:
        other = _read(read, region.counterpart.path)
        if other is not None:
            box = crop_around(region.counterpart.box, region.box, other.shape[2], other.shape[1])
            crops["like"] = keep(f"crops/{name}-counterpart.jpg", crop_picture(other, box))
    return crops


def _read(read: Read, path: str) -> Tensor | None:
    try:
        return read(path)
    except SoftPatchError:
        return None  # moved or changed since it was audited; the rest of the page tells about it


def _keep(folder: Path, is_inside: bool, name: str, content: bytes) -> str:
    """Keep a picture, and give the address under which the page has it: itself, or a file beside the page."""
    if not is_inside or name.startswith("crops/"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    if not is_inside:
        return name
    kind = "png" if name.endswith(".png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pictures(folder: Path) -> Sequence[Path]:
    """What an earlier page left in a folder, by our names for it."""
    return [
        Path(name) / entry.name
        for name in _FOLDERS
        if (folder / name).is_dir()
        for entry in os.scandir(folder / name)
        if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
    ]
