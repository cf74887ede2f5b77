"""The second tier on patch embeddings alone, and the first on tiny images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import tiny_softpatch
from softpatch.config import Settings, preset_settings
from softpatch.data.images import ImageRef, SkippedImage
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch
from softpatch.features.backbone import torch_device
from softpatch.patch_detector import PatchDetector
from softpatch.symmetry import GROUPS, turned_positions

SMALL = {"projected_dim": 8, "coreset_ratio": 0.25}


def embeddings(images: int = 20, positions: int = 9, dim: int = 12) -> Tensor:
    """Patches that differ by position, with noise: (N, P, D)."""
    generator = torch.Generator().manual_seed(1)
    places = torch.randn(1, positions, dim, generator=generator) * 3
    return (places + 0.3 * torch.randn(images, positions, dim, generator=generator)).half()


def settings(preset: str, **overrides: object) -> Settings:
    return preset_settings(preset, {**SMALL, **overrides})


@pytest.mark.parametrize("preset", ["softpatch", "softpatch+"])
def test_noisy_patches_stay_out_of_the_bank(preset: str) -> None:
    training = embeddings()
    training[[3, 7], 4] += 10  # two images have something strange at position 4
    detector = PatchDetector.fit(training, settings(preset))
    for bank in (detector.classification, detector.segmentation):
        for number in (3, 7):
            assert (bank.patches - training[number, 4]).norm(dim=1).min() > 5


@pytest.mark.parametrize("preset", ["agreement", "softpatch+", "softpatch", "patchcore"])
def test_what_was_rejected_is_known_to_be_bad(preset: str) -> None:
    training = embeddings(images=30)
    strange = torch.zeros(12)
    strange[0] = 4
    training[0, 4] += strange
    chosen = settings(preset, symmetries="none", coreset_ratio=0.5)
    test = embeddings(images=4)
    test[0, 4] += 0.9 * strange  # the same, a little weaker
    test[1, 4] -= strange  # something else
    detector = PatchDetector.fit(training, chosen, answers={0: True, 5: False})
    without = replace(detector, known_bad=None)
    assert detector.known_bad is not None
    assert (detector.known_bad - training[0, 4]).norm(dim=1).min() == 0
    assert (detector.classification.patches - training[0, 4]).norm(dim=1).min() > 2
    scores, peaks, patch_scores = detector.score(test)
    plain, _, plain_patches = without.score(test)
    assert peaks[0] == 4
    assert scores[0].item() == pytest.approx(2 * plain[0].item(), rel=1e-5)
    assert patch_scores[0, 4].item() == pytest.approx(2 * plain_patches[0, 4].item(), rel=1e-5)
    assert scores[1:].tolist() == pytest.approx(plain[1:].tolist())
    assert detector.to(torch.device("cpu")).known_bad is not None


@pytest.mark.parametrize("preset", ["agreement", "softpatch+"])
def test_what_was_kept_is_no_noise(preset: str) -> None:
    training = embeddings(images=30)
    training[3, 4] += 3
    chosen = settings(preset, symmetries="none", coreset_ratio=1.0)
    kept = PatchDetector.fit(training, chosen, answers={3: False})
    asked = training[3, 4][None, None].expand(1, 9, -1)
    assert kept.known_bad is None
    assert kept.score(asked)[0] < 1e-3
    assert PatchDetector.fit(training, chosen).score(asked)[0] > 1


def test_what_few_images_know_counts_from_afar() -> None:
    training = embeddings(images=40)
    training[[3, 7], 4] += 10  # two images share something strange
    training[:2, 2] -= 10  # and two others something else
    plain = PatchDetector.fit(training, settings("patchcore", coreset_ratio=1.0))
    detector = PatchDetector.fit(training, settings("agreement", coreset_ratio=1.0, symmetries="none"))
    test = training[[3, 0, 20]]
    _, _, seen = plain.score(test)
    image_scores, peaks, patch_scores = detector.score(test)
    assert seen.max() == 0  # each knows itself
    assert peaks[:2].tolist() == [4, 2]
    assert image_scores[:2].min() > 10 * image_scores[2]
    assert patch_scores[0, 4] > 10
    assert patch_scores[1, 2] > 10
    assert len(detector.classification.patches) == 40 * 9
    assert detector.segmentation.patches is detector.classification.patches


def test_agreement_and_soft_weights_go_together() -> None:
    detector = PatchDetector.fit(embeddings(), settings("agreement", weight_rule="clipped", symmetries="none"))
    assert len(detector.classification.weights.unique()) > 10


def test_of_three_images_all_are_trusted_and_all_scores_finite() -> None:
    chosen = settings("agreement", discriminators=("gaussian",), symmetries="none", coreset_ratio=1.0)
    detector = PatchDetector.fit(embeddings(images=3), chosen)
    image_scores, _, patch_scores = detector.score(embeddings(images=3) + 0.1)
    assert image_scores.isfinite().all()
    assert patch_scores.isfinite().all()


def test_patchcore_keeps_noisy_patches() -> None:
    training = embeddings()
    training[3, 4] += 10
    detector = PatchDetector.fit(training, settings("patchcore"))
    assert (detector.classification.patches == training[3, 4]).all(dim=1).any()
    assert (detector.classification.weights == 1).all()
    assert detector.segmentation is detector.classification


def test_patchcore_scores_are_plain_distances() -> None:
    training, test = embeddings(), (embeddings(images=3) + 0.1)
    detector = PatchDetector.fit(training, settings("patchcore", coreset_ratio=1.0))
    image_scores, peaks, patch_scores = detector.score(test)
    brute = torch.cdist(test.reshape(-1, 12).double(), training.reshape(-1, 12).double()).amin(dim=1)
    assert torch.allclose(patch_scores.flatten().double(), brute, atol=1e-4)
    assert torch.equal(image_scores, patch_scores.amax(dim=1))
    assert torch.equal(peaks, patch_scores.argmax(dim=1))


def test_bank_sizes_follow_all_patches() -> None:
    detector = PatchDetector.fit(embeddings(), settings("softpatch+"))
    assert len(detector.classification.patches) == len(detector.segmentation.patches) == 45  # a quarter of 180


def test_equal_discard_fractions_make_one_bank() -> None:
    chosen = settings("softpatch+", discard_rule="fixed", discard_fraction=0.3, segmentation_discard_fraction=0.3)
    detector = PatchDetector.fit(embeddings(), chosen)
    assert detector.segmentation is detector.classification


def test_weights_are_clipped_or_literal() -> None:
    training = embeddings()
    training[3, 4] += 10
    keep_all = {"discard_fraction": 0.0, "segmentation_discard_fraction": 0.0, "coreset_ratio": 1.0}
    literal = PatchDetector.fit(training, settings("softpatch+", weight_rule="literal", **keep_all)).classification
    clipped = PatchDetector.fit(training, settings("softpatch+", weight_rule="clipped", **keep_all)).classification
    none = PatchDetector.fit(training, settings("softpatch+", weight_rule="none", **keep_all)).classification
    assert literal.weights.max() > 3 * clipped.weights.max()
    assert (clipped.weights <= literal.weights.quantile(0.86)).all()
    assert (none.weights == 1).all()


def test_an_image_is_not_scored_against_itself() -> None:
    training = embeddings()
    detector = PatchDetector.fit(training, settings("patchcore", coreset_ratio=1.0))
    _, _, seen = detector.score(training)
    _, _, left_out = detector.score(training, owners=torch.arange(20))
    assert seen.max() == 0
    assert left_out.min() > 0.1


@pytest.mark.parametrize("preset", ["patchcore", "softpatch", "softpatch+", "agreement"])
def test_order_of_images_does_not_matter(preset: str) -> None:
    training, test = embeddings(), embeddings(images=3)
    chosen = settings(preset)
    shuffled = training[torch.randperm(20, generator=torch.Generator().manual_seed(3))]
    for one, other in zip(
        PatchDetector.fit(training, chosen).score(test), PatchDetector.fit(shuffled, chosen).score(test), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-4)


def test_defects_are_found_and_located(fitted, good_images, defective_images) -> None:
    good = fitted.predict(good_images)
    bad = fitted.predict(defective_images)
    assert max(answer.image_score for answer in good) < min(answer.image_score for answer in bad)
    assert all(answer.is_anomalous for answer in bad)
    for answer, image in zip(bad, defective_images, strict=True):
        ys, xs = np.nonzero(image[..., 0].astype(int) - image[..., 2] > 150)
        assert abs(answer.peak_x - xs.mean()) <= 10
        assert abs(answer.peak_y - ys.mean()) <= 10
        assert answer.anomaly_map.shape == (64, 64)
        assert answer.anomaly_map.dtype == np.float32


@pytest.mark.parametrize("runtime", [{"batch_size": 1}, {"batch_size": 5, "workers": 4}])
def test_batch_size_and_workers_change_nothing(fitted, good_images, defective_images, runtime) -> None:
    training = np.concatenate([good_images, defective_images[:1]])
    other = tiny_softpatch(**runtime).fit(training)
    for one, two in zip(fitted.predict(defective_images), other.predict(defective_images), strict=True):
        assert one.image_score == pytest.approx(two.image_score, rel=1e-4)
        assert np.allclose(one.anomaly_map, two.anomaly_map, rtol=1e-3, atol=1e-4)
    assert other.threshold == pytest.approx(fitted.threshold, rel=1e-4)


def test_too_few_images_say_how_many_are_needed(good_images) -> None:
    with pytest.raises(InputError, match=r"6 usable training images are too few.* at least 7"):
        tiny_softpatch().fit(good_images[:6])
    tiny_softpatch(preset="patchcore").fit(good_images[:3])
    with pytest.raises(InputError, match="at least 3"):
        tiny_softpatch(preset="patchcore").fit(good_images[:2])


def test_devices() -> None:
    assert torch_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert torch_device("auto") == torch.device("cpu")
        with pytest.raises(InputError, match="not available"):
            torch_device("cuda")


@pytest.mark.parametrize(
    "embeddings",
    [torch.zeros(9, 4).half(), torch.zeros(9, 4, 2), torch.full((9, 4, 2), torch.nan).half()],
    ids=["two axes", "float32", "nan"],
)
def test_embeddings_of_another_kind_are_refused(embeddings: Tensor) -> None:
    with pytest.raises(InputError, match="finite float16"):
        PatchDetector.fit(embeddings, Settings())


def test_a_file_given_twice_counts_once(plate_folder: Path) -> None:
    folder = plate_folder / "train"
    link = plate_folder / "link.png"
    link.symlink_to(folder / "good/001.png")
    skipped: list[SkippedImage] = []
    once = tiny_softpatch().fit(folder)
    twice = tiny_softpatch().fit([folder, folder / "good/000.png", link], on_skip=skipped.append)
    assert [image.name for image in skipped] == [str(folder / "good/000.png"), str(link)]
    assert skipped[1].reason == f"the same image as {folder / 'good/001.png'}"
    assert twice.detector.training_images == once.detector.training_images == 13
    assert twice.threshold == once.threshold


def test_equal_images_count_once_whatever_their_files(good_images: np.ndarray, tmp_path: Path) -> None:
    for number, image in enumerate(good_images):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    once = tiny_softpatch().fit(tmp_path)
    for number in range(8):  # a camera that was stuck, and files saved anew
        Image.fromarray(good_images[3]).save(tmp_path / f"stuck{number}.bmp")
    skipped: list[SkippedImage] = []
    again = tiny_softpatch().fit(tmp_path, on_skip=skipped.append)
    assert again.threshold == once.threshold
    assert {image.reason for image in skipped} == {f"the same image as {tmp_path / '03.png'}"}
    assert len(skipped) == 8
    assert tiny_softpatch().fit(np.concatenate([good_images, good_images])).threshold == once.threshold


def test_images_that_change_while_they_are_learned_from(good_images: np.ndarray) -> None:
    times_read = [0]

    def read(number: int, _: object) -> Tensor:
        times_read[0] += 1
        image = torch.from_numpy(good_images[number]).permute(2, 0, 1) / 255
        return image if times_read[0] <= 3 * len(good_images) else 1 - image  # range and symmetries come first

    refs = [ImageRef(f"{number}.png", partial(read, number)) for number in range(len(good_images))]
    with pytest.raises(ImageError, match=r"\d\.png was changed while it was learned from"):
        tiny_softpatch().fit(refs)


def test_a_folder_of_two_products_is_told(good_images: np.ndarray) -> None:
    other = np.random.default_rng(0).integers(0, 256, good_images.shape, dtype=np.uint8)
    notes: list[str] = []
    tiny_softpatch().fit(np.concatenate([good_images, other[:5]]), on_note=notes.append)
    (note,) = notes
    assert note.startswith(
        "the images fall into 2 groups that have little in common: 12 images such as image 0, 5 images such as image 12"
    )
    tiny_softpatch().fit(good_images, on_note=notes.append)
    assert len(notes) == 1


def test_long_images_are_told_to_be_squeezed(good_images: np.ndarray) -> None:
    long = np.concatenate([good_images, good_images], axis=2)
    notes: list[str] = []
    tiny_softpatch().fit(long, on_note=notes.append)
    height, width = long.shape[1:3]
    assert [note for note in notes if "squeezed" in note] == [
        f"images are long, such as {width} x {height} pixels, and squeezed to a square; "
        "--tile auto, `tile` in Python, keeps their shape"
    ]
    notes.clear()
    few = list(long[:5]) + list(good_images[:6])
    tiny_softpatch().fit(few, on_note=notes.append)
    tiny_softpatch(tile=64, tile_overlap=16).fit(long, on_note=notes.append)
    assert not any("squeezed" in note for note in notes)


def test_images_of_another_product_look_unlike_anything_learned(fitted: SoftPatch, good_images: np.ndarray) -> None:
    other = np.random.default_rng(0).integers(0, 256, good_images.shape, dtype=np.uint8)
    for threshold in (None, 1e9):
        assert all(answer.is_unlike_training for answer in fitted.predict(other, threshold=threshold))
        assert not any(answer.is_unlike_training for answer in fitted.predict(good_images, threshold=threshold))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_gives_the_same_scores(fitted, good_images, defective_images) -> None:
    other = tiny_softpatch(device="cuda").fit(np.concatenate([good_images, defective_images[:1]]))
    for one, two in zip(fitted.predict(defective_images), other.predict(defective_images), strict=True):
        assert one.image_score == pytest.approx(two.image_score, rel=1e-2)


def test_copies_are_trusted_as_what_they_show() -> None:
    """A product in any of four turns: copies are owned by their image, and dropped where it is."""
    generator = torch.Generator().manual_seed(0)
    group = GROUPS[1]
    part = torch.randn(4, 4, 6, generator=generator)
    ways = [torch.rot90(part, i % 4, (0, 1)) for i in range(24)]
    images = torch.stack(ways) + 0.1 * torch.randn(24, 4, 4, 6, generator=generator)
    images[20, 0, 0] += 20  # a defect in a corner
    embeddings = torch.stack([torch.rot90(images, turns, (1, 2)) for turns, _ in group], dim=1)  # (24, 4, 4, 4, 6)
    chosen = settings("softpatch+", coreset_ratio=0.5, segmentation_discard_fraction=None)
    detector = PatchDetector.fit(embeddings.view(96, 16, 6).half(), chosen, places=turned_positions(group, (4, 4)))
    bank = detector.classification
    assert len(bank.patches) == 24 * 16 / 2  # as large as without copies
    assert set(bank.owners.tolist()) == set(range(24))
    assert bank.patches.float().abs().max() < 10
    assert detector.score(images[20].view(1, 16, 6).half())[0] > 3 * detector.score(images[0].view(1, 16, 6).half())[0]


def test_symmetries_are_found_and_learned_from(good_images: np.ndarray) -> None:
    plain, found = (
        tiny_softpatch(backbone="builtin-v1", weights="pretrained", symmetries=asked).fit(good_images).detector
        for asked in ("none", "find")
    )
    assert plain.copies == 1 < found.copies  # the plate's dots lie alike
    assert len(found.banks.classification.patches) == len(plain.banks.classification.patches)
    assert set(found.banks.classification.owners.tolist()) <= set(range(12))
    assert not torch.equal(found.banks.classification.patches, plain.banks.classification.patches)
    with pytest.raises(InputError, match="`symmetries` 'all' is unknown; choose from none, find"):
        tiny_softpatch(symmetries="all")
