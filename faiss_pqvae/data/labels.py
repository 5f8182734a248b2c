"""Labels at the edge: what callers hand to `train` beside the items."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from faiss_pqvae.foreign import as_array


class Labels(NamedTuple):
    """Which classes items belong to, as pairs, so that thousands of classes take no matrix.

    Attributes:
        n_classes: how many there are.
        classes: (p,) int64 in [0, n_classes), item after item.
        starts: (n + 1,) int64: item i has the classes from starts[i] to starts[i + 1]; none where
            its label is missing.
    """

    n_classes: int
    classes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(n,) whether an item has a class."""
        return np.diff(self.starts) > 0


def check_labels(labels: Any, n: int) -> Labels:
    """Checks labels and brings them into one form.

    Args:
        labels: (n,) integers, one class an item, -1 where it is missing; or (n, C) bool, several,
            with no class where it is missing. Class numbers need not be without gaps. What this
            function returned is taken as it is.
        n: number of items.

    Raises:
        TypeError: no array of integers or bool.
        ValueError: another shape or length; a number below -1; fewer than two classes.
    """
    if isinstance(labels, Labels):  # checked before
        if len(labels.starts) != n + 1:
            raise ValueError(f"expected labels of {n} items, got those of {len(labels.starts) - 1}")
        return labels
    given = as_array(labels, "labels")
    if given.dtype == object and all(isinstance(label, int) for label in given.flat):
        given = np.array(given.tolist())  # as tables hand out whole numbers
    if given.dtype != np.bool_ and not np.issubdtype(given.dtype, np.integer):
        nan = np.issubdtype(given.dtype, np.floating) and bool(np.isnan(given).any())
        raise TypeError(
            "expected labels as integers (n,), -1 where one is missing, or bool (n, classes), got "
            f"{given.dtype}{' with NaN' if nan else ''}: write {_how_to_number(given, nan)}"
        )
    matrix = given.dtype == np.bool_
    expected = f"({n}, classes) of bool" if matrix else f"({n},) of integers"
    if given.ndim != 1 + matrix or len(given) != n:
        raise ValueError(f"expected labels of shape {expected} for {n} items, got {given.shape}")
    if matrix:
        rows, classes = given.nonzero()
        n_classes, seen = given.shape[1], len(np.unique(classes))
    else:
        if given.min() < -1:
            raise ValueError(f"expected labels from -1 (missing) on, got {given.min()}")
        rows = np.flatnonzero(given >= 0)
        names, classes = np.unique(given[rows], return_inverse=True)
        n_classes = seen = len(names)
    if seen < 2:
        raise ValueError(
            f"expected labels of two classes or more to tell apart, got {seen} "
            f"({len(np.unique(rows))} of {n} items have a label)"
        )
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=starts[1:])
    return Labels(n_classes, classes.astype(np.int64), starts)


def _how_to_number(labels: npt.NDArray[Any], nan: bool) -> str:
    if labels.dtype.kind == "f":
        return f"numpy.{'nan_to_num(labels, nan=-1)' if nan else 'asarray(labels)'}.astype(int)"
    return "numpy.unique(labels, return_inverse=True)[1]"


def check_word_vectors(vectors: Any, n_classes: int) -> npt.NDArray[np.float32]:
    """Checks word vectors of classes and brings them to length 1.

    Args:
        vectors: (n_classes, e) floats, e.g. of the classes' names, in the order of the class
            numbers that occur.
        n_classes: how many classes there are.

    Returns:
        (n_classes, e) float32.

    Raises:
        TypeError: no array of floats.
        ValueError: another shape; NaN, infinity or a vector of length zero.
    """
    given = as_array(vectors, "word vectors")
    if not np.issubdtype(given.dtype, np.floating):
        raise TypeError(f"expected word vectors of floats, got {given.dtype}")
    if given.ndim != 2 or len(given) != n_classes or not given.shape[1]:
        raise ValueError(
            f"expected word vectors of shape ({n_classes}, e), one a class, got {given.shape}"
        )
    lengths = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        raise ValueError("expected finite word vectors that are not zero, got others")
    found: npt.NDArray[np.float32] = (given / lengths).astype(np.float32)
    return found
