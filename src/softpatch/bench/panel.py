"""What methods see in the same images, side by side (figure 6 of the paper): maps that a run keeps, and pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softpatch.atomic import replacing
from softpatch.bench.figures import shown_title
from softpatch.bench.methods import METHODS
from softpatch.bench.rows import Row, file_stem
from softpatch.bench.summary import own_settings
from softpatch.data.framing import Framing
from softpatch.data.layouts import Sample
from softpatch.errors import InputError
from softpatch.review.pictures import colour_scale, tint

_CAPTION = (
    "Of each kind the image whose defect is of median size.\n"
    "Coloured: each method's highest 3 % of scores over all test images."
)
_EVERY = 4  # pixels along a side whose scores the colours are chosen by


@dataclass(frozen=True, eq=False)
class KeptMaps:
    """Of n test images, all of `side` px: their `kinds` of defect, pixels uint8 (n, side, side, 3), masks bool and
    anomaly maps float32 (n, side, side), and where the colours of the method's maps begin and end."""

    kinds: list[str]
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    maps: NDArray[np.float32]
    scale: tuple[float, float]


def keep_maps(path: Path, samples: Sequence[Sample], maps: Sequence[NDArray[np.float32]], framing: Framing) -> None:
    """Write what `KeptMaps` says of the `typical` test image of each kind of defect with known masks, as safetensors.

    `maps` are those of all `samples`, in the same order.
    """
    from safetensors.numpy import save_file

    shown = typical(samples, framing)
    chosen = [samples[number] for number in shown.values()]
    shape = framing.map_shape
    images = [framing.apply(sample.ref.read()).permute(1, 2, 0).mul(255).round().byte().numpy() for sample in chosen]
    masks = [framing.apply_to_mask(sample.read_mask()).numpy() for sample in chosen]
    arrays = {
        "images": np.array(images, np.uint8).reshape(-1, *shape, 3),
        "masks": np.array(masks, np.bool_).reshape(-1, *shape),
        "maps": np.array([maps[number] for number in shown.values()], np.float32).reshape(-1, *shape),
        "scale": np.array(colour_scale([each[::_EVERY, ::_EVERY] for each in maps]), np.float32),
    }
    with replacing(path) as temporary:
        save_file(arrays, temporary, {"kinds": json.dumps(list(shown))})


def typical(samples: Sequence[Sample], framing: Framing) -> dict[str, int]:
    """By kind of defect the number of the image whose defect is of median size: the lower one where there are two.

    It is the same whatever the method, so that all methods are shown with the same images.
    """
    of_kind: dict[str, list[tuple[int, int]]] = {}
    for number, sample in enumerate(samples):
        if sample.mask_paths:
            size = int(framing.apply_to_mask(sample.read_mask()).sum())
            of_kind.setdefault(sample.kind, []).append((size, number))
    return {kind: sorted(found)[(len(found) - 1) // 2][1] for kind, found in of_kind.items()}


def read_maps(path: Path) -> KeptMaps:
    """Read what `keep_maps` wrote. Raises `InputError` where it cannot."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            images, masks, maps, scale = (file.get_tensor(name) for name in ("images", "masks", "maps", "scale"))
            kinds = json.loads(file.metadata()["kinds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot read the maps {path}: {error}; they lie beside the rows they belong to") from error
    return KeptMaps(kinds, images, masks, maps, (float(scale[0]), float(scale[1])))


def draw_panels(rows: Sequence[Row], root: Path, folder: Path) -> list[Path]:
    """Write a picture for every category, contamination, backbone and settings of which maps were kept, and say which.

    `root` is the folder of the rows. Of several seeds the first is drawn.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in {row["task_key"]: row for row in rows if row.get("error") is None and row.get("maps")}.values():
        noise = "clean" if row["protocol"] == "clean" else f"{row['protocol']} {row['noise_ratio']:.0%}"
        key = (row["data"], row["category"], noise, row["backbone"], own_settings(row))
        groups.setdefault(key, []).append(row)
    drawn = []
    for key, group in sorted(groups.items()):
        seed = min(row["seed"] for row in group)
        kept = {row["method"]: read_maps(_inside(root, row["maps"])) for row in group if row["seed"] == seed}
        title = ", ".join(part for part in key if part)
        path = folder / f"maps-{file_stem(title)}.png"
        drawn.append(_draw(title, {method: kept[method] for method in METHODS if method in kept}, path))
    return drawn


def _inside(root: Path, name: str) -> Path:
    """The file of maps that a row names, seen from the folder of the rows, which it must not leave."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"a row names the maps {name!r}, which lie outside {root}; maps lie below the rows")
    return root / path


def _draw(title: str, kept: dict[str, KeptMaps], path: Path) -> Path:
    """Draw a row per image, the image, its mask, and each method's heat map over it.

    Colours mark the highest 3 % of each method's own scores over all test images.
    """
    from matplotlib.figure import Figure

    first = next(iter(kept.values()))
    columns = 2 + len(kept)
    figure = Figure(figsize=(1.8 * columns, 1.75 * len(first.kinds) + 0.9), layout="constrained")
    axes = figure.subplots(max(1, len(first.kinds)), columns, squeeze=False)
    for number, (row, kind) in enumerate(zip(axes, first.kinds, strict=False)):
        grey = torch.from_numpy(first.images[number]).permute(2, 0, 1).float().mean(dim=0, keepdim=True) / 255
        row[0].imshow(first.images[number])
        row[0].set_ylabel(shown_title(kind.replace("_", " ")))
        row[1].imshow(first.masks[number], cmap="gray", vmin=0, vmax=1)
        for axis, each in zip(row[2:], kept.values(), strict=True):
            low, high = each.scale
            tinted = tint(grey.expand(3, -1, -1), (each.maps[number] - low) / max(high - low, 1e-12))
            axis.imshow(np.clip(tinted, 0, 1))
    for axis, name in zip(axes[0], ["image", "mask", *kept], strict=True):
        axis.set_title(name, fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(shown_title(title), fontsize=10)
    figure.supxlabel(_CAPTION, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
