"""Additive codes at equal bytes: their norm within the bytes, or decoded as a reference."""

import numpy as np
import pytest

from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.method import Request
from faiss_pqvae.native import faiss
from faiss_pqvae.registry import methods


def rows(name, bits, shape=(128,)):
    """The factory strings of a method's rows, by what stands behind its name."""
    found = list(methods.get(name)(Request(bits, shape, M=bits // 8)))
    for row in found:
        assert row.name.startswith(f"{name}, ")
        assert row.reference == row.name.endswith("decoded") == (row.searches == ("reference",))
    return {row.name.removeprefix(f"{name}, "): row for row in found}


EXPECTED = [
    ("RQ", 8, {}),
    ("RQ", 20, {}),
    ("RQ", 16, {"decoded": "RQ2x8"}),
    ("RQ", 64, {"norm inside": "RQ7x8_Nqint8", "decoded": "RQ8x8"}),
    ("LSQ", 128, {"norm inside": "LSQ15x8_Nqint8", "decoded": "LSQ16x8"}),
    ("Product-residual", 16, {}),
    ("Product-residual", 36, {}),
    ("Product-residual", 56, {"norm inside": "PRQ2x3x8_Nqint8"}),
    ("Product-residual", 64, {"norm inside": "PRQ2x4x7_Nqint8", "decoded": "PRQ2x4x8"}),
    ("Product-residual", 128, {"norm inside": "PRQ2x10x6_Nqint8", "decoded": "PRQ2x8x8"}),
    ("Product-residual", 192, {"decoded": "PRQ2x12x8"}),
    ("Product-residual", 256, {"norm inside": "PRQ2x18x7_Nqint4", "decoded": "PRQ2x16x8"}),
]


@pytest.mark.parametrize(("name", "bits", "expected"), EXPECTED)
def test_rows__have_their_bytes_norm_included(name, bits, expected):
    found = rows(name, bits)
    assert {part: row.config["factory"] for part, row in found.items()} == expected
    for row in found.values():
        assert row.build((128,)).sa_code_size() == bits // 8


@pytest.mark.parametrize("code", ["RQ4x4", "LSQ4x4", "PRQ2x2x4"])
def test_from_factory__a_scan_measures_distances_by_the_stored_norm(code):
    x = np.random.default_rng(0).standard_normal((600, 8), dtype=np.float32)
    index = from_factory("additive", 24, 8, f"{code}_Nqint8").build((8,))
    index.train(x)
    index.add(x)
    assert index.sa_code_size() == 3
    native = index.faiss_index
    assert native.ntotal == 600  # FAISS's own index, and its own scan
    decoded = native.sa_decode(faiss.vector_to_array(native.codes).reshape(600, -1))
    D, ids = index.search(x[:9], 5)
    exact = ((x[:9, None] - decoded) ** 2).sum(-1)
    norms = (decoded**2).sum(-1)
    step = (norms.max() - norms.min()) / 200  # a norm has 256 values
    np.testing.assert_allclose(D, np.take_along_axis(exact, ids, 1), atol=step)


@pytest.mark.parametrize("shape", [(128,), (1, 8, 16)])
def test_rows__local_search_has_all_its_rounds_for_vectors(shape):
    index = rows("LSQ", 64, shape)["norm inside"].build(shape)
    lsq, usual = index.faiss_index.lsq, faiss.LocalSearchQuantizer(8, 2, 8)
    found = lsq.train_iters, lsq.encode_ils_iters
    assert found == ((usual.train_iters, usual.encode_ils_iters) if len(shape) == 1 else (8, 8))
    assert rows("RQ", 64)["decoded"].build((128,)).faiss_index.index.rq.max_beam_size == 5


@pytest.mark.parametrize(("bits", "d"), [(64, 16), (64, 8), (128, 16), (32, 20)])
def test_rows__fast_scans_and_scalars_have_the_bytes_of_the_others(bits, d):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, d), dtype=np.float32)
    request = Request(bits=bits, shape=(d,))
    found = [row for name in ("FastScan", "SQ") for row in methods.get(name)(request)]
    names = {row.name for row in found}
    assert ("PQ FastScan" in names) == (bits // 4 <= d)
    assert "RQ FastScan, norm inside" in names
    assert ({"SQ4", "SQ8"} & names != set()) == (bits in (4 * d, 8 * d))
    for row in found:
        index = row.build((d,))
        index.train(x)
        index.add(x)
        assert index.sa_code_size() == bits // 8
        near = index.search(x[:50], 10)[1]
        assert (near == np.arange(50)[:, None]).any(axis=1).mean() > 0.5


def test_rows__fast_scans_have_seeds():
    x = np.random.default_rng(0).standard_normal((600, 16), dtype=np.float32)
    for place in (0, 1):
        found = []
        for seed in (0, 1):
            index = [*methods.get("FastScan")(Request(64, (16,), seed=seed))][place].build((16,))
            index.train(x)
            index.add(x)
            found.append(index.search(x[:20], 5)[0])
        assert not np.array_equal(*found)


def test_rows__fast_scans_are_of_vectors_and_whole_bytes():
    for request in (Request(bits=64, shape=(1, 8, 8)), Request(bits=12, shape=(16,))):
        assert [*methods.get("FastScan")(request)] == []
    assert [*methods.get("SQ")(Request(bits=64, shape=(128,)))] == []
