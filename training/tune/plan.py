"""What a search for lambda trains, and what that costs: successive halving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..config import TrainingConfig
from .curve import SHARE

_LAMBDAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_MIN_EPOCHS = 2  # so that a run can be stopped before its end
_MIN_BATCHES = 4  # in an epoch, however small the budget


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search.

    Attributes:
        lambdas: candidates; a logarithmic grid.
        budget: what all trainings together may cost, in trainings of the full length on all items.
        reduction: from each rung about one candidate in so many goes on to the next, with so many
            times as long a training.
        seeds: trainings of every candidate, whose values are averaged, within the same budget.
        held_out: share of the items that score and are not trained on, at most 5,000.
        share: how far the permissible range reaches, see `permissible_range`.
        hopeless: a training is stopped after an epoch in which its error is above that of the best
            other training, after as many epochs, by more than this share of it.
        tolerance: standard errors within which scores count as equal, see `rank`; then the largest
            lambda wins.
    """

    lambdas: tuple[float, ...] = _LAMBDAS
    budget: float = 1.5
    reduction: int = 3
    seeds: int = 1
    held_out: float = 0.2
    share: float = SHARE
    hopeless: float = 0.25
    tolerance: float = 1.0

    def __post_init__(self) -> None:
        if not self.lambdas or not all(math.isfinite(v) and v >= 0 for v in self.lambdas):
            raise ValueError(f"expected lambdas of at least 0, one or more, got {self.lambdas}")
        if len(set(self.lambdas)) < len(self.lambdas):
            raise ValueError(f"expected every lambda once, got {self.lambdas}")
        for name, low in (("reduction", 2), ("seeds", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} >= {low}, got {getattr(self, name)}")
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise ValueError(f"expected budget > 0, got {self.budget}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"expected held_out between 0 and 1, got {self.held_out}")
        for name in ("share", "hopeless"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"expected tolerance >= 0, got {self.tolerance}")


class Rung(NamedTuple):
    """One round of trainings, all of the same length.

    Attributes:
        n_lambdas: how many candidates are trained.
        epochs: of each training.
        items: that each training reads.
        steps: of all trainings together.
    """

    n_lambdas: int
    epochs: int
    items: int
    steps: int


def steps_per_epoch(items: int, training: TrainingConfig) -> int:
    """Steps of an epoch on so many items, as `fit` splits them."""
    validation = max(1, round(items * training.validation_fraction))
    trained = items - min(validation, 5000, items - 2)
    return trained // min(training.batch_size, trained)


def rung_sizes(n_lambdas: int, reduction: int) -> list[int]:
    """How many candidates each rung has, until one would be left: 9 and 3, of 9 by threes."""
    sizes = [n_lambdas]
    while (smaller := math.ceil(sizes[-1] / reduction)) > 1:
        if smaller == sizes[-1]:  # two of two go on for ever
            break
        sizes.append(smaller)
    return sizes


def rung(n_lambdas: int, steps: int, items: int, training: TrainingConfig, seeds: int) -> Rung:
    """The longest trainings that cost no more than `steps`, all together.

    Where that is less than two epochs of all items, they are two epochs of fewer; no fewer than
    four batches, whatever that costs.

    Args:
        n_lambdas: candidates.
        steps: what there is to spend.
        items: that there are to train on.
        training: batch size, split and the full length.
        seeds: trainings of every candidate.
    """
    runs = n_lambdas * seeds
    epochs = steps // (runs * steps_per_epoch(items, training))
    if epochs < min(_MIN_EPOCHS, training.epochs):
        epochs = min(_MIN_EPOCHS, training.epochs)
        batches = max(_MIN_BATCHES, steps // (runs * epochs))
        wanted = math.ceil(batches * training.batch_size / (1 - training.validation_fraction))
        items = min(items, wanted)
        while items > 4 and steps_per_epoch(items, training) > batches:  # by rounding, by the cap
            items -= 1
    epochs = min(epochs, training.epochs)
    return Rung(n_lambdas, epochs, items, runs * epochs * steps_per_epoch(items, training))


def full_steps(items: int, training: TrainingConfig) -> int:
    """Steps of one training of the full length on so many items."""
    return training.epochs * steps_per_epoch(items, training)


def held_out_items(n: int, search: SearchConfig) -> int:
    """How many of n items score."""
    return min(max(2, round(n * search.held_out)), 5000)


def plan(n: int, training: TrainingConfig, search: SearchConfig) -> list[Rung]:
    """The rungs of a search over n items, each with the same share of the budget.

    What early rungs leave over, by bad trainings that stop and candidates outside the permissible
    range, later ones use.

    Raises:
        ValueError: too few items.
    """
    items = n - held_out_items(n, search)
    if items < 4:
        raise ValueError(f"expected at least 6 items to search with, got {n}")
    sizes = rung_sizes(len(search.lambdas), search.reduction)
    share = int(search.budget * full_steps(n, training) / len(sizes))
    return [rung(size, share, items, training, search.seeds) for size in sizes]
