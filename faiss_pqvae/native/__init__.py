"""What FAISS holds: codebooks into and out of its indexes, files, scans. Works without a model."""

import torch  # noqa: F401 - before faiss, so that both share one OpenMP pool

try:
    import faiss as faiss  # the one place that imports it
except ImportError as error:
    raise ImportError(
        'faiss is missing: pip install "faiss-pqvae[cpu]" (or "faiss-pqvae[gpu]" for CUDA; '
        "never both, they own the same files)"
    ) from error
