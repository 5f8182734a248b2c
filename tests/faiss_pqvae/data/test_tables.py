"""Vectors in HDF5 and Parquet."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_pqvae.data.open import ParquetImages, open_source
from faiss_pqvae.data.tables import HDF5Vectors, open_parquet_vectors

X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
ROWS = [
    slice(None),
    slice(4, 9),
    slice(None, None, -3),
    slice(5, 5),
    np.array([19, 2, 2, -1]),
    np.array([7, 6, 8]),
    np.array([], np.int64),
]


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.attrs["distance"] = "euclidean"
        file["train"] = X
        file.create_dataset("test", data=X[:4].astype(np.float64), chunks=(2, 3), compression=1)
        file["neighbors"] = np.arange(8).reshape(4, 2)
        file["group/more"] = np.arange(6, dtype=np.uint8).reshape(2, 3)
        file["flags"] = np.ones((2, 2), bool)
        file["none"] = np.empty((0, 3), np.float32)
    return tmp_path / "x.hdf5"


# HDF5 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_hdf5__selects_rows_as_numpy_does(hdf5: Path, rows: slice | np.ndarray) -> None:
    source = open_source(hdf5)
    assert isinstance(source, HDF5Vectors)
    assert (source.shape, len(source), source.dtype) == ((20, 3), 20, np.float32)
    assert source[rows].dtype == np.float32
    np.testing.assert_array_equal(source[rows], X[rows])


def test_hdf5__other_data_sets_are_named_behind_the_path(hdf5: Path) -> None:
    np.testing.assert_array_equal(open_source(f"{hdf5}/test")[:], X[:4])
    np.testing.assert_array_equal(open_source(hdf5 / "neighbors")[1:2], [[2, 3]])
    ids = HDF5Vectors(hdf5, "neighbors").read(slice(None))
    assert ids.dtype == np.int64
    assert HDF5Vectors(hdf5).attributes == {"distance": "euclidean"}
    assert HDF5Vectors(hdf5).names == ("group/more", "neighbors", "none", "test", "train")
    assert HDF5Vectors(hdf5, "group/more")[:].dtype == np.float32


def test_hdf5__takes_the_only_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["embeddings"] = X
    np.testing.assert_array_equal(open_source(tmp_path / "x.h5")[:], X)


def test_hdf5__groups_at_any_depth_are_named_behind_the_path(tmp_path: Path) -> None:
    path = tmp_path / "my.folder" / "x.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["emb/clip"] = X
        file["emb/more/big"] = X.astype(">f8")
        file["emb/linked"] = h5py.SoftLink("/emb/clip")
    for name in ("emb/clip", "emb/more/big", "emb/linked"):
        source = open_source(f"{path}/{name}")
        assert source.parts == [(path, 20)]
        np.testing.assert_array_equal(source[:], X)
    for name in ("emb", "emb/clip/deeper", "clip"):
        with pytest.raises(
            ValueError, match=rf"named '{name}' .*got .*'emb/clip': \(20, 3\), 'emb/more/big'"
        ):
            open_source(path / name)


@pytest.mark.parametrize("name", ["missing", "flags", "none"])
def test_hdf5__says_which_data_sets_there_are(hdf5: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"named '{name}' .*got .*'train': \(20, 3\)"):
        HDF5Vectors(hdf5, name)


def test_hdf5__rejects_what_is_not_there(hdf5: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"y\.hdf5 does not exist; expected an HDF5 file"):
        HDF5Vectors(tmp_path / "y.hdf5")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(FileNotFoundError, match="is one whole"):
        open_source(tmp_path / "x.npy" / "train")
    with pytest.raises(IndexError, match="expected rows from -20 to 19, got 20"):
        HDF5Vectors(hdf5)[np.array([20])]


@pytest.mark.parametrize(("run", "gap"), [(1, 10**9), (36, 12), (10**9, 1)])
def test_hdf5__rows_come_the_same_in_runs(hdf5: Path, run: int, gap: int) -> None:
    rows = np.random.default_rng(0).integers(0, 20, 30)
    source = HDF5Vectors(hdf5, run_bytes=run, gap_bytes=gap)
    np.testing.assert_array_equal(source[rows], X[rows])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_hdf5__rejects_truncation_anywhere(hdf5: Path, share: float) -> None:
    raw = hdf5.read_bytes()
    path = hdf5.with_name("cut.hdf5")
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"cannot read .*cut\.hdf5 as HDF5"):
        open_source(path)


def test_hdf5__damage_found_while_reading_is_an_error(hdf5: Path) -> None:
    source = HDF5Vectors(hdf5, "test")
    raw = bytearray(hdf5.read_bytes())
    with h5py.File(hdf5, "r") as file:
        start = file["test"].id.get_chunk_info(0).byte_offset
    raw[start : start + 8] = b"\xff" * 8  # of the compressed values
    hdf5.write_bytes(raw)
    with pytest.raises(ValueError, match=r"cannot read .*x\.hdf5 as HDF5"):
        source[:]


def test_hdf5__names_the_missing_extra(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'h5py is needed .*pip install "faiss-pqvae\[hdf5\]"'):
        open_source(hdf5)


# Parquet -----------------------------------------------------------------------------------------


def _fixed(x: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])


@pytest.mark.parametrize(
    "column",
    [
        _fixed(X),
        _fixed(X.astype(np.float64)),
        pa.array(X.tolist(), pa.list_(pa.float32())),
        pa.array(X.tolist(), pa.large_list(pa.float64())),
        pa.chunked_array([_fixed(X[:7]), _fixed(np.vstack([X, X]))[7:20]]),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_vectors__read_every_kind_of_list(tmp_path: Path, column) -> None:
    table = pa.table({"id": np.arange(20), "embedding": column})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=6)
    for path in (tmp_path / "x.parquet", tmp_path / "x.parquet" / "embedding"):
        found = open_source(path)
        assert (found.shape, found.dtype) == ((20, 3), np.float32)
        np.testing.assert_array_equal(found[:], X)


def test_parquet_vectors__one_column_a_dimension(tmp_path: Path) -> None:
    parts = [X[:7], X[7:]]
    for number, part in enumerate(parts):
        columns = {f"d{i}": part[:, i] for i in (2, 0, 1)}
        table = pa.table({"id": np.arange(len(part)), **columns})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=3)
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)
    np.testing.assert_array_equal(open_source(tmp_path / "0.parquet" / "d*")[:], X[:7])
    pq.write_table(pa.table({"id": [1], "d0": [1.0], "d1": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(
        ValueError, match=r"read .*2\.parquet: .* \['d1', 'd2'\] .*, as in .*0\.parquet, got"
    ):
        open_source(tmp_path)


def test_parquet_vectors__tensors(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2)
    for name, x in (("v", X), ("images", pixels)):
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
        pq.write_table(
            pa.table({"id": np.arange(len(x)), "t": column}), tmp_path / f"{name}.parquet"
        )
        source = open_source(tmp_path / f"{name}.parquet")
        assert (source.shape, source.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(source[:], x)


def test_parquet_vectors__integers_keep_their_values(tmp_path: Path) -> None:
    column = pa.array([[0, 255], [7, 1]], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(open_source(tmp_path / "x.parquet")[:], [[0, 255], [7, 1]])


def test_parquet_vectors__join_the_files_of_a_folder(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": _fixed(X[8:])}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": _fixed(X[:8])}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": _fixed(X)[:0]}), tmp_path / "c.parquet")
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)
    given_order = open_parquet_vectors([tmp_path / "b.parquet", tmp_path / "a.parquet"])
    np.testing.assert_array_equal(given_order[:], np.vstack([X[8:], X[:8]]))


@pytest.mark.parametrize("number", [0, 3])
def test_parquet_vectors__of_files_without_rows_the_type_says_nothing(
    tmp_path: Path, number: int
) -> None:
    for i, rows in ((1, slice(0, 8)), (2, slice(8, 20))):
        pq.write_table(pa.table({"x": list(X[rows])}), tmp_path / f"{i}.parquet")
    # As pandas writes an empty part, whose column might hold anything.
    pq.write_table(pa.table({"x": pa.nulls(0)}), tmp_path / f"{number}.parquet")
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)


def test_parquet_vectors__images_come_first(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "v": [[1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="as an image"):
        open_source(tmp_path / "x.parquet")
    np.testing.assert_array_equal(open_source(tmp_path / "x.parquet" / "v")[:], [[1.0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [[1.0], [1.0, 2.0]]}, "of one dimension, 1 as in the first row, got .* 1 to 2"),
        (
            {"x": pa.array([[], []], pa.list_(pa.float32()))},
            "at least 1 as in the first row, got .* 0 to 0",
        ),
        ({"x": [[1.0], None]}, "a vector in every row, got 1 nulls"),
        ({"x": [[1.0], [None]]}, "numbers in every vector, got 1 nulls"),
        ({"x": [[1.0]], "y": [[1.0]]}, r"got \['x', 'y'\]; name one as x\.parquet/COLUMN"),
        ({"x": pa.array([], pa.list_(pa.float32()))}, "no vectors in .*at least one row"),
    ],
)
def test_parquet_vectors__says_what_is_wrong(tmp_path: Path, columns, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "x.parquet")


def test_parquet_images__in_the_only_column_of_another_name(tmp_path: Path) -> None:
    table = pa.table({"img": [b"\xff\xd8\xff"], "label": [1], "mask": [b"\xff\xd8\xff"]})
    pq.write_table(table.drop_columns("mask"), tmp_path / "x.parquet")
    pq.write_table(table, tmp_path / "y.parquet")
    for path in (tmp_path / "x.parquet", tmp_path / "y.parquet" / "mask"):
        with pytest.raises(ValueError, match="as an image"):
            open_source(path)


def test_parquet_vectors__rejects_other_columns_and_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": _fixed(X), "name": ["a"] * 20}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"expected a column 'name' of lists .*got \['x'\]"):
        open_source(tmp_path / "x.parquet" / "name")
    with pytest.raises(FileNotFoundError, match=r"y\.parquet does not exist; expected a \.parquet"):
        open_parquet_vectors([tmp_path / "y.parquet"])
    pq.write_table(pa.table({"x": _fixed(X[:, :2])}), tmp_path / "y.parquet")
    with pytest.raises(
        ValueError, match=r"\(20, 3\) float32 in .*x\.parquet and \(20, 2\) float32 in .*y\.p"
    ):
        open_parquet_vectors(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "z.parquet")
    with pytest.raises(
        ValueError, match=r"a column 'image', one of vectors .*got the columns text \(string\)"
    ):
        open_source(tmp_path / "z.parquet")


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_parquet_vectors__reject_truncation_anywhere(tmp_path: Path, share: float) -> None:
    pq.write_table(pa.table({"x": _fixed(X)}), tmp_path / "x.parquet")
    raw = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"cannot read .*x\.parquet"):
        open_source(tmp_path / "x.parquet")


def test_parquet_vectors__are_no_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": _fixed(X)}), tmp_path / "x.parquet")
    assert not isinstance(open_source(tmp_path / "x.parquet"), ParquetImages)
