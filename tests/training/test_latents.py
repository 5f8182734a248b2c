"""What is fitted to the latents of many items at once."""

import numpy as np
import pytest
import torch
from blobs import SHAPE, images
from torch import nn

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import TrainingConfig, new_model
from faiss_pqvae.training.data.items import Items
from faiss_pqvae.training.latents import (
    fit_decoder,
    fit_linear,
    initialize_codewords,
    move_dead,
    refine_codewords,
)


def model(**changes):
    config = ModelConfig(**{"encoder": "linear", "dsub": 2, **changes})
    net = new_model(SHAPE, 2, 3, config)
    net.fit_normalization(torch.from_numpy(images()))
    return net


def items_of(x):
    return Items(x, SHAPE, validation_fraction=0.05, seed=0, device=torch.device("cpu"))


def error(net, x):
    """Of codes, per item."""
    with torch.no_grad():
        return float(net.quantize(torch.from_numpy(x)).commitment_loss)


def test_initialize__does_not_depend_on_the_order_of_the_data(monkeypatch):
    """Sorted data, as by class: k-means must not see batches of one class each."""
    sorted_x = np.sort(images(3000).reshape(3000, -1).mean(1))
    x = np.broadcast_to(sorted_x[:, None, None, None], (3000, *SHAPE)).astype(np.uint8).copy()
    x[:, 0, 0] = np.random.default_rng(0).integers(0, 255, (3000, 8))
    net, seen = model(), []
    monkeypatch.setattr(net, "encode", lambda part: seen.append(part) or part.flatten(1))
    monkeypatch.setattr(net.quantizer, "initialize", lambda *_, **__: None)
    initialize_codewords(net, items_of(x), batch_size=8)
    means = [float(part.float().mean()) for part in seen[:2]]
    assert abs(means[0] - means[1]) < 0.5


def test_initialize_and_refine__bring_codewords_to_the_latents():
    net, x = model(), images(400)
    before = error(net, x)
    initialize_codewords(net, items_of(x), batch_size=16)
    net.eval()
    first = error(net, x)
    assert first < 0.5 * before
    assert torch.equal(net.quantizer.ema_counts, torch.full((2, 8), 2.0))
    refine_codewords(net, items_of(x))
    assert error(net, x) <= first * (1 + 1e-5)


def test_fit_linear__is_least_squares(generator):
    x = torch.randn(300, 5, generator=generator)
    y = x @ torch.randn(5, 3, generator=generator) + 0.1 * torch.randn(300, 3, generator=generator)
    y += 7
    layer = nn.Linear(5, 3)
    fit_linear(layer, x, y)
    ones = np.concatenate([x.numpy(), np.ones((300, 1), np.float32)], 1).astype(np.float64)
    solution = np.linalg.lstsq(ones, y.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(layer.weight.detach(), solution[:5].T, atol=1e-4)
    np.testing.assert_allclose(layer.bias.detach(), solution[5], atol=1e-4)


def test_fit_linear__of_unused_dimensions_is_finite():
    layer = nn.Linear(3, 2)
    fit_linear(layer, torch.zeros(10, 3), torch.ones(10, 2))
    assert layer.weight.abs().max() < 1e-6
    torch.testing.assert_close(layer.bias, torch.ones(2))


def test_fit_decoder__reconstructs_codes_better_than_the_mean():
    net, x = model(), images(400)
    items = items_of(x)
    initialize_codewords(net, items, batch_size=16)
    net.eval()
    fit_decoder(net, items)
    rows = torch.from_numpy(x)
    with torch.no_grad():
        target = net.normalize(rows)
        left = (net(rows).x - target).square().mean()
        spread = (target - target.mean(0)).square().mean()
    assert left < 0.8 * spread


@pytest.mark.parametrize(
    ("step", "chosen", "moved"), [(9, True, True), (8, True, False), (9, False, False)]
)
def test_move_dead__now_and_then_where_codewords_are_chosen(generator, step, chosen, moved):
    net = model()
    z = torch.randn(16, net.latent_dim, generator=generator)
    ids = torch.zeros(16, 2, dtype=torch.long) if chosen else None
    before = net.quantizer.codewords.clone()  # none of which was ever counted
    move_dead(
        net,
        TrainingConfig(revive_every=10),
        z,
        ids,
        step,
        torch.Generator().manual_seed(0),
    )
    assert (not torch.equal(net.quantizer.codewords, before)) == moved
