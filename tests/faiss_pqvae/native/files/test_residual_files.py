"""Files of residual quantizers: what was written comes back, what was altered is refused."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import is_mapped, read_native, write_native
from faiss_pqvae.native.files.layout import check_layout
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks, new_residual_index
from faiss_pqvae.native.reader import LayoutError
from faiss_pqvae.native.store.store import Store

D, M, N = 6, 3, 40
HEADER = 4 + 33  # four characters; d, ntotal, two unused, is_trained, metric_type
NBITS = HEADER + 24
CODEBOOKS = NBITS + 8 * M + 1
AFTER = CODEBOOKS + 8 + 4 * M * 16 * D  # of 4 bits
ID_MAPS = [None, faiss.IndexIDMap, faiss.IndexIDMap2]
SCRIPT = Path(__file__).with_name("hostile_residual.py")
MUTATIONS = int(os.environ.get("FAISS_PQVAE_HOSTILE", "400"))


def _vectors(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def _index(nbits: int = 4, n: int = N, id_map: Any = None) -> Any:
    index = new_residual_index(D, M, nbits)
    centroids = _vectors(M << nbits, 0).reshape(M, -1, D)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    if id_map is None:
        index.add(_vectors(n))
        return index
    index = id_map(index)
    index.add_with_ids(_vectors(n), np.arange(n) + 2**40)
    return index


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.faiss"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("id_map", ID_MAPS)
@pytest.mark.parametrize(("nbits", "n"), [(1, N), (4, N), (6, 1), (8, N), (12, N), (8, 0)])
def test_read__gives_what_was_written(path: Path, nbits: int, n: int, id_map: Any, mmap: bool):
    index = _index(nbits, n, id_map)
    write_native(index, path, "index")
    again = read_native(path, "index", mmap=mmap)
    assert type(again) is type(index)
    assert extract_codebooks(again) == extract_codebooks(index)
    assert is_mapped(again) == mmap
    q = _vectors(5, 9)
    sel = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, 2**40 + 7))
    for params in (None, sel):
        found, expected = (Store(each).search(q, 3, params=params) for each in (again, index))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    if n:
        np.testing.assert_array_equal(
            Store(again).reconstruct(np.array([0, n - 1])),
            Store(index).reconstruct(np.array([0, n - 1])),
        )
    np.testing.assert_array_equal(Store(again).sa_encode(q), Store(index).sa_encode(q))


@pytest.mark.parametrize(
    ("id_map", "kinds"),
    [(None, {"IxRq"}), (faiss.IndexIDMap, {"IxRq", "IxMp"}), (faiss.IndexIDMap2, {"IxRq", "IxM2"})],
)
def test_layout__of_a_residual_quantizer(path: Path, id_map: Any, kinds: set[str]):
    faiss.write_index(_index(id_map=id_map), str(path))
    assert check_layout(path, "index") == kinds


@pytest.mark.parametrize("role", ["transforms", "refine"])
def test_layout__has_none_in_other_roles(path: Path, role: Any):
    faiss.write_index(_index(), str(path))
    with pytest.raises(LayoutError, match=r"expected one of .*, got 'IxRq'"):
        check_layout(path, role)


def test_layout__refuses_a_file_cut_anywhere(path: Path):
    faiss.write_index(_index(), str(path))
    content = path.read_bytes()
    for size in {*range(0, len(content), 97), *range(130), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(LayoutError, match="expected"):
            check_layout(path, "index")


@pytest.mark.parametrize(
    ("form", "at", "value", "message"),
    [
        ("i", 4, 0, "expected d >= 1"),
        ("i", 4, 7, r"rq\.d = 7, got 6"),
        ("Q", HEADER, 7, r"rq\.d = 6, got 7"),
        ("Q", HEADER + 8, 0, "number of levels = 0, got 3"),
        ("Q", HEADER + 8, 2**61, "number of levels"),
        ("Q", HEADER + 16, 2, "number of levels = 3, got 2"),
        ("Q", HEADER + 16, 2**61, r"expected \d+ bytes"),
        ("Q", NBITS, 5, r"the same nbits, 1 to 12, got \[4, 5\]"),
        ("QQQ", NBITS, (0, 0, 0), r"the same nbits, 1 to 12, got \[0\]"),
        ("QQQ", NBITS, (13, 13, 13), r"the same nbits, 1 to 12, got \[13\]"),
        ("QQQ", NBITS, (2**63, 2**63, 2**63), "the same nbits"),
        ("QQQ", NBITS, (5, 5, 5), "number of codebook values = 576, got 288"),
        ("Q", CODEBOOKS, 287, "number of codebook values = 288, got 287"),
        ("Q", CODEBOOKS, 2**62, r"expected \d+ bytes"),
        ("i", AFTER, 0, "search_type = 1, got 0"),
        ("i", AFTER, 6, "search_type = 1, got 6"),
        ("Q", AFTER + 20 + 8, 2**62, r"expected \d+ bytes"),
    ],
)
def test_layout__refuses_numbers(path: Path, form: str, at: int, value: Any, message: str):
    faiss.write_index(_index(), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into(f"={form}", content, at, *np.atleast_1d(value).tolist())
    path.write_bytes(content)
    with pytest.raises(LayoutError, match=message):
        check_layout(path, "index")
    with pytest.raises(ValueError, match="do not fit together"):
        read_native(path, "index")


# -- what must agree, and does not


def _set(name: str, value: Any) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        part, _, last = name.rpartition(".")
        setattr(getattr(index, part) if part else index, last, value)

    return change


def _nbits(*values: int) -> Callable[[Any], None]:
    return lambda index: faiss.copy_array_to_vector(np.array(values, np.uint64), index.rq.nbits)


def _value(value: float) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        codebooks = index.rq.codebooks
        faiss.rev_swig_ptr(codebooks.data(), codebooks.size())[7] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("metric_type", faiss.METRIC_L2), "metric_type = 0, got 1"),
        (_set("d", 7), r"rq\.d = 7"),
        (_set("rq.d", 7), r"rq\.d = 6"),
        (_set("rq.M", 2), "number of levels = 2, got 3"),
        (_set("is_trained", False), "trained indexes only"),
        (_set("rq.is_trained", False), "is_trained of the rq"),
        (_set("rq.search_type", faiss.AdditiveQuantizer.ST_norm_float), "search_type"),
        (_set("rq.max_beam_size", 5), "max_beam_size = 1, got 5"),
        (_set("rq.code_size", 1), r"rq\.code_size = 2, got 1"),
        (_set("code_size", 1), " code_size = 2, got 1"),
        (_set("ntotal", N + 1), "bytes of codes"),
        (_nbits(4, 4), "number of levels = 3, got 2"),
        (_nbits(4, 4, 5), "the same nbits"),
        (_nbits(13, 13, 13), "the same nbits"),
        (_nbits(0, 0, 0), "the same nbits"),
        (lambda index: index.rq.codebooks.resize(287), "number of codebook values = 288, got 287"),
        (_value(np.nan), "codewords with finite distances"),
        (_value(np.inf), "codewords with finite distances"),
        (_value(1e19), "codewords with finite distances"),
    ],
)
def test_write__refuses_parts_that_disagree(path: Path, change: Any, message: str):
    index = _index()
    change(index)
    with pytest.raises(ValueError, match=f"cannot hold this IndexResidual.*{message}"):
        write_native(index, path, "index")
    assert not path.exists()


def test_read__refuses_parts_that_disagree(path: Path):
    index = _index()
    index.rq.max_beam_size = 2**20
    faiss.write_index(index, str(path))
    with pytest.raises(ValueError, match="do not fit together: expected max_beam_size = 1"):
        read_native(path, "index")


@pytest.mark.timeout(60 + MUTATIONS // 10)
def test_read__survives_mutated_files(tmp_path: Path):
    child = subprocess.run(
        [sys.executable, str(SCRIPT), str(MUTATIONS)],
        capture_output=True,
        cwd=tmp_path,  # not the repository, where a folder has the name of the package
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    last = child.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    assert child.returncode == 0, f"{last}\n{child.stderr.decode(errors='replace')[-4000:]}"
    read, refused = map(int, last.split())
    assert read + refused == MUTATIONS
    assert min(read, refused) > MUTATIONS // 20
