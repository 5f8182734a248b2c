"""What a PQ-VAE is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from faiss_pqvae.model.networks import Encoder, Network
from faiss_pqvae.model.product import Update

Objective = Literal["reconstruction", "contrastive", "dqn", "dpq"]

_DSUB = 16
_DPQ_DIM = 128  # of a latent, which has every codeword's dimension
_SOFTNESS, _DPQ_SOFTNESS = 5.0, 20.0


@dataclass(frozen=True)
class ModelConfig:
    """What a PQ-VAE is built from.

    Attributes:
        objective: what a code has to tell. "reconstruction": the item itself (eq. 24 of the
            paper). "contrastive": which item it is, whatever `training.Views` does to it (SPQ,
            Jang and Cho, ICCV 2021); it knows what is in a picture, and takes longer to train.
            "dqn" and "dpq": the class, from labels; the bottleneck of the first is a product
            quantizer (Deep Quantization Network, Cao et al., AAAI 2016), that of the second a
            residual one, every prefix of whose codes is a code (Deep Progressive Quantization, Gao
            et al., IJCAI 2019). They are for `training.LabelTraining`.
        encoder: "conv" or one of the residual networks "resnet" and "resnet18" (images), "mlp" or
            "linear". None takes for images conv and for vectors linear, which then start at OPQ
            (`faiss_pqvae.index.opq`); with the other objectives resnet and mlp.
        decoder: "conv", "mlp" or "linear"; "linear" ties distances between latents to distances
            between reconstructions, which retrieval gains from. With the other objectives it is
            fitted after the training, by least squares, and has to be linear.
        standardize: bring every image to zero mean and unit deviation first, so that codes describe
            the picture and not its exposure; vectors stay as they are.
        dsub: dimension of a sub-vector; the latents have M * dsub dimensions, with "dpq" dsub. None
            takes 16, for "dpq" 128, and for vectors with a linear encoder as many as make a
            rotation: d / M, rounded up.
        width: channels of the first convolution, or units of a hidden layer.
        normalize_latents: batch-normalise the latents (without scale and shift), so that lambda
            means the same whatever the encoder would like the scale of its output to be.
        unit_latents: scale every latent to length 1, so that inner products between latents are
            cosines; "dqn" always does. With the contrastive objective every sub-vector and
            every codeword has the length 1 / sqrt(M), and so every latent the length 1. Latents of
            "dpq" are shorter than 1, and the shorter the less is sure (see `PQVAE.encode`).
        update: how the codewords learn: "ema" (eq. 25, 26) or "gradient". None takes ema, and with
            "contrastive" and "dpq" gradient, their only choice.
        ema_decay: gamma of eq. (25, 26).
        lambda_: strength of the quantizer against the reconstruction, eq. (24).
        beta: weight of the commitment within the quantizer's loss, eq. (24).
        temperature: of the contrastive loss.
        softness: the contrastive loss sees a mean of all codewords, weighted by a softmax over
            cosines times this number, 5 if it is None; the index sees the nearest codeword. Of
            "dpq" see `faiss_pqvae.model.residual.prefixes`; None is 20.
        diversity: weight of the codewords' even use beside the contrastive loss.
        reconstruction_weight: of eq. (24) beside the contrastive loss; the decoder is then trained
            along, and may be any. Without the contrastive objective it has no effect.
    """

    objective: Objective = "reconstruction"
    encoder: Encoder | None = None
    decoder: Network = "linear"
    standardize: bool = True
    dsub: int | None = None
    width: int = 64
    normalize_latents: bool = True
    unit_latents: bool = False
    update: Update | None = None
    ema_decay: float = 0.99
    lambda_: float = 0.01
    beta: float = 0.25
    temperature: float = 0.5
    softness: float | None = None
    diversity: float = 0.1
    reconstruction_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            names = ", ".join(map(repr, get_args(Objective)))
            raise ValueError(f"expected objective as one of {names}, got {self.objective!r}")
        for name in ("dsub", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        for name in ("lambda_", "beta", "diversity", "reconstruction_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        for name in ("temperature", "softness"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"expected {name} > 0, got {value}")
        wanted = {"contrastive": "gradient", "dqn": "ema", "dpq": "gradient"}.get(self.objective)
        if wanted and self.update not in (None, wanted):
            raise ValueError(
                f"expected update {wanted!r} with the objective {self.objective!r}, got "
                f"{self.update!r}"
            )
        if self.decoder != "linear" and self.fits_decoder:
            raise ValueError(
                f"expected a linear decoder with the objective {self.objective!r}, got "
                f"{self.decoder!r}"
                + (": a reconstruction_weight > 0 trains it along" if self.contrastive else "")
            )

    @property
    def contrastive(self) -> bool:
        """Whether codes are learned from what views of an item share."""
        return self.objective == "contrastive"

    @property
    def supervised(self) -> bool:
        """Whether codes are learned from labels."""
        return self.objective in ("dqn", "dpq")

    @property
    def short_latents(self) -> bool:
        """Whether latents are brought to lengths below 1 (see `PQVAE.encode`)."""
        return self.objective == "dpq" and not self.unit_latents

    @property
    def fits_decoder(self) -> bool:
        """Whether the decoder is fitted after the training, by least squares."""
        return self.supervised or (self.contrastive and not self.reconstruction_weight)

    def for_items(self, input_shape: tuple[int, ...], M: int, nbits: int) -> ModelConfig:
        """The same settings, with what depends on the items filled in.

        Args:
            input_shape: (c, h, w) of images, (d,) of vectors.
            M: number of sub-quantizers.
            nbits: bits per sub-quantizer.
        """
        encoder, dsub, residual = self.encoder, self.dsub, self.objective == "dpq"
        if (self.contrastive or self.supervised) and encoder is None:
            encoder = "resnet" if len(input_shape) == 3 else "mlp"
        if len(input_shape) == 1:
            encoder = encoder or "linear"
            if dsub is None and encoder == "linear" and not residual:
                dsub = -(-input_shape[0] // M)
                if dsub == 2 and nbits <= 2:
                    dsub = 3  # FAISS cannot search two dimensions at 1 or 2 bits
        if dsub is None:
            dsub = _DPQ_DIM if residual else _DSUB
        return replace(
            self,
            encoder=encoder,
            dsub=dsub,
            unit_latents=self.unit_latents or self.objective == "dqn",
            update=self.update or ("gradient" if self.contrastive or residual else "ema"),
            softness=self.softness or (_DPQ_SOFTNESS if residual else _SOFTNESS),
        )
