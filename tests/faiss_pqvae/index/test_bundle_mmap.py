"""Bundles mapped into memory: the same results, small memory, and no change that FAISS dies of."""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import is_mapped

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, N = 8, 60
KINDS = [
    ("PQ", 4, "", None),
    ("PQ", 8, "", "flat"),
    ("PQ", 5, "IDMap2", None),
    ("IVF", 4, "", "ids"),
    ("IVF", 8, "IDMap2", "flat"),
    ("IVFres", 6, "IDMap", "decoder"),
    ("HNSW", 4, "", "flat"),
    ("HNSW", 8, "IDMap2", "decoder"),
]
IDS = [str(kind) for kind in KINDS]


def _x(n: int = N, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


@pytest.fixture(scope="module")
def make(make_identity: Callable[..., LatentIndex]) -> Callable[..., LatentIndex]:
    def make(
        kind: str, nbits: int, id_map: str, refine: str | None, n: int = N, metric: int = L2
    ) -> LatentIndex:
        flat = {"flat": faiss.IndexFlat(D, metric), "decoder": "decoder"}
        flat["ids"] = faiss.IndexIDMap2(faiss.IndexFlat(D, metric))
        if refine == "ids":
            flat["ids"] = faiss.index_factory(D, "IDMap2,Flat", metric)
        index = make_identity(kind, nbits, metric, id_map, refine=flat.get(refine))
        if n:
            _add(index, _x(n), np.arange(n) * 3 + 2**41)
        return index

    return make


def _takes_ids(index: LatentIndex) -> bool:
    return isinstance(index.faiss_index, faiss.IndexIDMap | faiss.IndexIVF)


def _add(index: LatentIndex, x: np.ndarray, ids: np.ndarray) -> None:
    if _takes_ids(index):
        index.add_with_ids(x, ids)
    else:
        index.add(x)


def _found(index: LatentIndex) -> list[bytes]:
    """What a search gives, to the bit."""
    q = _x(7, 4)
    found = [*index.search(q, 5), *index.search_and_reconstruct(q, N + 2)]
    if index.refiner is None:
        lims, D_, I_ = index.range_search(q, 6.0)
        rows = np.repeat(np.arange(len(q)), np.diff(lims.astype(np.int64)))
        order = np.lexsort((I_, D_, rows))
        found += [lims, D_[order], I_[order]]
    return [array.tobytes() for array in found]


@pytest.fixture(params=KINDS, ids=IDS)
def index(request, make) -> LatentIndex:
    return make(*request.param)


@pytest.fixture
def mapped(index, tmp_path) -> LatentIndex:
    write_index(index, tmp_path / "bundle")
    return read_index(tmp_path / "bundle", mmap=True)


def test_mmap__finds_the_same(index, mapped, tmp_path):
    assert mapped.read_only
    assert is_mapped(mapped.faiss_index)
    assert _found(mapped) == _found(index) == _found(read_index(tmp_path / "bundle"))
    mapped.search_type = index.search_type = "sdc"
    assert _found(mapped) == _found(index)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_mmap__of_an_empty_index(make, tmp_path, kind):
    index = make(*kind, n=0)
    write_index(index, tmp_path)
    mapped = read_index(tmp_path, mmap=True)
    assert mapped.read_only
    assert _found(mapped) == _found(index)
    with pytest.raises(ValueError, match="memory-mapped file"):
        _add(mapped, _x(), np.arange(N))


def test_mmap__of_inner_products(make, tmp_path):
    for kind in KINDS:
        index = make(*kind, metric=IP)
        write_index(index, tmp_path / str(kind[:3]))
        assert _found(read_index(tmp_path / str(kind[:3]), mmap=True)) == _found(index)


def test_mmap__does_not_change(index, mapped, make):
    before = _found(mapped)
    other = copy.deepcopy(index)
    codes = index.sa_encode(_x(2))
    changes: list[Callable[[], Any]] = [
        lambda: mapped.add(_x(2)),
        lambda: mapped.add_with_ids(_x(2), np.arange(2)),
        lambda: mapped.add_sa_codes(codes),
        lambda: mapped.add_sa_codes(codes, np.arange(2)),
        lambda: mapped.remove_ids(np.array([0, 2**41])),
        lambda: mapped.merge_from(other),
        lambda: other.merge_from(mapped),
        lambda: mapped.train(_x(300)),
        lambda: mapped.reset(),
    ]
    for change in changes:
        with pytest.raises(ValueError, match=r"memory-mapped file and cannot change.*mmap=False"):
            change()
    assert (mapped.ntotal, other.ntotal) == (N, N)
    assert _found(mapped) == before


@pytest.mark.parametrize("kind", ["PQfs", "IVFfs"])
@pytest.mark.parametrize("id_map", ["", "IDMap2"])
def test_mmap__of_fast_scan_is_refused(make, tmp_path, kind, id_map):
    write_index(make(kind, 4, id_map, None), tmp_path)
    with pytest.raises(ValueError, match=r"cannot map the blocks of a FastScan .*mmap=False"):
        read_index(tmp_path, mmap=True)


def test_mmap__is_written_to_another_folder_and_over_itself(index, mapped, tmp_path):
    expected = _found(index)
    write_index(mapped, tmp_path / "other")
    assert _found(read_index(tmp_path / "other")) == expected
    write_index(mapped, tmp_path / "bundle")
    assert _found(mapped) == expected
    assert _found(read_index(tmp_path / "bundle")) == expected
    mapped.search_type = "sdc"  # a new configuration over the same files
    write_index(mapped, tmp_path / "bundle")
    assert read_index(tmp_path / "bundle", mmap=True).search_type == "sdc"


def test_mmap__outlives_the_bundle(index, mapped, make, tmp_path):
    before = _found(mapped)
    write_index(make("PQ", 6, "", None, n=9), tmp_path / "bundle")
    assert read_index(tmp_path / "bundle").ntotal == 9
    assert _found(mapped) == before


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]
)
def test_mmap__copies_are_in_memory(index, mapped, tmp_path, duplicate):
    found = duplicate(mapped)
    assert not found.read_only
    for path in (tmp_path / "bundle").iterdir():
        path.unlink()
    new = np.arange(5)
    for each in (found, index):
        _add(each, _x(5, 9), new)
        if not isinstance(each._store.bare, faiss.IndexHNSW):
            assert each.remove_ids(np.array([3])) == 1
    assert _found(found) == _found(index)
    assert mapped.read_only
    assert mapped.ntotal == N


def test_mmap__shallow_copies_stay_mapped(mapped):
    shallow = copy.copy(mapped)
    assert shallow.read_only
    with pytest.raises(ValueError, match="memory-mapped file"):
        shallow.reset()


def test_mmap__what_faiss_gets_of_it_is_in_memory(mapped):
    mapped.refiner = None  # FAISS has none of the decoder's
    x = _x(3, 9)
    before = mapped.search(x, 3)[1].tobytes()
    native = mapped.to_faiss()
    if isinstance(native, faiss.IndexIDMap):
        native.add_with_ids(x, np.arange(3))
    else:
        native.add(x)
    assert (native.ntotal, mapped.ntotal) == (N + 3, N)
    assert mapped.search(x, 3)[1].tobytes() == before


MEASURE = """
import json, sys
import numpy as np
from faiss_pqvae import read_index

def anonymous_bytes():
    with open("/proc/self/status") as status:
        return int(status.read().split("RssAnon:")[1].split()[0]) * 1024

q = np.random.default_rng(0).standard_normal((4, 8), dtype=np.float32)
kept = [read_index(path, mmap=True) for path in sys.argv[1:]]
for index in kept:
    index.search(q, 3)  # what torch and FAISS take once
found = []
for mmap in (True, False):
    before = anonymous_bytes()
    for path in sys.argv[1:]:
        kept.append(read_index(path, mmap=mmap))
        kept[-1].search(q, 3)
    found.append(anonymous_bytes() - before)
print(json.dumps(found))
"""


def test_mmap__takes_little_memory(make, tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (1_000_000, D // 2), dtype=np.uint8)
    flat, lists, refined = (
        make(kind, 8, "", refine, n=0)
        for kind, refine in (("PQ", None), ("IVF", None), ("PQ", "flat"))
    )
    flat.add_sa_codes(codes)
    lists.add_sa_codes(np.concatenate([codes[:, :1] % lists.faiss_index.nlist, codes], axis=1))
    refined.add(np.random.default_rng(0).standard_normal((200_000, D), dtype=np.float32))
    paths = [tmp_path / name for name in ("flat", "lists", "refined")]
    for index, path in zip((flat, lists, refined), paths, strict=True):
        write_index(index, path)
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    mapped, whole = json.loads(told.stdout)
    size = sum(file.stat().st_size for path in paths for file in path.iterdir())
    assert size > 20e6
    assert whole > 0.7 * size
    assert mapped < 0.2 * size  # tables, and the encoders' weights
