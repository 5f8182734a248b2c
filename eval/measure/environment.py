"""What measured: versions, processor and threads, and nothing that names a machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import faiss_pqvae

from ..faiss_library import faiss


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what a time depends on, and nothing that names a machine."""
    found: dict[str, Any] = {
        "faiss_pqvae": faiss_pqvae.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "simd": faiss.get_compile_options().strip(),
        "cores": os.cpu_count(),
        "faiss_threads": faiss.omp_get_max_threads(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def software() -> str:
    """Versions of what decides results, in one line."""
    libraries = f"faiss {faiss.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{libraries}, faiss-pqvae {faiss_pqvae.__version__}"


def _cpu_model() -> str:
    """The processor's model name; what `platform` knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
