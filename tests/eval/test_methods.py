import numpy as np
import pytest

from faiss_pqvae.eval import methods
from faiss_pqvae.eval.methods import FlatPixels, baselines, exact, flatten, from_factory
from faiss_pqvae.native import faiss

ITEM = (1, 8, 8)
D_ITEM = 64


@pytest.fixture(autouse=True)
def one_thread():
    """Many tiny parallel regions on busy cores take minutes; one thread takes no time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (300, *ITEM), dtype=np.uint8)


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


@pytest.mark.parametrize("bits", [16, 32])
def test_baselines__every_row_has_its_bits_as_bytes(images, bits):
    rows = baselines(bits, D_ITEM)
    assert [row.name for row in rows] == ["Exact L2", "LSH", "ITQ", "PQ", "OPQ"]
    for row in rows:
        index = row.build(ITEM)
        index.train(images)
        index.add(images)
        D, ids = index.search(images[:5], 3)
        assert 8 * index.sa_code_size() == row.bits
        assert D.shape == ids.shape == (5, 3)
        assert row.reference == (row.name == "Exact L2")
        assert row.reference or row.bits == bits


def test_baselines__reduce_many_values_by_pca_and_say_so():
    rows = {row.name: row.config["factory"] for row in baselines(48, 784)}
    assert rows == {
        "Exact L2": "Flat",
        "PCA+LSH": "PCA256,LSH48r",
        "PCA+ITQ": "PCA256,ITQ48,LSH",
        "PQ": "PQ8x6np",
        "PCA+PQ": "PCA256,PQ8x6np",
        "PCA+OPQ": "PCA256,OPQ8_256,PQ8x6np",
    }


def test_baselines__pad_what_8_does_not_divide(images):
    rows = {row.name: row for row in baselines(32, 33)}
    assert "ITQ" in rows
    assert "ITQ" not in {row.name for row in baselines(40, 33)}
    index = rows["PQ"].build((3, 11))
    x = images.reshape(300, D_ITEM)[:, :33].reshape(300, 3, 11)
    index.train(x)
    index.add(x)
    assert index.search(x[:4], 1)[0].shape == (4, 1)


def test_baselines__seeds_are_other_trainings():
    """The same seed gives the same index, another seed another, exact search always the same."""
    x = np.random.default_rng(2).normal(size=(700, 33)).astype(np.float32)  # OPQ pads 33
    for rows in zip(*(baselines(16, 33, seed=seed) for seed in (0, 1, 1)), strict=True):
        found = []
        for row in rows:
            index = row.build((33,))
            index.train(x)
            index.add(x)
            found.append(index.search(x[:20], 50)[0])
        same = rows[0].reference
        assert [row.seed for row in rows] == ([0, 0, 0] if same else [0, 1, 1])
        assert rows[0].config == {**rows[1].config, "seed": 0}
        assert np.array_equal(found[0], found[1]) == same
        np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize(
    ("bits", "d", "M"),
    [(0, 64, 8), (12, 64, 8), (136, 64, 8), (32, 0, 8), (32, 64, 0), (8, 64, 16)],
)
def test_baselines__reject_sizes_out_of_range(bits, d, M):
    with pytest.raises(ValueError, match="expected"):
        baselines(bits, d, M=M)


def test_lsh__centres_pixels():
    """Without a PCA before it, thresholds are trained: every bit splits the data in halves."""
    index = baselines(16, D_ITEM)[1].build(ITEM)
    x = np.random.default_rng(1).integers(100, 256, (400, *ITEM), dtype=np.uint8)
    index.train(x)
    bits = np.unpackbits(index.faiss_index.sa_encode(flatten(x, D_ITEM)), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01


def test_pq__is_what_faiss_finds(images):
    row = next(row for row in baselines(32, D_ITEM) if row.name == "PQ")
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


def test_flat_pixels__reads_a_source_in_chunks(images, monkeypatch):
    monkeypatch.setattr(methods, "CHUNK_BYTES", 4 * D_ITEM * 32)
    source = CountingSource(images)
    index = FlatPixels(faiss.index_factory(D_ITEM, "PQ8x2np"), train_limit=50, seed=3)
    index.train(source)
    index.add(source)
    assert max(source.reads) == 32
    assert sum(source.reads) == 2 * len(images)
    assert index.faiss_index.ntotal == len(images)


def test_flat_pixels__trains_on_a_seeded_sample(images, monkeypatch):
    monkeypatch.setattr(methods, "CHUNK_BYTES", 4 * D_ITEM * 32)
    index = faiss.index_factory(D_ITEM, "PCA64,PQ8x2np")
    FlatPixels(index, train_limit=200, seed=3).train(images)
    kept = np.sort(np.random.default_rng(3).choice(300, 200, replace=False))
    mean = faiss.vector_to_array(faiss.downcast_VectorTransform(index.chain.at(0)).mean)
    np.testing.assert_allclose(mean, images[kept].reshape(200, -1).mean(0) / 255, rtol=1e-4)


def test_flat_pixels__exact_search_reads_nothing_to_train(images):
    source = CountingSource(images)
    exact(D_ITEM).build(ITEM).train(source)
    assert source.reads == []


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
