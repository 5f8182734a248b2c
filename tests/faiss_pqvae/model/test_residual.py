"""The residual bottleneck, held to loops over its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.residual import ResidualQuantizer, prefixes
from faiss_pqvae.model.spec import CodeSpec


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer(M: int = 3, nbits: int = 3, d: int = 6, seed: int = 0) -> ResidualQuantizer:
    layer = ResidualQuantizer(M, nbits, latent_dim=d)
    with torch.no_grad():
        layer.codewords.copy_(torch.randn(M, 2**nbits, d, generator=seeded(seed)))
    return layer


def greedy(z: np.ndarray, codewords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and sums by prefix, item by item, in float64."""
    ids = np.zeros((len(z), len(codewords)), int)
    sums = np.zeros((len(codewords), *z.shape))
    for i, x in enumerate(z):
        total = np.zeros_like(x)
        for m, level in enumerate(codewords):
            ids[i, m] = np.argmin(((x - total - level) ** 2).sum(1))
            total = total + level[ids[i, m]]
            sums[m, i] = total
    return ids, sums


@settings(max_examples=30)
@given(
    n=st.integers(1, 9), M=st.integers(1, 5), nbits=st.integers(1, 5), d=st.integers(1, 8),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_prefixes__choose_greedily_and_add_up(n: int, M: int, nbits: int, d: int, seed: int):
    layer = quantizer(M, nbits, d, seed)
    z = torch.randn(n, d, generator=seeded(seed + 1))
    ids, sums = greedy(z.double().numpy(), layer.codewords.detach().double().numpy())
    found = prefixes(z, layer.codewords, 5.0)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(layer.choose(z), ids)
    np.testing.assert_allclose(found.hard.detach(), sums, atol=1e-5)
    np.testing.assert_allclose(layer.look_up(found.ids).detach(), sums[-1], atol=1e-5)


def test_prefixes__soft_ones_are_weighted_by_nearness():
    layer, z = quantizer(1, 2, 3), torch.randn(5, 3, generator=seeded(1))
    codewords = layer.codewords[0].detach().double()
    squared = torch.cdist(z.double(), codewords).square()
    weights = (-2.0 / z.double().square().sum(1).mean() * squared).softmax(1)
    found = prefixes(z, layer.codewords, 2.0).soft[0]
    torch.testing.assert_close(found.double(), weights @ codewords, atol=1e-5, rtol=1e-4)


def test_prefixes__of_a_high_softness_are_the_codewords_chosen():
    layer, z = quantizer(), torch.randn(20, 6, generator=seeded(1))
    found = prefixes(z, layer.codewords, 1e6)
    torch.testing.assert_close(found.soft, found.hard, atol=1e-4, rtol=0)


def test_forward__is_straight_through_and_has_both_errors():
    layer = quantizer()
    z = torch.randn(7, 6, generator=seeded(2), requires_grad=True)
    quantized = layer(z)
    _, sums = greedy(z.detach().double().numpy(), layer.codewords.detach().double().numpy())
    np.testing.assert_allclose(quantized.z_q.detach(), sums[-1], atol=1e-5)
    error = ((z.detach().numpy() - sums[-1]) ** 2).sum(1).mean()
    assert quantized.commitment_loss.item() == pytest.approx(error, rel=1e-5)
    assert quantized.codebook_loss.item() == pytest.approx(error, rel=1e-5)
    quantized.z_q.sum().backward(retain_graph=True)
    assert torch.equal(z.grad, torch.ones_like(z))
    assert layer.codewords.grad is None or not layer.codewords.grad.any()
    quantized.codebook_loss.backward()
    assert layer.codewords.grad.any()


def test_initialize__leaves_less_with_every_level_and_refine_less_still():
    z = torch.randn(500, 6, generator=seeded(3))
    layer = ResidualQuantizer(4, 3, latent_dim=6)
    layer.initialize(z, batch_size=64, generator=seeded(), iterations=2)
    errors = (z - prefixes(z, layer.codewords, 5.0).hard).square().sum(-1).mean(1)
    assert (errors.diff() < 0).all()
    assert layer.counts.unique().item() == 64 / 8
    before = errors[-1].item()
    layer.refine(z, iterations=5)
    after = (z - prefixes(z, layer.codewords, 5.0).hard).square().sum(-1).mean(1)
    assert after[0] < errors[0]
    assert after[-1].item() < before


def test_revive__moves_only_what_is_not_used():
    layer, z = quantizer(), torch.randn(64, 6, generator=seeded(4))
    layer.counts.fill_(8)
    layer.counts[0, 5] = layer.counts[2, 1] = 0
    before = layer.codewords.detach().clone()
    assert layer.revive(z, threshold=0.1, generator=seeded()) == 2
    moved = (layer.codewords.detach() != before).any(-1)
    assert moved.nonzero().tolist() == [[0, 5], [2, 1]]
    assert any(torch.equal(layer.codewords[0, 5], row) for row in z)  # of the first level
    assert layer.revive(z, threshold=0.1, generator=seeded()) == 0


def test_observe__counts_what_is_chosen():
    layer = quantizer()
    layer.observe(torch.tensor([[0, 1, 2], [0, 3, 2]]), decay=0.5)
    assert layer.counts[0, 0] == 1
    assert layer.counts[1, 3] == 0.5
    assert layer.counts.sum() == 3


def test_distance_ratio__is_that_of_every_level():
    layer = ResidualQuantizer(2, 1, latent_dim=1)
    with torch.no_grad():
        layer.codewords.copy_(torch.tensor([[[0.0], [4.0]], [[1.0], [-3.0]]]))
    # 1 is 1 from 0 and 3 from 4; what is left is 1, at 0 from 1 and at 4 from -3.
    assert layer.distance_ratio(torch.tensor([[1.0]])) == pytest.approx((1 + 0) / (3 + 4))
    with torch.no_grad():
        layer.codewords.zero_()
    assert layer.distance_ratio(torch.zeros(3, 1)) == 1


@pytest.mark.parametrize(("M", "nbits", "d"), [(0, 4, 8), (2, 0, 8), (2, 13, 8), (2, 4, 0)])
def test_quantizer__rejects_sizes(M: int, nbits: int, d: int):
    with pytest.raises(ValueError, match="expected"):
        ResidualQuantizer(M, nbits, latent_dim=d)


def residual_model(**changes: object) -> PQVAE:
    torch.manual_seed(0)
    config = ModelConfig(encoder="mlp", **{"dsub": 6, "width": 8, **changes})
    spec = CodeSpec(structure="residual", latents="short", metric="inner_product")
    model = PQVAE((5,), 3, 3, config, spec=spec).eval()
    with torch.no_grad():
        model.quantizer.codewords.normal_()
    return model


def test_model__latents_have_the_dimension_of_a_codeword():
    model = residual_model()
    assert (model.latent_dim, model.quantizer.codewords.shape) == (6, (3, 8, 6))
    z = model.encode(torch.randn(9, 5, generator=seeded()))
    assert z.shape == (9, 6)
    codebooks = model.codebooks()
    assert (codebooks.structure, codebooks.d, codebooks.M) == ("residual", 6, 3)


def test_prefix__has_the_first_codebooks_and_is_a_copy():
    model = residual_model()
    prefix = model.prefix(2)
    assert (prefix.M, prefix.quantizer.M, prefix.latent_dim) == (2, 2, 6)
    torch.testing.assert_close(prefix.quantizer.codewords, model.quantizer.codewords[:2])
    x = torch.randn(4, 5, generator=seeded())
    torch.testing.assert_close(prefix.encode(x), model.encode(x))
    with torch.no_grad():
        prefix.quantizer.codewords.zero_()
        next(prefix.encoder.parameters()).zero_()
    assert model.quantizer.codewords.any()
    assert next(model.encoder.parameters()).any()


def test_prefix__rejects_other_models_and_numbers():
    for n_levels in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            residual_model().prefix(n_levels)
    with pytest.raises(ValueError, match="such as DPQ's; got PQVAE, of product codes"):
        PQVAE((5,), 2, 3).prefix(1)
