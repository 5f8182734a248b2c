"""Items handed in as something else than arrays."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items, read_batches, read_rows

X = np.random.default_rng(0).integers(-99, 100, (7, 3)).astype(np.float32)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)
WIDE = pa.table({f"x{i}": X[:, i] for i in range(3)})
IMAGES = np.random.default_rng(1).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)


def read(x: Any, item_shape: tuple[int, ...] = (3,)) -> np.ndarray:
    """All rows, batch by batch, as an index reads them; picked ones must agree."""
    rows = check_items(x, item_shape, "items")
    found = torch.cat([*read_batches(rows, 2, "items")])
    picked = np.array([4, 0, 4])
    assert torch.equal(read_rows(rows, picked, "items"), found[picked])
    return found.numpy()


class Polars:
    """What a DataFrame of polars is seen as: a shape and a way to numpy."""

    shape = (7, 3)
    columns = ("a", "b", "c")

    def to_numpy(self) -> np.ndarray:
        return X


class ArrowColumn:
    """A column of a library that speaks Arrow's protocol alone."""

    def __arrow_c_array__(self, schema: Any = None) -> Any:
        return FIXED.__arrow_c_array__()


class ArrowTable:
    """A table of such a library."""

    def __arrow_c_stream__(self, schema: Any = None) -> Any:
        return WIDE.__arrow_c_stream__()


class ArrayOnly:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return X


class HuggingFace:
    """What is seen of a Dataset of Hugging Face's datasets."""

    data = pa.table({"id": range(7), "emb": FIXED})

    def __init__(self, kind: str | None = None, names: tuple[str, ...] = ("id", "emb")) -> None:
        self.format, self.names = {"type": kind}, names

    def select_columns(self, name: str) -> Any:
        return HuggingFace(self.format["type"], (name,))

    def with_format(self, kind: str) -> Any:
        return HuggingFace(kind, self.names)

    def __len__(self) -> int:
        return 7

    def __getitem__(self, rows: Any) -> Any:
        table = self.data.select(self.names)[rows]
        assert self.format["type"] == "arrow"
        return table


class HuggingFaceColumn:
    """A column of it: as long as it need not be, it is not read row by row."""

    __module__ = "datasets.arrow_dataset"

    def __init__(self, source: Any, column_name: str) -> None:
        self.source, self.column_name = source, column_name

    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> Any:
        assert self.source.format["type"] == "custom"
        return 2 * X[i]


VECTORS = {
    "list of arrays": [*X],
    "tuple of arrays": (*X,),
    "list of lists": X.tolist(),
    "list of tuples": [(*row,) for row in X.tolist()],
    "list of tensors": [*torch.from_numpy(X).requires_grad_()],
    "list of bfloat16": [*torch.from_numpy(X).bfloat16()],
    "list of big-endian": [*X.astype(">f8")],
    "list of integers": X.astype(int).tolist(),
    "list of arrays and labels": [(row, 1) for row in X],
    "array of arrays": pd.Series([*X]).to_numpy(),
    "Series of arrays": pd.Series([*X], index=range(7, 0, -1)),
    "Series of lists": pd.Series(X.tolist()),
    "Series of Arrow": pd.Series(FIXED, dtype=pd.ArrowDtype(FIXED.type)),
    "DataFrame": FRAME,
    "DataFrame of float16": FRAME.astype(np.float16),
    "DataFrame of kinds": FRAME.astype({"a": "Int64", "b": "Float32", "c": "int8"}),
    "DataFrame of Arrow": FRAME.astype("float[pyarrow]"),
    "DataFrame of arrays": pd.DataFrame({"emb": [*X]}),
    "polars": Polars(),
    "Arrow array": FIXED,
    "Arrow list": pa.array(X.tolist()),
    "Arrow chunks": pa.chunked_array([FIXED[:2], FIXED[2:]]),
    "Arrow tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "Arrow table": pa.table({"id": range(7), "emb": FIXED}),
    "Arrow wide": WIDE,
    "Arrow batch": WIDE.to_batches()[0],
    "protocol of Arrow columns": ArrowColumn(),
    "protocol of Arrow tables": ArrowTable(),
    "column of datasets": HuggingFaceColumn(HuggingFace(), "emb"),
    "array protocol": ArrayOnly(),
    "memoryview": memoryview(X),
    "int8": X.astype(np.int8),
    "int32 tensor": torch.from_numpy(X).int(),
    "big-endian": X.astype(">f4"),
    "longdouble": X.astype(np.longdouble),
    "float16": X.astype(np.float16),
    "bfloat16": torch.from_numpy(X).bfloat16(),
    "gradient": torch.from_numpy(X).requires_grad_(),
    "not contiguous": np.repeat(X, 2, axis=1)[:, ::2],
    "nothing masked": np.ma.masked_array(X, mask=False),
    "matrix": X.view(np.matrix),
    "TensorDataset": TensorDataset(torch.from_numpy(X)),
    "TensorDataset with labels": TensorDataset(torch.from_numpy(X), torch.arange(7)),
}


@pytest.mark.parametrize("name", VECTORS)
def test_as_rows__vectors(name: str) -> None:
    np.testing.assert_array_equal(read(VECTORS[name]), X)


def test_as_rows__a_column_of_datasets_with_a_transform_is_what_that_makes() -> None:
    np.testing.assert_array_equal(read(HuggingFaceColumn(HuggingFace("custom"), "emb")), 2 * X)


class Photos(Dataset):
    """A map-style Dataset; counts what is read."""

    def __init__(self, items: Any) -> None:
        self.items, self.read = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        assert type(i) is int
        self.read += 1
        return self.items[i]


def pil(mode: str = "RGB") -> list[Image.Image]:
    return [Image.fromarray(x.transpose(1, 2, 0)).convert(mode) for x in IMAGES]


@pytest.mark.parametrize(
    "x",
    [
        [*IMAGES],
        [*torch.from_numpy(IMAGES)],
        pil(),
        [(image, "cat") for image in pil()],
        Photos(pil()),
        Photos(IMAGES),
        Photos([(x, np.int64(3)) for x in torch.from_numpy(IMAGES)]),
        Photos([(x, torch.tensor([True, False])) for x in IMAGES]),
    ],
    ids=["arrays", "tensors", "PIL", "PIL, label", "D PIL", "D", "D label", "D labels"],
)
def test_as_rows__images(x: Any) -> None:
    found = read(x, (3, 4, 6))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, IMAGES)


def test_as_rows__pil_images_get_the_channels_of_the_index() -> None:
    grey = np.stack([np.asarray(image)[None] for image in pil("L")])
    np.testing.assert_array_equal(read(pil(), (1, 4, 6)), grey)
    np.testing.assert_array_equal(read(pil("L"), (1, 4, 6)), grey)
    np.testing.assert_array_equal(read(pil("L"), (3, 4, 6)), grey.repeat(3, axis=1))
    assert as_rows(pil(), None, "items").shape == (5, 3, 4, 6)
    assert as_rows(pil("L"), None, "items").shape == (5, 1, 4, 6)


def test_as_rows__a_photograph_is_turned_as_viewers_turn_it() -> None:
    image, file = pil()[0], io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(file, "PNG", exif=exif)
    turned = read([Image.open(file)] * 5, (3, 4, 6))
    np.testing.assert_array_equal(turned[0], IMAGES[0][:, ::-1, ::-1])


def test_as_rows__a_dataset_is_read_item_by_item() -> None:
    photos = Photos(IMAGES)
    rows = check_items(photos, (3, 4, 6), "items")
    assert photos.read == 1
    read_rows(rows, slice(3, 5), "items")
    assert photos.read == 3


def test_as_rows__what_has_rows_stays_as_it_is() -> None:
    for x in (X, IMAGES, torch.from_numpy(X), torch.from_numpy(IMAGES)):
        assert as_rows(x, None, "items") is x


def _kind_or_text(value: Any) -> str:
    """The name of a case: a representation would have addresses in it."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(
    "x",
    [[], (), FRAME[:0], Photos([]), FIXED[:0], pa.array([], pa.list_(pa.float32()))],
    ids=_kind_or_text,
)
def test_as_rows__nothing_is_no_item_of_the_right_shape(x: Any) -> None:
    found = as_rows(x, (3,), "items")
    assert found.shape == (0, 3)
    assert found.dtype == np.float32


SPARSE = scipy.sparse.csr_matrix(X)
MASKED = np.ma.masked_greater(X, 50)
TEXT = FRAME.assign(name="x", seen=True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (SPARSE, "got csr_matrix, which is sparse: write x.toarray()"),
        (scipy.sparse.coo_array(X), "got coo_array, which is sparse: write x.toarray()"),
        (torch.from_numpy(X).to_sparse(), "(torch.sparse_coo): write x.to_dense()"),
        (torch.zeros(7, 3, device="meta"), "on the device meta, which has no values"),
        (MASKED, "missing values: write x.filled(value)"),
        (TEXT, "['name', 'seen']: write x.drop(columns=[...]) for the numbers, or x[COLUMN]"),
        (pd.DataFrame({"emb": [*X], "id": range(7)}), "x[COLUMN] for a column of vectors"),
        (pa.array(["a"]), "a column of lists of numbers, got one of string"),
        (["a", "b"], "as arrays, got str in item 0: faiss_pqvae.data.open.open_source(path)"),
        ([Path("a")], "Path in item 0: faiss_pqvae.data.open.open_source(path) reads"),
        ("photos", "got str: faiss_pqvae.data.open.open_source(path) reads what lies at a path"),
        (Path("photos"), "Path: faiss_pqvae.data.open.open_source(path) reads"),
        ([*X, None], "as arrays, got NoneType in item 7"),
        (pd.Series(["a", "b"]), "as arrays, got str in item 0"),
        ([{"emb": row} for row in X], "got dict with ['emb'] in item 0: give the column"),
        ({"emb": X}, "got dict: give the value that holds the items"),
        (iter(X), "write numpy.concatenate(list(x)) of batches, numpy.stack(list(x)) of items"),
        (DataLoader([*X]), "got DataLoader: write numpy.concatenate(list(x)) of batches"),
        (pil()[0], "got Image: write [image] for one item"),
        (pil("RGBA"), "mode RGB or L, got RGBA in item 0: write image.convert('RGB')"),
        (pil("I"), "got I in item 0"),
        ([(row, row) for row in X], "pairs of an array and a label, got 2 values in item 0"),
        ([(row, 1, 2) for row in X], "got 3 values in item 0"),
    ],
    ids=_kind_or_text,
)
def test_as_rows__says_how_to_convert(x: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"expected items .*{re.escape(message)}"):
        as_rows(x, (3,), "items")


@pytest.mark.parametrize(
    ("x", "item_shape", "message"),
    [
        (
            [X[0], X[1, :2]],
            (3,),
            "of one shape, (3,) as the first, got (2,) in item 1: write numpy.c",
        ),
        ([X[:2], X[2:]], (3,), "got (5, 3) in item 1: write numpy.concatenate(x)"),
        ([[1.0], [1.0, 2.0]], (3,), "got (2,) in item 1"),
        ([[[1.0], [1.0, 2.0]]], (3,), "as arrays of numbers, got item 0: "),
        (X[0].tolist(), (3,), "got (3,): write x[None] for one item"),
        ([IMAGES[0], IMAGES[0] / 255], (3, 4, 6), "one dtype, uint8 as the first, got float64"),
        (pil(), (3, 8, 9), "got an image (3, 4, 6) in item 0: write image.resize((9, 8))"),
        (
            Photos([*X, X[0, :1]]),
            (3,),
            "of shape (3,) and float32 as the first, got (1,) float32 in",
        ),
        (FRAME.assign(b=np.nan), (3,), "NaN or infinity in row 0"),
        (FRAME.astype({"a": "Int64"}).replace(X[4, 0], pd.NA), (3,), "NaN or infinity in row 4"),
        (pa.table({"x0": [1.0, None], "x1": [1.0, 2.0]}), (2,), "in every row of x0, got 1 nulls"),
        (pa.table({"id": [1], "x": [1.0]}), (2,), 'table.select(["dim_0", "dim_1", ...])'),
    ],
    ids=_kind_or_text,
)
def test_check_items__says_which_item_is_wrong(x: Any, item_shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        for _ in read_batches(check_items(x, item_shape, "items"), 4, "items"):
            pass


def test_as_rows__needs_no_library_of_tables_or_images(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    for x in ([*X], X, TensorDataset(torch.from_numpy(X)), Polars()):
        np.testing.assert_array_equal(read(x), X)


def test_as_rows__arrays_of_other_libraries_come_as_numpy() -> None:
    class Foreign:
        shape, dtype = (7, 3), object()

        def __getitem__(self, rows: Any) -> None:
            pytest.fail("read")

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return X

    np.testing.assert_array_equal(read(Foreign()), X)
