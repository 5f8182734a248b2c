"""What a training minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.product import Quantized

_COMPONENTS = 512


class Terms(NamedTuple):
    """The loss of a batch and its parts.

    Attributes:
        loss: scalar, what is minimised.
        parts: scalars by name, for the log: "quantization" is the sum over m of ||z_m - e_m||^2,
            mean over the batch; "reconstruction" is -log p(x | z_q) up to constants, see
            `reconstruction_objective`; "contrast" and "unevenness" are of `training.contrastive`.
        latents: (n, latent_dim) what the bottleneck got, without gradient.
        ids: (n, M) int64 codewords chosen; None while the bottleneck is bypassed.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    latents: Tensor
    ids: Tensor | None


def reconstruction_objective(
    model: PQVAE,
    view: Tensor,
    clean: Tensor,
    *,
    whitener: Tensor | None = None,
    bypass: bool = False,
) -> Terms:
    """Eq. (24): the clean item is reconstructed from the code of its view.

    Args:
        model: in training or evaluation mode.
        view: (n, *input_shape) uint8 or float, what the encoder gets.
        clean: (n, *input_shape) uint8 or float, what the decoder aims at.
        whitener: (r, d) float from `fit_whitener`: the Gaussian p then has a covariance that is
            not the identity, and the error is ||whitener @ (x - target)||^2. None: the mean
            squared error per component of the normalised items.
        bypass: leave the bottleneck out, as a plain autoencoder.
    """
    if bypass:
        z = model.encode(view)
        error = _error(model.decoder(z).float(), model.normalize(clean), whitener)
        parts = {"reconstruction": error, "quantization": error.new_zeros(())}
        return Terms(error, parts, z.detach(), None)
    quantized = model.quantize(view)
    error, loss = reconstruction_terms(model, quantized, clean, whitener)
    parts = {"reconstruction": error, "quantization": quantized.commitment_loss}
    return Terms(loss, parts, quantized.z.detach(), quantized.ids)


def reconstruction_terms(
    model: PQVAE, quantized: Quantized, clean: Tensor, whitener: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The error of reconstructions and eq. (24), both scalars.

    Args:
        model: with the decoder.
        quantized: of one view of every item, or of several views one after another, of which the
            first is decoded.
        clean: (n, *input_shape) uint8 or float, what the decoder aims at.
        whitener: see `reconstruction_objective`.
    """
    x = model.decoder(quantized.z_q[: len(clean)]).float()
    error = _error(x, model.normalize(clean), whitener)
    config = model.config
    # Latents of length 1 are smaller, component by component; lambda means the same for them.
    scale = model.latent_dim if config.unit_latents or config.contrastive else 1
    return error, error + config.lambda_ * scale * (
        quantized.codebook_loss + config.beta * quantized.commitment_loss
    )


def _error(x: Tensor, target: Tensor, whitener: Tensor | None) -> Tensor:
    if whitener is None:
        return (x - target).square().mean()
    projected = (x - target).flatten(1) @ whitener.T  # (n, r)
    return projected.float().square().sum(1).mean()


@torch.no_grad()
def fit_whitener(x: Tensor, strength: float, *, seed: int) -> Tensor:
    """The square root of the inverse covariance of p(x | z_q), from the data's own covariance C.

    A Gaussian with covariance C**strength does not let the few directions in which natural
    images vary most (overall light, large blobs) use up the code: an error counts relative to
    how much the data vary in its direction. Strength 0 is the plain squared error, 1 the
    Mahalanobis distance. The leading 512 principal components are kept.

    Args:
        x: (n, *input_shape) float, normalised items, n >= 2.
        strength: exponent, 0 < strength <= 1.
        seed: of the randomised decomposition.

    Returns:
        (r, d) float, r = min(512, n - 1, d); scaled so that predicting the mean costs 1.
    """
    x = x.flatten(1)
    x = x - x.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, s, v = torch.svd_lowrank(x, q=min(_COMPONENTS, len(x) - 1, x.shape[1]), niter=4)
    variances = s.square() / len(x)
    kept = variances > 1e-6 * variances[0]
    whitener = v.T[kept] * variances[kept, None] ** (-strength / 2)
    return whitener / variances[kept].pow(1 - strength).sum().sqrt()
