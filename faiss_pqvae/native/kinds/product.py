"""Codebooks of FAISS's product quantizers, and everything that is derived from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import plain

SDC_NBITS = 8  # the only size that IndexPQ's own symmetric search accepts


@dataclass(frozen=True)
class Product:
    """How codebooks get into an index with a faiss.ProductQuantizer, and out of it.

    Attributes:
        holder: the index whose `pq` it is: the storage of a graph, else the index itself.
        searchable: refuses sizes that the index can store and encode, but not search.
        derive: computes what this kind of index derives from its codebooks.
        is_trained: whether codebooks are all that an index needs, or what else it has by now.
    """

    holder: Callable[[Any], Any] = plain.itself
    searchable: Callable[[Any], None] = plain.nothing
    derive: Callable[[Any], None] = plain.nothing
    is_trained: Callable[[Any], bool] = plain.always

    def check_sizes(self, index: Any, codebooks: Codebooks) -> None:
        """Refuses codebooks that are not of the index's shape.

        FAISS itself takes a copy of any length, and would search out of bounds afterwards.

        Raises:
            ValueError: other sizes, or sizes that FAISS can store and encode, but not search.
        """
        holder = self.holder(index)
        pq = holder.pq
        self.searchable(pq)
        expected, got = (pq.M, pq.ksub, pq.dsub), codebooks.centroids.shape
        if expected != got or codebooks.structure != "product" or {index.d, holder.d} != {pq.d}:
            raise ValueError(
                f"expected codebooks of shape {expected}, got {got} (structure "
                f"{codebooks.structure!r}, for an index of d={index.d} and pq.d={pq.d})"
            )

    def write(self, index: Any, codebooks: Codebooks) -> None:
        """Copies codebooks of the right shape into the index, which is trained by them.

        An inverted file is so only if its coarse quantizer is.
        """
        holder = self.holder(index)
        faiss.copy_array_to_vector(codebooks.centroids.ravel(), holder.pq.centroids)
        holder.is_trained = self.is_trained(index)
        index.is_trained = holder.is_trained
        self.prepare(index)

    def read(self, index: Any) -> Codebooks:
        """The codebooks, a copy.

        Raises:
            ValueError: the parts of the index do not fit together.
        """
        holder = self.holder(index)
        pq = holder.pq
        size = pq.M * pq.ksub * pq.dsub
        if pq.centroids.size() != size or pq.M * pq.dsub != pq.d or {index.d, holder.d} != {pq.d}:
            raise ValueError(
                f"expected {size} floats of codebooks for d={index.d}, got {pq.centroids.size()} "
                f"with M={pq.M}, ksub={pq.ksub}, dsub={pq.dsub}, pq.d={pq.d}"
            )
        return Codebooks(faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub))

    def prepare(self, index: Any) -> None:
        """Computes what FAISS derives from the codebooks, and keeps them in `train`."""
        holder = self.holder(index)
        pq = holder.pq
        if pq.transposed_centroids.size():
            pq.sync_transposed_centroids()
        self.derive(index)
        # From the codebooks as they are, in no iterations: `train` leaves them bit for bit.
        pq.train_type = faiss.ProductQuantizer.Train_hot_start
        pq.cp.niter = 0
        pq.cp.min_points_per_centroid = 1  # nothing is clustered, so nothing is worth a warning
        if hasattr(holder, "do_polysemous_training"):
            holder.do_polysemous_training = False


def check_searchable(dsub: int, nbits: int) -> None:
    """Refuses the sizes that an IndexPQ can store and encode, but not search.

    Raises:
        ValueError: two dimensions a sub-vector at 1 or 2 bits.
    """
    if dsub == 2 and nbits <= 2:
        raise ValueError(
            f"FAISS cannot search codebooks of dsub=2 with nbits={nbits} (its lookup tables for "
            "two dimensions need nbits of 3 or more): choose another dsub"
        )


def fill_inner_products(pq: Any) -> None:
    """Makes the symmetric table one of inner products; FAISS fills it with L2 distances."""
    table = faiss.rev_swig_ptr(pq.sdc_table.data(), pq.M * pq.ksub * pq.ksub)
    centroids = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    np.matmul(centroids, centroids.swapaxes(1, 2), out=table.reshape(pq.M, pq.ksub, pq.ksub))
