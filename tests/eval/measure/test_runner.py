import itertools
import json
import logging
import platform
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import faiss_pqvae
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.protocol import Scores
from faiss_pqvae.eval.measure import environment as environment_module
from faiss_pqvae.eval.measure.confidence import percentile_intervals, resampled_means
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.eval.measure.raw import Costs, Raw, read_raw, read_scores, write_raw
from faiss_pqvae.eval.measure.results import read_results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.measure.scored import stored_scores, with_confidence
from faiss_pqvae.eval.measure.searching import set_search
from faiss_pqvae.eval.measure.trust import check_distances, check_results, order_ties
from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.native import faiss

ITEM = (1, 8, 8)


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
    # In an iterator nothing can be seen of the index, whose counts would be another code's.
    hidden = itertools.repeat(index)
    return Method("fixed", bits, lambda shape: next(hidden), {"seed": 1}, searches)


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
    names = ("Exact L2", "LSH", "ITQ", "PQ")
    methods = [
        method for bits in (16, 32) for method in baselines(bits, (64,)) if method.name in names
    ]
    assert len(methods) == 8
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
    row_searches = [row.search for row in results.rows]
    assert row_searches == ["adc", "sdc"]
    searched = [index.searched[index.searched.index((search, 20)) :][:2] for search in row_searches]
    assert searched == [[("adc", 20), ("adc", 10)], [("sdc", 20), ("sdc", 10)]]
    assert (index.trained, index.added) == (1, 1)


def test_run__asks_for_fewer_queries_where_results_are_many(data, tmp_path, index):
    run(data, [fixed_method(index)], tmp_path, k=5, batch_size=20, batch_results=44)
    assert [n for _, n in index.searched][:4] == [8, 8, 8, 6]


class Supervised(Fixed):
    """Keeps the labels that it is trained with, and knows its own times."""

    train_s, add_s = 7.0, 3.0

    def train(self, x, labels):
        self.x, self.labels = x, labels


def supervised_method(index):
    return replace(fixed_method(index), supervised=True)


def test_run__trains_supervised_methods_with_labels(data, tmp_path):
    index = Supervised(np.arange(10, dtype=np.float32), np.arange(10))
    data = replace(data, train=data.database)
    (row,) = run(data, [supervised_method(index)], tmp_path, k=5).rows
    assert index.x is data.train
    assert index.labels is data.database_labels
    assert (row.train_s, row.add_s) == (7, 3)
    few = np.where(np.arange(300) < 9, data.database_labels, -1)
    (other,) = run(replace(data, train_labels=few), [supervised_method(index)], tmp_path, k=5).rows
    assert index.labels is few
    assert other.key != row.key  # other labels, other results


def test_run__needs_labels_for_supervised_methods(data, tmp_path, index):
    apart = replace(data, train=data.train[:200])
    with pytest.raises(ValueError, match="expected labels of the training items for fixed"):
        run(apart, [supervised_method(index)], tmp_path, k=5)
    assert not list(tmp_path.iterdir())


def test_run__labels_to_train_do_not_concern_other_methods(data, tmp_path, index):
    few = np.where(np.arange(300) < 9, data.database_labels, -1)
    keys = [
        run(part, [fixed_method(index)], tmp_path, k=5).rows[0].key
        for part in (data, replace(data, train_labels=few))
    ]
    assert keys[0] == keys[1]
    assert index.trained == 1


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([[0, 255]], np.uint8),
        ([[0, 53_999]], np.uint16),
        ([[127, -1]], np.int8),
        ([[-1, -1]], np.int8),
        ([[70_000, -1]], np.int32),
        ([[2**40, -1]], np.int64),
        ([[]], np.uint8),
    ],
)
def test_write_raw__ids_take_the_fewest_bytes(tmp_path, ids, dtype):
    ids = np.array(ids, np.int64)
    (tmp_path / "raw").mkdir()
    raw = Raw(np.zeros(ids.shape, np.float32), ids, Costs(2, 0.0, 0.0, 0.0))
    write_raw(raw, tmp_path, "0" * 20)
    with np.load(tmp_path / "raw" / f"{'0' * 20}.npz") as arrays:
        assert arrays["I"].dtype == dtype
    read = read_raw(tmp_path, "0" * 20).I
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, ids)


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
    said = "using stored results of fixed, 16 bits (adc), 1 of 2 searches; --fresh"
    assert said in caplog.text
    assert index.trained == 1
    assert [row.method for row in results.rows] == ["fixed", "other"]


def test_run__says_what_rows_cost_and_learned_from(data, tmp_path):
    methods = [exact(64), from_factory("PQ", 16, 64, "PQ8x2np")]
    methods.append(from_factory("OPQ", 16, 64, "OPQ8_64,PQ8x2np"))
    methods.append(from_factory("Some", 16, 64, "PQ8x2np", train_limit=250))
    rows = {row.method: row for row in run(data, methods, tmp_path, k=5).rows}
    assert {name: row.trained_on for name, row in rows.items()} == {
        "Exact L2": "",  # which learns nothing
        "PQ": "base: 300 items",
        "OPQ": "base: 300 items",
        "Some": "base: 250 of 300 items",
    }
    for method in methods[1:3]:
        index = method.build(ITEM)
        index.train(data.train)
        empty = len(faiss.serialize_index(index.faiss_index))
        index.add(data.database)
        assert rows[method.name].model_bytes == empty
        assert empty < len(faiss.serialize_index(index.faiss_index)) == empty + 300 * 2
    assert rows["PQ"].model_bytes > 4 * 4 * 64  # 4 codewords of all values
    assert rows["OPQ"].model_bytes > rows["PQ"].model_bytes + 4 * 64 * 64  # and a rotation
    for row in rows.values():
        assert row.encode_us == pytest.approx(1e6 * row.add_s / 300)
        assert row.queries_per_s > 0
        assert 0 < row.latency_ms["p50"] <= row.latency_ms["p95"] <= row.latency_ms["p99"]
        assert row.peak_bytes.keys() == {"train", "add", "search"}  # on Linux
    assert rows["PQ"].index_bytes == rows["PQ"].model_bytes + 300 * 2
    assert rows["Exact L2"].index_bytes == rows["Exact L2"].model_bytes + 300 * 4 * 64
    again = run(data, methods, tmp_path, k=5).rows  # from what is stored
    assert [replace(row, seeds={}) for row in again] == [*rows.values()]


def test_run__takes_raw_results_of_earlier_versions(data, tmp_path, index):
    (row,) = run(data, [fixed_method(index)], tmp_path, k=5).rows
    assert (row.trained_on, row.model_bytes) == ("base: 300 items", None)  # it does not say
    path = tmp_path / "raw" / f"{row.key}.npz"
    with np.load(path) as arrays:
        kept = {name: x for name, x in arrays.items() if name != "trained_on"}
    np.savez(path, **kept)
    (again,) = run(data, [fixed_method(index)], tmp_path, k=5).rows
    assert index.trained == 1
    assert (again.trained_on, again.metrics) == ("", row.metrics)


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
    with pytest.raises(ValueError, match=f"fixed, 16 bits: adc: {message}"):
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
    (lsh,) = (method for method in baselines(16, (64,)) if method.name == "LSH")
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
    assert platform.node() not in text
    assert "/" not in found["platform"]


# Seeds, scores and what is taken on trust --------------------------------------------------------


def seeded(D, ids, seed):
    return Method(
        "fixed",
        16,
        lambda shape: Fixed(D, ids),
        {"factory": "F", "training": {"seed": seed}, "seed": seed},
        ("adc", "sdc"),
        seed=seed,
    )


@pytest.fixture
def of_seeds(data):
    """Three seeds that find class 0 first, class 1 first, and items of both by turns."""
    D = np.arange(6, dtype=np.float32)
    zeros, ones = np.arange(0, 18, 3), np.arange(1, 18, 3)
    mixed = np.stack([zeros, ones], 1).ravel()[:6]
    return [seeded(D, ids, seed) for seed, ids in enumerate((zeros, ones, mixed))]


def test_run__seeds_of_a_method_are_one_row(data, tmp_path, of_seeds):
    results = run(data, of_seeds, tmp_path, k=6)
    assert [(row.search, len(row.keys)) for row in results.rows] == [("adc", 3), ("sdc", 3)]
    row = results.rows[0]
    # A third of the queries is of either class; of the mixed answers every other one is right.
    assert row.seeds["precision@6"] == pytest.approx([1 / 3] * 3)
    alternating = [(1 + 2 / 3 + 3 / 5) / 3, (1 / 2 + 2 / 4 + 3 / 6) / 3]
    assert row.seeds["map@6"] == pytest.approx([1 / 3, 1 / 3, sum(alternating) / 3])
    assert row.metrics["map@6"] == pytest.approx(np.mean(row.seeds["map@6"]))
    assert row.seed_deviations["map@6"] == pytest.approx(np.std(row.seeds["map@6"], ddof=1))
    assert row.seed_intervals["map@6"] == pytest.approx([1 / 3, sum(alternating) / 3])
    assert row.key == row.keys[0]
    assert len(list((tmp_path / "raw").glob("*.scores.npz"))) == 6
    # Intervals are those of each query's mean over the seeds.
    of_queries = np.mean([read_scores(tmp_path, key).per_query["map@6"] for key in row.keys], 0)
    expected = percentile_intervals(resampled_means(of_queries[:, None]))[0]
    assert row.intervals["map@6"] == pytest.approx(expected)
    assert stored_scores(results, tmp_path)[0]["map@6"] == pytest.approx(of_queries)
    assert read_results(tmp_path / "results.json") == results


def test_run__methods_that_differ_in_more_than_their_seed_are_rows(data, tmp_path, of_seeds):
    other = replace(of_seeds[1], config={**of_seeds[1].config, "factory": "G"})
    rows = run(data, [of_seeds[0], other], tmp_path, k=6).rows
    assert [(len(row.keys), row.seeds) for row in rows] == [(1, {})] * 4


def test_run__compares_by_what_is_stored(data, tmp_path, of_seeds):
    others = [replace(method, name="other") for method in of_seeds]
    results = run(data, [of_seeds[0], others[2]], tmp_path, k=6)
    (one,) = results.comparisons
    assert (one.method, one.other, one.metric) == ("other", "fixed", "map@6")
    again = with_confidence(results, stored_scores(results, tmp_path))
    assert again == results
    chosen = with_confidence(results, stored_scores(results, tmp_path), method="fixed")
    assert chosen.comparisons[0].difference == -one.difference
    with pytest.raises(ValueError, match=r"expected a metric of \['map@6', .*got 'map@7'"):
        with_confidence(results, stored_scores(results, tmp_path), metric="map@7")


def test_run__other_items_of_the_same_name_are_measured(data, tmp_path, index):
    run(data, [fixed_method(index)], tmp_path, k=5)
    queries = data.queries.copy()
    queries[3, 0, 2, 2] ^= 1
    run(replace(data, queries=queries), [fixed_method(index)], tmp_path, k=5)
    assert index.trained == 2
    # Labels decide what answers are worth, and not what they are.
    labels = (data.query_labels + 1) % 3
    relabelled = run(replace(data, query_labels=labels), [fixed_method(index)], tmp_path, k=5)
    assert index.trained == 2
    expected = (np.arange(5) % 3 == labels[:, None]).mean()
    assert relabelled.rows[0].metrics["precision@5"] == pytest.approx(expected)


@pytest.mark.parametrize("of", ["faiss", "faiss-pqvae"])
def test_run__says_when_other_software_measured_what_it_reuses(
    data, tmp_path, index, caplog, monkeypatch, of
):
    run(data, [fixed_method(index)], tmp_path, k=5)
    run(data, [fixed_method(index)], tmp_path, k=5)
    assert "was measured" not in caplog.text
    package = {"faiss": environment_module.faiss, "faiss-pqvae": faiss_pqvae}[of]
    monkeypatch.setattr(package, "__version__", "99.0")
    run(data, [fixed_method(index)], tmp_path, k=5)
    this = caplog.text.partition("this is ")[2]
    assert f"{of} 99.0" in this
    assert index.trained == 1


def test_run__sets_what_a_search_asks_for(data, tmp_path):
    method = from_factory("IVF", 24, 64, "IVF4,PQ8x2np")
    built = []

    def build(shape):
        built.append(method.build(shape))
        return built[-1]

    settings = replace(method, build=build, searches=("nprobe=1", "nprobe=4"))
    one, all_lists = run(data, [settings], tmp_path, k=20).rows
    assert built[0].faiss_index.nprobe == 4
    assert len(built) == 1
    everything = build(ITEM)
    everything.train(data.train)
    everything.add(data.database)
    set_search(everything, "nprobe=4")
    ids = everything.search(data.queries, 20)[1]
    agree = [(ids == read_raw(tmp_path, row.key).I).mean() for row in (one, all_lists)]
    assert agree[1] > 0.9 > agree[0]  # tied items are in another order


def test_set_search__takes_attributes_types_and_both():
    class Adjustable:
        search_type, nprobe, k_factor = "adc", 1, 1.0

    index = Adjustable()
    set_search(index, "sdc,nprobe=16,k_factor=2.5", of_several=True)
    assert (index.search_type, index.nprobe, index.k_factor) == ("sdc", 16, 2.5)
    set_search(index, "adc")
    assert index.search_type == "sdc"


@pytest.mark.parametrize("search", ["nprobe=x", "unheard=3", "efSearch=3", "nprobe="])
def test_set_search__rejects_what_the_index_has_not(search):
    index = exact(64).build(ITEM)
    with pytest.raises(ValueError, match=f"cannot set '{search}'"):
        set_search(index, search)


@pytest.mark.parametrize("change", [2.0, 0.5])
def test_run__recomputes_exact_distances(data, tmp_path, change):
    class Lying:
        def __init__(self, index):
            self.index = index

        def search(self, xq, k):
            D, I = self.index.search(xq, k)  # noqa: E741
            return D * np.float32(change), I

        def __getattr__(self, name):
            return getattr(self.index, name)

    truthful = exact(64)
    lying = replace(truthful, build=lambda shape: Lying(truthful.build(shape)))
    with pytest.raises(ValueError, match=r"2048 bits: exact: expected .* between query 0 and"):
        run(data, [lying], tmp_path, k=5)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({}, ValueError, "expected at least one metric"),
        ({"a": np.zeros(30, np.float32)}, TypeError, "the scores 'a' as float64, got float32"),
        ({"a": np.zeros(29)}, ValueError, r"the scores 'a' of shape \(30,\), got \(29,\)"),
        ({"a": np.full(30, np.nan)}, ValueError, "expected finite scores 'a'"),
    ],
)
def test_run__rejects_scores_that_cannot_be_right(
    data, tmp_path, index, monkeypatch, scores, error, message
):
    monkeypatch.setattr(LabelledData, "scores", lambda self, ids, k: Scores(scores, {}))
    with pytest.raises(error, match=rf"fixed \(adc\): .*{message}"):
        run(data, [fixed_method(index)], tmp_path, k=3)


def test_check_distances__takes_inner_products():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(330, 8)).astype(np.float32)
    kinds = ["train", "database", "queries"]
    data = SimpleNamespace(**dict(zip(kinds, (None, vectors[:300], vectors[300:]), strict=True)))
    products = data.queries @ data.database.T
    ids = np.argsort(-products, axis=1)[:, :7]
    D = np.take_along_axis(products, ids, 1)
    assert check_distances(data, D, ids) is None
    assert check_distances(data, D[:, :1], ids[:, :1]) is None
    D[29, 3] = (D[29, 2] + D[29, 4]) / 2 + 0.01
    with pytest.raises(ValueError, match="between query 29 and item"):
        check_distances(data, D, ids)


def test_check_distances__of_whole_databases_looks_at_some_ranks():
    x = np.arange(7, dtype=np.float32)[:, None]
    data = SimpleNamespace(train=None, database=x, queries=x[:1])
    D, ids = np.square(x.T), np.arange(7)[None]
    D[0, 1] = 2
    assert check_distances(data, D, ids, ranks=3) is None  # ranks 0, 3 and 6
    D[0, 3] = 10
    with pytest.raises(ValueError, match="expected 9 between query 0 and item 3, got 10"):
        check_distances(data, D, ids, ranks=3)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_read_scores__rejects_a_truncated_file(data, tmp_path, index, size):
    key = run(data, [fixed_method(index)], tmp_path, k=5).rows[0].key
    path = tmp_path / "raw" / f"{key}.scores.npz"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cannot read .*scores\.npz: expected scores"):
        read_scores(tmp_path, key)
