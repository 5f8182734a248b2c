"""Exact neighbours against float64, and what is kept of them."""

import logging
import re

import numpy as np
import pytest

from faiss_pqvae.data.flat import Float32Rows
from faiss_pqvae.eval.data import truth
from faiss_pqvae.eval.data.brute_force import Neighbours, distances, nearest
from faiss_pqvae.eval.data.truth import digest, ground_truth

LOGGER = "faiss_pqvae.eval.data.truth"


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((300, 12), dtype=np.float32)


@pytest.fixture
def q(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((30, 12), dtype=np.float32) + 0.1


def _table(q: np.ndarray, x: np.ndarray, metric: str) -> np.ndarray:
    """Every pair in float64, smaller is nearer."""
    q, x = q.astype(np.float64), x.astype(np.float64)
    return -q @ x.T if metric == "inner_product" else ((q[:, None] - x) ** 2).sum(-1)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize("block", [12 * 4 * 7, 1 << 20])
def test_nearest__is_a_sort_in_float64(x, q, metric, block) -> None:
    table = _table(q, x, metric)
    for source in (x, Float32Rows(x)):
        found = nearest(q, source, 20, metric, progress=False, block_bytes=block)
        np.testing.assert_array_equal(found.I, table.argsort(axis=1)[:, :20])
        expected = np.sort(table, axis=1)[:, :20] * (-1 if metric == "inner_product" else 1)
        np.testing.assert_allclose(found.D, expected, rtol=1e-5)


def test_nearest__survives_the_rounding_of_the_matrix_product(x, q) -> None:
    # |x|^2 - 2 qx + |q|^2 loses all digits of the distance here: the candidates' order is noise.
    offset = np.float32(300)
    found = nearest(q + offset, x + offset, 5, progress=False)
    table = _table(q + offset, x + offset, "l2")
    np.testing.assert_allclose(found.D, np.sort(table, axis=1)[:, :5], rtol=1e-5)


def test_nearest__orders_duplicates_by_id(q) -> None:
    x = np.zeros((50, 12), np.float32)
    found = nearest(q, x, 10, progress=False)
    np.testing.assert_array_equal(found.I, np.tile(np.arange(10), (30, 1)))


@pytest.mark.parametrize("k", [0, 301])
def test_nearest__rejects_k(x, q, k) -> None:
    with pytest.raises(ValueError, match=f"k from 1 to the 300 vectors of the database, got {k}"):
        nearest(q, x, k)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_distances__are_the_same_from_memory_and_in_blocks(x, q, metric, rng) -> None:
    ids = rng.integers(-1, 300, (30, 9))
    whole = distances(q, x, ids, metric)
    nothing = np.inf if metric == "l2" else -np.inf
    expected = np.take_along_axis(_table(q, x, metric), np.maximum(ids, 0), 1)
    expected = np.where(ids < 0, nothing, expected * (-1 if metric == "inner_product" else 1))
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-6)
    blocks = distances(q, Float32Rows(x), ids, metric, block_bytes=12 * 4 * 9 * 4)
    np.testing.assert_array_equal(blocks, whole)


def test_distances__reject_what_does_not_fit(x, q) -> None:
    with pytest.raises(ValueError, match="ids from -1 to 299, got 0 to 300"):
        distances(q[:1], x, np.array([[0, 300]]))
    with pytest.raises(ValueError, match=r"I of shape \(30, k\)"):
        distances(q, x, np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="queries of 12 dimensions"):
        distances(q[:, :5], x, np.zeros((30, 3), np.int64))


def test_digest__is_of_content_and_shape(x) -> None:
    whole = digest(x, "vectors")
    assert digest(Float32Rows(x), "vectors") == whole
    assert digest(x, "vectors", block_bytes=12 * 4 * 7) == whole
    changed = x.copy()
    changed[299, 11] += 1
    assert len({whole, digest(changed, "v"), digest(x.reshape(600, 6), "v")}) == 3
    changed[123, 4] = np.nan
    with pytest.raises(ValueError, match="finite vectors, got NaN or infinity in row 123"):
        digest(changed, "vectors")


# What is kept ------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """The number of queries of every brute force."""
    calls = []

    def counted(queries, *args, **options):
        calls.append(len(queries))
        return nearest(queries, *args, **options)

    monkeypatch.setattr(truth, "nearest", counted)
    return calls


def test_ground_truth__is_measured_once(x, q, tmp_path, measured) -> None:
    first = ground_truth(q, x, "l2", "a", cache=tmp_path / "new")
    again = ground_truth(q, x, "l2", "a", cache=tmp_path / "new")
    assert measured == [30]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert first.I.shape == (30, 100)
    ground_truth(q, x, "inner_product", "a", cache=tmp_path / "new")
    ground_truth(q, x, "l2", "b", cache=tmp_path / "new")
    assert measured == [30, 30, 30]
    assert ground_truth(q, x[:7], "l2", "c", cache=tmp_path).I.shape == (30, 7)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:100],
        lambda raw: raw[:-30],
        lambda raw: raw[:900] + b"\xff" * 8 + raw[908:],
        lambda raw: b"text",
    ],
)
def test_ground_truth__a_damaged_file_is_measured_again(
    x, q, tmp_path, measured, caplog, damage
) -> None:
    expected = ground_truth(q, x, "l2", "a", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, LOGGER):
        found = ground_truth(q, x, "l2", "a", cache=tmp_path)
    assert "the ground truth is measured again" in caplog.text
    np.testing.assert_array_equal(found.I, expected.I)
    assert measured == [30, 30]


@pytest.mark.parametrize("change", [{"I": -1}, {"I": 300}, {"D": 0}, {"key": "other"}])
def test_ground_truth__a_wrong_file_is_measured_again(
    x, q, tmp_path, measured, caplog, change
) -> None:
    ground_truth(q, x, "l2", "a", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as arrays:
        content = dict(arrays)
    for name, value in change.items():
        if name == "key":
            content[name] = np.array(value)
        else:
            content[name][3, 50] = value
    np.savez(path, **content)
    with caplog.at_level(logging.WARNING, LOGGER):
        ground_truth(q, x, "l2", "a", cache=tmp_path)
    assert "the ground truth is measured again" in caplog.text
    assert measured == [30, 30]


def test_ground_truth__goes_on_without_a_place_to_keep_it(x, q, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, LOGGER):
        found = ground_truth(q, x, "l2", "a", cache=tmp_path / "file")
    assert "the ground truth is not kept" in caplog.text
    assert found.I.shape == (30, 100)


def test_ground_truth__what_came_with_the_data_is_used_when_it_is_right(
    x, q, tmp_path, measured
) -> None:
    x[200:] = x[:100]  # ties: which of them were listed does not matter
    exact = nearest(q, x, 100, progress=False)
    shipped = np.where(exact.I % 2, exact.I[:, ::-1], exact.I)  # not even in order
    shipped = np.take_along_axis(exact.I, np.argsort(shipped, axis=1), 1)
    found = ground_truth(q, x, "l2", "a", shipped=shipped, sample=10, cache=tmp_path)
    assert measured == [10]
    np.testing.assert_array_equal(found.D, exact.D)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda ids: ids[:, :50], r"expected ids of shape \(30, at least 100\), got \(30, 50\)"),
        (lambda ids: ids[:5], r"got \(5, 100\)"),
        (lambda ids: ids - 1, "expected ids from 0 to 299, got -1"),
        (lambda ids: ids * 0, "expected distinct ids"),
        (lambda ids: 299 - ids, "wrong for 30 of 30 queries"),
    ],
)
def test_ground_truth__what_came_with_the_data_is_not_trusted(
    x, q, tmp_path, caplog, damage, message
) -> None:
    exact = nearest(q, x, 100, progress=False)
    with caplog.at_level(logging.WARNING, LOGGER):
        found = ground_truth(q, x, "l2", "a", shipped=damage(exact.I), cache=tmp_path)
    assert "the ground truth of the data set is not used" in caplog.text
    assert re.search(message, caplog.text)
    assert isinstance(found, Neighbours)
    np.testing.assert_array_equal(found.I, exact.I)
