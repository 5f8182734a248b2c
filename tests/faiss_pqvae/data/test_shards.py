"""Several sources behind each other as one."""

from pathlib import Path

import numpy as np
import pytest

from faiss_pqvae.data.shards import Shards

X = np.random.default_rng(0).standard_normal((13, 3)).astype(np.float32)
CUTS = [slice(0, 4), slice(4, 4), slice(4, 5), slice(5, 13), slice(13, 13)]
PATHS = [Path(f"{i}.npy") for i in range(len(CUTS))]


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(2, 9),
        slice(None, None, -3),
        slice(7, 7),
        np.array([12, 0, 0, -1, 4, 3, 5]),
        np.array([5, 6, 7]),
        np.array([], np.int64),
    ],
    ids=str,
)
def test_shards__select_rows_as_numpy_does(rows: slice | np.ndarray) -> None:
    shards = Shards(PATHS, [X[cut] for cut in CUTS])
    assert (shards.shape, len(shards), shards.dtype) == ((13, 3), 13, np.float32)
    np.testing.assert_array_equal(shards[rows], X[rows])
    np.testing.assert_array_equal(Shards(PATHS[:1], [X])[rows], X[rows])


def test_shards__parts_are_the_files_in_the_order_of_the_items() -> None:
    parts = Shards(PATHS, [X[cut] for cut in CUTS]).parts
    assert parts == list(zip(PATHS, [4, 0, 1, 8, 0], strict=True))


def test_shards__rejects_rows_that_are_not_there() -> None:
    with pytest.raises(IndexError, match="expected rows from -13 to 12, got 13"):
        Shards(PATHS[:2], [X[:4], X[4:]])[np.array([13])]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (X[:, :2], r"\(13, 3\) float32 in 0\.npy and \(13, 2\) float32 in 1\.npy"),
        (X.astype(float), r"float32 in 0\.npy and \(13, 3\) float64 in 1\.npy"),
    ],
    ids=["dimension", "dtype"],
)
def test_shards__that_differ_are_both_named(other: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shards(PATHS[:2], [X, other])


def test_shards__need_an_item() -> None:
    with pytest.raises(ValueError, match=r"no items in 0\.npy: expected at least one"):
        Shards(PATHS[:2], [X[:0], X[:0]])
