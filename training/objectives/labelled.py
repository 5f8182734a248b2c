"""A training on items with labels, and such as have none."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.data.labels import Labels
from faiss_pqvae.model import team
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.progress import Progress

from ..config import TrainingConfig
from ..data.items import Rows, parts
from ..data.sampler import Sampler, class_matrix, share_class
from ..data.views import Views
from ..device import faster_precision
from ..latents import fit_decoder, initialize_codewords, move_dead, refine_codewords
from .contrastive import nt_xent
from .protocol import Setup, Terms, Validation, Way, items_of
from .pseudo_labels import PseudoLabels, least_agreement, vote, with_classes
from .view_task import (
    NORMALIZATION_ITEMS,
    as_made,
    encoded,
    groups_of,
    key_of_made,
    own_views,
    settled_small_views,
    view_size,
)

_QUERIES, _STORED = 500, 1000  # held-out items that are searched for, and among how many


@dataclass(frozen=True)
class LabelTraining:
    """What is made of labelled items, and of items without.

    Attributes:
        labelled: share of a batch that is drawn from the labelled items, where some have none; the
            others take part in the quantization, and in the contrast where there is one.
        contrast: weight of the contrast between views (see the objective "contrastive"), for
            labelled and other items alike; items of one class are not told apart. A step then
            has several views of every item, and takes as many times longer.
        n_views: of every item, where there is a contrast, at least 2.
        temperature: of the contrast.
        small_views: share of a training of images, from its start on, in which views have 5/8 of
            the height and width. None takes 0.7 for the residual encoders, and 0 for others.
        pseudo_labels: items without a label take the class that the nearest labelled ones vote
            for, as many as agree so far that of held-out labelled items this share is right, such
            as 0.95; none where no agreement is enough. 0 gives none.
        pseudo_labels_from: share of the training after which they take it: half way, or 0 where
            the encoder was pretrained with these labels.
    """

    labelled: float = 0.9
    contrast: float = 0.0
    n_views: int = 4
    temperature: float = 0.5
    small_views: float | None = None
    pseudo_labels: float = 0.0
    pseudo_labels_from: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.labelled <= 1:
            raise ValueError(f"expected labelled in (0, 1], got {self.labelled}")
        if not (math.isfinite(self.contrast) and self.contrast >= 0):
            raise ValueError(f"expected contrast >= 0, got {self.contrast}")
        if self.n_views < 2:
            raise ValueError(f"expected n_views >= 2, got {self.n_views}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"expected temperature > 0, got {self.temperature}")
        if not 0 <= self.pseudo_labels <= 1:
            raise ValueError(f"expected pseudo_labels in [0, 1], got {self.pseudo_labels}")
        if not 0 <= self.pseudo_labels_from < 1:
            raise ValueError(
                f"expected pseudo_labels_from in [0, 1), got {self.pseudo_labels_from}"
            )
        if self.small_views is not None and not 0 <= self.small_views <= 1:
            raise ValueError(f"expected small_views in [0, 1], got {self.small_views}")


def settled_labels(
    settings: LabelTraining, model: PQVAE, config: TrainingConfig
) -> tuple[LabelTraining, TrainingConfig]:
    """Views that differ, and how long they are small.

    Raises:
        ValueError: views that change nothing, where there is a contrast.
    """
    config = config.for_shape(model.input_shape, strong=True)
    if settings.contrast and config.views == Views():
        raise ValueError("expected views that change something for a contrast, got none")
    small_views = settled_small_views(settings.small_views, model)
    return replace(settings, small_views=small_views), config


class LabelTerms(NamedTuple):
    """The loss of a batch.

    Attributes:
        loss: scalar.
        parts: scalars by name, for the log.
        q: (n, latent_dim) float, what stands for the latents in a contrast.
        ids: (n, M) int64 codewords chosen.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    q: Tensor
    ids: Tensor


class LabelLoss(Protocol):
    """What latents and their classes are minimised for.

    Attributes:
        module: what learns beside the model, or None.
        refines: whether codebooks and codes are estimated again after every epoch, by k-means.
    """

    module: nn.Module | None
    refines: bool

    def terms(self, z: Tensor, y: Tensor, known: Tensor, way: Way) -> LabelTerms:
        """The loss of latents.

        Args:
            z: (n, latent_dim) float.
            y: (n, C) float of zeros and ones: their classes.
            known: (n,) bool: which have a class.
            way: how far the training is.
        """
        ...

    def validated(self, z: Tensor, y: Tensor) -> dict[str, float]:
        """What is said of held-out latents (n, latent_dim) of classes (n, C), by name."""
        ...

    def fingerprint(self) -> bytes:
        """What is learned from besides labels."""
        ...


class LabelTask:
    """A `Task`: the class of labelled items, and the quantization of all.

    Args:
        setup: see `Setup`.
        labels: of all items.
        settings: settled.
        make_loss: makes the loss, of the task's generator for what it draws.
        made: views that were made before, see `ViewTask`.
    """

    resumes_within_epochs = True
    shown = "mAP"

    def __init__(
        self,
        setup: Setup,
        labels: Labels,
        settings: LabelTraining,
        make_loss: Callable[[torch.Generator], LabelLoss],
        *,
        made: Any = None,
    ) -> None:
        assert setup.config.views is not None  # settled
        self.model, self.config, self.labels = setup.model, setup.config, labels
        self.learned = labels  # with those of items that had none
        self.settings, self.views, self.progress = settings, setup.config.views, setup.progress
        labelled = labels.labelled
        self.items = items_of(setup, labelled=labelled)
        self.made = as_made(made, self.items, self.model)
        self.examples = self.items.train_rows
        self.batch_size = min(self.config.batch_size, len(self.examples))
        self.epochs, self.patience = self.config.epochs, self.config.patience
        self.precision = self.config.precision
        self.ready = False  # whether there are codewords
        self.known = self.items.train_rows[labelled[self.items.train_rows]]
        self.held = self.items.validation_rows[labelled[self.items.validation_rows]]
        self.sampler = Sampler(labels, self.known)
        if self.sampler.n_classes < 2:
            raise ValueError(
                "expected labelled items of two classes or more besides those that are held out, "
                f"got {len(self.known)} items of {self.sampler.n_classes}"
            )
        # An epoch of labelled items has every pair of classes often enough, unless they are many.
        everything = len(self.known) == len(self.examples)
        self.draws = not everything or 4 * labels.n_classes > self.batch_size
        if settings.pseudo_labels and int(np.diff(labels.starts).max()) > 1:
            raise ValueError(
                "expected one class an item for pseudo-labels, got items of several: leave "
                "pseudo_labels at 0"
            )
        self.pseudo: PseudoLabels | None = None
        self.share = 0.0  # of the way
        self.loss = make_loss(self.items.generator("classes"))
        if self.loss.module is not None:
            self.loss.module.to(self.items.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All weights; residual codewords move at a rate of their own."""
        residual = self.model.structure == "residual"
        groups = groups_of(self.model, self.config, own_rate=residual)
        if self.loss.module is not None:
            groups[0]["params"] += list(self.loss.module.parameters())
        return groups

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Fits the normalisation, and chooses the precision."""
        rows = self.items.spread(NORMALIZATION_ITEMS)
        with Progress("normalization and precision", shown=self.progress):
            self.model.fit_normalization(self.items.read(rows))
            if self.precision == "auto":
                batch = self.items.read(rows[: self.batch_size])
                self.precision = faster_precision(self.model, batch)
        return {"classes": self.labels.n_classes, "labelled_items": len(self.known)}, None

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        module = {} if self.loss.module is None else self.loss.module.state_dict()
        return {
            "precision": self.precision,
            "ready": self.ready,
            "classes": dict(module),
            "pseudo": None if self.pseudo is None else self.pseudo.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`."""
        self.precision, self.ready = state["precision"], state["ready"]
        if self.loss.module is not None:
            self.loss.module.load_state_dict(state["classes"])
        if state["pseudo"] is not None:
            self._take(PseudoLabels.of_state(state["pseudo"]))

    def fingerprint(self) -> dict[str, Any]:
        """A hash of what is learned from besides the items."""
        digest = zlib.crc32(self.labels.classes.tobytes() + self.labels.starts.tobytes())
        found = {"labels": f"{zlib.crc32(self.loss.fingerprint(), digest):08x}"}
        return found | key_of_made(self.made, progress=self.progress)

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of a batch: `examples`, and labelled items in place of some of them."""
        if not self.ready:
            initialize_codewords(
                self.model, self.items, batch_size=self.batch_size, progress=self.progress
            )
            self.ready = True
        self.model.train()
        self.share = (way.at + 1) / way.end  # when this step is done, or a second later
        rows = np.sort(self._batch(examples, generator))
        size = view_size(self.settings.small_views or 0.0, self.model.input_shape, way)
        contrast = self.settings.contrast
        n_views = self.settings.n_views if contrast else 1
        enabled, device = self.precision == "bfloat16", self.items.device.type
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            _, views = own_views(
                self.items,
                rows,
                self.views,
                generator,
                n_views=n_views,
                size=size,
                made=self.made,
            )
            z = team.gathered(self.model.encode(views), len(rows), groups=n_views)
        y = class_matrix(self.learned, rows).to(z.device)
        found = self.loss.terms(z, y.repeat(n_views, 1), y.any(1).repeat(n_views), way)
        loss = found.loss
        if contrast:
            found.parts["contrast"] = nt_xent(
                functional.normalize(z),
                functional.normalize(found.q),
                n_items=len(rows),
                temperature=self.settings.temperature,
                alike=share_class(y, y),
            )
            loss = loss + contrast * found.parts["contrast"]
        return Terms(loss, found.parts, z.detach(), found.ids)

    def _batch(self, examples: Rows, generator: torch.Generator) -> Rows:
        if not self.draws:
            return examples
        everything = len(self.known) == len(self.examples)
        share = 1.0 if everything else self.settings.labelled
        n = min(len(examples), max(2, round(share * len(examples))))
        return np.concatenate([self.sampler.draw(n, generator), examples[n:]])

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Moves codewords that are not used any more; items without a label may get one."""
        move_dead(self.model, self.config, terms.latents, terms.ids, step, generator)
        asked = self.settings.pseudo_labels and self.share >= self.settings.pseudo_labels_from
        if asked and self.pseudo is None:
            self._take(self._voted())

    def after_epoch(self) -> None:
        """Codebooks and codes are estimated again, where no gradient moves the codewords."""
        if self.loss.refines:
            refine_codewords(self.model, self.items, progress=self.progress)

    @torch.no_grad()
    def _voted(self) -> PseudoLabels:
        """The classes of items without, as far as held-out items say that they are right."""
        self.model.eval()
        train = self.items.train_rows
        unknown = train[~self.labels.labelled[train]]
        z, y = self._encoded(self.known), class_matrix(self.labels, self.known)
        y = y.to(z.device)
        of_held = vote(self._encoded(self.held), z, y)
        truth = class_matrix(self.labels, self.held).argmax(1).to(z.device)
        least, right, held = least_agreement(of_held, truth, self.settings.pseudo_labels)
        found = vote(self._encoded(unknown), z, y, progress=self.progress)
        agrees = (found.agreement >= least).cpu().numpy()
        return PseudoLabels(unknown[agrees], found.classes.cpu().numpy()[agrees], right, held)

    def _take(self, found: PseudoLabels) -> None:
        """Learns from the classes of items that had none, too."""
        self.pseudo = found
        self.learned = with_classes(self.labels, found)
        train = self.items.train_rows
        self.sampler = Sampler(self.learned, train[self.learned.labelled[train]])

    @torch.no_grad()
    def validate(self) -> Validation:
        """1 - mAP of held-out labelled items, as the index would find them, and the losses."""
        z = self._encoded(self.items.validation_rows)
        rows = _spread(self.held, _QUERIES)
        queries = z[torch.from_numpy(np.searchsorted(self.items.validation_rows, rows))]
        y = class_matrix(self.labels, rows).to(z.device)
        precision = self._map(queries, rows)
        values = {
            "loss": 1.0 if precision is None else 1 - precision,
            **self.loss.validated(queries, y),
            "quantization": float(self.model.quantizer(z).commitment_loss),
        }
        ratio = self.model.quantizer.distance_ratio(z)
        facts: dict[str, Any] = {} if precision is None else {"validation_mAP": precision}
        if self.pseudo is not None:
            facts["pseudo_labels"] = len(self.pseudo.rows)
            facts["pseudo_labels_right"] = {"of": self.pseudo.held, "share": self.pseudo.right}
        # Where there is no precision, the last weights are as good as any.
        return Validation(values, ratio, counts=precision is not None, facts=facts)

    def _encoded(self, rows: Rows) -> Tensor:
        z = [torch.empty(0, self.model.latent_dim, device=self.items.device)]
        with Progress(
            "validation", len(rows), unit="items", shown=self.progress, inner=True
        ) as bar:
            for part in parts(rows):
                z.append(encoded(self.model, self.items, part))
                bar.update(len(part))
        return torch.cat(z)

    def _map(self, queries: Tensor, rows: Rows) -> float | None:
        """The mAP of latents of items among codes, their own and those of other labelled items."""
        others = self._others(rows)
        q = self.model.quantizer(torch.cat([queries, self._encoded(others)])).z_q
        scores = queries @ q.T
        if self.model.structure == "product":
            scores = 2 * scores - q.square().sum(1)  # L2
        y = class_matrix(self.labels, np.concatenate([rows, others])).to(q)
        relevant = share_class(y[: len(rows)], y)
        n = torch.arange(len(rows), device=scores.device)
        scores[n, n], relevant[n, n] = -torch.inf, False  # nothing finds itself
        return mean_average_precision(scores, relevant)

    def _others(self, rows: Rows) -> Rows:
        """Labelled items of the training part, those that share a class with `rows` first."""
        wanted = class_matrix(self.labels, rows).any(0).numpy()
        item = np.repeat(np.arange(len(self.labels.starts) - 1), np.diff(self.labels.starts))
        near = np.isin(self.known, item[wanted[self.labels.classes]])
        n = _STORED - len(rows)
        first = _spread(self.known[near], n)
        return np.sort(np.concatenate([first, _spread(self.known[~near], n - len(first))]))

    def finish(self) -> None:
        """Fits the decoder, which was not trained."""
        fit_decoder(self.model, self.items, progress=self.progress)

    def release(self) -> None:
        """Nothing of the model was changed for the training alone."""


def _spread(rows: Rows, most: int) -> Rows:
    """At most so many of the rows, at even distances."""
    return rows[:: max(1, -(-len(rows) // most))] if most else rows[:0]


@torch.no_grad()
def mean_average_precision(scores: Tensor, relevant: Tensor) -> float | None:
    """Mean of AP = sum_i P(i) rel(i) / R over all ranks i, of the queries that have R > 0.

    Args:
        scores: (nq, n) float, the higher the better.
        relevant: (nq, n) bool.

    Returns:
        The mean; None where no query has R > 0.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    found = relevant.gather(1, order).double()
    ranks = torch.arange(1, found.shape[1] + 1, device=found.device)
    total = found.sum(1)
    precision = (found.cumsum(1) / ranks * found).sum(1) / total.clamp(min=1)
    return float(precision[total > 0].mean()) if total.any() else None
