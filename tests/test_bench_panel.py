"""The maps that a benchmark keeps, and the picture of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softpatch.bench.panel import draw_panels, keep_maps, read_maps
from softpatch.bench.rows import read_rows
from softpatch.bench.runner import run_tasks
from softpatch.bench.task import task_of
from softpatch.config import Runtime
from softpatch.data.framing import Framing
from softpatch.data.layouts import open_dataset
from softpatch.errors import InputError


def test_the_typical_image_of_each_kind_is_kept(plate_folder: Path, tmp_path: Path) -> None:
    mask = plate_folder / "ground_truth/blot/100_mask.png"  # the first one's defect becomes the largest
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
    samples = open_dataset(plate_folder).test
    maps = [np.full((64, 64), number, np.float32) for number in range(len(samples))]
    maps[-1][:32] = 100
    keep_maps(tmp_path / "kept.safetensors", samples, maps, Framing.square(64, 64))
    kept = read_maps(tmp_path / "kept.safetensors")
    sizes = {n: int(sample.read_mask().sum()) for n, sample in enumerate(samples) if sample.is_anomalous}
    chosen = sorted(sizes, key=lambda number: (sizes[number], number))[1]  # of four, the lower middle
    assert kept.kinds == ["blot"]
    assert np.array_equal(kept.images[0], np.asarray(Image.open(samples[chosen].path)))
    assert np.array_equal(kept.masks[0], samples[chosen].read_mask().numpy())
    assert np.array_equal(kept.maps, maps[chosen][None])
    assert kept.scale == (100, 100)  # that of all maps, a sixteenth of whose pixels are


def test_maps_of_methods_side_by_side(plate_folder: Path, tmp_path: Path) -> None:
    settings = {"resize": 64, "crop": 64, "noise_ratio": 0.2}
    tasks = [
        task_of({"data": "plates", "category": "plates", "method": method, "seed": seed, **settings})
        for method, seed in (("softpatch+", 0), ("padim", 0), ("padim", 1))
    ]
    output = tmp_path / "out" / "rows.jsonl"
    run_tasks(tasks, output, plate_folder.parent, Runtime("cpu", workers=1), maps=True)
    rows = read_rows(output)
    assert len({row["maps"] for row in rows}) == 3
    kept = {(row["method"], row["seed"]): read_maps(output.parent / row["maps"]) for row in rows}
    for each in kept.values():
        assert each.maps[0][each.masks[0]].mean() > 2 * each.maps[0][~each.masks[0]].mean()
    assert not np.array_equal(kept["padim", 0].maps, kept["padim", 1].maps)
    (picture,) = draw_panels(rows, output.parent, tmp_path)
    assert picture.name == "maps-plates-plates-overlap-20-builtin-v1-resize-64-crop-64.png"
    with Image.open(picture) as drawn:
        width, height = drawn.size
    assert width > 3 * height / 2  # the image, its mask and two methods in one row
    (output.parent / rows[0]["maps"]).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cannot read the maps .*; they lie beside the rows they belong to"):
        draw_panels(rows, output.parent, tmp_path)


def test_without_being_asked_no_maps_are_kept(plate_folder: Path, tmp_path: Path) -> None:
    task = task_of({"data": "plates", "category": "plates", "method": "padim", "resize": 64, "crop": 64})
    run_tasks([task], tmp_path / "rows.jsonl", plate_folder.parent, Runtime("cpu", workers=1))
    rows = read_rows(tmp_path / "rows.jsonl")
    assert rows[0]["maps"] is None
    assert draw_panels(rows, tmp_path, tmp_path) == []
    assert not (tmp_path / "rows-maps").exists()
