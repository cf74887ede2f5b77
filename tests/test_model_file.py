"""A model file comes back as it was, or is refused with a sentence that says why."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_softpatch
from softpatch.errors import InputError, ModelFileError, SoftPatchError
from softpatch.estimator import SoftPatch
from softpatch.stored_model import contents_digest


@pytest.fixture
def model(fitted: SoftPatch, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    return path


@pytest.fixture
def two_banks(good_images, tmp_path: Path) -> Path:
    path = tmp_path / "two.safetensors"
    tiny_softpatch(preset="softpatch+").fit(good_images).save(path)
    return path


def header_of(path: Path) -> dict:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(size))["__metadata__"]["softpatch"])


def rewrite(path: Path, header: dict) -> None:
    save_file(load_file(path), path, metadata={"softpatch": json.dumps(header, sort_keys=True)})


def forge(path: Path, header: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write a model file whose digest is right, whatever is in it."""
    header = {key: value for key, value in header.items() if key != "digest"}
    header["digest"] = contents_digest(
        json.loads(json.dumps(header)), {name: each.numpy() for name, each in tensors.items()}
    )
    save_file(tensors, path, metadata={"softpatch": json.dumps(header, sort_keys=True)})


def test_round_trip(fitted: SoftPatch, model: Path, defective_images) -> None:
    loaded = SoftPatch.load(model, device="cpu")
    assert loaded.settings == fitted.settings
    assert loaded.threshold == fitted.threshold
    for one, two in zip(fitted.predict(defective_images), loaded.predict(defective_images), strict=True):
        assert one.image_score == two.image_score
        assert one.threshold == two.threshold
        assert np.array_equal(one.anomaly_map, two.anomaly_map)


def test_one_bank_is_stored_once(good_images, tmp_path: Path) -> None:
    path = tmp_path / "patchcore.safetensors"
    tiny_softpatch(preset="patchcore").fit(good_images).save(path)
    assert sorted(load_file(path)) == [
        "classification.owners",
        "classification.patches",
        "classification.weights",
        "left_out.image_scores",
        "left_out.map_peaks",
        "left_out.map_quartiles",
        "record.digests",
    ]
    loaded = SoftPatch.load(path).detector.banks
    assert loaded.segmentation is loaded.classification


def test_header_says_everything(model: Path) -> None:
    header = header_of(model)
    assert header["format_version"] == 1
    assert header["training_images"] == 13
    assert header["copies"] == SoftPatch.load(model).detector.copies
    assert 0 <= header["contamination"]["low"] <= header["contamination"]["high"] <= 0.5
    assert header["backbone"]["name"] == "resnet18"
    assert len(header["backbone"]["digest"]) == 64
    assert header["settings"]["lof_neighbors"] == 6


def test_same_fit_gives_the_same_bytes(good_images, defective_images, model: Path, tmp_path: Path) -> None:
    import numpy as np

    again = tmp_path / "again.safetensors"
    tiny_softpatch().fit(np.concatenate([good_images, defective_images[:1]])).save(again)
    assert again.read_bytes() == model.read_bytes()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        SoftPatch.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_cut_short(model: Path, kept: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(ModelFileError, match="cut short"):
        SoftPatch.load(model)


def test_altered_tensor(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match="altered"):
        SoftPatch.load(model)


def test_altered_header(model: Path) -> None:
    header = header_of(model)
    header["threshold"] *= 2
    rewrite(model, header)
    with pytest.raises(ModelFileError, match="altered"):
        SoftPatch.load(model)


def test_newer_format(model: Path) -> None:
    rewrite(model, {**header_of(model), "format_version": 99})
    with pytest.raises(ModelFileError, match=r"format version 99.*upgrade"):
        SoftPatch.load(model)


@pytest.mark.parametrize("header", ["[]", "{}", '"x"', "{", '{"format_version": "1"}'])
def test_senseless_header(model: Path, header: str) -> None:
    save_file(load_file(model), model, metadata={"softpatch": header})
    with pytest.raises(ModelFileError):
        SoftPatch.load(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"map_threshold": "high"}, "map_threshold is 'high'"),
        ({"grid": [0, 8]}, "grid is 0"),
        ({"grid": 8}, "not a sensible"),
        ({"training_images": None}, "training_images is None"),
        ({"settings": {}}, "not a sensible"),
        ({"grid": [8.0, 8]}, "grid is 8.0"),
        ({"grid": [4, 8]}, "does not belong to its backbone"),
        ({"threshold": 10**400}, "not a sensible"),
        ({"training_images": True}, "training_images is True"),
        ({"copies": 1.5}, "copies is 1.5"),
        ({"contamination": 0.1}, "not a sensible"),
        ({"contamination": {"estimate": 0.3, "low": 0.4, "high": 0.5}}, "contamination is"),
        ({"contamination": {"estimate": float("nan"), "low": 0.0, "high": 0.5}}, "contamination is"),
        ({"settings": {"backbone": "resnet18", "colour": 1}}, "colour"),
        ({"settings": {"backbone": "resnet18", "crop": "64"}}, "`crop` is '64'"),
        ({"settings": {"backbone": "resnet34"}}, "'resnet18' in one place and 'resnet34' in another"),
        ({"settings": []}, "not a sensible"),
        ({"settings": {"backbone": "resnet18", "crop": 10**9}}, "`crop` is 1000000000"),
        ({"settings": {"backbone": "resnet18", "smoothing_sigma": 1e-200}}, "`smoothing_sigma` is 1e-200"),
        ({"settings": {"backbone": "resnet18", "embedding_dim": 10**400}}, "`embedding_dim` is 1000"),
        ({"threshold": 0}, "threshold is 0"),
        ({"backbone": {}}, "not a sensible"),
        ({"backbone": {"name": "resnet18", "layers": [1], "digest": ""}}, "backbone is"),
    ],
)
def test_senseless_values_under_a_right_digest(model: Path, change: dict, message: str) -> None:
    forge(model, {**header_of(model), **change}, load_file(model))
    with pytest.raises(ModelFileError, match=message):
        SoftPatch.load(model)


def test_a_setting_younger_than_the_file_has_its_default(model: Path, fitted: SoftPatch) -> None:
    header = header_of(model)
    del header["settings"]["weight_clip_quantile"]
    forge(model, header, load_file(model))
    assert SoftPatch.load(model).settings == fitted.settings


def test_a_header_too_deep_to_parse(model: Path) -> None:
    save_file(load_file(model), model, metadata={"softpatch": "[" * 100_000})
    with pytest.raises(ModelFileError, match="not a model file"):
        SoftPatch.load(model)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weights", lambda tensor: tensor[:-1], "do not belong together"),
        ("owners", lambda tensor: tensor[:, None], "do not belong together"),
        ("patches", lambda tensor: tensor[:0], "do not belong together"),
        ("patches", lambda tensor: tensor.float(), "not float16"),
        ("owners", lambda tensor: tensor.float(), "not float16"),
        ("patches", lambda tensor: tensor * torch.inf, "not finite"),
        ("patches", lambda tensor: tensor.clamp_min(6.2e4), "absurdly large"),
        ("weights", lambda tensor: tensor * 3e37, "absurdly large"),
        ("weights", lambda tensor: -tensor, "negative"),
        ("owners", lambda tensor: tensor - 100, "negative"),
        ("radii", lambda tensor: -tensor - 1, "support radii"),
        ("radii", lambda tensor: tensor * torch.inf, "support radii"),
        ("radii", lambda tensor: tensor[1:], "support radii"),
        ("radii", lambda tensor: tensor.double(), "support radii"),
    ],
)
def test_senseless_tensors_under_a_right_digest(model: Path, name: str, change: Callable, message: str) -> None:
    tensors = load_file(model)
    tensors[f"classification.{name}"] = change(tensors[f"classification.{name}"])
    forge(model, header_of(model), tensors)
    with pytest.raises(ModelFileError, match=message):
        SoftPatch.load(model)


@pytest.mark.parametrize("name", ["classification", "segmentation"])
def test_support_radii_are_looked_at_in_either_bank(model: Path, name: str) -> None:
    tensors = load_file(model)
    assert tensors[f"{name}.radii"].any()
    tensors[f"{name}.radii"] -= 9
    forge(model, header_of(model), tensors)
    with pytest.raises(ModelFileError, match=f"support radii of its {name} bank"):
        SoftPatch.load(model)


def test_two_banks_come_back(two_banks: Path) -> None:
    assert "segmentation.patches" in load_file(two_banks)
    assert not any(name.endswith("radii") for name in load_file(two_banks))
    banks = SoftPatch.load(two_banks).detector.banks
    assert banks.segmentation.patches.shape == banks.classification.patches.shape
    assert not torch.equal(banks.segmentation.patches, banks.classification.patches)


def test_banks_of_different_sizes(two_banks: Path) -> None:
    tensors = load_file(two_banks)
    tensors["classification.patches"] = tensors["classification.patches"][:, 1:].contiguous()
    forge(two_banks, header_of(two_banks), tensors)
    with pytest.raises(ModelFileError, match="different sizes"):
        SoftPatch.load(two_banks)


def test_banks_that_do_not_belong_to_the_backbone(model: Path) -> None:
    tensors = load_file(model)
    tensors["classification.patches"] = tensors["classification.patches"][:, 1:].contiguous()
    forge(model, header_of(model), tensors)
    with pytest.raises(ModelFileError, match="does not belong to its backbone 'resnet18'"):
        SoftPatch.load(model)


def test_another_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="not a softpatch model"):
        SoftPatch.load(path)


def test_every_flipped_byte_is_an_error_of_ours(model: Path) -> None:
    data = model.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(data), (60,), generator=generator).tolist() + list(range(40)):
        broken = bytearray(data)
        broken[place] ^= 0x55
        model.write_bytes(bytes(broken))
        with pytest.raises(SoftPatchError):
            SoftPatch.load(model)


def test_other_weights_are_refused(model: Path, tmp_path: Path) -> None:
    from softpatch.features.backbone import load_backbone

    other = load_backbone("resnet18", weights="random", image_size=64, seed=5)
    assert other.digest != header_of(model)["backbone"]["digest"]
    weights = tmp_path / "weights.safetensors"
    import timm

    torch.manual_seed(7)
    save_file(timm.create_model("resnet18").state_dict(), weights)
    with pytest.raises(ModelFileError, match="other resnet18 weights"):
        SoftPatch.load(model, weights=weights)


def test_weights_file_that_moved(good_images, tmp_path: Path, monkeypatch) -> None:
    import timm

    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), weights)
    path = tmp_path / "model.safetensors"
    tiny_softpatch(weights=weights, preset="patchcore").fit(good_images).save(path)
    monkeypatch.chdir(tmp_path)
    relative = tiny_softpatch(weights="weights.safetensors", preset="patchcore")
    relative.fit(good_images).save(tmp_path / "relative.safetensors")
    assert (tmp_path / "relative.safetensors").read_bytes() == path.read_bytes()
    monkeypatch.undo()
    assert SoftPatch.load(tmp_path / "relative.safetensors")
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(SoftPatchError, match=r"not at hand.*weights\.safetensors does not exist"):
        SoftPatch.load(path)
    assert SoftPatch.load(path, weights=moved).predict(good_images[:1])


def test_a_loaded_model_does_not_hang_on_its_file(model: Path, defective_images) -> None:
    loaded = SoftPatch.load(model)
    before = [answer.image_score for answer in loaded.predict(defective_images)]
    with model.open("r+b") as file:  # in place, as a copy onto it would
        file.seek(model.stat().st_size // 2)
        file.write(b"\xff" * 10_000)
    assert [answer.image_score for answer in loaded.predict(defective_images)] == before


def test_a_full_disk_is_an_input_error(fitted: SoftPatch, tmp_path: Path, monkeypatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        fitted.save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_failed_save_leaves_the_old_file(model: Path, fitted: SoftPatch, monkeypatch) -> None:
    before = model.read_bytes()

    def fail(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softpatch.model_file.save", fail)
    with pytest.raises(KeyboardInterrupt):
        fitted.save(model)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_folder_that_cannot_be_written(fitted: SoftPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        fitted.save(tmp_path / "file" / "model.safetensors")


def test_an_older_file_has_no_left_out_scores(model: Path) -> None:
    tensors = {name: value for name, value in load_file(model).items() if not name.startswith("left_out.")}
    forge(model, {**header_of(model), "record": None}, tensors)
    loaded = SoftPatch.load(model)
    assert loaded.detector.left_out is None
    with pytest.raises(InputError, match="written before left-out scores were kept"):
        loaded.calibrate(0.05)


@pytest.mark.parametrize("scores", [torch.tensor([-1.0]), torch.tensor([torch.nan]), torch.zeros(3, 2), torch.zeros(0)])
@pytest.mark.parametrize("name", ["map_peaks", "map_quartiles"])
def test_senseless_left_out_scores(model: Path, scores: torch.Tensor, name: str) -> None:
    forge(model, header_of(model), {**load_file(model), f"left_out.{name}": scores})
    with pytest.raises(ModelFileError, match="left-out scores are not"):
        SoftPatch.load(model)


def test_as_many_left_out_scores_of_every_kind(model: Path) -> None:
    forge(model, header_of(model), {**load_file(model), "left_out.map_quartiles": torch.ones(1)})
    with pytest.raises(ModelFileError, match="left-out scores of images and of maps are not as many"):
        SoftPatch.load(model)
