"""Arrays of other libraries and kinds."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from faiss_pqvae.foreign import as_array, as_ids, how_to_convert

X = np.arange(4.0, dtype=np.float32)
PLAIN = {
    "list": X.tolist(),
    "gradient": torch.from_numpy(X).requires_grad_(),
    "bfloat16": torch.from_numpy(X).bfloat16(),
    "Series": pd.Series(X, dtype="Float32"),
    "Arrow": pa.chunked_array([X[:2], X[2:]]),
    "big-endian": X.astype(">f8"),
    "nothing masked": np.ma.masked_array(X, mask=False),
}


@pytest.mark.parametrize("name", PLAIN)
def test_as_array__is_of_the_machine(name: str) -> None:
    found = as_array(PLAIN[name])
    assert type(found) is np.ndarray
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, X)


def test_as_array__copies_nothing_of_a_plain_one() -> None:
    assert as_array(X) is X
    assert np.shares_memory(as_array(torch.from_numpy(X)), X)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (scipy.sparse.eye_array(3), "got dia_array, which is sparse: write x.toarray()"),
        (torch.eye(3).to_sparse(), "got a sparse tensor (torch.sparse_coo): write x.to_dense()"),
        (
            torch.nested.as_nested_tensor([torch.eye(2)], layout=torch.jagged),
            "got a nested tensor: write torch.stack(",
        ),
        (torch.empty(3, device="meta"), "got a tensor on the device meta, which has no values"),
        (np.ma.masked_less(X, 1), "got a masked array with missing values: write x.filled(value)"),
    ],
    ids=["scipy", "sparse", "nested", "meta", "masked"],
)
def test_as_array__says_what_is_not_there(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"expected ids as a dense array, {re.escape(message)}"):
        as_array(values, "ids")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("c8", ": write z.real, or numpy.hstack([z.real, z.imag])"),
        ([("a", "f4")], ": write numpy.lib.recfunctions.structured_to_unstructured(z)"),
        ("M8[s]", ": write z.astype(numpy.int64).astype(numpy.float32)"),
        (bool, ": write z.astype(numpy.float32)"),
        ("V2", ": write z.astype(numpy.float32) where its type is known, such as bfloat16"),
    ],
)
def test_how_to_convert__by_kind(dtype: Any, expected: str) -> None:
    assert how_to_convert(np.dtype(dtype), "z") == expected


@pytest.mark.parametrize("given_", [[3, 2**40], np.array([3, -1], np.int8), np.arange(6)[::2]])
def test_as_ids__are_contiguous_int64(given_: Any) -> None:
    ids = as_ids(given_)
    assert (ids.dtype, ids.flags.c_contiguous) == (np.int64, True)
    np.testing.assert_array_equal(ids, given_)


@pytest.mark.parametrize("given_", [[], np.array([]), np.empty(0, np.int64)], ids=repr)
def test_as_ids__of_none(given_: Any) -> None:
    ids = as_ids(given_, 0)
    assert (ids.dtype, ids.shape) == (np.int64, (0,))


@pytest.mark.parametrize(
    ("ids", "n", "error", "match"),
    [
        ([1.0], None, TypeError, "int64, got float64"),
        (np.array([1], np.uint64), None, TypeError, r"got uint64: give ids.view\(numpy.int64\)"),
        ([], 3, ValueError, r"shape \(3,\), got \(0,\)"),
        ([[1, 2]], None, ValueError, r"shape \(n,\), got \(1, 2\)"),
        ([1, 2], 3, ValueError, r"shape \(3,\), got \(2,\)"),
    ],
)
def test_as_ids__refuses(ids: Any, n: int | None, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        as_ids(ids, n)
