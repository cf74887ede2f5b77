"""An image that is called anomalous shows where; one that is not shows nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import tiny_softpatch
from softpatch.data.framing import Framing
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.scoring.regions import Contour, connected_regions, contours, defect_mask, region_at


def hill(height: float, row: int, column: int) -> np.ndarray:
    """A map of 0.5 with a hill of the given height above it, that falls by a tenth of it per pixel."""
    rows, columns = np.indices((56, 56), dtype=np.float32)
    distance = np.hypot(rows - row, columns - column)
    return 0.5 + np.float32(height) * np.maximum(1 - distance / 10, 0)


def prediction(anomaly_map: np.ndarray, peak: tuple[int, int], score: float) -> Prediction:
    """Of an image of 112 x 56 pixels, framed without a border: x of the original is twice that of the map."""
    row, column = peak
    return Prediction(
        path="a.png",
        image_score=score,
        threshold=1.0,
        check_threshold=0.9,
        peak_x=2 * column + 0.5,
        peak_y=float(row),
        width=112,
        height=56,
        anomaly_map=anomaly_map,
        map_threshold=1.0,
        is_unlike_training=False,
        map_quartile=0.0,
        framing=Framing.square(56, 56),
    )


def test_a_high_map_is_outlined_at_its_threshold() -> None:
    anomaly_map = np.maximum(hill(1, 10, 10), hill(0.8, 40, 40))
    assert np.array_equal(defect_mask(anomaly_map, 1.0, (10, 10)), anomaly_map > 1)
    assert np.array_equal(region_at(anomaly_map, 1.0, (10, 10)), (anomaly_map > 1) & (np.arange(56) < 25))


def test_a_peak_below_the_threshold_is_outlined_at_half_its_height() -> None:
    anomaly_map = np.maximum(hill(0.4, 10, 10), hill(0.4, 40, 40))
    mask = defect_mask(anomaly_map, 1.0, (10, 10))
    assert np.array_equal(mask, (anomaly_map > 0.7) & (np.arange(56) < 25))


def test_a_peak_beside_what_exceeds_the_threshold_is_outlined_too() -> None:
    anomaly_map = np.maximum(hill(0.4, 10, 10), hill(0.8, 40, 40))
    mask = defect_mask(anomaly_map, 1.0, (10, 10))
    assert mask[10, 10]
    assert mask[40, 40]


@pytest.mark.parametrize("peak", [(0, 0), (55, 55), (30, 2)])
def test_on_a_flat_map_the_peak_is_a_patch(peak: tuple[int, int]) -> None:
    mask = defect_mask(np.full((56, 56), 0.5, np.float32), 1.0, peak)
    assert mask[peak]
    assert 1 <= mask.sum() <= 4


def test_only_an_anomalous_image_has_a_mask_and_a_box() -> None:
    for anomaly_map in (hill(1, 10, 20), hill(0.4, 10, 20), np.full((56, 56), 0.5, np.float32)):
        good = prediction(anomaly_map, (10, 20), 0.99)
        assert (bool(good.mask.any()), bool(good.mask_at_original_size().any()), good.box) == (False, False, None)
        bad = prediction(anomaly_map, (10, 20), 1.01)
        assert bad.box is not None
        left, top, right, bottom = bad.box
        assert left <= bad.peak_x < right
        assert top <= bad.peak_y < bottom
        assert bad.mask_at_original_size()[top:bottom, left:right].any()
        assert bad.mask_at_original_size().shape == (56, 112)
    assert prediction(hill(1, 10, 20), (10, 20), 1.01).box == (32, 6, 50, 15)


def test_a_mask_survives_being_made_small() -> None:
    flat = np.full((56, 56), 0.5, np.float32)
    tiny = Prediction("a.png", 2.0, 1.0, 0.9, 1.0, 1.0, 3, 3, flat, 1.0, False, 0.0, Framing.square(56, 56))
    assert tiny.mask_at_original_size().any()
    assert tiny.box == (1, 1, 2, 2)


def test_what_a_prediction_says_of_itself() -> None:
    answer = prediction(hill(1, 10, 20), (10, 20), 2.5)
    assert repr(answer) == "Prediction('a.png', anomalous, image_score=2.5, threshold=1)"
    assert (answer.margin, answer.pred_score, answer.pred_label) == (2.5, 2.5, True)
    assert np.array_equal(answer.pred_mask, answer.mask)
    said = answer.as_dict()
    assert (said["margin"], said["map_threshold"], said["box_left"], said["box_bottom"]) == (2.5, 1.0, 32, 15)
    assert prediction(hill(1, 10, 20), (10, 20), 0.5).as_dict()["box_left"] is None


def test_a_threshold_is_set_and_kept(good_images: np.ndarray, defective_images: np.ndarray, tmp_path) -> None:
    detector = tiny_softpatch().fit(np.concatenate([good_images, defective_images[:1]]))
    before = detector.predict(defective_images[:1])[0]
    detector.threshold = 2 * before.threshold
    detector.save(tmp_path / "model.safetensors")
    after = SoftPatch.load(tmp_path / "model.safetensors", device="cpu").predict(defective_images[:1])[0]
    assert after.threshold == 2 * before.threshold
    assert after.map_threshold == pytest.approx(2 * before.map_threshold)
    assert after.image_score == before.image_score
    for value, message in (
        (0, "`threshold` is 0"),
        (1e-300, "`threshold` is 1e-300"),
        (-1, "`threshold` is -1"),
        ("high", "`threshold` is 'high'"),
    ):
        with pytest.raises(InputError, match=message):
            detector.threshold = value


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (["#"], [((0, 0), (1, 0), (1, 1), (0, 1))]),
        (["###", "#.."], [((0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (0, 2))]),
        (["###", "#.#", "###"], [((0, 0), (3, 0), (3, 3), (0, 3)), ((1, 2), (2, 2), (2, 1), (1, 1))]),
        (["##.", "#.#", "###"], [
            ((0, 0), (2, 0), (2, 1), (3, 1), (3, 3), (0, 3)),
            ((1, 2), (2, 2), (2, 1), (1, 1)),
        ]),
    ],
)  # fmt: skip
def test_contours_by_hand(mask: list[str], expected: list[Contour]) -> None:
    assert contours(drawn(*mask)) == tuple(expected)
    moved = tuple(tuple((x + 10, y + 20) for x, y in contour) for contour in expected)
    assert contours(drawn(*mask), left=10, top=20) == moved


def test_regions_are_joined_by_sides_and_not_by_corners() -> None:
    found = list(connected_regions(drawn("......", ".##...", "...#..", "...##.")))
    assert [box for box, _ in found] == [(1, 1, 3, 2), (3, 2, 5, 4)]
    assert [region.tolist() for _, region in found] == [[[True, True]], [[True, False], [True, True]]]
    assert list(connected_regions(np.zeros((3, 3), bool))) == []


def filled(polygons: tuple[Contour, ...], height: int, width: int) -> np.ndarray:
    """The pixels from whose centre a ray to the left crosses an odd number of upright sides."""
    crossings = np.zeros((height, width), int)
    for polygon in polygons:
        for (x, y), (next_x, next_y) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
            assert (x == next_x) != (y == next_y)
            crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2 == 1


def shoelace(polygon: Contour) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, (*polygon[1:], polygon[0]), strict=True)) / 2


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_polygons_of_all_regions_are_the_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    together = np.zeros(mask.shape, int)
    for box, region in connected_regions(mask):
        polygons = contours(region, box[0], box[1])
        together += filled(polygons, height, width)
        assert all(len(set(polygon)) == len(polygon) for polygon in polygons)  # none touches itself
        assert [shoelace(polygon) > 0 for polygon in polygons] == [True] + [False] * (len(polygons) - 1)
        assert sum(map(shoelace, polygons)) == region.sum()
        xs, ys = zip(*polygons[0], strict=True)
        assert (min(xs), min(ys), max(xs), max(ys)) == box
    assert np.array_equal(together, mask)


sides = st.one_of(st.integers(1, 90), st.sampled_from([1, 2, 3, 32, 64, 400]))


@settings(max_examples=150, deadline=None)
@given(
    st.data(), sides, sides, st.sampled_from([Framing.square(32, 32), Framing.square(40, 32), Framing.square(320, 32)])
)
def test_regions_agree_with_mask_and_box(data: st.DataObject, width: int, height: int, framing: Framing) -> None:
    seed, level = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 2.0]))
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 1, 9, 9), dtype=np.float32))
    anomaly_map = F.interpolate(coarse, size=(32, 32), mode=data.draw(st.sampled_from(["nearest", "bilinear"])))
    row, column = data.draw(st.integers(0, 31)), data.draw(st.integers(0, 31))
    x, y = framing.to_original(column, row, width, height)
    answer = Prediction(
        "a.png", data.draw(st.sampled_from([0.5, 2.0])), 1.0, 0.9, x, y, width, height,
        anomaly_map[0, 0].numpy(), level, False, 0.0, framing,
    )  # fmt: skip
    regions = answer.regions()
    assert bool(regions) == answer.is_anomalous
    mask, whole = answer.mask_at_original_size(), answer.map_at_original_size()
    together = np.zeros((height, width), int)
    for region in regions:
        inside = filled(region.contours, height, width)
        together += inside
        assert region.area == inside.sum()
        left, top, right, bottom = region.box
        assert inside[top:bottom, left:right].sum() == region.area
        assert inside[:, left].any() and inside[:, right - 1].any()  # noqa: PT018
        assert whole[region.peak_y, region.peak_x] == pytest.approx(region.peak, abs=1e-5)
        assert (region.peak, region.mean) == pytest.approx((whole[inside].max(), whole[inside].mean()), abs=1e-5)
    assert np.array_equal(together, mask)
    assert [region.peak for region in regions] == sorted((region.peak for region in regions), reverse=True)
    assert answer.box is None if not regions else answer.box in [region.box for region in regions]
    assert answer.regions(min_area=7) == [region for region in regions if region.area >= 7]


def test_regions_by_hand() -> None:
    anomaly_map = np.maximum(hill(1, 10, 20), hill(0.8, 40, 55))
    anomaly_map[10, 20] = 1.6
    first, second = prediction(anomaly_map, (40, 55), 2.0).regions()
    assert first.box == (32, 6, 50, 15)
    assert (first.peak_y, first.peak_x in (40, 41)) == (10, True)
    assert first.peak == pytest.approx(1.55)  # 3/4 of 1.6 and 1/4 of the 1.4 beside it: the width is doubled
    assert second.box == (102, 36, 112, 45)  # cut by the right border; at half of its height, as it is the peak
    assert second.box == prediction(anomaly_map, (40, 55), 2.0).box
    assert prediction(anomaly_map, (40, 55), 2.0).regions(min_area=second.area + 1) == [first]
    assert list(second.as_dict()) == ["box", "area", "contours", "peak", "mean", "peak_x", "peak_y"]
    with pytest.raises(InputError, match="`min_area` is -1; give a number of pixels"):
        prediction(anomaly_map, (40, 55), 2.0).regions(min_area=-1)


@settings(max_examples=100, deadline=None)
@given(
    arrays(bool, (32, 32)),
    sides,
    sides,
    st.sampled_from([Framing.square(32, 32), Framing.square(40, 32), Framing.square(320, 32)]),
)
def test_a_mask_is_brought_to_the_original_as_maps_are(mask: np.ndarray, width: int, height: int, framing: Framing):
    values = framing.map_to_original(mask.astype(np.float32), width, height)
    found = framing.mask_to_original(mask, width, height)
    unclear = np.abs(values - 0.5) < 1e-5
    assert np.array_equal(found[~unclear], np.nan_to_num(values)[~unclear] > 0.5)
    assert not found[np.isnan(values)].any()
