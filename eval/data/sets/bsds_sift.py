"""SIFT of BSDS500's photographs: test is base, train is learn, validation is query."""

from __future__ import annotations

from dataclasses import replace

from faiss_pqvae.registry import datasets

from ..protocol import DATA_VARIABLE, data_folder
from ..vectors import VectorParts
from .texmex import is_texmex, open_texmex


@datasets.register("bsds-sift")
def bsds_sift() -> VectorParts:
    """300,000 vectors of 128 dimensions, 200,000 to learn from.

    Raises:
        FileNotFoundError: it is not there; the message says which file goes where.
    """
    folder = data_folder() / "bsds-sift"
    if not is_texmex(folder / "bsds_sift"):
        raise FileNotFoundError(
            "bsds-sift is not there: put bsds_sift_{base,learn,query}.bvecs and "
            f"bsds_sift_groundtruth.ivecs into {folder}, the subfolder bsds-sift of {DATA_VARIABLE}"
        )
    parts = open_texmex(folder / "bsds_sift")
    return replace(parts, name="bsds-sift", description="BSDS-SIFT (SIFT of BSDS500 photographs)")
