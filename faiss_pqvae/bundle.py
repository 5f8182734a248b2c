"""Bundles: a model and its native index in one folder, the old or the new one after any crash."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from faiss_pqvae.files import replace_bytes, sync
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.native import extract_codebooks, faiss, prepare_search
from faiss_pqvae.native_io import read_native, write_native
from faiss_pqvae.refine import StoredVectors
from faiss_pqvae.transforms import Transforms

FORMAT = 2  # 1 knew IndexPQ only, and had no hash of its configuration
_MODEL, _INDEX, _TRANSFORMS, _REFINE = "model", "index", "transforms", "refine"
_SUFFIXES = {
    _MODEL: ".safetensors",
    _INDEX: ".faiss",
    _TRANSFORMS: ".faiss",
    _REFINE: ".faiss",
}
_METRICS = {"l2": faiss.METRIC_L2, "inner_product": faiss.METRIC_INNER_PRODUCT}


def write_index(index: LatentIndex, path: str | Path) -> None:
    """Writes a bundle, or replaces the one that is there.

    The new files get names of their own; `config.json`, replaced in one step when they are safe
    on the disk, names them; only then the files of the bundle before are removed. A crash at any
    moment leaves the old bundle or the new one. One process at a time may write to a folder.

    Args:
        index: a trained index.
        path: the folder; made when missing.

    Raises:
        ValueError: an untrained index; a file in the folder's place.
        OSError: the disk is full or failing; the bundle before is still there.
    """
    if not index.is_trained:
        raise ValueError("expected a trained index to write, got an untrained one")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder to write the bundle to, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    native = _native_parts(index)
    roles = (_MODEL, *native)
    temporary = {role: folder / f".{role}.{os.getpid()}.new" for role in roles}
    try:
        _write_model(index.model, temporary[_MODEL])
        for role, part in native.items():
            write_native(part, temporary[role])
        files = {}
        for role, new in temporary.items():
            sync(new)
            digest = _sha256(new)
            name = f"{role}-{digest[:16]}{_SUFFIXES[role]}"
            new.replace(folder / name)
            files[role] = {"name": name, "sha256": digest}
    finally:
        for new in temporary.values():
            new.unlink(missing_ok=True)
    sync(folder)
    config = _config(index, files)
    config["sha256"] = _config_hash(config)
    replace_bytes(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    kept = {file["name"] for file in files.values()}
    for role, suffix in _SUFFIXES.items():
        # Names as they are given above, so that files of others in the folder stay.
        leftovers = [
            *folder.glob(f"{role}-{'[0-9a-f]' * 16}{suffix}"),
            *folder.glob(f".{role}.*.new"),
            *folder.glob(".config.json.*.new"),
        ]
        for leftover in leftovers:
            if leftover.name not in kept:
                leftover.unlink(missing_ok=True)


def read_index(path: str | Path, *, mmap: bool = False) -> LatentIndex:
    """Reads a bundle; every part is checked before anything can be searched.

    Args:
        path: the folder that `write_index` wrote.
        mmap: leave codes and lists in the file, which is mapped into memory, for collections
            larger than memory; `add` and all other changes raise then. The files are still read
            once, for their hashes. The ids of an IDMap come into memory.

    Returns:
        The index, ready to search and to add to, on the CPU.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a damaged or altered file, parts that do not fit together, the format of a
            newer version, or a FastScan index with `mmap`, which FAISS cannot map.
    """
    folder = Path(path)
    config = _read_config(folder)
    try:
        files = config["files"]
        for file in files.values():
            _check_hash(folder, file["name"], file["sha256"])
        paths = {role: folder / files[role]["name"] for role in _SUFFIXES if role in files}
        index = _assemble(config, paths, mmap=mmap)
        index.search_type = config["search_type"]
        index.description = config["factory"]
        index.k_factor = float(config.get("k_factor", 1))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"damaged bundle {folder}: config.json lacks or misuses {error}"
        ) from error
    return index


def _assemble(config: dict[str, Any], paths: dict[str, Path], *, mmap: bool) -> LatentIndex:
    model = _read_model(paths[_MODEL], config["model"])
    native = read_native(paths[_INDEX], mmap=mmap)
    if extract_codebooks(native) != model.codebooks():
        raise ValueError(f"the codebooks in {paths[_INDEX]} are not those of the model")
    prepare_search(native)
    transforms, refine_index = None, None
    if _TRANSFORMS in paths:
        chain = read_native(paths[_TRANSFORMS])
        if not isinstance(chain, faiss.IndexPreTransform):
            raise ValueError(f"expected transforms in {paths[_TRANSFORMS]}")
        transforms = Transforms(chain)
    if config.get("refine") == "decoder":
        refine_index = "decoder"
    elif _REFINE in paths:
        refine_index = read_native(paths[_REFINE], mmap=mmap)
        if refine_index.ntotal != native.ntotal:
            raise ValueError(
                f"expected {native.ntotal} items in {paths[_REFINE]}, got {refine_index.ntotal}"
            )
    return LatentIndex(
        model,
        _METRICS[config["metric"]],
        faiss_index=native,
        transforms=transforms,
        refine_index=refine_index,
        read_only=mmap,
    )


def read_config(path: str | Path) -> dict[str, Any]:
    """The contents of a bundle's config.json, after a look at its format version.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: no JSON object, or the format of a newer version.
    """
    return _read_config(Path(path))


def _native_parts(index: LatentIndex) -> dict[str, Any]:
    """What FAISS writes, by role."""
    parts = {_INDEX: index.faiss_index}
    if index.transforms is not None:
        parts[_TRANSFORMS] = index.transforms.index
    if isinstance(index.refiner, StoredVectors):
        parts[_REFINE] = index.refiner.index
    return parts


def _refine_kind(index: LatentIndex) -> str | None:
    if index.refiner is None:
        return None
    return "stored" if isinstance(index.refiner, StoredVectors) else "decoder"


def _config_hash(config: dict[str, Any]) -> str:
    """Of everything in a configuration but the hash itself."""
    rest = {name: value for name, value in config.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _config(index: LatentIndex, files: dict[str, dict[str, str]]) -> dict[str, Any]:
    model = index.model
    metrics = {value: name for name, value in _METRICS.items()}
    return {
        "format": FORMAT,
        "factory": index.description,
        "model": {
            "input_shape": list(model.input_shape),
            "M": model.M,
            "nbits": model.nbits,
            "config": asdict(model.config),
        },
        "metric": metrics[index.metric_type],
        "search_type": index.search_type,
        "refine": _refine_kind(index),
        "k_factor": index.k_factor,
        "ntotal": index.ntotal,
        "code_size_bytes": index.sa_code_size(),
        "versions": {
            "torch": str(torch.__version__),
            "faiss": faiss.__version__,
            "numpy": np.__version__,
        },
        "files": files,
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no bundle in {folder}: config.json is missing")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"damaged bundle {folder}: config.json is not JSON: {error}") from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"damaged bundle {folder}: config.json names no format version")
    if version > FORMAT:
        raise ValueError(
            f"the bundle {folder} has format version {version}, newer than the {FORMAT} that this "
            "faiss-pqvae reads: upgrade faiss-pqvae"
        )
    assert isinstance(config, dict)
    if version > 1 and config.get("sha256") != _config_hash(config):
        raise ValueError(f"damaged bundle {folder}: config.json was altered")
    return config


def _write_model(model: PQVAE, path: Path) -> None:
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    # Not `save_file`: it goes by a temporary of its own, which a crash would leave behind.
    path.write_bytes(safetensors.torch.save(tensors))


def _read_model(path: Path, config: dict[str, Any]) -> PQVAE:
    try:
        shape = tuple(config["input_shape"])
        model = PQVAE(shape, config["M"], config["nbits"], ModelConfig(**config["config"]))
        model.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights {path} do not fit the configuration: {error}") from error
    if not model.is_trained:
        raise ValueError(f"expected trained weights in {path}, got untrained ones")
    return model


def _check_hash(folder: Path, name: str, expected: str) -> None:
    if Path(name).name != name:
        raise ValueError(f"damaged bundle {folder}: {name!r} is not a file of the bundle")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"damaged bundle {folder}: {name} is missing")
    found = _sha256(path)
    if found != expected:
        raise ValueError(
            f"damaged bundle {folder}: {name} was altered or truncated "
            f"(sha256 {found[:12]}..., expected {str(expected)[:12]}...)"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
