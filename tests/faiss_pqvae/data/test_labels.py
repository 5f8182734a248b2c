"""Labels and word vectors as callers hand them over."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from faiss_pqvae.data.labels import check_labels, check_word_vectors


def test_check_labels__integers_with_gaps_and_missing_ones():
    labels = check_labels([7, -1, 3, 7], 4)
    assert labels.n_classes == 2
    assert labels.labelled.tolist() == [True, False, True, True]
    assert labels.classes.tolist() == [1, 0, 1]
    assert labels.starts.tolist() == [0, 1, 1, 2, 3]


def test_check_labels__several_a_row():
    given = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
    for labels in (check_labels(given, 3), check_labels(torch.from_numpy(given), 3)):
        assert labels.n_classes == 3
        assert labels.classes.tolist() == [0, 1, 1]
        assert labels.starts.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_check_labels__every_kind_of_integer(dtype):
    assert check_labels(np.array([0, 1, 5], dtype), 3).n_classes == 3


@pytest.mark.parametrize(
    "labels",
    [
        (7, -1, 3, 7),
        pd.Series([7, -1, 3, 7], dtype="Int64"),
        pd.Series([7, -1, 3, 7], dtype=object),
        pa.array([7, -1, 3, 7]),
        np.array([7, -1, 3, 7], ">i4"),
        torch.tensor([7, -1, 3, 7]),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_check_labels__columns_of_every_kind(labels):
    assert check_labels(labels, 4).classes.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "how"),
    [
        ([0.0, 1.0], "numpy.asarray(labels).astype(int)"),
        (pd.Series([0, None], dtype="Int64"), "numpy.nan_to_num(labels, nan=-1).astype(int)"),
        (["a", "b"], "numpy.unique(labels, return_inverse=True)[1]"),
        (pd.Series(["a", "b"], dtype="category"), "numpy.unique(labels, return_inverse=True)[1]"),
        (scipy.sparse.eye(2, dtype=bool), "write x.toarray()"),
        (np.ma.masked_array([0, 1], [0, 1]), "write x.filled(value)"),
        (torch.zeros(2, dtype=int, device="meta"), "which has no values"),
    ],
    ids=str,
)
def test_check_labels__say_how_to_convert(labels, how):
    with pytest.raises(TypeError, match=f"expected labels as .*{re.escape(how)}"):
        check_labels(labels, 2)


def test_check_labels__thousands_of_classes_take_no_matrix():
    labels = check_labels(np.arange(100_000) % 50_000, 100_000)
    assert labels.n_classes == 50_000
    assert labels.classes.nbytes + labels.starts.nbytes < 2**21
    assert labels.classes[[0, 50_000]].tolist() == [0, 0]


def test_check_labels__what_it_returned_goes_through_it_unchanged():
    labels = check_labels([7, -1, 3, 7], 4)
    assert check_labels(labels, 4) is labels
    with pytest.raises(ValueError, match="labels of 5 items, got those of 4"):
        check_labels(labels, 5)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, 0], ValueError, r"shape \(4,\) of integers for 4 items, got \(3,\)"),
        (np.zeros((3, 2), bool), ValueError, r"\(4, classes\) of bool"),
        (np.zeros((4, 2), int), ValueError, "shape"),
        (np.array(1), ValueError, "shape"),
        ([0.0, 1.0, 0.0, 1.0], TypeError, "float64"),
        ([0.0, 1.0, np.nan, 1.0], TypeError, "with NaN"),
        (list("abab"), TypeError, "expected labels as integers"),
        ([2, 2, 2, 2], ValueError, "two classes or more to tell apart, got 1 .4 of 4"),
        ([-1, -1, -1, -1], ValueError, "got 0"),
        ([0, 1, -2, 1], ValueError, "got -2"),
        (np.ones((4, 1), bool), ValueError, "two classes"),
        (np.array([[1, 0]] * 4, bool), ValueError, "two classes"),
    ],
    ids=str,
)
def test_check_labels__says_what_is_wrong(labels, error, message):
    with pytest.raises(error, match=message):
        check_labels(labels, 4)


def test_check_word_vectors__brings_them_to_length_1():
    found = check_word_vectors(np.array([[3.0, 4.0], [0.0, 2.0]]), 2)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 1]], rtol=1e-6)
    assert found.dtype == np.float32
    half = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(check_word_vectors(half, 2), found)


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        (np.ones((2, 3), int), TypeError),
        (np.ones((3, 3)), ValueError),
        (np.ones(2), ValueError),
        (np.ones((2, 0)), ValueError),
        (np.array([[1.0, np.nan], [1, 1]]), ValueError),
        (np.array([[0.0, 0.0], [1, 1]]), ValueError),
        (np.array([[np.inf, 0.0], [1, 1]]), ValueError),
    ],
    ids=str,
)
def test_check_word_vectors__says_what_is_wrong(vectors, error):
    with pytest.raises(error, match="expected"):
        check_word_vectors(vectors, 2)
