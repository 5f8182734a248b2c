"""The command to go on with."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex


def print_next(index: LatentIndex, command: str) -> None:
    """The command to go on with, and the networks that a bundle of the index asks for."""
    from faiss_pqvae.index.handed_in import backbone_of, record_of_decoder
    from faiss_pqvae.model.networks import is_pretrained
    from faiss_pqvae.registry import encoders

    backbone, networks = backbone_of(index), {}
    if backbone is not None and not is_pretrained(encoders, backbone.reference):
        networks["encoder"] = backbone.reference
    if (decoder := record_of_decoder(index.model)) is not None:
        networks["decoder"] = decoder["reference"]
    given = [f" --{name} {shlex.quote(reference)}" for name, reference in networks.items()]
    print(f"next: faiss-pqvae {command}{''.join(given)}")
