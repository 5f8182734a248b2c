"""Batch normalisation as part of the convolution before it."""

import copy

import pytest
import torch
from torch import nn

from faiss_pqvae.model.folding import fold_norms


def normed(**options) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, **options)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_fold__gives_the_same_outputs(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), normed(affine=affine), nn.ReLU()),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        normed(),
    ).eval()
    folded = copy.deepcopy(network)
    fold_norms(folded, (nn.Conv2d,))
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)
    assert isinstance(folded[0][1], nn.Identity)
    assert isinstance(folded[3], nn.BatchNorm2d)  # it follows no convolution


def test_fold__leaves_other_kinds_alone() -> None:
    class Other(nn.Conv2d):
        pass

    network = nn.Sequential(Other(3, 4, 1), normed()).eval()
    before = copy.deepcopy(network.state_dict())
    fold_norms(network, (nn.Conv2d,))
    assert network.state_dict().keys() == before.keys()


def test_fold__leaves_alone_what_cannot_be_folded_or_is_used_elsewhere() -> None:
    torch.manual_seed(0)
    shared, tied = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    tied.weight = nn.Conv2d(4, 4, 1).weight
    other = nn.Conv2d(4, 4, 1)
    other.weight = tied.weight
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(shared, normed()),
        nn.Sequential(shared, normed()),
        nn.Sequential(tied, normed()),
        nn.Sequential(other, nn.ReLU()),
    ).eval()
    folded = copy.deepcopy(network)
    fold_norms(folded, (nn.Conv2d,))
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(folded(x), network(x))
