"""Weights: read from files without unpickling, found in the hub's cache without a network, identified by content."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from softpatch.errors import WeightsError
from softpatch.features.weights import hub_file, read_weights, weights_digest

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.tensor([1.5, -2.0])}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def assert_is_state(read: dict[str, Tensor]) -> None:
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_safetensors_file(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert_is_state(read_weights(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE},
        {"model": STATE},
        {"epoch": 3, "state_dict": STATE, "note": "trained at night"},
        {f"module.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
    ],
    ids=["plain", "state_dict", "model", "with other entries", "module.", "state_dict and module."],
)
def test_torch_file(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert_is_state(read_weights(tmp_path / "weights.pth"))


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    trapped, path = tmp_path / "trapped", tmp_path / "weights.pth"
    torch.save({"state_dict": STATE, "trap": Trap(trapped)}, path)
    with pytest.raises(WeightsError, match="neither safetensors nor a torch file of plain tensors; convert it first"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Trap(trapped)))
    with pytest.raises(WeightsError, match="neither safetensors nor a torch file"):
        read_weights(path)
    assert not trapped.exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors does not exist; give a \.safetensors file or a torch"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 60, 130])
def test_a_safetensors_file_cut_short(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cannot be read .*; fetch it again"):
        read_weights(path)


@pytest.mark.parametrize("kept", [0, 4, 300, 1000])
def test_a_torch_file_cut_short(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"weights file .* is neither safetensors nor a torch file"):
        read_weights(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [STATE], {"state_dict": {"epoch": 3}}, {"lr": 0.1}])
def test_a_torch_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(tmp_path / "weights.pth")


def test_digest_is_that_of_the_content() -> None:
    digest = weights_digest(STATE)
    assert len(bytes.fromhex(digest)) == 32
    assert weights_digest(dict(reversed(STATE.items()))) == digest
    in_other_order = STATE["conv.weight"].T.contiguous().T
    assert weights_digest({**STATE, "conv.weight": in_other_order}) == digest


@pytest.mark.parametrize(
    "changed",
    [
        {**STATE, "conv.bias": torch.tensor([1.5, -2.0000002])},
        {**STATE, "conv.weight": STATE["conv.weight"].view(3, 2)},
        {**STATE, "conv.bias": STATE["conv.bias"].view(torch.int32)},
        {**STATE, "extra": torch.empty(0)},
        {"conv.weight": STATE["conv.weight"], "conv.bia": STATE["conv.bias"]},
        {"conv.weight": STATE["conv.weight"]},
    ],
    ids=["one bit", "shape", "dtype", "an empty tensor more", "name", "a tensor less"],
)
def test_digest_changes_with_anything(changed: dict[str, Tensor]) -> None:
    assert weights_digest(changed) != weights_digest(STATE)


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor([True, False]), torch.zeros(2).bfloat16()])
def test_digest_takes_any_dtype_and_scalars(value: Tensor) -> None:
    assert weights_digest({"a": value}) != weights_digest({"a": value.logical_not().to(value.dtype)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's local cache, empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pretrained_weights_are_found_in_the_local_cache(cache: Path) -> None:
    repository, commit = cache / "models--timm--tiny.in1k", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    save_file(STATE, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert_is_state(read_weights(hub_file("tiny", "timm/tiny.in1k", offline=True)))


def assert_names_both_ways_out(message: str) -> None:
    assert "connect to the internet once" in message
    assert "give a file as `weights`" in message


@pytest.mark.usefixtures("cache")
def test_offline_only_the_cache_is_looked_at() -> None:
    with pytest.raises(WeightsError, match=r"backbone 'tiny' are not in the local cache .*`offline`") as caught:
        hub_file("tiny", "timm/tiny.in1k", offline=True)
    assert_names_both_ways_out(str(caught.value))


def test_the_cache_is_asked_before_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(*_: object, local_files_only: bool) -> str:
        asked.append(local_files_only)
        if local_files_only:
            raise OSError("not in the cache")
        return "weights"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
    stages: list[str] = []
    found = hub_file("tiny", "timm/tiny.in1k", offline=False, progress=lambda stage, *_: stages.append(stage))
    assert found == Path("weights")
    assert asked == [True, False]
    assert stages == ["fetching weights"]
    with pytest.raises(WeightsError, match="`offline` forbids"):
        hub_file("tiny", "timm/tiny.in1k", offline=True)
    assert asked == [True, False, True]


class ProxyError(Exception):
    """Of no type that the standard library knows, like those of the hub's network library."""


@pytest.mark.parametrize("failure", [OSError("no route to host"), ValueError("bad"), ProxyError("403 Forbidden")])
def test_without_a_network(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*arguments: object, local_files_only: bool) -> str:  # noqa: ARG001  the hub names it so
        assert arguments == ("timm/tiny.in1k", "model.safetensors")
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match="weights of backbone 'tiny' cannot be fetched") as caught:
        hub_file("tiny", "timm/tiny.in1k", offline=False)
    assert_names_both_ways_out(str(caught.value))


def test_a_backbone_without_pretrained_weights() -> None:
    with pytest.raises(WeightsError, match="no pretrained weights of backbone 'tiny' are known; give a file"):
        hub_file("tiny", None, offline=False)


def test_a_compressed_torch_file_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4_000_000)}, tmp_path / "plain.pt")
    read_weights(tmp_path / "plain.pt")
    with ZipFile(tmp_path / "plain.pt") as plain, ZipFile(tmp_path / "deflated.pt", "w", ZIP_DEFLATED) as deflated:
        for name in plain.namelist():
            deflated.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="is compressed, which torch does not do"):
        read_weights(tmp_path / "deflated.pt")
