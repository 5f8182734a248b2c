"""Exact neighbours that come with a data set, in the files that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faiss_pqvae.data.flat import read_ids
from faiss_pqvae.data.npy import read_npy
from faiss_pqvae.types import IdArray

_HEADER = np.dtype("<u4")
_BIG_ANN = (".bin", ".ibin")


def read_neighbors(path: Path) -> IdArray:
    """Reads places of neighbours: (nq, depth) int64, the nearest first.

    Args:
        path: .npy (nq, depth) of integers; .ivecs; or .ibin and .bin: the numbers of queries and
            of neighbours, uint32, then all ids, 32 bits each, and in big-ann-benchmarks' files all
            distances behind them, float32, which are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, or a file that is truncated or longer than its header says.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        found = read_npy(path, "places of neighbours")
        if found.ndim != 2 or found.dtype.kind not in "iu":
            raise ValueError(
                f"expected integers (nq, depth) in {path}, got {found.dtype} {found.shape}"
            )
        return found.astype(np.int64)
    if suffix not in _BIG_ANN:
        return read_ids(path)
    size = path.stat().st_size
    header = np.fromfile(path, _HEADER, 2)
    n, depth = (int(value) for value in header) if len(header) == 2 else (0, 0)
    alone, with_distances = (8 + 4 * n * depth, 8 + 8 * n * depth)
    if n * depth == 0 or size not in (alone, with_distances):
        raise ValueError(
            f"expected {path} with {alone} bytes, or {with_distances} with distances, for {n} "
            f"queries and {depth} neighbours each, got {size}"
        )
    ids = np.fromfile(path, _HEADER, n * depth, offset=8)
    return ids.reshape(n, depth).astype(np.int64)
