"""A training on items that are read in batches and seen in augmented views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.data.batches import content_key, read_any_rows
from faiss_pqvae.data.flat_views import WHAT as MADE
from faiss_pqvae.data.flat_views import flat_views
from faiss_pqvae.model import team
from faiss_pqvae.model.fine_tuned import thaw
from faiss_pqvae.model.networks.resnet import ResNet
from faiss_pqvae.model.pqvae import PQVAE, to_float
from faiss_pqvae.progress import Progress

from ..config import TrainingConfig
from ..data.items import PART, WHAT, Items, Rows, parts
from ..data.views import Views, random_views
from ..device import faster_precision
from ..latents import fit_decoder, initialize_codewords, move_dead
from .neighbours import nearest
from .protocol import Setup, Terms, Validation, Way, items_of, values_of

NORMALIZATION_ITEMS = 10_000
_DIRECTIONS = 128  # in which neighbours are looked for, in a tenth of the time of 1,280
_SMALL = 5 / 8  # of the height and width of images
_SMALL_SHARE = 0.7  # of a training with a residual encoder


class Fitted(Protocol):
    """What is fitted to items before a training, see `reconstruction.Whitener`."""

    matrix: Tensor | None

    def fit(self, x: Tensor) -> None:
        """Takes the matrix from normalised items (n, *input_shape)."""
        ...


class ViewTask:
    """A `Task`: one function of views and items is minimised over batches.

    Args:
        setup: see `Setup`.
        terms: `terms(views, clean, bypass=...)` gives the objective of views (V * n, *input_shape)
            float, one of every item after another, of the items clean (n, *input_shape). Where
            several processes train they are this one's share of a batch: what moves codewords
            has to be given the latents of all, see `faiss_pqvae.model.team.gathered`.
        n_views: V.
        neighbours: nearest items of a vector, one of which every second view is of; 0: none.
        small_views: share of the training, from its start on, in which views are small.
        warmup_steps: steps without the bottleneck before there are codewords, a tenth of all at
            most; 0 has codewords from the first step on.
        trains_decoder: whether `terms` does; else it is fitted after the training.
        by_batch: whether an item is compared with its batch, so that validation needs such batches.
        own_rate: whether codewords move by gradient at a rate of their own.
        whitener: fitted to normalised items before the first step; checkpoints keep it.
        shown: the part that a progress bar shows.
        made: views that were made before, see `faiss_pqvae.data.flat_views`: every view is one of
            an item's, or the item itself, and none is made besides.
    """

    resumes_within_epochs = True

    def __init__(
        self,
        setup: Setup,
        terms: Callable[..., Terms],
        *,
        n_views: int = 1,
        neighbours: int = 0,
        small_views: float = 0.0,
        warmup_steps: int = 0,
        trains_decoder: bool = True,
        by_batch: bool = False,
        own_rate: bool = False,
        whitener: Fitted | None = None,
        shown: str = "loss",
        made: Any = None,
    ) -> None:
        self.model, self.config, self.progress = setup.model, setup.config, setup.progress
        self.items = items_of(setup)
        self.examples = self.items.train_rows
        self.batch_size = min(self.config.batch_size, len(self.examples))
        self.epochs, self.patience = self.config.epochs, self.config.patience
        self.precision = self.config.precision
        self.shown = shown
        self._terms, self._n_views, self._small_views = terms, n_views, small_views
        self._warmup_steps, self._trains_decoder = warmup_steps, trains_decoder
        self._by_batch, self._own_rate = by_batch, own_rate
        self._whitener = whitener
        self._kept, self._neighbours = setup.kept, neighbours
        self._made = as_made(made, self.items, self.model)
        self._nearest: Rows | None = None  # (len(items), neighbours), once they are found
        self._bypass = True  # until there are codewords
        self._small = False  # whether the last step's views were

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `groups_of`."""
        return groups_of(self.model, self.config, own_rate=self._own_rate)

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Fits the normalisation and what the objective prepares, and chooses the precision."""
        rows = self.items.spread(NORMALIZATION_ITEMS)
        with Progress("normalization and precision", shown=self.progress):
            sample = self.items.read(rows)
            self.model.fit_normalization(sample)
            if self._whitener is not None:
                self._whitener.fit(self.model.normalize(sample))
            if self.precision == "auto":
                batch = self.items.read(rows[: self.batch_size])
                self.precision = faster_precision(self.model, batch)
        self._find_nearest()
        return {}, None

    def _find_nearest(self) -> None:
        """Finds every item's neighbours in the training part, or takes those that are kept."""
        if self._neighbours:
            found = self._kept.made("neighbours", self._found_nearest)
            self._nearest = found["rows"].numpy()

    @torch.no_grad()
    def _found_nearest(self) -> dict[str, Any]:
        items = self.items
        held, train = (self._told_by(rows) for rows in (items.validation_rows, items.train_rows))
        mean = train.mean(0)
        held, train = held - mean, train - mean
        if train.shape[1] > _DIRECTIONS:
            main = torch.linalg.eigh(train.T @ train).eigenvectors[:, -_DIRECTIONS:]
            held, train = held @ main, train @ main
        held, train = functional.normalize(held), functional.normalize(train)
        k = min(self._neighbours, len(train) - 1)
        own = torch.arange(len(train), device=train.device)
        rows = np.empty((len(items), k), np.int64)
        with Progress("neighbours", len(items), unit="vectors", shown=self.progress) as bar:
            of_held, _ = nearest(held, train, k, metric="inner_product", bar=bar)
            of_train, _ = nearest(train, train, k, metric="inner_product", skip=own, bar=bar)
        rows[items.validation_rows] = items.train_rows[of_held.cpu().numpy()]
        rows[items.train_rows] = items.train_rows[of_train.cpu().numpy()]
        return {"rows": torch.from_numpy(rows)}

    def _told_by(self, rows: Rows) -> Tensor:
        """What says how near items are: vectors, or features of a network that learns along."""
        network = self.model.backbone
        if network is None:
            return self.items.vectors(rows)
        self.model.eval()
        found = []
        with Progress("features", len(rows), unit="items", shown=self.progress) as bar:
            for part in parts(rows):
                found.append(network(to_float(self.items.read(part))))
                bar.update(len(part))
        return torch.cat(found)

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        whitener = None if self._whitener is None else self._whitener.matrix
        return {"precision": self.precision, "whitener": whitener, "bypass": self._bypass}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`."""
        self.precision, self._bypass = state["precision"], state["bypass"]
        whitener: Tensor | None = state["whitener"]
        if self._whitener is not None and whitener is not None:
            self._whitener.matrix = whitener.to(self.items.device)
        self._find_nearest()

    def fingerprint(self) -> dict[str, Any]:
        """Views that were made before: items and settings are all else."""
        return key_of_made(self._made, progress=self.progress)

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of views of the items in rows `examples`."""
        warm = step >= self._warmup_steps or way.at >= way.end // 10
        if self._bypass and warm:
            initialize_codewords(
                self.model, self.items, batch_size=self.batch_size, progress=self.progress
            )
            self._bypass = False
        self.model.train()
        size = view_size(self._small_views, self.model.input_shape, way)
        self._small = size is not None
        return self._of_batch(np.sort(examples), generator, size)

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Moves codewords that are not used any more."""
        move_dead(self.model, self.config, terms.latents, terms.ids, step, generator)

    def after_epoch(self) -> None:
        """Nothing: the codewords moved with every step."""

    def _of_batch(
        self, rows: Rows, generator: torch.Generator, size: tuple[int, int] | None = None
    ) -> Terms:
        assert self.config.views is not None  # settled
        with self._autocast():
            clean, views = own_views(
                self.items,
                rows,
                self.config.views,
                generator,
                n_views=self._n_views,
                size=size,
                nearest_rows=self._nearest,
                made=self._made,
            )
            return self._terms(views, clean, bypass=self._bypass)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.items.device.type, torch.bfloat16, enabled=enabled)

    def validate(self) -> Validation:
        """Means over the validation part, through the same views every time."""
        sums, ratio = dict[str, float](), 0.0
        rows, generator = self.items.validation_rows, self.items.generator("validation")
        with Progress(
            "validation", len(rows), unit="items", shown=self.progress, inner=True
        ) as bar:
            for part in parts(rows, self.batch_size if self._by_batch else PART):
                for name, value in values_of(self._of_batch(part, generator)).items():
                    sums[name] = sums.get(name, 0.0) + len(part) * value
                z = encoded(self.model, self.items, part)
                ratio += len(part) * self.model.quantizer.distance_ratio(z)
                bar.update(len(part))
        means = {name: value / len(rows) for name, value in sums.items()}
        # The loss without the bottleneck does not compare with the loss through it; and what has
        # seen small views only is not ready, even where its loss does not fall for a while.
        counts = not (self._bypass or self._small)
        return Validation(means, ratio / len(rows), counts=counts, facts={})

    def finish(self) -> None:
        """Fits a decoder that was not trained."""
        if not self._trains_decoder:
            fit_decoder(self.model, self.items, progress=self.progress)

    def release(self) -> None:
        """Nothing of the model was changed for the training alone."""


def own_views(
    items: Items,
    rows: Rows,
    views: Views,
    generator: torch.Generator,
    *,
    n_views: int,
    size: tuple[int, int] | None,
    nearest_rows: Rows | None = None,
    made: Any = None,
) -> tuple[Tensor, Tensor]:
    """The items of this process's share of a batch, and views of them.

    Args:
        items: of a training.
        rows: (n,) int64, of the batch.
        views: strengths.
        generator: of what is random in them; every process draws for the whole batch.
        n_views: of every item.
        size: height and width of views of images, see `random_views`.
        nearest_rows: (len(items), k) of the neighbours of every row: every second view of a vector
            is one of one of these.
        made: (len(items) * K, *shape), views that were made before: each of the n_views is
            another of these, or the item as it is, in place of a random one.

    Returns:
        Items (n_own, *shape) as they are, and views (n_views * n_own, *shape) float, one of every
        item after another.
    """
    own = team.share(len(rows))
    n_made = 0 if made is None else len(made) // len(items)
    # Vectors are disturbed by what the whole batch is like.
    if views.of_vectors or nearest_rows is not None or n_made:
        read, found = items.read(rows), []
        choices = _choices(len(rows), n_made, generator) if n_made else None
        for view in range(n_views):
            seen = rows
            if nearest_rows is not None and view % 2:
                place = torch.randint(nearest_rows.shape[1], (len(rows),), generator=generator)
                seen = nearest_rows[rows, place.numpy()]
            beside = seen is not rows
            x = to_float(read_any_rows(items.x, seen, WHAT).to(read.device) if beside else read)
            if choices is not None:
                x = _chosen(x, made, seen, choices[:, view % (n_made + 1)], n_made)
            else:
                x = random_views(x, views, generator, size=size)
            found.append(x[own])
        return read[own], torch.cat(found)
    clean = items.read(rows[own])
    x = to_float(clean)
    found = [
        random_views(x, views, generator, size=size, own=own, n=len(rows)) for _ in range(n_views)
    ]
    return clean, torch.cat(found)


def _choices(n: int, n_made: int, generator: torch.Generator) -> Rows:
    """Which view each of n items is seen in, one after another: 0 is the item itself.

    (n, n_made + 1) int64, a permutation in every row.
    """
    order: Rows = torch.rand(n, n_made + 1, generator=generator).argsort(1).numpy()
    return order


def _chosen(x: Tensor, made: Any, rows: Rows, choice: Rows, n_made: int) -> Tensor:
    """Items x (n, *shape) float, or the views of theirs that were chosen."""
    there = np.flatnonzero(choice)
    if not len(there):
        return x
    views = read_any_rows(made, rows[there] * n_made + choice[there] - 1, MADE).to(x.device)
    x = x.clone()
    x[torch.from_numpy(there).to(x.device)] = to_float(views)
    return x


def as_made(views: Any, items: Items, model: PQVAE) -> Any:
    """Views that were made before, if there are any, in one row after another."""
    return None if views is None else flat_views(views, len(items), model.input_shape)


def key_of_made(made: Any, *, progress: bool) -> dict[str, str]:
    """What a checkpoint has to know of views that were made before; nothing where there are none.

    Args:
        made: see `as_made`.
        progress: draw a bar.
    """
    return {} if made is None else {"views": content_key(made, MADE, progress=progress)}


def encoded(model: PQVAE, items: Items, rows: Rows) -> Tensor:
    """Latents (n, latent_dim) of a batch's rows (n,), of which every process encodes its share."""
    return team.gathered(model.encode(items.read(rows[team.share(len(rows))])), len(rows))


def settled_small_views(share: float | None, model: PQVAE) -> float:
    """The share of a training with small views; None takes 0.7 for the residual encoders, else 0.

    Args:
        share: in [0, 1], or None.
        model: to be trained.

    Raises:
        ValueError: a share for an encoder that takes one size only.
    """
    scales = isinstance(model.encoder, ResNet)
    if share and not scales:
        raise ValueError(
            f"expected small_views with a residual encoder, got {share} with "
            f"{model.config.encoder!r}"
        )
    if share is None:
        return _SMALL_SHARE if scales else 0.0
    return share


def view_size(small_views: float, shape: tuple[int, ...], way: Way) -> tuple[int, int] | None:
    """Height and width of a step's views, where they are not those of the images (c, h, w)."""
    if way.at >= small_views * way.end:
        return None
    _, height, width = shape
    return max(1, round(_SMALL * height)), max(1, round(_SMALL * width))


def groups_of(model: PQVAE, config: TrainingConfig, *, own_rate: bool) -> list[dict[str, Any]]:
    """Parameter groups: what moves at a rate of its own, and the rest.

    Args:
        model: to be trained. An encoder that was handed in has its own learning rate.
        config: has the highest learning rates.
        own_rate: whether codewords learn by gradient at a rate that suits their size.
    """
    codewords = model.quantizer.codewords
    backbone = [] if model.backbone is None else list(model.backbone.parameters())
    apart = {id(p) for p in ([codewords] if own_rate else []) + backbone}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if own_rate:
        # Their components are of that size: a step turns them as far as it turns larger weights.
        highest = config.lr * model.latent_dim**-0.5
        groups.append({"params": [codewords], "highest": highest, "weight_decay": 0.0})
    if model.backbone is not None:
        thaw(model.backbone, 1.0)
        learning = [p for p in backbone if p.requires_grad]
        own = config.fine_tuning_lr
        highest = model.backbone.lr if own is None else own
        groups.append({"params": learning, "highest": highest, "weight_decay": 0.0})
    return groups
