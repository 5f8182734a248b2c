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

FORMAT = 1
_MODEL, _INDEX = "model", "index"
_SUFFIXES = {_MODEL: ".safetensors", _INDEX: ".faiss"}
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
    temporary = {role: folder / f".{role}.{os.getpid()}.new" for role in _SUFFIXES}
    try:
        _write_model(index.model, temporary[_MODEL])
        _write_faiss(index.faiss_index, temporary[_INDEX])
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
    config = json.dumps(_config(index, files), indent=2) + "\n"
    replace_bytes(folder / "config.json", config.encode())
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


def read_index(path: str | Path) -> LatentIndex:
    """Reads a bundle; every part is checked before anything can be searched.

    Args:
        path: the folder that `write_index` wrote.

    Returns:
        The index, ready to search and to add to, on the CPU.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a damaged or altered file, parts that do not fit together, or the format of a
            newer version.
    """
    folder = Path(path)
    config = _read_config(folder)
    try:
        files = {role: config["files"][role] for role in _SUFFIXES}
        for file in files.values():
            _check_hash(folder, file["name"], file["sha256"])
        model = _read_model(folder / files[_MODEL]["name"], config["model"])
        metric_type = _METRICS[config["metric"]]
        native = _read_faiss(folder / files[_INDEX]["name"], model)
        index = LatentIndex(model, metric_type, faiss_index=native)
        index.search_type = config["search_type"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"damaged bundle {folder}: config.json lacks or misuses {error}"
        ) from error
    return index


def read_config(path: str | Path) -> dict[str, Any]:
    """The contents of a bundle's config.json, after a look at its format version.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: no JSON object, or the format of a newer version.
    """
    return _read_config(Path(path))


def _config(index: LatentIndex, files: dict[str, dict[str, str]]) -> dict[str, Any]:
    model = index.model
    metrics = {value: name for name, value in _METRICS.items()}
    return {
        "format": FORMAT,
        "factory": f"PQVAE{model.M}x{model.nbits}",
        "model": {
            "input_shape": list(model.input_shape),
            "M": model.M,
            "nbits": model.nbits,
            "config": asdict(model.config),
        },
        "metric": metrics[index.metric_type],
        "search_type": index.search_type,
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


def _write_faiss(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _read_faiss(path: Path, model: PQVAE) -> Any:
    """Reads the native index and checks what FAISS does not: sizes that must agree."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read {path}: {error}") from error
    if not isinstance(index, faiss.IndexPQ):
        raise ValueError(f"expected an IndexPQ in {path}, got {type(index).__name__}")
    pq = index.pq
    expected = (model.latent_dim, model.M, model.nbits)
    if (index.d, pq.M, pq.nbits) != expected or pq.d != index.d:
        raise ValueError(
            f"expected d, M, nbits = {expected} in {path}, got d={index.d}, pq.d={pq.d}, "
            f"M={pq.M}, nbits={pq.nbits}"
        )
    if index.codes.size() != index.ntotal * pq.code_size or index.code_size != pq.code_size:
        raise ValueError(
            f"expected {index.ntotal} codes of {pq.code_size} bytes in {path}, got "
            f"{index.codes.size()} bytes"
        )
    if extract_codebooks(index) != model.codebooks():
        raise ValueError(f"the codebooks in {path} are not those of the model")
    prepare_search(index)
    return index


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
