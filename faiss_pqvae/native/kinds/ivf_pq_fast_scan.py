"""IndexIVFPQFastScan: inverted lists of codes of 4 bits in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import check_fast_scan, expect, require
from faiss_pqvae.native.ids import id_map_changed, list_ids
from faiss_pqvae.native.kinds import ivf_pq, lists, lists_in_files, plain
from faiss_pqvae.native.kinds.blocks import clear_end, pack, unpack
from faiss_pqvae.native.kinds.kind import Kind, listed
from faiss_pqvae.native.kinds.product import Product
from faiss_pqvae.types import CodeArray, IdArray


def entries(ivf: Any, list_no: int) -> tuple[CodeArray, IdArray]:
    """Codes (m, code_size) and ids (m,) of a list, as copies."""
    return _codes(ivf, list_no).copy(), list_ids(ivf, list_no).copy()


def _codes(ivf: Any, list_no: int) -> CodeArray:
    """Codes (m, code_size) of a list: good until the next change."""
    size = ivf.invlists.list_size(list_no)
    if not size:
        return np.empty((0, ivf.code_size), np.uint8)
    n_bytes = -(-size // ivf.bbs) * ivf.bbs * ivf.code_size
    raw = faiss.rev_swig_ptr(ivf.invlists.get_codes(list_no), n_bytes)
    return unpack(raw, size, ivf)


def add_entries(ivf: Any, list_no: int, codes: CodeArray, ids: IdArray) -> None:
    """Appends codes (m, code_size) and ids (m,) to a list; `ntotal` is the caller's.

    FAISS 1.15 garbles blocks when it goes on in one that is not full. What was there is written
    over with itself, so that an interruption loses nothing.
    """
    if not len(ids):
        return
    before, _ = entries(ivf, list_no)
    packed = pack(np.concatenate([before, codes]), ivf).ravel()
    ivf.invlists.resize(list_no, len(before) + len(ids))
    faiss.rev_swig_ptr(ivf.invlists.get_codes(list_no), packed.size)[:] = packed
    list_ids(ivf, list_no)[len(before) :] = ids


def _add_codes(index: Any, bare: Any, codes: CodeArray, ids: IdArray | None) -> None:
    """Codes to lists; FAISS's own `add_sa_codes` garbles them."""
    in_id_map = index is not bare
    keys = np.arange(bare.ntotal, bare.ntotal + len(codes))
    keys = keys if ids is None or in_id_map else ids
    with lists.changing(bare):
        numbers = lists.list_numbers(bare, codes)
        for number in np.unique(numbers):
            rows = numbers == number
            own = codes[rows, bare.coarse_code_size() :]
            add_entries(bare, int(number), own, keys[rows])
        bare.ntotal += len(codes)
        if in_id_map and ids is not None:
            ids = np.concatenate([faiss.vector_to_array(index.id_map), ids])
            faiss.copy_array_to_vector(ids, index.id_map)
            id_map_changed(index)


def _flat(bare: Any) -> Any:
    """The same as IndexIVFPQ, whose `range_search` is right.

    That of this kind is wrong: thresholds beyond its 16 bits wrap around.
    """
    sizes = (bare.nlist, bare.pq.M, bare.pq.nbits)
    flat = faiss.IndexIVFPQ(bare.quantizer, bare.d, *sizes, bare.metric_type)
    flat.by_residual, flat.nprobe = bare.by_residual, bare.nprobe
    ivf_pq.KIND.quantizer.write(flat, KIND.quantizer.read(bare))
    for number in range(bare.nlist):
        ivf_pq.add_entries(flat, number, *entries(bare, number))
    flat.ntotal = bare.ntotal
    return flat


def _derive(index: Any) -> None:
    lists.derive(index)
    # What decodes: null after reading, and another index's after cloning (a crash, both).
    index.fine_quantizer = index.pq


def _empty(bare: Any) -> Any:
    return lists.empty(bare, bare.bbs)


def _tidy(bare: Any) -> None:
    for number in range(bare.nlist):
        size = bare.invlists.list_size(number)
        clear_end(bare.invlists.get_codes(number), size, bare)


def _check_lists(bare: Any) -> None:
    check_fast_scan(bare)
    blocks = faiss.downcast_InvertedLists(bare.invlists)
    require("lists of blocks", isinstance(blocks, faiss.BlockInvertedLists))
    expect("vectors a block", bare.bbs, blocks.n_per_block)
    expect("bytes a block", bare.bbs * bare.M2 // 2, blocks.block_size)


KIND = listed(
    Kind(
        name="IndexIVFPQFastScan",
        quantizer=Product(derive=_derive, is_trained=lists.coarse_is_trained),
        has_lists=True,
        trains_coarse=True,
        exact=_flat,
        quantize=lists.quantize,
        check_keys=plain.nothing,
        reconstruct=lists.reconstruct,
        codes_at=lists.codes_at(_codes),
        check_codes=lists.check_codes,
        add=lists.add,
        add_codes=_add_codes,
        mark=lists.mark,
        roll_back=lists.roll_back,
        changing=lists.changing,
        set_aside=lists.set_aside,
        tidy=_tidy,
        parameters=lists.parameters,
        contents=lists.contents(entries),
        fill=lists.fill(add_entries),
        empty=_empty,
        file="IwPf",
        layout=lists_in_files.layout(
            before="iQiQ", form="ilbl", follow_lists=lists_in_files.block_lists
        ),
        agrees=lists_in_files.agrees(_check_lists),
        maps=False,
        is_mapped=lists_in_files.is_mapped,
        renew=lists_in_files.renew,
    )
)
