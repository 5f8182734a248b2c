"""Exact neighbours of some items among all of a collection, part by part.

A part's are kept in a file, so that an interrupted pass goes on, and any process may find them.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faiss_pqvae.data.open import open_several
from faiss_pqvae.data.row_range import RowRange, rows_of_part
from faiss_pqvae.data.source import Source
from faiss_pqvae.files import read_checked, write_checked
from faiss_pqvae.types import FloatArray, IdArray

_TIED = 64  # as near as the nearest, that count as found


@dataclass(frozen=True)
class Pass:
    """One pass over a collection.

    Attributes:
        folder: for what is found.
        sources: of the collection.
        source: the key of its contents.
        n: its items.
        n_parts: in which they are looked at.
        k: neighbours that are wanted.
    """

    folder: Path
    sources: tuple[str, ...]
    source: str
    n: int
    n_parts: int
    k: int

    def rows(self, part: int) -> slice:
        """The items of a part, which is counted from 0."""
        return rows_of_part(self.n, part, self.n_parts)

    def path(self, part: int) -> Path:
        """What is found in a part."""
        return self.folder / f"part-{part + 1:05}-of-{self.n_parts:05}"

    def asked(self) -> FloatArray:
        """The queries (nq, d) float32."""
        content = read_checked(self.folder / "queries")
        if content is None:
            raise FileNotFoundError(f"{self.folder / 'queries'} is not there, or damaged")
        found: FloatArray = np.load(io.BytesIO(content), allow_pickle=False)
        return found


def nearest_others(
    sources: Sequence[str],
    source: str,
    queries: FloatArray,
    asked: IdArray,
    folder: Path,
    *,
    n: int,
    n_parts: int,
    workers: int,
    engine: str,
) -> IdArray:
    """The nearest other items (nq, t) int64 of every query, which is an item itself.

    One of each, or more that are as near as that one; -2 beside them.

    Args:
        sources: of the collection.
        source: the key of its contents: those of another one are found anew.
        queries: (nq, d) float32.
        asked: (nq,) int64, which items they are.
        folder: for what is found, part by part, until all is.
        n: items.
        n_parts: in which they are looked at.
        workers: processes that look.
        engine: see `make_parts`.

    Raises:
        PartsFailedError: parts that failed.
        OSError: the disk is full or failing.
    """
    from faiss_pqvae.scale.engines import make_parts  # here, because it imports torch

    about = json.dumps([source, asked.tolist()]).encode()
    if folder.is_file():  # of an earlier version
        folder.unlink()
    for leftover in folder.glob(".*.new"):  # of processes that were killed
        leftover.unlink(missing_ok=True)
    if read_checked(folder / "about") != about:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checked(folder / "queries", _as_bytes(queries))
        write_checked(folder / "about", about)
    if (content := read_checked(folder / "all")) is not None:
        known: IdArray = np.load(io.BytesIO(content), allow_pickle=False)
        return known
    paths = tuple(str(Path(path).absolute()) for path in sources)
    passed = Pass(folder.absolute(), paths, source, n, n_parts, min(_TIED + 1, n))
    missing = [part for part in range(n_parts) if _found(passed, part) is None]
    make = functools.partial(find_in_part, passed)
    make_parts(
        make, missing, passed.rows, n_parts, "exact neighbours", workers=workers, engine=engine
    )
    found = _of_all(passed, asked)
    write_checked(folder / "all", _as_bytes(found))
    for part in range(n_parts):
        passed.path(part).unlink(missing_ok=True)
    return found


def _of_all(passed: Pass, asked: IdArray) -> IdArray:
    """What all parts together have, see `nearest_others`."""
    best_D = np.full((len(asked), 1), np.inf, np.float32)
    best_I = np.full((len(asked), 1), -2, np.int64)
    for part in range(passed.n_parts):
        found = _found(passed, part)
        if found is None:
            raise FileNotFoundError(f"{passed.path(part)} is not there, or damaged")
        D, I = found  # noqa: E741
        best_D = np.concatenate([best_D, np.where(asked[:, None] == I, np.inf, D)], 1)
        best_I = np.concatenate([best_I, I], 1)
        order = np.lexsort((best_I, best_D), axis=1)[:, : passed.k]
        best_D = np.take_along_axis(best_D, order, 1)
        best_I = np.take_along_axis(best_I, order, 1)
    return np.where(best_D <= best_D[:, :1], best_I, -2)


def find_in_part(passed: Pass, part: int) -> None:
    """Finds the nearest items of a part and keeps them; nothing, if that was done.

    Raises:
        ValueError: a source that cannot be read.
        OSError: the disk is full or failing.
    """
    from faiss_pqvae.eval.data.brute_force import nearest  # here, because it imports FAISS

    if _found(passed, part) is not None:
        return
    items = RowRange(_opened(passed), passed.rows(part))
    I, D = nearest(passed.asked(), items, min(passed.k, len(items)), progress=False)  # noqa: E741
    both = np.stack([D.view(np.int32).astype(np.int64), I + passed.rows(part).start])
    write_checked(passed.path(part), _as_bytes(both))


@functools.lru_cache(1)
def _opened(passed: Pass) -> Source:
    """The collection: a process looks at many parts of one."""
    from faiss_pqvae.scale.job import source_key  # here, because it imports torch

    found = open_several(passed.sources, in_memory_bytes=0)
    if (len(found), source_key(found, passed.sources)) != (passed.n, passed.source):
        raise ValueError(
            f"expected the {passed.n:,} vectors as they were when their neighbours were begun, got "
            "others"
        )
    return found


def _found(passed: Pass, part: int) -> tuple[FloatArray, IdArray] | None:
    """Distances and ids (nq, k or fewer) of a part; None if it is not done."""
    content = read_checked(passed.path(part))
    if content is None:
        return None
    bits, I = np.load(io.BytesIO(content), allow_pickle=False)  # noqa: E741
    return bits.astype(np.int32).view(np.float32), I


def _as_bytes(array: FloatArray | IdArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
