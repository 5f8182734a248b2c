"""Which columns of a Parquet file hold pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faiss_pqvae.data.arrow import first_with_rows, has_bytes, is_binary, reading
from faiss_pqvae.extras import import_extra

_SNIFFED_ROWS = 16  # of a column of binary, to see whether it holds pictures
# What encoded pictures begin with: JPEG, PNG, GIF, BMP, TIFF, JPEG 2000.
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP"),
    *(b"\xff\x4f\xff\x51", b"P5", b"P6"),
)


def image_columns(paths: Sequence[Path]) -> list[str]:
    """The columns of Parquet files that hold pictures, by the first of them that has rows.

    These are structs with a binary field `bytes`, as Hugging Face writes them, and binary columns
    whose content begins as encoded pictures do, or whose name is "image".

    Raises:
        ValueError: the file is corrupt.
        ImportError: pyarrow is not installed.
    """
    parquet = import_extra("pyarrow.parquet")
    path = first_with_rows(paths)
    with reading(path), parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        found = [field.name for field in schema if has_bytes(field.type)]
        binary = [field.name for field in schema if is_binary(field.type)]
        if binary:
            rows = next(file.iter_batches(_SNIFFED_ROWS, columns=binary), None)
            found += [name for name in binary if rows is not None and _begin(rows[name])]
            found += ["image"] if "image" in binary else []  # its name says it
    return [name for name in schema.names if name in found]


def _begin(column: Any) -> bool:
    """Whether half of what there is, or more, begins as a picture: some may be broken."""
    values = [value for value in column.to_pylist() if value is not None]
    return bool(values) and 2 * sum(map(_begins, values)) >= len(values)


def _begins(value: bytes) -> bool:
    webp = value[:4] == b"RIFF" and value[8:12] == b"WEBP"
    avif = value[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1")
    return value.startswith(_STARTS) or webp or avif
