"""What the three hashing methods of our own do alike."""

import numpy as np
import pytest

from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.methods.binary import HammingIndex, pack
from faiss_pqvae.eval.methods.deep_hashing import DeepHashing
from faiss_pqvae.eval.methods.spectral import SpectralHashing
from faiss_pqvae.eval.methods.spherical import SphericalHashing
from faiss_pqvae.native import faiss

CLASSES = (SpectralHashing, SphericalHashing, DeepHashing)
every_class = pytest.mark.parametrize("make", CLASSES)


def vectors(n=50, d=4):
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


@every_class
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (vectors(d=3), ValueError, r"expected vectors of shape \(n, 4\), got \(50, 3\)"),
        (vectors()[0], ValueError, r"expected vectors of shape \(n, 4\), got \(4,\)"),
        (vectors(1), ValueError, "at least 2 different training items, got 1"),
        (vectors(0), ValueError, "at least 2 different training items, got 0"),
        (np.ones((9, 4), np.float32), ValueError, "at least 2 different training items, got 9"),
        (vectors().astype(np.int64), TypeError, "expected floating point vectors, got int64"),
        (np.where(vectors() > 1, np.nan, vectors()), ValueError, "got NaN or infinity"),
        (np.where(vectors() > 1, np.inf, vectors()), ValueError, "got NaN or infinity"),
    ],
)
def test_train__rejects(make, x, error, message):
    with pytest.raises(error, match=message):
        make(4, 8).train(x)


@every_class
@pytest.mark.parametrize(("d", "bits"), [(4, 0), (4, 12), (4, -8), (0, 8)])
def test_init__rejects_sizes(make, d, bits):
    with pytest.raises(ValueError, match="expected"):
        make(d, bits)


@every_class
def test_search__rejects_what_it_cannot_do(make):
    index = make(4, 8)
    with pytest.raises(RuntimeError, match="call train first"):
        index.add(vectors())
    index.train(vectors())
    with pytest.raises(ValueError, match="expected k from 1 to the 0 stored codes, got 1"):
        index.search(vectors(), 1)
    index.add(vectors())
    for k in (0, -1, 51):
        with pytest.raises(ValueError, match=f"expected k from 1 to the 50 stored codes, got {k}"):
            index.search(vectors(), k)
    with pytest.raises(ValueError, match="got NaN"):
        index.search(np.full((1, 4), np.nan, np.float32), 1)


@every_class
def test_encode__one_vector_has_the_code_it_has_among_others(make):
    x = vectors(200, 16).astype(np.float64)  # float64 is taken too
    index = make(16, 24)
    index.train(x)
    bits = index.encode(x)
    assert bits.shape == (200, 24)
    agree = [np.mean(index.encode(x[i : i + 1]) == bits[i]) for i in range(20)]
    assert np.mean(agree) > 0.99  # sums of floats in another order may turn a bit near its limit


def test_pack__first_bit_is_lowest():
    bits = np.zeros((1, 16), bool)
    bits[0, [0, 9]] = True
    np.testing.assert_array_equal(pack(bits), [[1, 2]])


def test_hamming_index__refuses_bits_without_bytes():
    with pytest.raises(ValueError, match="expected bits as a positive multiple of 8, got 4"):
        HammingIndex(4)


def recalls(x, xq, bits, seed):
    """Recall@100 of LSH and the three: the share of the 100 true nearest among 100 found."""
    exact = faiss.IndexFlatL2(x.shape[1])
    exact.add(x)
    true = exact.search(xq, 100)[1]
    found = {}
    for row in baselines(bits, x.shape[1:], seed=seed):
        if row.name in ("LSH", "Spectral Hashing", "Spherical Hashing", "Deep Hashing"):
            index = row.build(x.shape[1:])
            index.train(x)
            index.add(x)
            ids = index.search(xq, 100)[1]
            hits = [len(np.intersect1d(a, b)) for a, b in zip(true, ids, strict=True)]
            found[row.name] = np.mean(hits) / 100
    return found


def test_hashing__beats_random_hyperplanes_on_gaussian_vectors():
    """32 bits, 128 dimensions, variance falling as 1 / j; see benchmarks/hashing_gaussian.py."""
    x = np.random.default_rng(1).normal(size=(3100, 128)) / np.sqrt(np.arange(1, 129))
    found = recalls(x[100:].astype(np.float32), x[:100].astype(np.float32), 32, seed=1)
    lsh = found.pop("LSH")
    assert len(found) == 3
    assert min(found.values()) > lsh + 0.01
