"""Vectors: sums of codewords, fitted to the codes that a beam search finds for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.model.additive import first_alike, lift
from faiss_pqvae.model.additive_code import AdditiveCode, levels_of
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import Precision, TrainingConfig
from ..data.items import Rows
from ..data.mixing import filled_up
from ..data.queries import Queries, check_queries, split_queries
from ..data.views import Views
from .linear_start import Coarse
from .neighbours import nearest, nearest_centroids
from .protocol import Setup, Terms, Validation, Way, items_of
from .query_map import Compared, learn_query_map
from .residual_start import MakeCodebooks
from .sums import Sums, networks_of_sums

_CODED_AT_A_TIME = 8192
_QUERIES = 2000  # held-out items whose neighbours are looked for
_RECALL_AT = 10
_PENALTIES = (0.0, 0.25, 0.5, 0.75, 1.0)


@objectives.register("additive")
@dataclass(frozen=True)
class Additive:
    """How vectors get sums of codewords that look-up tables compare exactly.

    From FAISS's residual quantizer on, in turn a beam search chooses the codes of all items, and
    codebooks go to the means of what the others leave over. By L2 the last code of an item is the
    squared length of its sum.

    Attributes:
        items: vectors to train with, drawn from the training part; in memory as float32.
        start_items: of these, what the start's codebooks are learned from.
        filled: so many are made of fewer by mixtures, see `training.data.mixing`.
        mixing: share of the second vector in a mixture, at most; 0 makes none.
        rounds: of codes and codebooks in turn; a budget of minutes can be over before.
        sweeps: through the codebooks in every round.
        effort: of the choice of codes in the rounds, see `LatentIndex.effort`.
    """

    title: ClassVar[str] = "PQ-VAE"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ("codebooks", "coarse", "queries")

    items: int = 200_000
    start_items: int = 65_536
    filled: int = 200_000
    mixing: float = 0.8
    rounds: int = 16
    sweeps: int = 3
    effort: int = 8

    def __post_init__(self) -> None:
        check_numbers(self)
        lowest = {"items": 2, "start_items": 1, "filled": 0, "rounds": 0, "sweeps": 1, "effort": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} >= {low}, got {getattr(self, name)}")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"expected mixing in [0, 1], got {self.mixing}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Additive codes, as product codes of vectors that are repeated."""
        return CodeSpec(latents="repeated unit" if unit else "repeated", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """None: sums of codewords alone.

        Raises:
            ValueError: networks, latents of another size, or items that are no vectors.
        """
        return networks_of_sums(config, input_shape, "additive", "additive")

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """What makes the start's codebooks, coarse centroids and queries, if there are any."""
        found = {**given, "queries": check_queries(given.get("queries"))}
        return {name: value for name, value in found.items() if value is not None}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[Additive, TrainingConfig]:
        """Single precision, and no views.

        Raises:
            ValueError: views that change vectors.
        """
        filled = config.for_shape(model.input_shape)
        if filled.views != Views():
            raise ValueError(f"expected no views for the objective 'additive', got {filled.views}")
        return self, replace(filled, precision="float32")

    def task(self, setup: Setup, given: dict[str, Any]) -> AdditiveTask:
        """Items, their codes, and codebooks."""
        if setup.pretrained:
            raise ValueError("expected no pretrained model for the objective 'additive'")
        return AdditiveTask(setup, self, **given)


class AdditiveTask:
    """A `Task` that is done when it has started: no step of it is one of a gradient.

    Args:
        setup: see `Setup`; the model has an additive code.
        settings: of the objective.
        codebooks: makes the start's, see `residual_start.residual_codebooks`.
        coarse: centroids of which the nearest is taken off every item before it is coded, or None.
        queries: real ones (nq, d), or None.
    """

    resumes_within_epochs = False
    precision: Precision = "float32"
    patience = 0
    epochs = 0
    shown = f"recall@{_RECALL_AT}"

    def __init__(
        self,
        setup: Setup,
        settings: Additive,
        *,
        codebooks: MakeCodebooks | None = None,
        coarse: Coarse | None = None,
        queries: Any = None,
    ) -> None:
        model, config = setup.model, setup.config
        self.model, self.settings = model, settings
        self.decoder = cast(AdditiveCode, model.decoder)
        self.progress, self.kept = setup.progress, setup.kept
        self.budget_s = config.budget_s
        self.items = items = items_of(setup, most=settings.items)
        self.x, self.held_out = (
            self._as_compared(items.vectors(rows))
            for rows in (items.train_rows, items.validation_rows)
        )
        self.make_codebooks, self.coarse = codebooks, coarse
        self.real: Queries | None = None
        if queries is not None:
            self.real = split_queries(
                queries,
                model.input_shape,
                unit=model.spec.is_unit,
                generator=items.generator("queries"),
                device=setup.device,
            )
        self.examples: Rows = torch.arange(len(self.x)).numpy()
        self.batch_size = min(config.batch_size, len(self.examples))

    def _as_compared(self, x: Tensor) -> Tensor:
        return functional.normalize(x) if self.model.spec.is_unit else x

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The codebooks, which no step will move."""
        return [{"params": [self.decoder.codebooks]}]

    @torch.no_grad()
    def start(self) -> tuple[dict[str, Any], float | None]:
        """All of the training: codebooks, and what lengths are told apart."""
        decoder = self.decoder
        around = self._around()
        left = self.x if around is None else self.x - around
        decoder.centre.copy_(left.mean(0))
        settings = self.settings
        more = filled_up(left, settings.filled, settings.mixing, self.items.generator("mixing"))
        errors = self._sums(more).fit(
            self.make_codebooks,
            start_items=settings.start_items,
            rounds=settings.rounds,
            sweeps=settings.sweeps,
            kept=self.kept,
            generator=self.items.generator("start"),
            budget_s=self.budget_s,
        )
        ids = self._sums(left).codes()
        recalls = self._judge(left, ids, around)
        self._inject()
        facts = {"errors": errors, f"validation_{self.shown}": recalls}
        return {**facts, "penalty": float(decoder.penalty)}, 1 - max(recalls)

    def _sums(self, left: Tensor) -> Sums:
        return Sums(self.decoder, left, effort=self.settings.effort, progress=self.progress)

    def _around(self) -> Tensor | None:
        """The coarse centroids (n, d) nearest to the items."""
        if self.coarse is None:
            return None
        return nearest_centroids(self.coarse, self.x, self.model.spec.metric).of_all()

    def _judge(self, left: Tensor, ids: Tensor, around: Tensor | None) -> list[float]:
        """Takes the penalty with which held-out items find their neighbours, and the lengths.

        Args:
            left: (n, d), what is coded.
            ids: (n, M), the codes.
            around: (n, d), what was taken off before, or None.

        Returns:
            1-recall@10 for every penalty.
        """
        decoder, metric = self.decoder, self.model.spec.metric
        queries = self.held_out[:_QUERIES]
        truth, _ = nearest(queries, self.x, 1, metric=metric)
        decoded, missed = self._decoded(left, ids, around)
        recalls = []
        for penalty in _PENALTIES if decoder.has_lengths else _PENALTIES[:1]:
            stored = torch.cat([decoded, (penalty * missed).sqrt().unsqueeze(1)], 1)
            k = min(_RECALL_AT, len(stored))
            found, _ = nearest(functional.pad(queries, (0, 1)), stored, k, metric=metric)
            recalls.append(float((found == truth).any(1).float().mean()))
        if decoder.has_lengths:
            decoder.penalty.fill_(_PENALTIES[recalls.index(max(recalls))])
            lengths = torch.cat(
                [
                    decoder.compared_lengths(part - decoder.centre, codes)
                    for part, codes in zip(
                        torch.split(left, _CODED_AT_A_TIME),
                        torch.split(ids, _CODED_AT_A_TIME),
                        strict=True,
                    )
                ]
            )
            decoder.lengths.copy_(levels_of(lengths, decoder.ksub))
        return recalls

    def _decoded(self, left: Tensor, ids: Tensor, around: Tensor | None) -> tuple[Tensor, Tensor]:
        """What items (n, d) are decoded to, and the squares (n,) of what that misses."""
        decoded = self.decoder.decode(ids)
        missed = (left - decoded).square().sum(1)
        return (decoded if around is None else decoded.add_(around)), missed

    def _inject(self) -> None:
        """Gives the model's quantizer the tables of the code."""
        decoder, quantizer = self.decoder, self.model.quantizer
        one = torch.ones((), device=self.x.device)
        lifted = lift(decoder.tables(), decoder.centre, one, self.model.spec.metric)
        quantizer.codewords.copy_(lifted.codewords)
        decoder.offset.copy_(lifted.offset)
        # Codewords that no item had can be the same. FAISS stores the one that it finds first.
        for m, codewords in enumerate(lifted.codewords):
            decoder.merge(m, first_alike(codewords))

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`."""

    def fingerprint(self) -> dict[str, Any]:
        """Queries, coarse centroids, and what the codes are compared by."""
        about = {} if self.real is None else {"queries": self.real.key}
        if self.coarse is not None:
            about["coarse"] = self.coarse.settings
        start = "k-means" if self.make_codebooks is None else "RQ"
        return {"metric": self.model.spec.metric, "start": start, **about}

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """No step is taken."""
        raise AssertionError("the start is all of this training")

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Nothing."""

    def after_epoch(self) -> None:
        """Nothing."""

    def validate(self) -> Validation:
        """No epoch is measured."""
        return Validation({"loss": math.nan}, math.nan, counts=False, facts={})

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Learns the map of queries, where there are real ones."""
        if self.real is None:
            return {}
        around = self._around()
        left = self.x if around is None else self.x - around
        decoded, missed = self._decoded(left, self._sums(left).codes(), around)
        stored = torch.cat([decoded, (self.decoder.penalty * missed).sqrt().unsqueeze(1)], 1)
        with torch.enable_grad():
            facts = learn_query_map(
                self.model,
                self.real,
                Compared(
                    self.x,
                    stored,
                    lambda x: functional.pad(self._as_compared(x), (0, 1)),
                    self.model.spec.metric,
                ),
                generator=self.items.generator("map of queries"),
                progress=self.progress,
            )
        return {"queries": facts}

    def release(self) -> None:
        """Nothing: the model is as it was."""
