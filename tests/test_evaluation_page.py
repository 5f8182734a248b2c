"""docs/evaluation.md: its figures are those of stored results, and what it names is there."""

import json
import re
from pathlib import Path

import pytest

import faiss_pqvae.eval.measure.trust as trust

ROOT = Path(__file__).parents[1]
PAGE = " ".join((ROOT / "docs" / "evaluation.md").read_text().split())


def rows(name):
    return json.loads((ROOT / "results" / name).read_text())["rows"]


def test_page__what_dividing_by_hits_does_is_that_of_the_stored_result():
    found = {
        row["method"]: (row["metrics"]["map@1000"], row["metrics"]["map@1000/min(R,k)"])
        for row in reversed(rows("cifar10-jpeg.json"))  # of several searches the first
        if row["bits"] == 32
    }
    ratios = [a / b for a, b in found.values()]
    assert f"{min(ratios):.1f} to {max(ratios):.1f} times the second" in PAGE
    for method in ("PQ-VAE", "Spectral Hashing"):
        first, second = (100 * value for value in found[method])
        assert re.search(rf"{method}( has)? {first:.1f} and {second:.1f}", PAGE)


@pytest.mark.parametrize("file", ["vectors-debian-text-8.json", "vectors-debian-text-half-8.json"])
def test_page__what_learning_the_items_does_is_that_of_the_stored_results(file):
    (deep,) = (
        row
        for row in rows(file)
        if (row["method"], row["search"]) == ("PQ-VAE, re-ranked", "k_factor=1")
    )
    assert f"{100 * deep['metrics']['1-recall@1']:.1f} %" in PAGE
    assert f"results/{file})" in PAGE


def test_page__names_functions_and_options_that_there_are():
    assert "`check_results`" in PAGE
    assert "`check_distances`" in PAGE
    assert callable(trust.check_results)
    assert callable(trust.check_distances)


# The table of sets: file, metric.
SETS = (
    ("evaluation-bsds-sift.json", "1-recall@10"),
    ("evaluation-debian-text.json", "1-recall@10"),
    ("evaluation-debian-text.json", "ndcg@10"),
    ("evaluation-mnist.json", "map@1000"),
    ("evaluation-cifar10-jpeg.json", "map@1000"),
)


def sets_table():
    """The table of sets that went through the harness, of the stored results."""
    lines = []
    for file, metric in SETS:
        results = json.loads((ROOT / "results" / file).read_text())
        found = {(row["method"], row["search"]): row for row in results["rows"]}
        ours = max(
            (row for row in results["rows"] if row["marked"]),
            key=lambda row: row["metrics"][metric],
        )
        others = [
            row
            for row in results["rows"]
            if not (row["marked"] or row["reference"] or row["method"] == "Exact L2")
        ]
        best = max(others, key=lambda row: row["metrics"][metric])
        exact = found["Exact L2", "exact"]
        low, high = ours["intervals"][metric]
        value = 100 * ours["metrics"][metric]
        cells = [
            f"[{results['dataset']}](../results/{file}), {ours['bytes_per_vector']}",
            f"{results['n_queries']:,} in {results['n_database']:,}",
            metric,
            f"{100 * exact['metrics'][metric]:.1f}",
            f"{best['method']} {100 * best['metrics'][metric]:.1f}",
            f"{ours['method']} {value:.1f} ±{50 * (high - low):.1f}",
            f"{100 * value / (100 * exact['metrics'][metric]):.0f} %",
            *(
                " / ".join(f"{row['latency_ms'][share]:.1f}" for share in ("p50", "p99"))
                for row in (best, ours)
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_page__the_table_of_sets_is_that_of_the_stored_results():
    for line in sets_table():
        assert line in PAGE


def test_page__commands_of_the_sets_are_those_of_the_stored_results():
    for file in dict.fromkeys(file for file, _ in SETS):
        command = json.loads((ROOT / "results" / file).read_text())["command"]
        assert command in PAGE.replace("\\ ", "")


def test_page__what_choosing_on_the_queries_gains_is_that_of_the_stored_result():
    found = json.loads((ROOT / "results" / "selection.json").read_text())
    (itq,) = (one for one in found["methods"] if one["method"] == "ITQ")
    few, many = itq["choices"]
    for choice in (few, many):
        gain = 100 * (choice["chosen"] - choice["others"])
        assert f"{gain:.1f} points too many on {choice['n_queries']:,} queries" in PAGE
    assert f"the best of {found['seeds']} seeds of ITQ" in PAGE
    assert f"{100 * few['chosen']:.1f} % where it finds {100 * few['others']:.1f} %" in PAGE
