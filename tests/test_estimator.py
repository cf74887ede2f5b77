"""The estimator takes images in every form and keeps its promises."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils import estimator_checks

import softpatch
from conftest import SIZE, tiny_softpatch
from softpatch.data.images import SkippedImage
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch
from softpatch.results import Prediction


def test_public_names() -> None:
    for name in softpatch.__all__:
        assert getattr(softpatch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        softpatch.nothing  # noqa: B018


@pytest.fixture
def forms(good_images: np.ndarray, tmp_path: Path) -> dict[str, object]:
    paths = [tmp_path / f"{number:02d}.png" for number in range(len(good_images))]
    for path, image in zip(paths, good_images, strict=True):
        Image.fromarray(image).save(path)
    return {
        "folder": tmp_path,
        "folder as text": str(tmp_path),
        "paths": paths,
        "PIL images": [Image.fromarray(image) for image in good_images],
        "uint8 array": good_images,
        "list of arrays": list(good_images),
        "float tensor": torch.from_numpy(good_images).permute(0, 3, 1, 2).float() / 255,
    }


def test_every_form_of_images_gives_the_same_answers(fitted: SoftPatch, forms: dict[str, object]) -> None:
    expected = [answer.image_score for answer in fitted.predict(forms["folder"])]
    for form, images in forms.items():
        answers = fitted.predict(images)
        assert [answer.image_score for answer in answers] == pytest.approx(expected, rel=1e-5), form
        assert (answers[0].width, answers[0].height) == (SIZE, SIZE)
    thresholds = [tiny_softpatch(preset="patchcore").fit(images).threshold for images in forms.values()]
    assert thresholds == pytest.approx([thresholds[0]] * len(thresholds), rel=1e-5)


@pytest.mark.filterwarnings("ignore:InputError occurred during set_params")  # a wrong value is refused at once
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_cloneable,
    ],
)
def test_conventions_of_scikit_learn(check: Callable[[str, SoftPatch], None]) -> None:
    check("SoftPatch", SoftPatch(preset="patchcore", discriminators=["lof"], false_alarm_rate=0.02))


def test_parameters_can_be_read_and_changed(fitted: SoftPatch, good_images: np.ndarray, tmp_path: Path) -> None:
    estimator = SoftPatch(preset="softpatch", seed=3)
    assert repr(estimator) == "SoftPatch(preset='softpatch', seed=3)"
    assert estimator.set_params(seed=4, false_alarm_rate=0.1).settings.seed == 4
    assert estimator.get_params()["false_alarm_rate"] == 0.1
    with pytest.raises(InputError, match="`crop`"):
        estimator.set_params(seed=5, crop=-1)
    with pytest.raises(InputError, match="'epochs' is unknown; choose from preset, "):
        estimator.set_params(epochs=3)
    assert (estimator.settings.seed, estimator.get_params()["seed"]) == (4, 4)
    fitted.save(tmp_path / "model")
    loaded = SoftPatch.load(tmp_path / "model", device="cpu")
    assert clone(loaded).settings == loaded.settings == fitted.settings
    assert loaded.score_samples(good_images).tolist() == [-each.image_score for each in loaded.predict(good_images)]


def test_one_image_gives_one_prediction(fitted: SoftPatch, defective_images: np.ndarray, tmp_path: Path) -> None:
    frame = defective_images[0]
    path = tmp_path / "a.png"
    Image.fromarray(frame).save(path)
    expected = fitted.predict([frame])[0].image_score
    for image in (frame, Image.fromarray(frame), torch.from_numpy(frame).permute(2, 0, 1), path, str(path)):
        answer = fitted.predict(image)
        assert isinstance(answer, Prediction)
        assert answer.image_score == pytest.approx(expected, rel=1e-6)
    for several in (tmp_path, [path], frame[None]):
        assert [type(each) for each in fitted.predict(several)] == [Prediction]
    assert isinstance(answer.anomaly_map, np.ndarray)
    path.write_bytes(b"")
    skipped: list[SkippedImage] = []
    assert fitted.predict(path, on_skip=skipped.append) is None
    assert [each.reason for each in skipped] == ["the file is empty"]


def test_not_fitted_is_said(good_images: np.ndarray, tmp_path: Path) -> None:
    for call in (
        lambda: tiny_softpatch().predict(good_images),
        lambda: tiny_softpatch().save(tmp_path / "model"),
        lambda: tiny_softpatch().threshold,
    ):
        with pytest.raises(InputError, match="not fitted"):
            call()


def test_settings_are_explicit_and_checked() -> None:
    assert SoftPatch(preset="patchcore", coreset_ratio=0.02).settings.coreset_ratio == 0.02
    with pytest.raises(TypeError, match="coreset_rat"):
        SoftPatch(coreset_rat=0.02)
    with pytest.raises(InputError, match="'bestpatch' is unknown"):
        SoftPatch(preset="bestpatch")


def test_keywords_are_the_settings() -> None:
    """A setting that is added to Settings must be added to the estimator."""
    import inspect
    from dataclasses import fields

    keywords = set(inspect.signature(SoftPatch.__init__).parameters) - {"self"}
    assert keywords - {field.name for field in fields(softpatch.Settings)} == {
        "preset",
        "device",
        "batch_size",
        "workers",
        "offline",
        "memory_budget",
    }
    assert {field.name for field in fields(softpatch.Settings)} <= keywords


def test_mixed_sizes_and_original_coordinates(fitted: SoftPatch, defective_images: np.ndarray) -> None:
    wide = Image.fromarray(defective_images[0]).resize((640, 192))
    small, large = fitted.predict([Image.fromarray(defective_images[0]), wide])
    assert (large.width, large.height) == (640, 192)
    assert large.map_at_original_size().shape == (192, 640)
    assert large.peak_x / 640 == pytest.approx(small.peak_x / SIZE, abs=0.15)
    assert large.peak_y / 192 == pytest.approx(small.peak_y / SIZE, abs=0.15)


def test_unreadable_images(fitted: SoftPatch, forms: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "03.png").write_text("no image")
    with pytest.raises(ImageError, match=r"03\.png"):
        fitted.predict(forms["folder"])
    skipped: list[softpatch.data.images.SkippedImage] = []
    answers = fitted.predict(forms["folder"], on_skip=skipped.append)
    assert len(answers) == 11
    assert [Path(image.name).name for image in skipped] == ["03.png"]


def test_progress_is_told_stage_by_stage(good_images: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    tiny_softpatch().fit(good_images, progress=lambda *report: told.append(report))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == [
        "patch embeddings",
        "noise scores",
        "comparing images",
        "coreset",
        "patches of the bank",
        "calibration",
    ]
    for stage in stages:
        last = [report for report in told if report[0] == stage][-1]
        assert last[1] == last[2]


def test_random_state_is_left_alone(good_images: np.ndarray) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny_softpatch().fit(good_images).predict(good_images[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_of_a_dataset_only_the_part_that_fits_is_used(fitted: SoftPatch, plate_folder: Path) -> None:
    assert tiny_softpatch(preset="patchcore").fit(plate_folder).detector.training_images == 13
    answers = fitted.predict(str(plate_folder))
    assert len(answers) == 8
    assert all("/test/" in answer.path for answer in answers)


def test_a_threshold_given_at_predict_moves_that_of_the_maps_too(fitted: SoftPatch, good_images: np.ndarray) -> None:
    plain, strict = (fitted.predict(good_images[:1], threshold=given)[0] for given in (None, fitted.threshold / 2))
    assert strict.map_threshold == pytest.approx(plain.map_threshold / 2)
    with pytest.raises(InputError, match="`threshold` is '3'"):
        fitted.predict(good_images[:1], threshold="3")


def test_three_verdicts(fitted: SoftPatch, good_images: np.ndarray, defective_images: np.ndarray) -> None:
    assert fitted.detector.check_threshold < fitted.threshold
    answers = fitted.predict(np.concatenate([good_images, defective_images]))
    for answer in answers:
        said = "anomalous" if answer.image_score > answer.threshold else "good"
        assert answer.verdict == ("check" if answer.threshold >= answer.image_score > answer.check_threshold else said)
    assert {answer.verdict for answer in answers[-4:]} == {"anomalous"}
    (between,) = fitted.predict(good_images[:1], threshold=answers[0].image_score * 1.0001)
    assert between.verdict == "check"  # the lower threshold moves along
    nothing = tiny_softpatch(check_share=0.0).fit(good_images).detector
    assert nothing.check_threshold == nothing.threshold


def test_saving_replaces_models_only(fitted: SoftPatch, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("precious")
    with pytest.raises(InputError, match="exists and is not a softpatch model"):
        fitted.save(tmp_path / "script.py")
    assert (tmp_path / "script.py").read_text() == "precious"
    for _ in range(2):
        fitted.save(tmp_path / "model")
