"""The whole index as a pure FAISS index, where FAISS can express the encoder."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.index.refine import Decoder, StoredVectors
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.networks.linear import Linear
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import repeated
from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import in_id_map, unwrapped
from faiss_pqvae.native.inject import prepare_search


def export(
    model: PQVAE,
    index: Any,
    transforms: Transforms | None,
    refiner: StoredVectors | Decoder | None,
    k_factor: float,
) -> Any:
    """See `LatentIndex.to_faiss`; the parts are copied."""
    encoder = encoder_transforms(model)
    if encoder is None:
        return _owned(index)
    whole = faiss.IndexPreTransform(unwrapped(index))
    before = [] if transforms is None else transforms.chain
    for transform in reversed([*before, *query_transforms(model), *encoder]):
        whole.prepend_transform(transform)
    if isinstance(refiner, Decoder):
        warnings.warn(
            "FAISS cannot run the decoder that refines this index: what is exported finds what "
            "look-up tables find",
            stacklevel=3,
        )
    elif refiner is not None:
        whole = faiss.IndexRefine(whole, _by_place(refiner))
        whole.k_factor = k_factor
    if in_id_map(index):
        whole = _with_ids(whole, index)
    return _owned(whole)


def _owned(index: Any) -> Any:
    """A copy that owns all its parts (faiss.clone_index does not know every transform)."""
    index = copy.deepcopy(index)
    prepare_search(index)
    return index


def encoder_transforms(model: PQVAE) -> list[Any] | None:
    """Normalisation, encoder and the norm of the latents as native transforms.

    Returns:
        A faiss.LinearTransform over flattened items (images: floats in [0, 1]), with a
        NormalizationTransform behind it for latents of unit length (before it for repeated ones);
        None for an encoder that is not linear, images that are standardised one by one, and latents
        of other lengths: those of unit parts and short ones.
    """
    latents = model.spec.latents
    if model.spec.is_additive:
        A = repeated(torch.eye(*2 * model.input_shape, dtype=torch.float64), model.M).T
        unit = [faiss.NormalizationTransform(len(A[0]), 2.0)] if model.spec.is_unit else []
        return [*unit, _linear(A, A.new_zeros(len(A)))]
    other_lengths = latents not in ("free", "unit")
    if not isinstance(model.encoder, Linear) or model.standardizes or other_lengths:
        return None
    layer = model.encoder.map
    # In float64: the offset is a difference of large numbers where the mean is far from zero.
    with torch.no_grad():
        A = layer.weight.double().cpu() / model.scale.double().cpu()
        mean = model.mean.double().cpu().expand(model.input_shape).flatten()
        b = layer.bias.double().cpu() - A @ mean
        if isinstance(model.latent_norm, torch.nn.BatchNorm1d):
            norm = model.latent_norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            deviation = (norm.running_var.double().cpu() + norm.eps).sqrt()
            A, b = A / deviation[:, None], (b - norm.running_mean.double().cpu()) / deviation
    linear = _linear(A, b)
    if latents == "unit":
        return [linear, faiss.NormalizationTransform(model.latent_dim, 2.0)]
    return [linear]


def query_transforms(model: PQVAE) -> list[Any]:
    """The map of queries as native transforms, where the model has one; see `map_queries`."""
    layer = model.query_map
    if layer is None:
        return []
    with torch.no_grad():
        A, mean = layer.weight.double().cpu(), model.mean.double().cpu()
        linear = _linear(A, layer.bias.double().cpu() + mean - A @ mean)
    if model.spec.is_unit:
        return [faiss.NormalizationTransform(len(mean), 2.0), linear]
    return [linear]


def _linear(A: Tensor, b: Tensor) -> Any:
    """A x + b as a faiss.LinearTransform."""
    linear = faiss.LinearTransform(A.shape[1], A.shape[0], True)
    faiss.copy_array_to_vector(A.float().numpy().ravel(), linear.A)
    faiss.copy_array_to_vector(b.float().numpy(), linear.b)
    linear.is_trained = True
    linear.set_is_orthonormal()
    return linear


def _with_ids(index: Any, like: Any) -> Any:
    """The index with the ids of another one's IDMap; copies of it can look ids up."""
    n, index.ntotal = index.ntotal, 0  # an IDMap is made around empty ones only
    id_map = type(like)(index)
    index.ntotal = id_map.ntotal = n
    faiss.copy_array_to_vector(faiss.vector_to_array(like.id_map), id_map.id_map)
    return id_map


def _by_place(refiner: StoredVectors) -> Any:
    """The index that refines, as faiss.IndexRefine wants it: vector i at place i."""
    if refiner.unit:
        raise ValueError(
            "faiss.IndexRefine does not bring queries to length 1: set index.refiner = None, and "
            "export it without"
        )
    index = refiner.index
    if not in_id_map(index):
        return index
    ids = faiss.vector_to_array(index.id_map)
    if not np.array_equal(ids, np.arange(len(ids))):
        raise ValueError(
            "faiss.IndexRefine needs the ids 0, 1, 2, ... in an inverted file, and this index has "
            "others: set index.refiner = None, and export it without"
        )
    return unwrapped(index)
