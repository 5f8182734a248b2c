"""Where a training of vectors starts: linear codes that exist already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.model import PQVAE
from faiss_pqvae.networks import Linear

FloatArray = npt.NDArray[np.float32]


class Start(NamedTuple):
    """A product code of rotated vectors, such as OPQ.

    Attributes:
        name: as the log calls it.
        matrix: (latent_dim, d) float32, orthonormal rows or columns: latents are `matrix @ x`.
        codewords: (M, ksub, dsub) float32, in the space of the latents.
    """

    name: str
    matrix: FloatArray
    codewords: FloatArray


# From vectors (n, d) float32 to starts to choose from: what `fit` is handed for vectors.
Starts = Callable[[FloatArray], Sequence[Start]]


@torch.no_grad()
def begin_at(model: PQVAE, start: Start) -> None:
    """Makes the model that start exactly: its matrix, its codewords, the transpose as decoder.

    Nothing else remains between an item and its latent (no mean, no scale, no norm), so that
    distances between latents are those between items.

    Args:
        model: with a linear encoder and a linear decoder over vectors.
        start: of the model's sizes.

    Raises:
        ValueError: other networks, or a start of other sizes.
    """
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, Linear) or not isinstance(decoder, Linear):
        raise ValueError(
            "expected a linear encoder and decoder to start at a linear code, got "
            f"{model.config.encoder!r} and {model.config.decoder!r}"
        )
    matrix, codewords = torch.from_numpy(start.matrix), torch.from_numpy(start.codewords)
    sizes = tuple(matrix.shape), tuple(codewords.shape)
    expected = tuple(encoder.map.weight.shape), tuple(model.quantizer.codewords.shape)
    if sizes != expected:
        raise ValueError(f"expected a start of the sizes {expected}, got {sizes}")
    model.mean.zero_()
    model.scale.fill_(1)
    encoder.map.weight.copy_(matrix)
    decoder.map.weight.copy_(matrix.T)
    for layer in (encoder.map, decoder.map):
        layer.bias.zero_()
    norm = model.latent_norm
    if isinstance(norm, torch.nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    model.quantizer.codewords.copy_(codewords)
