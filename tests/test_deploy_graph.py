"""The graph of an exported detector answers as the detector does, in torch itself: no runtime is needed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch import SoftPatch
from softpatch.data.roi import packed_roi
from softpatch.deploy.export.embedding import joining
from softpatch.deploy.export.graph import BankSearch, ExportedDetector, resizing
from softpatch.errors import InputError
from softpatch.memory.bank import MemoryBank

NEW = np.stack([plate(seed, defective=seed % 2 == 0) for seed in range(300, 306)])
LEFT = np.arange(256)[None] < np.full((256, 1), 160)
VARIANTS = {
    "the default": {},
    "two banks, soft weights": {"preset": "softpatch+"},
    "one bank": {"preset": "patchcore"},
    "soft weights beside support radii": {"weight_rule": "clipped"},
    "the centre": {"resize": 80},
    "a region of interest": {"roi": packed_roi(LEFT)},
    "the built-in backbone": {"backbone": "builtin-v1", "weights": "pretrained"},
}


def answers(estimator: SoftPatch, images: np.ndarray) -> tuple[np.ndarray, ...]:
    detector = estimator.detector
    thresholds = (torch.tensor(detector.threshold), torch.tensor(detector.map_threshold))
    with torch.inference_mode():
        found = ExportedDetector(detector).eval()(torch.from_numpy(images), *thresholds)
    return tuple(each.numpy() for each in found)


def assert_same(estimator: SoftPatch, images: np.ndarray) -> None:
    scores, labels, maps, masks = answers(estimator, images)
    for score, label, anomaly_map, mask, expected in zip(
        scores, labels, maps, masks, estimator.predict(list(images)), strict=True
    ):
        assert score == pytest.approx(expected.image_score, rel=1e-3)
        assert label == expected.is_anomalous
        np.testing.assert_allclose(anomaly_map, expected.anomaly_map, atol=2e-3 * expected.map_threshold)
        assert mask.any() == expected.is_anomalous
        assert mask[label & (anomaly_map > 1.01 * expected.map_threshold)].all()
        assert (mask & (anomaly_map < 0.99 * expected.map_threshold)).sum() <= mask.size / 64  # a patch


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_the_graph_answers_as_the_detector(settings: dict[str, object], good_images: np.ndarray) -> None:
    training = np.concatenate([good_images, plate(400, defective=True)[None]])
    assert_same(tiny_softpatch(**settings).fit(training), NEW)


def test_images_of_other_sizes(fitted: SoftPatch) -> None:
    for width, height in ((64, 64), (200, 90), (50, 131)):
        resized = [
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in NEW
        ]
        assert_same(fitted, np.stack(resized))


def test_known_bad_patches_raise_scores(good_images: np.ndarray) -> None:
    names, bad = {"image 12": "reject", "image 13": "reject"}, [plate(seed, defective=True) for seed in (400, 401)]
    estimator = tiny_softpatch().fit(np.concatenate([good_images, bad]), decisions=names)
    assert estimator.detector.banks.known_bad is not None
    assert_same(estimator, NEW)


def test_values_of_a_camera(tmp_path: Path, good_images: np.ndarray) -> None:
    for number, image in enumerate(good_images):
        Image.fromarray(image[..., 0].astype(np.uint16) * 16).save(tmp_path / f"{number}.png")
    estimator = tiny_softpatch(value_range=(0.0, 4095.0)).fit(tmp_path)
    path = tmp_path / "new.png"
    values = NEW[0, ..., 0].astype(np.uint16) * 16
    Image.fromarray(values).save(path)
    scores, *_ = answers(estimator, np.repeat(values[None, ..., None], 3, axis=3).astype(np.float32))
    assert scores[0] == pytest.approx(estimator.predict(path).image_score, rel=1e-3)


@pytest.mark.parametrize(("before", "after"), [(64, 64), (100, 64), (40, 64), (333, 256), (1, 32), (65, 64)])
def test_resizing_is_that_of_torch(before: int, after: int) -> None:
    image = torch.rand(1, 1, max(before, 2), 7)[:, :, :before]
    expected = torch.nn.functional.interpolate(image, size=(after, 7), mode="bilinear", antialias=True)
    assert torch.allclose(resizing(before, after) @ image, expected, atol=1e-5)


def test_support_radii_of_a_bank() -> None:
    # a query at 0 and one at 10; patches at 1, 3, 9 and 12, of which the first counts as being 4 away at least
    bank = MemoryBank(
        patches=torch.tensor([[1.0], [3.0], [9.0], [12.0]]).half(),
        weights=torch.full((4,), 2.0),
        owners=torch.zeros(4, dtype=torch.int64),
        radii=torch.tensor([4.0, 0.0, 0.0, 0.0]),
    )
    far = torch.tensor([4.0, 5.0, 0.0, 6.0])
    first, second = BankSearch(bank, [bank.radii, far], positions=1)(torch.tensor([[0.0], [10.0]]))
    assert first.tolist() == pytest.approx([6.0, 2.0])
    assert second.tolist() == pytest.approx([8.0, 2.0])


@pytest.mark.parametrize("alike", [1, 1.0005])
def test_patches_with_like_radii_are_searched_together(alike: float) -> None:
    generator = torch.Generator().manual_seed(1)
    patches, queries = torch.rand(300, 5, generator=generator).half(), torch.rand(40, 5, generator=generator)
    radii = torch.linspace(0.1, 0.5, 300).repeat_interleave(10)[:300] * alike
    radii[::3] = 0
    bank = MemoryBank(patches, torch.ones(300), torch.zeros(300, dtype=torch.int64), radii)
    (found,) = BankSearch(bank, [radii], positions=784)(queries)
    expected = torch.maximum(torch.cdist(queries, patches.float()), radii).amin(dim=1)
    assert torch.allclose(found, expected, rtol=1e-3)


def tiled(images: np.ndarray) -> np.ndarray:
    """Images (N, 128, 192, 3) of 2 x 3 plates each, the first of them the given (N, 64, 64, 3)."""
    found = np.tile(plate(0), (len(images), 2, 3, 1))
    found[:, :64, :64] = images
    return found


@pytest.mark.parametrize("overlap", [16, 32])
@pytest.mark.parametrize("roi", [None, packed_roi(LEFT)])
def test_images_in_tiles(good_images: np.ndarray, roi: str | None, overlap: int) -> None:
    estimator = tiny_softpatch(tile=64, tile_overlap=overlap, size=(192, 128), roi=roi, resize=None, crop=None)
    estimator.fit(tiled(good_images))
    assert_same(estimator, tiled(NEW))
    larger = np.array(Image.fromarray(tiled(NEW)[0]).resize((300, 210)))
    assert_same(estimator, larger[None])


def test_cells_of_tiles_become_patches() -> None:
    # 6 cells in two tiles of 4, which share the third and the fourth; weights rise as 1, 27 in eighths over 2 cells
    matrix = joining(6, 4, 2, [0, 2])
    near, far = 27 / 28 / 2, 1 / 28 / 2
    expected = [[0.5, 0.5, 0, 0, 0, 0, 0, 0], [0, 0, near, far, far, near, 0, 0], [0, 0, 0, 0, 0, 0, 0.5, 0.5]]
    assert torch.allclose(matrix, torch.tensor(expected))


def test_a_pixel_that_is_no_number_does_not_pass(tmp_path: Path, good_images: np.ndarray) -> None:
    for number, image in enumerate(good_images):
        Image.fromarray(image[..., 0].astype(np.uint16) * 16).save(tmp_path / f"{number}.png")
    estimator = tiny_softpatch(value_range=(0.0, 4095.0)).fit(tmp_path)
    image = np.repeat(NEW[:1, ..., :1].astype(np.float32) * 16, 3, axis=3)
    image[0, 10, 10, 1] = np.nan
    scores, labels, _, masks = answers(estimator, image)
    assert np.isnan(scores[0])
    assert labels[0]
    assert masks[0].any()


def test_the_mask_shows_a_patch_inside_the_region_of_interest(good_images: np.ndarray) -> None:
    only = np.zeros((256, 256), dtype=bool)
    only[100:160, 100:160] = True
    estimator = tiny_softpatch(roi=packed_roi(only)).fit(good_images)
    estimator.threshold = 1e-6  # so that all are anomalous, wherever their peaks lie
    *_, masks = answers(estimator, NEW)
    inside = estimator.predict(NEW[0]).framing.inside
    assert (masks & inside).any(axis=(1, 2)).all()


def test_what_cannot_be_exported(fitted: SoftPatch) -> None:
    aligned = replace(fitted.detector, settings=replace(fitted.detector.settings, align="find"))
    with pytest.raises(InputError, match="a model that aligns images cannot be exported; fit one without `align`"):
        ExportedDetector(aligned)
    on_gpu = replace(fitted.detector, backbone=replace(fitted.detector.backbone, device=torch.device("cuda", 0)))
    with pytest.raises(InputError, match="a detector on cuda:0 cannot be exported; load it with `device` cpu"):
        ExportedDetector(on_gpu)
