"""The record of a search, tune.json: what was trained, and what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.files import replace_bytes

from .curve import Point

FILE = "tune.json"

_FORMAT = 1


def read_points(path: str | Path) -> list[Point]:
    """The points of a search's tune.json, finished or not, in the order of rungs and lambdas.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of a search.
    """
    return points_of(read_record(Path(path))["runs"])


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote, with None for NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of a search.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected the record of a search in {path}: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"expected a search's record of format {_FORMAT} in {path}, got {found}")
    missing = {"configuration", "precision", "runs"} - set(record)
    if missing:
        raise ValueError(f"expected {sorted(missing)} in {path}, got {sorted(record)}")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record, so that a crash leaves the old one or the new one.

    Its keys, besides what the caller adds (such as "command" and "environment"): "format";
    "configuration", which must agree when a search is resumed; "precision", measured
    once; "full_steps"; "planned" rungs; "runs", one
    for each finished training with its rung, lambda_, seed and what `run_of` gives. After the
    first rung "range", the permissible one; at the end "points" (`Point`: means over the seeds),
    "chosen", "steps" and "elapsed_s". NaN is null.
    """
    text = json.dumps(_without_nan({"format": _FORMAT, **record}), indent=1, allow_nan=False)
    replace_bytes(path, f"{text}\n".encode())


def run_of(
    epochs: dict[int, dict[str, Any]],
    status: str,
    best: int | None = None,
    *,
    score: float = math.nan,
    steps: int,
    elapsed_s: float,
) -> dict[str, Any]:
    """What is recorded of a training, measured at its best epoch; with None for NaN.

    Args:
        epochs: the history's events by the number of the epoch.
        status: "complete", or why it was stopped.
        best: the epoch whose weights were kept; None where there are none.
        score: of those weights.
        steps: that it took.
        elapsed_s: seconds that it took.
    """
    event = {} if best is None else epochs[best]
    run = {
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
    return dict(_without_nan(run))


def points_of(runs: Sequence[dict[str, Any]]) -> list[Point]:
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


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
