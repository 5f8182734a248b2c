"""Codebooks of FAISS's additive quantizers, and everything that is derived from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import plain
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

# FAISS ends the process when it searches a product of additive quantizers so.
ABORTS_IN_PRODUCTS = (_AQ.ST_norm_from_LUT,)

# A quantizer that encodes, its levels, and the dimensions that it covers.
Block = tuple[Any, slice, slice]


@dataclass(frozen=True)
class Additive:
    """How codebooks get into an index with a faiss.AdditiveQuantizer, and out of it.

    Attributes:
        blocks: the quantizers of an index that encode.
        aborts: search types in which FAISS ends the process.
        limit: keeps an encoder, of codebooks with ksub codewords, from asking for more than there
            is: FAISS throws then, or encodes wrongly.
        is_trained: whether codebooks are all that an index needs, or what else it has by now.
    """

    blocks: Callable[[Any], Iterable[Block]]
    limit: Callable[[Any, int], None]
    aborts: tuple[int, ...] = ()
    is_trained: Callable[[Any], bool] = plain.always

    def check_sizes(self, index: Any, codebooks: Codebooks) -> None:
        """Refuses codebooks that are not of the index's shape, or leave its sub-vectors.

        Raises:
            ValueError: other sizes or another structure; levels of different nbits; codewords of a
                product that are not zero outside of their sub-vector; a search that FAISS aborts.
        """
        aq, name = index.aq, type(index).__name__
        if aq.search_type in self.aborts:
            raise ValueError(
                f"FAISS has no ST_norm_from_LUT in {name} and aborts: choose another search_type"
            )
        expected, got = (aq.M, 2 ** nbits_of(aq), aq.d), codebooks.centroids.shape
        if expected != got or codebooks.structure != "residual" or index.d != aq.d:
            raise ValueError(
                f"expected codebooks of shape {expected} with structure='residual', got {got} with "
                f"structure={codebooks.structure!r} (for an index of d={index.d})"
            )
        inside = np.zeros((aq.M, 1, aq.d), bool)
        for _, rows, columns in self.blocks(index):
            inside[rows, :, columns] = True
        if np.any(codebooks.centroids, where=~inside):
            raise ValueError(
                f"expected codewords that are zero outside of the sub-vector of their quantizer, "
                f"as {name} has them, got others"
            )

    def write(self, index: Any, codebooks: Codebooks) -> None:
        """Copies codebooks of the right shape into the index, which is trained by them."""
        blocks = list(self.blocks(index))
        parts = [
            np.ascontiguousarray(codebooks.centroids[rows, :, columns])
            for _, rows, columns in blocks
        ]
        for (quantizer, _, _), part in zip(blocks, parts, strict=True):
            faiss.copy_array_to_vector(part.ravel(), quantizer.codebooks)
            quantizer.is_trained = True
            self.limit(quantizer, codebooks.ksub)
        aq = index.aq
        faiss.copy_array_to_vector(np.concatenate([part.ravel() for part in parts]), aq.codebooks)
        aq.is_trained, index.is_trained = True, self.is_trained(index)
        self.prepare(index)
        _train_norms(aq, codebooks)

    def read(self, index: Any) -> Codebooks:
        """The codebooks, a copy.

        Raises:
            ValueError: the parts of the index do not fit together; levels of different nbits.
        """
        aq = index.aq
        ksub = 2 ** nbits_of(aq)
        centroids = np.zeros((aq.M, ksub, aq.d), np.float32)
        flat: FloatArray = faiss.vector_to_array(aq.codebooks)
        start = 0
        for quantizer, rows, columns in self.blocks(index):
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
                f"expected {start} floats of codebooks for d={index.d}, got {flat.size} for "
                f"d={aq.d}"
            )
        return Codebooks(centroids, structure="residual")

    def prepare(self, index: Any) -> None:
        """Computes what FAISS derives from the codebooks, where anything looks into it."""
        for quantizer, _, _ in self.blocks(index):
            if _needs_tables(quantizer):
                quantizer.compute_codebook_tables()
            else:
                quantizer.codebook_cross_products.resize(0)  # of codebooks before


def whole(quantizer: Any) -> list[Block]:
    """A quantizer that encodes alone."""
    return [(quantizer, slice(0, quantizer.M), slice(0, quantizer.d))]


def split(product: Any) -> Iterator[Block]:
    """The quantizers of a product, each of a sub-vector."""
    level = dimension = 0
    for i in range(product.nsplits):
        part = faiss.downcast_Quantizer(product.subquantizer(i))
        yield part, slice(level, level + part.M), slice(dimension, dimension + part.d)
        level, dimension = level + part.M, dimension + part.d


def limit_beam(quantizer: Any, ksub: int) -> None:
    """At most as many codes in a beam as there are; with more it encodes wrongly."""
    quantizer.max_beam_size = min(quantizer.max_beam_size, ksub**quantizer.M)


def limit_perturbations(quantizer: Any, ksub: int) -> None:
    """Perturbations of at most all codewords of a code; with more FAISS throws."""
    quantizer.nperts = min(quantizer.nperts, quantizer.M)


def _needs_tables(quantizer: Any) -> bool:
    # Gigabytes at 12 bits, for nothing where neither norms nor the encoder are made of them.
    without = not getattr(quantizer, "use_beam_LUT", True)
    return not (without and quantizer.search_type == _AQ.ST_LUT_nonorm)


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
