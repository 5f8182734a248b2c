"""Arrays of other libraries and kinds."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from faiss_pqvae.foreign import as_array, how_to_convert

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
        (torch.empty(3, device="meta"), "got a tensor on the device meta, which has no values"),
        (np.ma.masked_less(X, 1), "got a masked array with missing values: write x.filled(value)"),
    ],
    ids=["scipy", "sparse", "meta", "masked"],
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
