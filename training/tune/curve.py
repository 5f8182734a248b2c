"""The curve of reconstruction error against distance ratio, and where on it to look for lambda."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.1


@dataclass(frozen=True)
class Point:
    """One lambda, trained and measured on held-out items.

    Attributes:
        lambda_: strength of the quantizer, eq. (24).
        distance_ratio: mean distance to the nearest codeword / to the second nearest, in [0, 1];
            NaN where nothing was measured.
        reconstruction: reconstruction error, in the units of the training's loss; NaN likewise.
        score: what is searched for, higher is better; NaN where nothing was measured.
        status: "complete"; all else says why the training was stopped.
        rung: of the search, from 0.
        epochs: that were trained.
        steps: that were trained, of all seeds together.
        perplexity: of the codewords, mean over the sub-quantizers.
        elapsed_s: seconds of training.
        seeds: trainings that the values are means of.
    """

    lambda_: float
    distance_ratio: float
    reconstruction: float
    score: float = math.nan
    status: str = "complete"
    rung: int = 0
    epochs: int = 0
    steps: int = 0
    perplexity: float = math.nan
    elapsed_s: float = 0.0
    seeds: int = 1

    @property
    def converged(self) -> bool:
        """Whether this is a place on the curve: trained to the end, to finite values."""
        values = (self.distance_ratio, self.reconstruction)
        return self.status == "complete" and all(math.isfinite(value) for value in values)


@dataclass(frozen=True)
class PermissibleRange:
    """Where on the curve lambda may lie.

    Attributes:
        low, high: limits of the distance ratio.
        limit: highest reconstruction error.
        lambdas: the lambdas of the points inside, rising.
        low_measured, high_measured: whether a point beyond was measured; else the limit is only
            where the measurements end.
    """

    low: float
    high: float
    limit: float
    lambdas: tuple[float, ...]
    low_measured: bool
    high_measured: bool


def permissible_range(points: Sequence[Point], *, share: float = SHARE) -> PermissibleRange:
    """The stretch of the curve around its lowest error in which the error is still near it.

    As lambda falls the distance ratio rises, and the reconstruction error falls at first and then
    rises sharply. The paper searches lambda inside a permissible range of the ratio, and its limits
    are lost. Here, of the points that converged, by rising ratio: those next to each other, the
    one of lowest error among them, whose error is at most (1 + share) times the lowest. A share of
    0.1 is 0.4 dB of distortion.

    A limit of the ratio is where the line to the next point outside crosses that error. Noise of
    less than `share` does not cut the stretch, and no outlier moves it.

    Args:
        points: one for each lambda, in any order; runs that did not converge may be among them.
        share: how far above the lowest the error may be, in [0, 1].

    Raises:
        ValueError: `share` is outside [0, 1], or no point converged.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected share in [0, 1], got {share}")
    curve = sorted(
        (point for point in points if point.converged),
        key=lambda point: (point.distance_ratio, point.reconstruction),
    )
    if not curve:
        raise ValueError(f"expected at least one training that converged, got {_statuses(points)}")
    errors = [point.reconstruction for point in curve]
    lowest = min(errors)
    limit = (1 + share) * lowest
    first = last = errors.index(lowest)
    while first > 0 and errors[first - 1] <= limit:
        first -= 1
    while last + 1 < len(curve) and errors[last + 1] <= limit:
        last += 1
    lambdas = tuple(sorted(point.lambda_ for point in curve[first : last + 1]))
    # Where a training did not converge there may be no ratio: what lies beyond is told by lambda.
    return PermissibleRange(
        low=_crossing(curve[first], curve[first - 1], limit) if first else curve[0].distance_ratio,
        high=_crossing(curve[last], curve[last + 1], limit)
        if last + 1 < len(curve)
        else curve[-1].distance_ratio,
        limit=limit,
        lambdas=lambdas,
        low_measured=any(point.lambda_ > lambdas[-1] for point in points),
        high_measured=any(point.lambda_ < lambdas[0] for point in points),
    )


def _crossing(inside: Point, outside: Point, limit: float) -> float:
    """The ratio at which the line between two points reaches the limit."""
    rise = outside.reconstruction - inside.reconstruction  # > 0
    way = (limit - inside.reconstruction) / rise
    return inside.distance_ratio + way * (outside.distance_ratio - inside.distance_ratio)


def _statuses(points: Sequence[Point]) -> str:
    found = sorted({point.status for point in points if not point.converged})
    return ", ".join(found) or "no point"


def rank(points: Sequence[Point], *, queries: int, errors: float = 1.0) -> list[Point]:
    """The points by score, the best first; of those that noise cannot tell apart, by lambda.

    A score is a mean over queries of values from 0 to 1, so its standard error is at most
    sqrt(score * (1 - score) / queries). Of the scores within so many standard errors of the best
    that is left (or within one query), the largest lambda comes first: short trainings favour
    small ones, the more the shorter they are. Points without a score come last.

    Args:
        points: whose scores come from the same queries.
        queries: how many those were.
        errors: standard errors.
    """
    left = sorted(points, key=lambda point: (-_score(point), -point.lambda_))
    ranked: list[Point] = []
    while left:
        best = _score(left[0])
        spread = math.sqrt(max(0.0, best * (1 - best)) / queries) if math.isfinite(best) else 0.0
        lowest = best - max(errors * spread, 1 / queries)
        equal = [point for point in left if _score(point) >= lowest]
        ranked.append(max(equal, key=lambda point: point.lambda_))
        left.remove(ranked[-1])
    return ranked


def _score(point: Point) -> float:
    return point.score if math.isfinite(point.score) else -math.inf
