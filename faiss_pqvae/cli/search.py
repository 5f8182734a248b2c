"""The command `search`."""

from __future__ import annotations

import json
from typing import Annotated

import tyro

from faiss_pqvae.cli.reading import Data, Folder, Images, open_for
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.index.bundle import read_index
from faiss_pqvae.index.latent_index import check_k


def search(
    bundle: Folder,
    queries: Data,
    /,
    *,
    k: int = 10,
    search_type: str | None = None,
    nprobe: int | None = None,
    ef_search: int | None = None,
    k_factor: float | None = None,
    mmap: bool = False,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    encoder: str | None = None,
    decoder: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print the nearest stored items of every query, as a table or as JSON.

    Images are resized to what the index was trained with.

    Args:
        bundle: folder of a filled index.
        queries: what to search for.
        k: results per query.
        search_type: adc (the query's latent against codes) or sdc (codes against codes); by
            default what the bundle was written with.
        nprobe: inverted lists to visit, of an IVF index; more finds more and takes longer.
        ef_search: candidates to keep, of an HNSW index; more finds more and takes longer.
        k_factor: candidates per result that a refined index looks at a second time.
        mmap: leave the codes on the disk, for collections larger than memory.
        images: how images in a folder or in Parquet are read.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
        as_json: print {"D": [[...]], "I": [[...]]} instead of a table.
    """
    k = check_k(k)
    index = read_index(bundle, mmap=mmap, encoder=encoder, decoder=decoder)
    if search_type is not None:
        index.search_type = search_type  # type: ignore[assignment]  # checked by the setter
    if nprobe is not None:
        index.nprobe = nprobe
    if ef_search is not None:
        index.efSearch = ef_search
    if k_factor is not None:
        index.k_factor = k_factor
    D, I = index.search(open_for(index, queries, images), k)  # noqa: E741 - FAISS's names
    if as_json:
        print(json.dumps({"D": D.tolist(), "I": I.tolist()}))
        return
    print(f"{'query':>7}  nearest ids (distance), {index.search_type}")
    for number, (distances, ids) in enumerate(zip(D, I, strict=True)):
        pairs = (f"{i} ({d:.4g})" for d, i in zip(distances, ids, strict=True) if i >= 0)
        print(f"{number:>7}  {'  '.join(pairs)}")
