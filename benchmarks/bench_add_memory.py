"""Peak memory of `index.add` of a million images from a memory map.

A child process opens the map, builds the index and adds. "Peak resident" is the kernel's own
high-water mark (VmHWM) less what was resident before `add`: everything counts, also pages of the
file that are mapped and could be dropped at any moment. "Peak anonymous" (RssAnon, sampled) is
what only `add` holds: activations, batches, codes. The first is compared with the target: it is
what a container's limit or `top` shows. The codes themselves are taken off both.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Figure, Options, make_index, run_script

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.native import faiss

TARGET_MB = 1000.0
SHAPE = (1, 28, 28)
SAMPLE_S = 0.005
MB = 1e6
CHUNK = 10_000  # images written at a time

# Encoder, images, target. conv's activations are the larger and as large for any number of
# images: fewer of them show it in less time.
CASES = (("mlp", 1_000_000, TARGET_MB), ("conv", 50_000, None))


def write_images(path: Path, n: int) -> None:
    """Writes n images of noise as .npy, chunk by chunk, through no mapping."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)}
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, CHUNK):
            shape = (min(CHUNK, n - start), *SHAPE)
            file.write(generator.integers(0, 256, shape, dtype=np.uint8).tobytes())


def status_bytes(name: str) -> int:
    """A size from /proc/self/status: VmRSS, VmHWM, RssAnon or RssFile."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None, f"no {name} in /proc/self/status"
    return int(match[1]) * 1024


class Sampler:
    """Samples RssAnon and RssFile in a thread while its block runs."""

    def __init__(self) -> None:
        self.anonymous: list[int] = []
        self.mapped: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while True:
            self.anonymous.append(status_bytes("RssAnon"))
            self.mapped.append(status_bytes("RssFile"))
            if self._stop.wait(SAMPLE_S):
                return

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def add_in_child(path: str, encoder: str, threads: int, pipe: Any) -> None:
    """Adds the images of a file and sends what it took; runs in a process of its own."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    index = make_index(SHAPE, ModelConfig(encoder="conv" if encoder == "conv" else "mlp", dsub=32))
    x = np.load(path, mmap_mode="r")
    # Sets VmHWM back to VmRSS: the peak so far was of the imports and of building the index.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = {name: status_bytes(name) for name in ("VmRSS", "RssAnon", "RssFile")}
    with Sampler() as sampler:
        index.add(x)
    assert index.ntotal == len(x)
    codes = index.ntotal * index.sa_code_size()
    tenth = max(1, len(sampler.anonymous) // 10)
    pipe.send(
        {
            "peak_resident_mb": (status_bytes("VmHWM") - before["VmRSS"] - codes) / MB,
            "peak_anonymous_mb": (max(sampler.anonymous) - before["RssAnon"] - codes) / MB,
            "peak_mapped_mb": (max(sampler.mapped) - before["RssFile"]) / MB,
            # What grows with the number of images shows here; the codes do, and are included.
            "anonymous_growth_after_first_tenth_mb": (
                max(sampler.anonymous[tenth:], default=0) - max(sampler.anonymous[:tenth])
            )
            / MB,
            "codes_mb": codes / MB,
            "file_mb": x.nbytes / MB,
            "n": len(x),
            "batch_size": index.batch_size,
        }
    )


def measure(options: Options) -> list[Figure]:
    """Two figures per encoder: peak resident (with a target) and peak anonymous memory."""
    repeats = options.repeats or 1
    figures = []
    for encoder, n, target in CASES:
        n = n // 50 if options.quick else n
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            write_images(path, n)
            runs = [_add(path, encoder) for _ in range(repeats)]
        detail = {"encoder": encoder, "runs": runs}
        last = runs[-1]
        figures += [
            Figure(
                name=f"peak resident memory of add, {encoder}, {n} images",
                values=[run["peak_resident_mb"] for run in runs],
                target=target,
                unit="MB",
                limit=(
                    f"of the file's {last['file_mb']:.0f} MB, {last['peak_mapped_mb']:.0f} MB "
                    f"were mapped at once; {last['codes_mb']:.0f} MB of codes are taken off"
                ),
                details=detail,
            ),
            Figure(
                name=f"peak anonymous memory of add, {encoder}, {n} images",
                values=[run["peak_anonymous_mb"] for run in runs],
                unit="MB",
                limit=f"activations of a batch of {last['batch_size']}",
                details={"encoder": encoder},
            ),
        ]
    return figures


def _add(path: Path, encoder: str) -> dict[str, Any]:
    # A fresh interpreter: a fork would start with this one's memory.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    args = (os.fspath(path), encoder, torch.get_num_threads(), sender)
    child = context.Process(target=add_in_child, args=args)
    child.start()
    sender.close()  # so that a child that died is an EOFError here
    try:
        result: dict[str, Any] = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the child that adds ended with {child.exitcode}") from None
    child.join()
    return result


if __name__ == "__main__":
    run_script("add_memory", [measure], __doc__)
