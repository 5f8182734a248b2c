"""Learned product codes in native FAISS indexes: train a PQ-VAE, inject its codebooks, search."""

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.index.factory import index_factory, register, unregister
from faiss_pqvae.index.gpu import index_cpu_to_gpu, index_gpu_to_cpu
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks
from faiss_pqvae.training import LabelTraining, TrainingConfig, Views

__version__ = "0.1.0"

__all__ = [
    "PQVAE",
    "Codebooks",
    "LabelTraining",
    "LatentIndex",
    "ModelConfig",
    "TrainingConfig",
    "Views",
    "extract_codebooks",
    "index_cpu_to_gpu",
    "index_factory",
    "index_gpu_to_cpu",
    "inject_codebooks",
    "read_index",
    "register",
    "unregister",
    "write_index",
]
