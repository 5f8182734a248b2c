"""What a folder holds: images, or files of vectors that are shards of one array."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from faiss_pqvae.data.flat import FLAT_SUFFIXES
from faiss_pqvae.data.images import IMAGE_SUFFIXES
from faiss_pqvae.data.images.listing import is_image
from faiss_pqvae.data.source import files_below, table_files

IMAGES = "images"

_TABLES = frozenset({".npy", ".parquet"}) | FLAT_SUFFIXES
# The array of a folder with labels.npy and, maybe, queries.npy beside it.
_ITEMS = "items.npy"
# The table of file names and labels that Hugging Face puts beside images.
_ABOUT_IMAGES = "metadata"


def files_in(folder: Path) -> tuple[str, list[Path]]:
    """Which files of a folder are its data; hidden ones never are.

    Args:
        folder: there is one.

    Returns:
        ".parquet" and all such files at any depth; ".npy", or the suffix of another file of
        vectors, and those in one folder; or `IMAGES` and no file: `ImageFolder` finds them.
        Files come in natural order: 1, 2, 10.

    Raises:
        ValueError: nothing that can be read, data of several kinds, or files of vectors that are
            no shards; the message says what was found.
    """
    if (folder / _ITEMS).is_file():
        return ".npy", [folder / _ITEMS]
    counts = Counter(path.suffix.lower() for path in files_below(folder))
    tables = {suffix: table_files(folder, suffix) for suffix in _TABLES & set(counts)}
    with_images = bool(IMAGE_SUFFIXES & set(counts))
    if with_images and any(path.stem != _ABOUT_IMAGES for path in tables.get(".parquet", [])):
        raise ValueError(
            f"expected images or .parquet files in {folder}, got both ({_listed(counts)}): name a "
            "folder of one kind"
        )
    kinds = [] if with_images else [suffix for suffix in sorted(tables) if tables[suffix]]
    if len(kinds) > 1:
        raise ValueError(
            f"expected vectors of one format in {folder}, got {_listed(counts)}: name a file, or a "
            "folder of one format"
        )
    if kinds:
        (suffix,) = kinds
        if suffix != ".parquet":
            _check_shards(folder, tables[suffix], numbered=suffix != ".npy")
        return suffix, tables[suffix]
    # They need no known suffix.
    if with_images or any(is_image(path) for path in files_below(folder)):
        return IMAGES, []
    raise ValueError(
        f"no data in {folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) or vectors in "
        f"files {', '.join(sorted(_TABLES))}, or the name of one file of vectors, got "
        f"{_listed(counts) or 'no file that is not hidden'}"
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(
        f"{n:,} {suffix or 'without a suffix'}" for suffix, n in sorted(counts.items())
    )


def _check_shards(folder: Path, paths: list[Path], *, numbered: bool) -> None:
    """Whether files are shards of one array, and not, say, base vectors and queries."""
    folders = Counter(path.parent for path in paths)
    if len(folders) > 1:
        found = ", ".join(f"{n:,} in {path}" for path, n in folders.items())
        raise ValueError(f"expected files of vectors in one folder, got {found}: name one of these")
    names = {re.sub("[0-9]+", "", path.name) for path in paths}
    if numbered and len(names) > 1:
        found = ", ".join(path.name for path in paths[:3])
        raise ValueError(
            f"expected files in {folder} whose names differ by a number alone, as shards' do, got "
            f"{found}: name one of the files"
        )
