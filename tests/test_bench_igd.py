"""IGD: its losses are the paper's by plain formulas, its Gaussian is estimated, and training teaches it something."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from conftest import plate
from softpatch.bench import igd, structure
from softpatch.progress import silent


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images (count, 3, side, side) in [0, 1]."""
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def plates(count: int, *, defective: bool = False) -> torch.Tensor:
    """What `pooled_and_pixels` makes of plates and of a layer of two channels."""
    pixels = [torch.from_numpy(plate(seed, defective=defective)).permute(2, 0, 1) / 255 for seed in range(count)]
    stacked = torch.stack(pixels)
    return igd.pooled_and_pixels([stacked[:, :2, ::8, ::8], stacked])


def plain_ms_ssim(one: np.ndarray, other: np.ndarray, window: int, weights: tuple[float, ...]) -> float:
    """Equation (7) of Wang et al. 2003, of one channel (side, side), luminance in the last scale alone."""
    places = np.arange(window) - window // 2
    kernel = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    product = 1.0
    for number, weight in enumerate(weights):
        if number:
            one, other = (each.reshape(len(each) // 2, 2, -1, 2).mean(axis=(1, 3)) for each in (one, other))
        mean, other_mean = (correlate2d(each, kernel, "valid") for each in (one, other))
        variance, other_variance, covariance = (
            correlate2d(a * b, kernel, "valid") - u * v
            for a, b, u, v in (
                (one, one, mean, mean),
                (other, other, other_mean, other_mean),
                (one, other, mean, other_mean),
            )
        )
        similar = (2 * covariance + 0.0009) / (variance + other_variance + 0.0009)
        if number == len(weights) - 1:
            similar = similar * (2 * mean * other_mean + 0.0001) / (mean**2 + other_mean**2 + 0.0001)
        product *= similar.mean() ** weight
    return float(product)


@pytest.mark.parametrize(("side", "window", "count"), [(32, 3, 4), (64, 11, 3), (176, 11, 5)])
def test_ms_ssim_is_the_plain_formula(side: int, window: int, count: int) -> None:
    one = images(2, side)
    other = (one + 0.2 * images(2, side, seed=1)).clamp(0, 1)
    weights = structure.scale_weights(side, window)
    assert len(weights) == count
    expected = [
        np.mean([plain_ms_ssim(a, b, window, weights) for a, b in zip(x, y, strict=True)])
        for x, y in zip(one.double().numpy(), other.double().numpy(), strict=True)
    ]
    found = structure.ms_ssim(one, other, window)
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    difference = (one - other).abs().mean(dim=(1, 2, 3)).numpy()
    errors = structure.reconstruction_errors(one, other, window).numpy()
    assert np.allclose(errors, 0.85 * (1 - np.array(expected)) + 0.15 * difference, atol=1e-5)


def test_scales_are_the_papers() -> None:
    assert structure.scale_weights(256, 11) == pytest.approx((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), abs=1e-4)
    assert structure.scale_weights(32, 3) == pytest.approx((0.0516, 0.3295, 0.3463, 0.2726), abs=1e-4)


def test_an_error_map_shows_where_two_images_differ() -> None:
    one = images(1, 64)
    other = one.clone()
    other[:, :, 10:20, 40:50] = 1 - other[:, :, 10:20, 40:50]
    (found,) = structure.error_maps(one, other, 3)
    assert found.shape == (64, 64)
    assert found[12:18, 42:48].min() > 10 * found[40:, :24].max()
    assert structure.error_maps(one, one, 3).abs().max() < 1e-5


def test_unlike_images_leave_a_gradient() -> None:
    one = images(1, 32)
    other = (1 - one).requires_grad_()
    structure.reconstruction_errors(one, other, 3).sum().backward()
    assert other.grad is not None
    assert other.grad.isfinite().all()
    assert other.grad.abs().max() > 0


def descriptor(side: int = 32, seed: int = 0) -> igd.Descriptor:
    return igd.Descriptor(igd.View(64, side, 16, window=3, batch=4, drawing=0.9), 2, 4, seed)


def last_layer(model: igd.Descriptor) -> torch.nn.Linear:
    """Of the encoder, its weights free to be changed."""
    *_, layer = model.encoder.requires_grad_(False).children()
    assert isinstance(layer, torch.nn.Linear)
    return layer


def test_improbabilities_under_the_gaussian() -> None:
    model = descriptor()
    model.centre[:2] = torch.tensor([1.0, -2.0])
    model.spread.fill_(4.0)
    latents = torch.zeros(3, 128)
    latents[:, :2] = torch.tensor([[1.0, -2.0], [1.0, 0.0], [3.0, -2.0]])
    latents[2, 5] = 2.0
    assert model.improbabilities(latents).tolist() == pytest.approx([0, 1 - math.exp(-1), 1 - math.exp(-2)])


def test_the_gaussian_is_that_of_the_training_images() -> None:
    model, vectors = descriptor(), plates(6)
    last_layer(model).weight[:100] *= 400
    last_layer(model).weight[100:] /= 40
    last_layer(model).bias[100:] /= 40
    igd.estimate_gaussian(model, vectors)
    with torch.no_grad():
        latents = model.encoder(model.sights(vectors)[1]).double()
    mean = latents.mean(dim=0)
    far = mean.abs() > 0.1
    assert far.any()
    assert not far.all()
    assert torch.allclose(model.centre[far].double(), mean[far], atol=1e-4)
    assert torch.allclose(model.centre[~far].double(), 0.1 * mean[~far].sign())
    expected = (latents - model.centre).square().sum(dim=1).mean()
    assert float(model.spread) == pytest.approx(float(expected), rel=1e-4)
    assert expected > 1


def test_the_gaussian_is_never_too_narrow() -> None:
    model = descriptor()
    last_layer(model).weight.zero_()
    last_layer(model).bias.fill_(0.5)
    igd.estimate_gaussian(model, plates(4))
    assert torch.allclose(model.centre, torch.tensor(0.5))
    assert float(model.spread) == 1


def test_mixtures_and_what_the_critic_says_of_them() -> None:
    latents, shares = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[0.25], [0.5]])
    assert igd.mixtures(latents, shares).tolist() == [[2.5, 5.0], [2.0, 4.0]]

    def critic(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean(dim=(1, 2, 3))[:, None]

    squares, drawn, mixed = (torch.full((2, 3, 4, 4), value) for value in (0.5, 1.0, 0.75))
    expected = ((0.75 - 0.25) ** 2 + (0.75 - 0.5) ** 2) / 2 + (0.2 * 0.5 + 0.8 * 1.0) ** 2
    assert float(igd.critic_loss(critic, squares, drawn, mixed, shares)) == pytest.approx(expected)


def test_squares_come_together_again() -> None:
    view = igd.View(64, 32, 16, window=3, batch=2, drawing=0.9)
    pictures = images(2, 64)
    squares = view.squares(pictures)
    assert squares.shape == (2 * 9, 3, 32, 32)
    assert torch.equal(squares[9 + 5], pictures[1, :, 16:48, 32:64])
    assert torch.allclose(view.together(squares[:, 0], 2), pictures[:, 0], atol=1e-6)
    whole = igd.views(64)[0]
    assert torch.equal(whole.squares(pictures), pictures)


@pytest.mark.parametrize("side", [32, 64, 224, 256, 288, 512])
def test_networks_fit_every_side(side: int) -> None:
    assert igd.looking_network(side, 1, 7)(torch.rand(1, 3, side, side)).shape == (1, 7)
    assert igd.drawing_network(side, 1)(torch.rand(1, 128)).shape == (1, 3, side, side)
    assert 4 <= side >> igd.halvings(side) < 16


@pytest.mark.parametrize("number", [0, 1])
def test_training_teaches_to_draw_and_to_judge(number: int) -> None:
    train, defective = plates(12), plates(4, defective=True)
    view = igd.views(64)[number]
    training = igd.Training(epochs=10**9, images=60 * view.batch, width=8, learning_rate=2e-3, estimates=3)
    model = igd.Descriptor(view, 2, training.width, seed=0)
    losses = igd.train_descriptor(model, train, training, 0, progress=silent)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
    good, _ = igd.judge(model, train, progress=silent)
    bad, maps = igd.judge(model, defective, progress=silent)
    assert bad.mean() > good.mean()
    blot = defective[:, 2:].view(4, 3, 64, 64)[:, 0] > 0.8
    assert maps[blot].mean() > 1.5 * maps[~blot].mean()


def test_latents_do_not_fall_on_one_point() -> None:
    halves = torch.zeros(8, 3, 64, 64)
    halves[..., 32:] = 0.9  # half of each image is bright, and few of its patches have a pattern
    vectors = igd.pooled_and_pixels([halves[:, :2, ::8, ::8], halves])
    training = igd.Training(epochs=10**9, images=600, width=8, learning_rate=2e-3, estimates=3)
    model = igd.Descriptor(igd.views(64)[1], 2, training.width, seed=0)
    igd.train_descriptor(model, vectors, training, 0, progress=silent)
    _, squares = model.sights(vectors[:1])
    with torch.no_grad():
        drawn = model.decoder(model.encoder(squares)).mean(dim=(1, 2, 3))
    dark, bright = squares.mean(dim=(1, 2, 3)) < 0.01, squares.mean(dim=(1, 2, 3)) > 0.89
    assert drawn[bright].min() > drawn[dark].max() + 0.5


def test_training_is_the_same_for_the_same_seed() -> None:
    training = igd.Training(epochs=10**9, images=8, width=4)
    found = []
    for seed in (0, 0, 1):
        model = descriptor(seed=seed)
        found.append(igd.train_descriptor(model, plates(6), training, seed, progress=silent))
    assert found[0] == found[1] != found[2]
