"""Deep Quantization Network: pairs of items with labels (Cao et al., AAAI 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.data.labels import check_labels
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import TrainingConfig
from ..data.sampler import share_class
from .labelled import LabelLoss, LabelTask, LabelTerms, LabelTraining, settled_labels
from .protocol import Setup, Way, learned_apart

_RAMP = 0.5  # share of a training over which the quantization loss rises from zero


@objectives.register("dqn")
@dataclass(frozen=True)
class DQN:
    """The class, from labels, by pairs of items; product codes (Cao et al., AAAI 2016).

    Attributes:
        quantization: weight of the quantization loss beside the pairs, to which it rises over the
            first half. With 0 the codebooks are those of a k-means of the features (two steps).
        labels: what is made of labelled items, and of items without.
    """

    title: ClassVar[str] = "DQN"
    code: ClassVar[str] = "DQN"
    learns_from: ClassVar[tuple[str, ...]] = ("labels", "views")

    quantization: float = 0.1
    labels: LabelTraining = field(default_factory=LabelTraining)

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (math.isfinite(self.quantization) and self.quantization >= 0):
            raise ValueError(f"expected quantization >= 0, got {self.quantization}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Product codes of latents of length 1."""
        return CodeSpec(name=self.code, latents="unit", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """Codewords that are moving averages; a residual network or an mlp."""
        return learned_apart("dqn", config, input_shape, update="ema", fits_decoder=True)

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """Labels, as `check_labels` takes them, and views made before if there are any."""
        if given.get("labels") is None:
            raise ValueError("expected labels for the objective 'dqn', got none")
        found, views = {"labels": check_labels(given["labels"], n)}, given.get("views")
        return found if views is None else {**found, "views": views}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[DQN, TrainingConfig]:
        """Views that differ, and how long they are small."""
        labels, config = settled_labels(self.labels, model, config)
        return replace(self, labels=labels), config

    def task(self, setup: Setup, given: dict[str, Any]) -> LabelTask:
        """Pairs of labelled items, and the quantization of all."""

        def make_loss(generator: torch.Generator) -> LabelLoss:
            return _Pairs(setup.model, self)

        return LabelTask(setup, given["labels"], self.labels, make_loss, made=given.get("views"))


class _Pairs:
    """A `LabelLoss`: cosines of pairs, and the error of their codes."""

    module: nn.Module | None = None
    refines = True

    def __init__(self, model: PQVAE, settings: DQN) -> None:
        self.model, self.settings = model, settings

    def terms(self, z: Tensor, y: Tensor, known: Tensor, way: Way) -> LabelTerms:
        """See `LabelLoss.terms`."""
        quantized = self.model.quantizer(z)
        pairs = pair_loss(z[known], y[known])
        rise = min(1.0, way.at / (_RAMP * way.end))
        error = quantized.commitment_loss
        loss = pairs + rise * self.settings.quantization * error
        parts = {"pairs": pairs, "quantization": error}
        return LabelTerms(loss, parts, quantized.z_q, quantized.ids)

    def validated(self, z: Tensor, y: Tensor) -> dict[str, float]:
        """The loss of pairs, where there is one."""
        return {"pairs": float(pair_loss(z, y))} if len(z) > 1 else {}

    def fingerprint(self) -> bytes:
        """Nothing but labels."""
        return b""


def pair_loss(z: Tensor, y: Tensor) -> Tensor:
    """(s_ij - cos(z_i, z_j))^2, s_ij = 1 for a class in common and -1 without, mean over all pairs.

    Cao et al., AAAI 2016.

    Args:
        z: (n, d) float, of length 1, n >= 2.
        y: (n, C) float of zeros and ones, one or more ones a row.
    """
    errors = (2.0 * share_class(y, y) - 1 - z @ z.T).square()
    n = len(z)
    return (errors.sum() - errors.diagonal().sum()) / (n * (n - 1))
