"""What a training is configured with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.messages import suggestion

from .data.views import PRESETS, Preset, Views

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop; what is learned has its own, see `training.objectives`.

    Attributes:
        epochs: passes over the training part; 0 < epochs.
        budget_minutes: of training, validation included; the schedule then follows the clock and
            not `epochs`. An interrupted training goes on with what is left. Of sums of codewords
            no round begins after it, but their first codebooks and a round that has begun are
            finished, which may take minutes. None: `epochs` decides.
        batch_size: items per step, at least 2 (batch normalisation needs them).
        lr: highest learning rate of Adam; it rises over the first 5 % of the steps and falls to
            zero along a cosine. The paper's 2e-4 is for far longer trainings.
        weight_decay: decoupled (AdamW).
        fine_tuning_lr: highest learning rate of a network that others have trained and that learns
            along; None takes what its `Backbone` says, 1e-4 if it was not asked.
        thawing: share of the training over which the parts of a fine-tuned network (see
            `ModelConfig.fine_tuned`) begin to learn, the last one first; until then what follows
            them learns alone, and steps take less time. 0 lets all learn from the start.
        views: what is done to the encoder's input; the decoder's target stays the clean item.
            None takes `Views.for_shape` of the items.
        augment: views by name, "natural", "digits" or "vectors", in place of `views`.
        validation_fraction: share of the items that is held out, at most 5,000 items.
        patience: epochs without a better validation loss (with labels: without a higher mAP of
            held-out items) after which training stops early; the best weights are kept; without
            labels, epochs of small views do not count. 0 never stops early, nor does a budget.
        revive_every: steps between two searches for dead codewords.
        revive_below: a codeword is dead below this share of the even spread.
        seed: of weights, split, order, views and k-means.
        device: "auto" takes CUDA when there is one, else the CPU; or a torch device's name.
        precision: of the networks; "auto" measures float32 against bfloat16 autocast once and
            takes bfloat16 when it is at least 1.2 times as fast. Name one for runs that must
            repeat exactly.
        checkpoint_every: steps between two checkpoints, besides one after each epoch.
    """

    epochs: int = 40
    budget_minutes: float | None = None
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 1e-4
    fine_tuning_lr: float | None = None
    thawing: float = 0.2
    views: Views | None = None
    augment: Preset | None = None
    validation_fraction: float = 0.05
    patience: int = 10
    revive_every: int = 100
    revive_below: float = 0.03
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    checkpoint_every: int = 1000

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds, or None."""
        return None if self.budget_minutes is None else 60 * self.budget_minutes

    def __post_init__(self) -> None:
        check_numbers(self)
        lowest = {
            "epochs": 1,
            "batch_size": 2,
            "patience": 0,
            "revive_every": 1,
            "checkpoint_every": 1,
            "seed": 0,
        }
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} >= {low}, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "revive_below"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        if self.fine_tuning_lr is not None and not (
            math.isfinite(self.fine_tuning_lr) and self.fine_tuning_lr >= 0
        ):
            raise ValueError(f"expected fine_tuning_lr >= 0, got {self.fine_tuning_lr}")
        if not 0 <= self.thawing <= 1:
            raise ValueError(f"expected thawing in [0, 1], got {self.thawing}")
        budget = self.budget_minutes
        if budget is not None and not (math.isfinite(budget) and budget > 0):
            raise ValueError(f"expected budget_minutes > 0, got {budget}")
        if self.augment is not None:
            if self.augment not in PRESETS:
                raise ValueError(
                    f"expected augment as one of {[*PRESETS]}, got {self.augment!r}"
                    f"{suggestion(self.augment, PRESETS)}"
                )
            if self.views is not None:
                raise ValueError(
                    f"expected views or augment, got both: {self.views}, {self.augment!r}"
                )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"expected validation_fraction between 0 and 1, got {self.validation_fraction}"
            )
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"expected precision 'auto', 'float32' or 'bfloat16', got {self.precision!r}"
            )

    def for_shape(self, shape: tuple[int, ...], *, strong: bool = False) -> TrainingConfig:
        """The same settings, with views filled in for items of a shape.

        Args:
            shape: of an item.
            strong: whether views shall differ as far as an item can be known in them.

        Raises:
            ValueError: views that items of the shape cannot have.
        """
        views = self.views
        if self.augment is not None:
            views = PRESETS[self.augment]
        if views is None:
            views = Views.for_shape(shape, strong=strong)
        views.check(shape)
        return replace(self, views=views, augment=None)
