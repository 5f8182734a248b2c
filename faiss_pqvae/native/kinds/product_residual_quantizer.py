"""IndexProductResidualQuantizer: takes codebooks; `Store` does not take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from faiss_pqvae.native.kinds.additive import (
    ABORTS_IN_PRODUCTS,
    Additive,
    Block,
    limit_beam,
    split,
)
from faiss_pqvae.native.kinds.kind import Kind, listed


def _blocks(index: Any) -> Iterable[Block]:
    return split(index.prq)


KIND = listed(
    Kind(
        name="IndexProductResidualQuantizer",
        quantizer=Additive(_blocks, limit_beam, aborts=ABORTS_IN_PRODUCTS),
        stores=False,
        empty=None,
    )
)
