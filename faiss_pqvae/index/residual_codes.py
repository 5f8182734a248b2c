"""Additive codes of residuals: chosen by the model, behind coarse centroids of the native index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import repeated
from faiss_pqvae.native.kinds.lists import in_lists, nearest_lists
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import CodeArray, FloatArray


@dataclass(frozen=True)
class ResidualCodes:
    """How items get additive codes of what the nearest coarse centroid leaves over of them.

    An inverted file would take the codewords nearest to what is left of each part of a latent.

    Attributes:
        store: of an inverted file with `by_residual`.
        model: with additive codes of residuals.
        effort: of the choice of codes.
    """

    store: Store
    model: PQVAE
    effort: int

    @torch.inference_mode()
    def sa_encode(self, z: FloatArray) -> CodeArray:
        """Codes (n, sa_code_size()) uint8 of latents (n, latent_dim) float32."""
        bare: Any = self.store.bare
        numbers, centroids = nearest_lists(bare, z)
        left = self.model.summed(torch.from_numpy(z - centroids).to(self.model.device))
        assert self.model.code_decoder is not None
        ids = self.model.code_decoder.choose(left, self.effort)
        return in_lists(bare, numbers, ids.cpu().numpy())

    @torch.inference_mode()
    def symmetric(self, z: FloatArray) -> FloatArray:
        """Latents of queries (n, latent_dim) float32 as those of what their own codes stand for."""
        decoded = torch.from_numpy(self.store.sa_decode(self.sa_encode(z)))
        latents: FloatArray = repeated(self.model.summed(decoded), self.model.M).numpy()
        return latents


def residual_codes(store: Store, model: PQVAE, effort: int) -> ResidualCodes | None:
    """What chooses the codes of an index's items in the place of the native index, if anything."""
    if model.spec.is_additive and model.spec.by_residual:
        return ResidualCodes(store, model, effort)
    return None
