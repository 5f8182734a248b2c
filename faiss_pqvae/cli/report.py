"""The command `report`: the page and the tables of an evaluation, again, from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from faiss_pqvae.arguments import what_is_set
from faiss_pqvae.cli.evaluate import print_results
from faiss_pqvae.cli.reading import Out
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.eval.data.protocol import Evaluated
from faiss_pqvae.eval.measure.results import FILE_NAME, Results, main_metric, read_results
from faiss_pqvae.eval.measure.scored import stored_scores, with_confidence
from faiss_pqvae.eval.measure.stream import FILE_NAME as STREAM
from faiss_pqvae.eval.measure.stream import read_stream
from faiss_pqvae.eval.measure.two_runs import two_runs
from faiss_pqvae.files import check_folder
from faiss_pqvae.registry import datasets


def report(
    out: Out,
    other: Path | None = None,
    /,
    *,
    dataset: str | None = None,
    own: Annotated[OwnData, tyro.conf.arg(name="")] = OwnData(),  # noqa: B008 - frozen
    method: str | None = None,
    metric: str | None = None,
) -> None:
    """Write report.html of a finished evaluation again, and print its tables; nothing is measured.

    With METHOD or METRIC other comparisons are printed than the page has: from the scores of every
    query, which lie beside the raw results. With OTHER, a second run over the same data, what
    changed from OUT to OTHER is printed, query by query. Of a run-book its table is printed again.
    results.csv and table.tex (for LaTeX) lie beside the page.

    Args:
        out: folder of `evaluate` or `demo`.
        other: folder of a run to compare with it, whose rows have the same names.
        dataset: draw the gallery again from this data set; without it the page keeps its own.
        own: what to read of data of your own, as in `evaluate`.
        method: compare this method with the others instead of the best one.
        metric: compare by this metric, "precision@100" for example.
    """
    # Here, so that --help does not draw.
    from faiss_pqvae.eval.report.page import read_inputs, rebuild_report
    from faiss_pqvae.eval.report.text import stream_table, two_runs_table

    if (out / STREAM).exists() and not (out / FILE_NAME).exists():
        print(stream_table(read_stream(out / STREAM)))
        return
    _check_there(out)
    if dataset is None and own != OwnData():
        raise ValueError(
            f"expected --dataset with options of its data, got {what_is_set(own)} alone, "
            "which would have no effect: the page is written from stored files"
        )
    if other is None:
        check_folder(out)  # which is written to
    results = read_results(out / FILE_NAME)
    if other is not None:
        if method is not None or dataset is not None:
            raise ValueError("expected neither --method nor --dataset with two runs")
        _check_there(other)
        second = read_results(other / FILE_NAME)
        found = two_runs(results, second, (out, other), metric=metric)
        print(two_runs_table(found))
        return
    data = None if dataset is None else _load(dataset, own, results)
    if method is not None or metric is not None:
        scores = stored_scores(results, out)
        results = with_confidence(results, scores, method=method, metric=metric)
    page = rebuild_report(out, data)
    print_results(results)
    print()
    if data is None and _could_have_gallery(results) and not read_inputs(out).get("gallery"):
        print(
            "the page has no gallery: its images were not stored with it; "
            f"--dataset {results.dataset} draws it"
        )
    print(f"report   {page}")


def _check_there(out: Path) -> None:
    if not (out / FILE_NAME).exists():
        why = "" if out.exists() else ", which does not exist"
        raise FileNotFoundError(
            f"no evaluation in {out}{why}: expected {FILE_NAME}, which `faiss-pqvae evaluate --out "
            f"{out}` writes at its end"
        )


def _could_have_gallery(results: Results) -> bool:
    """Whether a data set of that name, with labels, could be read again."""
    return results.dataset in datasets.names() and main_metric(results).startswith("map@")


def _load(name: str, own: OwnData, results: Results) -> Evaluated:
    """The data set, cut to what was searched where only a part was."""
    split = results.protocol.partition(",")[0]
    protocol = split if split == "few-labels" else "pqvae"
    sizes: dict[str, Any] = {}
    if not main_metric(results).startswith("map@"):  # of vectors; older files do not say it
        sizes["train_on"] = next(filter(None, (row.learned_from for row in results.rows)), None)
    data = load(name, protocol=protocol, own=own, **sizes)
    # Queries first: where they are drawn, the database is what they leave.
    for part in ("queries", "database"):
        wanted = getattr(results, f"n_{part}")
        if wanted != len(getattr(data, part)):
            sizes[f"n_{part}"] = wanted
            data = load(name, protocol=protocol, own=own, **sizes)
    if (data.name, data.protocol) != (results.dataset, results.protocol):
        raise ValueError(
            f"expected the data of the run, {results.dataset} ({results.protocol}), got "
            f"{data.name} ({data.protocol})"
        )
    return data
