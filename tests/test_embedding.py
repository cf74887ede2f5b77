"""Patch embeddings: the 3 x 3 mean, the finest grid, and PatchCore's distances in fewer numbers."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.testing import assert_close

from softpatch.errors import InputError
from softpatch.features import embedding

ROUNDING = 2**-10  # of half precision, and a little more


def patch_embeddings(layers: list[Tensor], dim: int) -> Tensor:
    embeddings = embedding.patch_embeddings(layers, dim)
    assert embeddings.dtype == torch.float16
    return embeddings.float()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(maps: Tensor) -> Tensor:
    """The mean over each 3 x 3 neighbourhood, as far as it lies within the map, as plain loops."""
    result = torch.empty_like(maps)
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            around = maps[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            result[:, :, row, column] = around.mean(dim=(2, 3))
    return result


def patchcore_embeddings(layers: list[Tensor], dim: int) -> Tensor:
    """As PatchCore has it: each layer is pooled, or repeated, to `dim`, and what is joined is pooled to `dim`."""
    patches = [smooth(maps).flatten(2).transpose(1, 2) for maps in layers]
    repeated = [F.adaptive_avg_pool1d(layer, dim) for layer in patches]
    return F.adaptive_avg_pool1d(torch.stack(repeated, dim=2).flatten(2), dim)


def test_neighbourhood_mean_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
    # with itself a corner has 4 neighbours, an edge 6, the middle 9: (1+2+4+5) / 4, (1+2+3+4+5+6) / 6, ...
    expected = [3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0]
    assert_close(patch_embeddings([maps], 1), torch.tensor(expected).view(1, 9, 1), rtol=ROUNDING, atol=ROUNDING)


def test_positions_run_row_by_row() -> None:
    maps = drawn(2, 5, 3, 4)
    assert_close(
        patch_embeddings([maps], 5), smooth(maps).permute(0, 2, 3, 1).reshape(2, 12, 5), rtol=ROUNDING, atol=ROUNDING
    )


@pytest.mark.parametrize("finest", [0, 1])
def test_deeper_maps_are_resized_to_the_finest_grid(finest: int) -> None:
    layers = [drawn(2, 4, 6, 8), drawn(2, 4, 3, 4, seed=1)]
    expected = [smooth(layers[0]), F.interpolate(smooth(layers[1]), size=(6, 8), mode="bilinear")]
    if finest:
        layers.reverse()
        expected.reverse()
    embeddings = patch_embeddings(layers, 8)
    assert embeddings.shape == (2, 48, 8)
    assert_close(embeddings, torch.cat(expected, dim=1).flatten(2).transpose(1, 2), rtol=ROUNDING, atol=ROUNDING)


def test_a_narrow_layer_is_scaled_by_the_root_of_its_share_over_its_channels() -> None:
    maps = torch.ones(1, 2, 4, 4)
    assert_close(patch_embeddings([maps], 18), torch.full((1, 16, 2), 3.0), rtol=ROUNDING, atol=ROUNDING)


def test_a_wide_layer_is_pooled_to_its_share() -> None:
    maps = torch.tensor([1.0, 3.0, 10.0, 20.0]).view(1, 4, 1, 1)
    assert_close(
        patch_embeddings([maps, maps], 4), torch.tensor([[[2.0, 15.0, 2.0, 15.0]]]), rtol=ROUNDING, atol=ROUNDING
    )


@pytest.mark.parametrize(
    ("channels", "dim"),
    [((128, 256), 384), ((512, 1024), 1024), ((1024,), 1024), ((64,), 64)],
    ids=["ResNet-18", "Wide-ResNet50-2", "one layer", "one narrow layer"],
)
def test_distances_are_those_of_patchcore(channels: tuple[int, ...], dim: int) -> None:
    layers = [drawn(2, width, 4, 5, seed=width) for width in channels]
    embeddings = patch_embeddings(layers, 1024).flatten(0, 1)
    assert embeddings.shape == (40, dim)
    expected = patchcore_embeddings(layers, 1024).flatten(0, 1)
    assert_close(torch.pdist(embeddings), torch.pdist(expected), rtol=ROUNDING, atol=ROUNDING)


def test_layers_weigh_the_same_whatever_their_width() -> None:
    narrow, wide = torch.ones(1, 8, 2, 2), torch.ones(1, 32, 2, 2)
    nothing = torch.zeros_like
    first = patch_embeddings([narrow, nothing(wide)], 64).norm(dim=2)
    second = patch_embeddings([nothing(narrow), wide], 64).norm(dim=2)
    assert_close(first, second, rtol=ROUNDING, atol=ROUNDING)
    assert_close(first, torch.full((1, 4), math.sqrt(32)), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dim", [3, 7, 64])
def test_the_embedding_is_no_longer_than_asked_for(layers: int, dim: int) -> None:
    maps = [drawn(1, 16 * 2**layer, 4, 4) for layer in range(layers)]
    assert 0 < patch_embeddings(maps, dim).shape[2] <= dim


def test_maps_of_either_precision() -> None:
    maps = drawn(1, 4, 3, 3).half()
    assert torch.equal(patch_embeddings([maps], 4), patch_embeddings([maps.float()], 4))


def test_too_few_dimensions_for_the_layers() -> None:
    with pytest.raises(InputError, match="`embedding_dim` 1 is less than the number of layers, 2"):
        patch_embeddings([drawn(1, 4, 3, 3), drawn(1, 4, 3, 3)], 1)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -1e12])
def test_features_of_damaged_weights(broken: float) -> None:
    maps = drawn(1, 4, 3, 3)
    maps[0, 0, 0, 0] = broken
    with pytest.raises(InputError, match="not finite numbers, or absurdly large; its weights are damaged"):
        patch_embeddings([maps], 4)
