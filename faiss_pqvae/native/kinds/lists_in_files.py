"""Inverted lists in a native file: sizes that fit, and what is believed of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import MAX_VALUE, expect, require
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.kinds import lists, plain
from faiss_pqvae.native.kinds.coarse import COARSE
from faiss_pqvae.native.reader import Header, LayoutError, Reader, expect_in_file


def layout(
    *, before: str, form: str, follow_lists: Callable[[Reader, int], None]
) -> Callable[[Reader, Header], None]:
    """Follows an inverted file.

    Args:
        before: what stands before the product quantizer, as `struct` calls it.
        form: FAISS's four characters for the lists.
        follow_lists: follows them.
    """

    def follow(file: Reader, header: Header) -> None:
        nlist, _ = file.take("QQ")  # and nprobe
        quantizer = file.index(COARSE)
        # FAISS computes a table from these while it reads.
        expect_in_file("d of the coarse quantizer", header.d, quantizer.d)
        expect_in_file("number of coarse centroids", nlist, quantizer.ntotal)
        hashed = file.take("B") == 2
        file.vector(8)  # the direct map
        if hashed:
            file.vector(16)
        file.take("?Q")  # by_residual, code_size
        if before:
            file.take(before)
        file.product_quantizer(header.d)
        file.kind({form})
        follow_lists(file, nlist)

    return follow


def array_lists(file: Reader, nlist: int) -> None:
    """Follows lists of codes one after another."""
    found, code_size = file.take("QQ")
    expect_in_file("number of inverted lists", nlist, found)
    sparse = file.kind({"full", "sprs"}) == "sprs"
    start = file.at
    n = file.vector(8)
    sizes = np.frombuffer(file.bytes_of(start + 8), np.uint64)
    if sparse:
        sizes = sizes[1::2]
    else:
        expect_in_file("sizes of inverted lists", nlist, n)
    # As floats first, which do not overflow.
    if sizes.sum(dtype=np.float64) > file.left:
        raise LayoutError("expected inverted lists within the file")
    file.skip(int(sizes.sum()) * (code_size + 8))


def block_lists(file: Reader, nlist: int) -> None:
    """Follows lists of codes in blocks."""
    found, _, _, _ = file.take("QQQQ")  # code_size, n_per_block, block_size
    expect_in_file("number of inverted lists", nlist, found)
    for _ in range(nlist):
        file.vector(8)
        file.vector(1)


def agrees(
    check_lists: Callable[[Any], None],
) -> Callable[[Any, Callable[[Any], None]], None]:
    """Whether coarse quantizer and lists fit together, by what looks at the lists."""

    def check(bare: Any, check_inner: Callable[[Any], None]) -> None:
        quantizer, invlists = faiss.downcast_index(bare.quantizer), bare.invlists
        require("a coarse quantizer and inverted lists", None not in (quantizer, invlists))
        coarse = faiss.IndexFlatCodes | faiss.IndexHNSWFlat | faiss.IndexHNSWSQ
        expected = "coarse centroids as Flat, SQ or PQ codes, or in a graph"
        require(expected, isinstance(quantizer, coarse))
        check_inner(quantizer)
        expect("d of the coarse quantizer", bare.d, quantizer.d)
        require("nlist and nprobe of 1 or more", bare.nlist >= 1 and bare.nprobe >= 1)
        expect("number of inverted lists", bare.nlist, invlists.nlist)
        expect("number of coarse centroids", bare.nlist, quantizer.ntotal)
        centroids = faiss_method(quantizer, "reconstruct_n")(0, bare.nlist)
        finite = (np.abs(centroids) < MAX_VALUE).all()
        require("coarse centroids with finite distances", finite)
        check_lists(bare)
        expect("vectors in the inverted lists", bare.ntotal, sum(lists.list_sizes(bare)))
        kinds = (faiss.DirectMap.NoMap, faiss.DirectMap.Array, faiss.DirectMap.Hashtable)
        require("a direct map of a known type", bare.direct_map.type in kinds)

    return check


def is_mapped(bare: Any) -> bool:
    """Whether lists of codes lie in a file."""
    invlists = faiss.downcast_InvertedLists(bare.invlists)
    return isinstance(invlists, faiss.ArrayInvertedLists) and not all(
        invlists.codes.at(number).is_owned for number in range(invlists.nlist)
    )


def renew(bare: Any) -> None:
    """As other kinds; and the direct map, and an nprobe that FAISS takes memory for."""
    bare.nprobe = min(bare.nprobe, bare.nlist)
    lists.renew_direct_map(bare)
    plain.renew(bare)
