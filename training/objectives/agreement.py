"""A toy: two views of an item get one latent, and latents spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import TrainingConfig
from .protocol import Setup, Terms
from .view_task import ViewTask


@objectives.register("agreement")
@dataclass(frozen=True)
class Agreement:
    """Invariance and variance (of VICReg, Bardes et al., ICLR 2022), beside the quantization.

    Attributes:
        spread: weight of the latents' deviation, which is wanted to be 1.
    """

    title: ClassVar[str] = "PQ-VAE, agreement"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ()

    spread: float = 1.0

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Product codes."""
        return CodeSpec(latents="unit" if unit else "free", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """Any."""
        return config

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing but items."""
        return {}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[Agreement, TrainingConfig]:
        """Views that differ."""
        return self, config.for_shape(model.input_shape, strong=True)

    def task(self, setup: Setup, given: dict[str, Any]) -> ViewTask:
        """Two views of every item."""

        def terms(views: Tensor, clean: Tensor, *, bypass: bool) -> Terms:
            quantized = setup.model.quantize(views)
            one, two = quantized.z.chunk(2)
            agreement = (one - two).square().mean()
            uneven = (1 - (quantized.z.var(0) + 1e-4).sqrt()).relu().mean()
            loss = agreement + self.spread * uneven + 0.1 * quantized.commitment_loss
            parts = {"agreement": agreement, "quantization": quantized.commitment_loss}
            return Terms(loss, parts, quantized.z.detach(), quantized.ids)

        return ViewTask(
            setup, terms, n_views=2, trains_decoder=False, by_batch=True, shown="agreement"
        )
