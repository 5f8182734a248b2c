"""Vectors and arrays that a command reads of the path that it gets."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faiss_pqvae.cli.reading import open_for, open_labelled
from faiss_pqvae.data.open import ImageOptions

X = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


def test_open_for__arrays_of_images_in_a_folder(make_index, make_items, tmp_path: Path) -> None:
    index, x = make_index((1, 8, 8)), make_items(9)
    for number, rows in ((2, slice(0, 4)), (10, slice(4, 9))):
        np.save(tmp_path / f"{number}.npy", x[rows])
    np.testing.assert_array_equal(open_for(index, str(tmp_path))[:], x)


@pytest.mark.parametrize("name", ["nested", "shards", "x.hdf5/emb/clip", "wide.parquet"])
def test_open_labelled__vectors_as_people_have_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "nested" / "data").mkdir(parents=True)
    (tmp_path / "shards").mkdir()
    for number, rows in ((2, slice(0, 4)), (10, slice(4, 9))):
        pq.write_table(pa.table({"v": list(X[rows])}), tmp_path / f"nested/data/{number}.parquet")
        np.save(tmp_path / "shards" / f"{number}.npy", X[rows].astype(">f4"))
    pq.write_table(pa.table({f"d{i}": X[:, i] for i in range(4)}), tmp_path / "wide.parquet")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["emb/clip"] = X
    np.testing.assert_array_equal(open_labelled(str(tmp_path / name), ImageOptions()).items[:], X)
