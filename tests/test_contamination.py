import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from softpatch.data.contamination import NOISE_DEVIATION, Augmentation, contaminate, draw_augmentation
from softpatch.data.layouts import Dataset, Sample
from softpatch.errors import InputError

STILL = Augmentation(0, 0, 0, noise_seed=0, noise_deviation=0)


def dataset(train: int, good: int, anomalous: int) -> Dataset:
    """A dataset of names only: no file is read before an image is asked for."""
    return Dataset(
        Path("d"),
        "mvtec",
        "d",
        tuple(Sample(Path(f"train/{i:03}.png"), False, None, "good") for i in range(train)),
        tuple(Sample(Path(f"test/bad/{i:03}.png"), True, None, "bad") for i in range(anomalous))
        + tuple(Sample(Path(f"test/good/{i:03}.png"), False, None, "good") for i in range(good)),
    )


def test_clean_adds_nothing() -> None:
    given = dataset(10, 3, 5)
    split = contaminate(given, protocol="clean", noise_ratio=0, seed=0)
    assert [ref.name for ref in split.train] == [str(sample.path) for sample in given.train]
    assert split.train_is_anomalous == (False,) * 10
    assert (split.test, split.injected) == (given.test, ())


def test_no_overlap_moves_anomalous_images() -> None:
    given = dataset(20, 3, 8)
    split = contaminate(given, protocol="no-overlap", noise_ratio=0.25, seed=3)
    assert [ref.name for ref in split.train[:20]] == [str(sample.path) for sample in given.train]
    assert split.train_is_anomalous == (False,) * 20 + (True,) * 5
    assert [ref.name for ref in split.train[20:]] == list(split.injected)
    assert len(set(split.injected)) == 5
    left = {str(sample.path) for sample in split.test}
    assert left | set(split.injected) == {str(sample.path) for sample in given.test}
    assert left.isdisjoint(split.injected)
    assert sum(sample.is_anomalous for sample in split.test) == 3
    assert list(split.test) == [sample for sample in given.test if str(sample.path) in left]  # in order


def test_overlap_adds_copies_and_keeps_the_test_set() -> None:
    given = dataset(20, 3, 4)
    split = contaminate(given, protocol="overlap", noise_ratio=0.5, seed=3)
    assert split.test == given.test
    assert split.train_is_anomalous == (False,) * 20 + (True,) * 10
    # two whole permutations of the four images, and two of a third
    assert len(set(split.injected[:4])) == len(set(split.injected[4:8])) == 4
    assert len(set(split.injected[8:])) == 2
    expected = [f"{name} (copy {split.injected[: i + 1].count(name)})" for i, name in enumerate(split.injected)]
    assert [ref.name for ref in split.train[20:]] == expected
    assert len({ref.name for ref in split.train}) == 30


def test_distinct_overlap_adds_each_anomalous_image_at_most_once() -> None:
    given = dataset(20, 3, 8)
    plain = contaminate(given, protocol="overlap", noise_ratio=1, seed=3)
    for ratio, count in ((0.25, 5), (0.4, 8), (1, 8)):
        split = contaminate(given, protocol="overlap-distinct", noise_ratio=ratio, seed=3)
        assert split.test == given.test
        assert len(set(split.injected)) == len(split.injected) == count
        assert split.injected == plain.injected[:count]
        assert [ref.name for ref in split.train[20:]] == [f"{name} (copy 1)" for name in split.injected]


@pytest.mark.parametrize(
    ("ratio", "train", "count"),
    [
        (0.1, 210, 21),
        (0.29, 100, 29),
        (0.1, 209, 20),
        (0.02, 49, 0),
        (0.02, 50, 1),
        (0.57, 100, 57),
        (1, 7, 7),
    ],
)
def test_the_count_is_rounded_down_but_not_by_float_error(ratio: float, train: int, count: int) -> None:
    split = contaminate(dataset(train, 1, 300), protocol="overlap", noise_ratio=ratio, seed=0)
    assert len(split.injected) == count == len(split.train) - train


@pytest.mark.parametrize("protocol", ["no-overlap", "overlap"])
def test_one_seed_one_split(protocol: str) -> None:
    given = dataset(50, 3, 40)

    def injected(ratio: float, seed: int) -> tuple[str, ...]:
        return contaminate(given, protocol=protocol, noise_ratio=ratio, seed=seed).injected

    assert injected(0.4, 1) == injected(0.4, 1)
    assert set(injected(0.4, 1)) != set(injected(0.4, 2))
    assert injected(0.2, 1) == injected(0.4, 1)[:10]
    # over many seeds every image is drawn about equally often
    drawn = [name for seed in range(200) for name in injected(0.1, seed)]
    assert {drawn.count(str(sample.path)) > 8 for sample in given.test if sample.is_anomalous} == {True}


@pytest.mark.parametrize(("train", "anomalous"), [(209, 63), (100, 21), (1000, 8), (7, 3), (40, 1), (3000, 2)])
def test_the_largest_ratio_is_told_and_works(train: int, anomalous: int) -> None:
    given = dataset(train, 1, anomalous)
    with pytest.raises(InputError, match=f"of the {anomalous} anomalous test images and leaves none") as caught:
        contaminate(given, protocol="no-overlap", noise_ratio=anomalous / train, seed=0)
    (largest,) = re.findall(r"largest possible ratio is (\S+)", str(caught.value))
    split = contaminate(given, protocol="no-overlap", noise_ratio=float(largest), seed=0)
    assert len(split.injected) == anomalous - 1


@pytest.mark.parametrize(
    ("protocol", "ratio", "seed", "message"),
    [
        ("mixed", 0.1, 0, "`protocol` 'mixed' is unknown; choose from clean, no-overlap, overlap, overlap-distinct"),
        ("overlap", 1.01, 0, "`noise_ratio` is 1.01; it lies between 0 and 1"),
        ("overlap", -0.1, 0, "`noise_ratio` is -0.1"),
        ("overlap", math.nan, 0, "`noise_ratio` is nan"),
        ("clean", 0.1, 0, "`noise_ratio` is 0.1 in the protocol 'clean', which adds nothing; give 0"),
        ("overlap", 0.1, -1, "`seed` is -1; it is a whole number, 0 or more"),
    ],
)
def test_bad_arguments(protocol: str, ratio: float, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contaminate(dataset(10, 1, 5), protocol=protocol, noise_ratio=ratio, seed=seed)


@pytest.mark.parametrize("protocol", ["no-overlap", "overlap"])
def test_without_anomalous_images_nothing_can_be_added(protocol: str) -> None:
    with pytest.raises(InputError, match=r"`noise_ratio` 0.1 needs anomalous test images; d has none"):
        contaminate(dataset(10, 5, 0), protocol=protocol, noise_ratio=0.1, seed=0)
    assert contaminate(dataset(10, 5, 0), protocol=protocol, noise_ratio=0.05, seed=0).injected == ()


def test_anomalous_training_images_are_labelled_and_come_last() -> None:
    given = dataset(4, 1, 3)
    bad = Sample(Path("train/bad/0.png"), True, None, "bad")
    given = Dataset(Path("d"), "mvtec", "d", (bad, *given.train), given.test)
    split = contaminate(given, protocol="no-overlap", noise_ratio=0.2, seed=0)
    assert split.train_is_anomalous == (False,) * 4 + (True,) * 2
    assert split.train[4].name == "train/bad/0.png"


def test_copies_are_disturbed_and_repeatable(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    bad = Sample(tmp_path / "a.png", True, None, "bad")
    given = Dataset(tmp_path, "mvtec", "d", dataset(3, 0, 0).train, (bad,))
    split = contaminate(given, protocol="overlap", noise_ratio=1, seed=5)
    copies = [ref.read() for ref in split.train[3:]]
    again = [ref.read() for ref in reversed(split.train[3:])][::-1]  # the order of reading does not matter
    for copy, same in zip(copies, again, strict=True):
        assert torch.equal(copy, same)
        assert copy.shape == (3, 40, 60)
        assert copy.min() >= 0
        assert copy.max() <= 1
    assert not torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[0], bad.ref.read())
    other_seed = contaminate(given, protocol="overlap", noise_ratio=1, seed=6)
    assert not torch.equal(copies[0], other_seed.train[3].read())


def test_moved_images_are_not_disturbed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.effect_noise((8, 8), 50).save(tmp_path / name)
    bad = tuple(Sample(tmp_path / name, True, None, "bad") for name in ("a.png", "b.png"))
    given = Dataset(tmp_path, "mvtec", "d", dataset(1, 0, 0).train, bad)
    split = contaminate(given, protocol="no-overlap", noise_ratio=1, seed=0)
    (moved,) = (sample for sample in bad if str(sample.path) == split.injected[0])
    assert torch.equal(split.train[1].read(), moved.ref.read())


def test_draws_cover_the_whole_range_evenly() -> None:
    drawn = [draw_augmentation(seed, copy) for seed in range(20) for copy in range(20)]
    for values, limit in (
        ([a.degrees for a in drawn], 3),
        ([a.shift_x for a in drawn], 0.03),
        ([a.shift_y for a in drawn], 0.03),
    ):
        assert max(map(abs, values)) <= limit
        assert min(values) < -0.97 * limit
        assert max(values) > 0.97 * limit
        assert abs(np.mean(values)) < 0.1 * limit
    assert len({a.noise_seed for a in drawn}) == 400


# --- the disturbance itself ---


def test_nothing_in_nothing_out() -> None:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert_close(STILL.apply(image), image, atol=1e-5, rtol=0)


def test_a_shift_goes_right_and_down_and_repeats_the_border() -> None:
    image = torch.rand(3, 50, 100, generator=torch.Generator().manual_seed(0))
    shifted = Augmentation(0, 0.02, 0.04, noise_seed=0, noise_deviation=0).apply(image)
    assert_close(shifted[:, 2:, 2:], image[:, :-2, :-2], atol=1e-4, rtol=0)
    assert_close(shifted[:, 2:, 0], image[:, :-2, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("width", "height"), [(101, 101), (201, 61), (61, 201)])
def test_a_turn_goes_counter_clockwise_and_keeps_angles(width: int, height: int) -> None:
    image = torch.zeros(3, height, width)
    x, y = width // 2 + 24, height // 2
    image[:, y - 2 : y + 3, x - 2 : x + 3] = 1  # 24 pixels right of the centre
    turned = Augmentation(30, 0, 0, noise_seed=0, noise_deviation=0).apply(image)[0]
    at_x = (turned.sum(0) * torch.arange(width)).sum() / turned.sum() - width // 2
    at_y = (turned.sum(1) * torch.arange(height)).sum() / turned.sum() - height // 2
    assert at_x.item() == pytest.approx(24 * math.cos(math.radians(30)), abs=0.1)
    assert at_y.item() == pytest.approx(-24 * math.sin(math.radians(30)), abs=0.1)  # upwards
    assert turned.sum().item() == pytest.approx(25, rel=0.03)  # nothing is stretched


def test_a_shift_comes_after_the_turn() -> None:
    image = torch.zeros(3, 101, 101)
    image[:, 48:53, 48:53] = 1  # at the centre, which a turn leaves in place
    moved = Augmentation(30, 10 / 101, 0, noise_seed=0, noise_deviation=0).apply(image)[0]
    assert ((moved.sum(0) * torch.arange(101)).sum() / moved.sum()).item() == pytest.approx(60, abs=0.05)
    assert ((moved.sum(1) * torch.arange(101)).sum() / moved.sum()).item() == pytest.approx(50, abs=0.05)


def test_noise_has_its_deviation_and_its_seed() -> None:
    grey = torch.full((3, 100, 100), 0.5)
    noisy = Augmentation(0, 0, 0, noise_seed=1).apply(grey)
    assert noisy.std().item() == pytest.approx(NOISE_DEVIATION, rel=0.03)
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.001)
    assert torch.equal(noisy, Augmentation(0, 0, 0, noise_seed=1).apply(grey))
    assert not torch.equal(noisy, Augmentation(0, 0, 0, noise_seed=2).apply(grey))
    assert Augmentation(0, 0, 0, noise_seed=1).apply(torch.ones(3, 9, 9)).max() == 1
    assert torch.equal(grey, torch.full((3, 100, 100), 0.5))  # the given image is left alone
