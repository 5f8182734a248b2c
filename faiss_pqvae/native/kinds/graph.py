"""What graphs over codes have in common; and in files, sizes, and links that lead nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import expect, require, values
from faiss_pqvae.native.kinds import plain
from faiss_pqvae.native.kinds.kind import Contents
from faiss_pqvae.native.reader import Header, Reader, expect_in_file
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

# Far beyond anything of use, but not beyond memory.
_MAX_SDC_BYTES = 2**32
_MAX_LEVELS = 64
_MAX_LINKS = 2**16
_MAX_EF = 2**24


def storage(index: Any) -> Any:
    """The IndexPQ whose codes the graph links; it keeps the graph alive."""
    inner = faiss.downcast_index(index.storage)
    inner.referenced_objects = [index]
    return inner


def quantize(bare: Any, z: FloatArray) -> FloatArray:
    """Every latent's own codewords."""
    return plain.quantize(storage(bare), z)


def code_size(bare: Any) -> int:
    """Bytes of a code."""
    return int(storage(bare).pq.code_size)


def encode(bare: Any, z: FloatArray) -> CodeArray:
    """Codes of latents."""
    codes: CodeArray = storage(bare).pq.compute_codes(z)
    return codes


def decode(bare: Any, codes: CodeArray) -> FloatArray:
    """Latents of codes."""
    latents: FloatArray = storage(bare).pq.decode(codes)
    return latents


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back while a graph is linked: half of the links would be none."""
    faiss.InterruptCallback.clear_instance()
    try:
        yield
    finally:
        faiss.PythonInterruptCallback.reset()


def add(index: Any, batches: Iterable[FloatArray], ids: IdArray | None) -> None:
    """All at once: a graph cannot forget what was added before a batch that fails."""
    parts = list(batches)
    if not parts:
        return
    with _uninterrupted():
        plain.add(index, [np.concatenate(parts)], ids)


def contents(bare: Any) -> Contents:
    """What the storage holds."""
    return Contents(*plain.contents(storage(bare)))


def is_mapped(bare: Any) -> bool:
    """Whether the storage's codes lie in a file."""
    return plain.is_mapped(storage(bare))


def layout(kinds: Set[str]) -> Callable[[Reader, Header], None]:
    """Follows a graph, and its storage of some kinds."""

    def follow(file: Reader, header: Header) -> None:
        # assign_probas, cum_nneighbor_per_level, levels, offsets, neighbors
        for width in (8, 4, 4, 8, 4):
            file.vector(width)
        file.take("iiiii")  # entry_point, max_level, efConstruction, efSearch, one unused
        expect_in_file("d and ntotal of the graph", header, file.index(kinds))

    return follow


def check_graph(index: Any, check_inner: Callable[[Any], None]) -> None:
    """Whether a graph leads nowhere but to the vectors of its storage."""
    inner, graph, n = faiss.downcast_index(index.storage), index.hnsw, index.ntotal
    require("a storage of codes", isinstance(inner, faiss.IndexFlatCodes))
    check_inner(inner)
    if isinstance(inner, faiss.IndexPQ):
        table_bytes = 4 * inner.pq.M * inner.pq.ksub**2
        require("a table of distances that fits into memory", table_bytes <= _MAX_SDC_BYTES)
    for name in ("d", "ntotal", "metric_type", "is_trained"):
        expect(f"{name} of the graph", getattr(inner, name), getattr(index, name))
    for name in ("efSearch", "efConstruction"):
        require(f"{name} from 1 to {_MAX_EF}", 1 <= getattr(graph, name) <= _MAX_EF)
    _check_room(graph)
    levels = faiss.vector_to_array(graph.levels)
    offsets = faiss.vector_to_array(graph.offsets).astype(np.int64)
    room = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    expect("levels of the graph", n, len(levels))
    expect("offsets of the graph", n + 1, len(offsets))
    if n:
        require("levels of 1 or more", levels.min() >= 1 and levels.max() < len(room))
        require("a place to enter the graph", 0 <= graph.entry_point < n)
        expect("level of the entry", levels[graph.entry_point] - 1, graph.max_level)
        require("offsets as the levels say", (np.diff(offsets) == room[levels]).all())
    else:
        expect("entry and top of an empty graph", (-1, -1), (graph.entry_point, graph.max_level))
    expect("max_level", levels.max(initial=0) - 1, graph.max_level)
    require("offsets from 0", offsets[0] == 0)
    _check_neighbors(levels, offsets, values(graph.neighbors), room)


def _check_room(graph: Any) -> None:
    """How many links a new vector gets is drawn from these."""
    probabilities = faiss.vector_to_array(graph.assign_probas)
    links = np.diff(faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64))
    require(f"1 to {_MAX_LEVELS} levels", 1 <= len(probabilities) <= _MAX_LEVELS)
    expect("levels with room for links", len(probabilities), len(links))
    require("room for links from 0", graph.cum_nneighbor_per_level.at(0) == 0)
    require(f"0 to {_MAX_LINKS} links", links.min() >= 0 and links.max() <= _MAX_LINKS)


def _check_neighbors(levels: Any, offsets: Any, neighbors: Any, room: Any) -> None:
    n = len(levels)
    expect("number of neighbors", offsets[-1], len(neighbors))
    require(
        "neighbors in the graph",
        not len(neighbors) or (neighbors.min() >= -1 and neighbors.max() < n),
    )
    # A link on a level that its target does not have leads out of the target's neighbors.
    for level in range(1, levels.max(initial=0)):
        _check_links(levels, offsets, neighbors, room, level)


def _check_links(levels: Any, offsets: Any, neighbors: Any, room: Any, level: int) -> None:
    there = np.flatnonzero(levels > level)
    places = offsets[there][:, None] + np.arange(room[level], room[level + 1])
    targets = neighbors[places]
    require("links within their level", (levels[targets[targets >= 0]] > level).all())
