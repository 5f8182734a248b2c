"""Two evaluations of the same data, row by row: what changed between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .confidence import holm, paired_p, percentile_intervals, resampled_means
from .results import Results, Row, main_metric
from .scored import stored_scores


@dataclass(frozen=True)
class Change:
    """A search of a method in two runs.

    Attributes:
        before: its row in the first run.
        after: in the second.
        metric: a share from 0 to 1.
        difference: mean over the queries of the second's score less the first's.
        interval: [low, high], the 95 % bootstrap interval of the difference.
        p: of a paired t-test over the queries, corrected (Holm) for all changes.
    """

    before: Row
    after: Row
    metric: str
    difference: float
    interval: list[float]
    p: float


@dataclass(frozen=True)
class TwoRuns:
    """What two runs have in common.

    Attributes:
        changes: of the rows that both have.
        only_first: rows that the second has not.
        only_second: rows that the first has not.
    """

    changes: list[Change]
    only_first: list[Row]
    only_second: list[Row]


def two_runs(
    first: Results,
    second: Results,
    folders: tuple[str | Path, str | Path],
    *,
    metric: str | None = None,
) -> TwoRuns:
    """Compares two runs query by query: rows of one name, length and search setting.

    Args:
        first: of the run that the other is compared with.
        second: of the other.
        folders: of both, with the scores of every query.
        metric: by which; by default the main one.

    Raises:
        ValueError: the runs are of other data or queries, no row has the metric, or both share no
            row.
        FileNotFoundError: the scores of a run are gone.
    """
    names = "fingerprint", "relevance", "n_queries"
    differ = [name for name in names if getattr(first, name) != getattr(second, name)]
    if differ or not first.fingerprint:
        what = "relevant items" if differ == ["relevance"] else "items"
        raise ValueError(
            f"expected two runs of the same data, got {first.dataset} ({first.protocol}) and "
            f"{second.dataset} ({second.protocol}), whose {what} differ"
        )
    metric = metric or main_metric(first)
    scores = [stored_scores(run, out) for run, out in zip((first, second), folders, strict=True)]
    places = [
        {_name(row): i for i, row in enumerate(run.rows) if metric in scores[at][i]}
        for at, run in enumerate((first, second))
    ]
    shared = [name for name in places[0] if name in places[1]]
    if not shared:
        raise ValueError(
            f"expected rows with {metric} that both runs have, got "
            f"{[*places[0]]} and {[*places[1]]}"
        )
    pairs = [(scores[0][places[0][n]][metric], scores[1][places[1][n]][metric]) for n in shared]
    p = holm([paired_p(after, before) for before, after in pairs])
    changes = []
    for name, (before, after), corrected in zip(shared, pairs, p, strict=True):
        ends = percentile_intervals(resampled_means((after - before)[:, None])[0])
        changes.append(
            Change(
                before=first.rows[places[0][name]],
                after=second.rows[places[1][name]],
                metric=metric,
                difference=float((after - before).mean()),
                interval=[float(end) for end in ends],
                p=corrected,
            )
        )
    return TwoRuns(changes, _others(first.rows, shared), _others(second.rows, shared))


def _name(row: Row) -> tuple[str, int, str]:
    return row.method, row.bits, row.search


def _others(rows: Sequence[Row], shared: Sequence[tuple[str, int, str]]) -> list[Row]:
    return [row for row in rows if _name(row) not in shared]
