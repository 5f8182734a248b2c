"""A warning where items are too few for the codewords that they shall be described by."""

from __future__ import annotations

import logging

from faiss_pqvae.data.few import warn_of_few

from .items import Items, parts

_LOOKED_AT = 4  # items a codeword, to see whether they differ

_log = logging.getLogger(__name__)


def warn_of_little(items: Items, ksub: int) -> None:
    """Warns where codebooks of ksub codewords have little to learn from.

    That is fewer than 39 items a codeword, as FAISS asks for, or items that are much the same.

    Args:
        items: of the training.
        ksub: codewords of a codebook.
    """
    n = len(items.train_rows)
    warn_of_few(n, ksub, "training items", "codewords in a codebook")
    rows = items.spread(_LOOKED_AT * ksub)
    seen = {row.numpy().tobytes() for part in parts(rows) for row in items.read(part).cpu()}
    if len(seen) < min(ksub, n):
        _log.warning(
            "training items are much the same: %s looked at, %s different, for %s codewords in a "
            "codebook; some codewords will stay unused",
            *(f"{value:,}" for value in (len(rows), len(seen), ksub)),
        )
