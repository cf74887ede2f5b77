"""An image that is called anomalous shows where; one that is not shows nothing."""

import numpy as np
import pytest

from conftest import tiny_softpatch
from softpatch.data.framing import Framing
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction
from softpatch.scoring.regions import defect_mask, region_at


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
        framing=Framing(56, 56),
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
    tiny = Prediction("a.png", 2.0, 1.0, 0.9, 1.0, 1.0, 3, 3, flat, 1.0, False, Framing(56, 56))
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
