"""PQ-VAE: encoder, product-quantizer bottleneck and decoder as one model."""

from __future__ import annotations

import copy
import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.codebooks import Codebooks, Structure
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.networks import build_decoder, build_encoder
from faiss_pqvae.model.product import ProductQuantizer, Quantized
from faiss_pqvae.model.residual import ResidualQuantizer


class Reconstruction(NamedTuple):
    """A forward pass: the decoder's output (n, *input_shape), normalised, and the bottleneck's."""

    x: Tensor
    quantized: Quantized


class PQVAE(nn.Module):
    """A VQ-VAE whose bottleneck is a product quantizer (Wu and Flierl, arXiv 1807.04629).

    Inputs are images (n, c, h, w), uint8 or float in [0, 1], or float vectors (n, d). The model
    normalises them itself, with the statistics that `fit_normalization` took from training data.

    Args:
        input_shape: (c, h, w) or (d,).
        M: number of sub-quantizers.
        nbits: bits per sub-quantizer, 1 to 12.
        config: the rest.

    Attributes:
        config: with what depends on the items filled in, see `ModelConfig.for_items`.

    Raises:
        ValueError: a shape or a parameter out of its range.
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(
        self, input_shape: tuple[int, ...], M: int, nbits: int, config: ModelConfig | None = None
    ) -> None:
        super().__init__()
        if len(input_shape) not in (1, 3) or min(input_shape) < 1:
            raise ValueError(
                f"expected an input shape (c, h, w) of images or (d,) of vectors, got {input_shape}"
            )
        if M < 1:
            raise ValueError(f"expected M >= 1, got {M}")
        config = (config or ModelConfig()).for_items(input_shape, M, nbits)
        self.input_shape, self.M, self.nbits, self.config = input_shape, M, nbits, config
        assert config.dsub is not None  # `for_items` filled it in
        self.quantizer: ProductQuantizer | ResidualQuantizer
        if config.objective == "dpq":
            self.latent_dim = config.dsub
            self.quantizer = ResidualQuantizer(M, nbits, latent_dim=self.latent_dim)
        else:
            self.latent_dim = M * config.dsub
            self.quantizer = ProductQuantizer(
                M,
                nbits,
                latent_dim=self.latent_dim,
                update=config.update or "ema",
                ema_decay=config.ema_decay,
                radius=M**-0.5 if config.contrastive else None,
            )
        sizes = (input_shape, self.latent_dim)
        encoder = config.encoder or "conv"
        self.encoder = build_encoder(encoder, *sizes, width=config.width)
        self.decoder = build_decoder(config.decoder, *sizes, width=config.width)
        self.latent_norm: nn.Module = (
            nn.BatchNorm1d(self.latent_dim, affine=False)
            if config.normalize_latents
            else nn.Identity()
        )
        # Per channel for images, per dimension for vectors; one scale, so that distances keep
        # their proportions.
        shape = (input_shape[0], 1, 1) if len(input_shape) == 3 else input_shape
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def is_trained(self) -> bool:
        """Whether a training has finished with this model."""
        return bool(self.fitted)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    @property
    def standardizes(self) -> bool:
        """Whether every image is normalised by itself, not by the training data's statistics."""
        return self.config.standardize and len(self.input_shape) == 3

    @torch.no_grad()
    def fit_normalization(self, x: Tensor) -> None:
        """Takes mean and scale from training data (n, *input_shape), uint8 or float."""
        x = to_float(x)
        self.mean.copy_(x.mean((0, 2, 3), keepdim=True)[0] if x.ndim == 4 else x.mean(0))
        if self.standardizes:
            self.scale.copy_(_deviation(x).mean())  # what `decode` gives every image back
        else:
            self.scale.copy_((x - self.mean).square().mean().sqrt().clamp(min=1e-6))

    def normalize(self, x: Tensor) -> Tensor:
        """(n, *input_shape) uint8 or float in [0, 1] to float of zero mean and unit scale."""
        x = to_float(x)
        if self.standardizes:
            x = (x - x.mean((1, 2, 3), keepdim=True)) / _deviation(x)
        else:
            x = (x - self.mean) / self.scale
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def encode(self, x: Tensor) -> Tensor:
        """Latents of a batch.

        Those of "dpq" are h / sqrt(d + ||h||^2) of what the network says: an item that might be of
        several classes can stay short, and inner products put it behind those that are sure. The
        paper leaves the length open; at length 1 nothing tells the two apart.

        Args:
            x: (n, *input_shape) uint8 or float.

        Returns:
            (n, latent_dim) float32.
        """
        z: Tensor = self.latent_norm(self.encoder(self.normalize(x)).float())
        if self.config.contrastive:
            parts = nn.functional.normalize(z.view(len(z), self.M, -1), dim=-1)
            return parts.flatten(1) / math.sqrt(self.M)
        if self.config.short_latents:
            return z / (z.shape[1] + z.square().sum(1, keepdim=True)).sqrt()
        return nn.functional.normalize(z) if self.config.unit_latents else z

    def quantize(self, x: Tensor) -> Quantized:
        """Encodes and quantizes a batch (n, *input_shape), uint8 or float."""
        z = self.encode(x)
        # Nearest codewords are not found in bfloat16: the bottleneck leaves autocast.
        with torch.autocast(z.device.type, enabled=False):
            quantized: Quantized = self.quantizer(z)
        return quantized

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, latent_dim) back to inputs (n, *input_shape).

        Images are clipped to [0, 1]; standardised ones get the training data's average exposure.
        """
        x: Tensor = self.decoder(z).float() * self.scale + self.mean
        return x.clamp(0, 1) if x.ndim == 4 else x

    def forward(self, x: Tensor) -> Reconstruction:
        """Encodes, quantizes and decodes a batch (n, *input_shape), uint8 or float."""
        quantized = self.quantize(x)
        return Reconstruction(self.decoder(quantized.z_q).float(), quantized)

    def codebooks(self) -> Codebooks:
        """The learned codewords, for injection into a FAISS index."""
        return Codebooks(self.quantizer.codewords.detach().cpu().numpy(), structure=self.structure)

    @property
    def structure(self) -> Structure:
        """How codewords make a latent: "product", or "residual" with the objective "dpq"."""
        return "residual" if isinstance(self.quantizer, ResidualQuantizer) else "product"

    def fingerprint(self) -> str:
        """A hash of all weights, to know a model again."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def prefix(self, n_levels: int) -> PQVAE:
        """The model of the first levels: a copy with these codebooks only, everything else as here.

        Its decoder is the one that was fitted to codes of all levels.

        Args:
            n_levels: from 1 to M.

        Raises:
            ValueError: another number, or codes that are not those of levels (not "dpq").
        """
        if self.structure != "residual":
            raise ValueError(
                "expected a model with the objective 'dpq', whose codes have prefixes, got "
                f"{self.config.objective!r}"
            )
        if not 1 <= n_levels <= self.M:
            raise ValueError(f"expected n_levels from 1 to {self.M}, got {n_levels}")
        prefix = copy.deepcopy(self)
        quantizer = ResidualQuantizer(n_levels, self.nbits, latent_dim=self.latent_dim)
        for name, value in self.quantizer.state_dict().items():
            quantizer.state_dict()[name].copy_(value[:n_levels])
        prefix.quantizer, prefix.M = quantizer.to(self.device), n_levels
        return prefix.train(self.training)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of every image, (n, 1, 1, 1), kept away from zero by a tenth."""
    return x.std((1, 2, 3), keepdim=True) + 0.1


def to_float(x: Tensor) -> Tensor:
    """float32: uint8 images scaled to [0, 1], everything else as it is."""
    return x.float() / 255 if x.dtype == torch.uint8 and x.ndim == 4 else x.float()
