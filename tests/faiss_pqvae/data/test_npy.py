"""Arrays in .npy files: one, or several as shards."""

from pathlib import Path

import numpy as np
import pytest

from faiss_pqvae.data.npy import open_npy, open_npy_shards, read_npy

X = np.arange(12).reshape(6, 2)
FOREIGN = ["i1", ">i2", "u4", "<i8", ">f4", ">f8", "g"]


def write(folder: Path, x: np.ndarray, *cuts: int) -> list[Path]:
    paths = []
    folder = folder / f"{len(cuts) + 1} files"
    folder.mkdir()
    for number, part in enumerate(np.split(x, cuts)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], np.asfortranarray(part) if x.flags.fnc else part)
    return paths


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", FOREIGN)
def test_open_npy__foreign_numbers_come_as_float32(tmp_path: Path, dtype: str, order) -> None:
    x = np.asarray(X, dtype, order=order)
    one = open_npy(write(tmp_path, x)[0])
    shards = open_npy_shards(write(tmp_path, x, 1, 1, 4))
    for source in (one, shards):
        assert (source.shape, source.dtype) == ((6, 2), np.float32)
        assert source[:].dtype == np.float32
        assert source[:].dtype.isnative
        np.testing.assert_array_equal(source[1:5], X[1:5])
    assert one.parts == [(tmp_path / "1 files" / "0.npy", 6)]


@pytest.mark.parametrize(
    ("dtype", "shape"), [("f2", (6, 2)), ("<f8", (6, 2)), ("u1", (2, 3, 1, 2))]
)
def test_open_npy__others_keep_their_dtype(tmp_path: Path, dtype: str, shape) -> None:
    x = X.astype(dtype).reshape(shape)
    one = open_npy(write(tmp_path, x)[0])
    shards = open_npy_shards(write(tmp_path, x, 1))
    for source in (one, shards):
        assert (source.shape, source.dtype) == (shape, x.dtype)
        np.testing.assert_array_equal(source[np.array([1, 0])], x[[1, 0]])
    assert isinstance(one, np.memmap)
    assert one.parts == [(tmp_path / "1 files" / "0.npy", len(x))]


@pytest.mark.parametrize("number", [0, 9])
@pytest.mark.parametrize("nothing", [np.array([]), np.empty((0, 2)), np.empty((0, 3, 1), "u1")])
def test_open_npy_shards__without_items_have_any_shape(
    tmp_path: Path, number: int, nothing: np.ndarray
) -> None:
    x = X.astype(np.float32)
    paths = [tmp_path / f"{i}.npy" for i in (1, 2)]
    for path, part in zip(paths, np.split(x, [4]), strict=True):
        np.save(path, part)
    np.save(tmp_path / f"{number}.npy", nothing)
    source = open_npy_shards(sorted([*paths, tmp_path / f"{number}.npy"]))
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source[:], x)


def test_open_npy_shards__a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    paths = write(tmp_path, X.astype(np.float32), 3)
    source = open_npy_shards(paths)
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    np.testing.assert_array_equal(source[:3], X[:3])
    with pytest.raises(ValueError, match=r"1\.npy was cut after it was opened"):
        source[:]


@pytest.mark.parametrize(
    ("x", "how"),
    [
        (X > 3, r"dtype bool: write x\.astype\(numpy\.float32\) before numpy\.save"),
        (X * 1j, r"complex128: write x\.real"),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), r"structured_to_unstructured\(x\)"),
        (X.astype(np.int16).view("V2"), r"bfloat16"),
        (X.astype(str), "dtype <U21"),
        (X.astype(object), "expected a complete .npy file of numbers"),
    ],
    ids=["bool", "complex", "structured", "bfloat16", "text", "object"],
)
def test_open_npy__says_how_to_convert(tmp_path: Path, x: np.ndarray, how: str) -> None:
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    for opened in (open_npy, lambda path: open_npy_shards([path])):
        with pytest.raises(ValueError, match=rf"x\.npy.*{how}"):
            opened(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00"])
def test_read_npy__says_what_was_expected_in_which_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "y.npy"
    np.save(path, np.array([3, 1]))
    assert read_npy(path, "labels").tolist() == [3, 1]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*y\.npy: expected labels as \.npy"):
        read_npy(path, "labels")


def test_read_npy__unpickles_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="expected labels as"):
        read_npy(tmp_path / "y.npy", "labels")
