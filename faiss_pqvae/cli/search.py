"""The command `search`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from faiss_pqvae.arguments import check_fits
from faiss_pqvae.cli.reading import Bundle, Images, Queries, is_of_shards, move_files, open_for
from faiss_pqvae.cli.search_page import Found, Thumbnails
from faiss_pqvae.cli.search_page import page as html_page
from faiss_pqvae.data.open import ImageOptions, Source
from faiss_pqvae.files import check_folder, replace_bytes
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.naming import items_of
from faiss_pqvae.messages import counted, printable
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray, IdArray

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex

_DISTANCES = "squared L2, smaller is nearer", "inner product, larger is nearer"
_QUERIES = 256  # that are searched for at a time, at most, for a bar that moves


def search(
    bundle: Bundle,
    queries: Queries,
    /,
    *,
    k: int = 10,
    search_type: str | None = None,
    nprobe: int | None = None,
    ef_search: int | None = None,
    k_factor: float | None = None,
    mmap: bool = False,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    page: Annotated[Path | None, tyro.conf.arg(name="html")] = None,
    open_page: Annotated[bool, tyro.conf.arg(name="open")] = False,
    root: Path | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print the nearest stored items of every query, as a table or as JSON.

    Images are resized to what the index was trained with.

    Args:
        bundle: folder of a filled index, or of the shards of one.
        queries: what to search for.
        k: results per query.
        search_type: adc (the query's latent against codes) or sdc (codes against codes); by
            default what the bundle was written with.
        nprobe: inverted lists to visit, of an IVF index; more finds more and takes longer.
        ef_search: candidates to keep, of an HNSW index; more finds more and takes longer.
        k_factor: candidates per result that a refined index looks at a second time.
        page: also write a page of HTML there, with every query beside what was found, in pictures.
        open_page: open that page in a browser; without --html it goes to a temporary folder.
        root: where the files of the bundle are now, if their folder has moved.
        mmap: leave the codes on the disk, for collections larger than memory.
        images: how images in a folder or in Parquet are read.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
        as_json: print {"D": [[...]], "I": [[...]], "names": [[...]], "queries": [...]} instead of
            a table; a name is null where nobody knows it.
    """
    # Here, because they import torch, which --help does without.
    from faiss_pqvae import open_shards, read_index
    from faiss_pqvae.index.searching import check_k

    k = check_k(k)
    if page is not None:
        if page.is_dir():
            raise ValueError(f"expected a file for --html, got the folder {page}")
        check_folder(page.parent)
    if is_of_shards(bundle):
        if encoder is not None or decoder is not None:
            raise ValueError("expected no --encoder or --decoder with shards, which have none")
        index: Any = open_shards(bundle)
    else:
        index = read_index(bundle, mmap=mmap, encoder=encoder, decoder=decoder)
    settings = {"nprobe": nprobe, "efSearch": ef_search, "k_factor": k_factor}
    for name, value in {"search_type": search_type, **settings}.items():
        if value is not None:
            setattr(index, name, value)
    move_files(index, root)
    source = open_for(index, queries, images)
    started = time.perf_counter()
    D, I = _nearest(index, source, k)  # noqa: E741 - FAISS's names
    query_s = (time.perf_counter() - started) / len(source)
    names = np.full(I.shape, "", object) if index.items is None else index.items.names(I)
    asked = items_of(source, queries)
    if page is None and open_page:
        page = Path(tempfile.mkdtemp(prefix="faiss-pqvae-"), "search.html")
    if page is not None:
        found = Found(D, I, query_s)
        _write_page(page, f"{queries} in {bundle}", index, (source, asked), found)
    if as_json:
        known = [[name or None for name in row] for row in names]
        called = asked.names(np.arange(len(source))).tolist()
        print(json.dumps({"D": D.tolist(), "I": I.tolist(), "names": known, "queries": called}))
    else:
        titles = [str(number) for number in range(len(source))]
        if hasattr(source, "paths"):
            titles = [printable(name) for name in asked.names(np.arange(len(source)))]
        _print_table(titles, D, I, names, index.search_type)
    if open_page and page is not None:
        sys.stdout.flush()
        _open(page)


def _nearest(index: Any, source: Source, k: int) -> tuple[FloatArray, IdArray]:
    """D (n, k) and I (n, k) of all queries, with a bar."""
    from faiss_pqvae.data.batches import read_batches, rows_at_a_time  # they import torch

    n = len(source)
    check_fits(2 * n * k * (4 + 8), f"k={k} of {n} queries")
    found = []
    with Progress("searching", n, unit="queries") as bar:
        for batch in read_batches(source, rows_at_a_time(source, _QUERIES), "queries"):
            found.append(index.search(batch, k))
            bar.update(len(batch))
    D, I = map(np.concatenate, zip(*found, strict=True))  # noqa: E741
    return D, I


def _open(page: Path) -> None:
    """Opens a page in the browser.

    Raises:
        OSError: there is none.
    """
    if not webbrowser.open(page.resolve().as_uri()):
        raise OSError(
            f"found no browser to open {page} in: open it by hand, or name a browser in the "
            "environment variable BROWSER"
        )


def _write_page(
    path: Path, title: str, index: LatentIndex, queries: tuple[Source, Items], found: Found
) -> None:
    """The page of HTML: queries with their names, and what was found."""
    read = partial(open_for, index) if len(index.input_shape) == 3 else None
    stored = Thumbnails(index.items, read)
    text, shown = html_page(title, _facts(index, found), *queries, found, stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, text.encode())
    print(f"{shown} of {len(queries[0])} queries in {path}", file=sys.stderr)
    if stored.lost and index.items is not None:
        print(
            f"{counted(stored.lost, 'picture')} of stored items not found in "
            f"{printable(str(index.items.root))}: give --root FOLDER, where the files are now",
            file=sys.stderr,
        )


def _facts(index: Any, found: Found) -> dict[str, str]:
    """What a page says above its queries."""
    from faiss_pqvae.native import faiss

    shards = getattr(index, "shards", None)
    description = (shards[0] if shards else index).description
    if shards:
        description += f", {counted(len(shards), 'shard')}"
    ms = 1000 * found.query_s
    by_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
    return {
        "index": description,
        "items": f"{index.ntotal:,}",
        "search": f"{index.search_type}, k {found.I.shape[1]}",
        "distance": _DISTANCES[by_product],
        "queries": f"{len(found.I):,}",
        "time": f"{ms:,.{0 if ms > 99 else 1}f} ms a query, reading and encoding included",
    }


def _print_table(
    titles: list[str],
    D: FloatArray,
    I: IdArray,  # noqa: E741
    names: npt.NDArray[np.object_],
    search_type: str,
) -> None:
    """A line a query: its title, and the ids, names and distances of what was found."""
    width = max(7, *map(len, titles))
    what = "ids and names" if names.any() else "ids"
    print(f"{'query':>{width}}  nearest {what} (distance), {search_type}")
    for title, *rows in zip(titles, D, I, names, strict=True):
        cells = (
            f"{i} {printable(name)} ({d:.4g})" if name else f"{i} ({d:.4g})"
            for d, i, name in zip(*rows, strict=True)
            if i != -1
        )
        print(f"{title:>{width}}  {'  '.join(cells)}")
