import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from faiss_pqvae.eval import runner
from faiss_pqvae.eval.data import LabelledData
from faiss_pqvae.eval.methods import Method, baselines, exact
from faiss_pqvae.eval.raw import read_raw
from faiss_pqvae.eval.results import read_results
from faiss_pqvae.eval.runner import environment, run
from faiss_pqvae.eval.trust import check_results, order_ties
from faiss_pqvae.native import faiss

ITEM = (1, 8, 8)


@pytest.fixture(autouse=True)
def one_thread():
    """Many tiny parallel regions on busy cores take minutes; one thread takes no time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    """Three classes of noisy blobs: 300 in the database, 30 queries."""
    generator = np.random.default_rng(0)
    centres = generator.integers(60, 196, (3, *ITEM))
    labels = np.arange(330) % 3
    noise = generator.normal(scale=60, size=(330, *ITEM))
    images = np.clip(centres[labels] + noise, 0, 255).astype(np.uint8)
    return LabelledData(
        name="blobs",
        protocol="30 queries",
        description="three noisy blobs",
        train=images[:300],
        database=images[:300],
        database_labels=labels[:300],
        queries=images[300:],
        query_labels=labels[300:],
        class_names=("a", "b", "c"),
    )


class Fixed:
    """An index that returns what it was given, and counts what is asked of it."""

    def __init__(self, D, ids, code_size=2):
        self.D, self.ids, self.code_size = D, ids, code_size
        self.search_type = "adc"
        self.trained = self.added = 0
        self.searched = []

    def train(self, x):
        self.trained += 1

    def add(self, x):
        self.added += 1

    def search(self, xq, k):
        self.searched.append((self.search_type, len(xq)))
        return np.tile(self.D[:k], (len(xq), 1)), np.tile(self.ids[:k], (len(xq), 1))

    def sa_code_size(self):
        return self.code_size


def fixed_method(index, searches=("adc",), bits=16):
    return Method("fixed", bits, lambda shape: index, {"seed": 1}, searches)


@pytest.fixture
def index():
    return Fixed(np.arange(10, dtype=np.float32), np.arange(10))


def test_run__exact_search_agrees_with_float64(data, tmp_path):
    row = run(data, [exact(64)], tmp_path, k=50).rows[0]
    xb = data.database.reshape(300, -1) / 255.0
    xq = data.queries.reshape(30, -1) / 255.0
    order = np.argsort(((xq[:, None] - xb[None]) ** 2).sum(-1), axis=1)[:, :50]
    np.testing.assert_array_equal(read_raw(tmp_path, row.key).I, order)
    hit = data.database_labels[order] == data.query_labels[:, None]
    precision = hit.cumsum(1) / np.arange(1, 51)
    total = (precision * hit).sum(1)
    assert set(row.metrics) == {"map@50", "map@50/min(R,k)", "precision@50", "recall@50"}
    assert row.metrics["map@50"] == pytest.approx((total / hit.sum(1)).mean())
    assert row.metrics["map@50/min(R,k)"] == pytest.approx((total / 50).mean())
    assert row.metrics["precision@50"] == pytest.approx(hit.mean())
    assert row.metrics["recall@50"] == pytest.approx(hit.sum(1).mean() / 100)
    assert row.curves["k"] == [1, 2, 5, 10, 20, 50]
    assert row.curves["precision"][-1] == row.metrics["precision@50"]
    assert (row.bytes_per_vector, row.bits, row.reference) == (256, 2048, True)


def test_run__writes_what_it_returns(data, tmp_path):
    methods = [*baselines(16, 64), *baselines(32, 64)]
    results = run(data, methods, tmp_path, k=100, batch_size=7, command="evaluate blobs")
    assert read_results(tmp_path / "results.json") == results
    # Exact L2 is in both lists and is run once.
    assert len(results.rows) == len(methods) - 1
    assert (results.n_database, results.n_queries, results.k) == (300, 30, 100)
    assert (results.command, results.data) == ("evaluate blobs", "three noisy blobs")
    assert {row.bytes_per_vector for row in results.rows} == {2, 4, 256}
    assert len(list((tmp_path / "raw").glob("*.npz"))) == 2 * len(results.rows)


def test_run__asks_for_every_search_type_in_batches(data, tmp_path, index):
    results = run(data, [fixed_method(index, ("adc", "sdc"))], tmp_path, k=5, batch_size=20)
    assert [row.search for row in results.rows] == ["adc", "sdc"]
    assert index.searched == [("adc", 20), ("adc", 10), ("sdc", 20), ("sdc", 10)]
    assert (index.trained, index.added) == (1, 1)


@pytest.mark.parametrize("code_size", [1, 3])
def test_run__rejects_unequal_bytes(data, tmp_path, code_size):
    index = Fixed(np.zeros(3), np.arange(3), code_size)
    with pytest.raises(ValueError, match=f"expected 2 bytes .* 16 bits of fixed, got {code_size}"):
        run(data, [fixed_method(index)], tmp_path, k=3)
    assert index.trained == 0


def test_run__rounds_bits_up_to_bytes(data, tmp_path, index):
    assert run(data, [fixed_method(index, bits=12)], tmp_path, k=3).rows[0].bytes_per_vector == 2


def test_run__continues_after_an_interruption(data, tmp_path, index, caplog):
    class Interrupting(Fixed):
        def train(self, x):
            raise KeyboardInterrupt

    other = replace(fixed_method(Interrupting(index.D, index.ids)), name="other")
    with pytest.raises(KeyboardInterrupt):
        run(data, [fixed_method(index), other], tmp_path, k=5)
    assert not (tmp_path / "results.json").exists()
    other = replace(fixed_method(Fixed(index.D, index.ids)), name="other")
    with caplog.at_level(logging.INFO):
        results = run(data, [fixed_method(index), other], tmp_path, k=5)
    assert "fixed, 16 bits, adc: reused" in caplog.text
    assert "other, 16 bits, adc: reused" not in caplog.text
    assert index.trained == 1
    assert [row.method for row in results.rows] == ["fixed", "other"]


def test_run__fresh_measures_again(data, tmp_path, index):
    run(data, [fixed_method(index)], tmp_path, k=5)
    run(data, [fixed_method(index)], tmp_path, k=5, fresh=True)
    assert index.trained == 2


@pytest.mark.parametrize(
    "change", [{"config": {"seed": 2}}, {"name": "other"}, {"searches": ("sdc",)}]
)
def test_run__another_configuration_is_measured(data, tmp_path, index, change):
    method = fixed_method(index)
    run(data, [method], tmp_path, k=5)
    run(data, [replace(method, **change)], tmp_path, k=5)
    run(data, [method], tmp_path, k=4)
    assert index.trained == 3


def test_run__measures_again_what_is_corrupt(data, tmp_path, index, caplog):
    key = run(data, [fixed_method(index)], tmp_path, k=5).rows[0].key
    path = tmp_path / "raw" / f"{key}.npz"
    path.write_bytes(path.read_bytes()[:100])
    run(data, [fixed_method(index)], tmp_path, k=5)
    assert "expected raw results" in caplog.text
    assert index.trained == 2
    assert read_raw(tmp_path, key).I.shape == (30, 5)


def test_run__cuts_k_to_the_database_and_says_so(data, tmp_path, caplog):
    results = run(data, [exact(64)], tmp_path, k=1000)
    assert "k = 1000 is cut to the 300 items of the database" in caplog.text
    assert results.k == 300
    assert "map@300" in results.rows[0].metrics


@pytest.mark.parametrize(
    ("ids", "D", "message"),
    [
        ([0, 1, -1], [0, 1, 2], "expected ids from 0 to 299, got -1 to 1"),
        ([0, 1, 300], [0, 1, 2], "expected ids from 0 to 299, got 0 to 300"),
        ([0, 1, 0], [0, 1, 2], "expected distinct ids"),
        ([0, 1, 2], [0, 1, np.nan], "expected finite distances"),
        ([0, 1, 2], [0, 2, 1], "expected distances in order"),
    ],
)
def test_run__rejects_results_that_cannot_be_right(data, tmp_path, ids, D, message):
    index = Fixed(np.array(D, np.float32), np.array(ids))
    with pytest.raises(ValueError, match=rf"fixed \(adc\): {message}"):
        run(data, [fixed_method(index)], tmp_path, k=3)
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("change", [{"k": 0}, {"batch_size": 0}, {"methods": []}])
def test_run__rejects_nothing_to_do(data, tmp_path, index, change):
    with pytest.raises(ValueError, match="expected methods, k >= 1 and batch_size >= 1"):
        run(**{"data": data, "methods": [fixed_method(index)], "out": tmp_path, **change})


def test_run__draws_no_bar_into_a_file(data, tmp_path, index, capfd):
    run(data, [fixed_method(index)], tmp_path, k=5)
    assert capfd.readouterr().err == ""


def test_check_results__takes_similarities():
    D = np.array([[3, 2, 2], [1, 0, -1]], np.float32)
    assert check_results(D, np.array([[0, 1, 2], [2, 1, 0]]), 3) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_order_ties__by_id_whichever_way_distances_run(sign):
    D = np.array([[0, 1, 1, 1, 2], [3, 3, 4, 5, 5]], np.float32) * sign
    ids = np.array([[9, 8, 3, 5, 1], [2, 1, 7, 6, 0]])
    ordered = order_ties(D, ids)
    np.testing.assert_array_equal(ordered[0], D)
    np.testing.assert_array_equal(ordered[1], [[9, 3, 5, 8, 1], [1, 2, 7, 0, 6]])


def test_run__hamming_ties_are_a_stable_sort(data, tmp_path):
    """FAISS keeps the lowest ids of those tied at the k-th distance, too."""
    lsh = baselines(16, 64)[1]
    row = run(data, [lsh], tmp_path, k=40).rows[0]
    index = lsh.build(ITEM)
    index.train(data.train)
    codes, query_codes = (
        index.faiss_index.sa_encode(x.reshape(len(x), -1).astype(np.float32) / np.float32(255))
        for x in (data.database, data.queries)
    )
    distances = np.unpackbits(query_codes[:, None] ^ codes[None], axis=2).sum(-1)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :40]
    np.testing.assert_array_equal(read_raw(tmp_path, row.key).I, expected)


@pytest.mark.parametrize("key", ["", "../../secret", "g" * 20, "a" * 19])
def test_read_raw__rejects_what_is_no_key(tmp_path, key):
    with pytest.raises(ValueError, match="expected a key of 20 hexadecimal digits"):
        read_raw(tmp_path, key)


def test_environment__is_json_and_names_no_machine(tmp_path):
    found = environment()
    assert {"python", "torch", "faiss", "numpy", "platform", "cpu", "cores"} <= set(found)
    text = json.dumps(found)
    assert runner.platform.node() not in text
    assert "/" not in found["platform"]
