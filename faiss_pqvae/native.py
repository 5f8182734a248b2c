"""Codebooks into and out of native FAISS indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # noqa: F401 - before faiss, so that both share one OpenMP pool

from faiss_pqvae.codebooks import Codebooks

try:
    import faiss as faiss  # re-exported: the one place that imports it
except ImportError as error:
    raise ImportError(
        'faiss is missing: pip install "faiss-pqvae[cpu]" (or "faiss-pqvae[gpu]" for CUDA; '
        "never both, they own the same files)"
    ) from error

SDC_NBITS = 8  # the only size that IndexPQ's own symmetric search accepts


def inject_codebooks(index: Any, codebooks: Codebooks) -> None:
    """Makes codebooks those of a FAISS index, and the index trained.

    What FAISS derives from the codebooks is computed anew, the result is read back and
    compared, and `index.train` leaves the codebooks alone from here on.

    Args:
        index: an empty faiss.IndexPQ (others: the next release), L2 or inner product.
        codebooks: M, nbits and d as the index has them.

    Raises:
        TypeError: another kind of index, or no Codebooks.
        ValueError: other sizes; vectors in the index, whose codes would change their meaning; a
            metric that IndexPQ takes but silently computes as inner product.
    """
    index = _index_pq(index)
    if not isinstance(codebooks, Codebooks):
        raise TypeError(
            f"expected Codebooks, got {type(codebooks).__name__}; wrap an array (M, ksub, dsub): "
            "Codebooks(centroids)"
        )
    check_metric(index.metric_type)
    if index.ntotal:
        raise ValueError(
            f"expected an empty index, got one of {index.ntotal} vectors, whose codes would "
            "change their meaning: call reset() first"
        )
    pq = index.pq
    check_searchable(pq.dsub, pq.nbits)
    # FAISS itself takes a copy of any length, and would search out of bounds afterwards.
    expected, got = (pq.M, pq.ksub, pq.dsub), codebooks.centroids.shape
    if expected != got or index.d != pq.d:
        raise ValueError(f"expected codebooks of shape {expected}, got {got}")
    faiss.copy_array_to_vector(codebooks.centroids.ravel(), pq.centroids)
    prepare_search(index)
    index.is_trained = True
    if extract_codebooks(index) != codebooks:
        raise RuntimeError("the codebooks read back from the index are not those written to it")


def extract_codebooks(index: Any) -> Codebooks:
    """Reads the codebooks of a trained faiss.IndexPQ; undoes `inject_codebooks`.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index, or one whose parts do not fit together.
    """
    index = _index_pq(index)
    pq = index.pq
    if not index.is_trained:
        raise ValueError("expected a trained index, got an untrained one: it has no codebooks yet")
    size = pq.M * pq.ksub * pq.dsub
    if pq.centroids.size() != size or pq.M * pq.dsub != pq.d or index.d != pq.d:
        raise ValueError(
            f"expected {size} floats of codebooks for d={index.d}, got {pq.centroids.size()} "
            f"with M={pq.M}, ksub={pq.ksub}, dsub={pq.dsub}, pq.d={pq.d}"
        )
    centroids = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    return Codebooks(np.asarray(centroids))


def new_index_pq(codebooks: Codebooks, metric_type: int = faiss.METRIC_L2) -> Any:
    """An empty faiss.IndexPQ that has these codebooks.

    Raises:
        ValueError: a metric other than L2 and inner product.
    """
    index = faiss.IndexPQ(codebooks.d, codebooks.M, codebooks.nbits, metric_type)
    inject_codebooks(index, codebooks)
    return index


def check_metric(metric_type: int) -> None:
    """Refuses the metrics that IndexPQ takes, but silently computes as inner product.

    Raises:
        ValueError: a metric other than L2 and inner product.
    """
    if metric_type not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise ValueError(
            f"expected metric_type METRIC_L2 or METRIC_INNER_PRODUCT, got {metric_type}"
        )


def check_searchable(dsub: int, nbits: int) -> None:
    """Refuses the sizes that FAISS can store and encode, but not search.

    Raises:
        ValueError: two dimensions a sub-vector at 1 or 2 bits.
    """
    if dsub == 2 and nbits <= 2:
        raise ValueError(
            f"FAISS cannot search codebooks of dsub=2 with nbits={nbits} (its lookup tables for "
            "two dimensions need nbits of 3 or more): choose another dsub"
        )


def prepare_search(index: Any) -> None:
    """Computes what FAISS derives from a trained IndexPQ's codebooks, and keeps them in `train`.

    None of it survives FAISS's files and pickles.
    """
    pq = index.pq
    if pq.transposed_centroids.size():
        pq.sync_transposed_centroids()
    if pq.nbits == SDC_NBITS:
        pq.compute_sdc_table()
    # From the codebooks as they are, in no iterations: `train` leaves them bit for bit.
    pq.train_type = faiss.ProductQuantizer.Train_hot_start
    pq.cp.niter = 0
    pq.cp.min_points_per_centroid = 1  # nothing is clustered, so nothing is worth a warning
    index.do_polysemous_training = False


def unpack_codes(index: Any) -> npt.NDArray[np.int64]:
    """The codeword of every stored vector in every sub-quantizer.

    Args:
        index: a faiss.IndexPQ.

    Returns:
        (ntotal, M) int64 in [0, ksub).

    Raises:
        TypeError: another kind of index.
    """
    index = _index_pq(index)
    codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, index.code_size)
    return np.asarray(faiss.unpack_bitstrings(codes, index.pq.M, index.pq.nbits), np.int64)


def _index_pq(index: Any) -> Any:
    # Only where needed: the reference that comes out does not keep a temporary index alive.
    if isinstance(index, faiss.Index) and not isinstance(index, faiss.IndexPQ):
        index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexPQ):
        raise TypeError(f"expected a faiss.IndexPQ, got {type(index).__name__}")
    return index
