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
