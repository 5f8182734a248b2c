"""The command `report`: the page and the tables of an evaluation, again, from its files."""

from __future__ import annotations

from pathlib import Path

import tyro

from faiss_pqvae.eval.data.load import LOADERS, LabelledData, Split, load
from faiss_pqvae.eval.measure.results import FILE_NAME, Results, read_results
from faiss_pqvae.eval.measure.rows import stored_scores, with_confidence
from faiss_pqvae.eval.report.page import read_inputs, rebuild_report
from faiss_pqvae.eval.report.tables import comparison_table, sentences, table


def report(
    out: tyro.conf.Positional[Path],
    /,
    *,
    dataset: str | None = None,
    method: str | None = None,
    metric: str | None = None,
) -> None:
    """Write report.html of a finished evaluation again, and print its tables; nothing is measured.

    With METHOD or METRIC other comparisons are printed than the page has: from the scores of every
    query, which lie beside the raw results.

    Args:
        out: folder of `evaluate` or `demo`.
        dataset: draw the gallery again from this data set; without it the page keeps its own.
        method: compare this method with the others instead of the best one.
        metric: compare by this metric, "precision@100" for example.
    """
    if not (out / FILE_NAME).exists():
        raise FileNotFoundError(
            f"no evaluation in {out}: expected {FILE_NAME}, which `faiss-pqvae evaluate --out "
            f"{out}` writes at its end"
        )
    results = read_results(out / FILE_NAME)
    data = None if dataset is None else _load(dataset, results)
    if method is not None or metric is not None:
        scores = stored_scores(results, out)
        results = with_confidence(results, scores, method=method, metric=metric)
    page = rebuild_report(out, data)
    print(f"{table(results)}\n")
    if results.comparisons:
        print("\n".join([comparison_table(results), "", *sentences(results), ""]))
    if data is None and not read_inputs(out).get("gallery") and results.dataset in LOADERS:
        print(
            "the page has no gallery: its images were not stored with it; "
            f"--dataset {results.dataset} draws it"
        )
    print(f"report   {page}")


def _load(name: str, results: Results) -> LabelledData:
    """The data set, cut to what was searched where only a part was."""
    protocol: Split = "dqn" if results.protocol.startswith("dqn") else "pqvae"
    data = load(name, protocol=protocol)
    n_database = results.n_database if results.n_database < len(data.database) else None
    n_queries = results.n_queries if results.n_queries < len(data.queries) else None
    if n_database or n_queries:
        data = load(name, protocol=protocol, n_database=n_database, n_queries=n_queries)
    if (data.name, data.protocol) != (results.dataset, results.protocol):
        raise ValueError(
            f"expected the data of the run, {results.dataset} ({results.protocol}), got "
            f"{data.name} ({data.protocol})"
        )
    return data
