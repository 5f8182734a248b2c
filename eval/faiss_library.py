"""FAISS, as anyone imports it; the one place in the evaluation that does."""

import torch  # noqa: F401 - before faiss, so that both share one OpenMP pool

try:
    import faiss as faiss
except ImportError as error:
    raise ImportError(
        'faiss is missing: pip install "faiss-pqvae[cpu]" (or "faiss-pqvae[gpu]" for CUDA)'
    ) from error
