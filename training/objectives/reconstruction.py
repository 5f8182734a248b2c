"""The paper's objective: a code should tell what the item is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.model import team
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.product import Quantized
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import TrainingConfig
from .protocol import Setup, Terms
from .view_task import ViewTask

_COMPONENTS = 512
_COLOR_WHITENING = 0.3


@objectives.register("reconstruction")
@dataclass(frozen=True)
class Reconstruction:
    """The item itself is reconstructed from the code of its view (eq. 24 of the paper).

    Wu and Flierl, arXiv 1807.04629.

    Attributes:
        lambda_: strength of the quantizer against the reconstruction.
        beta: weight of the commitment within the quantizer's loss.
        whitening: how far the error is measured relative to the data's own variation, 0 (plain
            squared error) to 1 (Mahalanobis), see `fit_whitener`. None takes 0.3 for colour images
            and 0 for the rest.
        warmup_steps: steps without the bottleneck before k-means on the latents gives the first
            codewords; at most a tenth of all steps.
    """

    title: ClassVar[str] = "PQ-VAE"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ()

    lambda_: float = 0.01
    beta: float = 0.25
    whitening: float | None = None
    warmup_steps: int = 200

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("lambda_", "beta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        if self.whitening is not None and not 0 <= self.whitening <= 1:
            raise ValueError(f"expected whitening in [0, 1], got {self.whitening}")
        if self.warmup_steps < 0:
            raise ValueError(f"expected warmup_steps >= 0, got {self.warmup_steps}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Product codes of latents as the network gives them."""
        return CodeSpec(latents="unit" if unit else "free", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """Any."""
        return config

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing but items."""
        return {}

    def settled(
        self, model: PQVAE, config: TrainingConfig
    ) -> tuple[Reconstruction, TrainingConfig]:
        """Views and whitening for the items."""
        config, shape = config.for_shape(model.input_shape), model.input_shape
        if self.whitening is not None:
            return self, config
        color = len(shape) == 3 and shape[0] > 1
        return replace(self, whitening=_COLOR_WHITENING if color else 0.0), config

    def task(self, setup: Setup, given: dict[str, Any]) -> ViewTask:
        """Views in, clean items out."""
        whitener = Whitener(self.whitening or 0.0, setup.config.seed)

        def terms(views: Tensor, clean: Tensor, *, bypass: bool) -> Terms:
            return reconstruction_objective(
                setup.model, views, clean, self, whitener=whitener.matrix, bypass=bypass
            )

        return ViewTask(
            setup,
            terms,
            warmup_steps=self.warmup_steps,
            whitener=whitener,
            shown="reconstruction",
        )


def reconstruction_objective(
    model: PQVAE,
    view: Tensor,
    clean: Tensor,
    settings: Reconstruction,
    *,
    whitener: Tensor | None = None,
    bypass: bool = False,
) -> Terms:
    """Eq. (24): the clean item is reconstructed from the code of its view.

    The parts are "quantization", the sum over m of ||z_m - e_m||^2, mean over the batch, and
    "reconstruction", -log p(x | z_q) up to constants.

    Args:
        model: in training or evaluation mode.
        view: (n, *input_shape) uint8 or float, what the encoder gets: this process's share.
        clean: (n, *input_shape) uint8 or float, what the decoder aims at.
        settings: the weights.
        whitener: (r, d) float from `fit_whitener`: the Gaussian p then has a covariance that is
            not the identity, and the error is ||whitener @ (x - target)||^2. None: the mean
            squared error per component of the normalised items.
        bypass: leave the bottleneck out, as a plain autoencoder.
    """
    n, own = team.count(len(clean)), model.encode(view)
    if bypass:
        error = _error(model.decoder(own).float(), model.normalize(clean), whitener, n)
        parts = {"reconstruction": error, "quantization": error.new_zeros(())}
        return Terms(error, parts, team.gathered(own.detach(), n), None)
    quantized = model.quantize_latents(team.gathered(own, n))
    error, loss = reconstruction_terms(model, quantized, clean, settings, whitener)
    parts = {"reconstruction": error, "quantization": quantized.commitment_loss}
    return Terms(loss, parts, quantized.z.detach(), quantized.ids)


def reconstruction_terms(
    model: PQVAE,
    quantized: Quantized,
    clean: Tensor,
    settings: Reconstruction,
    whitener: Tensor | None,
    *,
    n_views: int = 1,
) -> tuple[Tensor, Tensor]:
    """The error of reconstructions and eq. (24), both scalars.

    Args:
        model: with the decoder.
        quantized: of one view of every item, or of several views one after another, of which the
            first is decoded.
        clean: uint8 or float, what the decoder aims at: this process's share of the items.
        settings: the weights.
        whitener: see `reconstruction_objective`.
        n_views: of every item.
    """
    n = len(quantized.z_q) // n_views
    x = model.decoder(quantized.z_q[:n][team.share(n)]).float()
    error = _error(x, model.normalize(clean), whitener, n)
    # Latents of length 1 are smaller, component by component; lambda means the same for them.
    scale = 1 if model.spec.latents == "free" else model.latent_dim
    return error, error + settings.lambda_ * scale * (
        quantized.codebook_loss + settings.beta * quantized.commitment_loss
    )


def _error(x: Tensor, target: Tensor, whitener: Tensor | None, n: int) -> Tensor:
    if whitener is None:
        return team.mean_of_own((x - target).square(), n)
    projected = (x - target).flatten(1) @ whitener.T  # (n_own, r)
    return team.mean_of_own(projected.float().square().sum(1), n)


class Whitener:
    """A matrix that errors are measured by, fitted when a training starts.

    Args:
        strength: see `fit_whitener`; 0 has none.
        seed: likewise.

    Attributes:
        matrix: (r, d) float, or None.
    """

    def __init__(self, strength: float, seed: int) -> None:
        self.strength, self.seed = strength, seed
        self.matrix: Tensor | None = None

    def fit(self, x: Tensor) -> None:
        """Takes the matrix from normalised items (n, *input_shape)."""
        if self.strength:
            self.matrix = fit_whitener(x, self.strength, seed=self.seed)


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
