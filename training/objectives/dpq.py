"""Deep Progressive Quantization: residual codes with labels (Gao et al., IJCAI 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.data.labels import check_labels, check_word_vectors
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.residual import ResidualQuantizer, prefixes
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives
from faiss_pqvae.types import FloatArray

from ..config import TrainingConfig
from .labelled import LabelLoss, LabelTask, LabelTerms, LabelTraining, settled_labels
from .protocol import Setup, Way, learned_apart

_SCALE = 5.0  # of inner products, before the softmax over classes; ours


@objectives.register("dpq")
@dataclass(frozen=True)
class DPQ:
    """The class, from labels; every prefix of a code is a code (Gao et al., IJCAI 2019).

    Attributes:
        quantization: weight of the quantization loss beside the classes. With 0 the codebooks are
            those of a k-means of the features (two steps).
        soft: weight of the error of soft codewords within the quantization loss.
        hard: weight of that of the codewords chosen (mu of the paper).
        joint: weight of the difference between the two (nu).
        softness: of the soft codewords, see `faiss_pqvae.model.residual.prefixes`.
        labels: what is made of labelled items, and of items without.
    """

    title: ClassVar[str] = "DPQ"
    code: ClassVar[str] = "DPQ"
    learns_from: ClassVar[tuple[str, ...]] = ("labels", "word_vectors", "views")

    quantization: float = 0.3
    soft: float = 1.0
    hard: float = 1.0
    joint: float = 0.1
    softness: float = 20.0
    labels: LabelTraining = field(default_factory=LabelTraining)

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("quantization", "soft", "hard", "joint"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        if not (math.isfinite(self.softness) and self.softness > 0):
            raise ValueError(f"expected softness > 0, got {self.softness}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Residual codes by inner products, of latents that are shorter the less is sure."""
        if metric not in (None, "inner_product"):
            raise ValueError("expected faiss.METRIC_INNER_PRODUCT for DPQ, got faiss.METRIC_L2")
        return CodeSpec(
            name=self.code,
            structure="residual",
            latents="unit" if unit else "short",
            metric="inner_product",
        )

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """Codewords that learn by gradient; a residual network or an mlp."""
        return learned_apart("dpq", config, input_shape, update="gradient", fits_decoder=True)

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """Labels, and word vectors of the classes and views made before if there are any."""
        if given.get("labels") is None:
            raise ValueError("expected labels for the objective 'dpq', got none")
        labels, vectors = check_labels(given["labels"], n), given.get("word_vectors")
        found = {"labels": labels, "views": given.get("views")}
        if vectors is not None:
            found["word_vectors"] = check_word_vectors(vectors, labels.n_classes)
        return {name: value for name, value in found.items() if value is not None}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[DPQ, TrainingConfig]:
        """Views that differ, and how long they are small."""
        labels, config = settled_labels(self.labels, model, config)
        return replace(self, labels=labels), config

    def task(self, setup: Setup, given: dict[str, Any]) -> LabelTask:
        """Classes of labelled items, and the quantization of all."""
        labels, vectors = given["labels"], given.get("word_vectors")

        def make_loss(generator: torch.Generator) -> LabelLoss:
            classes = Classes(
                setup.model.latent_dim,
                labels.n_classes,
                word_vectors=vectors,
                generator=generator,
            )
            return _Prefixes(setup.model, self, classes)

        return LabelTask(setup, labels, self.labels, make_loss, made=given.get("views"))


class _Prefixes:
    """A `LabelLoss`: classes, and the errors of all prefixes, soft and hard."""

    def __init__(self, model: PQVAE, settings: DPQ, classes: Classes) -> None:
        self.model, self.settings, self.classes = model, settings, classes
        self.module: nn.Module | None = classes
        self.refines = not settings.quantization

    def terms(self, z: Tensor, y: Tensor, known: Tensor, way: Way) -> LabelTerms:
        """See `LabelLoss.terms`."""
        quantizer, settings = self.model.quantizer, self.settings
        assert isinstance(quantizer, ResidualQuantizer)
        found = prefixes(z, quantizer.codewords, settings.softness)
        quantizer.observe(found.ids)
        of_classes = self.classes(z[known], y[known])
        soft, hard, joint = prefix_losses(z, found.soft, found.hard)
        loss = of_classes + settings.quantization * (
            settings.soft * soft + settings.hard * hard + settings.joint * joint
        )
        parts = {"classes": of_classes, "quantization": hard, "soft_quantization": soft}
        return LabelTerms(loss, parts, found.soft[-1], found.ids)

    def validated(self, z: Tensor, y: Tensor) -> dict[str, float]:
        """The loss of classes."""
        return {"classes": float(self.classes(z, y))}

    def fingerprint(self) -> bytes:
        """The word vectors."""
        vectors = dict(self.classes.named_buffers()).get("vectors")
        return b"" if vectors is None else vectors.cpu().numpy().tobytes()


class Classes(nn.Module):
    """Where the classes are: learned prototypes, or word vectors that latents are mapped to.

    Args:
        d: dimension of the latents.
        n_classes: how many classes there are.
        word_vectors: (n_classes, e) float32 of length 1. None learns a prototype for every class.
        generator: of the prototypes, on the CPU.
    """

    vectors: Tensor

    def __init__(
        self,
        d: int,
        n_classes: int,
        *,
        word_vectors: FloatArray | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.map: nn.Module = nn.Identity()
        if word_vectors is None:
            self.vectors = nn.Parameter(torch.randn(n_classes, d, generator=generator) * d**-0.5)
            return
        e = word_vectors.shape[1]
        self.register_buffer("vectors", torch.from_numpy(word_vectors))
        self.map = nn.Linear(d, e, bias=False)
        nn.init.trunc_normal_(self.map.weight, std=d**-0.5, generator=generator)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of latents (n, d) of classes y (n, C) of zeros and ones, one or more a row."""
        return class_loss(self.map(z), y, functional.normalize(self.vectors))


def class_loss(z: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    """Adaptive margin and cross-entropy (Gao et al., IJCAI 2019), scalar.

    Margin: max(0, 1 - <v_i, v_j> - <z, v_i> + <z, v_j>), mean over the classes i of an item, the
    classes j that are not its own, and the items: classes that mean different things are kept
    further apart. Cross-entropy: of a softmax over a multiple of the inner products; its weight is
    1, not the paper's 0.1: scores that tell how likely a class is rank better.

    Args:
        z: (n, d) float.
        y: (n, C) float of zeros and ones, one or more ones a row.
        vectors: (C, d) float, of length 1, one a class.
    """
    products = z @ vectors.T  # (n, C)
    shares = y / y.sum(1, keepdim=True)
    entropy = -(shares * (_SCALE * products).log_softmax(1)).sum(1).mean()
    rows, own = y.nonzero(as_tuple=True)
    margins = 1 - (vectors[own] @ vectors.T).detach()  # (p, C), for C x C may be too many
    hinge = (margins - products[rows, own].unsqueeze(1) + products[rows]).relu()
    others = 1 - y[rows]
    of_pairs = (hinge * others).sum(1) / others.sum(1).clamp(min=1)
    margin = (of_pairs * shares[rows, own]).sum() / len(z)
    return margin + entropy


def prefix_losses(z: Tensor, soft: Tensor, hard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DPQ's quantization errors, scalars: soft, hard and between the two.

    ||z - soft||^2, ||z - hard||^2 and ||soft - hard||^2, means over the prefixes and the items.

    Args:
        z: (n, d) float.
        soft: (M, n, d) float, see `faiss_pqvae.model.residual.Prefixes`.
        hard: (M, n, d) float likewise.
    """

    def error(difference: Tensor) -> Tensor:
        return difference.square().sum(-1).mean()

    return error(z - soft), error(z - hard), error(soft - hard)
