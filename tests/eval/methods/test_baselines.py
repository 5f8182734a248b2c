import re

import numpy as np
import pytest

from faiss_pqvae.eval.methods import flat
from faiss_pqvae.eval.methods.baselines import FAST, baselines
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.methods.flat import FlatPixels, flatten
from faiss_pqvae.native import faiss

ITEM = (1, 8, 8)
D_ITEM = 64


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (300, *ITEM), dtype=np.uint8)


# A method that is added has tests of its own.
HERE = {
    *("Exact L2", "LSH", "Spectral Hashing", "Spherical Hashing", "ITQ", "Deep Hashing", "PQ"),
    *("OPQ", "RQ", "LSQ", "Product-residual", "RaBitQ"),
}
D_VECTORS = (D_ITEM,)


def known_here(*sizes, **options):
    """The rows of `baselines` that these tests are about."""
    rows = baselines(*sizes, **options)
    return [row for row in rows if re.split(r" \(|, ", row.name.removeprefix("PCA+"))[0] in HERE]


class CountingSource:
    """An array that records how many rows every read took."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.reads = []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        out = self.array[rows]
        self.reads.append(len(out))
        return out


def test_baselines__every_row_has_its_bits_as_bytes(images):
    rows = known_here(16, D_VECTORS)
    assert [row.name for row in rows] == [
        *("Exact L2", "LSH", "Spectral Hashing", "Spherical Hashing", "ITQ", "Deep Hashing"),
        *("PQ", "OPQ", "PQ (2x8)", "OPQ (2x8)", "RQ, decoded", "LSQ, decoded"),
    ]
    for row in rows:
        index = row.build(ITEM)
        assert index.sa_code_size() == row.bits / 8
        slow = ("OPQ", "OPQ (2x8)", "RQ, decoded", "Deep Hashing")
        if row.name in slow:  # seconds; seeds train them too
            continue
        index.train(images)
        index.add(images)
        D, ids = index.search(images[:5], 3)
        assert 8 * index.sa_code_size() == row.bits
        assert D.shape == ids.shape == (5, 3)
        assert row.reference == (row.name == "Exact L2" or row.name.endswith("decoded"))
        assert row.name == "Exact L2" or row.bits == 16


def test_baselines__reduce_many_values_by_pca_and_say_so():
    rows = {row.name: row.config["factory"] for row in known_here(48, (1, 28, 28))}
    assert rows == {
        "Exact L2": "Flat",
        "PCA+LSH": "PCA256,LSH48r",
        "Spectral Hashing": "PCA256,SpectralHashing48",
        "PCA+Spherical Hashing": "PCA256,SphericalHashing48",
        "PCA+ITQ": "PCA256,ITQ48,LSH",
        "PCA+Deep Hashing": "PCA256,DeepHashing48",
        "PQ": "PQ8x6np",
        "PCA+PQ": "PCA256,PQ8x6np",
        "PCA+OPQ": "PCA256,OPQ8_256,PQ8x6np",
        "PCA+PQ (6x8)": "PCA256,Pad258,PQ6x8np",
        "PCA+OPQ (6x8)": "PCA256,OPQ6_258,PQ6x8np",
        "PCA+RQ, norm inside": "PCA256,RQ5x8_Nqint8",
        "PCA+RQ, decoded": "PCA256,RQ6x8",
        "PCA+LSQ, norm inside": "PCA256,LSQ5x8_Nqint8",
        "PCA+LSQ, decoded": "PCA256,LSQ6x8",
        "PCA+Product-residual, decoded": "PCA256,PRQ2x3x8",
    }


def test_baselines__of_vectors_keep_all_dimensions():
    rows = known_here(64, (384,))
    assert "PCA" not in " ".join(f"{row.name} {row.config['factory']}" for row in rows)
    assert {row.config["d"] for row in rows} == {384}


@pytest.mark.parametrize(("bits", "M", "product"), [(12, 2, "2x6"), (20, 4, "4x5"), (12, 3, "3x4")])
def test_baselines__of_half_bytes(images, bits, M, product):
    """What has whole bytes only is left out; the others round up to bytes."""
    rows = {row.name: row for row in known_here(bits, D_VECTORS, M=M)}
    assert set(rows) == {"Exact L2", "LSH", "ITQ", "PQ", "OPQ"}
    assert rows["PQ"].config["factory"].endswith(f"PQ{product}np")
    for name in ("LSH", "ITQ", "PQ"):
        index = rows[name].build(ITEM)
        index.train(images)
        index.add(images)
        assert index.sa_code_size() == -(-bits // 8)
        assert index.search(images[:5], 300)[1].shape == (5, 300)


def test_baselines__of_vectors_of_16_bytes():
    """As many 8-bit codewords as sub-quantizers: nothing is there twice."""
    rows = {row.name: row for row in baselines(128, (128,), M=16)}
    assert [name for name in rows if "(" in name] == []
    assert rows["Product-residual, decoded"].config["factory"] == "PRQ2x8x8"
    assert all(row.build((128,)).sa_code_size() == row.bits // 8 for row in rows.values())


@pytest.mark.parametrize("d", [64, 61])
def test_rabitq__has_a_row_where_every_dimension_has_its_bit(d):
    """With fewer bytes it would be RaBitQ of a few dimensions, which nobody uses."""
    found = {
        bits: [row for row in baselines(bits, (d,), M=16) if "RaBitQ" in row.name]
        for bits in (96, 112, 128, 144)
    }
    assert [bits for bits, rows in found.items() if rows] == [128]
    (row,) = found[128]
    assert (row.name, row.config["factory"]) == ("RaBitQ", f"RR{d},RaBitQ")
    x = np.random.default_rng(0).normal(size=(300, d)).astype(np.float32)
    index = row.build((d,))
    index.train(x)
    index.add(x)
    assert index.sa_code_size() == 16
    np.testing.assert_array_equal(index.search(x[:50], 1)[1][:, 0], np.arange(50))


def test_baselines__only_what_is_asked_for():
    assert [row.name for row in baselines(32, (28, 28), only=("LSH", "OPQ"))] == [
        *("PCA+LSH", "PCA+OPQ")
    ]
    assert {row.name for row in baselines(32, D_VECTORS, only=FAST)} == set(FAST)
    with pytest.raises(ValueError, match=r"expected some of .*'LSH'.*got only \('HNSW',\)"):
        baselines(32, D_VECTORS, only=("HNSW",))


def test_baselines__pad_what_8_does_not_divide(images):
    rows = {row.name: row for row in baselines(32, (33,))}
    assert "ITQ" in rows
    assert "ITQ" not in {row.name for row in baselines(40, (33,))}
    assert rows["Product-residual, decoded"].config["factory"] == "Pad34,PRQ2x2x8"
    index = rows["PQ"].build((3, 11))
    x = images.reshape(300, D_ITEM)[:, :33].reshape(300, 3, 11)
    index.train(x)
    index.add(x)
    assert index.search(x[:4], 1)[0].shape == (4, 1)


def test_baselines__seeds_are_other_trainings():
    """The same seed gives the same index, another seed another; two methods know no chance."""
    x = np.random.default_rng(2).normal(size=(300, 33)).astype(np.float32)  # OPQ pads 33
    all_rows = (baselines(16, (33,), seed=seed, only=FAST) for seed in (0, 1, 1))
    for rows in zip(*all_rows, strict=True):
        found = []
        for row in rows:
            index = row.build((33,))
            index.train(x)
            index.add(x)
            found.append(index.search(x[:20], 50)[0])
        reference = rows[0].reference
        assert [row.seed for row in rows] == ([0, 0, 0] if reference else [0, 1, 1])
        assert rows[0].config == {**rows[1].config, "seed": 0}
        same = reference or rows[0].name == "Spectral Hashing"
        assert np.array_equal(found[0], found[1]) == same
        np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize("factory", ["IVF4,PQ8x2np", "PQ8x2np"])
def test_from_factory__seeds_reach_the_clusterings(images, factory):
    codes = []
    for seed in (0, 3, 3):
        index = from_factory("seeded", 0, D_ITEM, factory, seed=seed).build(ITEM)
        index.train(images)
        codes.append(index.faiss_index.sa_encode(flatten(images, D_ITEM)))
    assert (codes[0] != codes[1]).any(axis=0).all()
    np.testing.assert_array_equal(codes[1], codes[2])


@pytest.mark.parametrize("factory", ["RQ2x3", "LSQ2x4", "Pad66,PRQ2x2x3"])
def test_from_factory__additive_codes_are_searched_by_their_decoded_vectors(images, factory):
    found = []
    for seed in (0, 0, 5):
        row = from_factory("additive", 0, D_ITEM, factory, decoded=True, seed=seed)
        index = row.build(ITEM)
        index.train(images)
        index.add(images[:200])
        index.add(images[200:])
        found.append(index.search(images[:9], 20))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert not np.array_equal(found[0][0], found[2][0])
    # What is stored: local search, which knows chance, may encode the same vector otherwise.
    decoded = index.faiss_index.index.sa_decode(np.concatenate(index.faiss_index._codes))
    x = images.reshape(300, D_ITEM) / 255.0
    exact_D = ((x[:9, None] - decoded[None]) ** 2).sum(-1)
    D, ids = found[2]
    np.testing.assert_allclose(D, np.sort(exact_D, axis=1)[:, :20], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(exact_D, ids, 1), D, rtol=1e-4)


@pytest.mark.parametrize(
    ("bits", "d", "M"),
    [
        (0, 64, 8),
        (12, 64, 8),
        (10, 64, 2),
        (6, 64, 1),
        (136, 64, 8),
        (32, 0, 8),
        (32, 64, 0),
        (8, 64, 16),
    ],
)
def test_baselines__reject_sizes_out_of_range(bits, d, M):
    with pytest.raises(ValueError, match="expected"):
        baselines(bits, (d,), M=M)


def test_lsh__centres_pixels():
    """Without a PCA before it, thresholds are trained: every bit splits the data in halves."""
    index = baselines(16, D_VECTORS)[1].build(ITEM)
    x = np.random.default_rng(1).integers(100, 256, (400, *ITEM), dtype=np.uint8)
    index.train(x)
    bits = np.unpackbits(index.faiss_index.sa_encode(flatten(x, D_ITEM)), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_pq__is_what_faiss_finds(images):
    row = next(row for row in baselines(32, D_VECTORS) if row.name == "PQ")
    index = row.build(ITEM)
    index.train(images)
    index.add(images)
    x = images.reshape(300, D_ITEM).astype(np.float32) / np.float32(255)
    native = faiss.index_factory(D_ITEM, "PQ8x4np")
    native.pq.cp.min_points_per_centroid = 1
    native.train(x)
    native.add(x)
    D, ids = index.search(images[:7], 10)
    expected_D, expected_ids = native.search(x[:7], 10)
    np.testing.assert_array_equal(D, expected_D)
    np.testing.assert_array_equal(ids, expected_ids)


def test_exact__is_a_float64_sort(images):
    index = exact(D_ITEM).build(ITEM)
    index.train(images)
    index.add(images)
    D, ids = index.search(images[:9], 20)
    x = images.reshape(300, D_ITEM) / 255.0
    distances = ((x[:9, None] - x[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(ids, np.argsort(distances, axis=1)[:, :20])
    np.testing.assert_allclose(D, np.sort(distances, axis=1)[:, :20], atol=1e-4)


def test_opq__is_learned_for_the_bits_of_the_code(images):
    x = images.reshape(300, D_ITEM).astype(np.float32) / np.float32(255)
    x = x @ np.random.default_rng(2).normal(size=(D_ITEM, D_ITEM)).astype(np.float32)
    row = from_factory("OPQ", 16, D_ITEM, "OPQ8_64,PQ8x2np")
    ours = row.build((D_ITEM,))
    ours.train(x)
    native = faiss.index_factory(D_ITEM, "OPQ8_64,PQ8x2np")
    eight_bits = faiss.ProductQuantizer(D_ITEM, 8, 8)
    eight_bits.cp.min_points_per_centroid = 1
    faiss.downcast_VectorTransform(native.chain.at(0)).pq = eight_bits
    native.train(x)
    error, factory_error = (
        ((index.sa_decode(index.sa_encode(x)) - x) ** 2).sum()
        for index in (ours.faiss_index, native)
    )
    assert error < factory_error


def test_flat_pixels__reads_a_source_in_chunks(images):
    source = CountingSource(images)
    index = FlatPixels(
        faiss.index_factory(D_ITEM, "PQ8x2np"),
        train_limit=50,
        seed=3,
        chunk_bytes=4 * D_ITEM * 32,
    )
    index.train(source)
    index.add(source)
    assert max(source.reads) == 32
    assert sum(source.reads) == 2 * len(images)
    assert index.faiss_index.ntotal == len(images)


def test_flat_pixels__trains_on_a_seeded_sample(images):
    index = faiss.index_factory(D_ITEM, "PCA64,PQ8x2np")
    FlatPixels(index, train_limit=200, seed=3, chunk_bytes=4 * D_ITEM * 32).train(images)
    kept = np.sort(np.random.default_rng(3).choice(300, 200, replace=False))
    mean = faiss.vector_to_array(faiss.downcast_VectorTransform(index.chain.at(0)).mean)
    np.testing.assert_allclose(mean, images[kept].reshape(200, -1).mean(0) / 255, rtol=1e-4)


def test_flat_pixels__exact_search_reads_nothing_to_train(images):
    source = CountingSource(images)
    exact(D_ITEM).build(ITEM).train(source)
    assert source.reads == []


def test_flat_pixels__a_pca_is_learned_once_for_all_that_start_from_it(images, monkeypatch):
    monkeypatch.setattr(flat, "_reductions", {})
    learned = []

    def counted(*args, original=flat.subsample, **options):
        learned.append(args)
        return original(*args, **options)

    monkeypatch.setattr(flat, "subsample", counted)
    indexes = [
        FlatPixels(faiss.index_factory(16, code), d=D_ITEM, seed=seed)
        for seed, code in enumerate(("PQ4x4np", "LSH16r"))
    ]
    for index in indexes:
        index.train(images.copy())
        index.add(images)
    assert len(learned) == 1
    native = faiss.index_factory(D_ITEM, "PCA16,PQ4x4np")
    faiss.downcast_index(native.index).pq.cp.min_points_per_centroid = 1
    x = flatten(images, D_ITEM)
    native.train(x)
    native.add(x)
    D, ids = indexes[0].search(images[:7], 10)
    expected_D, expected_ids = native.search(x[:7], 10)
    np.testing.assert_allclose(D, expected_D, rtol=1e-4)
    np.testing.assert_array_equal(ids, expected_ids)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    FlatPixels(faiss.index_factory(16, "LSH16r"), d=D_ITEM).train(changed)
    assert len(learned) == 2


def test_reduced__seconds_are_in_the_time_of_each(images, monkeypatch):
    monkeypatch.setattr(flat, "_reductions", {})
    first = FlatPixels(faiss.index_factory(16, "LSH16r"), d=D_ITEM)
    first.train(images)
    second = FlatPixels(faiss.index_factory(16, "LSH16r"), d=D_ITEM)
    second.train(images)
    (reduction,) = flat._reductions.values()  # learned once, in the time of both
    assert min(first.train_s, second.train_s) >= reduction.seconds > 0


def test_flat_pixels__rejects_an_index_of_more_dimensions():
    with pytest.raises(ValueError, match="expected d >= 64, the dimension of the index, got 63"):
        FlatPixels(faiss.index_factory(D_ITEM, "PQ8x2np"), d=63)


def test_build__rejects_items_of_another_size():
    with pytest.raises(ValueError, match=r"expected items of 64 values, got shape \(3, 8, 8\)"):
        exact(D_ITEM).build((3, 8, 8))


def test_flatten__scales_bytes_only():
    x = np.array([[[0, 51], [102, 255]]], np.uint8)
    np.testing.assert_allclose(flatten(x, 4), [[0, 0.2, 0.4, 1]], rtol=1e-6)
    floats = np.array([[3.0, -1.0]])
    assert flatten(floats, 2).dtype == np.float32
    np.testing.assert_array_equal(flatten(floats, 2), floats)


def test_flatten__rejects_integers():
    with pytest.raises(TypeError, match="expected uint8 or floating point items, got int64"):
        flatten(np.zeros((2, 4), np.int64), 4)
