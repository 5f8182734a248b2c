"""Vectors in an HDF5 file of ann-benchmarks or VIBE: train is the database, test the queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faiss_pqvae.data.tables import HDF5_SUFFIXES, HDF5Vectors

from ..brute_force import Metric
from ..vectors import VectorParts

# The distance that the file names, our metric, and whether vectors get unit length.
_DISTANCES: dict[str, tuple[Metric, bool]] = {
    "euclidean": ("l2", False),
    "angular": ("l2", True),
    "cosine": ("l2", True),
    "normalized": ("l2", False),  # of unit length as they are: every metric ranks alike
    "ip": ("inner_product", False),
    "dot": ("inner_product", False),
}


def is_hdf5(path: Path) -> bool:
    """Whether a path is meant as an HDF5 file, by its suffix."""
    return path.suffix.lower() in HDF5_SUFFIXES


def open_hdf5(path: Path) -> VectorParts:
    """Opens a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is corrupt, has no train or test, or names a distance that is none of ours.
        ImportError: h5py is not installed.
    """
    database = HDF5Vectors(path, "train")
    distance = database.attributes.get("distance")
    distance = distance.decode() if isinstance(distance, bytes) else distance
    if distance not in _DISTANCES:
        raise ValueError(
            f"expected the attribute distance of {path} as one of {sorted(_DISTANCES)}, got "
            f"{distance!r}"
        )
    metric, unit = _DISTANCES[distance]
    shipped = None
    if "neighbors" in database.names:
        shipped = HDF5Vectors(path, "neighbors").read(slice(None)).astype(np.int64)
    return VectorParts(
        name=path.stem,
        description=f"{path.stem} ({distance})",
        database=database,
        queries=HDF5Vectors(path, "test"),
        shipped=shipped,
        metric=metric,
        unit=unit,
    )
