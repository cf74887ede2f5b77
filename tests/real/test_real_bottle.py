"""The paper's claim on a real product: contamination ruins PatchCore and not SoftPatch."""

from dataclasses import replace
from pathlib import Path

import pytest

from softpatch.data.contamination import contaminate
from softpatch.data.images import ImageRef
from softpatch.data.layouts import Dataset, open_dataset
from softpatch.estimator import SoftPatch
from softpatch.review.evaluation import evaluate
from softpatch.scoring.metrics import Metrics

SHARED = Path(__file__).parents[3] / "shared"
BOTTLE = SHARED / "data/mvtec_ad/bottle"
WEIGHTS = SHARED / "weights/resnet18_imagenet_layer1to3.safetensors"
MISSING = [str(path) for path in (BOTTLE, WEIGHTS) if not path.exists()]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"development data is absent: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def bottle() -> Dataset:
    """Half of its training and test images."""
    whole = open_dataset(BOTTLE)
    return replace(whole, train=whole.train[::2], test=whole.test[::2])


@pytest.fixture(scope="module")
def contaminated(bottle: Dataset) -> list[ImageRef]:
    return list(contaminate(bottle, protocol="overlap", noise_ratio=0.1, seed=0).train)


def measure(preset: str, train: list[ImageRef], bottle: Dataset) -> Metrics:
    detector = SoftPatch(preset=preset, backbone="resnet18", weights=WEIGHTS, device="cpu").fit(train)
    return evaluate(detector.detector, bottle.test).metrics


def test_the_built_in_backbone_trained_contaminated(bottle: Dataset, contaminated: list[ImageRef]) -> None:
    metrics = evaluate(SoftPatch(device="cpu").fit(contaminated).detector, bottle.test).metrics
    assert metrics.image_auroc >= 0.99
    assert metrics.pixel_auroc >= 0.96


def test_patchcore_trained_clean(bottle: Dataset) -> None:
    metrics = measure("patchcore", [sample.ref for sample in bottle.train], bottle)
    assert metrics.image_auroc >= 0.99
    assert metrics.pixel_auroc >= 0.97


def test_patchcore_trained_contaminated(bottle: Dataset, contaminated: list[ImageRef]) -> None:
    assert measure("patchcore", contaminated, bottle).pixel_auroc < 0.88


@pytest.mark.parametrize("preset", ["softpatch", "softpatch+"])
def test_softpatch_trained_contaminated(preset: str, bottle: Dataset, contaminated: list[ImageRef]) -> None:
    metrics = measure(preset, contaminated, bottle)
    assert metrics.image_auroc >= 0.99
    assert metrics.pixel_auroc >= 0.96
