"""Learned product codes in native FAISS indexes: train a PQ-VAE, inject its codebooks, search.

A name is imported when it is asked for: a program that looks at codebooks needs no torch, and the
command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from faiss_pqvae import checkout

if TYPE_CHECKING:
    from faiss_pqvae.codebooks import Codebooks
    from faiss_pqvae.data.open import ImageOptions, open_source
    from faiss_pqvae.index.bundle import read_index, write_index
    from faiss_pqvae.index.factory import index_factory, register, unregister
    from faiss_pqvae.index.gpu import index_cpu_to_gpu, index_gpu_to_cpu
    from faiss_pqvae.index.items import Items
    from faiss_pqvae.index.lance import lance_parts
    from faiss_pqvae.index.latent_index import LatentIndex
    from faiss_pqvae.index.serialize import deserialize_index, serialize_index
    from faiss_pqvae.model.backbone import Backbone
    from faiss_pqvae.model.config import ModelConfig
    from faiss_pqvae.model.pqvae import PQVAE
    from faiss_pqvae.model.spec import CodeSpec
    from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks
    from faiss_pqvae.registry import datasets, decoders, encoders, methods, objectives
    from faiss_pqvae.scale.served import open_shards
    from faiss_pqvae.training import (
        DPQ,
        DQN,
        Additive,
        Contrastive,
        LabelTraining,
        PictureViews,
        Ranking,
        Reconstruction,
        Synthesis,
        TrainingConfig,
        Views,
    )

__version__ = "0.2.0"

__all__ = [
    "DPQ",
    "DQN",
    "PQVAE",
    "Additive",
    "Backbone",
    "CodeSpec",
    "Codebooks",
    "Contrastive",
    "ImageOptions",
    "Items",
    "LabelTraining",
    "LatentIndex",
    "ModelConfig",
    "PictureViews",
    "Ranking",
    "Reconstruction",
    "Synthesis",
    "TrainingConfig",
    "Views",
    "datasets",
    "decoders",
    "deserialize_index",
    "encoders",
    "extract_codebooks",
    "index_cpu_to_gpu",
    "index_factory",
    "index_gpu_to_cpu",
    "inject_codebooks",
    "lance_parts",
    "methods",
    "objectives",
    "open_shards",
    "open_source",
    "read_index",
    "register",
    "serialize_index",
    "unregister",
    "write_index",
]

# Where each name is; the imports above say the same to readers of types.
_HOMES = {
    "codebooks": ["Codebooks"],
    "data.open": ["ImageOptions", "open_source"],
    "index.bundle": ["read_index", "write_index"],
    "index.factory": ["index_factory", "register", "unregister"],
    "index.gpu": ["index_cpu_to_gpu", "index_gpu_to_cpu"],
    "index.items": ["Items"],
    "index.lance": ["lance_parts"],
    "index.latent_index": ["LatentIndex"],
    "index.serialize": ["deserialize_index", "serialize_index"],
    "model.backbone": ["Backbone"],
    "model.config": ["ModelConfig"],
    "model.pqvae": ["PQVAE"],
    "model.spec": ["CodeSpec"],
    "native.inject": ["extract_codebooks", "inject_codebooks"],
    "registry": ["datasets", "decoders", "encoders", "methods", "objectives"],
    "scale.served": ["open_shards"],
    "training": [
        *("DPQ", "DQN", "Additive", "Contrastive", "LabelTraining", "PictureViews"),
        *("Ranking", "Reconstruction", "Synthesis", "TrainingConfig", "Views"),
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    *("codebooks", "data", "eval", "files", "index", "model", "native", "registry", "scale"),
    "training",
)

checkout.find_rooms_beside()


def __getattr__(name: str) -> Any:
    """A public name, or a room, imported now."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    found = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = found  # asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
