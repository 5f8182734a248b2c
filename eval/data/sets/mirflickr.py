"""MIRFlickr-25000 (Flickr25K): as its archives come, or in lists."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.data.images import ImageFiles, ImageOptions
from faiss_pqvae.data.images.cache import decode_all
from faiss_pqvae.messages import counted
from faiss_pqvae.registry import datasets

from ..held import HELD_BYTES
from ..labelled import LabelledData
from ..protocol import DATA_VARIABLE, folder_for
from ..splits import LabelledItems
from .image_lists import DATABASE, SIZE, TEST, described, has_lists, open_lists

_ADDRESS = "https://press.liacs.nl/mirflickr"
_PICTURES, _ANNOTATIONS = "mirflickr", "mirflickr25k_annotations_v080"


@datasets.register("flickr25k")
def flickr25k() -> LabelledData | LabelledItems:
    """Flickr25K with its 24 potential labels; queries are drawn, where lists do not give them."""
    folder = folder_for("flickr25k", _ADDRESS) / "flickr25k"
    if has_lists(folder):
        return open_lists(
            folder, ImageOptions(size=SIZE), description=described("Flickr25K"), ranks=5000
        )
    # im17.jpg; clouds.txt has the numbers of images, clouds_r1.txt of those where they matter most.
    numbered = {
        int(path.stem[2:]): path
        for path in (folder / _PICTURES).glob("im*.jpg")
        if path.stem[2:].isdecimal()
    }
    files = [
        path
        for path in sorted((folder / _ANNOTATIONS).glob("*.txt"))
        if path.stem != "README" and not path.stem.endswith("_r1")
    ]
    if not files or not numbered:
        raise FileNotFoundError(
            f"Flickr25K is not there: unpack mirflickr25k.zip and {_ANNOTATIONS}.zip from "
            f"{_ADDRESS} into {folder}, which {DATA_VARIABLE} leads to, or put {DATABASE} and "
            f"{TEST} there, beside their images"
        )
    numbers = sorted(numbered)
    place = {number: row for row, number in enumerate(numbers)}
    labels = np.zeros((len(numbers), len(files)), np.bool_)
    for column, file in enumerate(files):
        words = file.read_text(encoding="utf-8", errors="replace").split()
        if strange := [word for word in words if not word.isdecimal()]:
            raise ValueError(f"expected numbers of images in {file}, got {strange[0]!r}")
        said = [int(word) for word in words]
        absent = [number for number in said if number not in place]
        if absent:
            n = counted(len(absent), "image")
            raise FileNotFoundError(f"{n} of {file} not there, such as im{absent[0]}.jpg")
        labels[[place[number] for number in said], column] = True
    images = ImageFiles([numbered[number] for number in numbers], SIZE)
    return LabelledItems(
        name="flickr25k",
        description=described("Flickr25K"),
        items=decode_all(images, memory_bytes=HELD_BYTES),
        labels=labels,
        class_names=tuple(path.stem for path in files),
    )
