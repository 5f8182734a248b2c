"""What a training is configured with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from .data.views import PRESETS, Preset, Views

Precision = Literal["auto", "float32", "bfloat16"]

_COLOR_WHITENING = 0.3


@dataclass(frozen=True)
class VectorTraining:
    """How vectors are trained: from OPQ on, towards the distances that are searched.

    Attributes:
        items: vectors to train with, drawn from the training part; in memory as float32.
        start_items: of these, what the starts (OPQ, PQ) are learned from.
        rounds: of alternating least squares over all items, from the best start on.
        epochs: passes over the anchors, at most `TrainingConfig.epochs`.
        anchors: items whose true nearest neighbour is found before the training.
        sample: items that every step draws for the anchors to be compared with.
        pool: of these, the nearest to an anchor, which its neighbour has to come before.
        temperature: of the softmax over distances, in units of the mean gap between the distances
            of the nearest and the tenth neighbour.
        commitment: weight of the quantization error, in the same unit, beside the ranking. Without
            it the codewords drift away from what is assigned to them, and recall falls.
        lr: highest learning rate of the encoder's matrix; of the codewords times the deviation of
            the vectors. It takes the place of `TrainingConfig.lr`.
    """

    items: int = 200_000
    start_items: int = 25_600
    rounds: int = 12
    epochs: int = 8
    anchors: int = 16_384
    sample: int = 8192
    pool: int = 100
    temperature: float = 1.0
    commitment: float = 0.5
    lr: float = 1e-4

    def __post_init__(self) -> None:
        lowest = {"items": 2, "start_items": 1, "rounds": 0, "epochs": 1, "anchors": 1}
        for name, low in {**lowest, "sample": 1, "pool": 1}.items():
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} >= {low}, got {getattr(self, name)}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"expected temperature > 0, got {self.temperature}")
        for name in ("commitment", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")


@dataclass(frozen=True)
class LabelTraining:
    """What the objectives "dqn" and "dpq" make of labels, and of items without.

    Attributes:
        labelled: share of a batch that is drawn from the labelled items, where some have none; the
            others take part in the quantization, and in the contrast where there is one.
        quantization: weight of the quantization loss beside the classes or pairs. None takes
            0.3 for "dpq", and for "dqn" 0.1, which it rises to over the first half. With 0 the
            codebooks are those of a k-means of the features (two steps).
        soft: of "dpq": weight of the error of soft codewords within the quantization loss.
        hard: of "dpq": weight of that of the codewords chosen (mu of the paper).
        joint: of "dpq": weight of the difference between the two (nu).
        contrast: weight of the contrast between views (see the objective "contrastive"), for
            labelled and other items alike; items of one class are not told apart. A step then
            has several views of every item, and takes as many times longer.
    """

    labelled: float = 0.9
    quantization: float | None = None
    soft: float = 1.0
    hard: float = 1.0
    joint: float = 0.1
    contrast: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.labelled <= 1:
            raise ValueError(f"expected labelled in (0, 1], got {self.labelled}")
        for name in ("quantization", "soft", "hard", "joint", "contrast"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training; the objective's own (lambda, beta) belong to the model.

    Attributes:
        epochs: passes over the training part; 0 < epochs.
        budget_minutes: of training, validation included; the schedule then follows the clock and
            not `epochs`. An interrupted training goes on with what is left. None: `epochs` decides.
        batch_size: items per step, at least 2 (batch normalisation needs them).
        lr: highest learning rate of Adam; it rises over the first 5 % of the steps and falls to
            zero along a cosine. The paper's 2e-4 is for far longer trainings.
        weight_decay: decoupled (AdamW).
        views: what is done to the encoder's input; the decoder's target stays the clean item.
            None takes `Views.for_shape` of the items.
        n_views: views of every item in a step of the contrastive objective, or of a contrast
            beside labels, at least 2.
        small_views: share of a training of images, from its start on, in which views have 5/8 of
            the height and width: a step then takes little more than half the time. None takes 0.7
            for the residual encoders, and 0 for others, most of which take one size only. Not for
            the reconstruction objective.
        augment: views by name, "natural", "digits" or "vectors", in place of `views`.
        whitening: how far the reconstruction error is measured relative to the data's own
            variation, 0 (plain squared error) to 1 (Mahalanobis), see `fit_whitener`. None takes
            0.3 for colour images and 0 for the rest.
        vectors: for vectors: where they start and what they aim at, see `VectorTraining`. None
            takes its defaults for vectors with a linear encoder, and nothing for other items.
        labels: with the objectives "dqn" and "dpq": what is learned from labels. None takes the
            defaults.
        validation_fraction: share of the items that is held out, at most 5,000 items.
        patience: epochs without a better validation loss (with labels: without a higher mAP of
            held-out items) after which training stops early; the best weights are kept; without
            labels, epochs of small views do not count. 0 never stops early, nor does a budget.
        warmup_steps: steps without the bottleneck before k-means on the latents gives the first
            codewords; at most a tenth of all steps. The contrastive objective needs none.
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
    views: Views | None = None
    augment: Preset | None = None
    n_views: int = 4
    small_views: float | None = None
    whitening: float | None = None
    vectors: VectorTraining | None = None
    labels: LabelTraining | None = None
    validation_fraction: float = 0.05
    patience: int = 10
    warmup_steps: int = 200
    revive_every: int = 100
    revive_below: float = 0.03
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        lowest = {
            "epochs": 1,
            "batch_size": 2,
            "n_views": 2,
            "patience": 0,
            "warmup_steps": 0,
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
        budget = self.budget_minutes
        if budget is not None and not (math.isfinite(budget) and budget > 0):
            raise ValueError(f"expected budget_minutes > 0, got {budget}")
        if self.augment is not None:
            if self.augment not in PRESETS:
                raise ValueError(f"expected augment as one of {[*PRESETS]}, got {self.augment!r}")
            if self.views is not None:
                raise ValueError(
                    f"expected views or augment, got both: {self.views}, {self.augment!r}"
                )
        for name in ("whitening", "small_views"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {value}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"expected validation_fraction between 0 and 1, got {self.validation_fraction}"
            )
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"expected precision 'auto', 'float32' or 'bfloat16', got {self.precision!r}"
            )

    def for_shape(self, shape: tuple[int, ...], *, contrastive: bool = False) -> TrainingConfig:
        """The same settings, with views and whitening filled in for items of a shape.

        Args:
            shape: of an item.
            contrastive: whether the model has the contrastive objective.

        Raises:
            ValueError: views that items of the shape cannot have.
        """
        views = self.views
        if self.augment is not None:
            views = PRESETS[self.augment]
        if views is None:
            views = Views.for_shape(shape, contrastive=contrastive)
        views.check(shape)
        whitening = self.whitening
        if whitening is None:
            whitening = _COLOR_WHITENING if len(shape) == 3 and shape[0] > 1 else 0.0
        return replace(self, views=views, augment=None, whitening=whitening)
