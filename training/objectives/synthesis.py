"""Vectors: codes chosen against a deep decoder, which learns to give back what is chosen."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.model import team
from faiss_pqvae.model.additive import Tables, first_alike, fitted, lift
from faiss_pqvae.model.additive_code import AdditiveCode
from faiss_pqvae.model.clustering import distance_ratio
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.progress import Progress
from faiss_pqvae.registry import objectives

from ..config import Precision, TrainingConfig
from ..data.items import Rows
from ..data.mixing import filled_up
from ..data.queries import Queries, check_queries, split_queries
from ..data.views import Views
from .linear_start import Coarse
from .neighbours import Around, nearest, nearest_centroids
from .protocol import Setup, Terms, Validation, Way, items_of
from .query_map import Compared, learn_query_map
from .residual_start import MakeCodebooks
from .sums import Sums, networks_of_sums

_CODED_AT_A_TIME = 8192
_QUERIES = 2000  # held-out items whose neighbours are looked for
_SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7)
_LISTED = 100  # what tables have to find for the decoder
_START_SHARE = 0.25  # of a budget, for the rounds before the decoder learns
_FASTER = 1.2  # below this the noise of a measurement decides


@objectives.register("synthesis")
@dataclass(frozen=True)
class Synthesis:
    """How vectors get additive codes with a deep decoder (analysis by synthesis).

    It starts at sums of codewords, see `Additive`. Then, in turn within every step, some codes are
    chosen anew by what the decoder makes of them, and the decoder learns to give the items back.

    Attributes:
        items: vectors to train with, drawn from the training part; in memory as float32.
        start_items: of these, what the start's codebooks are learned from.
        filled: so many are made of fewer by mixtures, see `training.data.mixing`.
        mixing: share of the second vector in a mixture, at most; 0 makes none.
        rounds: before the decoder learns, of codes and codebooks in turn, see `Additive`; in a
            quarter of a budget of minutes.
        sweeps: likewise.
        start_effort: of the choice of codes in these.
        table_items: of these, what the look-up tables are fitted to in the end.
        epochs: passes over the items, at most `TrainingConfig.epochs`.
        batch_size: items per step; it takes the place of `TrainingConfig.batch_size`.
        lr: highest learning rate; it takes the place of `TrainingConfig.lr`.
        weight_decay: of all weights, likewise.
        chosen_anew: share of the steps in which codes are chosen anew. An item keeps its old code
            where that is decoded better.
        kept_first: share of the way in which the start's codes stay.
        effort: of that choice, see `LatentIndex.effort`.
        earlier: weight of the errors after all steps but the last.
        plain: weight, in the choice of codes, of what sums of plain codewords miss. By these tables
            find the candidates that the decoder ranks.
        final_effort: of the choice of codes that the tables are fitted to.
    """

    title: ClassVar[str] = "PQ-VAE"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ("codebooks", "coarse", "queries")

    items: int = 500_000
    start_items: int = 65_536
    filled: int = 200_000
    mixing: float = 0.8
    rounds: int = 8
    sweeps: int = 3
    start_effort: int = 8
    table_items: int = 65_536
    epochs: int = 16
    batch_size: int = 1024
    lr: float = 4e-3
    weight_decay: float = 1e-4
    chosen_anew: float = 0.4
    kept_first: float = 0.05
    effort: int = 4
    earlier: float = 0.2
    plain: float = 0.1
    final_effort: int = 16

    def __post_init__(self) -> None:
        check_numbers(self)
        lowest = {"items": 2, "start_items": 1, "table_items": 1, "epochs": 1, "batch_size": 2}
        efforts = {"effort": 0, "final_effort": 0, "start_effort": 0}
        for name, low in {**lowest, **efforts, "filled": 0, "rounds": 0, "sweeps": 1}.items():
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} >= {low}, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "earlier", "plain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        for name in ("chosen_anew", "kept_first", "mixing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Additive codes, as product codes of vectors that are repeated."""
        return CodeSpec(latents="repeated unit" if unit else "repeated", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """A conditional decoder, and nothing between an item and what its code is chosen for.

        Raises:
            ValueError: networks, latents of another size, or items that are no vectors.
        """
        return networks_of_sums(config, input_shape, "conditional", "synthesis")

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """What makes the start's codebooks, coarse centroids and queries, if there are any."""
        found = {**given, "queries": check_queries(given.get("queries"))}
        return {name: value for name, value in found.items() if value is not None}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[Synthesis, TrainingConfig]:
        """No views.

        Raises:
            ValueError: views that change vectors.
        """
        filled = config.for_shape(model.input_shape)
        if filled.views != Views():
            raise ValueError(f"expected no views for the objective 'synthesis', got {filled.views}")
        return self, filled

    def task(self, setup: Setup, given: dict[str, Any]) -> SynthesisTask:
        """Items, their codes, and a decoder of them."""
        if setup.pretrained:
            raise ValueError("expected no pretrained model for the objective 'synthesis'")
        return SynthesisTask(setup, self, **given)


class SynthesisTask:
    """A `Task`: decoder and codes of the items in turn.

    Args:
        setup: see `Setup`; the model has a conditional decoder.
        settings: of the objective.
        codebooks: makes the start's, see `residual_start.residual_codebooks`.
        coarse: centroids of which the nearest is taken off every item before it is coded, or None.
        queries: real ones (nq, d), or None.
    """

    resumes_within_epochs = True
    patience = 0
    shown = "recall@1"

    def __init__(
        self,
        setup: Setup,
        settings: Synthesis,
        *,
        codebooks: MakeCodebooks | None = None,
        coarse: Coarse | None = None,
        queries: Any = None,
    ) -> None:
        model, config = setup.model, setup.config
        self.model, self.settings, self.config = model, settings, config
        self.decoder = cast(ConditionalCode, model.decoder)
        self.progress, self.kept = setup.progress, setup.kept
        self.precision: Precision = config.precision
        self.items = items = items_of(setup, most=settings.items)
        self.epochs = min(config.epochs, settings.epochs)
        self.known, self.held_out = (
            self._as_compared(items.vectors(rows))
            for rows in (items.train_rows, items.validation_rows)
        )
        self.make_codebooks, self.coarse = codebooks, coarse
        left, self.around = self._coded(self.known)
        self.left_of_held_out, _ = self._coded(self.held_out)
        more = filled_up(left, settings.filled, settings.mixing, items.generator("mixing"))
        self.x = more if coarse else self._as_compared(more)
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
        self.batch_size = min(settings.batch_size, len(self.examples))
        self.codes = torch.empty(0, dtype=torch.int16)
        # With the lowest error of held-out items, whose weights the loop keeps.
        self.lowest, self.codes_of_best = math.inf, self.codes
        self.truth = torch.empty(0, dtype=torch.long)

    def _as_compared(self, x: Tensor) -> Tensor:
        return functional.normalize(x) if self.model.spec.is_unit else x

    def _coded(self, x: Tensor) -> tuple[Tensor, Around | None]:
        """What is coded of items (n, d), and what was taken off them before."""
        if self.coarse is None:
            return x, None
        around = nearest_centroids(self.coarse, x, self.model.spec.metric)
        return x - around.of_all(), around

    @property
    def known_codes(self) -> Tensor:
        """The codes of the items, without those of mixtures."""
        return self.codes[: len(self.known)]

    @property
    def queries(self) -> Tensor:
        """Held-out items whose neighbours among the others shall be found."""
        return self.held_out[:_QUERIES]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The decoder."""
        lr = self.settings.lr
        group = {"params": list(self.decoder.parameters()), "lr": lr, "highest": lr}
        return [{**group, "weight_decay": self.settings.weight_decay, "betas": (0.9, 0.98)}]

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Residual quantization: its codebooks, and codes of all items."""
        self.decoder.fit_unit(self.x)
        self.decoder.plain_weight.fill_(self.settings.plain)
        self._find()
        errors = self._fit_sums()
        self._take(self.kept.made("codes", self._first_codes))
        error = self._error(self.x[:_CODED_AT_A_TIME], self.codes[:_CODED_AT_A_TIME].long())
        start = "k-means" if self.make_codebooks is None else "RQ"
        facts = {"start": start, "errors": errors, "start_error": error}
        return {**facts, "precision": self.precision}, None

    def _first_codes(self) -> dict[str, Any]:
        if self.precision == "auto":
            self.precision = team.agreed(self._faster())
        self.codes = self._codes(self.x, self.settings.effort)
        return self.state()

    def _find(self) -> None:
        def made() -> dict[str, Any]:
            metric = self.model.spec.metric
            with Progress(
                "neighbours", len(self.queries), unit="vectors", shown=self.progress
            ) as bar:
                truth, _ = nearest(self.queries, self.known, 1, metric=metric, bar=bar)
            return {"truth": truth}

        self.truth = self.kept.made("neighbours", made)["truth"].to(self.x.device)

    def _fit_sums(self) -> list[float]:
        """Begins at sums of codewords without any network; their errors in every round."""
        decoder, settings, model = self.decoder, self.settings, self.model
        x, ksub = decoder.inside(self.x), model.quantizer.ksub
        code = AdditiveCode(decoder.d, model.M, ksub, has_lengths=False).to(x.device)
        sums = Sums(code, x, effort=settings.start_effort, progress=self.progress)
        budget_s = self.config.budget_s
        errors = sums.fit(
            self.make_codebooks,
            start_items=settings.start_items,
            rounds=settings.rounds,
            sweeps=settings.sweeps,
            kept=self.kept,
            generator=self.items.generator("start"),
            budget_s=None if budget_s is None else _START_SHARE * budget_s,
        )
        decoder.begin_at(code.codebooks)
        return errors

    def _faster(self) -> Precision:
        """Times the choice of codes in both precisions, in turn; the shortest time counts."""
        best = {"float32": math.inf, "bfloat16": math.inf}
        for _ in range(4):
            for precision in best:
                self.precision = cast(Precision, precision)
                started = time.perf_counter()
                self._chosen(self.x[:1024])
                best[precision] = min(best[precision], time.perf_counter() - started)
        return "bfloat16" if best["float32"] > _FASTER * best["bfloat16"] else "float32"

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.x.device.type, torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def _chosen(self, x: Tensor) -> Tensor:
        with self._autocast():
            return self.decoder.choose(x, self.settings.effort)

    @torch.no_grad()
    def _codes(self, x: Tensor, effort: int) -> Tensor:
        """The codes (n, M) int16 of many vectors (n, d)."""
        found, n = [], len(x)
        x = x[team.share(n)]
        with Progress("codes", len(x), unit="vectors", shown=self.progress) as bar:
            for part in torch.split(x, _CODED_AT_A_TIME):
                with self._autocast():
                    found.append(self.decoder.choose(part, effort).to(torch.int16))
                bar.update(len(part))
        return team.gathered(torch.cat(found), n)

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        best = {"lowest": self.lowest, "codes_of_best": self.codes_of_best}
        return {"codes": self.codes, "precision": self.precision, **best}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`; the model is loaded before."""
        self._take(state)
        self._find()

    def _take(self, state: dict[str, Any]) -> None:
        self.codes, self.precision = state["codes"].to(self.x.device), state["precision"]
        self.lowest = state["lowest"]
        self.codes_of_best = state["codes_of_best"].to(self.x.device)

    def fingerprint(self) -> dict[str, Any]:
        """Queries, coarse centroids, the start, and what the codes are compared by."""
        about = {} if self.real is None else {"queries": self.real.key}
        if self.coarse is not None:
            about["coarse"] = self.coarse.settings
        start = "k-means" if self.make_codebooks is None else "RQ"
        return {"metric": self.model.spec.metric, "start": start, **about}

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """How well items are given back; before, some of their codes are chosen anew."""
        settings, decoder = self.settings, self.decoder
        rows, n = torch.from_numpy(examples).to(self.x.device), len(examples)
        own = rows[team.share(n)]
        x, ids = self.x[own], self.codes[own].long()
        anew = float(torch.rand((), generator=generator)) < settings.chosen_anew
        if anew and way.at >= settings.kept_first * way.end:
            ids = self._better(x, ids)
            self.codes[rows] = team.gathered(ids, n).to(torch.int16)
        with self._autocast():
            path = decoder.path(ids)
        x = decoder.inside(x)
        errors = torch.stack([_squared_error(x, made, n) for made in path.after])
        before = [torch.zeros_like(x), *(made.detach() for made in path.after[:-1])]
        guesses = [
            _squared_error(x - made, guess, n)
            for made, guess in zip(before, path.guessed, strict=True)
        ]
        plain = _squared_error(x, decoder.plain_sums(ids), n)
        loss = (
            errors[-1] + settings.earlier * errors[:-1].sum() + torch.stack(guesses).sum() + plain
        )
        loss = loss / decoder.d
        parts = {"reconstruction": errors[-1].detach() / decoder.d}
        return Terms(loss, parts, team.gathered(x, n), team.gathered(ids, n))

    @torch.no_grad()
    def _better(self, x: Tensor, ids: Tensor) -> Tensor:
        """Of the codes (n, M) and those chosen anew, what is decoded better."""
        both = torch.stack([ids, self._chosen(x)])
        inside = self.decoder.inside(x)
        errors = []
        for codes in both:
            with self._autocast():
                decoded = self.decoder.inside(self.decoder.decode(codes))
            plain = (self.decoder.plain_sums(codes) - inside).square().sum(1)
            errors.append((decoded - inside).square().sum(1) + self.settings.plain * plain)
        return both[torch.stack(errors).argmin(0), torch.arange(len(x), device=x.device)]

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Nothing: the decoder finds a use for every codeword."""

    def after_epoch(self) -> None:
        """Nothing."""

    @torch.no_grad()
    def validate(self) -> Validation:
        """The error of held-out items, and whether their neighbours are found among the others."""
        left = self.left_of_held_out
        ids = team.gathered(self._chosen(left[team.share(len(left))]), len(left))
        error = self._error(self.left_of_held_out, ids)
        if error < self.lowest:
            self.lowest, self.codes_of_best = error, self.codes.clone()
        facts = {f"validation_{self.shown}": float(self._hits(self._decoded(), 1).mean())}
        first = self.decoder.first.detach().unsqueeze(0)
        ratio = distance_ratio(self.decoder.inside(self.left_of_held_out[:_QUERIES]), first)
        return Validation({"loss": error, "reconstruction": error}, ratio, counts=True, facts=facts)

    @torch.no_grad()
    def _error(self, x: Tensor, ids: Tensor) -> float:
        """Mean squared error relative to the items' variance."""
        error = (self.decoder.decode(ids) - x).square().mean()
        return float(error / self.decoder.unit.square())

    def _decoded(self) -> Tensor:
        """What the codes (n, d) of the items stand for, without what was taken off before."""
        with self._autocast():
            return self.decoder.decode(self.known_codes)

    def _back(self, decoded: Tensor) -> Tensor:
        """With what was taken off the items."""
        return decoded if self.around is None else decoded + self.around.of_all()

    def _hits(self, decoded: Tensor, shrinks: float) -> Tensor:
        """Whether the item nearest to each query is decoded nearest to it: (nq,) float."""
        centre = self.decoder.centre
        stored = self._back(centre + shrinks * (decoded - centre))
        found, _ = nearest(self.queries, stored, 1, metric=self.model.spec.metric)
        return (found == self.truth).float()

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """What a search needs besides the decoder: look-up tables, by how much to shrink, a map."""
        decoder = self.decoder
        if self.lowest < math.inf:
            self.codes = self.codes_of_best
        if self.model.spec.metric == "l2":
            decoded = self._decoded()
            hits = [float(self._hits(decoded, shrinks).mean()) for shrinks in _SHRINKS]
            decoder.shrinks.fill_(_SHRINKS[hits.index(max(hits))])
            del decoded
        self._fit_tables()
        facts = {
            "shrinks": float(decoder.shrinks),
            "table_shrinks": float(decoder.table_shrinks),
        }
        return facts if self.real is None else {**facts, "queries": self._map_queries(self.real)}

    def _fit_tables(self) -> None:
        decoder, settings = self.decoder, self.settings
        generator = self.items.generator("tables")
        rows = torch.randperm(len(self.x), generator=generator)[: settings.table_items]
        x = self.x[rows.to(self.x.device)]
        ids = self._codes(x, settings.final_effort).long()
        prior = decoder.unit * decoder.plain
        tables = fitted(ids, x - decoder.centre, prior)
        decoder.table_shrinks.fill_(self._table_shrinks(tables))
        lifted = lift(tables, decoder.centre, decoder.table_shrinks, self.model.spec.metric)
        self.model.quantizer.codewords.copy_(lifted.codewords)
        decoder.offset.copy_(lifted.offset)
        # Codewords that no item had can be the same. FAISS stores the one that it finds first.
        for m, codewords in enumerate(lifted.codewords):
            decoder.merge(m, first_alike(codewords))

    @torch.enable_grad()
    def _map_queries(self, queries: Queries) -> dict[str, Any]:
        """Gives queries a map of their own, where those that are held out find more by it."""
        with self._autocast():
            stored = self._back(self.decoder.compared(self.known_codes))
        return learn_query_map(
            self.model,
            queries,
            Compared(self.known, stored, self._as_compared, self.model.spec.metric),
            generator=self.items.generator("map of queries"),
            progress=self.progress,
        )

    def _table_shrinks(self, tables: Tables) -> float:
        """With which the tables' short list has most of the queries' neighbours."""
        if self.model.spec.metric != "l2":
            return 1.0
        # |q - a - s|^2, with s of the tables and a what it is about, an item's own where there are
        # centroids: |s|^2 alone is shrunk.
        vectors, lengths = tables.sums(self.known_codes.long())
        queries, others = self.queries - self.decoder.centre, torch.zeros_like(lengths)
        if self.around is not None:
            around = self.around.of_all()
            others = around.square().sum(1) + 2 * (around * vectors).sum(1)
            vectors = vectors.add_(around)
        found = []
        for shrinks in _SHRINKS:
            hits = 0
            for part, truth in zip(
                torch.split(queries, 100), torch.split(self.truth, 100), strict=True
            ):
                distances = torch.addmm(others + shrinks * lengths, part, vectors.T, alpha=-2)
                k = min(_LISTED, len(vectors))
                hits += int((distances.topk(k, largest=False).indices == truth).sum())
            found.append(hits)
        return _SHRINKS[found.index(max(found))]

    def release(self) -> None:
        """Nothing: the model is as it was."""


def _squared_error(x: Tensor, made: Tensor, n: int) -> Tensor:
    """What a process has of the mean over a batch of n vectors, of its own (n_own, d)."""
    return team.mean_of_own((x - made).square().sum(1), n)
