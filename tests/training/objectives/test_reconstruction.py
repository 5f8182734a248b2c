import numpy as np
import pytest
import torch

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.training import TrainingConfig
from faiss_pqvae.training.objectives.reconstruction import (
    Reconstruction,
    fit_whitener,
    reconstruction_objective,
)

SETTINGS = Reconstruction(lambda_=0.5, beta=0.3)


@pytest.fixture
def model(generator):
    config = ModelConfig(encoder="linear", decoder="linear", dsub=2)
    net = PQVAE((1, 4, 4), 2, 3, config)
    net.quantizer.codewords.copy_(torch.randn(2, 8, 2, generator=generator))
    return net.eval()


@pytest.fixture
def images(generator):
    return torch.rand(6, 1, 4, 4, generator=generator)


def test_objective__is_eq_24_by_hand(model, images):
    terms = reconstruction_objective(model, images, images, SETTINGS)
    z = model.encode(images).detach().double().numpy().reshape(6, 2, 2)
    e = model.quantizer.codewords.double().numpy()
    distances = ((z[:, :, None] - e) ** 2).sum(-1)  # (n, M, ksub)
    ids = distances.argmin(-1)
    z_q = torch.from_numpy(e[np.arange(2), ids].reshape(6, 4)).float()
    error = (model.decoder(z_q) - model.normalize(images)).square().mean()
    commitment = distances.min(-1).sum(1).mean()
    assert terms.parts["reconstruction"].item() == pytest.approx(error.item(), rel=1e-5)
    assert terms.parts["quantization"].item() == pytest.approx(commitment, rel=1e-5)
    assert terms.loss.item() == pytest.approx(error.item() + 0.5 * 0.3 * commitment, rel=1e-5)
    np.testing.assert_array_equal(terms.ids.numpy(), ids)


def test_objective__encodes_the_view_and_aims_at_the_clean_image(model, images):
    view = images.flip(-1)
    terms = reconstruction_objective(model, view, images, SETTINGS)
    assert torch.equal(terms.latents, model.encode(view).detach())
    error = (model(view).x - model.normalize(images)).square().mean()
    assert terms.parts["reconstruction"].item() == pytest.approx(error.item(), rel=1e-5)


def test_objective__bypass_leaves_the_bottleneck_out(model, images):
    terms = reconstruction_objective(model, images, images, SETTINGS, bypass=True)
    error = (model.decoder(model.encode(images)) - model.normalize(images)).square().mean()
    assert terms.loss.item() == pytest.approx(error.item(), rel=1e-5)
    assert terms.ids is None
    assert terms.parts["quantization"] == 0


def test_fit_whitener__predicting_the_mean_costs_one(generator):
    x = torch.randn(300, 20, generator=generator) * torch.linspace(0.1, 3, 20)
    for strength in (0.3, 1.0):
        whitener = fit_whitener(x, strength, seed=0)
        cost = ((x - x.mean(0)) @ whitener.T).square().sum(1).mean()
        assert cost.item() == pytest.approx(1, rel=1e-3)


def test_fit_whitener__full_strength_is_the_mahalanobis_distance(generator):
    x = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    whitener = fit_whitener(x, 1.0, seed=0).double()
    centred = (x - x.mean(0)).double()
    covariance = centred.T @ centred / len(x)
    error = torch.randn(10, 6, generator=generator).double()
    expected = (error @ torch.linalg.inv(covariance) * error).sum(1) / 6
    np.testing.assert_allclose((error @ whitener.T).square().sum(1), expected, rtol=1e-3)


def test_fit_whitener__is_seeded_and_keeps_the_global_randomness(generator):
    x = torch.randn(100, 1, 8, 8, generator=generator)
    torch.manual_seed(1)
    first = fit_whitener(x, 0.5, seed=0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(fit_whitener(x, 0.5, seed=0), first)


def test_fit_whitener__constant_data_give_finite_numbers():
    assert torch.isfinite(fit_whitener(torch.zeros(20, 1, 4, 4), 0.3, seed=0)).all()


@pytest.mark.parametrize(("shape", "whitening"), [((3, 8, 8), 0.3), ((1, 8, 8), 0), ((12,), 0)])
def test_settled__whitens_colour_images_alone(shape, whitening):
    net = PQVAE(shape, 2, 3, ModelConfig(encoder="linear", dsub=2))
    found, config = Reconstruction().settled(net, TrainingConfig())
    assert found.whitening == whitening
    assert config.views is not None
    chosen = Reconstruction(whitening=0.7)
    assert chosen.settled(net, TrainingConfig())[0] == chosen


@pytest.mark.parametrize(
    "wrong",
    [{"lambda_": -1}, {"beta": float("nan")}, {"whitening": 2.0}, {"warmup_steps": -1}],
    ids=str,
)
def test_reconstruction__rejects(wrong):
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))} "):
        Reconstruction(**wrong)


def test_spec__is_what_is_wished_for():
    assert Reconstruction().spec(unit=False, metric=None) == CodeSpec()
    wished = Reconstruction().spec(unit=True, metric="inner_product")
    assert wished == CodeSpec(latents="unit", metric="inner_product")
