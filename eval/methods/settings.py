"""How the learned codes of an evaluation are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from faiss_pqvae import PQVAE, Backbone, LatentIndex, ModelConfig, TrainingConfig, read_index
from faiss_pqvae.registry import decoders, encoders, is_ours

from ..data.protocol import Evaluated


class Tuned(NamedTuple):
    """A network whose last parts learn along, where all others get its features as they were.

    Attributes:
        data: the same items, as its first parts, which stay as they are, give them.
        encoder: the last parts, which learn.
        n_parts: how many these are.
        key: of these items, and of the weights that learning begins with.
    """

    data: Evaluated
    encoder: Backbone
    n_parts: int
    key: str


class Before(NamedTuple):
    """A frozen network whose features are the items: bundles are written as of what it sees.

    Attributes:
        front: of the package, what it is in an index.
        encoder: what it is made again by.
    """

    front: Any
    encoder: str


@dataclass(frozen=True, eq=False)
class CodeSettings:
    """What the rows of learned codes are made with.

    Attributes:
        objective: what is learned: an object of `faiss_pqvae.objectives`, with its settings.
        folder: for bundles, logs and checkpoints.
        product: what product codes of vectors learn, which have rows of their own beside sums of
            codewords, and the only ones where `index_factory` makes product codes by itself; None:
            the objective is learned everywhere.
        reranked: what the codes of vectors learn whose candidates the decoder ranks again; None:
            the same as the others, and then one training serves both.
        model: networks and bottleneck.
        training: the loop; its seed is the request's.
        also_lambdas: strengths of the quantizer to train with besides the objective's own.
        pretrained: whose encoder every training starts from.
        queries: (nq, d) real ones to learn from, none of those that measure; or None.
        views: (n * K, ...) of the training items, made before; or None.
        tuned: what learns along, and what is learned from then; None takes what all others get.
        before: what made the items; None where they are what they were.
    """

    objective: Any
    folder: Path
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    also_lambdas: tuple[float, ...] = ()
    pretrained: PQVAE | None = None
    product: Any = None
    reranked: Any = None
    queries: Any = None
    views: Any = None
    tuned: Tuned | None = None
    before: Before | None = None


def read_bundle(folder: Path, model: ModelConfig, *, encoder: Any = None) -> LatentIndex:
    """A bundle of this model's: somebody's network, which it names, is handed in again.

    Args:
        folder: of the bundle.
        model: its settings.
        encoder: what made the items, where `model` does not name it.
    """
    named = {"encoder": (encoders, model.encoder), "decoder": (decoders, model.decoder)}
    others: dict[str, Any] = {
        part: name
        for part, (registry, name) in named.items()
        if name is not None and is_foreign(registry.get(name))
    }
    if encoder is not None:
        others["encoder"] = encoder
    return read_index(folder, **others)


def is_foreign(thing: Any) -> bool:
    """Whether a network, or what makes one, or the class of an objective is somebody else's."""
    return isinstance(thing, Backbone) or not is_ours(thing)
