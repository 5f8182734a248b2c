"""What Parquet files hold, as Arrow reads it; what is wrong in one is told with its name.

pyarrow is imported only where a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faiss_pqvae.data.source import missing
from faiss_pqvae.extras import import_extra


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What Arrow and we find wrong in a file becomes a ValueError with its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is corrupt, or is not as it should be.
        ImportError: pyarrow is not installed.
    """
    arrow = import_extra("pyarrow")
    if not path.is_file():
        raise missing(path, "a .parquet file")
    try:
        yield
    # Truncation inside a page is an OSError; arrow's other errors have several bases.
    except (ValueError, OSError, arrow.ArrowException) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def read_schema(path: Path) -> Any:
    """The names and the types of the columns of a file, and its metadata.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `reading`.
    """
    with reading(path):
        return import_extra("pyarrow.parquet").read_schema(path)


def read_column(path: Path, name: str) -> Any:
    """A column of a file, as a chunked array.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `reading`; there is no such column, and the
            message lists those that there are.
    """
    parquet, names = import_extra("pyarrow.parquet"), read_schema(path).names
    with reading(path):
        if name not in names:
            raise ValueError(f"expected a column {name!r}, got {names}")
        return parquet.read_table(path, columns=[name])[name]
