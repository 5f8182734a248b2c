"""Codebooks into and out of native FAISS indexes.

Useful alone, without a PQ-VAE: to give any FAISS index centroids of one's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS, Codebooks
from faiss_pqvae.foreign import as_array, how_to_convert
from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.kinds import kind_of, residual_quantizer
from faiss_pqvae.native.kinds.lists import coarse_is_trained
from faiss_pqvae.native.walk import codebook_index, follow_training, kind, levels, transforms
from faiss_pqvae.types import FloatArray

_UNTRAINED = "expected a trained index, got an untrained one: it has no codebooks yet"


def inject_codebooks(index: Any, codebooks: Codebooks) -> None:
    """Makes codebooks those of a FAISS index, and the index trained.

    What FAISS derives from the codebooks is computed anew, the result is read back and
    compared. An inverted file counts as trained once its coarse quantizer is, too:
    `train_coarse` trains that alone.

    What FAISS's own `index.train` does afterwards: a product quantizer is kept if there are
    more than ksub vectors (fewer are an error, and exactly ksub vectors *become* the codebooks);
    residual and local search quantizers are trained anew. `train_coarse` keeps the codebooks
    whatever the number of vectors, in every kind of index.

    Where an additive quantizer stores quantized norms (`ST_norm_qint8` and the like), they are
    trained on the norms of random codes. With vectors x at hand their own are finer:
    `aq.qnorm.reset()`, then `aq.train_norm` on the norms of the decoded x, before `add`.

    Args:
        index: an empty index, L2 or inner product, of one of the kinds that `codebook_index`
            finds. What else the caller has set stays: `by_residual` of an inverted file, which
            then takes codebooks of residuals, those between a vector and its coarse centroid;
            `max_beam_size` of a residual quantizer, which at 1 encodes greedily.
        codebooks: M, nbits and d as the index has them. The additive quantizers (residual, local
            search) take structure "residual", (M, ksub, d), every level of the same nbits. The
            products of those take the same, with M counted over all sub-vectors, and codewords
            that are zero outside of their sub-vector.

    Raises:
        TypeError: another kind of index, or no Codebooks.
        ValueError: other sizes; vectors in the index, whose codes would change their meaning; a
            metric that FAISS takes but silently computes as inner product; a search type that
            FAISS would abort the process in.
    """
    found = levels(index)
    inner = found[-1]
    if not isinstance(codebooks, Codebooks):
        raise TypeError(
            f"expected Codebooks, got {type(codebooks).__name__}; wrap an array (M, ksub, dsub): "
            "Codebooks(centroids)"
        )
    check_metric(inner.metric_type)
    ntotal = max(level.ntotal for level in found)
    if ntotal:
        raise ValueError(
            f"expected an empty index, got one of {ntotal} vectors, whose codes would "
            "change their meaning: call reset() first"
        )
    quantizer = kind_of(inner).quantizer
    quantizer.check_sizes(inner, codebooks)
    quantizer.write(inner, codebooks)
    follow_training(found)
    if quantizer.read(inner) != codebooks:
        raise RuntimeError("the codebooks read back from the index are not those written to it")


def extract_codebooks(index: Any) -> Codebooks:
    """Reads the codebooks of a FAISS index; undoes `inject_codebooks`.

    Raises:
        TypeError: another kind of index, see `codebook_index`.
        ValueError: an index without codebooks, or one whose parts do not fit together.
    """
    inner = codebook_index(index)
    own = kind_of(inner)
    if not inner.is_trained and not own.trains_coarse:
        raise ValueError(_UNTRAINED)
    codebooks = own.quantizer.read(inner)
    # An inverted file can have its codebooks before its coarse quantizer is trained.
    if not inner.is_trained and not codebooks.centroids.any():
        raise ValueError(_UNTRAINED)
    return codebooks


def new_index_pq(codebooks: Codebooks, metric_type: int = faiss.METRIC_L2) -> Any:
    """An empty faiss.IndexPQ that has these codebooks.

    Raises:
        ValueError: a metric other than L2 and inner product.
    """
    index = faiss.IndexPQ(codebooks.d, codebooks.M, codebooks.nbits, metric_type)
    inject_codebooks(index, codebooks)
    return index


def new_residual_index(d: int, M: int, nbits: int) -> Any:
    """An empty, untrained faiss.IndexResidualQuantizer for codes whose codewords are added.

    It searches by inner product, as sums of table look-ups, which need no norm: a code takes
    ceil(M * nbits / 8) bytes. It encodes greedily, level after level the codeword nearest to what
    is left. `inject_codebooks` makes it trained.

    Args:
        d: dimension of the vectors.
        M: levels, 1 or more.
        nbits: bits of a level, 1 to 12.

    Raises:
        ValueError: sizes out of range, or sizes that FAISS cannot search.
    """
    if d < 1 or M < 1 or not MIN_NBITS <= nbits <= MAX_NBITS:
        raise ValueError(
            f"expected d >= 1, M >= 1 and nbits from {MIN_NBITS} to {MAX_NBITS}, got d={d}, M={M} "
            f"and nbits={nbits}"
        )
    return residual_quantizer.new(d, M, nbits)


def check_metric(metric_type: int) -> None:
    """Refuses the metrics that FAISS takes, but silently computes as inner product.

    Raises:
        ValueError: a metric other than L2 and inner product.
    """
    if metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise ValueError(
            f"expected metric_type METRIC_L2 or METRIC_INNER_PRODUCT, got {metric_type}"
        )


def prepare_search(index: Any) -> None:
    """Computes what FAISS derives from an index's codebooks, and keeps them in `train`.

    Some of it does not survive FAISS's files, pickles and clones: call this after reading. An
    IndexHNSWPQ of inner products needs it after FAISS's `train`, too, which links by L2 again.

    Raises:
        TypeError: another kind of index, see `codebook_index`.
        ValueError: an index without codebooks.
    """
    extract_codebooks(index)
    inner = codebook_index(index)
    kind_of(inner).quantizer.prepare(inner)


def train_coarse(index: Any, xt: Any) -> None:
    """Trains what is untrained in an index, but leaves its codebooks bit for bit.

    That is the coarse quantizer of an inverted file, and around it the transforms of an
    IndexPreTransform and the refining index of an IndexRefine.

    Args:
        index: one that has codebooks.
        xt: (n, d) float, n >= nlist where there is a coarse quantizer to be trained.

    Raises:
        TypeError: another kind of index, see `codebook_index`.
        ValueError: a wrong shape, NaN or infinity, too few vectors, an index without codebooks.
    """
    extract_codebooks(index)
    found = levels(index)
    x = _vectors(xt, index.d)
    inner = found[-1]
    trains_coarse = kind_of(inner).trains_coarse
    coarse = trains_coarse and not coarse_is_trained(inner)
    if coarse and len(x) < inner.nlist:
        raise ValueError(f"expected at least nlist={inner.nlist} vectors, got {len(x)}")
    for level in found:
        if kind(level) == "IndexPreTransform":
            x = _train_transforms(level, x)
        elif kind(level).startswith("IndexRefine") and not level.refine_index.is_trained:
            faiss_method(level.refine_index, "train")(x)
    if coarse:
        inner.train_q1(len(x), faiss.swig_ptr(x), inner.verbose, inner.metric_type)
    if trains_coarse:
        inner.is_trained = True
        kind_of(inner).quantizer.prepare(inner)
    follow_training(found)


def _vectors(xt: Any, d: int) -> FloatArray:
    x = as_array(xt, "training vectors")
    if x.dtype.kind not in "fiu":
        raise TypeError(
            f"expected training vectors of numbers, got {x.dtype}{how_to_convert(x.dtype, 'xt')}"
        )
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"expected vectors of shape (n, {d}), got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("expected finite vectors, got NaN or infinity")
    return x


def _train_transforms(index: Any, x: FloatArray) -> FloatArray:
    for transform in transforms(index):
        if not transform.is_trained:
            transform.train(x)
        x = transform.apply(x)
    return x
