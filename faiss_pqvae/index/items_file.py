"""A table of items as bytes, which are believed only when all parts of it agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from faiss_pqvae.index.items import OWN, Items
from faiss_pqvae.index.texts import Texts
from faiss_pqvae.types import IdArray

_MOST = np.iinfo(np.int64).max
_RUNS = ("ids", "counts", "numbers", "files")
_DTYPES = {**dict.fromkeys((*_RUNS, "ends"), np.int64), "data": np.uint8, "root": np.uint8}


def to_bytes(items: Items) -> bytes:
    """A table as `from_bytes` reads it."""
    arrays: dict[str, npt.NDArray[np.generic]] = {name: getattr(items, name) for name in _RUNS}
    arrays |= {"ends": items.texts.ends, "data": items.texts.data}
    arrays["root"] = Texts.of([items.root]).data
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()})


def from_bytes(content: bytes) -> Items:
    """Reads a table.

    Raises:
        ValueError: no such table, or one whose parts do not fit together.
    """
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a table of items: {error}") from error
    found = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
    expected = {name: (np.dtype(dtype), 1) for name, dtype in _DTYPES.items()}
    if found != expected:
        raise ValueError(f"expected a table of items with {expected}, got {found}")
    texts = Texts(arrays["ends"], arrays["data"])
    _check_texts(texts)
    root = Texts(np.array([len(arrays["root"])]), arrays["root"])[0]
    ids, counts, numbers, files = (arrays[name] for name in _RUNS)
    items = Items(ids, counts, numbers, files, texts, root)
    _check_runs(items)
    return items


def _check_texts(texts: Texts) -> None:
    ends = texts.ends
    rising = not len(ends) or (ends[0] >= 1 and bool((ends[1:] > ends[:-1]).all()))
    if not rising or len(texts.data) != (ends[-1] if len(ends) else 0):
        raise ValueError("expected texts that follow each other in a table of items")


def _check_runs(items: Items) -> None:
    ids, counts, numbers, files = (getattr(items, name) for name in _RUNS)
    if len({len(ids), len(counts), len(numbers), len(files)}) > 1:
        raise ValueError("expected runs of items with all their parts")
    if ((files < 0) | (files >= len(items.texts))).any():
        raise ValueError("expected a text for every run of items")
    if (counts < 1).any() or (numbers < OWN).any() or ((numbers < 0) & (counts > 1)).any():
        raise ValueError("expected runs of one item or more, and several in a file only")
    if _overflow(ids, counts) or _overflow(numbers, counts):
        raise ValueError("expected ids of items below 2**63")
    last = ids + (counts - 1)
    if not (ids[1:] > last[:-1]).all() or ((ids <= -1) & (last >= -1)).any():
        raise ValueError("expected rising ids of items, each once and none of them -1")


def _overflow(starts: IdArray, counts: IdArray) -> bool:
    return bool((starts > _MOST - (counts - 1)).any())
