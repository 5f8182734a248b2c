"""What the commands read: the items that an argument names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy.typing as npt
import tyro

from faiss_pqvae.arguments import what_is_set
from faiss_pqvae.data.images.label_column import read_classes
from faiss_pqvae.data.images.pictures import crop
from faiss_pqvae.data.open import ImageOptions, Source, open_source

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex

DATA_HELP = (
    "a folder of images; a Parquet file with a column of images or of vectors, or a column of "
    "numbers for every dimension; a .npy file (n, c, h, w) or (n, d); a folder of such files; "
    "vectors in .fvecs, .bvecs, .fbin, .u8bin, .i8bin or .hdf5, where FILE.hdf5/test is one of its "
    "data sets; or the name of a data set (mnist5k, mnist, cifar10, "
    "cifar10-jpeg, or one of another package, or package.module:attribute)"
)
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=DATA_HELP, metavar="DATA")]
Queries = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(help=f"what to search for: one image; {DATA_HELP}", metavar="QUERIES"),
]
Bundle = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
# Options without a prefix: --size, --crop, --mode, --no-orient, --skip-broken, --column.
Images = Annotated[ImageOptions, tyro.conf.arg(name="")]


def is_of_shards(folder: Path) -> bool:
    """Whether a folder has parts of an index, and no index of all of them."""
    return (folder / "job.json").exists() and not (folder / "config.json").exists()


class Labelled(NamedTuple):
    """Items, and how to get at their labels: what nobody asks for cannot be wrong.

    Attributes:
        items: (n, ...).
        labels: reads those that the data have, or returns None.
    """

    items: Source
    labels: Callable[[], npt.NDArray[Any] | None]


def move_files(index: LatentIndex, root: Path | None) -> None:
    """Looks for the files behind an index's items in another folder, where one is given."""
    if root is not None and index.items is not None:
        index.items = replace(index.items, root=os.path.realpath(root))


def open_for(
    index: LatentIndex,
    data: str,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> Source:
    """The items that an argument names, with images in the size and the channels of the index."""
    from faiss_pqvae.data.batches import check_items  # here, because it imports torch

    source = open_labelled(data, images, like=index.input_shape).items
    if images.crop is None and index.crops:
        crop(source)
    check_items(source, index.input_shape, f"items of {data}")
    return source


def open_labelled(
    data: str, images: ImageOptions, *, like: tuple[int, ...] | None = None
) -> Labelled:
    """The items that an argument names, a path or else a data set, and their labels.

    Args:
        data: the argument.
        images: how images in a folder or in Parquet are read.
        like: shape of an index's items, for images in a folder or in Parquet.
    """
    path = Path(data)
    named = ":" in data or (path.name == data and not path.suffix)
    if named and not path.exists():
        if images != ImageOptions():
            raise ValueError(
                f"expected a folder or a file to read with {what_is_set(images)}, got {data}: "
                "there is none of that name"
            )
        # Here, because the evaluation imports torch and FAISS.
        from faiss_pqvae.eval.data.load import load

        found = load(data)
        return Labelled(found.database, lambda: getattr(found, "database_labels", None))
    source = open_source(path, images=images, like=like)
    return Labelled(source, lambda: _labels_beside(source))


def _labels_beside(source: Any) -> npt.NDArray[Any] | None:
    """What images come with; of vectors in Parquet the column "label"."""
    files = [file for file, _ in getattr(source, "parts", None) or []]
    if hasattr(source, "labels") or not files or any(f.suffix != ".parquet" for f in files):
        return getattr(source, "labels", None)
    found = read_classes(files, "label")
    return None if found is None else found.labels


def labels_of_places(source: Source, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels given for all files or rows, of those that were not left out as broken."""
    ids, total = getattr(source, "ids", None), getattr(source, "total", None)
    return labels if ids is None or len(labels) != total else labels[ids]


def image_arguments(images: ImageOptions) -> list[str]:
    """The options of a command line that say how images are read."""
    size = [] if images.size is None else ["--size", *map(str, images.size)]
    cropped = [] if images.crop is None else ["--crop", str(images.crop)]
    mode = [] if images.mode is None else ["--mode", images.mode]
    column = [] if images.column is None else ["--column", images.column]
    flags = ["--no-orient"] * (not images.orient) + ["--skip-broken"] * images.skip_broken
    return [*size, *cropped, *mode, *column, *flags]
