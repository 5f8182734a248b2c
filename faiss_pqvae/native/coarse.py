"""Coarse centroids into native inverted files: learned first, given later."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.walk import codebook_index, follow_training, levels
from faiss_pqvae.types import FloatArray

# FAISS's numbers for a coarse quantizer that assigns in its own k-means, and for one that k-means
# has no part in; 2 is one that k-means by L2 trains.
_ASSIGNS, _TRAINS_ALONE = 0, 1


def has_residuals(index: Any) -> bool:
    """Whether a native index is, around or not, an inverted file that codes residuals."""
    inner = codebook_index(index)
    return kind_of(inner).has_lists and bool(inner.by_residual)


def takes_centroids(ivf: Any) -> bool:
    """Whether the coarse quantizer of an inverted file can be given centroids, and give them."""
    if ord(ivf.quantizer_trains_alone) == _TRAINS_ALONE:
        return False
    return isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexFlatCodes | faiss.IndexHNSW)


def coarse_settings(index: Any) -> str:
    """All that `learn_coarse` asks of an inverted file besides the vectors, as text."""
    inner = codebook_index(index)
    alone = ord(inner.quantizer_trains_alone)
    return f"{inner.nlist} {inner.metric_type} {alone} {clustering_of(index)}"


def clustering_of(index: Any) -> dict[str, Any]:
    """The settings of the k-means of an index's inverted lists, which FAISS copies with none."""
    inner = codebook_index(index)
    if not kind_of(inner).has_lists:
        return {}
    names = [name for name in dir(faiss.ClusteringParameters) if not name.startswith("_")]
    return {name: getattr(inner.cp, name) for name in names if name not in ("this", "thisown")}


def set_clustering(index: Any, settings: dict[str, Any]) -> None:
    """Gives an index what `clustering_of` said of the one that it is a copy of."""
    inner = codebook_index(index)
    for name, value in settings.items():
        setattr(inner.cp, name, value)


def learn_coarse(index: Any, xt: FloatArray) -> FloatArray:
    """The centroids that an inverted file's coarse quantizer would be trained to.

    FAISS's k-means with the index's own settings; the vectors may have other dimensions than the
    index, which stays as it is.

    Args:
        index: with an inverted file whose coarse quantizer takes centroids, see `takes_centroids`.
        xt: (n, d) float32, n >= nlist.

    Returns:
        (nlist, d) float32.
    """
    inner, d = codebook_index(index), xt.shape[1]
    clustering = faiss.Clustering(d, inner.nlist, inner.cp)
    by_itself = ord(inner.quantizer_trains_alone) == _ASSIGNS
    metric_type = inner.quantizer.metric_type if by_itself else faiss.METRIC_L2
    faiss_method(clustering, "train")(np.ascontiguousarray(xt), faiss.IndexFlat(d, metric_type))
    centroids: FloatArray = faiss.vector_to_array(clustering.centroids)
    return centroids.reshape(inner.nlist, d)


def inject_coarse(index: Any, centroids: FloatArray) -> None:
    """Makes centroids those of the inverted file in an empty index that has its codebooks.

    Args:
        index: the index; it is trained then.
        centroids: (nlist, index.d) float32.
    """
    inner = codebook_index(index)
    quantizer = faiss.downcast_index(inner.quantizer)
    quantizer.reset()  # of a training before
    faiss_method(quantizer, "train")(centroids)  # nothing, unless it stores codes
    faiss_method(quantizer, "add")(centroids)
    inner.is_trained = True
    kind_of(inner).quantizer.prepare(inner)
    follow_training(levels(index))
