"""Vectors and images on disk, read in chunks behind one small protocol.

Everything here hands out numpy arrays. A memory map is read-only and FAISS ignores that flag, so
rows of a `Source` must be copied before they reach code that writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from faiss_pqvae.arguments import what_is_set
from faiss_pqvae.data.arrow import first_with_rows
from faiss_pqvae.data.flat import FLAT_SUFFIXES, open_flat
from faiss_pqvae.data.folders import IMAGES, files_in
from faiss_pqvae.data.images import (
    CHANNELS,
    IMAGE_SUFFIXES,
    ImageFolder,
    ImageOptions,
    Mode,
    ParquetImages,
)
from faiss_pqvae.data.images.listing import is_image
from faiss_pqvae.data.images.picture_column import image_columns
from faiss_pqvae.data.npy import open_npy, open_npy_shards
from faiss_pqvae.data.shards import Shards
from faiss_pqvae.data.source import Rows, Source, chunks, missing
from faiss_pqvae.data.tables import (
    HDF5_SUFFIXES,
    HDF5Vectors,
    open_parquet_vectors,
    parquet_columns,
)

__all__ = [
    "ACCEPTED",
    "CHANNELS",
    "IMAGE_SUFFIXES",
    "ImageFolder",
    "ImageOptions",
    "Mode",
    "ParquetImages",
    "Rows",
    "Source",
    "chunks",
    "open_several",
    "open_source",
]

# Files that need no look at their content.
_OTHERS = frozenset({".npy", ".parquet"}) | FLAT_SUFFIXES | HDF5_SUFFIXES

ACCEPTED = (
    "a .npy file or a folder of them, a .parquet file or a folder of them at any depth, a file of "
    f"vectors ({', '.join(sorted(FLAT_SUFFIXES | HDF5_SUFFIXES))}), or a folder of images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))}, or others that Pillow reads)"
)


def open_source(
    path: str | Path,
    *,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    like: tuple[int, ...] | None = None,
    in_memory_bytes: int | None = None,
) -> Source:
    """Opens whatever lies at a path.

    Integers in two dimensions are vectors, not pixels: they come as float32, as they are.

    Args:
        path: a .npy file (mapped, read-only); a .parquet file with an image column or vectors (see
            `choose_columns`); a file of vectors (see `faiss_pqvae.data.flat`); where FILE/NAME is
            a data set of an HDF5 file, in groups at any depth, or a column of a .parquet file; or
            a folder: of images, of .npy files or of numbered files of vectors, which are shards of
            one array in natural order, or of .parquet files at any depth; or one image.
        images: how images in a folder or in Parquet are read; `column` is of vectors, too.
        like: shape of an index's items: images are read in its size and its mode.
        in_memory_bytes: of vectors in Parquet, see `open_parquet_vectors`.

    Returns:
        The items, not yet read (vectors in Parquet are, up to a gigabyte). What is no folder of
        images has an attribute `parts`: the files in order, each with its number of items.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: what is there is not readable as one of these; the message lists them. Options
            of images for what is none. Images where `like` is a vector.
        ImportError: a library is needed and not installed; the message names its extra.
    """
    path = Path(path)
    part = None
    around = next((folder for folder in path.parents if folder.is_file()), None)
    if around is not None:
        path, part = around, path.relative_to(around).as_posix()
    suffix = path.suffix.lower()
    if part is not None and suffix not in HDF5_SUFFIXES | {".parquet"}:
        raise FileNotFoundError(f"{path / part} does not exist, and {path} is one whole")
    if not path.exists():
        raise missing(path, ACCEPTED)
    if path.is_dir():
        return _open_folder(path, images, like, in_memory_bytes)
    if suffix == ".parquet":
        return _open_parquet([path], part or images.column, images, like, in_memory_bytes)
    if suffix not in _OTHERS and is_image(path):
        return _open_images(path, images, like)
    check_used(images, path, column=False, of_images=False)
    if suffix == ".npy":
        return open_npy(path)
    if suffix in HDF5_SUFFIXES:
        return HDF5Vectors(path, part)
    if suffix in FLAT_SUFFIXES:
        return open_flat(path)
    raise ValueError(f"cannot read {path}: expected {ACCEPTED}, got suffix {path.suffix!r}")


def open_several(
    paths: Sequence[str | Path],
    *,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    like: tuple[int, ...] | None = None,
    in_memory_bytes: int | None = None,
) -> Source:
    """Opens what lies at one path or several, one behind the other; see `open_source`.

    Raises:
        ValueError: no path; images in folders, or files of different kinds of items.
    """
    options = {"images": images, "like": like, "in_memory_bytes": in_memory_bytes}
    if not paths:
        raise ValueError(f"expected at least one path of {ACCEPTED}, got none")
    if len(paths) == 1:
        return open_source(paths[0], **options)  # type: ignore[arg-type]
    opened = [open_source(path, **options) for path in paths]  # type: ignore[arg-type]
    files: list[Path] = []
    sources: list[Source] = []
    for path, source in zip(paths, opened, strict=True):
        if hasattr(source, "paths"):
            raise ValueError(f"expected one folder of images, got several paths, {path} among them")
        parts = getattr(source, "parts", None) or [(Path(path), len(source))]
        files += [file for file, _ in parts]
        sources += getattr(source, "sources", [source])
    return Shards(files, sources)


def _open_folder(
    folder: Path,
    images: ImageOptions,
    like: tuple[int, ...] | None,
    in_memory_bytes: int | None,
) -> Source:
    suffix, paths = files_in(folder)
    if suffix == IMAGES:
        return _open_images(folder, images, like)
    if suffix == ".parquet":
        return _open_parquet(paths, images.column, images, like, in_memory_bytes)
    check_used(images, folder, column=False, of_images=False)
    if suffix == ".npy":
        return open_npy_shards(paths)
    return Shards(paths, [open_flat(path) for path in paths])


def _open_images(path: Path, images: ImageOptions, like: tuple[int, ...] | None) -> Source:
    _check_images_wanted(path, like)
    check_used(images, path, column=False)
    return ImageFolder(path, **images.like(like).arguments())


def _open_parquet(
    paths: Sequence[Path],
    column: str | None,
    images: ImageOptions,
    like: tuple[int, ...] | None,
    in_memory_bytes: int | None,
) -> Source:
    if are_images(paths, column):
        _check_images_wanted(paths[0], like)
        return ParquetImages(paths, image_column=column, **images.like(like).arguments())
    check_used(images, paths[0], of_images=False)
    return open_parquet_vectors(paths, column, in_memory_bytes=in_memory_bytes)


def are_images(paths: Sequence[Path], column: str | None, *, without: str | None = None) -> bool:
    """Whether images are meant in Parquet: where there is a column for them and no other was named.

    Args:
        paths: the files.
        column: the one that was named, or None.
        without: a column that holds neither images nor vectors, but labels.

    Raises:
        ValueError: images or vectors may be meant.
    """
    first = first_with_rows(paths)
    kinds, of_images = parquet_columns(first), image_columns(paths)
    if column is not None:
        return kinds.get(column) == "images"
    vectors = [name for name, kind in kinds.items() if kind == "vectors" and name != without]
    if "image" not in of_images and of_images and vectors:
        raise ValueError(
            f"expected one column of images or of vectors in {first}, got images in "
            f"{of_images} and vectors in {vectors}: name one as {first.name}/COLUMN, or by "
            "--column"
        )
    return bool(of_images)


def _check_images_wanted(path: Path, like: tuple[int, ...] | None) -> None:
    if like is not None and len(like) == 1:
        raise ValueError(f"expected vectors of {like[0]} dimensions, got images in {path}")


def check_used(
    images: ImageOptions, path: Path, *, column: bool = True, of_images: bool = True
) -> None:
    """Refuses options that nothing reads.

    Raises:
        ValueError: a column where there is none, or options of images where there are none.
    """
    if images.column is not None and not column:
        raise ValueError(f"expected no column for {path}, which has none, got {images.column!r}")
    if not of_images and replace(images, column=None) != ImageOptions():
        raise ValueError(
            f"expected options of images (size, crop, mode, orient, skip_broken) for images in a "
            f"folder or in Parquet only, got {what_is_set(replace(images, column=None))} for {path}"
        )
