"""The rows of an evaluation: which methods, at which lengths, with which seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from faiss_pqvae.registry import methods, objectives

from ..data.protocol import Evaluated
from .baselines import YARDSTICKS, check_request, registered_names
from .code_shape import has_lambda, reads_labels, shape_of_codes, usual_lengths
from .errors import told
from .exact import exact
from .method import Method, Request
from .settings import CodeSettings

LEARNED = "learned"


def rows_of(
    data: Evaluated,
    *,
    names: Sequence[str] = (),
    lengths: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    nlist: int | None = None,
    learned: CodeSettings | None = None,
) -> list[Method]:
    """The rows of the methods that are asked for.

    Args:
        data: what they are compared on.
        names: of methods, or "package.module:attribute"; by default all, and beside codes that
            read labels, or where the whole database is ranked, `YARDSTICKS` and the learned codes.
        lengths: in bits; by default those of `usual_lengths`.
        seeds: each with everything random.
        nlist: adds rows of so many inverted lists, of vectors.
        learned: how codes are learned; None leaves them out.

    Raises:
        ValueError: an unknown name, bits that a code cannot have, no row, or data that the methods
            are not made for.
    """
    shape = tuple(data.database.shape[1:])
    objective = None if learned is None else learned.objective
    _check(data, nlist, learned)
    lengths = tuple(lengths) or usual_lengths(shape, objective)
    base = Request(
        bits=lengths[0],
        shape=shape,
        metric=getattr(data, "metric", "l2"),
        nlist=nlist,
        lengths=lengths,
        seeds=tuple(seeds),
        learned=learned,
    )
    found = []
    for bits in lengths:
        M, _ = shape_of_codes(bits, shape, objective)
        request = replace(base, bits=bits, M=M)
        check_request(request)
        for name in names or _usual_names(data, learned):
            made = methods.get(name)
            for seed in seeds:
                found += _made(name, made, replace(request, seed=seed))
    if not found:
        raise ValueError(f"expected methods with rows of {[*lengths]} bits, got {[*names]}")
    return found


def _made(name: str, function: Callable[[Request], Any], request: Request) -> list[Method]:
    """What somebody's function returns for a request, if it is what it should be."""
    try:
        rows = function(request)
        if not isinstance(rows, Method) and isinstance(rows, Iterable):
            rows = [*rows]  # what is written with yield runs now
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(f"the method {name!r} makes no rows: {told(error)}") from error
    found = [rows] if isinstance(rows, Method) else rows
    if not isinstance(found, list) or not all(isinstance(row, Method) for row in found):
        raise TypeError(f"expected a Method or several of {name!r}, got {rows!r}")
    return found


def reference(data: Evaluated) -> list[Method]:
    """The yardstick: exact search by the metric of the data."""
    return [exact(math.prod(data.database.shape[1:]), getattr(data, "metric", "l2"))]


def _usual_names(data: Evaluated, learned: CodeSettings | None) -> list[str]:
    labels = learned is not None and reads_labels(learned.objective)
    # Where the whole database is ranked, a row is hundreds of megabytes.
    if labels or getattr(data, "ranks", 0) is None:
        return [*YARDSTICKS, LEARNED, "IVF"]
    return registered_names()


def _check(data: Evaluated, nlist: int | None, learned: CodeSettings | None) -> None:
    vectors = len(data.database.shape) == 2
    if nlist is not None and not vectors:
        raise ValueError("expected --nlist with vectors only: images are searched exhaustively")
    if learned is None:
        return
    if learned.also_lambdas and not has_lambda(learned.objective):
        raise ValueError(
            "expected --also-lambdas with an objective that has a lambda, which is the "
            f"reconstruction objective only, got {learned.objective.title}"
        )
    name = objectives.name_of(type(learned.objective))
    if learned.queries is not None and "queries" not in learned.objective.learns_from:
        raise ValueError(
            f"expected no training queries for the objective {name!r}, which does not learn from "
            "them, got some"
        )
    if learned.views is not None and "views" not in learned.objective.learns_from:
        raise ValueError(
            f"expected no kept views for the objective {name!r}, which does not learn from them, "
            "got some: --model.objective contrastive does"
        )
    if reads_labels(learned.objective) and data.labels_to_train is None:
        raise ValueError(
            f"expected labelled images for the objective {name!r}, got data without labels to "
            f"train with: {data.name}"
        )
