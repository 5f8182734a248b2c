"""What the items of a source are called, by the files that it reads. numpy only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.index.items import Items


def items_of(source: Any, where: str | Path) -> Items:
    """The items of a source, under their places 0 to n.

    Args:
        source: what was opened. With `paths`, every item is a file of its own; with `parts`, (path,
            number of items) in order, it is a row of one; otherwise it is a row of `where`.
        where: the folder or file that was opened, which decides about the root of the table; or
            the name of a data set, which has none.
    """
    folder = _folder_of(Path(where))
    root = "" if folder is None else os.path.realpath(folder)
    paths = getattr(source, "paths", None)
    if paths is not None:
        return Items.of_files(_absolute(paths, folder, root), root)
    parts = getattr(source, "parts", None) or [(where, len(source))]
    if hasattr(source, "dataset"):  # of an HDF5 file, which has several
        parts = [(Path(source.path, source.dataset), len(source))]
    files = _absolute([path for path, _ in parts], folder, root)
    rows = Items.of_parts(list(zip(files, (n for _, n in parts), strict=True)), root)
    places = getattr(source, "ids", None)  # those that could be read, of all rows
    return rows if places is None else rows.under(np.arange(len(places)), places)


def _folder_of(where: Path) -> Path | None:
    """The folder whose files a path names; that of FILE for FILE/NAME, None for a data set."""
    if where.is_dir():
        return where
    file = next((path for path in (where, *where.parents) if path.is_file()), None)
    return None if file is None else file.parent


def _absolute(paths: Sequence[str | Path], folder: Path | None, root: str) -> list[str]:
    """Paths with that of their folder resolved; links inside the folder keep their names."""
    if folder is None:
        return [str(path) for path in paths]
    # As text: pathlib is slow for millions.
    before = "" if folder == Path() else str(folder).rstrip(os.sep) + os.sep
    outside = "" if before else os.sep
    after = root.rstrip(os.sep) + os.sep
    return [
        after + text[len(before) :]
        if text.startswith(before) and not (outside and text.startswith(outside))
        else os.path.realpath(text)
        for text in map(str, paths)
    ]
