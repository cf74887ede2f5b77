"""Folding batch normalisation: the same function with fewer modules, and hands off where the order misleads."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from softpatch.features.folding import fold_batch_norm

Network = TypeVar("Network", bound=nn.Module)
EXAMPLE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolution and batch norm, in either order of use."""

    def __init__(self, width: int = 3, *, norm_first: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(3 if norm_first else width)
        self.norm_first = norm_first

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(self.bn(images)) if self.norm_first else self.bn(self.conv(images)).relu()]


class NormWithActivation(nn.BatchNorm2d):
    """As timm has it: the activation is a part of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.act(super().forward(images))


class Listed(nn.Sequential):
    """A sequence that gives its result as a list of maps."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [super().forward(images)]


def trained(network: Network) -> Network:
    """Give every weight and statistic a value of its own; eval mode."""
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 2, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def assert_same_function(folded: nn.Module, network: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert_close(folded(images)[0], network(images)[0], rtol=1e-4, atol=1e-4)


def test_convolution_and_norm_become_one() -> None:
    network = trained(Net())
    folded = fold_batch_norm(network, EXAMPLE)
    assert norms(folded) == 0
    assert_same_function(folded, network)


def test_the_network_itself_is_left_alone() -> None:
    network = trained(Net())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold_batch_norm(network, EXAMPLE)
    assert norms(network) == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_norm_used_before_the_convolution_is_kept() -> None:
    network = trained(Net(norm_first=True))
    assert fold_batch_norm(network, EXAMPLE) is network
    of_other_width = trained(Net(5, norm_first=True))
    assert norms(fold_batch_norm(of_other_width, EXAMPLE)) == 1


def test_the_activation_of_a_norm_stays() -> None:
    network = trained(Listed(nn.Conv2d(3, 4, 3), NormWithActivation(4)))
    network[0].weight.data.neg_()
    network[1].bias.data.add_(5)  # so that some outputs are negative before the activation, and some are not
    folded = fold_batch_norm(network, EXAMPLE)
    assert norms(folded) == 0
    assert_same_function(folded, network)
    assert 0 < (folded(EXAMPLE)[0] == 0).float().mean() < 1


def test_pairs_deep_inside_are_found() -> None:
    network = trained(Listed(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()), nn.Conv2d(5, 2, 1)))
    folded = fold_batch_norm(network, EXAMPLE)
    assert norms(folded) == 0
    assert_same_function(folded, network)


def test_what_is_no_pair_is_kept() -> None:
    apart = trained(Listed(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)))
    without_statistics = trained(Listed(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)))
    for network in (apart, without_statistics):
        folded = fold_batch_norm(network, EXAMPLE)
        assert norms(folded) == 1
        assert_same_function(folded, network)
