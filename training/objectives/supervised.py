"""What codes with labels minimise: DQN's pairs, DPQ's classes and quantization of all prefixes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.sampler import share_class

_SCALE = 5.0  # of inner products, before the softmax over classes; ours


class Classes(nn.Module):
    """Where the classes are: learned prototypes, or word vectors that latents are mapped to.

    Args:
        d: dimension of the latents.
        n_classes: how many classes there are.
        word_vectors: (n_classes, e) float32 of length 1. None learns a prototype for every class.
        generator: of the prototypes, on the CPU.
    """

    vectors: Tensor

    def __init__(
        self,
        d: int,
        n_classes: int,
        *,
        word_vectors: npt.NDArray[np.float32] | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.map: nn.Module = nn.Identity()
        if word_vectors is None:
            self.vectors = nn.Parameter(torch.randn(n_classes, d, generator=generator) * d**-0.5)
            return
        e = word_vectors.shape[1]
        self.register_buffer("vectors", torch.from_numpy(word_vectors))
        self.map = nn.Linear(d, e, bias=False)
        nn.init.trunc_normal_(self.map.weight, std=d**-0.5, generator=generator)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of latents (n, d) of classes y (n, C) of zeros and ones, one or more a row."""
        return class_loss(self.map(z), y, functional.normalize(self.vectors))


def class_loss(z: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    """Adaptive margin and cross-entropy (Gao et al., IJCAI 2019), scalar.

    Margin: max(0, 1 - <v_i, v_j> - <z, v_i> + <z, v_j>), mean over the classes i of an item, the
    classes j that are not its own, and the items: classes that mean different things are kept
    further apart. Cross-entropy: of a softmax over a multiple of the inner products; its weight is
    1, not the paper's 0.1: scores that tell how likely a class is rank better.

    Args:
        z: (n, d) float.
        y: (n, C) float of zeros and ones, one or more ones a row.
        vectors: (C, d) float, of length 1, one a class.
    """
    products = z @ vectors.T  # (n, C)
    shares = y / y.sum(1, keepdim=True)
    entropy = -(shares * (_SCALE * products).log_softmax(1)).sum(1).mean()
    rows, own = y.nonzero(as_tuple=True)
    margins = 1 - (vectors[own] @ vectors.T).detach()  # (p, C), for C x C may be too many
    hinge = (margins - products[rows, own].unsqueeze(1) + products[rows]).relu()
    others = 1 - y[rows]
    of_pairs = (hinge * others).sum(1) / others.sum(1).clamp(min=1)
    margin = (of_pairs * shares[rows, own]).sum() / len(z)
    return margin + entropy


def pair_loss(z: Tensor, y: Tensor) -> Tensor:
    """(s_ij - cos(z_i, z_j))^2, s_ij = 1 for a class in common and -1 without, mean over all pairs.

    Cao et al., AAAI 2016.

    Args:
        z: (n, d) float, of length 1, n >= 2.
        y: (n, C) float of zeros and ones, one or more ones a row.
    """
    errors = (2.0 * share_class(y, y) - 1 - z @ z.T).square()
    n = len(z)
    return (errors.sum() - errors.diagonal().sum()) / (n * (n - 1))


def prefix_losses(z: Tensor, soft: Tensor, hard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DPQ's quantization errors, scalars: soft, hard and between the two.

    ||z - soft||^2, ||z - hard||^2 and ||soft - hard||^2, means over the prefixes and the items.

    Args:
        z: (n, d) float.
        soft: (M, n, d) float, see `faiss_pqvae.model.residual.Prefixes`.
        hard: (M, n, d) float likewise.
    """

    def error(difference: Tensor) -> Tensor:
        return difference.square().sum(-1).mean()

    return error(z - soft), error(z - hard), error(soft - hard)


@torch.no_grad()
def mean_average_precision(scores: Tensor, relevant: Tensor) -> float | None:
    """Mean of AP = sum_i P(i) rel(i) / R over all ranks i, of the queries that have R > 0.

    Args:
        scores: (nq, n) float, the higher the better.
        relevant: (nq, n) bool.

    Returns:
        The mean; None where no query has R > 0.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    found = relevant.gather(1, order).double()
    ranks = torch.arange(1, found.shape[1] + 1, device=found.device)
    total = found.sum(1)
    precision = (found.cumsum(1) / ranks * found).sum(1) / total.clamp(min=1)
    return float(precision[total > 0].mean()) if total.any() else None
