"""The bottleneck, against brute force and against sums done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.model import product as quantizer
from faiss_pqvae.model.clustering import (
    look_up,
    split,
)
from faiss_pqvae.model.product import ProductQuantizer


def _brute_force(z_m: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """(M, n, ksub) float64 squared distances, by differences."""
    return (z_m.double().unsqueeze(2) - codewords.double().unsqueeze(1)).square().sum(-1)


def _error(z_m: torch.Tensor, codewords: torch.Tensor) -> float:
    return float(_brute_force(z_m, codewords).min(-1).values.sum())


def test_ema__two_steps_by_hand() -> None:
    layer = ProductQuantizer(1, 1, latent_dim=1, ema_decay=0.75).train()
    layer.codewords.copy_(torch.tensor([[[0.0], [10.0]]]))
    layer.ema_counts.copy_(torch.tensor([[2.0, 4.0]]))
    layer.ema_sums.copy_(torch.tensor([[[0.0], [40.0]]]))

    layer(torch.tensor([[1.0], [3.0], [12.0]]))
    # N <- 3/4 N + 1/4 n, s <- 3/4 s + 1/4 sum, e = s / N
    torch.testing.assert_close(layer.ema_counts, torch.tensor([[2.0, 3.25]]))
    torch.testing.assert_close(layer.ema_sums, torch.tensor([[[1.0], [33.0]]]))
    torch.testing.assert_close(layer.codewords, torch.tensor([[[0.5], [33 / 3.25]]]))

    layer(torch.tensor([[9.0]]))
    torch.testing.assert_close(layer.ema_counts, torch.tensor([[1.5, 0.75 * 3.25 + 0.25]]))
    torch.testing.assert_close(layer.ema_sums, torch.tensor([[[0.75], [0.75 * 33 + 0.25 * 9]]]))
    torch.testing.assert_close(layer.codewords, torch.tensor([[[0.5], [27 / 2.6875]]]))


def test_ema__leaves_a_codeword_without_weight_in_place() -> None:
    layer = ProductQuantizer(1, 1, latent_dim=1).train()
    layer.codewords.copy_(torch.tensor([[[0.0], [100.0]]]))
    layer(torch.ones(4, 1))
    assert layer.codewords[0, 1, 0] == 100
    assert torch.isfinite(layer.codewords).all()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_forward__in_evaluation_changes_nothing(
    update: quantizer.Update, generator: torch.Generator
) -> None:
    layer = ProductQuantizer(2, 2, latent_dim=4, update=update).eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(5, 4, generator=generator))
    after = layer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_forward__returns_the_codewords_and_losses(
    update: quantizer.Update, generator: torch.Generator
) -> None:
    layer = ProductQuantizer(2, 3, latent_dim=6, update=update).eval()
    with torch.no_grad():
        layer.codewords.copy_(torch.randn(2, 8, 3, generator=generator))
    z = torch.randn(5, 6, generator=generator)
    out = layer(z)
    e = look_up(layer.codewords, out.ids).transpose(0, 1).reshape(5, 6)
    torch.testing.assert_close(out.z_q, e)
    assert torch.equal(out.z, z)
    loss = _error(split(z, 2), layer.codewords.detach()) / 5
    assert float(out.commitment_loss) == pytest.approx(loss, rel=1e-5)
    expected = loss if update == "gradient" else 0
    assert float(out.codebook_loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_straight_through__hands_the_gradient_on_unchanged(generator: torch.Generator) -> None:
    layer = ProductQuantizer(2, 3, latent_dim=4).train()
    layer.codewords.copy_(torch.randn(2, 8, 2, generator=generator))
    z = torch.randn(5, 4, generator=generator, requires_grad=True)
    weight = torch.randn(5, 4, generator=generator)
    (layer(z).z_q * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert not layer.codewords.requires_grad


def test_gradient_update__codewords_get_the_codebook_loss_alone(
    generator: torch.Generator,
) -> None:
    layer = ProductQuantizer(2, 2, latent_dim=4, update="gradient").train()
    with torch.no_grad():
        layer.codewords.copy_(torch.randn(2, 4, 2, generator=generator))
    z = torch.randn(6, 4, generator=generator, requires_grad=True)
    out = layer(z)
    (out.z_q.square().sum() + 3 * out.codebook_loss).backward()
    expected = torch.zeros(2, 4, 2)
    for i, m in np.ndindex(6, 2):
        k = int(out.ids[i, m])
        difference = layer.codewords[m, k].detach() - z[i, 2 * m : 2 * m + 2].detach()
        expected[m, k] += 3 * 2 * difference / 6
    torch.testing.assert_close(layer.codewords.grad, expected)
    torch.testing.assert_close(z.grad, 2 * out.z_q.detach())  # nothing of the codebook loss


def test_commitment__pulls_the_latents_alone(generator: torch.Generator) -> None:
    layer = ProductQuantizer(1, 1, latent_dim=2, update="gradient")
    z = torch.randn(3, 2, generator=generator, requires_grad=True)
    layer(z).commitment_loss.backward()
    torch.testing.assert_close(z.grad, 2 * z.detach() / 3)  # every codeword is zero
    assert layer.codewords.grad is None


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_initialize__starts_the_moving_averages_at_the_centroids(
    update: quantizer.Update, generator: torch.Generator
) -> None:
    layer = ProductQuantizer(2, 2, latent_dim=4, update=update)
    z = torch.randn(64, 4, generator=generator)
    layer.initialize(z, batch_size=32, generator=generator)
    assert torch.equal(layer.ema_counts, torch.full((2, 4), 8.0))
    if update == "ema":
        torch.testing.assert_close(layer.ema_sums / 8, layer.codewords)
    assert _error(split(z, 2), layer.codewords.detach()) < float(z.square().sum())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_revive__moves_only_the_dead(update: quantizer.Update, generator: torch.Generator) -> None:
    layer = ProductQuantizer(2, 2, latent_dim=4, update=update)
    with torch.no_grad():
        layer.codewords.copy_(torch.randn(2, 4, 2, generator=generator))
    layer.ema_counts.fill_(4.0)
    layer.ema_counts[0, 1] = 0.3
    layer.ema_counts[1, 3] = 0.0
    dead = layer.ema_counts < 0.4
    before = layer.codewords.detach().clone()
    z = 50 + torch.randn(16, 4, generator=generator)  # 16 / 4 codewords: dead below 0.1 * 4
    assert layer.revive(z, threshold=0.1, generator=generator) == 2
    assert torch.equal(layer.codewords[~dead], before[~dead])
    for m, k in dead.nonzero().tolist():
        assert (split(z, 2)[m] == layer.codewords[m, k]).all(-1).any()
        assert layer.ema_counts[m, k] == 4
        if update == "ema":
            assert torch.equal(layer.ema_sums[m, k], layer.codewords[m, k] * 4)


def test_project__brings_codewords_to_the_radius_and_keeps_their_direction(
    generator: torch.Generator,
) -> None:
    layer = quantizer.ProductQuantizer(2, 3, latent_dim=8, update="gradient", radius=0.5)
    draws = torch.randn(2, 8, 4, generator=generator)
    with torch.no_grad():
        layer.codewords.copy_(draws)
    layer.project()
    torch.testing.assert_close(layer.codewords.norm(dim=-1), torch.full((2, 8), 0.5))
    cosines = torch.nn.functional.cosine_similarity(layer.codewords, draws, dim=-1)
    torch.testing.assert_close(cosines, torch.ones(2, 8))
    layer.radius = None
    with torch.no_grad():
        layer.codewords.copy_(draws)
    layer.project()
    assert torch.equal(layer.codewords, draws)


def test_revive__of_none_changes_nothing(generator: torch.Generator) -> None:
    layer = ProductQuantizer(2, 2, latent_dim=4)
    layer.ema_counts.fill_(4.0)
    before = layer.codewords.clone()
    z = torch.randn(16, 4, generator=generator)
    assert layer.revive(z, threshold=0.5, generator=generator) == 0
    assert torch.equal(layer.codewords, before)


@settings(max_examples=20)
@given(M=st.integers(1, 4), dsub=st.integers(1, 5), nbits=st.integers(1, 12))
def test_product_quantizer__takes_every_divisible_size(M: int, dsub: int, nbits: int) -> None:
    layer = ProductQuantizer(M, nbits, latent_dim=M * dsub)
    out = layer(torch.zeros(2, M * dsub))
    assert layer.codewords.shape == (M, 2**nbits, dsub)
    assert out.z_q.shape == (2, M * dsub)


@pytest.mark.parametrize(("M", "latent_dim"), [(3, 8), (0, 8), (-1, 8), (2, 0), (4, 2)])
def test_product_quantizer__rejects_a_latent_dim_not_divisible(M: int, latent_dim: int) -> None:
    with pytest.raises(ValueError, match="divides"):
        ProductQuantizer(M, 8, latent_dim=latent_dim)


@pytest.mark.parametrize("nbits", [0, 13, -1])
def test_product_quantizer__rejects_nbits(nbits: int) -> None:
    with pytest.raises(ValueError, match="nbits from 1 to 12"):
        ProductQuantizer(2, nbits, latent_dim=8)


@pytest.mark.parametrize("decay", [0, 1, -0.5, float("nan")])
def test_product_quantizer__rejects_ema_decay(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay"):
        ProductQuantizer(2, 4, latent_dim=8, ema_decay=decay)


def test_product_quantizer__rejects_an_unknown_update() -> None:
    with pytest.raises(ValueError, match="'ema' or 'gradient'"):
        ProductQuantizer(2, 4, latent_dim=8, update="sgd")
