"""What the training loop asks of a task: terms to minimise, and how good the model is by now."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from ..config import Precision
from ..data.items import Rows
from .reconstruction import Terms


class Way(NamedTuple):
    """How far a training is, and how far it goes: in steps, or in seconds of a budget."""

    at: float
    end: float


class Validation(NamedTuple):
    """How good a model is on the validation part.

    Attributes:
        values: "loss" and its parts by name, means over the part.
        distance_ratio: see `faiss_pqvae.model.product.distance_ratio`.
        counts: whether this model may be kept if its loss is the lowest so far.
        facts: more for the log.
    """

    values: dict[str, float]
    distance_ratio: float
    counts: bool
    facts: dict[str, Any]


class Task(Protocol):
    """A task that a model is trained for.

    Attributes:
        examples: (n,) int64, what an epoch goes through, in any order.
        epochs: at most so many.
        patience: epochs without a lower loss after which the training stops; 0 never stops.
        resumes_within_epochs: whether a checkpoint within an epoch holds all of the state.
        precision: of the networks; "auto" until `start`.
    """

    examples: Rows
    epochs: int
    patience: int
    resumes_within_epochs: bool
    precision: Precision

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves; "highest" is a group's own learning rate."""
        ...

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Prepares the model, once.

        Returns:
            Facts for the log, and the loss that a trained model has to be below, if there is one.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What `start` and the steps left behind, apart from the model; for a checkpoint."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""
        ...

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of a batch of the examples."""
        ...

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """What follows the optimizer's step."""
        ...

    def after_epoch(self) -> None:
        """What follows an epoch's last step, before it is validated; the model is in eval mode."""
        ...

    def validate(self) -> Validation:
        """Measures the model as it stands."""
        ...

    def finish(self) -> None:
        """What follows the last step, with the best weights in the model."""
        ...

    def release(self) -> None:
        """Leaves the model as one that is not being trained."""
        ...


def values_of(terms: Terms) -> dict[str, float]:
    """The loss and its parts, brought from the device at once."""
    named = {"loss": terms.loss, **terms.parts}
    values = torch.stack([value.detach().float() for value in named.values()])
    return dict(zip(named, values.double().tolist(), strict=True))
