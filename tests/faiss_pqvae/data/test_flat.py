"""Vectors in flat files: round trips with numpy's writers, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from faiss.contrib import vecs_io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_pqvae.data.flat import Float32Rows, open_flat, read_ids
from faiss_pqvae.data.open import open_source

DTYPES = {
    ".fvecs": np.float32,
    ".bvecs": np.uint8,
    ".ivecs": np.int32,
    ".fbin": np.float32,
    ".u8bin": np.uint8,
    ".i8bin": np.int8,
    ".ibin": np.int32,
}
ROWS = [slice(None), slice(2, None), slice(None, None, -2), slice(9, 9), np.array([3, -1, 0, 3])]
FAST = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(suffix: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(DTYPES[suffix])
    if dtype.kind == "f":
        return rng.standard_normal((n, d)).astype(dtype)
    low, high = (-(2**20), 2**20) if dtype.itemsize == 4 else (-128, 128)
    return rng.integers(low, high, (n, d)).astype(dtype)


def content(suffix: str, x: np.ndarray) -> bytes:
    """The file's bytes, by definition: written here without a record dtype."""
    n, d = x.shape
    if suffix.endswith("bin"):
        return np.array([n, d], "<u4").tobytes() + x.astype(x.dtype.newbyteorder("<")).tobytes()
    dimension = np.array([d], "<i4").tobytes()
    return b"".join(dimension + row.astype(row.dtype.newbyteorder("<")).tobytes() for row in x)


def write(folder: Path, suffix: str, x: np.ndarray) -> Path:
    path = folder / f"x{suffix}"
    path.write_bytes(content(suffix, x))
    return path


@pytest.mark.parametrize("suffix", DTYPES)
@FAST
@given(n=st.integers(1, 12), d=st.integers(1, 9), seed=st.integers(0, 9))
def test_open_source__reads_what_was_written(
    tmp_path: Path, suffix: str, n: int, d: int, seed: int
) -> None:
    x = values(suffix, n, d, seed)
    source = open_source(write(tmp_path, suffix, x))
    assert (source.shape, len(source), source.dtype) == ((n, d), n, np.float32)
    assert source[:].dtype == np.float32
    np.testing.assert_array_equal(source[:], x.astype(np.float32))


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("suffix", [".fvecs", ".u8bin"])
def test_open_source__selects_rows_as_numpy_does(
    tmp_path: Path, suffix: str, rows: slice | np.ndarray
) -> None:
    x = values(suffix, 7, 3)
    found = open_source(write(tmp_path, suffix, x))[rows]
    np.testing.assert_array_equal(found, x.astype(np.float32)[rows])
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("suffix", "read"),
    [
        (".fvecs", vecs_io.fvecs_read),
        (".ivecs", vecs_io.ivecs_read),
        (".bvecs", vecs_io.bvecs_mmap),
    ],
)
def test_open_source__agrees_with_faiss(tmp_path: Path, suffix: str, read) -> None:
    path = write(tmp_path, suffix, values(suffix, 50, 12))
    expected = read(str(path))
    np.testing.assert_array_equal(open_source(path)[:], np.asarray(expected, np.float32))


def test_read_ids__are_exact_beyond_float32(tmp_path: Path) -> None:
    ids = np.array([[2**31 - 1, 2**24 + 1], [0, 5]], np.int32)
    for suffix in (".ivecs", ".ibin"):
        found = read_ids(write(tmp_path, suffix, ids))
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, ids)
    with pytest.raises(ValueError, match=r"a file \.ivecs or \.ibin, got .*x\.fbin"):
        read_ids(tmp_path / "x.fbin")


@pytest.mark.parametrize("suffix", DTYPES)
@FAST
@given(data=st.data())
def test_open_source__a_truncated_file_is_refused_or_whole_rows(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    x = values(suffix, 3, 2)
    raw = content(suffix, x)
    kept = data.draw(st.integers(0, len(raw) - 1))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(raw[:kept])
    row_bytes = len(raw) // 3
    if not suffix.endswith("bin") and kept and kept % row_bytes == 0:  # a shorter file, and sound
        np.testing.assert_array_equal(open_source(path)[:], x[: kept // row_bytes])
        return
    with pytest.raises(ValueError, match=rf"expected .*x{suffix}.*got -?\d+ bytes"):
        open_source(path)


@pytest.mark.parametrize("suffix", DTYPES)
@FAST
@given(at=st.integers(0, 7), byte=st.integers(0, 255))
def test_open_source__a_damaged_header_reads_nothing_outside_the_file(
    tmp_path: Path, suffix: str, at: int, byte: int
) -> None:
    raw = bytearray(content(suffix, values(suffix, 4, 3)))
    raw[at] = byte
    path = tmp_path / f"x{suffix}"
    path.write_bytes(raw)
    try:
        source = open_source(path)
    except ValueError:
        return
    assert source[:].size * np.dtype(DTYPES[suffix]).itemsize <= len(raw)


@pytest.mark.parametrize("row", [1, 5, 6])
@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs", ".ivecs"])
def test_open_flat__finds_another_dimension_in_any_row(
    tmp_path: Path, suffix: str, row: int
) -> None:
    x = values(suffix, 7, 3)
    raw = bytearray(content(suffix, x))
    raw[row * (4 + x[0].nbytes)] = 2
    (tmp_path / f"x{suffix}").write_bytes(raw)
    with pytest.raises(
        ValueError, match=rf"expected 3 dimensions in every row.*got 2 in row {row}$"
    ):
        open_flat(tmp_path / f"x{suffix}", check_bytes=40)


@pytest.mark.parametrize(
    ("suffix", "raw", "message"),
    [
        (".fvecs", b"", "start with a dimension of 4 bytes, got 0 bytes"),
        (".fvecs", np.array([0], "<i4").tobytes(), "dimension from 1 to 16777216 .* got 0"),
        (".bvecs", np.array([-3], "<i4").tobytes(), "got -3"),
        (".bvecs", np.array([2**30], "<i4").tobytes(), "got 1073741824"),
        (".fbin", b"1234567", "8 bytes, got 7 bytes"),
        (".fbin", np.array([0, 4], "<u4").tobytes(), "at least one vector"),
        (".u8bin", np.array([2**32 - 1, 2**24], "<u4").tobytes(), "72057594021150728 bytes"),
        (".u8bin", np.array([1, 1], "<u4").tobytes() + b"12", "9 bytes.* got 10 bytes"),
    ],
)
def test_open_source__says_what_is_wrong(
    tmp_path: Path, suffix: str, raw: bytes, message: str
) -> None:
    (tmp_path / f"x{suffix}").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / f"x{suffix}")


def test_open_source__a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, ".fvecs", values(".fvecs", 5, 3))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"x\.fvecs was cut after it was opened"):
        source[:]


def test_open_flat__rejects_another_suffix_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a suffix of \['\.bvecs', .*got .*x\.txt"):
        open_flat(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError, match=r"x\.fvecs"):
        open_flat(tmp_path / "x.fvecs")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_open_source__integers_in_two_dimensions_are_vectors(tmp_path: Path, dtype) -> None:
    x = np.arange(12).reshape(4, 3).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    source = open_source(tmp_path / "x.npy")
    assert isinstance(source, Float32Rows)
    assert (source.shape, len(source), source.dtype) == ((4, 3), 4, np.float32)
    assert source[1:3].dtype == np.float32
    np.testing.assert_array_equal(source[np.array([2, 0])], x[[2, 0]])


def test_open_source__images_in_npy_stay_bytes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 1, 3, 3), 255, np.uint8))
    assert open_source(tmp_path / "x.npy").dtype == np.uint8
