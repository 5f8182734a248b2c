"""Native files: written whole, and believed only when all their parts agree.

What a file could harm the reading with is found in its bytes (`layout`), before FAISS reads
them; what could lead a later search out of bounds is found in the index (`checks`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.files import no_space
from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import DisagreementError, values
from faiss_pqvae.native.files.checks import check_index
from faiss_pqvae.native.files.layout import Role, check_layout
from faiss_pqvae.native.ids import check_given_ids, in_id_map, list_ids, unwrapped
from faiss_pqvae.native.kinds import KINDS, kind_of, known_kind
from faiss_pqvae.native.reader import LayoutError

_UNMAPPED = {kind.file for kind in KINDS.values() if not kind.maps}
# Tables are computed after the checks, by `prepare_search`.
_FLAGS = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | faiss.IO_FLAG_PQ_SKIP_SDC_TABLE


def write_native(index: Any, path: Path, role: Role) -> None:
    """Writes a native index, if `read_native` would read it again.

    Raises:
        OSError: the disk is full or failing.
        ValueError: a kind of index, or a state of it, that bundles do not hold; the id -1.
    """
    try:
        check_index(index)
        check_given_ids(index)
        faiss.write_index(index, str(path))
        check_layout(path, role)
    except RuntimeError as error:
        raise no_space(path, str(error)) from error
    except (DisagreementError, LayoutError) as error:
        raise ValueError(f"a bundle cannot hold this {type(index).__name__}: {error}") from error


def read_native(path: Path, role: Role, *, mmap: bool = False) -> Any:
    """Reads a native index and checks what FAISS does not: sizes that must agree.

    Args:
        path: of the file.
        role: what it is for a bundle, which decides about the kinds of index that it may hold.
        mmap: leave codes and lists in the file, which is mapped into memory.

    Returns:
        The index, as its own class; `prepare_search` is still to be called.

    Raises:
        ValueError: a file that FAISS cannot read, whose parts do not fit together, or whose kind
            of index FAISS cannot map.
    """
    try:
        kinds = check_layout(path, role)
        if mmap and kinds & _UNMAPPED:
            raise ValueError(
                "FAISS cannot map the blocks of a FastScan index into memory: read it with "
                "mmap=False"
            )
        index = faiss.read_index(str(path), _FLAGS | (faiss.IO_FLAG_MMAP_IFC if mmap else 0))
        check_index(index)
        _renew(index)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"FAISS cannot read {path}: {error}") from error
    except (DisagreementError, LayoutError) as error:
        raise ValueError(f"the parts of {path} do not fit together: {error}") from error
    return index


def maps(index: Any) -> bool:
    """Whether FAISS can leave the codes of such an index in a file."""
    return kind_of(unwrapped(index)).maps


def is_mapped(index: Any) -> bool:
    """Whether codes of an index lie in a file that is mapped into memory, and so cannot change."""
    bare = unwrapped(index)
    kind = known_kind(bare)
    if kind is not None:
        return kind.is_mapped(bare)
    return isinstance(bare, faiss.IndexFlatCodes) and not bare.codes.is_owned


def check_keys(index: Any, refine_index: Any) -> None:
    """Whether an index to refine with holds the same items: places, or the ids of inverted lists.

    Raises:
        ValueError: others, or another number of them.
    """
    n, bare = index.ntotal, unwrapped(index)
    if refine_index.ntotal != n:
        raise ValueError(f"expected {n} items to refine with, got {refine_index.ntotal}")
    lists = kind_of(bare).has_lists
    own_ids = in_id_map(refine_index)
    keys = ids = np.arange(n if lists or own_ids else 0)
    if lists:
        keys = np.concatenate([list_ids(bare, number) for number in range(bare.nlist)])
    if own_ids:
        ids = values(refine_index.id_map)
    if not np.array_equal(np.sort(keys), np.sort(ids)):
        raise ValueError("expected the ids of the items to refine with to be those of the index")


def _renew(index: Any) -> None:
    """Makes anew what a file says beside its contents, or cannot say."""
    if isinstance(index, faiss.IndexPreTransform):
        for number in range(index.chain.size()):
            transform = faiss.downcast_VectorTransform(index.chain.at(number))
            if isinstance(transform, faiss.LinearTransform):
                # FAISS asks itself while it reads, before it knows the dimensions.
                transform.set_is_orthonormal()
        return
    bare = unwrapped(index)
    kind = known_kind(bare)
    if kind is not None:
        kind.renew(bare)
