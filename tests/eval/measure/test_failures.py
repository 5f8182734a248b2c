"""Methods that cannot be measured, or fail, beside others that are."""

from dataclasses import replace

import numpy as np
import pytest

from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.measure.failures import FailedMethodsError
from faiss_pqvae.eval.measure.results import LeftOut, read_results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.eval.report.text import table


@pytest.fixture(scope="module")
def data():
    """40 vectors of 8 dimensions, 5 of them queries."""
    x = np.random.default_rng(0).standard_normal((40, 8), dtype=np.float32)
    labels = np.arange(40) % 2
    return LabelledData(
        name="few",
        protocol="few",
        description="few vectors",
        train=x[:35],
        database=x[:35],
        database_labels=labels[:35],
        queries=x[35:],
        query_labels=labels[35:],
        class_names=("a", "b"),
    )


FEW = from_factory("PQ", 32, 8, "PQ4x8np")
ENOUGH = from_factory("Small PQ", 8, 8, "PQ2x4np")
WHY = "k-means of 256 codewords needs at least 256 training items, got 35"


class Searches:
    """An index whose search returns what it was given."""

    def __init__(self, found):
        self.found = found

    def train(self, x):
        """Nothing."""

    add = train

    def search(self, xq, k):
        """What it was given, or an error."""
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def sa_code_size(self):
        return 1


def wrong(found, name="Mine"):
    return Method(name, 8, lambda shape: Searches(found))


def test_run__leaves_out_what_has_too_few_items(data, tmp_path):
    results = run(data, [exact(8), FEW, ENOUGH], tmp_path, k=5)
    assert [row.method for row in results.rows] == ["Exact L2", "Small PQ"]
    assert results.left_out == (LeftOut("PQ", 32, WHY),)
    assert read_results(tmp_path / "results.json") == results
    assert table(results).splitlines()[-2:] == ["Not measured:", f"  PQ, 32 bits: {WHY}"]
    page = write_report(results, data, tmp_path).read_text()
    assert f"<li>PQ, 32 bits: {WHY}</li>" in page


def test_run__says_what_is_too_few_for_all_in_one_line(data, tmp_path):
    seeds = [from_factory("PQ", 32, 8, "PQ4x8np", seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match=f"^no method can be measured: PQ, 32 bits: {WHY}$"):
        run(data, seeds, tmp_path, k=5)
    assert not (tmp_path / "results.json").exists()


D, IDS = np.zeros((5, 3), np.float32), np.tile(np.arange(3), (5, 1))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (KeyError("x"), r"KeyError: 'x' \(test_failures.py, line \d+\)"),
        (RuntimeError("two\nlines"), r"RuntimeError: two lines \(test_failures.py, line \d+\)"),
        (ValueError("no"), r"no \(test_failures.py, line \d+\)"),
        (None, "TypeError: expected D and I from search, got NoneType"),
        (D, "TypeError: expected D and I from search, got ndarray"),
        ((D, IDS.astype(float)), "TypeError: .* I of integers, got float32 and float64"),
        ((D.astype(str), IDS), "TypeError: expected D of numbers .* got <U"),
        ((D, IDS[:2]), r"expected D and I of shape \(5, 3\), got \(5, 3\) and \(2, 3\)"),
        ((D[:, :2], IDS[:, :2]), r"expected D and I of shape \(5, 3\), got \(5, 2\)"),
        ((D, IDS + 33), "adc: expected ids from 0 to 34, got 33 to 35"),
    ],
)
def test_run__tells_what_failed_after_all_others_are_measured(data, tmp_path, found, said):
    with pytest.raises(FailedMethodsError, match=rf"^methods failed: Mine, 8 bits: {said}") as told:
        run(data, [wrong(found), FEW, ENOUGH], tmp_path, k=3)
    results = told.value.results
    assert [row.method for row in results.rows] == ["Small PQ"]
    assert [(one.method, one.failed) for one in results.left_out] == [("Mine", True), ("PQ", False)]
    assert read_results(tmp_path / "results.json") == results
    cause = type(found) if isinstance(found, Exception) else (TypeError, ValueError)
    assert isinstance(told.value.__cause__, cause)


def test_run__names_every_method_that_failed(data, tmp_path):
    methods = [wrong(KeyError("x"), "One"), wrong(KeyError("y"), "Two")]
    with pytest.raises(FailedMethodsError, match=r"One, 8 bits: .*; Two, 8 bits: ") as told:
        run(data, methods, tmp_path, k=3)
    assert told.value.results.rows == ()
    assert not (tmp_path / "results.json").exists()


def test_run__ends_at_once_where_the_disk_fails(data, tmp_path):
    with pytest.raises(OSError, match="full"):
        run(data, [wrong(OSError("full")), ENOUGH], tmp_path, k=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "expected name of the method 3 as str"),
        ({"bits": "8"}, "expected bits of the method 'Mine' as int, got '8'"),
        ({"searches": "adc"}, "expected searches of the method 'Mine' as tuple, got 'adc'"),
        ({"build": None}, "expected build of Mine to be callable, got None"),
        ({"config": {"x": np.zeros(2)}}, "expected config of Mine as JSON values: .*ndarray"),
        ({"config": {"x": float("nan")}}, "expected config of Mine as JSON values"),
        ({"searches": ()}, r"expected texts as searches of Mine, got \(\)"),
    ],
)
def test_method__rejects(change, said):
    with pytest.raises((TypeError, ValueError), match=said):
        replace(wrong(None), **change)
