"""The command `build`."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from tqdm import tqdm

from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.reading import Data, Folder, Images, open_for
from faiss_pqvae.data.open import ImageOptions, chunks
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.native import faiss


def build(
    bundle: Folder,
    data: Data,
    /,
    *,
    out: Path | None = None,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    encoder: str | None = None,
    decoder: str | None = None,
) -> None:
    """Encode items and store their codes in a trained index, in place of what it held.

    Images are resized to what the index was trained with.

    Args:
        bundle: folder of a trained index.
        data: what to store; the ids count from 0 in its order.
        out: folder for the filled index; by default BUNDLE itself.
        images: how images in a folder or in Parquet are read.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    source = open_for(index, data, images)
    index.reset()
    with tqdm(total=len(source), unit="item", desc="adding", disable=None) as bar:
        for chunk in chunks(source, index.batch_size):
            ids = np.arange(index.ntotal, index.ntotal + len(chunk))
            if isinstance(index.faiss_index, faiss.IndexIDMap):
                index.add_with_ids(chunk, ids)
            else:
                index.add(chunk)
            bar.update(len(chunk))
    target = bundle if out is None else out
    write_index(index, target)
    print(f"{index.ntotal} items of {index.sa_code_size()} bytes in {target}")
    print_next(index, f"search {shlex.quote(str(target))} QUERIES")
