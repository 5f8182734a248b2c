"""Vector data sets on disk: TEXMEX, ann-benchmarks, and the one by name."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from faiss_pqvae.data.flat import FlatVectors
from faiss_pqvae.eval import load
from faiss_pqvae.eval.data.brute_force import nearest
from faiss_pqvae.eval.data.held import UnitRows
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.protocol import trained_on
from faiss_pqvae.eval.data.sets.texmex import is_texmex, open_texmex
from faiss_pqvae.eval.data.vectors import with_neighbours

X = np.random.default_rng(0).integers(0, 256, (150, 8)).astype(np.uint8)
Q = np.random.default_rng(1).integers(0, 256, (9, 8)).astype(np.uint8)
LEARN = np.random.default_rng(2).integers(0, 256, (40, 8)).astype(np.uint8)


def write_vecs(path: Path, x: np.ndarray) -> None:
    record = np.dtype([("d", "<i4"), ("values", x.dtype, x.shape[1:])])
    rows = np.zeros(len(x), record)
    rows["d"], rows["values"] = x.shape[1], x
    rows.tofile(path)


@pytest.fixture
def texmex(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for role, x in (("base", X), ("query", Q), ("learn", LEARN)):
        write_vecs(folder / f"small_{role}.bvecs", x)
    truth = nearest(Q.astype(np.float32), X.astype(np.float32), 100, progress=False)
    write_vecs(folder / "small_groundtruth.ivecs", truth.I.astype(np.int32))
    return folder


def write_hdf5(path: Path, distance: str | bytes | None = "euclidean", **change) -> Path:
    with h5py.File(path, "w") as file:
        if distance is not None:
            file.attrs["distance"] = distance
        for name, x in {"train": X.astype("f4"), "test": Q.astype("f4"), **change}.items():
            if x is not None:
                file[name] = x
    return path


def test_load__texmex(texmex: Path, tmp_path: Path, caplog) -> None:
    (texmex / "._small_base.bvecs").write_bytes(b"what macOS puts beside it")
    data = load(texmex, cache=tmp_path)
    np.testing.assert_array_equal(data.database, X.astype(np.float32))
    np.testing.assert_array_equal(data.queries, Q.astype(np.float32))
    np.testing.assert_array_equal(data.train, LEARN.astype(np.float32))
    assert data.name == "small"
    assert data.protocol == "small: exact L2 neighbours, trained on 40 other vectors"
    squared = ((Q[:, None].astype(float) - X) ** 2).sum(-1)
    np.testing.assert_array_equal(data.truth.D, np.sort(squared, axis=1)[:, :100])
    assert (data.scores(np.argsort(squared, axis=1), 100).per_query["100-recall@100"] == 1).all()
    assert caplog.text == ""  # the truth that came with it is right


def test_load__a_prefix_and_no_learn(texmex: Path, tmp_path: Path) -> None:
    (texmex / "small_learn.bvecs").unlink()
    (texmex / "small_groundtruth.ivecs").unlink()
    write_vecs(texmex / "other_base.fvecs", X.astype(np.float32))
    data = load(texmex / "small", cache=tmp_path)
    assert data.train is data.database
    assert data.protocol == "small: exact L2 neighbours, trained on the database"
    with pytest.raises(FileNotFoundError, match=r"one base file at .*'other_base.*'small_base"):
        load(texmex, cache=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"one query file at .*other, got \[\]"):
        load(texmex / "other", cache=tmp_path)


def test_load__subsets_have_neighbours_of_their_own(texmex: Path, tmp_path: Path) -> None:
    data = load(texmex, n_database=50, n_queries=4, cache=tmp_path)
    assert (data.database.shape, data.queries.shape, data.train.shape) == ((50, 8), (4, 8), (40, 8))
    assert "random subset: 50 of 150 database vectors, 4 of 9 queries (seed 0)" in data.protocol
    assert data.depth == 50
    squared = ((data.queries[:, None] - data.database) ** 2).sum(-1)
    np.testing.assert_array_equal(data.truth.D, np.sort(squared, axis=1))
    queries = load(texmex, n_queries=4, cache=tmp_path)
    np.testing.assert_array_equal(queries.queries, data.queries)
    assert queries.truth.I.shape == (4, 100)
    for name, limit in (("n_database", 150), ("n_queries", 9)):
        for size in (0, limit + 1):
            with pytest.raises(ValueError, match=f"{name} from 1 to {limit}, got {size}"):
                load(texmex, **{name: size}, cache=tmp_path)


def test_load__large_sources_stay_on_the_disk(texmex: Path, tmp_path: Path) -> None:
    expected = load(texmex, cache=tmp_path / "a")
    data = with_neighbours(open_texmex(texmex), cache=tmp_path / "b", held_bytes=100)
    assert isinstance(data.database, FlatVectors)
    np.testing.assert_array_equal(data.truth.I, expected.truth.I)
    ids = np.tile(np.arange(100), (9, 1))
    assert data.scores(ids, 100).curves == expected.scores(ids, 100).curves


@pytest.mark.parametrize("distance", ["euclidean", b"euclidean", "angular", "ip"])
def test_load__ann_benchmarks(tmp_path: Path, distance, caplog) -> None:
    path = write_hdf5(tmp_path / "small-8.hdf5", distance)
    data = load(path, cache=tmp_path)
    assert (data.name, data.train is data.database) == ("small-8", True)
    assert data.metric == ("inner_product" if distance == "ip" else "l2")
    x, q = X.astype(float), Q.astype(float)
    if distance == "angular":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
        assert "unit length (angular)" in data.protocol
    table = -q @ x.T if distance == "ip" else ((q[:, None] - x) ** 2).sum(-1)
    np.testing.assert_array_equal(data.truth.I[:, :10], table.argsort(axis=1)[:, :10])
    write_hdf5(path, distance, neighbors=table.argsort(axis=1)[:, :100])
    np.testing.assert_array_equal(load(path, cache=tmp_path / "b").truth.D, data.truth.D)
    assert caplog.text == ""
    write_hdf5(path, distance, neighbors=table.argsort(axis=1)[:, 50:])
    np.testing.assert_array_equal(load(path, cache=tmp_path / "c").truth.I, data.truth.I)
    assert "it is wrong for 9 of 9 queries" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "hamming"}, r"\['angular', 'cosine', .*\], got 'hamming'"),
        ({"distance": None}, "got None"),
        ({"test": None}, "named 'test'"),
        ({"test": Q[:, :5]}, r"of one dimension, got \(150, 8\), \(9, 5\)"),
        ({"train": np.full((150, 8), np.nan)}, "finite database vectors, .* in row 0"),
        ({"test": np.full((9, 8), np.inf)}, "finite queries"),
    ],
)
def test_load__says_what_is_wrong_in_hdf5(tmp_path: Path, change, message: str) -> None:
    path = write_hdf5(tmp_path / "x.hdf5", **change)
    with pytest.raises(ValueError, match=message):
        load(path, cache=tmp_path)


def test_load__unknown_names(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"data set of bsds-sift, .*got 'nothing'"):
        load("nothing")
    with pytest.raises(FileNotFoundError, match="expected an HDF5 file"):
        load(tmp_path / "x.hdf5")
    monkeypatch.setenv("FAISS_PQVAE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"put bsds_sift_\{base,learn,query\}\.bvecs"):
        load("bsds-sift")


def test_load__tells_layouts_of_vectors_from_other_paths(texmex: Path, tmp_path: Path) -> None:
    assert isinstance(load(str(texmex), cache=tmp_path), VectorData)
    assert isinstance(load(str(texmex / "small"), cache=tmp_path), VectorData)
    assert not is_texmex(texmex / "other")
    assert not is_texmex(Path("no/such/folder"))
    with pytest.raises(FileNotFoundError, match="expected an HDF5 file"):
        load("any.hdf5")


def test_unit_rows__leave_zeros() -> None:
    x = np.array([[3, 4], [0, 0], [0, -2]])
    rows = UnitRows(x)
    np.testing.assert_allclose(rows[:], [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)
    assert (rows.shape, len(rows), rows[np.array([2])].dtype) == ((3, 2), 3, np.float32)


@pytest.mark.dataset
def test_load__bsds_sift(tmp_path: Path, caplog) -> None:
    if "FAISS_PQVAE_DATA" not in os.environ:
        pytest.skip("FAISS_PQVAE_DATA is not set")
    data = load("bsds-sift", n_queries=20, cache=tmp_path)
    assert (data.database.shape, data.train.shape) == ((300_000, 128), (200_000, 128))
    assert data.truth.I.shape == (20, 100)
    assert caplog.text == ""  # the truth that came with it agrees with brute force


# What is trained on ------------------------------------------------------------------------------


def test_load__train_on_learn_base_or_half(texmex: Path, tmp_path: Path) -> None:
    x, learn = X.astype(np.float32), LEARN.astype(np.float32)
    base = load(texmex, train_on="base", cache=tmp_path)
    assert base.train is base.database
    assert base.protocol == "small: exact L2 neighbours, trained on the database"
    np.testing.assert_array_equal(load(texmex, train_on="learn", cache=tmp_path).train, learn)
    half = load(texmex, train_on="half", cache=tmp_path)
    np.testing.assert_array_equal(half.train, x[:75])
    np.testing.assert_array_equal(half.database, x[75:])
    squared = ((Q[:, None].astype(float) - x[75:]) ** 2).sum(-1)
    np.testing.assert_array_equal(half.truth.D, np.sort(squared, axis=1)[:, :100])
    assert (
        "trained on 75 other vectors, the first half of the base; the other half" in half.protocol
    )
    told = [trained_on(data) for data in (load(texmex, cache=tmp_path), base, half)]
    assert told == ["learn: 40 items", "base: 150 items", "half: 75 items"]
    part = load(texmex, train_on="half", n_database=20, cache=tmp_path)
    assert (len(part.train), len(part.database)) == (75, 20)


def test_load__train_on_learn_needs_some(texmex: Path, tmp_path: Path) -> None:
    (texmex / "small_learn.bvecs").unlink()
    data = load(texmex, train_on="half", cache=tmp_path)
    with pytest.raises(ValueError, match=r"beside the base of small .* 'learn', got none"):
        load(texmex, train_on="learn", cache=tmp_path)
    # Of a function that found the neighbours itself it is the same.
    with pytest.raises(ValueError, match="'learn', got none"):
        load(lambda: data, train_on="learn", cache=tmp_path)
    whole = load(texmex, cache=tmp_path)
    halved = load(lambda: whole, train_on="half", cache=tmp_path)
    np.testing.assert_array_equal(halved.train, data.train)
    np.testing.assert_array_equal(halved.truth.I, data.truth.I)
    one = {"database": X[:1].astype(np.float32), "queries": Q.astype(np.float32)}
    with pytest.raises(ValueError, match="at least 2 base vectors to train on 'half', got 1"):
        load(lambda: one, train_on="half", cache=tmp_path)


def test_load__train_on_is_not_for_labels(tmp_path: Path) -> None:
    labelled = (X.astype(np.float32), np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match="expected vectors without labels to train on 'base'"):
        load(lambda: labelled, train_on="base", cache=tmp_path)


# Judged relevance --------------------------------------------------------------------------------


def write_debian_text(folder: Path) -> None:
    folder.mkdir()
    x, q = X.astype(np.float16), Q.astype(np.float16)
    truth = nearest(Q.astype(np.float32), X.astype(np.float32), 100, progress=False)
    for name, array in (("base", x), ("queries", q), ("groundtruth", truth.I.astype(np.int32))):
        np.save(folder / f"{name}.npy", array)
    (folder / "qrels.tsv").write_text("query\trow\tgrade\n0\t3\t1\n0\t80\t2\n4\t149\t1\n")


def test_load__debian_text(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("FAISS_PQVAE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"put base\.npy, queries\.npy, groundtruth\.npy,"):
        load("debian-text")
    write_debian_text(tmp_path / "debian-text")
    data = load("debian-text", cache=tmp_path)
    np.testing.assert_array_equal(data.database, X.astype(np.float32))
    assert data.train is data.database
    assert caplog.text == ""  # the truth that came with it is right
    found = np.full((9, 10), 140)
    found[0, :3] = 80, 7, 3
    found[4, 9] = 149
    expected = np.zeros(9)
    expected[0] = (2 + 1 / np.log2(4)) / (2 + 1 / np.log2(3))
    expected[4] = 1 / np.log2(11)
    np.testing.assert_allclose(data.scores(found, 10).per_query["ndcg@10"], expected)
    assert "ndcg@10" not in data.scores(found, 9).per_query
    # Of the half that is searched only what is judged there counts.
    half = load("debian-text", train_on="half", cache=tmp_path)
    found[0, 0], found[4, 9] = 5, 74
    expected[0], expected[4] = 1, 1 / np.log2(11)
    found %= 75
    np.testing.assert_allclose(half.scores(found, 10).per_query["ndcg@10"], expected)
    queries = load("debian-text", n_queries=3, n_database=100, cache=tmp_path)
    assert queries.scores(np.zeros((3, 10), np.int64), 10).per_query["ndcg@10"].shape == (3,)
    (tmp_path / "debian-text" / "qrels.tsv").write_text("0 150 1\n")
    with pytest.raises(ValueError, match="judgements of items from 0 to 149, got 150"):
        load("debian-text", cache=tmp_path)


@pytest.mark.dataset
def test_load__real_debian_text(tmp_path: Path, caplog) -> None:
    if "FAISS_PQVAE_DATA" not in os.environ:
        pytest.skip("FAISS_PQVAE_DATA is not set")
    data = load("debian-text", n_queries=20, cache=tmp_path)
    assert (data.database.shape, data.truth.I.shape) == ((73_037, 384), (20, 100))
    assert caplog.text == ""  # the truth that came with it agrees with brute force
    assert 0 < data.scores(data.truth.I, 100).per_query["ndcg@10"].mean() < 1
