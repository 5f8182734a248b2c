"""Where the bytes of a bundle go, and what memory it needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native.files.io import maps
from faiss_pqvae.native.ids import in_id_map
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.walk import codebook_index

# Of a model's tensors, by how their names begin.
_TENSORS = {
    "encoder.": "encoder",
    "decoder.": "decoder",
    "quantizer.codewords": "codebooks",
    "quantizer.": "kept for training",
}
_BY_ITEM = "codes", "ids", "graph", "vectors to refine by", "names"


class StoredBytes(NamedTuple):
    """Bytes of a bundle.

    Attributes:
        parts: on the disk, by what they are for, all that are not 0.
        item: of each item, on average: what grows with their number.
        memory: that the index needs when it is read, at least.
        front: of these, of a frozen encoder, whose weights are not in the bundle.
        mapped: of these, that stay in the file with `mmap=True`.
    """

    parts: dict[str, int]
    item: float
    memory: int
    front: int
    mapped: int


def stored_bytes(folder: Path, config: dict[str, Any], index: LatentIndex) -> StoredBytes:
    """Where the bytes of a bundle go.

    Args:
        folder: of the bundle.
        config: what its config.json says.
        index: that was read of it.

    Raises:
        OSError: a file is gone.
    """
    files = {role: (folder / file["name"]).stat().st_size for role, file in config["files"].items()}
    parts = {
        "transforms": files.get("transforms", 0),
        "vectors to refine by": files.get("refine", 0),
        "names": files.get("items", 0),
        "configuration": (folder / "config.json").stat().st_size,
    }
    for found in (_native(index, files["index"]), _model(index, files["model"])):
        for name, n_bytes in found.items():
            parts[name] = parts.get(name, 0) + n_bytes
    by_items = sum(parts.get(name, 0) for name in _BY_ITEM)
    front = index.front.backbone if index.front is not None else None
    weights = 0 if front is None else sum(value.nbytes for value in front.state_dict().values())
    mapped = 0
    if maps(index.faiss_index):
        id_map = 8 * index.ntotal if in_id_map(index.faiss_index) else 0
        mapped = parts["codes"] + parts["ids"] - id_map + files.get("refine", 0)
    return StoredBytes(
        {name: n_bytes for name, n_bytes in parts.items() if n_bytes},
        by_items / index.ntotal if index.ntotal else 0.0,
        sum(files.values()) + weights,
        weights,
        mapped,
    )


def _native(index: LatentIndex, n_bytes: int) -> dict[str, int]:
    """The native index's file, whose parts are as FAISS writes them."""
    native = codebook_index(index.faiss_index)
    has_lists = kind_of(native).has_lists
    n_ids = index.ntotal * (has_lists + in_id_map(index.faiss_index))
    parts = {
        "codes": index.ntotal * math.ceil(index.model.M * index.model.nbits / 8),
        "ids": 8 * n_ids,
        "codebooks": extract_codebooks(native).centroids.nbytes,
        "coarse centroids": 4 * native.nlist * native.d if has_lists else 0,
    }
    # Of a graph its links; else what FAISS writes around, and codes that fill blocks up.
    rest = "graph" if hasattr(native, "hnsw") else "rest"
    return {**parts, rest: max(0, n_bytes - sum(parts.values()))}


def _model(index: LatentIndex, n_bytes: int) -> dict[str, int]:
    """The model's file: its networks, and the codebooks a second time."""
    parts: dict[str, int] = {}
    for name, value in index.model.state_dict().items():
        part = next((part for start, part in _TENSORS.items() if name.startswith(start)), "rest")
        parts[part] = parts.get(part, 0) + value.nbytes
    parts["rest"] = parts.get("rest", 0) + max(0, n_bytes - sum(parts.values()))
    return parts
