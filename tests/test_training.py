"""The recipe of the built-in backbone: pictures that repeat, a network of the promised shape, training that resumes."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from softpatch.features.builtin import FEATURES, BuiltinNetwork
from softpatch.features.folding import fold_batch_norm

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

import train
from muon import Muon, orthogonal
from pictures import alter_pictures, draw_pictures
from teacher import load_teacher, teacher_features


@pytest.mark.parametrize("size", [64, 96])
def test_pictures_repeat_by_seed_and_differ_otherwise(size: int) -> None:
    pictures = draw_pictures(6, size, seed=3)
    assert (pictures.shape, pictures.dtype) == ((6, 3, size, size), torch.float32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, draw_pictures(6, size, seed=3))
    assert not torch.equal(pictures, draw_pictures(6, size, seed=4))
    assert (pictures.flatten(1).std(dim=1) > 0.005).all()  # none is blank


def test_pictures_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    draw_pictures(2, 64, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_altered_pictures_show_the_same_scenes() -> None:
    pictures = draw_pictures(16, 64, seed=0)
    altered = alter_pictures(pictures, seed=1)
    assert (altered.shape, altered.dtype) == (pictures.shape, torch.float32)
    assert altered.min() >= 0
    assert altered.max() <= 1
    assert torch.equal(altered, alter_pictures(pictures, seed=1))
    assert not torch.equal(altered, alter_pictures(pictures, seed=2))
    change = (altered - pictures).abs().mean(dim=(1, 2, 3))
    to_another = (pictures.roll(1, 0) - pictures).abs().mean(dim=(1, 2, 3))
    assert change.min() > 0
    assert change.mean() < to_another.mean() / 3


def random_teacher(path: Path) -> Path:
    """A file of the teacher's names and shapes, as far as the taps need it, with random values."""
    random, state = torch.Generator().manual_seed(0), {}
    widths = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96]

    def add(name: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (inputs * kernel * kernel) ** -0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=random) * 1.5 * spread
        state[f"{name}.bias"] = torch.rand(outputs, generator=random)

    add("Conv", 32, 3, 3)
    before = 32
    for block, width in enumerate(widths):
        name, inner = (f"expanded_conv_{block}", 6 * before) if block else ("expanded_conv", before)
        if block:
            add(f"{name}.expand", inner, before, 1)
        add(f"{name}.depthwise", inner, 1, 3)
        add(f"{name}.project", width, inner, 1)
        before = width
    save_file(state, path)
    return path


def test_the_teacher_gives_the_maps_that_the_student_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher(random_teacher(tmp_path / "teacher.safetensors"))
    pictures = torch.rand(2, 3, 96, 64)
    assert teacher_features(teacher, pictures, 5).shape == (2, 32, 12, 8)
    assert teacher_features(teacher, pictures, 12).shape == (2, 96, 6, 4)
    monkeypatch.setattr(train, "draw_pictures", lambda _, __, seed: draw_pictures(4, 64, seed))
    targets = train.make_targets(teacher, "cpu")
    wanted = targets(train._taught(teacher, draw_pictures(8, 64, train.HELD_OUT)))
    assert wanted.shape == (8, FEATURES, 8, 8)
    for maps, weight in zip(wanted.split(train.CHANNELS, dim=1), train.WEIGHTS, strict=True):
        assert 0.5 * weight < maps.std() < 2 * weight


def test_what_is_missed_is_a_share_of_what_varies() -> None:
    wanted = torch.randn(4, FEATURES, 8, 8, generator=torch.Generator().manual_seed(0)) * 10
    nothing = wanted.mean(dim=(2, 3), keepdim=True).expand_as(wanted)
    assert torch.equal(train.misses(wanted, wanted), torch.zeros(2, 2))
    assert torch.allclose(train.misses(nothing, wanted), torch.ones(2, 2), atol=0.05)
    faint = wanted / 1e4  # below what counts
    assert (train.misses(torch.zeros_like(faint), faint) < 0.01).all()


def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few_pictures(count: int, size: int, seed: int) -> Tensor:
        return draw_pictures(min(count, 2), min(size, 32), seed)

    def taught(_: object, pictures: Tensor, blocks: int) -> Tensor:
        channels, stride = {5: (32, 8), 12: (96, 16)}[blocks]
        mixed = torch.linspace(-1, 1, 3 * channels).view(channels, 3)
        return torch.einsum("ck,bkhw->bchw", mixed, avg_pool2d(pictures, stride))

    monkeypatch.setattr(train, "teacher_features", taught)  # the teacher's own take most of a minute
    monkeypatch.setattr(train, "draw_pictures", few_pictures)
    monkeypatch.setattr(train, "SIZES", ((32, 2), (32, 4)))
    monkeypatch.setattr(train, "LESSON", 1)
    monkeypatch.setattr(train, "PASSES", 2)
    teacher, recipe = random_teacher(tmp_path / "teacher.safetensors"), train.Recipe(steps=3, seed=1)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train.train(recipe, teacher, tmp_path / "whole", "cpu", limit_s=1e6)
    for step in range(1, 3):
        with pytest.raises(SystemExit, match=f"time is over at step {step} of 3"):
            train.train(recipe, teacher, tmp_path / "parts", "cpu", limit_s=0)
    with pytest.raises(SystemExit, match="is of another recipe"):
        train.train(train.Recipe(steps=2, seed=1), teacher, tmp_path / "parts", "cpu", limit_s=1e6)
    parts = train.train(recipe, teacher, tmp_path / "parts", "cpu", limit_s=1e6)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    train.write_weights(parts, tmp_path / "written.safetensors")
    written = load_file(tmp_path / "written.safetensors")
    assert written.keys() == BuiltinNetwork().state_dict().keys()
    assert {value.dtype for value in written.values()} == {torch.float16}


@pytest.mark.parametrize("shape", [(24, 24), (16, 200), (96, 16)])
def test_orthogonal_updates_move_all_directions_alike(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 0, shape[1])
    directions = torch.linalg.svdvals(orthogonal(matrix)) / max(1, shape[0] / shape[1]) ** 0.5
    assert 0.3 < directions.median() < 1.3
    assert directions.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.einsum("rk,rc,kc->k", left, orthogonal(matrix), right).min() > 0  # the same directions, the same way


def test_muon_finds_a_matrix() -> None:
    wanted = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.zeros_like(wanted))
    optimiser = Muon([weight], 0.1, decay=0)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        weight.grad = weight.detach() - wanted
        optimiser.step()
    assert (weight - wanted).norm() < 0.02 * wanted.norm()


def test_every_weight_has_one_optimiser() -> None:
    network = BuiltinNetwork(nn.BatchNorm2d)
    muon, adamw = train.make_optimisers(network, train.Recipe(steps=1, seed=0))
    taken = [id(weight) for each in (muon, adamw) for group in each.param_groups for weight in group["params"]]
    assert sorted(taken) == sorted(id(weight) for weight in network.parameters())
    assert {weight.ndim for weight in muon.param_groups[0]["params"]} == {4}


def test_the_network_gives_one_map_and_folds() -> None:
    network = BuiltinNetwork(nn.BatchNorm2d)
    network(torch.rand(4, 3, 64, 64))  # statistics for the batch norms
    network.eval()
    images = torch.rand(2, 3, 96, 96)
    folded = fold_batch_norm(network, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    plain = BuiltinNetwork().eval()
    plain.load_state_dict(folded.state_dict())
    with torch.inference_mode():
        (ours,), (theirs,) = plain(images), network(images)
    assert ours.shape == (2, FEATURES, 12, 12)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert sum(value.numel() for value in plain.state_dict().values()) * 2 <= 4_000_000  # bytes in half precision
