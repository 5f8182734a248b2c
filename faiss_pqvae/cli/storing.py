"""What `build` and `add` have in common: which ids and names items get, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faiss_pqvae.data.own_ids import OwnIds, check_once, read_id_column, read_own_ids
from faiss_pqvae.data.source import Source
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.naming import items_of
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import IdArray

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex


class Named(NamedTuple):
    """The items of a source.

    Attributes:
        names: by their places 0 to n: files, or texts of the user's own.
        ids: (n,) int64 of the user's own, or None.
        gaps: (n,) int64, their places where some were left out; None where none was.
    """

    names: Items
    ids: IdArray | None
    gaps: IdArray | None


def named(source: Any, data: str, ids: Path | None, id_column: str | None) -> Named:
    """What the items of a source are called: by files, a file of ids, or a column.

    Raises:
        ValueError: ids from both, another number of them, or one that is there twice.
    """
    names, gaps = items_of(source, data), getattr(source, "ids", None)
    own = _own_ids(source, data, ids, id_column)
    if own is None:
        return Named(names, None, gaps)
    n_all = len(source) if gaps is None else source.total
    if len(own) != n_all:
        raise ValueError(f"expected an id for each of {n_all} items, got {len(own)}")
    check_once(own, "ids")
    if isinstance(own, list):
        chosen = own if gaps is None else [own[place] for place in gaps]
        return Named(Items.of_names(chosen), None, gaps)
    return Named(names, own if gaps is None else own[gaps], gaps)


def _own_ids(source: Any, data: str, ids: Path | None, id_column: str | None) -> OwnIds | None:
    if ids is not None and id_column is not None:
        raise ValueError("expected --ids or --id-column, got both")
    if ids is not None:
        return read_own_ids(ids)
    if id_column is None:
        return None
    files = [Path(path) for path, _ in getattr(source, "parts", None) or [(data, len(source))]]
    files = [path if path.exists() else path.parent for path in files]  # FILE/COLUMN
    if not all(path.suffix == ".parquet" for path in files):
        raise ValueError(f"expected Parquet for --id-column, got {data}: give --ids FILE")
    return read_id_column(files, id_column)


def next_ids(there: IdArray, n: int) -> IdArray:
    """The first n ids, from 0 on, beyond all that are there: (n,) int64.

    Raises:
        ValueError: there are not so many.
    """
    largest = int(there.max(initial=-1))
    if n and largest >= 2**62:
        raise ValueError(f"expected ids that leave room for more, got {largest}: give --ids FILE")
    return largest + np.arange(1, n + 1) if n else np.empty(0, np.int64)


def store(
    index: LatentIndex, source: Source, ids: IdArray | None, data: str, rows: IdArray | None = None
) -> None:
    """Adds items, batch by batch, with a bar.

    Args:
        index: what gets them.
        source: of the items.
        ids: (n,) int64 of what is added, of an index that takes ids; None where it counts.
        data: what messages call the source, whose rows they count.
        rows: (n,) int64, which items of the source; None for all.
    """
    start = 0
    total = len(source) if rows is None else len(rows)
    with Progress("adding", total, unit="items") as bar:
        for items in _batches(source, rows, index.batch_size, f"items of {data}"):
            if ids is None:
                index.add(items)
            else:
                index.add_with_ids(items, ids[start : start + len(items)])
            start += len(items)
            bar.update(len(items))


def _batches(source: Source, rows: IdArray | None, size: int, what: str) -> Iterator[Any]:
    from faiss_pqvae.data.batches import read_batches, read_rows, rows_at_a_time

    size = rows_at_a_time(source, size)
    if rows is None:
        yield from read_batches(source, size, what)
        return
    for start in range(0, len(rows), size):
        yield read_rows(source, rows[start : start + size], what)
