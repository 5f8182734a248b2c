"""The search for lambda: a few short trainings, then longer ones of the best."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items, content_key, read_rows
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.progress import Progress

from ..build import new_model, resolved_objective
from ..config import TrainingConfig
from ..data.items import WHAT
from ..device import choose_device, faster_precision
from ..kept import CHECKPOINT, TRAINED, Kept
from ..loop import DivergedError, fit
from ..objectives import Reconstruction
from .curve import PermissibleRange, Point, permissible_range, rank
from .plan import Rung, SearchConfig, full_steps, held_out_items, plan, rung, steps_per_epoch
from .record import FILE, points_of, read_points, read_record, run_of, write_record
from .scores import QUERIES, Part, Score, default_score

__all__ = [
    "Part",
    "PermissibleRange",
    "Point",
    "Score",
    "SearchConfig",
    "Tuning",
    "default_score",
    "full_steps",
    "permissible_range",
    "plan",
    "read_points",
    "tune",
]

_COLLAPSED = 0.1  # share of a code's bits that its codewords' entropy falls below


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        lambda_: the best score inside the permissible range, after the longest training.
        range: of the distance ratio, from the first rung.
        points: all that was measured, in the order of rungs and lambdas.
        steps, full_steps: what the search took, and what one training of the full length takes.
        elapsed_s: seconds of all trainings.
    """

    lambda_: float
    range: PermissibleRange
    points: list[Point]
    steps: int
    full_steps: int
    elapsed_s: float


def tune(
    x: Any,
    M: int,
    nbits: int,
    folder: str | Path,
    *,
    model: ModelConfig | None = None,
    objective: Reconstruction | None = None,
    training: TrainingConfig | None = None,
    search: SearchConfig | None = None,
    score: Score | None = None,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
) -> Tuning:
    """Searches for the lambda of the best held-out score, by successive halving.

    First every candidate gets a short training, complete with its own schedule. The curve of
    reconstruction error against distance ratio gives the permissible range (section IV-B of the
    paper); the best inside it are trained again for longer, until one is left. Trainings that
    diverge, whose codewords collapse, or whose error is hopeless are stopped after an epoch; they
    stay in the record. The same call goes on after an interruption: finished trainings are in
    FOLDER/tune.json, the one under way in a folder of its own.

    The last trainings are still shorter than the full length, and short ones favour small lambdas
    (on 4,000 digits the best of view-recall went from 0.0001 at 8 epochs to 0.001 at 13 and at
    40), so `rank` takes the largest lambda that noise cannot tell from the best.

    Args:
        x: (n, *input_shape) uint8 or float, as for `fit`; never the queries of a test.
        M: sub-quantizers.
        nbits: bits of each.
        folder: for tune.json and the trainings' logs.
        model: networks and bottleneck.
        objective: settings of the reconstruction; its `lambda_` is not used.
        training: the loop; `epochs` is the full length, of which the budget is a multiple.
        search: candidates and budget.
        score: what is searched for; by default `default_score`.
        facts: written to tune.json as they are, such as the command.
        progress: draw a bar, where standard error is a terminal.

    Raises:
        TypeError, ValueError: wrong items or settings; the folder holds a search with others; no
            training converged.
    """
    x = as_rows(x, None, WHAT)
    shape = tuple(x.shape[1:])
    check_items(x, shape, WHAT)
    training = training or TrainingConfig()
    model = model or ModelConfig()
    if not isinstance(resolved_objective(model.objective), Reconstruction):
        raise ValueError(
            "expected the reconstruction objective to search for a lambda, got "
            f"{model.objective!r}: lambda has no part in what its codes learn"
        )
    if training.budget_minutes is not None:
        raise ValueError(
            f"expected no budget_minutes, got {training.budget_minutes}: the trainings of a search "
            "are as long as its rungs; their full length is in epochs"
        )
    search = search or SearchConfig()
    score = score or default_score(shape, training)
    objective = objective or Reconstruction()
    content = content_key(x, WHAT, progress=progress)
    run = _Search(x, content, (M, nbits), Path(folder), (model, objective), training, search, score)
    run.open(facts or {})
    return run.finish(progress=progress)


class _Search:
    """State of a search: the record of what was trained, and what follows from it."""

    def __init__(
        self,
        x: Any,
        content: str,
        code: tuple[int, int],
        folder: Path,
        learned: tuple[ModelConfig, Reconstruction],
        training: TrainingConfig,
        search: SearchConfig,
        score: Score,
    ) -> None:
        self.x, self.content, self.code, self.folder = x, content, code, folder
        self.model, self.objective = learned
        self.training, self.search, self.score = training, search, score
        self.plan = plan(len(x), training, search)
        self.full_steps = full_steps(len(x), training)
        order = np.random.default_rng(training.seed).permutation(len(x)).astype(np.int64)
        n_held = held_out_items(len(x), search)
        # In random order: a score of few queries, or a rung of few items, takes the first.
        self.held, self.kept = Part(x, order[:n_held]), order[n_held:]
        self.record: dict[str, Any] = {}

    # -- the record

    def open(self, facts: dict[str, Any]) -> None:
        """Reads the record of the same search, or starts one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self._configuration()
        if (self.folder / FILE).exists():
            self.record = read_record(self.folder / FILE)
            found = self.record["configuration"]
            changed = sorted(
                name
                for name in {*found, *configuration}
                if found.get(name) != configuration.get(name)
            )
            if "sample" in found["data"]:
                raise ValueError(
                    f"{self.folder / FILE} is of an earlier version, which cannot tell whether the "
                    "data are the same: choose another folder, or remove it"
                )
            if changed:
                raise ValueError(
                    f"{self.folder / FILE} belongs to a search with another {', '.join(changed)}: "
                    "choose another folder, or remove it"
                )
            return
        self.record = {
            **facts,
            "configuration": configuration,
            "precision": self._precision(),
            "full_steps": self.full_steps,
            "planned": [rung._asdict() for rung in self.plan],
            "runs": [],
        }
        self._write()

    def _configuration(self) -> dict[str, Any]:
        """All that must agree when resuming, as JSON gives it back."""
        objective = asdict(self.objective)
        del objective["lambda_"]
        found = {
            "data": {"shape": list(self.x.shape), "content": self.content},
            "code": {"M": self.code[0], "nbits": self.code[1]},
            "model": asdict(self.model),
            "objective": objective,
            "training": asdict(self.training),
            "search": asdict(self.search),
            "score": self.score.name,
            "labels": self.score.labels,
        }
        return dict(json.loads(json.dumps(found)))

    def _precision(self) -> str:
        """Measured once, so that all trainings are alike."""
        if self.training.precision != "auto":
            return self.training.precision
        device = choose_device(self.training.device)
        rows = np.sort(self.kept[: self.training.batch_size])
        batch = read_rows(self.x, rows, WHAT).to(device)
        return faster_precision(self._build().to(device), batch)

    def _write(self) -> None:
        write_record(self.folder / FILE, self.record)

    # -- the search

    def finish(self, *, progress: bool) -> Tuning:
        """Trains what is still missing, and says what came out."""
        sizes = [planned.n_lambdas for planned in self.plan]
        candidates = list(self.search.lambdas)
        spare = int(self.search.budget * self.full_steps)
        found: PermissibleRange | None = None
        chosen: Point | None = None
        with Progress("tuning", 0, unit="steps", shown=progress) as bar:
            for number, following in enumerate([*sizes[1:], 1]):
                # What went wrong early has left steps over; what is left is shared anew.
                share = max(0, spare) // (len(sizes) - number)
                todo = self._rung(len(candidates), share)
                later = sum(later.steps for later in self.plan[number + 1 :])
                bar.extend(bar.n + todo.steps + later)
                spare -= self._train_rung(number, todo, candidates, bar)
                points = [point for point in points_of(self.record["runs"]) if point.rung == number]
                if found is None:
                    found = self._range(points)
                good = [p for p in points if p.converged and p.lambda_ in found.lambdas]
                queries = min(QUERIES, len(self.held))
                ranked = rank(good, queries=queries, errors=self.search.tolerance)
                # Longer trainings can all diverge.
                chosen = ranked[0] if ranked else chosen
                candidates = [point.lambda_ for point in ranked[:following]]
                if len(candidates) < 2:
                    break
        assert found is not None
        assert chosen is not None
        return self._close(chosen.lambda_, found)

    def _rung(self, n_lambdas: int, steps: int) -> Rung:
        return rung(n_lambdas, steps, len(self.kept), self.training, self.search.seeds)

    def _train_rung(self, number: int, todo: Rung, candidates: list[float], bar: Progress) -> int:
        """Trains a rung's candidates, as far as the record lacks them; returns the steps."""
        steps = 0
        for lambda_ in _middle_out(candidates):
            for seed in range(self.search.seeds):
                key = {"rung": number, "lambda_": lambda_, "seed": seed}
                run = next((r for r in self.record["runs"] if r.items() >= key.items()), None)
                if run is None:
                    bar.note(rung=f"{number + 1}/{len(self.plan)}", lambda_=lambda_)
                    run = {**key, **self._train(key, todo, bar)}
                    self.record["runs"].append(run)
                    self._write()
                    Kept(self._folder(key)).drop(CHECKPOINT, TRAINED)
                else:
                    bar.update(run["steps"])
                steps += run["steps"]
        return steps

    def _range(self, points: list[Point]) -> PermissibleRange:
        found = permissible_range(points, share=self.search.share)
        self.record["range"] = asdict(found)
        return found

    def _close(self, lambda_: float, found: PermissibleRange) -> Tuning:
        runs = self.record["runs"]
        result = Tuning(
            lambda_=lambda_,
            range=found,
            points=points_of(runs),
            steps=sum(run["steps"] for run in runs),
            full_steps=self.full_steps,
            elapsed_s=round(sum(run["elapsed_s"] for run in runs), 3),
        )
        self.record["chosen"] = lambda_
        self.record["points"] = [asdict(point) for point in result.points]
        self.record["steps"], self.record["elapsed_s"] = result.steps, result.elapsed_s
        self._write()
        return result

    # -- one training

    def _train(self, key: dict[str, Any], todo: Rung, bar: Progress) -> dict[str, Any]:
        """Trains and measures one candidate; goes on where it was interrupted."""
        part = Part(self.x, np.sort(self.kept[: todo.items]))
        model = self._build()
        training = replace(
            self.training,
            epochs=todo.epochs,
            seed=self.training.seed + key["seed"],
            precision=self.record["precision"],
        )
        epochs: dict[int, dict[str, Any]] = {}
        total = todo.epochs * steps_per_epoch(todo.items, training)

        def go_on(event: dict[str, Any]) -> bool:
            bar.update(event["step"] - max((e["step"] for e in epochs.values()), default=0))
            epochs[event["epoch"]] = event
            return self._verdict(event, key["rung"], total) is None

        try:
            history = fit(
                model,
                part,
                training,
                objective=replace(self.objective, lambda_=key["lambda_"]),
                folder=self._folder(key),
                content=key_of_parts(self.content, [part.rows]),
                progress=False,
                go_on=go_on,
            )
        except DivergedError as error:
            steps = max((e["step"] for e in epochs.values()), default=0)
            seconds = max((e["elapsed_s"] for e in epochs.values()), default=0.0)
            # The epoch in which it happened counts in full.
            steps = min(total, steps + steps_per_epoch(todo.items, training))
            return run_of(epochs, f"diverged: {error}", steps=steps, elapsed_s=seconds)
        epochs = {event["epoch"]: event for event in history if event["event"] == "epoch"}
        end, last = history[-1], max(epochs)
        status = self._verdict(epochs[last], key["rung"], total) or "complete"
        if end["step"] == total and status.startswith("hopeless"):
            status = "complete"  # it was not stopped, so it is a place on the curve
        best = end["best_epoch"] if end["best_epoch"] >= 0 else last  # whose weights are scored
        score = (
            math.nan
            if status.startswith("diverged")
            else self.score.measure(model, part, self.held)
        )
        return run_of(
            epochs, status, best, score=score, steps=end["step"], elapsed_s=end["elapsed_s"]
        )

    def _verdict(self, event: dict[str, Any], number: int, total: int) -> str | None:
        """Why a training should stop after an epoch; None when it should not."""
        error, epoch = event["validation_reconstruction"], event["epoch"]
        if not (math.isfinite(error) and math.isfinite(event["validation_loss"])):
            return f"diverged: the validation loss was not finite after epoch {epoch + 1}"
        warmup = min(self.objective.warmup_steps, total // 10)
        if event["step"] <= warmup + self.training.revive_every:
            return None  # without the bottleneck, or before dead codewords were looked for
        bits = float(np.mean(np.log2(event["perplexity"])))
        if bits < _COLLAPSED * self.code[1]:
            return f"collapsed: {bits:.2f} of {self.code[1]} bits in use after epoch {epoch + 1}"
        others = [
            run["errors"][epoch]
            for run in self.record["runs"]
            if run["rung"] == number and len(run["errors"]) > epoch and run["errors"][epoch]
        ]
        best = min(others, default=error)
        if error > (1 + self.search.hopeless) * best:
            return f"hopeless: error {error:.4g} after epoch {epoch + 1}, another had {best:.4g}"
        return None

    def _build(self) -> PQVAE:
        return new_model(tuple(self.x.shape[1:]), *self.code, self.model, objective=self.objective)

    def _folder(self, key: dict[str, Any]) -> Path:
        return self.folder / f"rung-{key['rung']}" / f"lambda-{key['lambda_']!r}-{key['seed']}"


def _middle_out(lambdas: Sequence[float]) -> list[float]:
    """From the middle outwards: extremes are stopped by comparison with what was trained before."""
    ordered = sorted(lambdas)
    middle = (len(ordered) - 1) / 2
    return sorted(ordered, key=lambda value: (abs(ordered.index(value) - middle), value))
