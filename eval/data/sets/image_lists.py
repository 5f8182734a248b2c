"""Lists of labelled images, in which the literature on hashing passes on its splits.

A folder has database.txt, test.txt and, where others are learned from, train.txt. A line has the
path of an image and, for every class, whether the image is of it: "img/17.jpg 0 1 0 0 1". NUS-WIDE,
MS-COCO and ImageNet-100 are handed round so (HashNet, Cao et al., ICCV 2017, and who followed), and
comparable figures need these very splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from faiss_pqvae.data.images import ImageFiles, ImageOptions
from faiss_pqvae.data.images.cache import decode_all
from faiss_pqvae.messages import counted, listed
from faiss_pqvae.registry import datasets
from faiss_pqvae.types import BoolArray

from ..held import HELD_BYTES
from ..labelled import LabelledData
from ..protocol import DATA_VARIABLE, LabelArray, folder_for

DATABASE, TEST, TRAIN = "database.txt", "test.txt", "train.txt"
SIZE = (64, 64)  # pixels of sets by name; a path takes --size
_LISTS = "https://github.com/thuml/HashNet/tree/master/pytorch"
_RANKS = {"nus-wide": 5000, "coco": 5000, "imagenet100": 1000}
_SAID = {"nus-wide": "NUS-WIDE", "coco": "MS-COCO", "imagenet100": "ImageNet-100"}


class _List(NamedTuple):
    """A list as it was read: n paths, as they stand there, and labels (n, classes) bool."""

    file: Path
    paths: list[str]
    labels: BoolArray


def has_lists(path: Path) -> bool:
    """Whether a folder has lists of images."""
    return (path / DATABASE).is_file() and (path / TEST).is_file()


def open_lists(
    folder: Path, images: ImageOptions, *, description: str | None = None, ranks: int | None = 1000
) -> LabelledData:
    """The images of a folder's lists.

    Args:
        folder: with database.txt, test.txt, and train.txt where not all of the database is learned
            from. Paths in them are below the folder or its subfolder images, where leading folders
            of somebody else's machine are left out as far as needed.
        images: how images are read; without a size all have to have one.
        description: what to print beside figures.
        ranks: results of a query by default.

    Returns:
        Labelled data, of one class an item where every line has one.

    Raises:
        FileNotFoundError: images that are not there, with the first of them.
        ValueError: a line that is no path with a 0 or 1 for every class; a query that is searched
            in; images that cannot be read.
    """
    lists = [_read(folder / name) for name in (DATABASE, TEST)]
    if (folder / TRAIN).is_file():
        lists.append(_read(folder / TRAIN))
    widths = {found.labels.shape[1] for found in lists}
    if len(widths) > 1:
        raise ValueError(f"expected as many classes in all lists of {folder}, got {sorted(widths)}")
    database, queries = lists[:2]
    if both := {*database.paths} & {*queries.paths}:
        raise ValueError(
            f"expected queries that are not searched in, got {counted(len(both), 'image')} of "
            f"{queries.file} in {database.file}, too, such as {min(both)}"
        )
    labels = _of_one_class([found.labels for found in lists])
    parts = [
        decode_all(ImageFiles(_files(folder, found), **images.arguments()), memory_bytes=HELD_BYTES)
        for found in lists
    ]
    n_classes = widths.pop()
    return LabelledData(
        name=folder.name,
        protocol=f"lists: {len(queries.paths):,} queries of {TEST}",
        description=description
        or f"{folder.name} ({len(database.paths):,} images of {n_classes} classes)",
        train=parts[-1] if len(parts) > 2 else parts[0],
        database=parts[0],
        database_labels=labels[0],
        queries=parts[1],
        query_labels=labels[1],
        class_names=tuple(map(str, range(n_classes))),
        train_labels=labels[2] if len(parts) > 2 else None,
        ranks=min(ranks or len(database.paths), len(database.paths)),
    )


def _read(file: Path) -> _List:
    paths, rows = list[str](), list[str]()
    text = file.read_text(encoding="utf-8", errors="surrogateescape")  # as paths are
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        path, *said = line.split()
        row = "".join(said)
        if not said or row.strip("01") or len(row) != len(said):
            raise ValueError(
                f"expected a path and a 0 or 1 for every class in line {number} of {file}, got "
                f"{line[:80]!r}"
            )
        if rows and len(row) != len(rows[0]):
            raise ValueError(
                f"expected {len(rows[0])} classes in line {number} of {file}, got {len(row)}"
            )
        paths.append(path)
        rows.append(row)
    if not rows:
        raise ValueError(f"expected at least one image in {file}, got none")
    labels = np.frombuffer("".join(rows).encode(), np.uint8).reshape(len(rows), -1)
    return _List(file, paths, labels == ord("1"))


def _of_one_class(labels: Sequence[BoolArray]) -> list[LabelArray]:
    """(n,) int64 where every image is of one class, and as they are otherwise."""
    if all((part.sum(1) == 1).all() for part in labels):
        return [part.argmax(1) for part in labels]
    return [*labels]


def _files(folder: Path, found: _List) -> list[Path]:
    first = PurePosixPath(found.paths[0])
    for root in (folder, folder / "images"):
        for left_out in range(len(first.parts)):
            if (root / PurePosixPath(*first.parts[left_out:])).is_file():
                files = [root / _without(path, left_out) for path in found.paths]
                absent = [file for file in files if not file.is_file()]
                if absent:
                    n = counted(len(absent), "image")
                    raise FileNotFoundError(f"{n} of {found.file} not there: {listed(absent)}")
                return files
    raise FileNotFoundError(
        f"expected the images of {found.file} below {folder}, or in {folder / 'images'}: "
        f"{found.paths[0]} is not there"
    )


def _without(path: str, left_out: int) -> PurePosixPath:
    return PurePosixPath(*PurePosixPath(path).parts[left_out:])


def _named(name: str) -> LabelledData:
    """A set by name: its folder below the one that FAISS_PQVAE_DATA leads to."""
    folder = folder_for(name, _LISTS) / name
    if not has_lists(folder):
        raise FileNotFoundError(
            f"{_SAID[name]} is not there: put {DATABASE}, {TEST} and {TRAIN} and their images from "
            f"{_LISTS} into {folder}, which {DATA_VARIABLE} leads to"
        )
    images = ImageOptions(size=SIZE)
    return open_lists(folder, images, description=described(_SAID[name]), ranks=_RANKS[name])


def described(name: str) -> str:
    """A set by name, with the size that its images get."""
    return f"{name}, {SIZE[0]} x {SIZE[1]} pixels"


for _name in _SAID:
    datasets.register(_name)(partial(_named, _name))
