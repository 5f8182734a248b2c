"""Learned product codes in native FAISS indexes: train a PQ-VAE, inject its codebooks, search."""

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.index.factory import index_factory, register, unregister
from faiss_pqvae.index.gpu import index_cpu_to_gpu, index_gpu_to_cpu
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks
from faiss_pqvae.registry import datasets, decoders, encoders, methods, objectives
from faiss_pqvae.training import (
    DPQ,
    DQN,
    Contrastive,
    LabelTraining,
    Ranking,
    Reconstruction,
    TrainingConfig,
    Views,
)

__version__ = "0.1.0"

__all__ = [
    "DPQ",
    "DQN",
    "PQVAE",
    "Backbone",
    "CodeSpec",
    "Codebooks",
    "Contrastive",
    "Items",
    "LabelTraining",
    "LatentIndex",
    "ModelConfig",
    "Ranking",
    "Reconstruction",
    "TrainingConfig",
    "Views",
    "datasets",
    "decoders",
    "encoders",
    "extract_codebooks",
    "index_cpu_to_gpu",
    "index_factory",
    "index_gpu_to_cpu",
    "inject_codebooks",
    "methods",
    "objectives",
    "read_index",
    "register",
    "unregister",
    "write_index",
]
