"""Vectors in the columns of Arrow tables: which ones, and their values."""

import numpy as np
import pyarrow as pa
import pytest

from faiss_pqvae.data.columns import choose_columns, column_kinds, join_rows, rows_of, vectors_of

X = np.random.default_rng(0).standard_normal((11, 12)).astype(np.float32)
IDS = np.arange(11)


def wide(prefix: str = "dim_", first: int = 0, **more: object) -> pa.Table:
    names = [f"{prefix}{number}" for number in range(first, first + 12)]
    columns = dict(zip(names, X.T, strict=True))
    text = {name: columns[name] for name in sorted(names)}  # dim_10 before dim_2
    return pa.table({**more, **text})


def chosen(table: pa.Table, pattern: str | None = None) -> np.ndarray:
    return rows_of(table, choose_columns(table.schema, pattern, None, "ONE", "SEVERAL"))


@pytest.mark.parametrize(
    "table",
    [
        wide(),
        wide("", 1),
        wide("emb.", id=IDS, label=IDS % 2, name=[str(i) for i in IDS], seen=IDS > 4),
        wide("x", __index_level_0__=IDS),
    ],
    ids=["zero", "one", "beside", "pandas"],
)
def test_choose_columns__one_column_a_dimension_in_the_order_of_its_number(table) -> None:
    np.testing.assert_array_equal(chosen(table), X)
    (batch,) = table.to_batches()
    np.testing.assert_array_equal(chosen(batch), X)


def test_choose_columns__of_integers_and_mixed_numbers() -> None:
    pixels = (X * 50).astype(np.int16)
    table = pa.table({"label": IDS, **{f"pixel{i}": pixels[:, i] for i in range(12)}})
    np.testing.assert_array_equal(chosen(table), pixels)
    mixed = pa.table({"x0": X[:, 0].astype(float), "x1": pixels[:, 1], "x2": X[:, 2]})
    np.testing.assert_array_equal(chosen(mixed)[:, 1:], np.c_[pixels[:, 1], X[:, 2]])


def test_choose_columns__all_floats_where_no_other_number_is() -> None:
    table = pa.table({"width": X[:, 0], "name": ["a"] * 11, "height": X[:, 1].astype(float)})
    np.testing.assert_array_equal(chosen(table), X[:, :2])


def test_choose_columns__by_a_pattern() -> None:
    table = wide("b", score=X[:, 3], v=list(X[:, :5]))
    np.testing.assert_array_equal(chosen(table, "b*"), X)
    np.testing.assert_array_equal(chosen(table, "v"), X[:, :5])
    np.testing.assert_array_equal(chosen(table), X[:, :5])


@pytest.mark.parametrize(
    "columns",
    [
        {"id": IDS, "width": X[:, 0], "height": X[:, 1]},  # is the id a dimension?
        {"x0": X[:, 0], "x1": X[:, 1], "score": X[:, 2]},
        {"x0": X[:, 0], "x2": X[:, 1], "n": IDS},  # a gap
        {"x0": X[:, 0], "x1": X[:, 1], "y0": X[:, 0], "y1": X[:, 1], "n": IDS},
        {"id": IDS, "count": IDS},
        {"text": ["a"] * 11},
        {"nested": [[[1.0]]] * 11},
    ],
    ids=lambda columns: ",".join(columns),
)
def test_choose_columns__what_is_not_plain_is_asked_for(columns) -> None:
    with pytest.raises(ValueError, match=r"'image', one of vectors .*got the columns .* \(") as e:
        chosen(pa.table(columns))
    assert str(e.value).endswith("name a column as ONE, several as SEVERAL")


def test_choose_columns__names_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(ValueError, match=r"a column 'y\*' of lists of numbers, got \[\] among"):
        chosen(wide(), "y*")


def test_rows_of__names_the_column_with_nulls() -> None:
    with pytest.raises(ValueError, match="a number in every row of x1, got 1 nulls"):
        chosen(pa.table({"x0": [1.0, 2.0], "x1": [1.0, None]}))


LISTS = {
    "list<half>": pa.array(X.astype(np.float16).tolist(), pa.list_(pa.float16())),
    "list<double>": pa.array(X.tolist(), pa.list_(pa.float64())),
    "large_list": pa.array(X.tolist(), pa.large_list(pa.float32())),
    "list_view": pa.array(X.tolist(), pa.list_view(pa.float32())),
    "fixed": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 12),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(X),
}


@pytest.mark.parametrize("name", LISTS)
def test_vectors_of__every_kind_of_list(name: str) -> None:
    column = LISTS[name]
    expected = X.astype(np.float16).astype(np.float32) if "half" in name else X
    for rows in (slice(None), slice(3, 7)):
        found = vectors_of(column[rows])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[rows])
    chunked = pa.chunked_array([column[:4], column[4:4], column[4:]])
    np.testing.assert_array_equal(vectors_of(chunked), expected)


def test_vectors_of__tensors_keep_their_shape_and_bytes() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(2, 2, 3, 4)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    assert vectors_of(column).dtype == np.uint8
    np.testing.assert_array_equal(vectors_of(column), images)
    kind = pa.fixed_shape_tensor(pa.uint8(), (2, 3, 4), permutation=[1, 2, 0])
    turned = pa.ExtensionArray.from_storage(kind, column.storage.cast(kind.storage_type))
    np.testing.assert_array_equal(vectors_of(turned), images.transpose(0, 2, 3, 1))


def test_column_kinds__by_type() -> None:
    struct = pa.array([{"bytes": b"x", "path": ""}])
    table = {"a": struct, "b": [b"x"], "c": [1.0], "d": [1], "e": ["x"], "f": [[1]], "g": [True]}
    table["h"] = pa.FixedShapeTensorArray.from_numpy_ndarray(X[:1])
    table["i"] = pa.array([{"x": 1.0}])
    table["j"] = pa.array([b"x"], pa.binary_view())
    table["k"] = pa.array([b"x"]).dictionary_encode()
    table["l"] = pa.array([{"bytes": None, "path": "x.png"}])
    table["m"] = pa.array([[1.0]], pa.list_view(pa.float64()))
    kinds = column_kinds(pa.table(table).schema)
    assert list(kinds.values()) == [
        "images",
        "images",
        "float",
        "integer",
        "other",
        "vectors",
        "other",
        "vectors",
        "other",
        "images",
        "images",
        "images",
        "vectors",
    ]


def test_join_rows__of_blocks_with_and_without_rows() -> None:
    np.testing.assert_array_equal(join_rows([X[:0], X[:4], X[4:4], X[4:]]), X)
    assert join_rows([]).shape == (0, 0)
    with pytest.raises(ValueError, match=r"of one dimension, got \[\(3,\), \(12,\)\]"):
        join_rows([X, X[:, :3]])
