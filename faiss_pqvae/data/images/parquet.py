"""Pictures in Parquet, the Hugging Face layout among others."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.arrow import has_bytes, is_binary, read_column, read_schema, reading
from faiss_pqvae.data.images.decoder import (
    BrokenImageError,
    Decoder,
    Encoded,
    image_size,
    quiet_pillow,
)
from faiss_pqvae.data.images.image_options import Mode
from faiss_pqvae.data.images.label_column import Classes, read_classes
from faiss_pqvae.data.images.listing import file_stamp
from faiss_pqvae.data.images.picture_column import image_columns
from faiss_pqvae.data.images.pictures import Pictures
from faiss_pqvae.data.source import Rows, parquet_paths, row_ids
from faiss_pqvae.extras import import_extra


class ParquetImages:
    """Encoded images in Parquet, decoded on access; see `decoder.Decoder` for how.

    The encoded bytes are read once and stay in arrow's memory. Labels are read when they are asked
    for, so that no column of labels hinders the reading of images.

    Attributes:
        shape: (n, channels, height, width), dtype uint8. The size is that of the first image; one
            of another size is an error on access unless `size` was given.
        ids: (n,) int64, the rows of the items among all rows; None when all are there.
        total: how many rows there are, broken ones that were left out included.
        parts: the files in order, each with its number of rows, broken ones included.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        size: tuple[int, int] | None = None,
        *,
        crop: bool = False,
        mode: Mode = "RGB",
        orient: bool = True,
        skip_broken: bool = False,
        image_column: str | None = None,
        label_column: str = "label",
    ) -> None:
        """Reads the encoded images.

        Args:
            path: a file, several in order, or a folder whose *.parquet are taken in sorted order.
            size: (height, width) in pixels to which every image is resized; None keeps sizes.
            crop: cut out the middle in the proportions of `size` first, in place of stretching.
            mode: "RGB", 3 channels, or "L", 1.
            orient: apply EXIF orientation.
            skip_broken: decode every image now, and leave out those that cannot be, and nulls.
            image_column: a struct with a binary field `bytes`, or binary; by default "image" or
                the only one of images.
            label_column: see `label_column.read_classes`; may be absent.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is corrupt, has no such image column, no rows, or null values that
                are not to be skipped; or the first image is unreadable.
            ImportError: Pillow or pyarrow is not installed.
        """
        self._files = parquet_paths(path)
        self.image_column = image_column or the_image_column(self._files)
        self._label_column = label_column
        self._columns = [
            _encoded(file, self.image_column, nulls=skip_broken) for file in self._files
        ]
        self._stamps = [file_stamp(file) for file in self._files]
        # Row i lies in the file t with _starts[t] <= i < _starts[t + 1].
        self._starts = np.cumsum([0] + [len(column) for column in self._columns])
        self.total = int(self._starts[-1])
        self.parts = [
            (file, len(column)) for file, column in zip(self._files, self._columns, strict=True)
        ]
        if self.total == 0:
            raise ValueError(f"no images in {path}: expected at least one row")
        resize = size is not None
        size = size or self._first_size(orient=orient, skip_broken=skip_broken)
        decoder = Decoder(size, mode, resize=resize, orient=orient, crop=crop)
        pictures = Pictures(np.arange(self.total), self.total, self._read, self._stamp, decoder)
        self.pictures = pictures.without_broken() if skip_broken else pictures
        self.shape, self.ids = self.pictures.shape, self.pictures.left_out

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        return self.pictures.rows(row_ids(rows, len(self)))

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """(n,) int64, -1 for none; None when there is no column of labels.

        Raises:
            ValueError: it holds something else, see `label_column.read_classes`.
        """
        found = self._classes
        return None if found is None else found.labels[self.pictures.ids]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What text stands there, sorted, or the names of numbers in Hugging Face's metadata."""
        return None if self._classes is None else self._classes.names

    @functools.cached_property
    def _classes(self) -> Classes | None:
        return read_classes(self._files, self._label_column)

    def _first_size(self, *, orient: bool, skip_broken: bool) -> tuple[int, int]:
        fault = None
        for row in range(self.total if skip_broken else 1):
            try:
                with quiet_pillow():
                    return image_size(*self._read(row), orient=orient)
            except BrokenImageError as error:
                fault = fault or error
        assert fault is not None  # there is a row
        raise fault

    def _place(self, row: int) -> tuple[int, int]:
        t = int(np.searchsorted(self._starts, row, side="right")) - 1
        return t, row - int(self._starts[t])

    def _read(self, row: int) -> tuple[Encoded, str]:
        t, at = self._place(row)
        name = f"row {at} of {self._files[t]}"
        content = self._columns[t][at].as_py()
        if content is None:
            raise BrokenImageError(f"cannot read {name} as an image: there is none (null)")
        return io.BytesIO(content), name

    def _stamp(self, row: int) -> str:
        t, at = self._place(row)
        return f"{self._stamps[t]} {self.image_column} {at}"


def the_image_column(paths: Sequence[Path]) -> str:
    """The column of pictures: "image", or the only one.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = image_columns(paths)
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else found[0]
    if found:
        raise ValueError(
            f"expected one column of images in {paths[0]}, got {found}: name one (--column NAME)"
        )
    names = read_schema(paths[0]).names
    if "image" in names:  # what is wrong with it is said when it is read
        return "image"
    raise ValueError(
        f"expected a column of images in {paths[0]}, a struct with bytes or binary that begins as "
        f"a picture does, got {names}: name one (--column NAME)"
    )


def _encoded(path: Path, name: str, *, nulls: bool) -> Any:
    """The encoded bytes of a file's column: a chunked array of binary."""
    column = read_column(path, name)
    with reading(path):
        return _binary(column, nulls=nulls)


def _binary(column: Any, *, nulls: bool) -> Any:
    arrow, compute = import_extra("pyarrow"), import_extra("pyarrow.compute")
    types = arrow.types
    if types.is_struct(column.type) and not has_bytes(column.type):
        fields = [field.name for field in column.type]
        raise ValueError(f"expected an image struct with the field 'bytes', got {fields}")
    if types.is_struct(column.type):
        column = compute.struct_field(column, "bytes")
    if types.is_null(column.type):  # as writers call what is never there, in no row for example
        column = column.cast(arrow.binary())
    if not is_binary(column.type):
        raise ValueError(f"expected encoded images as binary, got {column.type}")
    if column.null_count and not nulls:
        raise ValueError(
            f"expected an image in every row, got {column.null_count} nulls; leave these out with "
            "skip_broken=True (--skip-broken), and if the images are files beside the table, read "
            "their folder"
        )
    return column
