"""Bundles: a model and its native index in one folder, the old or the new one after any crash."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch

from faiss_pqvae.files import replace_bytes, sha256_of, space_for, sync
from faiss_pqvae.index.handed_in import Given, record_of_decoder, record_of_encoder
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.items_file import from_bytes, to_bytes
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.index.metrics import METRICS
from faiss_pqvae.index.old_formats import upgraded
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import EFFORT, PQVAE
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import check_keys, read_native, write_native
from faiss_pqvae.native.files.layout import Role
from faiss_pqvae.native.inject import extract_codebooks

FORMAT = 4  # 1 and 2, see old_formats; 1 had no hash of its configuration, 3 no `by_residual`
_AS_NOW = 3  # from here on a configuration is read as it is
_MODEL: Final = "model"
_INDEX: Final = "index"
_TRANSFORMS: Final = "transforms"
_REFINE: Final = "refine"
_ITEMS: Final = "items"
_SUFFIXES = {
    _MODEL: ".safetensors",
    _INDEX: ".faiss",
    _TRANSFORMS: ".faiss",
    _REFINE: ".faiss",
    _ITEMS: ".safetensors",
}


def write_index(index: LatentIndex, path: str | Path) -> None:
    """Writes a bundle, or replaces the one that is there.

    The new files get names of their own; `config.json`, replaced in one step when they are safe
    on the disk, names them; only then the files of the bundle before are removed. A crash at any
    moment leaves the old bundle or the new one. One process at a time may write to a folder.

    Args:
        index: a trained index.
        path: the folder; made when missing.

    Raises:
        TypeError: no LatentIndex; a setting of the index that JSON cannot hold.
        ValueError: an untrained index; a file in the folder's place; a native index that could
            not be read again, such as one with another coarse quantizer than bundles know.
        OSError: the disk is full or failing; the bundle before is still there.
    """
    if not isinstance(index, LatentIndex):
        raise TypeError(
            f"expected a LatentIndex to write, got {type(index).__name__}: faiss.write_index "
            "writes indexes of FAISS's own, and one on a GPU is copied back by index_gpu_to_cpu"
        )
    if not index.is_trained:
        raise ValueError("expected a trained index to write, got an untrained one")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder to write the bundle to, got the file {folder}")
    config = _config(index)
    json.dumps(config)  # what it cannot hold is told before anything is written
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
    try:
        config["files"] = _write_files(index, folder)
        config["sha256"] = _config_hash(config)
        replace_bytes(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    finally:
        _remove_leftovers(folder)


def _write_files(index: LatentIndex, folder: Path) -> dict[str, dict[str, str]]:
    """Writes all files but the configuration, safely to the disk; what that says of them."""
    native = _native_parts(index)
    names = (_MODEL, *native, *(() if index.items is None else (_ITEMS,)))
    paths = {name: folder / f".{name}.{os.getpid()}.new" for name in names}
    _write_model(index.model, paths[_MODEL])
    if index.items is not None:
        with space_for(paths[_ITEMS]):
            paths[_ITEMS].write_bytes(to_bytes(index.items))
    for role, part in native.items():
        write_native(part, paths[role], role)
    files = {}
    for name, path in paths.items():
        with space_for(path):
            sync(path)
        digest = sha256_of(path)
        files[name] = {"name": f"{name}-{digest[:16]}{_SUFFIXES[name]}", "sha256": digest}
    for name, path in paths.items():
        path.replace(folder / files[name]["name"])
    sync(folder)
    return files


def _remove_leftovers(folder: Path) -> None:
    """Removes what the configuration that is there does not name."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kept = {file["name"] for file in config["files"].values()}
    except FileNotFoundError:
        kept = set()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # a damaged one: what it named may be worth a rescue
    for role, suffix in _SUFFIXES.items():
        # Names as `write_index` gives them, so that files of others in the folder stay.
        leftovers = [
            *folder.glob(f"{role}-{'[0-9a-f]' * 16}{suffix}"),
            *folder.glob(f".{role}.*.new"),
            *folder.glob(".config.json.*.new"),
        ]
        for leftover in leftovers:
            if leftover.name not in kept:
                leftover.unlink(missing_ok=True)


def read_index(
    path: str | Path, *, mmap: bool = False, encoder: Any = None, decoder: Any = None
) -> LatentIndex:
    """Reads a bundle; every part is checked before anything can be searched.

    No code is imported because a file names it: a network that is not ours is handed in again.

    Args:
        path: the folder that `write_index` wrote.
        mmap: leave codes and lists in the file, which is mapped into memory, for collections
            larger than memory; `add` and all other changes raise then. The files are still read
            once, for their hashes. The ids of an IDMap come into memory.
        encoder: the encoder that was handed to `index_factory`, as it was handed in there: a
            module, a name or a reference. A frozen one needs the weights that it had; one that
            learned along gets those of the bundle, in a copy.
        decoder: likewise.

    Returns:
        The index, ready to search and to add to, on the CPU.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: a damaged or altered file, parts that do not fit together, the format of a
            newer version, or a FastScan index with `mmap`, which FAISS cannot map; an encoder or
            decoder that is missing (the message says which), not asked for, or another one.
    """
    folder = Path(path)
    config = _read_config(folder)
    given = Given.of(config, encoder, decoder)
    try:
        files = config["files"]
        for file in files.values():
            _check_hash(folder, file["name"], file["sha256"])
        paths = {role: folder / files[role]["name"] for role in _SUFFIXES if role in files}
        index = _assemble(config, paths, given, mmap=mmap)
        _set_options(index, config)
        if _ITEMS in paths:
            index.items = _read_items(paths[_ITEMS])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"damaged bundle {folder}: config.json lacks or misuses {error}"
        ) from error
    except (RuntimeError, MemoryError) as error:  # of FAISS and of torch
        raise ValueError(f"damaged bundle {folder}: {error}") from error
    return index


def _assemble(
    config: dict[str, Any], paths: dict[str, Path], given: Given, *, mmap: bool
) -> LatentIndex:
    model = _read_model(paths[_MODEL], config["model"], _read_spec(config["spec"]), given)
    native = read_native(paths[_INDEX], _INDEX, mmap=mmap)
    if not native.is_trained:
        raise ValueError(f"expected a trained index in {paths[_INDEX]}, got an untrained one")
    if extract_codebooks(native) != model.codebooks():
        raise ValueError(f"the codebooks in {paths[_INDEX]} are not those of the model")
    # The index itself computes what FAISS derives, once.
    transforms = None
    if _TRANSFORMS in paths:
        transforms = Transforms(read_native(paths[_TRANSFORMS], _TRANSFORMS))
    return LatentIndex(
        model,
        METRICS[config["metric"]],
        faiss_index=native,
        transforms=transforms,
        refine_index=_read_refine(config.get("refine"), native, paths.get(_REFINE), mmap=mmap),
        read_only=mmap,
        front=given.front(model),
    )


def _read_refine(kind: Any, native: Any, path: Path | None, *, mmap: bool) -> Any:
    """What LatentIndex takes as `refine_index`."""
    if kind not in (None, "stored", "decoder") or (kind == "stored") != (path is not None):
        raise ValueError(f"expected a file to refine with or none, got {path} for refine={kind!r}")
    if path is None:
        return kind
    index = read_native(path, _REFINE, mmap=mmap)
    check_keys(native, index)
    return index


def _read_items(path: Path) -> Items:
    try:
        return from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _set_options(index: LatentIndex, config: dict[str, Any]) -> None:
    index.search_type = config["search_type"]
    k_factor, description = config.get("k_factor", 1), config["factory"]
    if not isinstance(k_factor, int | float) or not (math.isfinite(k_factor) and k_factor >= 1):
        raise ValueError(f"expected k_factor >= 1 in config.json, got {k_factor!r}")
    if not isinstance(description, str):
        raise ValueError(f"expected a string as factory in config.json, got {description!r}")
    index.k_factor, index.description = float(k_factor), description
    effort = config.get("effort", EFFORT)
    if not isinstance(effort, int) or isinstance(effort, bool) or effort < 0:
        raise ValueError(f"expected an integer effort >= 0 in config.json, got {effort!r}")
    index.effort = effort


def read_config(path: str | Path) -> dict[str, Any]:
    """The contents of a bundle's config.json, after a look at its format version.

    Raises:
        FileNotFoundError: no bundle there.
        ValueError: no JSON object, or the format of a newer version.
    """
    return _read_config(Path(path))


def _native_parts(index: LatentIndex) -> dict[Role, Any]:
    """What FAISS writes, by role."""
    parts: dict[Role, Any] = {_INDEX: index.faiss_index}
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


def _config(index: LatentIndex) -> dict[str, Any]:
    """All of a configuration but the files and the hash."""
    model = index.model
    metrics = {value: name for name, value in METRICS.items()}
    return {
        "format": FORMAT,
        "factory": index.description,
        "spec": asdict(model.spec),
        "encoder": record_of_encoder(index),
        "decoder": record_of_decoder(model),
        "model": {
            "input_shape": list(model.input_shape),
            "M": model.M,
            "nbits": model.nbits,
            "config": asdict(model.config),
        },
        "metric": metrics[index.metric_type],
        "search_type": index.search_type,
        "refine": _refine_kind(index),
        "k_factor": float(index.k_factor),
        "effort": index.effort,
        "ntotal": index.ntotal,
        "code_size_bytes": index.sa_code_size(),
        "versions": {
            "torch": str(torch.__version__),
            "faiss": faiss.__version__,
            "numpy": np.__version__,
        },
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if folder.is_file():
        within = (folder.parent / path.name).is_file()
        hint = (
            f"give the folder {folder.parent}"
            if within
            else "faiss.read_index reads files of FAISS's own"
        )
        raise FileNotFoundError(f"no bundle in {folder}, which is a file and no folder: {hint}")
    if not path.is_file():
        if any((folder / name / "job.json").is_file() for name in (".", "shards")):
            raise FileNotFoundError(
                f"no bundle in {folder}, but shards: fpq.open_shards searches them, and "
                "`faiss-pqvae build ... --merge` makes one index of them"
            )
        why = ": config.json is missing" if folder.is_dir() else ", which does not exist"
        raise FileNotFoundError(
            f"no bundle in {folder}{why}; write_index and `faiss-pqvae train` make one"
        )
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged bundle {folder}: config.json is not JSON: {error}") from error
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError(f"damaged bundle {folder}: config.json names no format version")
    if version > FORMAT:
        raise ValueError(
            f"the bundle {folder} has format version {version}, newer than the {FORMAT} that this "
            "faiss-pqvae reads: upgrade faiss-pqvae"
        )
    assert isinstance(config, dict)
    if (version > 1 or "sha256" in config) and config.get("sha256") != _config_hash(config):
        raise ValueError(
            f"damaged bundle {folder}: config.json was altered, what it says does not have its "
            "sha256; settings are changed by read_index and write_index"
        )
    if version >= _AS_NOW:
        return config
    try:
        return upgraded(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"damaged bundle {folder}: config.json lacks or misuses {error}"
        ) from error


def _write_model(model: PQVAE, path: Path) -> None:
    tensors = {
        # A copy each: what a network uses twice would share memory, which no file can.
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    # Not `save_file`: it goes by a temporary of its own, which a crash would leave behind.
    with space_for(path):
        path.write_bytes(safetensors.torch.save(tensors))


def _read_spec(spec: dict[str, Any]) -> CodeSpec:
    try:
        return CodeSpec(**spec)
    except TypeError as error:
        raise ValueError(f"expected a code's spec in config.json: {error}") from error


def _read_model(path: Path, config: dict[str, Any], spec: CodeSpec, given: Given) -> PQVAE:
    shape, M, nbits = tuple(config["input_shape"]), config["M"], config["nbits"]
    networks = ModelConfig(**config["config"])
    for size in (*shape, M, nbits, networks.dsub, networks.width):
        if type(size) is not int or not 1 <= size < 2**31:
            raise ValueError(f"expected the model's sizes in config.json as integers, got {size!r}")
    arguments = shape, M, nbits, networks
    try:
        weights = safetensors.torch.load_file(path)
        handed_in = given.networks(shape, networks, spec, M)
        with torch.device("meta"):  # a network of any size takes no memory there
            blank = PQVAE(*arguments, spec=spec, **handed_in)
            if "query_map.weight" in weights and len(shape) == 1:
                blank.add_query_map()
        if _shapes(weights) != _shapes(blank.state_dict()):
            raise ValueError(given.explained(f"the weights {path} do not fit the configuration"))
        model = PQVAE(*arguments, spec=spec, **handed_in)
        model.load_state_dict(weights)
    except (safetensors.SafetensorError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the weights {path} do not fit the configuration: {error}") from error
    # A network that is not ours may have infinity among its constants, as in a mask.
    theirs = {
        id(value)
        for network in model.handed_in()
        for value in network.state_dict(keep_vars=True).values()
    }
    ours = model.state_dict(keep_vars=True).values()
    if not all(bool(value.isfinite().all()) for value in ours if id(value) not in theirs):
        raise ValueError(f"expected finite weights in {path}, got NaN or infinity")
    if not model.is_trained:
        raise ValueError(f"expected trained weights in {path}, got untrained ones")
    given.check_probe(model)
    return model


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (value.dtype, value.shape) for name, value in tensors.items()}


def _check_hash(folder: Path, name: str, expected: str) -> None:
    if Path(name).name != name:
        raise ValueError(f"damaged bundle {folder}: {name!r} is not a file of the bundle")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"damaged bundle {folder}: {name} is missing")
    found = sha256_of(path)
    if found != expected:
        raise ValueError(
            f"damaged bundle {folder}: {name} was altered or truncated "
            f"(sha256 {found[:12]}..., expected {str(expected)[:12]}...)"
        )
