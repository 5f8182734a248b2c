"""What Parquet files hold, as Arrow reads it; what is wrong in one is told with its name.

pyarrow is imported only where a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def first_with_rows(paths: Sequence[Path]) -> Path:
    """The first of some files that has rows, or else the first one.

    Where there is no row, writers may not know what a column holds, and call its type null.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `reading`.
    """
    for path in paths:
        with reading(path):
            if import_extra("pyarrow.parquet").read_metadata(path).num_rows:
                return path
    return paths[0]


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


# Types -------------------------------------------------------------------------------------------


def is_list(column: Any) -> bool:
    """Whether a type is lists, of any length or of one."""
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return _is_one_of(kinds, column)


def is_binary(column: Any) -> bool:
    """Whether a type is bytes of any length."""
    if import_extra("pyarrow").types.is_dictionary(column):
        column = column.value_type
    return _is_one_of(("binary", "large_binary", "binary_view"), column)


def is_text(column: Any) -> bool:
    """Whether a type is text."""
    return _is_one_of(("string", "large_string", "string_view"), column)


def has_bytes(column: Any) -> bool:
    """Whether a type is a struct with encoded bytes, which may all be missing."""
    types = import_extra("pyarrow").types
    if not types.is_struct(column) or column.get_field_index("bytes") < 0:
        return False
    content = column.field("bytes").type
    return is_binary(content) or bool(types.is_null(content))


def _is_one_of(names: Sequence[str], column: Any) -> bool:
    types = import_extra("pyarrow").types
    # Older versions of pyarrow know no views.
    tests = (getattr(types, f"is_{name}", None) for name in names)
    return any(test is not None and test(column) for test in tests)
