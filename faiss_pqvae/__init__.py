"""Learned product codes in native FAISS indexes: train a PQ-VAE, inject its codebooks, search."""

from faiss_pqvae.bundle import read_index, write_index
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.factory import index_factory, register, unregister
from faiss_pqvae.gpu import index_cpu_to_gpu, index_gpu_to_cpu
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.native import extract_codebooks, inject_codebooks
from faiss_pqvae.training import LabelTraining, TrainingConfig, Views

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
