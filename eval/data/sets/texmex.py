"""Vectors in the layout of TEXMEX: NAME_base, NAME_query, NAME_learn and NAME_groundtruth."""

from __future__ import annotations

from pathlib import Path

from faiss_pqvae.data.flat import FLAT_SUFFIXES
from faiss_pqvae.data.open import open_source

from ..known_neighbors import read_neighbors
from ..vectors import VectorParts

ID_SUFFIXES = (".ivecs", ".ibin", ".bin")


def is_texmex(path: Path) -> bool:
    """Whether a folder, or a path that file names start with, has a base file."""
    return bool(_files(path, "base"))


def open_texmex(path: Path) -> VectorParts:
    """Opens the files of a set: vectors in fvecs, bvecs, fbin, u8bin or i8bin, ids in ivecs.

    Args:
        path: a folder, or a path that file names start with.

    Raises:
        FileNotFoundError: base or query is missing, or there are several of one kind.
        ValueError: a file is corrupt.
    """
    files = {role: _files(path, role) for role in ("base", "query", "learn", "groundtruth")}
    for role, found in files.items():
        if len(found) > 1 or (role in ("base", "query") and not found):
            raise FileNotFoundError(
                f"expected one {role} file at {path}, got {[file.name for file in found]}"
            )
    learn, truth = files["learn"], files["groundtruth"]
    name = files["base"][0].stem.removesuffix("base").rstrip("_") or path.name
    return VectorParts(
        name=name,
        description=name,
        database=open_source(files["base"][0]),
        queries=open_source(files["query"][0]),
        train=open_source(learn[0]) if learn else None,
        shipped=read_neighbors(truth[0]) if truth else None,
    )


def _files(path: Path, role: str) -> list[Path]:
    """NAME_role in a folder, or behind a prefix; ids for the truth, vectors for the others."""
    suffixes = {*ID_SUFFIXES} if role == "groundtruth" else FLAT_SUFFIXES - {*ID_SUFFIXES}
    if path.is_dir():
        candidates = [*path.glob(f"*_{role}.*"), *path.glob(f"{role}.*")]
    elif path.parent.is_dir():
        candidates = [path.with_name(f"{path.name}_{role}{suffix}") for suffix in suffixes]
    else:
        candidates = []
    # Archives of macOS bring a hidden file beside every other.
    shown = (file for file in candidates if not file.name.startswith((".", "_")))
    return sorted(file for file in shown if file.suffix in suffixes and file.is_file())
