"""What hands out rows: the protocol of everything that is read in chunks. numpy only."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = slice | npt.NDArray[np.int64]
# The files that items came from, in the order of the items, and how many are in each.
Parts: TypeAlias = list[tuple[Path, int]]


class Source(Protocol):
    """Items in order: `shape` is (n, ...), and `source[rows]` is an array of those items.

    `rows` is a slice or a 1-D int64 array. Arrays and memory maps of numpy satisfy this as they
    are; the result may then be a view of the source.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...): the number of items, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array that is handed out."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]: ...


def chunks(source: Source, rows: int) -> Iterator[npt.NDArray[Any]]:
    """Reads a source from its first item to its last.

    Args:
        source: what to read.
        rows: the number of items in every array but the last, which may have fewer.

    Yields:
        Arrays of shape (rows, ...), the source's dtype.

    Raises:
        ValueError: `rows` is not positive.
    """
    if rows <= 0:
        raise ValueError(f"expected a positive number of rows a chunk, got {rows}")
    for start in range(0, len(source), rows):
        yield source[start : start + rows]


def row_ids(rows: Rows, n: int) -> npt.NDArray[np.int64]:
    """The rows asked for, each from 0 to n - 1, with numpy's meaning of slices and negatives."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n), dtype=np.int64)
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu" or rows.ndim != 1:
        got = f"{rows.ndim}-D {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(f"expected rows as a slice or a 1-D int64 array, got {got}")
    if rows.size and (rows.min() < -n or rows.max() >= n):
        raise IndexError(f"expected rows from {-n} to {n - 1}, got {rows.min()} to {rows.max()}")
    ids = rows.astype(np.int64)
    return np.where(ids < 0, ids + n, ids)


def files_below(root: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files in a folder and below it, in no order; links are followed.

    Those that begin with a dot, and what lies in folders that do, are hidden: half-written files,
    those of file systems and editors. A link to nowhere is handed out too, so that opening it fails
    instead of leaving it out.
    """
    here = root.resolve()
    if here in above:  # a link to a folder around it
        return
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_below(Path(entry.path), (*above, here))
            elif entry.is_file() or entry.is_symlink():
                yield Path(entry.path)


def table_files(root: Path, suffix: str) -> list[Path]:
    """The files of vectors in a folder and below it that end in a suffix, in natural order.

    What begins with an underscore is hidden, too: the writers of tables name so what they note
    beside them (_SUCCESS, _metadata, _delta_log/) or have not finished (_temporary/).
    """
    return natural_order(
        path
        for path in files_below(root)
        if path.suffix.lower() == suffix
        and not any(part.startswith("_") for part in path.relative_to(root).parts)
    )


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths sorted as people count: part-2 before part-10."""
    return sorted(paths, key=lambda path: ([natural(part) for part in path.parts], path))


def natural(name: str) -> list[str | int]:
    """What to sort names by, so that 2 comes before 10."""
    # Text and digits take turns, text first, so that like is compared with like.
    pieces = re.split("([0-9]+)", name)
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def missing(path: str | Path, expected: str) -> FileNotFoundError:
    """What to raise where something is expected and nothing, or something else, is."""
    if Path(path).exists():
        return FileNotFoundError(f"expected {expected}, got {path}")
    return FileNotFoundError(f"{path} does not exist; expected {expected}")


def parquet_paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that are meant: one, several in order, or those of `table_files`.

    Raises:
        ValueError: there is none.
    """
    if isinstance(path, str | Path):
        path = Path(path)
        paths = table_files(path, ".parquet") if path.is_dir() else [path]
    else:
        paths = [Path(file) for file in path]
    if not paths:
        raise ValueError(f"expected at least one .parquet file, got none in {path}")
    return paths
