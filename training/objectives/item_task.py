"""Reconstruction or contrast of items that are read in batches, seen in augmented views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.model.pqvae import PQVAE, to_float

from ..config import TrainingConfig
from ..data.items import PART, Items, Rows, parts
from ..data.views import Views, random_views
from ..device import faster_precision
from ..latents import fit_decoder, initialize_codewords
from .contrastive import contrastive_objective
from .protocol import Validation, Way, values_of
from .reconstruction import Terms, fit_whitener, reconstruction_objective

NORMALIZATION_ITEMS = 10_000
_SMALL = 5 / 8  # of the height and width of images: `TrainingConfig.small_views`


class ItemTask:
    """A `Task`: the objective of the model's configuration.

    Args:
        model: to be trained.
        items: to train with.
        config: with all that depends on model and items filled in.
        batch_size: of a step.

    Raises:
        ValueError: views that change nothing, with the contrastive objective.
    """

    resumes_within_epochs = True

    def __init__(
        self, model: PQVAE, items: Items, config: TrainingConfig, *, batch_size: int
    ) -> None:
        assert config.views is not None  # filled in by `for_shape`
        self.model, self.items, self.config = model, items, config
        self.views, self.batch_size = config.views, batch_size
        self.contrastive = model.config.contrastive
        if self.contrastive and config.views == Views():
            raise ValueError(
                "expected views that change something for the contrastive objective, got none: two "
                "views of an item would be the same"
            )
        self.reconstructs = not self.contrastive or model.config.reconstruction_weight > 0
        self.examples = items.train_rows
        self.epochs, self.patience = config.epochs, config.patience
        self.precision = config.precision
        self.bypass = True  # until there are codewords; with the contrastive objective at once
        self.small = False  # whether the last step's views were
        self.whitener: Tensor | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All weights; codewords of the contrastive objective turn at a rate of their own."""
        if not self.contrastive:
            return [{"params": list(self.model.parameters())}]
        return groups_of(self.model, self.config.lr)

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Fits normalisation and whitening, and chooses the precision."""
        rows = self.items.spread(NORMALIZATION_ITEMS)
        sample = self.items.read(rows)
        self.model.fit_normalization(sample)
        if self.config.whitening and self.reconstructs:
            self.whitener = fit_whitener(
                self.model.normalize(sample), self.config.whitening, seed=self.config.seed
            )
        if self.precision == "auto":
            batch = self.items.read(rows[: self.batch_size])
            self.precision = faster_precision(self.model, batch)
        return {}, None

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        return {"precision": self.precision, "whitener": self.whitener, "bypass": self.bypass}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`."""
        self.precision, self.bypass = state["precision"], state["bypass"]
        whitener: Tensor | None = state["whitener"]
        self.whitener = None if whitener is None else whitener.to(self.items.device)

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of views of the items in rows `examples`."""
        warm = step >= self.config.warmup_steps or way.at >= way.end // 10
        if self.bypass and (self.contrastive or warm):
            initialize_codewords(self.model, self.items, batch_size=self.batch_size)
            self.bypass = False
        self.model.train()
        size = view_size(self.config, self.model.input_shape, way)
        self.small = size is not None
        return self._objective(self.items.read(np.sort(examples)), generator, size)

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Moves codewords that are not used any more."""
        move_dead(self.model, self.config, terms, step, generator)

    def after_epoch(self) -> None:
        """Nothing: the codewords moved with every step."""

    def _objective(
        self, clean: Tensor, generator: torch.Generator, size: tuple[int, int] | None = None
    ) -> Terms:
        x = to_float(clean)
        enabled = self.precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            if self.contrastive:
                n = self.config.n_views
                views = [random_views(x, self.views, generator, size=size) for _ in range(n)]
                return contrastive_objective(
                    self.model, torch.cat(views), clean, whitener=self.whitener
                )
            view = random_views(x, self.views, generator)
            return reconstruction_objective(
                self.model, view, clean, whitener=self.whitener, bypass=self.bypass
            )

    def validate(self) -> Validation:
        """Means over the validation part, through the same views every time."""
        sums, ratio = dict[str, float](), 0.0
        rows, generator = self.items.validation_rows, self.items.generator("validation")
        # An item is contrasted with a batch, as in the training.
        for part in parts(rows, self.batch_size if self.contrastive else PART):
            clean = self.items.read(part)
            for name, value in values_of(self._objective(clean, generator)).items():
                sums[name] = sums.get(name, 0.0) + len(part) * value
            z = self.model.encode(clean)
            ratio += len(part) * self.model.quantizer.distance_ratio(z)
        means = {name: value / len(rows) for name, value in sums.items()}
        # The loss without the bottleneck does not compare with the loss through it; and what has
        # seen small views only is not ready, even where its loss does not fall for a while.
        counts = not (self.bypass or self.small)
        return Validation(means, ratio / len(rows), counts=counts, facts={})

    def finish(self) -> None:
        """Fits a decoder that was not trained."""
        if not self.reconstructs:
            fit_decoder(self.model, self.items)

    def release(self) -> None:
        """Nothing of the model was changed for the training alone."""


def view_size(config: TrainingConfig, shape: tuple[int, ...], way: Way) -> tuple[int, int] | None:
    """Height and width of a step's views, where they are not those of the images (c, h, w)."""
    if way.at >= (config.small_views or 0.0) * way.end:
        return None
    _, height, width = shape
    return max(1, round(_SMALL * height)), max(1, round(_SMALL * width))


def groups_of(model: PQVAE, lr: float) -> list[dict[str, Any]]:
    """Parameter groups: codewords that learn by gradient move at a rate of their own.

    Args:
        model: to be trained.
        lr: highest learning rate of everything else.
    """
    codewords = model.quantizer.codewords
    rest = [p for p in model.parameters() if p is not codewords]
    # Their components are of that size: a step turns them as far as it turns larger weights.
    own = {"params": [codewords], "highest": lr * model.latent_dim**-0.5, "weight_decay": 0.0}
    return [{"params": rest}, own]


def move_dead(
    model: PQVAE, config: TrainingConfig, terms: Terms, step: int, generator: torch.Generator
) -> None:
    """Brings codewords to their length, and now and then those into use that are not used any more.

    Args:
        model: being trained.
        config: how often, and what counts as not used.
        terms: of the step.
        step: its number.
        generator: source of randomness.
    """
    model.quantizer.project()
    if terms.ids is not None and (step + 1) % config.revive_every == 0:
        model.quantizer.revive(terms.latents, threshold=config.revive_below, generator=generator)
