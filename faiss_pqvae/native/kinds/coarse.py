"""What a coarse quantizer in a bundle may be, in FAISS's four characters."""

from __future__ import annotations

FLAT = frozenset({"IxFI", "IxF2", "IxFl"})
VECTORS = FLAT | {"IxSQ", "IxPq"}
COARSE = VECTORS | {"IHNf", "IHNs"}
