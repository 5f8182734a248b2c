"""What is fitted to the latents of many items at once: codewords, and a linear decoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from faiss_pqvae.model import team
from faiss_pqvae.model.networks.linear import Linear
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.progress import Progress

from .config import TrainingConfig
from .data.items import Items, parts

_KMEANS_ITEMS = 16_384
_DECODER_ITEMS = 16_384
_RIDGE = 1e-6  # of the mean variance: codes may leave some dimensions unused


@torch.no_grad()
def initialize_codewords(
    model: PQVAE, items: Items, *, batch_size: int, progress: bool = True
) -> None:
    """Takes codewords from a k-means of latents.

    Args:
        model: whose codewords change.
        items: of the training.
        batch_size: of its steps.
        progress: draw bars, where standard error is a terminal.
    """
    # In training mode: early on, the running statistics of batch normalisation lag behind.
    model.train()
    z = _latents(model, items, progress)
    with _waiting("k-means of codewords", progress):
        model.quantizer.initialize(z, batch_size=batch_size, generator=items.generator("kmeans"))


@torch.no_grad()
def refine_codewords(
    model: PQVAE, items: Items, *, iterations: int = 5, progress: bool = True
) -> None:
    """Moves codewords by k-means, from where they are; the model is in evaluation mode."""
    z = _latents(model, items, progress)
    with _waiting("refining codewords", progress):
        model.quantizer.refine(z, iterations=iterations)


def _waiting(what: str, progress: bool) -> Progress:
    return Progress(what, shown=progress, inner=True)


def _latents(model: PQVAE, items: Items, progress: bool) -> Tensor:
    """Of items drawn at random, the same every time; (n, latent_dim)."""
    wanted = max(_KMEANS_ITEMS, 8 * model.quantizer.ksub)
    generator = items.generator("kmeans items")
    order = torch.randperm(len(items.train_rows), generator=generator)[:wanted]
    # Every part is a random one: data often come sorted by class.
    drawn, z = parts(items.train_rows[order.numpy()]), []
    with Progress("encoding", len(order), unit="items", shown=progress, inner=True) as bar:
        for part in drawn:
            rows = np.sort(part)
            own = model.encode(items.read(rows[team.share(len(rows))]))
            z.append(team.gathered(own, len(rows)))
            bar.update(len(part))
    return torch.cat(z)


@torch.no_grad()
def fit_decoder(model: PQVAE, items: Items, *, progress: bool = True) -> None:
    """Makes a decoder that was not trained the linear one that reconstructs codes best."""
    decoder = model.decoder
    assert isinstance(decoder, Linear)  # the model sees to it
    x, y, rows = [], [], items.spread(_DECODER_ITEMS)
    with Progress("decoder", len(rows), unit="items", shown=progress, inner=True) as bar:
        for part in parts(rows):
            clean = items.read(part)
            x.append(model.quantize(clean).z_q)
            y.append(model.normalize(clean).flatten(1))
            bar.update(len(part))
    fit_linear(decoder.map, torch.cat(x), torch.cat(y))


@torch.no_grad()
def fit_linear(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Sets weight and bias to those with the least squared error, by the normal equations.

    Args:
        layer: from d_in to d_out dimensions.
        x: (n, d_in) float.
        y: (n, d_out) float, what the layer should make of x.
    """
    centred = x.double()
    mean_in, mean_out = centred.mean(0), y.mean(0, dtype=torch.float64)
    centred = centred - mean_in
    gram = centred.T @ centred
    gram += _RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    weight = torch.linalg.solve(gram, centred.T @ (y.double() - mean_out))  # (d_in, d_out)
    layer.weight.copy_(weight.T)
    layer.bias.copy_(mean_out - mean_in @ weight)


def move_dead(
    model: PQVAE,
    config: TrainingConfig,
    latents: Tensor,
    ids: Tensor | None,
    step: int,
    generator: torch.Generator,
) -> None:
    """Brings codewords to their length, and now and then those into use that are not used any more.

    Args:
        model: being trained.
        config: how often, and what counts as not used.
        latents: (n, latent_dim) float of the step.
        ids: (n, M) int64 codewords that it chose; None where it bypassed them.
        step: its number.
        generator: source of randomness.
    """
    model.quantizer.project()
    if ids is not None and (step + 1) % config.revive_every == 0:
        model.quantizer.revive(latents, threshold=config.revive_below, generator=generator)
