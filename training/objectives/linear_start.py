"""Where a training of vectors starts: linear codes that exist already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from faiss_pqvae.model import team
from faiss_pqvae.model.clustering import accumulate, assign, look_up, split
from faiss_pqvae.model.networks.linear import Linear
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

from ..kept import Kept

_ROWS = 512  # their distances to all codewords stay in the cache


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

    def state(self) -> dict[str, Tensor]:
        """Matrix and codewords, to be kept."""
        return {
            "matrix": torch.from_numpy(self.matrix),
            "codewords": torch.from_numpy(self.codewords),
        }


# From vectors (n, d) float32 to starts to choose from: what `fit` is handed for vectors. What took
# long it keeps, and takes when it is called again.
Starts = Callable[[FloatArray, Kept], Iterable[Start]]


class Coarse(Protocol):
    """Coarse centroids of the items, of which the nearest is taken off each before it is coded."""

    @property
    def settings(self) -> str:
        """All that the centroids depend on but the items."""

    def __call__(self) -> FloatArray:
        """The centroids (nlist, d) float32, learned by the first call, the same by every other."""


@torch.no_grad()
def settle(
    start: Start, items: Tensor, rounds: int, *, kept: Kept | None = None, progress: bool = True
) -> Start:
    """Alternating least squares over all items: assignment, codewords, matrix.

    FAISS learns from a sample; the error of the tied reconstruction, ||x - matrix.T @ z_q||^2,
    falls in every step of every round.

    Args:
        start: where it begins.
        items: (n, d) float32.
        rounds: of the three steps; the last one has no new matrix.
        kept: gets every round's result, and has those of a settling that was interrupted.
        progress: draw a bar, where standard error is a terminal.
    """
    device, kept = items.device, kept or Kept()
    items = items[team.share(len(items))]
    state = kept.take("settling") or {"rounds": 0, **start.state()}
    matrix, codewords = state["matrix"].to(device), state["codewords"].to(device)
    done = state["rounds"]
    with Progress("settling", rounds, unit="rounds", shown=progress, initial=done) as bar:
        for number in range(done, rounds):
            ids, codewords = _means(items, matrix, codewords)
            if number < rounds - 1:
                matrix = _procrustes(items, ids, matrix, codewords)
            kept.put("settling", {"rounds": number + 1, "matrix": matrix, "codewords": codewords})
            bar.update()
    arrays = (tensor.cpu().contiguous().numpy() for tensor in (matrix, codewords))
    return Start(f"{start.name}, all items", *arrays)


def _means(items: Tensor, matrix: Tensor, codewords: Tensor) -> tuple[list[Tensor], Tensor]:
    """The codewords nearest to the items, and the codewords moved to the means of theirs."""
    M, ksub, _ = codewords.shape
    parts = [split(part @ matrix.T, M) for part in torch.split(items, _ROWS)]
    ids = [assign(part, codewords) for part in parts]
    totals = [accumulate(part, chosen, ksub) for part, chosen in zip(parts, ids, strict=True)]
    counts, sums = (team.total(torch.stack(values).sum(0)) for values in zip(*totals, strict=True))
    means = sums / counts.clamp(min=1).unsqueeze(-1)
    return ids, torch.where((counts > 0).unsqueeze(-1), means, codewords)


def _procrustes(items: Tensor, ids: Sequence[Tensor], matrix: Tensor, codewords: Tensor) -> Tensor:
    """The matrix of the least error for codes that are given."""
    crossed = torch.zeros_like(matrix)
    for part, chosen in zip(torch.split(items, _ROWS), ids, strict=True):
        crossed += look_up(codewords, chosen).transpose(0, 1).flatten(1).T @ part
    u, _, v = torch.linalg.svd(team.total(crossed), full_matrices=False)
    turned: Tensor = u @ v
    return turned


def linear_layers(model: PQVAE) -> tuple[nn.Linear, nn.Linear]:
    """The layers of a linear encoder and a linear decoder.

    Raises:
        ValueError: other networks, or items that are no vectors.
    """
    encoder, decoder = model.encoder, model.decoder
    if len(model.input_shape) == 1 and isinstance(encoder, Linear) and isinstance(decoder, Linear):
        return encoder.map, decoder.map
    raise ValueError(
        "expected vectors and a linear encoder and decoder to start at a linear code, got items of "
        f"shape {model.input_shape}, {model.config.encoder!r} and {model.config.decoder!r}"
    )


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
    encoder, decoder = linear_layers(model)
    matrix, codewords = torch.from_numpy(start.matrix), torch.from_numpy(start.codewords)
    sizes = tuple(matrix.shape), tuple(codewords.shape)
    expected = tuple(encoder.weight.shape), tuple(model.quantizer.codewords.shape)
    if sizes != expected:
        raise ValueError(f"expected a start of the sizes {expected}, got {sizes}")
    model.mean.zero_()
    model.scale.fill_(1)
    encoder.weight.copy_(matrix)
    decoder.weight.copy_(matrix.T)
    for layer in (encoder, decoder):
        layer.bias.zero_()
    norm = model.latent_norm
    if isinstance(norm, torch.nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    model.quantizer.codewords.copy_(codewords)
