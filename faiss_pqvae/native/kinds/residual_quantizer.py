"""IndexResidualQuantizer: codes whose codewords are added, searched by inner product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import check_rq, expect
from faiss_pqvae.native.kinds import plain, scanned
from faiss_pqvae.native.kinds.additive import Additive, Block, limit_beam, nbits_of, whole
from faiss_pqvae.native.kinds.kind import Kind, listed
from faiss_pqvae.native.kinds.product import check_searchable
from faiss_pqvae.native.reader import Header, Reader


def _blocks(index: Any) -> list[Block]:
    return whole(index.rq)


def check_residual(index: Any) -> None:
    """Refuses what `new_residual_index` does not make.

    Args:
        index: a faiss.IndexResidualQuantizer.

    Raises:
        ValueError: another metric or search type, an encoder that is not greedy, levels of
            different nbits, or sizes that FAISS cannot search.
    """
    rq = index.rq
    expected = (faiss.METRIC_INNER_PRODUCT, faiss.AdditiveQuantizer.ST_LUT_nonorm, 1)
    got = (index.metric_type, rq.search_type, rq.max_beam_size)
    if expected != got:
        raise ValueError(
            "expected an IndexResidualQuantizer of metric_type, rq.search_type and "
            f"rq.max_beam_size = {expected} (inner product, ST_LUT_nonorm, greedy), got {got}: "
            "new_residual_index makes one"
        )
    check_searchable(index.d, nbits_of(rq))


def new(d: int, M: int, nbits: int) -> Any:
    """See `faiss_pqvae.native.inject.new_residual_index`."""
    aq = faiss.AdditiveQuantizer
    index = faiss.IndexResidualQuantizer(d, M, nbits, faiss.METRIC_INNER_PRODUCT, aq.ST_LUT_nonorm)
    index.rq.max_beam_size = 1
    # Products of all pairs of codewords, which faiss.read_index would compute for nothing.
    index.rq.train_type |= faiss.ResidualQuantizer.Skip_codebook_tables
    # FAISS writes an index without codebooks, and so copies it, but cannot read it again.
    index.rq.codebooks.resize(M * d << nbits)
    check_residual(index)
    return index


def _empty(bare: Any) -> Any:
    return new(bare.d, bare.rq.M, nbits_of(bare.rq))


def _layout(file: Reader, header: Header) -> None:
    file.residual_quantizer(header.d)
    file.take("Q")  # code_size
    file.vector(1)


def _agrees(bare: Any, check_inner: Callable[[Any], None]) -> None:
    check_rq(bare)
    expect("bytes of codes", bare.ntotal * bare.code_size, bare.codes.size())


KIND = listed(
    Kind(
        name="IndexResidualQuantizer",
        quantizer=Additive(_blocks, limit_beam),
        scanned=True,
        check=check_residual,
        search=scanned.search,
        quantize=plain.by_codes,
        empty=_empty,
        file="IxRq",
        layout=_layout,
        agrees=_agrees,
    )
)
