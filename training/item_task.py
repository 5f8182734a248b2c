"""Reconstruction or contrast of items that are read in batches, seen in augmented views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.model import PQVAE, to_float
from faiss_pqvae.networks import Linear
from faiss_pqvae.quantizer import distance_ratio
from faiss_pqvae.training.config import TrainingConfig
from faiss_pqvae.training.contrastive import contrastive_objective
from faiss_pqvae.training.items import PART, Items, Rows, parts
from faiss_pqvae.training.least_squares import fit_linear
from faiss_pqvae.training.objectives import Terms, fit_whitener, reconstruction_objective
from faiss_pqvae.training.setup import faster_precision
from faiss_pqvae.training.task import Validation, Way, values_of
from faiss_pqvae.training.views import Views, random_views

_NORMALIZATION_ITEMS = 10_000
_KMEANS_ITEMS = 16_384
_DECODER_ITEMS = 16_384
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
        codewords = self.model.quantizer.codewords
        rest = [p for p in self.model.parameters() if p is not codewords]
        # Their components are of that size: a step turns them as far as it turns larger weights.
        lr = self.config.lr * self.model.latent_dim**-0.5
        return [{"params": rest}, {"params": [codewords], "highest": lr, "weight_decay": 0.0}]

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Fits normalisation and whitening, and chooses the precision."""
        rows = self.items.spread(_NORMALIZATION_ITEMS)
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
            self.initialize_codewords()
            self.bypass = False
        self.model.train()
        size = self._view_size(way)
        self.small = size is not None
        return self._objective(self.items.read(np.sort(examples)), generator, size)

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Moves codewords that are not used any more."""
        self.model.quantizer.project()
        if terms.ids is not None and (step + 1) % self.config.revive_every == 0:
            self.model.quantizer.revive(
                terms.latents, threshold=self.config.revive_below, generator=generator
            )

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

    def _view_size(self, way: Way) -> tuple[int, int] | None:
        """Height and width of the views of this step, where they are not the images' own."""
        if way.at >= (self.config.small_views or 0.0) * way.end:
            return None
        _, height, width = self.model.input_shape
        return max(1, round(_SMALL * height)), max(1, round(_SMALL * width))

    @torch.no_grad()
    def initialize_codewords(self) -> None:
        """Takes codewords from a k-means of latents."""
        generator, items = self.items.generator("kmeans"), self.items
        wanted = max(_KMEANS_ITEMS, 8 * self.model.quantizer.ksub)
        order = torch.randperm(len(items.train_rows), generator=generator)[:wanted]
        # In training mode: early on, the running statistics of batch normalisation lag behind.
        # So every part has to be a random one: data often come sorted by class.
        self.model.train()
        latents = [
            self.model.encode(items.read(np.sort(part)))
            for part in parts(items.train_rows[order.numpy()])
        ]
        self.model.quantizer.initialize(
            torch.cat(latents), batch_size=self.batch_size, generator=generator
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
            ratio += len(part) * distance_ratio(z, self.model.quantizer.codewords)
        means = {name: value / len(rows) for name, value in sums.items()}
        # The loss without the bottleneck does not compare with the loss through it; and what has
        # seen small views only is not ready, even where its loss does not fall for a while.
        counts = not (self.bypass or self.small)
        return Validation(means, ratio / len(rows), counts=counts, facts={})

    @torch.no_grad()
    def finish(self) -> None:
        """Fits a decoder that was not trained: the linear one that reconstructs codes best."""
        if self.reconstructs:
            return
        decoder = self.model.decoder
        assert isinstance(decoder, Linear)  # the model sees to it
        x, y = [], []
        for part in parts(self.items.spread(_DECODER_ITEMS)):
            clean = self.items.read(part)
            x.append(self.model.quantize(clean).z_q)
            y.append(self.model.normalize(clean).flatten(1))
        fit_linear(decoder.map, torch.cat(x), torch.cat(y))

    def release(self) -> None:
        """Nothing of the model was changed for the training alone."""
