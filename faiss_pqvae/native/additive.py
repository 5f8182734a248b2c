"""Codebooks of FAISS's additive quantizers, and everything that is derived from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.walk import kind
from faiss_pqvae.types import FloatArray

_N_NORMS = 4096  # FAISS quantizes norms to 256 values at most

_AQ = faiss.AdditiveQuantizer
_TRAINED_NORMS = (
    _AQ.ST_norm_qint8,
    _AQ.ST_norm_qint4,
    _AQ.ST_norm_cqint8,
    _AQ.ST_norm_cqint4,
    _AQ.ST_norm_lsq2x4,
    _AQ.ST_norm_rq2x4,
)

Block = tuple[Any, slice, slice]


def check_sizes(index: Any, codebooks: Codebooks) -> None:
    """Refuses codebooks that are not of the index's shape, or do not keep to its sub-vectors.

    Raises:
        ValueError: other sizes or another structure; levels of different nbits; codewords of a
            product that are not zero outside of their sub-vector; a search that FAISS aborts.
    """
    aq = index.aq
    if _is_product(index) and aq.search_type == _AQ.ST_norm_from_LUT:
        raise ValueError(
            f"FAISS has no ST_norm_from_LUT in {kind(index)} and aborts: choose another search_type"
        )
    expected, got = (aq.M, 2 ** nbits_of(aq), aq.d), codebooks.centroids.shape
    if expected != got or codebooks.structure != "residual" or index.d != aq.d:
        raise ValueError(
            f"expected codebooks of shape {expected} with structure='residual', got {got} with "
            f"structure={codebooks.structure!r} (for an index of d={index.d})"
        )
    inside = np.zeros((aq.M, 1, aq.d), bool)
    for _, rows, columns in _blocks(index):
        inside[rows, :, columns] = True
    if np.any(codebooks.centroids, where=~inside):
        raise ValueError(
            f"expected codewords that are zero outside of the sub-vector of their quantizer, as "
            f"{kind(index)} has them, got others"
        )


def write(index: Any, codebooks: Codebooks) -> None:
    """Copies codebooks of the right shape into the index, which is trained by them."""
    blocks = list(_blocks(index))
    parts = [
        np.ascontiguousarray(codebooks.centroids[rows, :, columns]) for _, rows, columns in blocks
    ]
    for (quantizer, _, _), part in zip(blocks, parts, strict=True):
        faiss.copy_array_to_vector(part.ravel(), quantizer.codebooks)
        quantizer.is_trained = True
        _limit_encoder(quantizer, codebooks.ksub)
    aq = index.aq
    faiss.copy_array_to_vector(np.concatenate([part.ravel() for part in parts]), aq.codebooks)
    aq.is_trained = index.is_trained = True
    prepare(index)
    _train_norms(aq, codebooks)


def read(index: Any) -> Codebooks:
    """The codebooks, a copy.

    Raises:
        ValueError: the parts of the index do not fit together; levels of different nbits.
    """
    aq = index.aq
    ksub = 2 ** nbits_of(aq)
    centroids = np.zeros((aq.M, ksub, aq.d), np.float32)
    flat: FloatArray = faiss.vector_to_array(aq.codebooks)
    start = 0
    for quantizer, rows, columns in _blocks(index):
        part = faiss.vector_to_array(quantizer.codebooks)
        size = quantizer.M * ksub * quantizer.d
        if part.size != size or not np.array_equal(part, flat[start : start + size]):
            raise ValueError(
                f"expected {size} floats of codebooks, the same to encode and to decode, got "
                f"{part.size} to encode and {flat.size - start} to decode"
            )
        centroids[rows, :, columns] = part.reshape(quantizer.M, ksub, quantizer.d)
        start += size
    if start != flat.size or index.d != aq.d:
        raise ValueError(
            f"expected {start} floats of codebooks for d={index.d}, got {flat.size} for d={aq.d}"
        )
    return Codebooks(centroids, structure="residual")


def prepare(index: Any) -> None:
    """Computes what FAISS derives from the codebooks, where anything looks into it."""
    for quantizer, _, _ in _blocks(index):
        if _needs_tables(quantizer):
            quantizer.compute_codebook_tables()
        else:
            quantizer.codebook_cross_products.resize(0)  # of codebooks before


def _needs_tables(quantizer: Any) -> bool:
    # Gigabytes at 12 bits, for nothing where neither norms nor the encoder are made of them.
    without = isinstance(quantizer, faiss.ResidualQuantizer) and not quantizer.use_beam_LUT
    return not (without and quantizer.search_type == _AQ.ST_LUT_nonorm)


def _blocks(index: Any) -> Iterator[Block]:
    """The quantizers that encode: each with its levels and the dimensions it covers."""
    if not _is_product(index):
        own = index.rq if kind(index) == "IndexResidualQuantizer" else index.lsq
        yield own, slice(0, own.M), slice(0, own.d)
        return
    product = index.prq if kind(index) == "IndexProductResidualQuantizer" else index.plsq
    level = dimension = 0
    for i in range(product.nsplits):
        part = faiss.downcast_Quantizer(product.subquantizer(i))
        yield part, slice(level, level + part.M), slice(dimension, dimension + part.d)
        level, dimension = level + part.M, dimension + part.d


def _limit_encoder(quantizer: Any, ksub: int) -> None:
    # Where there are fewer codes than the encoder's defaults ask for, FAISS throws (local search:
    # perturbations of more codewords than there are) or encodes wrongly (beams of more codes).
    if isinstance(quantizer, faiss.LocalSearchQuantizer):
        quantizer.nperts = min(quantizer.nperts, quantizer.M)
    else:
        quantizer.max_beam_size = min(quantizer.max_beam_size, ksub**quantizer.M)


def _is_product(index: Any) -> bool:
    return kind(index).startswith("IndexProduct")


def nbits_of(aq: Any) -> int:
    """Bits of a level.

    Raises:
        ValueError: levels of different nbits.
    """
    nbits = faiss.vector_to_array(aq.nbits).tolist()
    if len(set(nbits)) != 1:
        raise ValueError(f"expected levels of the same nbits, got {nbits}")
    return int(nbits[0])


def _train_norms(aq: Any, codebooks: Codebooks) -> None:
    # Of vectors to come only their codes are known: the norms of random ones, the same each time.
    if aq.search_type in _TRAINED_NORMS:
        ids = np.random.default_rng(0).integers(0, codebooks.ksub, (_N_NORMS, codebooks.M))
        norms = np.square(codebooks.decode(ids)).sum(axis=1)
        aq.qnorm.reset()
        aq.train_norm(len(norms), faiss.swig_ptr(norms))
