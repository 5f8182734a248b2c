"""What `gpu_check.py` measures on: versions, the card, and how fast memory and calls are."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable

import torch
from gpu_check_part import Check

from faiss_pqvae.eval.measure.environment import environment as libraries
from faiss_pqvae.native import faiss


def environment(check: Check) -> None:
    """Versions, processor, the card and its driver, and how fast memory is."""
    check.note("libraries", **libraries())
    has_gpu = hasattr(faiss, "StandardGpuResources")
    check.note("FAISS", faiss_gpus=int(faiss.get_num_gpus()) if has_gpu else 0)
    check.note("memory", cpu_gb_per_s=round(bandwidth("cpu"), 1))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        check.note(
            "card",
            card=properties.name,
            card_gb=round(properties.total_memory / 1e9, 1),
            multiprocessors=properties.multi_processor_count,
            cuda=str(torch.version.cuda),
            driver=_driver(),
            card_gb_per_s=round(bandwidth("cuda"), 1),
        )


def _driver() -> str:
    """The version of the card's driver, "" where nothing tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return said.stdout.splitlines()[0].strip()
    return ""


def bandwidth(device: str) -> float:
    """GB/s, read and written, at which a device copies its memory."""
    x = torch.ones(2**28 if device == "cuda" else 2**26, device=device)  # beyond caches
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds_of(lambda: y.copy_(x), device) / 1e9


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Median seconds of up to 9 calls, after one that is not timed: it may load and compile."""
    times: list[float] = []
    work()
    while not times or (len(times) < 9 and sum(times) < 0.6):
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _wait_for(device: str) -> None:
    """Until a device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
