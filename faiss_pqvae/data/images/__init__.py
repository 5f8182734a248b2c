"""Images on disk: a folder of them, or encoded in Parquet; decoded on access. numpy only."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.options import CHANNELS, ImageOptions, Mode
from faiss_pqvae.data.source import Rows, import_eval, parquet_paths, row_ids

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

__all__ = ["CHANNELS", "IMAGE_SUFFIXES", "ImageFolder", "ImageOptions", "Mode", "ParquetImages"]

# An encoded image, and what an error message calls it.
_Encoded: TypeAlias = tuple[Path | io.BytesIO, str]


class ImageFolder:
    """The images in a folder and below it, in sorted order, decoded on access.

    Hidden files are skipped, of an animation the first frame counts, and EXIF orientation is not
    applied.

    Attributes:
        shape: (n, channels, height, width), dtype uint8.
        paths: the n files, in order.
        ids: (n,) int64, the places of the items among all files; None when all are there.
        class_names: names of the folders directly below `path`, sorted, when every image lies in
            one of them; None otherwise.
        labels: (n,) int64, indices into `class_names`, or None.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)
    ids: npt.NDArray[np.int64] | None = None

    def __init__(
        self, path: str | Path, size: tuple[int, int] | None = None, *, mode: Mode = "RGB"
    ) -> None:
        """Lists the folder and, when `size` is None, reads the header of every image.

        Args:
            path: the folder.
            size: (height, width) in pixels to which every image is resized (bilinear,
                antialiased); None requires that all have one size.
            mode: "RGB", 3 channels, or "L", 1.

        Raises:
            FileNotFoundError: `path` is no folder.
            ValueError: it holds no images, one is unreadable, or sizes differ and `size` is None.
            ImportError: Pillow is not installed.
        """
        root = Path(path)
        if not root.is_dir():
            raise FileNotFoundError(f"expected a folder of images, got {root}")
        self.paths = _image_paths(root)
        if not self.paths:
            raise ValueError(
                f"no images in {root}: expected files {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self._decoder = _Decoder(size or _common_size(self.paths), mode, resize=size is not None)
        self.shape = (len(self.paths), *self._decoder.shape)
        self.class_names, self.labels = _folder_classes(root, self.paths)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        return self._decoder.rows(self._read, row_ids(rows, len(self)))

    def _read(self, i: int) -> _Encoded:
        return self.paths[i], str(self.paths[i])


class ParquetImages:
    """Encoded images in Parquet, the Hugging Face layout, decoded on access.

    The encoded bytes are read once and stay in arrow's memory.

    Attributes:
        shape: (n, channels, height, width), dtype uint8. The size is that of the first image; one
            of another size is an error on access unless `size` was given.
        ids: (n,) int64, the rows of the items among all rows; None when all are there.
        class_names: from the Hugging Face metadata of the schema, or None.
        labels: (n,) int64, or None when there is no label column.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)
    ids: npt.NDArray[np.int64] | None = None

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        size: tuple[int, int] | None = None,
        *,
        mode: Mode = "RGB",
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        """Reads the encoded images and their labels.

        Args:
            path: a file, several in order, or a folder whose *.parquet are taken in sorted order.
            size: (height, width) in pixels to which every image is resized; None keeps sizes.
            mode: "RGB", 3 channels, or "L", 1.
            image_column: a struct with a binary field `bytes`, or binary.
            label_column: integers; may be absent.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is corrupt, has no such image column, no rows, null values, other
                class names than the first, or labels without a name; or the first image is
                unreadable.
            ImportError: Pillow or pyarrow is not installed.
        """
        tables = [_ParquetColumns(file, image_column, label_column) for file in parquet_paths(path)]
        names = {table.class_names for table in tables}
        if len(names) > 1:
            raise ValueError(f"expected the same class names in every file, got {names}")
        self.class_names = names.pop()
        self._tables = tables
        # Row i lies in the table t with _starts[t] <= i < _starts[t + 1].
        self._starts = np.cumsum([0] + [len(table.images) for table in tables])
        if self._starts[-1] == 0:
            raise ValueError(f"no images in {path}: expected at least one row")
        self.labels = _concatenate_labels(tables)
        self._decoder = _Decoder(size or _image_size(*self._read(0)), mode, resize=size is not None)
        self.shape = (int(self._starts[-1]), *self._decoder.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        return self._decoder.rows(self._read, row_ids(rows, len(self)))

    def _read(self, i: int) -> _Encoded:
        t = int(np.searchsorted(self._starts, i, side="right")) - 1
        row = i - int(self._starts[t])
        table = self._tables[t]
        return io.BytesIO(table.images[row].as_py()), f"row {row} of {table.path}"


class _ParquetColumns:
    """The two columns of one file.

    Attributes:
        images: arrow chunked array of binary.
        labels: (n,) int64, or None.
    """

    def __init__(self, path: Path, image_column: str, label_column: str) -> None:
        parquet = import_eval("pyarrow.parquet")
        if not path.is_file():
            raise FileNotFoundError(f"expected a .parquet file, got {path}")
        try:
            schema = parquet.read_schema(path)
            if image_column not in schema.names:
                raise ValueError(f"expected a column {image_column!r}, got {schema.names}")
            has_labels = label_column in schema.names
            columns = [image_column, label_column] if has_labels else [image_column]
            table = parquet.read_table(path, columns=columns)
            self.images = _binary_column(table[image_column])
            self.labels = _label_column(table[label_column]) if has_labels else None
            self.class_names = _huggingface_names(schema.metadata, label_column)
            _check_named(self.labels, self.class_names)
        # Truncation inside a page is an OSError; arrow's other errors have several bases.
        except (ValueError, OSError, import_eval("pyarrow").ArrowException) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        self.path = path


def _binary_column(column: Any) -> Any:
    """The encoded bytes: a chunked array of binary without nulls."""
    arrow, compute = import_eval("pyarrow"), import_eval("pyarrow.compute")
    if arrow.types.is_struct(column.type):
        fields = [field.name for field in column.type]
        if "bytes" not in fields:
            raise ValueError(f"expected an image struct with the field 'bytes', got {fields}")
        column = compute.struct_field(column, "bytes")
    if not (arrow.types.is_binary(column.type) or arrow.types.is_large_binary(column.type)):
        raise ValueError(f"expected encoded images as binary, got {column.type}")
    if column.null_count:
        raise ValueError(f"expected an image in every row, got {column.null_count} nulls")
    return column


def _label_column(column: Any) -> npt.NDArray[np.int64]:
    arrow = import_eval("pyarrow")
    if not arrow.types.is_integer(column.type):
        raise ValueError(f"expected integer labels, got {column.type}")
    if column.null_count:
        raise ValueError(f"expected a label in every row, got {column.null_count} nulls")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _huggingface_names(
    metadata: dict[bytes, bytes] | None, label_column: str
) -> tuple[str, ...] | None:
    """Class names in the schema's metadata; None when they are absent or not understood."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _check_named(labels: npt.NDArray[np.int64] | None, names: tuple[str, ...] | None) -> None:
    # Hugging Face marks an unlabelled item with -1.
    if labels is None or names is None or labels.size == 0:
        return
    if labels.min() < -1 or labels.max() >= len(names):
        raise ValueError(
            f"expected labels from -1 to {len(names) - 1} for {len(names)} class names, "
            f"got {labels.min()} to {labels.max()}"
        )


def _concatenate_labels(tables: Sequence[_ParquetColumns]) -> npt.NDArray[np.int64] | None:
    labels = [table.labels for table in tables if table.labels is not None]
    if not labels:
        return None
    if len(labels) < len(tables):
        raise ValueError(f"expected labels in all {len(tables)} files, got them in {len(labels)}")
    return np.concatenate(labels)


def _image_paths(root: Path) -> list[Path]:
    paths = (path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(
        path
        for path in paths
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(root).parts)
    )


def _folder_classes(
    root: Path, paths: Sequence[Path]
) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    parts = [path.relative_to(root).parts for path in paths]
    if any(len(names) == 1 for names in parts):
        return None, None
    folders = [names[0] for names in parts]
    class_names, labels = np.unique(folders, return_inverse=True)
    return tuple(str(name) for name in class_names), labels.astype(np.int64)


def _common_size(paths: Sequence[Path]) -> tuple[int, int]:
    first = _image_size(paths[0], str(paths[0]))
    sizes = ((path, _image_size(path, str(path))) for path in paths)
    other = [f"{path} {size}" for path, size in sizes if size != first]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise ValueError(
            f"expected images of one size (height, width), got {paths[0]} {first} but "
            f"{', '.join(other[:3])}{more}; pass size=(height, width) to resize"
        )
    return first


def _image_size(file: Path | io.BytesIO, name: str) -> tuple[int, int]:
    """(height, width) from the header alone."""
    pillow = import_eval("PIL.Image")
    try:
        with pillow.open(file) as image:
            width, height = image.size
    except Exception as error:
        raise _not_an_image(name, error) from error
    return height, width


@dataclass(frozen=True)
class _Decoder:
    """How encoded images become one array.

    Attributes:
        size: (height, width) in pixels of every image that comes out.
        mode: "RGB" or "L".
        resize: whether images of another size are resized, or refused.
    """

    size: tuple[int, int]
    mode: Mode
    resize: bool

    def __post_init__(self) -> None:
        if self.mode not in CHANNELS:
            raise ValueError(f"expected a mode of {sorted(CHANNELS)}, got {self.mode!r}")
        if len(self.size) != 2 or min(self.size) <= 0:
            raise ValueError(f"expected a positive size (height, width), got {self.size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return CHANNELS[self.mode], *self.size

    def rows(
        self, read: Callable[[int], _Encoded], ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        """The images `read(i)` for i in `ids`, (len(ids), channels, height, width) uint8."""
        out = np.empty((len(ids), *self.shape), dtype=np.uint8)
        for position, i in enumerate(ids.tolist()):
            out[position] = self.image(*read(i))
        return out

    def image(self, file: Path | io.BytesIO, name: str) -> npt.NDArray[np.uint8]:
        """One image, (channels, height, width) uint8."""
        pillow = import_eval("PIL.Image")
        height, width = self.size
        try:
            with pillow.open(file) as image:
                if image.mode[0] in "IF":
                    # Pillow would clip these to white instead of scaling them.
                    raise ValueError(f"expected 8 bits a channel, got mode {image.mode}")
                if image.mode == "P" and "transparency" in image.info:
                    image = image.convert("RGBA")
                if image.mode != self.mode:  # a conversion to the same mode is a copy
                    image = image.convert(self.mode)
                if self.resize:
                    image = image.resize((width, height), pillow.Resampling.BILINEAR)
                pixels = np.asarray(image)
        except Exception as error:
            raise _not_an_image(name, error) from error
        if pixels.shape[:2] != self.size:
            raise ValueError(
                f"expected {name} of (height, width) {self.size}, got {pixels.shape[:2]}; "
                "pass size=(height, width) to resize"
            )
        return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def _not_an_image(name: str, error: Exception) -> ValueError:
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files.
    return ValueError(f"cannot read {name} as an image: {error}")
