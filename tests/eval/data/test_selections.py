"""Searches with filters: what is allowed, what is nearest among it, and who ignores it."""

import itertools

import numpy as np
import pytest

from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.results import read_results
from faiss_pqvae.eval.measure.runner import FailedMethodsError, run
from faiss_pqvae.eval.methods.among import oversampled, selector
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.eval.report.text import filtered_table
from faiss_pqvae.native import faiss

N, NQ, D = 400, 30, 8


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((N + NQ, D), dtype=np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 3, N + NQ)


@pytest.fixture
def data(x, labels, tmp_path):
    arrays = {
        "database": x[:N],
        "queries": x[N:],
        "filter_labels": labels[:N],
        "query_filter_labels": labels[N:],
        "qrels": [(0, i, 1) for i in range(N)],
    }
    return load(lambda: arrays, filters=(0.1, 0.5), cache=tmp_path / "cache")


def test_load__selections_are_what_is_nearest_among_the_allowed(data, x, labels):
    tenth, half, own = data.selections
    assert [one.name for one in data.selections] == [
        *("10 % of the items", "50 % of the items", "items of the query's label")
    ]
    assert (tenth.n_items, half.n_items) == (40, 200)
    assert own.n_items == pytest.approx(np.bincount(labels[:N])[labels[N:]].mean())
    distances = ((x[N:, None] - x[None, :N]) ** 2).sum(-1)
    same = labels[N:, None] == labels[None, :N]
    nearest = np.where(same, distances, np.inf).argmin(axis=1)
    np.testing.assert_array_equal(own.truth.I[:, 0], nearest)
    (group,) = tenth.groups
    nearest = group.items[distances[:, group.items].argmin(axis=1)]
    np.testing.assert_array_equal(tenth.truth.I[:, 0], nearest)
    assert tenth.truth.I.shape == (NQ, 40)
    among = data.among(own)
    assert set(among.qrels.items) == set(np.flatnonzero(labels[:N] == labels[N]))
    assert len({one.key for one in data.selections}) == 3


def test_run__measures_every_search_with_every_filter(data, tmp_path):
    names = ("Exact L2", "PQ", "OPQ", "RQ", "IVF", "LSH")
    methods = rows_of(data, names=names, lengths=(32,), nlist=4)
    results = run(data, methods, tmp_path, k=10)
    found = {(row.method, row.search, row.among): row for row in results.filtered}
    for among in ("10 % of the items", "50 % of the items", "items of the query's label"):
        exact = found["Exact L2", "exact", among]
        assert exact.metrics["1-recall@1"] == exact.metrics["10-recall@10"] == 1
        for method, search in (("PQ", "adc"), ("OPQ", "adc"), ("IVF4,PQ4", "nprobe=4")):
            assert found[method, search, among].metrics["1-recall@10"] > 0.6
            assert found[method, search, among].queries_per_s > 0
    assert not results.left_out
    how = {row.method: row.how for row in results.filtered}
    assert how == {
        **dict.fromkeys(("Exact L2", "IVF4,PQ4", "OPQ4,IVF4,PQ4"), "selector"),
        # FAISS's flat codes take no selector.
        **dict.fromkeys(("PQ", "OPQ", "RQ, norm inside", "RQ, decoded", "LSH"), "oversampling"),
        "IVF4,RQ4, norm inside": "oversampling",
    }
    assert read_results(tmp_path / "results.json") == results
    lines = filtered_table(results).splitlines()
    assert len(lines) == 3 + len(results.filtered)
    assert lines[3].startswith("10 % of the items")
    again = run(data, methods, tmp_path, k=10)
    assert again.filtered == results.filtered


def test_run__refuses_a_filter_that_is_ignored(data, tmp_path):
    class Ignoring:
        def train(self, x):
            pass

        def add(self, x):
            self.index = faiss.IndexFlatL2(D)
            self.index.add(x)

        def search(self, xq, k):
            return self.index.search(xq, k)

        def search_among(self, xq, k, sel):
            return self.index.search(xq, k)

        def sa_code_size(self):
            return 4

    hidden = itertools.repeat(Ignoring())
    method = Method("ignoring", 32, lambda shape: next(hidden), {})
    with pytest.raises(
        FailedMethodsError, match=r"among 10 % of the items, got item .* is ignored"
    ):
        run(data, [method], tmp_path, k=5)


def test_oversampled__finds_what_a_selector_does(x):
    index = faiss.IndexFlatL2(D)
    index.add(x[:N])
    for share in (0.01, 0.3, 1.0):
        allowed = np.random.default_rng(2).random(N) < share
        wanted = index.search(x[N:], 10, params=faiss.SearchParameters(sel=selector(allowed)))
        found = oversampled(index, x[N:], 10, allowed, block=1000)
        np.testing.assert_array_equal(found[1], wanted[1])
        there = wanted[1] >= 0
        np.testing.assert_array_equal(found[0][there], wanted[0][there])
        assert np.isfinite(found[0]).all()
        assert (np.diff(found[0], axis=1) >= 0).all()


def test_run__filters_that_leave_few_items_have_the_metrics_that_they_can(x, tmp_path):
    for filters in ((0.5, 0.01), (0.01, 0.5)):
        data = load(lambda: {"database": x[:N], "queries": x[N:]}, filters=filters)
        results = run(data, rows_of(data, names=("PQ",), lengths=(32,)), tmp_path, k=10)
        metrics = {row.among: row.metrics.keys() for row in results.filtered}
        assert metrics["1 % of the items"] == {"1-recall@1", "1-recall@10"}
        assert metrics["50 % of the items"] == {"1-recall@1", "1-recall@10", "10-recall@10"}
        assert " - " in filtered_table(results)
        assert "Searches with a filter" in write_report(results, None, tmp_path).read_text()


def test_run__filters_of_equal_size_are_two(x, tmp_path):
    data = load(lambda: {"database": x[:N], "queries": x[N:]}, filters=(0.01, 0.0101))
    results = run(data, rows_of(data, names=("PQ",), lengths=(32,)), tmp_path, k=10)
    assert [row.among for row in results.filtered] == ["1 % of the items", "1.01 % of the items"]


@pytest.mark.parametrize(
    ("size", "options"), [(100, {"n_database": 100}), (200, {"train_on": "half"})]
)
def test_load__labels_are_those_of_the_whole_set(x, labels, tmp_path, size, options):
    arrays = {
        "database": x[:N],
        "queries": x[N:],
        "filter_labels": labels[:size],
        "query_filter_labels": labels[N:],
    }
    with pytest.raises(ValueError, match="expected 400 integers as labels of items"):
        load(lambda: arrays, cache=tmp_path, **options)


@pytest.mark.parametrize(
    ("changes", "filters", "message"),
    [
        ({}, (0.0,), "expected filters above 0 and at most 1 that leave an item of 400, got 0.0"),
        ({}, (1.5,), "expected filters above 0 and at most 1"),
        ({"query_filter_labels": None}, (), "of items and of queries, got those of one"),
        ({"filter_labels": np.zeros(3, int)}, (), "expected 400 integers as labels of items"),
        ({"query_filter_labels": np.full(NQ, 9)}, (), "expected items of every label .* none of 9"),
    ],
)
def test_load__says_what_is_wrong_with_filters(x, labels, tmp_path, changes, filters, message):
    arrays = {
        "database": x[:N],
        "queries": x[N:],
        "filter_labels": labels[:N],
        "query_filter_labels": labels[N:],
    }
    with pytest.raises(ValueError, match=message):
        load(lambda: arrays | changes, filters=filters, cache=tmp_path)


def test_load__parts_keep_their_labels(x, labels, tmp_path):
    arrays = {
        "database": x[:N],
        "queries": x[N:],
        "filter_labels": labels[:N],
        "query_filter_labels": labels[N:],
    }
    for options in ({"n_database": 100, "n_queries": 9}, {"train_on": "half"}):
        data = load(lambda: arrays, cache=tmp_path, **options)
        (own,) = data.selections
        for group in own.groups:
            rows = [x[:N].tolist().index(row.tolist()) for row in data.database[group.items]]
            asked = [x[N:].tolist().index(row.tolist()) for row in data.queries[group.queries]]
            assert len({*labels[rows], *labels[N:][asked]}) == 1
