"""What the commands read: the items that an argument names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy.typing as npt
import tyro

from faiss_pqvae.data.folders import IMAGES, files_in
from faiss_pqvae.data.open import IMAGE_SUFFIXES, ImageFolder, Source, open_source
from faiss_pqvae.index.latent_index import LatentIndex

_DATA_HELP = (
    "a folder of images; a Parquet file with a column of images or of vectors, or a column of "
    "numbers for every dimension; a .npy file (n, c, h, w) or (n, d); a folder of such files; "
    "vectors in .fvecs, .bvecs, .fbin, .u8bin, .i8bin or .hdf5, where FILE.hdf5/test is one of its "
    "data sets; or the name of a data set (mnist5k, mnist, cifar10, "
    "cifar10-jpeg, or one of another package, or package.module:attribute)"
)
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_DATA_HELP)]
Folder = tyro.conf.Positional[Path]


def open_for(index: LatentIndex, data: str) -> Source:
    """As `open_data`, with photographs in the size and the channels of the index.

    Args:
        index: what the items are for.
        data: also a single photograph.
    """
    path = Path(data)
    photograph = path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    folder = path.is_dir() and files_in(path)[0] == IMAGES
    if len(index.input_shape) == 3 and (photograph or folder):
        channels, height, width = index.input_shape
        return ImageFolder(data, (height, width), mode="L" if channels == 1 else "RGB")
    return open_data(data, None)


def open_data(data: str, size: tuple[int, int] | None) -> Source:
    """The items that an argument names: a path, or else a data set."""
    return open_labelled(data, size)[0]


def open_labelled(
    data: str, size: tuple[int, int] | None
) -> tuple[Source, npt.NDArray[Any] | None]:
    """The items that an argument names, and their labels, where they have any."""
    path = Path(data)
    if size is not None:
        if not path.is_dir():
            raise ValueError(f"expected a folder of images to resize, got {data}")
        folder = ImageFolder(path, size=size)
        return folder, folder.labels
    named = ":" in data or (path.name == data and not path.suffix)
    if named and not path.exists():
        # The extra "eval" is needed for data sets only.
        from faiss_pqvae.eval.data.load import load

        found = load(data)
        return found.database, getattr(found, "database_labels", None)
    source = open_source(path)
    return source, getattr(source, "labels", None)
