"""The search for lambda."""

from faiss_pqvae.training.curve import PermissibleRange, Point, permissible_range

__all__ = ["PermissibleRange", "Point", "permissible_range"]
