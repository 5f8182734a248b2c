"""Vectors, from the best linear code on, towards the order of distances that is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.model import team
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import Precision, TrainingConfig
from ..data.items import Rows
from ..data.queries import check_queries, split_queries
from ..data.views import Views
from .linear_start import Coarse, Start, Starts, begin_at, linear_layers, settle
from .neighbours import Neighbours, standard_errors
from .protocol import Setup, Terms, Validation, Way, items_of
from .query_map import Compared, learn_query_map

_RECALL_AT = 10  # what vectors are validated by
_PATIENCE = 3  # epochs, at most; what vectors gain they gain at once
_CONVINCING = 2.0  # standard errors by which they must find more than at the start


@objectives.register("ranking")
@dataclass(frozen=True)
class Ranking:
    """How vectors are trained: from OPQ on, towards the distances that are searched.

    What coarse centroids leave over of vectors is coded by the best start as it is.
    Queries that are given change nothing of the codes; they may get a map of their own, see
    `query_map`.

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

    title: ClassVar[str] = "PQ-VAE"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ("starts", "coarse", "queries")

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
        check_numbers(self)
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

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Product codes of latents as the matrix gives them."""
        return CodeSpec(latents="unit" if unit else "free", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """A matrix each way.

        Raises:
            ValueError: other networks, or items that are no vectors.
        """
        networks = (config.encoder or "linear", config.decoder)
        if len(input_shape) != 1 or networks != ("linear", "linear"):
            raise ValueError(
                "expected vectors and a linear encoder and decoder for the objective 'ranking', "
                f"got items of shape {input_shape}, {config.encoder!r} and {config.decoder!r}"
            )
        return config

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """What makes linear codes to start at, and queries if there are any."""
        starts = given.get("starts")
        if starts is None:
            raise ValueError(
                "expected starts for the objective 'ranking', a function that makes linear codes "
                "of vectors, got none: index_factory hands in OPQ and PQ"
            )
        queries = check_queries(given.get("queries"))
        found = {"starts": starts, "coarse": given.get("coarse")}
        return found | ({} if queries is None else {"queries": queries})

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[Ranking, TrainingConfig]:
        """Single precision, and no views.

        Raises:
            ValueError: views that change vectors.
        """
        filled = config.for_shape(model.input_shape)
        if filled.views != Views():
            raise ValueError(
                "expected no views for the objective 'ranking', whose vectors start at a linear "
                f"code, got {filled.views}"
            )
        return self, replace(filled, precision="float32")

    def task(self, setup: Setup, given: dict[str, Any]) -> VectorTask:
        """Anchors, and the order in which a search finds their neighbours."""
        if setup.pretrained:
            raise ValueError(
                "expected no pretrained model for the objective 'ranking': vectors with a matrix "
                "each way start at a linear code"
            )
        return VectorTask(setup, self, **given)


class VectorTask:
    """A `Task`: the ranking of near neighbours by the table look-ups of a search.

    Args:
        setup: see `Setup`; the model has a linear encoder and decoder.
        settings: of the objective.
        starts: makes linear codes of a sample of the training part, see `linear_start.Starts`.
        coarse: centroids of which the nearest is taken off every item before it is coded, or
            None.
        queries: real ones (nq, d), or None.
    """

    resumes_within_epochs = False  # the codes of the items are those at the start of an epoch
    precision: Precision = "float32"
    shown = f"recall@{_RECALL_AT}"

    def __init__(
        self,
        setup: Setup,
        settings: Ranking,
        *,
        starts: Starts,
        coarse: Coarse | None = None,
        queries: Any = None,
    ) -> None:
        model, config = setup.model, setup.config
        linear_layers(model)
        self.model, self.settings = model, settings
        self.starts, self.coarse = starts, coarse
        self.progress, self.kept = setup.progress, setup.kept
        self.items = items = items_of(setup, most=settings.items)
        self.queries = (
            None
            if queries is None
            else split_queries(
                queries,
                model.input_shape,
                unit=model.spec.is_unit,
                generator=items.generator("queries"),
                device=setup.device,
            )
        )
        self.epochs = min(config.epochs, settings.epochs)
        if coarse is not None:  # a start codes best what they leave over: ranking made it worse
            self.epochs, settings = 0, replace(settings, anchors=1)
        self.patience = min(config.patience, _PATIENCE)
        train, held_out = (
            self._as_compared(items.vectors(rows))
            for rows in (items.train_rows, items.validation_rows)
        )
        self.neighbours = Neighbours(
            model,
            train,
            held_out,
            settings,
            metric=model.spec.metric,
            generator=items.generator("anchors"),
            coarse=coarse,
            progress=setup.progress,
        )
        self.examples: Rows = torch.arange(len(self.neighbours.anchors)).numpy()
        self.batch_size = min(config.batch_size, len(self.examples))
        self.start_hits: Tensor | None = None  # what each query finds at the start

    def _as_compared(self, x: Tensor) -> Tensor:
        """Vectors as distances are between them."""
        return functional.normalize(x) if self.model.spec.is_unit else x

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Neighbours.parameter_groups`."""
        return self.neighbours.parameter_groups()

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Goes to the best start; what is trained must be better to be kept."""
        neighbours = self.neighbours
        neighbours.find(self.kept)
        generator = self.items.generator("start")
        order = torch.randperm(len(neighbours.items), generator=generator)
        rows = order[: self.settings.start_items]
        sample = neighbours.residuals(rows.to(neighbours.items.device)).cpu().numpy()
        starts = team.by_first(lambda: list(self.starts(sample, self.kept)))
        hits = [self._hits_from(start) for start in starts]
        best = starts[_most(hits)]
        rounds, progress = self.settings.rounds, self.progress
        residuals = neighbours.residuals()
        starts.append(settle(best, residuals, rounds, kept=self.kept, progress=progress))
        hits.append(self._hits_from(starts[-1]))
        chosen = _most(hits)
        self.start_hits = self._hits_from(starts[chosen])
        recalls = {
            start.name: float(found.mean()) for start, found in zip(starts, hits, strict=True)
        }
        facts = {f"validation_recall@{_RECALL_AT}": recalls, "start": starts[chosen].name}
        return facts, 1 - float(self.start_hits.mean())

    def _hits_from(self, start: Start) -> Tensor:
        begin_at(self.model, start)
        self.neighbours.encode()
        return self.neighbours.hits(_RECALL_AT)

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        return {"start_hits": self.start_hits}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`; the model is loaded before."""
        self.start_hits = state["start_hits"]
        self.neighbours.find(self.kept)
        self.neighbours.encode()

    def fingerprint(self) -> dict[str, Any]:
        """Queries and coarse centroids: items and settings are all else."""
        about = {} if self.queries is None else {"queries": self.queries.key}
        if self.coarse is not None:
            about["coarse"] = self.coarse.settings
        return {"metric": self.model.spec.metric, **about}

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The ranking of the anchors `examples`."""
        rows = torch.from_numpy(examples).to(self.neighbours.items.device)
        return self.neighbours.terms(rows, generator)

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Nothing: every codeword of a start is in use."""

    def after_epoch(self) -> None:
        """Nothing: what an epoch changes is in the weights."""

    def validate(self) -> Validation:
        """The share of neighbours that are not found, and how far that is below the start's."""
        neighbours = self.neighbours
        neighbours.encode()
        neighbours.fit_decoder()
        z = self.model.encode(neighbours.queries)
        error = neighbours.reconstruction_error(neighbours.queries)
        quantization = float(self.model.quantizer(z).commitment_loss)
        hits = neighbours.hits(_RECALL_AT)
        loss = 1 - float(hits.mean())
        assert self.start_hits is not None
        gain = standard_errors(hits - self.start_hits)
        return Validation(
            {"loss": loss, "reconstruction": error, "quantization": quantization},
            self.model.quantizer.distance_ratio(z),
            counts=gain >= _CONVINCING,
            facts={f"validation_recall@{_RECALL_AT}": 1 - loss, "gain_in_standard_errors": gain},
        )

    def finish(self) -> dict[str, Any]:
        """Learns the map of queries; the decoder was fitted when the weights were measured."""
        if self.queries is None:
            return {}
        neighbours, queries = self.neighbours, self.queries
        neighbours.encode()
        compared = Compared(
            neighbours.items, neighbours.decoded(), self.model.encode, self.model.spec.metric
        )
        facts = learn_query_map(
            self.model,
            queries,
            compared,
            generator=self.items.generator("map of queries"),
            progress=self.progress,
        )
        return {"queries": facts}

    def release(self) -> None:
        """Gives the codewords back, see `Neighbours.release`."""
        self.neighbours.release()


def _most(hits: list[Tensor]) -> int:
    """The place of the highest mean; of equals the first."""
    means = [float(found.mean()) for found in hits]
    return means.index(max(means))
