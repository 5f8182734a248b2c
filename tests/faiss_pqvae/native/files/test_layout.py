"""The layout of FAISS's files: what no honest file has is found before FAISS reads it."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.layout import check_layout
from faiss_pqvae.native.reader import LayoutError

D, N = 8, 40
HEADER = 4 + 33  # four characters; d, ntotal, two unused, is_trained, metric_type


def _x(n: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, D), dtype=np.float32)


def _save(path: Path, description: str, n: int = N, metric: int = faiss.METRIC_L2) -> bytearray:
    index = faiss.index_factory(D, description, metric)
    index.train(_x(1300))
    if n:
        index.add_with_ids(_x(n), np.arange(n)) if "IDMap" in description else index.add(_x(n))
    faiss.write_index(index, str(path))
    return bytearray(path.read_bytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part.faiss"


INDEXES = {
    "PQ4x4np": {"IxPq"},
    "PQ4x10np": {"IxPq"},
    "PQ4x4fs": {"IPfs"},
    "IVF4,PQ4x4np": {"IwPQ", "IxF2", "ilar", "full"},
    "IVF32,PQ4x4np": {"IwPQ", "IxF2", "ilar", "full"},
    "IVF4,PQ4x4fs": {"IwPf", "IxF2", "ilbl"},
    "IVF4_HNSW8,PQ4x4np": {"IwPQ", "IHNf", "IxF2", "ilar", "full"},
    "IVF4(SQ8),PQ4x4np": {"IwPQ", "IxSQ", "ilar", "full"},
    "IVF32(PQ4x4np),PQ4x4np": {"IwPQ", "IxPq", "ilar", "full"},
    "IVF4(HNSW8_SQ8),PQ4x4np": {"IwPQ", "IHNs", "IxSQ", "ilar", "full"},
    "HNSW8,PQ4x4np": {"IHNp", "IxPq"},
    "IDMap,PQ4x4np": {"IxMp", "IxPq"},
    "IDMap2,IVF4,PQ4x4np": {"IxM2", "IwPQ", "IxF2", "ilar", "full"},
}


@pytest.mark.parametrize("description", INDEXES)
def test_layout__of_indexes(path: Path, description: str):
    _save(path, description)
    assert check_layout(path, "index") == INDEXES[description]


def test_layout__of_empty_lists_and_inner_products(path: Path):
    _save(path, "IVF4,PQ4x4np", 0, faiss.METRIC_INNER_PRODUCT)
    assert check_layout(path, "index") == {"IwPQ", "IxFI", "ilar", "sprs"}


@pytest.mark.parametrize("description", ["Flat", "SQ8", "SQfp16", "PQ4x4np", "IDMap2,Flat"])
def test_layout__of_what_refines(path: Path, description: str):
    _save(path, description)
    assert check_layout(path, "refine")


TRANSFORMS = ["PCA4", "PCAWR4", "L2norm", "RR6", "ITQ4", "OPQ2_4", "Pad16", "HR"]


@pytest.mark.parametrize("description", [*TRANSFORMS, "L2norm,PCA4,L2norm"])
def test_layout__of_transforms(path: Path, description: str):
    _save(path, f"{description},Flat", 0)
    assert "IxPT" in check_layout(path, "transforms")


def test_layout__of_a_direct_map(path: Path):
    index = faiss.index_factory(D, "IVF4,PQ4x4np")
    index.train(_x(1300))
    index.add(_x(N))
    for kind in (faiss.DirectMap.Array, faiss.DirectMap.Hashtable):
        index.set_direct_map_type(kind)
        faiss.write_index(index, str(path))
        assert "IwPQ" in check_layout(path, "index")


# -- roles


@pytest.mark.parametrize(
    ("description", "role"),
    [
        ("Flat", "index"),
        ("IVF4,Flat", "index"),
        ("IDMap2,Flat", "index"),
        ("PCA4,PQ2x4np", "index"),
        ("HNSW8,Flat", "index"),
        ("RQ2x4", "refine"),
        ("LSQ2x4", "index"),
        ("IVF32(HNSW8_PQ4x4np),PQ4x4np", "index"),
        ("PQ4x4np", "transforms"),
        ("PCA4,PQ2x4np", "transforms"),
        ("PQ4x4fs", "refine"),
        ("IDMap,Flat", "refine"),
        ("IVF4,PQ4x4np", "refine"),
        ("HNSW8,Flat", "refine"),
    ],
)
def test_layout__has_no_kinds_of_another_role(path: Path, description: str, role: Any):
    _save(path, description)
    with pytest.raises(LayoutError, match="expected one of"):
        check_layout(path, role)


def test_layout__opens_no_other_file(path: Path, tmp_path: Path):
    """FAISS's lists on disk name a file, which it opens, wherever it is."""
    index = faiss.index_factory(D, "IVF4,PQ4x4np")
    index.train(_x(1300))
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists.bin"))
    index.replace_invlists(lists, False)
    index.add(_x(N))
    faiss.write_index(index, str(path))
    with pytest.raises(LayoutError, match=r"expected one of \['ilar'\], got 'ilod'"):
        check_layout(path, "index")


def test_layout__follows_no_wrappers_in_wrappers(path: Path):
    content = _save(path, "IDMap,PQ4x4np")
    path.write_bytes(bytes(content[:HEADER]) * 100_000 + content)
    with pytest.raises(LayoutError, match="got 'IxMp'"):
        check_layout(path, "index")


# -- sizes


def _check_changed(path: Path, content: bytearray, form: str, at: int, value: Any) -> None:
    struct.pack_into(f"={form}", content, at, value)
    path.write_bytes(content)
    check_layout(path, "index")


@pytest.mark.parametrize("description", [*INDEXES, "IDMap2,IVF4,PQ4x4fs"])
def test_layout__refuses_a_file_cut_anywhere(path: Path, description: str):
    content = _save(path, description)
    for size in {*range(0, len(content), 97), *range(60), len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises(LayoutError, match="expected"):
            check_layout(path, "index")


def test_layout__refuses_more_than_an_index(path: Path):
    path.write_bytes(_save(path, "PQ4x4np") + b"\0")
    with pytest.raises(LayoutError, match="expected the end of the file, got 1 bytes more"):
        check_layout(path, "index")


@pytest.mark.parametrize(
    ("form", "at", "value", "message"),
    [
        ("i", 4, 0, "expected d >= 1"),
        ("i", 4, -8, "expected d >= 1"),
        ("i", 4, 16, "pq.d"),
        ("q", 8, -1, "ntotal >= 0"),
        ("i", 33, 2, "metric_type 0 or 1"),
        ("i", 33, -1, "metric_type 0 or 1"),
        ("Q", 37, 16, "pq.d"),
        ("Q", 45, 0, "M from 1 to 8"),
        ("Q", 45, 9, "M from 1 to 8"),
        ("Q", 53, 0, "nbits"),
        ("Q", 53, 17, "nbits"),
        ("Q", 53, 2**63, "nbits"),
        ("Q", 53, 5, "number of centroid values"),
        ("Q", 61, 2**62, r"expected \d+ bytes"),
        ("Q", 61, 127, "number of centroid values"),
    ],
)
def test_layout__refuses_numbers_of_a_product_quantizer(path, form, at, value, message):
    with pytest.raises(LayoutError, match=message):
        _check_changed(path, _save(path, "PQ4x4np"), form, at, value)


@pytest.mark.parametrize("description", ["IVF4,PQ4x4np", "IVF4,PQ4x4fs"])
@pytest.mark.parametrize(
    ("form", "at", "value", "message"),
    [
        ("Q", HEADER, 5, "number of coarse centroids"),
        ("Q", HEADER, 2**63, "number of coarse centroids"),
        ("i", HEADER + 16 + 4, 16, "d of the coarse quantizer"),
        ("q", HEADER + 16 + 8, 3, "number of coarse centroids"),
    ],
)
def test_layout__refuses_a_coarse_quantizer_that_does_not_fit(
    path, description, form, at, value, message
):
    with pytest.raises(LayoutError, match=message):
        _check_changed(path, _save(path, description), form, at, value)


@pytest.mark.parametrize(
    ("form", "offset", "value", "message"),
    [
        ("Q", 4, 5, "number of inverted lists"),
        ("Q", 12, 2**62, r"expected \d+ bytes"),  # code_size
        ("Q", 24, 3, "sizes of inverted lists"),
        ("Q", 32, 2**63, "expected inverted lists within the file"),
        ("Q", 32, 2**40, "expected inverted lists within the file"),
        ("Q", 32, 200, r"expected \d+ bytes"),
    ],
)
def test_layout__refuses_lists_beyond_the_file(path, form, offset, value, message):
    """FAISS takes memory for all lists before it reads the first: gigabytes for a small file."""
    content = _save(path, "IVF4,PQ4x4np")
    with pytest.raises(LayoutError, match=message):
        _check_changed(path, content, form, content.index(b"ilar") + offset, value)


def test_layout__refuses_sums_of_list_sizes_that_overflow(path: Path):
    content = _save(path, "IVF4,PQ4x4np")
    start = content.index(b"full") + 12
    struct.pack_into("=QQ", content, start, 2**63, 2**63)  # the sum is that of the other two
    path.write_bytes(content)
    with pytest.raises(LayoutError, match="expected inverted lists within the file"):
        check_layout(path, "index")


def test_layout__refuses_blocks_of_another_number_of_lists(path: Path):
    content = _save(path, "IVF4,PQ4x4fs")
    with pytest.raises(LayoutError, match="number of inverted lists"):
        _check_changed(path, content, "Q", content.index(b"ilbl") + 4, 3)


@pytest.mark.parametrize(("form", "offset", "value"), [("i", 4, 16), ("q", 8, N + 1)])
def test_layout__refuses_a_graph_over_another_storage(path, form, offset, value):
    content = _save(path, "HNSW8,PQ4x4np")
    with pytest.raises(LayoutError, match=r"d and ntotal of the graph|pq\.d"):
        _check_changed(path, content, form, content.index(b"IxPq") + offset, value)


def test_layout__refuses_a_scalar_quantizer_of_another_dimension(path: Path):
    content = _save(path, "SQ8")
    struct.pack_into("=Q", content, HEADER + 12, 16)
    path.write_bytes(content)
    with pytest.raises(LayoutError, match=r"sq\.d"):
        check_layout(path, "refine")


def test_layout__leaves_the_file_closed(path: Path):
    content = _save(path, "IVF4,PQ4x4np")
    before = len(list(Path("/proc/self/fd").iterdir()))
    check_layout(path, "index")
    with pytest.raises(LayoutError):
        _check_changed(path, content, "Q", content.index(b"full") + 12, 2**62)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
