"""The search for lambda: a few short trainings, then longer ones of the best."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from faiss_pqvae.files import replace_bytes
from faiss_pqvae.inputs import check_items, read_rows, sample_rows
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.training.config import TrainingConfig
from faiss_pqvae.training.curve import PermissibleRange, Point, permissible_range
from faiss_pqvae.training.loop import DivergedError, choose_device, faster_precision, fit
from faiss_pqvae.training.plan import (
    Rung,
    SearchConfig,
    full_steps,
    held_out_items,
    plan,
    rung,
    steps_per_epoch,
)
from faiss_pqvae.training.scores import neighbour_recall, view_recall
from faiss_pqvae.training.views import Views

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

_FORMAT = 1
_FILE = "tune.json"
_COLLAPSED = 0.1  # share of a code's bits that its codewords' entropy falls below


@dataclass(frozen=True)
class Score:
    """What is searched for.

    Attributes:
        name: a search is resumed with the score of the same name only.
        measure: of a trained model, the items it was trained on and the held-out ones; higher is
            better. Both items have `rows`, their numbers among all.
    """

    name: str
    measure: Callable[[PQVAE, Part, Part], float]


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


class Part:
    """Some of the items, read when they are asked for.

    Args:
        x: all items.
        rows: (m,) int64, those of this part.
    """

    def __init__(self, x: Any, rows: npt.NDArray[np.int64]) -> None:
        self.x, self.rows = x, rows
        self.shape, self.dtype = (len(rows), *x.shape[1:]), x.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Any:
        return self.x[self.rows[rows]]


def default_score(
    shape: tuple[int, ...], training: TrainingConfig, name: str | None = None
) -> Score:
    """A score that needs no labels.

    "view-recall" (images): `view_recall` of the held-out images among themselves, with the
    training's views, or the default ones where it has none. "recall": `neighbour_recall` of at
    most 1,000 held-out items among those trained on.

    Args:
        shape: of an item.
        training: whose views count.
        name: one of the two; None takes view-recall for images and recall for vectors.

    Raises:
        ValueError: another name, or views of what are no images.
    """
    images = len(shape) == 3
    name = name or ("view-recall" if images else "recall")
    if name == "recall":
        return Score(name, lambda model, stored, held: neighbour_recall(model, stored, held[:1000]))
    if name != "view-recall":
        raise ValueError(f"expected the score 'view-recall' or 'recall', got {name!r}")
    if not images:
        raise ValueError(f"expected images for the score 'view-recall', got items of shape {shape}")
    views = training.for_shape(shape).views
    if views is None or views == Views():
        views = Views.for_shape(shape)
    return Score(name, lambda model, _, held: view_recall(model, held, views=views))


def tune(
    x: Any,
    M: int,
    nbits: int,
    folder: str | Path,
    *,
    model: ModelConfig | None = None,
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

    Args:
        x: (n, *input_shape) uint8 or float, as for `fit`; never the queries of a test.
        M: sub-quantizers.
        nbits: bits of each.
        folder: for tune.json and the trainings' logs.
        model: networks and bottleneck; its `lambda_` is not used.
        training: the loop; `epochs` is the full length, of which the budget is a multiple.
        search: candidates and budget.
        score: what is searched for; by default `default_score`.
        facts: written to tune.json as they are, such as the command.
        progress: draw a bar, where standard error is a terminal.

    Raises:
        TypeError, ValueError: wrong items or settings; the folder holds a search with others; no
            training converged.
    """
    shape = tuple(x.shape[1:])
    check_items(x, shape, "training data")
    training = training or TrainingConfig()
    search = search or SearchConfig()
    score = score or default_score(shape, training)
    run = _Search(x, (M, nbits), Path(folder), model or ModelConfig(), training, search, score)
    run.open(facts or {})
    return run.finish(progress=progress)


class _Search:
    """State of a search: the record of what was trained, and what follows from it."""

    def __init__(
        self,
        x: Any,
        code: tuple[int, int],
        folder: Path,
        model: ModelConfig,
        training: TrainingConfig,
        search: SearchConfig,
        score: Score,
    ) -> None:
        self.x, self.code, self.folder = x, code, folder
        self.model, self.training, self.search, self.score = model, training, search, score
        self.plan = plan(len(x), training, search)
        self.full_steps = full_steps(len(x), training)
        order = np.random.default_rng(training.seed).permutation(len(x)).astype(np.int64)
        n_held = held_out_items(len(x), search)
        self.held = Part(x, np.sort(order[:n_held]))
        self.kept = order[n_held:]  # in random order: a rung of fewer items takes the first
        self.record: dict[str, Any] = {}

    # -- the record

    def open(self, facts: dict[str, Any]) -> None:
        """Reads the record of the same search, or starts one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self._configuration()
        if (self.folder / _FILE).exists():
            self.record = _read(self.folder / _FILE)
            found = self.record["configuration"]
            changed = sorted(
                name
                for name in {*found, *configuration}
                if found.get(name) != configuration.get(name)
            )
            if changed:
                raise ValueError(
                    f"{self.folder / _FILE} belongs to a search with another {', '.join(changed)}: "
                    "choose another folder, or remove it"
                )
            return
        self.record = {
            "format": _FORMAT,
            **facts,
            "configuration": configuration,
            "precision": self._precision(),
            "ceiling": self._ceiling(),
            "full_steps": self.full_steps,
            "planned": [rung._asdict() for rung in self.plan],
            "runs": [],
        }
        self._write()

    def _configuration(self) -> dict[str, Any]:
        """All that must agree when resuming, as JSON gives it back."""
        model = asdict(self.model)
        del model["lambda_"]
        rows = sample_rows(len(self.x), 64)
        sample = read_rows(self.x, rows, "training data").cpu().numpy()
        found = {
            "data": {"shape": list(self.x.shape), "sample": zlib.crc32(sample.tobytes())},
            "code": {"M": self.code[0], "nbits": self.code[1]},
            "model": model,
            "training": asdict(self.training),
            "search": asdict(self.search),
            "score": self.score.name,
        }
        return dict(json.loads(json.dumps(found)))

    def _precision(self) -> str:
        """Measured once, so that all trainings are alike."""
        if self.training.precision != "auto":
            return self.training.precision
        device = choose_device(self.training.device)
        rows = np.sort(self.kept[: self.training.batch_size])
        batch = read_rows(self.x, rows, "training data").to(device)
        return faster_precision(self._build(1.0).to(device), batch)

    def _write(self) -> None:
        text = json.dumps(_without_nan(self.record), indent=1, allow_nan=False)
        replace_bytes(self.folder / _FILE, f"{text}\n".encode())

    # -- the search

    def finish(self, *, progress: bool) -> Tuning:
        """Trains what is still missing, and says what came out."""
        sizes = [planned.n_lambdas for planned in self.plan]
        candidates = list(self.search.lambdas)
        spare = int(self.search.budget * self.full_steps)
        found: PermissibleRange | None = None
        chosen: Point | None = None
        bar = tqdm(unit="step", desc="tuning", disable=None if progress else True)
        with bar:
            for number, following in enumerate([*sizes[1:], 1]):
                # What went wrong early has left steps over; what is left is shared anew.
                share = max(0, spare) // (len(sizes) - number)
                todo = self._rung(len(candidates), share)
                bar.total = (
                    bar.n + todo.steps + sum(later.steps for later in self.plan[number + 1 :])
                )
                spare -= self._train_rung(number, todo, candidates, bar)
                points = [point for point in _points(self.record["runs"]) if point.rung == number]
                if found is None:
                    found = self._range(points)
                good = [p for p in points if p.converged and p.lambda_ in found.lambdas]
                ranked = rank(good, self.search.tolerance)
                chosen = (
                    ranked[0] if ranked else chosen
                )  # longer trainings can diverge, all of them
                candidates = [point.lambda_ for point in ranked[:following]]
                if len(candidates) < 2:
                    break
        assert found is not None
        assert chosen is not None
        return self._close(chosen.lambda_, found)

    def _rung(self, n_lambdas: int, steps: int) -> Rung:
        return rung(n_lambdas, steps, len(self.kept), self.training, self.search.seeds)

    def _train_rung(self, number: int, todo: Rung, candidates: list[float], bar: Any) -> int:
        """Trains a rung's candidates, as far as the record lacks them; returns the steps."""
        steps = 0
        for lambda_ in _middle_out(candidates):
            for seed in range(self.search.seeds):
                key = {"rung": number, "lambda_": lambda_, "seed": seed}
                run = next((r for r in self.record["runs"] if r.items() >= key.items()), None)
                if run is None:
                    bar.set_postfix(rung=f"{number + 1}/{len(self.plan)}", lambda_=lambda_)
                    run = {**key, **self._train(key, todo, bar)}
                    self.record["runs"].append(run)
                    self._write()
                    (self._folder(key) / "checkpoint.pt").unlink(missing_ok=True)
                else:
                    bar.update(run["steps"])
                steps += run["steps"]
        return steps

    def _range(self, points: list[Point]) -> PermissibleRange:
        ceiling = self.record["ceiling"]
        found = permissible_range(points, share=self.search.share, ceiling=ceiling)
        self.record["range"] = asdict(found)
        return found

    def _close(self, lambda_: float, found: PermissibleRange) -> Tuning:
        runs = self.record["runs"]
        result = Tuning(
            lambda_=lambda_,
            range=found,
            points=_points(runs),
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

    def _train(self, key: dict[str, Any], todo: Rung, bar: Any) -> dict[str, Any]:
        """Trains and measures one candidate; goes on where it was interrupted."""
        part = Part(self.x, np.sort(self.kept[: todo.items]))
        model = self._build(key["lambda_"])
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
                model, part, training, folder=self._folder(key), progress=False, go_on=go_on
            )
        except DivergedError as error:
            steps = max((e["step"] for e in epochs.values()), default=0)
            seconds = max((e["elapsed_s"] for e in epochs.values()), default=0.0)
            # The epoch in which it happened counts in full.
            steps = min(total, steps + steps_per_epoch(todo.items, training))
            return _run_of(epochs, f"diverged: {error}", steps=steps, elapsed_s=seconds)
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
        return _run_of(
            epochs, status, best, score=score, steps=end["step"], elapsed_s=end["elapsed_s"]
        )

    def _verdict(self, event: dict[str, Any], number: int, total: int) -> str | None:
        """Why a training should stop after an epoch; None when it should not."""
        error, epoch = event["validation_reconstruction"], event["epoch"]
        if not (math.isfinite(error) and math.isfinite(event["validation_loss"])):
            return f"diverged: the validation loss was not finite after epoch {epoch + 1}"
        warmup = min(self.training.warmup_steps, total // 10)
        if event["step"] <= warmup + self.training.revive_every:
            return None  # without the bottleneck, or before dead codewords were looked for
        bits = float(np.mean(np.log2(event["perplexity"])))
        if bits < _COLLAPSED * self.code[1]:
            return f"collapsed: {bits:.2f} of {self.code[1]} bits in use after epoch {epoch + 1}"
        others = [
            run["errors"][epoch]
            for run in self.record["runs"]
            if run["rung"] == number and len(run["errors"]) > epoch
        ]
        best = min(others, default=error)
        if error > best + self.search.hopeless * max(0.0, self.record["ceiling"] - best):
            return f"hopeless: error {error:.4g} after epoch {epoch + 1}, another had {best:.4g}"
        return None

    def _build(self, lambda_: float) -> PQVAE:
        config = replace(self.model, lambda_=lambda_)
        return PQVAE(tuple(self.x.shape[1:]), *self.code, config)

    def _folder(self, key: dict[str, Any]) -> Path:
        return self.folder / f"rung-{key['rung']}" / f"lambda-{key['lambda_']!r}-{key['seed']}"

    def _ceiling(self) -> float:
        """The error of reconstructing every item as the mean item, in the loss's own units."""
        training = self.training.for_shape(tuple(self.x.shape[1:]))
        if training.whitening:
            return 1.0  # by `fit_whitener`'s scale
        items = read_rows(self.x, np.sort(self.kept[:2000]), "training data")
        model = self._build(1.0)
        model.fit_normalization(items)
        target = model.normalize(items)
        return float((target - target.mean(0)).square().mean())


def rank(points: Sequence[Point], tolerance: float) -> list[Point]:
    """The points by score, the best first.

    Of those whose scores are within `tolerance` of the best that is left, the one of lowest
    reconstruction error comes first: near 1 a score no longer tells codes apart, and the error
    does. Points without a score come last.
    """
    left = sorted(points, key=lambda p: (-_or(p.score, -math.inf), p.reconstruction, p.lambda_))
    ranked: list[Point] = []
    while left:
        best = _or(left[0].score, -math.inf)
        equal = [point for point in left if _or(point.score, -math.inf) >= best - tolerance]
        ranked.append(min(equal, key=lambda point: (point.reconstruction, point.lambda_)))
        left.remove(ranked[-1])
    return ranked


def read_points(path: str | Path) -> list[Point]:
    """The points of a search's tune.json, finished or not, in the order of rungs and lambdas.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of a search.
    """
    return _points(_read(Path(path))["runs"])


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected the record of a search in {path}: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"expected a search's record of format {_FORMAT} in {path}, got {found}")
    missing = {"configuration", "precision", "ceiling", "runs"} - set(record)
    if missing:
        raise ValueError(f"expected {sorted(missing)} in {path}, got {sorted(record)}")
    return record


def _run_of(
    epochs: dict[int, dict[str, Any]],
    status: str,
    best: int | None = None,
    *,
    score: float = math.nan,
    steps: int,
    elapsed_s: float,
) -> dict[str, Any]:
    """What is recorded of a training, measured at its best epoch."""
    event = {} if best is None else epochs[best]
    return {
        "status": status,
        "distance_ratio": event.get("distance_ratio", math.nan),
        "reconstruction": event.get("validation_reconstruction", math.nan),
        "score": score,
        "perplexity": float(np.mean(event.get("perplexity", math.nan))),
        "epochs": len(epochs),
        "steps": steps,
        "elapsed_s": elapsed_s,
        "errors": [epochs[epoch]["validation_reconstruction"] for epoch in sorted(epochs)],
    }


def _points(runs: Sequence[dict[str, Any]]) -> list[Point]:
    """One point for each rung and lambda: the means over its seeds."""
    groups: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["rung"], run["lambda_"]), []).append(run)
    return [_point(groups[key]) for key in sorted(groups)]


def _point(runs: list[dict[str, Any]]) -> Point:
    def mean(name: str) -> float:
        return float(np.mean([math.nan if run[name] is None else run[name] for run in runs]))

    return Point(
        lambda_=runs[0]["lambda_"],
        distance_ratio=mean("distance_ratio"),
        reconstruction=mean("reconstruction"),
        score=mean("score"),
        status=next((run["status"] for run in runs if run["status"] != "complete"), "complete"),
        rung=runs[0]["rung"],
        epochs=max(run["epochs"] for run in runs),
        steps=sum(run["steps"] for run in runs),
        perplexity=mean("perplexity"),
        elapsed_s=sum(run["elapsed_s"] for run in runs),
        seeds=len(runs),
    )


def _middle_out(lambdas: Sequence[float]) -> list[float]:
    """From the middle outwards: extremes are stopped by comparison with what was trained before."""
    ordered = sorted(lambdas)
    middle = (len(ordered) - 1) / 2
    return sorted(ordered, key=lambda value: (abs(ordered.index(value) - middle), value))


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
