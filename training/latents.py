"""What is fitted to the latents of many items at once: codewords, and a linear decoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.model.networks import Linear
from faiss_pqvae.model.pqvae import PQVAE

from .data.items import Items, parts
from .least_squares import fit_linear

_KMEANS_ITEMS = 16_384
_DECODER_ITEMS = 16_384


@torch.no_grad()
def initialize_codewords(model: PQVAE, items: Items, *, batch_size: int) -> None:
    """Takes codewords from a k-means of latents.

    Args:
        model: whose codewords change.
        items: of the training.
        batch_size: of its steps.
    """
    # In training mode: early on, the running statistics of batch normalisation lag behind.
    model.train()
    model.quantizer.initialize(
        _latents(model, items), batch_size=batch_size, generator=items.generator("kmeans")
    )


@torch.no_grad()
def refine_codewords(model: PQVAE, items: Items, *, iterations: int = 5) -> None:
    """Moves codewords by k-means, from where they are; the model is in evaluation mode."""
    model.quantizer.refine(_latents(model, items), iterations=iterations)


def _latents(model: PQVAE, items: Items) -> Tensor:
    """Of items drawn at random, the same every time; (n, latent_dim)."""
    wanted = max(_KMEANS_ITEMS, 8 * model.quantizer.ksub)
    generator = items.generator("kmeans items")
    order = torch.randperm(len(items.train_rows), generator=generator)[:wanted]
    # Every part is a random one: data often come sorted by class.
    drawn = parts(items.train_rows[order.numpy()])
    return torch.cat([model.encode(items.read(np.sort(part))) for part in drawn])


@torch.no_grad()
def fit_decoder(model: PQVAE, items: Items) -> None:
    """Makes a decoder that was not trained the linear one that reconstructs codes best."""
    decoder = model.decoder
    assert isinstance(decoder, Linear)  # the model sees to it
    x, y = [], []
    for part in parts(items.spread(_DECODER_ITEMS)):
        clean = items.read(part)
        x.append(model.quantize(clean).z_q)
        y.append(model.normalize(clean).flatten(1))
    fit_linear(decoder.map, torch.cat(x), torch.cat(y))
