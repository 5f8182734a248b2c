"""Reads mutated files of residual quantizers, in a process of its own that must survive them all.

    python tests/faiss_pqvae/native/files/hostile_residual.py COUNT

`test_residual_files.py` runs it. A line for each, written before it is tried; the last line says
how many were read, to an index that works, and how many refused.
"""

import faulthandler
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hostile import Recorder, limit_memory, mutate_bytes, mutate_field, resize_vector

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import read_native
from faiss_pqvae.native.files.layout import FILES
from faiss_pqvae.native.inject import inject_codebooks, new_residual_index
from faiss_pqvae.native.store.store import Store

D, M, N = 5, 3, 12
SECONDS = 20  # that one mutation may take
KINDS = [(nbits, id_map) for nbits in (1, 4, 6, 8) for id_map in (None, "IndexIDMap2")]


def write(nbits: int, id_map: str | None, path: Path) -> bytes:
    rng = np.random.default_rng(nbits)
    index = new_residual_index(D, M, nbits)
    centroids = rng.standard_normal((M, 2**nbits, D), dtype=np.float32)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    x = rng.standard_normal((N, D), dtype=np.float32)
    if id_map is None:
        index.add(x)
    else:
        index = getattr(faiss, id_map)(index)
        index.add_with_ids(x, np.arange(N) * 2**40)
    faiss.write_index(index, str(path))
    return path.read_bytes()


def mutate(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    recorder = Recorder(content)
    recorder.index(FILES["index"])
    damaged = bytearray(content)
    choice = rng.integers(10)
    if choice == 0:
        return mutate_bytes(rng, content)
    if choice == 1:
        what = resize_vector(rng, damaged, recorder.fields)
    else:
        fields = [
            recorder.fields[i] for i in rng.integers(len(recorder.fields), size=1 + choice // 8)
        ]
        what = ", ".join(mutate_field(rng, damaged, field) for field in fields)
    return bytes(damaged), what


def exercise(store: Store, *, read_only: bool) -> None:
    """Everything that reads; and, of an index in memory, everything that writes."""
    look(store)
    if read_only:
        return
    x = np.random.default_rng(2).standard_normal((2, store.bare.d), dtype=np.float32)
    ids = np.array([5, 2**50]) if store.has_id_map else None
    store.add([x], ids)
    store.add_sa_codes([store.sa_encode(x)], ids)
    look(store)
    store.remove(faiss.IDSelectorRange(0, 6))
    look(store)
    store.reset()
    look(store)


def look(store: Store) -> None:
    n = store.bare.ntotal
    q = np.random.default_rng(1).standard_normal((3, store.bare.d), dtype=np.float32)
    sel: Any = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, 2**62))
    for params in (None, sel):
        for sdc in (False, True):
            found = store.search_and_reconstruct(q, n + 2, params=params, sdc=sdc)
            assert found[1].min() >= -1
            assert found[1].max() < n
    lims, _, keys = store.range_search(q, 0.5)
    assert lims[-1] == len(keys)
    assert np.isfinite(store.sa_decode(store.sa_encode(q))).all()


def main(count: int) -> None:
    faulthandler.enable()
    faiss.omp_set_num_threads(1)
    outcomes = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        whole = [write(*kind, path) for kind in KINDS]
        limit_memory()
        for seed in range(count):
            rng = np.random.default_rng(seed)
            content, what = mutate(rng, whole[seed % len(whole)])
            os.write(1, f"{seed}: {KINDS[seed % len(whole)]}: {what}\n".encode())
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            path.write_bytes(content)
            os.environ["FAISS_PQVAE_SCAN"] = ["plain", "simd"][seed // 8 % 2]
            try:
                store = Store(read_native(path, "index", mmap=seed % 3 == 2))
            except (ValueError, OSError) as error:
                if "bad_alloc" in str(error):
                    raise
                outcomes[1] += 1
            else:
                exercise(store, read_only=seed % 3 == 2)
                outcomes[0] += 1
            faulthandler.cancel_dump_traceback_later()
    print(*outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]))
