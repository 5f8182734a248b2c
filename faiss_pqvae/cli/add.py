"""The command `add`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.reading import Bundle, Data, Images, move_files, open_for
from faiss_pqvae.cli.storing import Named, named, next_ids, store
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.files import check_folder
from faiss_pqvae.index.items import Items
from faiss_pqvae.messages import counted, listed
from faiss_pqvae.types import IdArray

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex


def add(
    bundle: Bundle,
    data: Data,
    /,
    *,
    ids: Path | None = None,
    id_column: str | None = None,
    root: Path | None = None,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    encoder: str | None = None,
    decoder: str | None = None,
) -> None:
    """Add items to a built index; what it holds keeps its ids.

    Files that it holds already, by their paths, are left out, and so are their rows; whether they
    have changed is not looked at.

    Args:
        bundle: folder of a built index.
        data: what to add; a single photograph, too.
        ids: ids of your own, as in `build`; integers only where the index was built with some.
        id_column: likewise, a column of the Parquet files that are read.
        root: where the files of the bundle are now, if their folder has moved.
        images: how images in a folder or in Parquet are read.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    # Here, because they import torch, which --help does without.
    from faiss_pqvae import read_index, write_index

    check_folder(bundle)
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    move_files(index, root)
    source = open_for(index, data, images)
    found = named(source, data, ids, id_column)
    names, rows = _new(index, found.names)
    if not len(rows):
        print(f"nothing to add: all {len(source)} items are in {bundle} already")
        return
    numbers = _ids(index, found, rows)
    start = index.ntotal
    store(index, source, numbers, data, rows if len(rows) < len(source) else None)
    new = names.under(start + np.arange(len(rows)) if numbers is None else numbers, rows)
    index.items = new if index.items is None else index.items.joined(new)
    write_index(index, bundle)
    added = counted(len(rows), "item")
    print(f"added {added}; {index.ntotal} of {index.sa_code_size()} bytes in {bundle}")
    print_next(index, f"search {shlex.quote(str(bundle))} QUERIES")


def _new(index: LatentIndex, names: Items) -> tuple[Items, IdArray]:
    """The names as the index's table has them, and the places of those that are not in it.

    Raises:
        ValueError: texts of the user's own that are there already; files that may have moved.
    """
    there = index.items
    if there is None:
        if index.ntotal:
            print(f"the {index.ntotal} items that were there have no names: nothing was compared")
        return names, np.arange(len(names))
    _check_root(there, names)
    names = names.rooted(there.root)
    known = names.ids_in(there) != -1
    if known.any():
        left_out = listed(names.names(np.flatnonzero(known)), 3)
        if names.are_own:
            raise ValueError(f"expected ids that are not there yet, got {left_out}")
        print(f"left out, there already: {left_out}")
    return names, np.flatnonzero(~known)


def _check_root(there: Items, names: Items) -> None:
    if there.root in ("", names.root) or Path(there.root).exists():
        return
    same = names.names(np.flatnonzero(names.ids_in(there) != -1))
    if len(same):
        raise ValueError(
            f"the files of this bundle were in {there.root}, which is gone, and there are files of "
            f"the same names in {names.root}: give --root {names.root} if these are they, and "
            f"--root {there.root} if they are others"
        )


def _ids(index: LatentIndex, found: Named, rows: IdArray) -> IdArray | None:
    """The ids (len(rows),) int64 of what is added; None where the index counts.

    Raises:
        ValueError: ids for an index that counts, or ids that are there already.
    """
    from faiss_pqvae.native.ids import stored_ids

    if found.ids is not None:
        if not index.takes_ids:
            raise ValueError(
                f"{index.description} counts its items and takes no ids: build it with --ids, or "
                "give texts as ids, which become the names of its items"
            )
        ids = found.ids[rows]
        there = ids[np.isin(ids, stored_ids(index.faiss_index))]
        if len(there):
            raise ValueError(f"expected ids that are not there yet, got {listed(there, 3)}")
        return ids
    return next_ids(stored_ids(index.faiss_index), len(rows)) if index.takes_ids else None
