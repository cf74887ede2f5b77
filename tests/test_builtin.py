"""The built-in backbone: in the package, whole, light, and the same for every model file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from softpatch import Settings, SoftPatch
from softpatch.errors import InputError, ModelFileError, WeightsError
from softpatch.features import backbone as backbones
from softpatch.features.backbone import load_backbone
from softpatch.features.builtin import BUILTIN, FEATURES, LAYER, WEIGHTS_FILE


def drawn_images(count: int, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_it_is_the_default() -> None:
    assert Settings().backbone == BUILTIN


def test_its_weights_are_small_and_in_half_precision() -> None:
    assert WEIGHTS_FILE.stat().st_size <= 4_000_000
    assert {value.dtype for value in load_file(WEIGHTS_FILE).values()} == {torch.float16}


def test_its_map() -> None:
    backbone = load_backbone(BUILTIN, offline=True)
    assert (backbone.name, backbone.layers) == (BUILTIN, (LAYER,))
    (maps,) = backbone.feature_maps(drawn_images(2, 96))
    assert maps.shape == (2, FEATURES, 12, 12)


def test_layers_it_does_not_have() -> None:
    assert load_backbone(BUILTIN, layers=[LAYER]).layers == (LAYER,)
    with pytest.raises(InputError, match="has no layer 'layer2'; it has stride8"):
        load_backbone(BUILTIN, layers=["layer2"])


def test_a_near_miss_of_its_name_is_hinted_at() -> None:
    with pytest.raises(InputError, match=r"'builtin-v2' is neither builtin-v1 nor a timm model .* such as builtin-v1"):
        load_backbone("builtin-v2")


def test_it_needs_neither_timm_nor_the_hub() -> None:
    code = (
        "import sys; from softpatch.features.backbone import load_backbone; load_backbone('builtin-v1');"
        "print([name for name in ('timm', 'torchvision', 'huggingface_hub') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_altered_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_file(WEIGHTS_FILE)
    state["stem.0.bias"][0] += 1
    save_file(state, tmp_path / "altered.safetensors")
    monkeypatch.setattr(backbones, "WEIGHTS_FILE", tmp_path / "altered.safetensors")
    with pytest.raises(WeightsError, match="were altered; install softpatch anew"):
        load_backbone(BUILTIN)
    monkeypatch.setattr(backbones, "WEIGHTS_FILE", tmp_path / "missing.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        load_backbone(BUILTIN)


def test_weights_of_ones_own(tmp_path: Path) -> None:
    state = {name: value * 2 for name, value in load_file(WEIGHTS_FILE).items()}
    save_file(state, tmp_path / "mine.safetensors")
    packaged, own = load_backbone(BUILTIN), load_backbone(BUILTIN, weights=str(tmp_path / "mine.safetensors"))
    assert own.digest != packaged.digest
    assert own.feature_maps(drawn_images(1))[0].abs().max() > packaged.feature_maps(drawn_images(1))[0].abs().max()


def test_random_weights_come_from_the_seed() -> None:
    first, again, other = (load_backbone(BUILTIN, weights="random", seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert first.feature_maps(drawn_images(2))[0].std() > 0.1


def test_features_do_not_depend_on_the_batch() -> None:
    backbone, images = load_backbone(BUILTIN), drawn_images(3)
    (together,) = backbone.feature_maps(images)
    for number, image in enumerate(images):
        (alone,) = backbone.feature_maps(image[None])
        assert_close(together[number], alone[0], rtol=1e-3, atol=1e-3)


def test_features_move_with_the_image() -> None:
    backbone, images = load_backbone(BUILTIN), drawn_images(1, 448)
    ((here,), (there,)) = (backbone.feature_maps(each) for each in (images, torch.roll(images, (32, 16), (2, 3))))
    assert_close(there[:, :, 28:32, 28:32], here[:, :, 24:28, 26:30], rtol=1e-3, atol=1e-3)


def test_a_model_file_remembers_it(plate_folder: Path, tmp_path: Path) -> None:
    fitted = SoftPatch(resize=64, crop=64, device="cpu").fit(plate_folder)
    fitted.save(tmp_path / "model.safetensors")
    loaded = SoftPatch.load(tmp_path / "model.safetensors", device="cpu", offline=True)
    one, same = (each.predict(plate_folder)[0].image_score for each in (fitted, loaded))
    assert one == same
    state = {name: value * 2 for name, value in load_file(WEIGHTS_FILE).items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="weights"):
        SoftPatch.load(tmp_path / "model.safetensors", weights=tmp_path / "other.safetensors", device="cpu")
