"""Centroids and codebooks for Lance, the format that LanceDB's tables are stored in."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import check_metric, extract_codebooks
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.walk import kind, levels


def lance_parts(index: Any) -> dict[str, Any]:
    """The arguments with which Lance makes an index of the same centroids and codebooks.

    `dataset.create_index("vector", "IVF_PQ", **lance_parts(index))`, a method of pylance, encodes
    the vectors of a column itself. They are what the native index codes: of a LatentIndex
    `index.encode(x)`, which is searched by `index.encode_queries(q)`. Lance then finds what tables
    find here with the same nprobe, at squared distances by "l2", at 1 less the inner product by
    "dot". What refines a search stays here.

    Args:
        index: a trained LatentIndex or faiss.Index, with vectors in it or without: inverted lists
            of product codes (IndexIVFPQ, IndexIVFPQFastScan), which an IDMap may be around, of 8
            bits, or of 4 with an even M; as Lance has them, codes of residuals by L2, and of the
            vectors themselves by inner products.

    Returns:
        By name `metric` ("l2" or "dot"), `num_partitions` (nlist), `ivf_centroids` (nlist, d)
        float32, `num_sub_vectors` (M), `num_bits` (nbits) and `pq_codebook` (M, ksub, dsub)
        float32.

    Raises:
        TypeError: no index that holds codebooks.
        ValueError: an untrained index; one that Lance cannot hold, with the reason.
    """
    ivf = _without_id_map(index)
    codebooks = extract_codebooks(ivf)
    _check_codes(ivf, codebooks)
    _check_distances(ivf)
    return {
        "metric": "l2" if ivf.metric_type == faiss.METRIC_L2 else "dot",
        "num_partitions": int(ivf.nlist),
        "ivf_centroids": coarse_centroids(ivf),
        "num_sub_vectors": codebooks.M,
        "num_bits": codebooks.nbits,
        "pq_codebook": codebooks.centroids,
    }


def _without_id_map(index: Any) -> Any:
    """The native index that holds the codes."""
    if isinstance(index, LatentIndex):
        if index.model.spec.is_additive:
            raise ValueError(_expected_product("additive"))
        index = index.faiss_index
    *around, inner = levels(index)
    for wrapper in around:
        if not kind(wrapper).startswith("IndexIDMap"):
            raise ValueError(
                f"expected an inverted file, alone or in an IDMap, got one in {kind(wrapper)}, "
                "which Lance lacks: hand in faiss.extract_index_ivf(index), and give Lance the "
                "vectors that come there"
            )
    return inner


def _expected_product(got: str) -> str:
    return (
        f"expected product codes, got {got} ones, whose codewords are added, which Lance cannot: "
        "'IVF64,PQVAE8' with objective='ranking' learns product codes of vectors"
    )


def _check_codes(ivf: Any, codebooks: Codebooks) -> None:
    if codebooks.structure != "product":
        raise ValueError(_expected_product(codebooks.structure))
    if not kind_of(ivf).has_lists:
        raise ValueError(
            f"expected inverted lists, of which Lance's indexes are made, got {kind(ivf)}: write "
            "'IVF64,' in front of the code"
        )
    if not ivf.is_trained:  # it may have its codebooks before its centroids
        raise ValueError("the index is not trained yet: call train(x) first")
    M, nbits = codebooks.M, codebooks.nbits
    if nbits != 8 and (nbits != 4 or M % 2):
        raise ValueError(
            "expected codewords of 8 bits, or of 4 with an even M, which Lance takes, got M="
            f"{M} and {nbits} bits: 'IVF64,PQVAE{M}' has 8"
        )


def _check_distances(ivf: Any) -> None:
    check_metric(ivf.metric_type)
    if ivf.quantizer.metric_type != ivf.metric_type:
        raise ValueError(
            "expected a coarse quantizer of the metric of the codes, as Lance has but one, got "
            f"metric_type {ivf.quantizer.metric_type} and {ivf.metric_type}"
        )
    by_l2 = ivf.metric_type == faiss.METRIC_L2
    if by_l2 and not ivf.by_residual:
        raise ValueError(
            "expected codes of residuals, as Lance has them by L2, got codes of the vectors "
            "themselves: objective='ranking' learns those of residuals, and metric_type='ip' "
            "what Lance takes by inner products (in FAISS set by_residual=True, and train)"
        )
    if not by_l2 and ivf.by_residual:
        raise ValueError(
            "expected codes of the vectors themselves, as Lance has them by inner products, got "
            "codes of residuals: train by L2, with 'L2norm,' in front for the order of cosines "
            "(in FAISS set by_residual=False, and train)"
        )
