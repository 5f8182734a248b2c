"""What a code is, whatever it was learned by: all that storing and searching asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional

from faiss_pqvae.codebooks import Structure

Metric = Literal["l2", "inner_product"]
Latents = Literal["free", "unit", "unit parts", "short", "repeated", "repeated unit"]


@dataclass(frozen=True)
class CodeSpec:
    """What a code is.

    Attributes:
        name: what the grammar calls it.
        structure: how codewords make a latent: "product", each a part of it, or "residual", their
            sum, every prefix of which is a code.
        latents: their form: "free", as the network gives them; "unit", of length 1, so that inner
            products are cosines; "unit parts", every sub-vector of length 1 / sqrt(M); "short", of
            lengths below 1, see `formed`; "repeated", a query M times, whose parts are compared
            with codewords that stand for sums, see `faiss_pqvae.model.additive`; "repeated unit",
            likewise of length 1.
        metric: what they are made to be compared by.
        by_residual: whether a latent's code is one of what the nearest coarse centroid leaves over
            of it, as FAISS's inverted files code; found out by training.

    Raises:
        ValueError: another value; residual codes by L2, which FAISS's scan has no norms for.
    """

    name: str = "PQVAE"
    structure: Structure = "product"
    latents: Latents = "free"
    metric: Metric = "l2"
    by_residual: bool = False

    def __post_init__(self) -> None:
        for field, known in (("structure", Structure), ("latents", Latents), ("metric", Metric)):
            if getattr(self, field) not in get_args(known):
                names = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"expected {field} of {names}, got {getattr(self, field)!r}")
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"expected a code's name as text, got {self.name!r}")
        if not isinstance(self.by_residual, bool):
            raise ValueError(f"expected by_residual True or False, got {self.by_residual!r}")
        if self.structure == "residual" and self.metric != "inner_product":
            raise ValueError(f"expected inner products for residual codes, got {self.metric!r}")
        if self.is_additive and self.structure != "product":
            raise ValueError(f"expected product codes for {self.latents!r} latents")

    @property
    def is_additive(self) -> bool:
        """Whether codewords of all dimensions are added, and a decoder chooses an item's code."""
        return self.latents in ("repeated", "repeated unit")

    @property
    def is_unit(self) -> bool:
        """Whether items are brought to length 1, so that inner products are cosines."""
        return self.latents in ("unit", "repeated unit")


def formed(z: Tensor, latents: Latents, M: int) -> Tensor:
    """Latents (n, d) float in the form that a code's are in.

    Short ones are h / sqrt(d + ||h||^2) of what the network says: an item that might be of several
    classes can stay short, and inner products put it behind those that are sure. (DPQ's paper
    leaves the length open; at length 1 nothing tells the two apart.)
    """
    if latents == "unit parts":
        parts = functional.normalize(z.view(len(z), M, -1), dim=-1)
        return parts.flatten(1) / math.sqrt(M)
    if latents == "short":
        return z / (z.shape[1] + z.square().sum(1, keepdim=True)).sqrt()
    if latents in ("repeated", "repeated unit"):
        return repeated(functional.normalize(z) if latents == "repeated unit" else z, M)
    return functional.normalize(z) if latents == "unit" else z


def repeated(x: Tensor, M: int) -> Tensor:
    """Queries (n, d) M times, as `additive.Lifted` codewords want them: (n, M * (d + 1))."""
    return functional.pad(x / math.sqrt(M), (0, 1)).repeat(1, M)
