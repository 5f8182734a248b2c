import numpy as np
import pytest

from faiss_pqvae.eval.methods.spherical import (
    SphericalHashing,
    count_overlaps,
    forces,
    median_spheres,
    overlap_errors,
)
from faiss_pqvae.eval.methods.spherical_distance import smallest, spherical_distances, words


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(2000, 24)) / np.sqrt(np.arange(1, 25))).astype(np.float32)


@pytest.fixture(scope="module")
def index(x):
    index = SphericalHashing(24, 16)
    index.train(x)
    return index


def test_spherical_distances__by_hand():
    def code(text):
        return words(np.array([[c == "1" for c in text]]))

    a = code("11110000")
    stored = np.concatenate([code(t) for t in ("11110000", "11001100", "10000000", "00001111")])
    # 0 of 4; 4 differ and 2 are common; 3 and 1; none common: 64 bits of a word and the 8.
    np.testing.assert_array_equal(spherical_distances(a, stored), [[0, 2, 3, 72]])
    nothing = code("00000000")
    np.testing.assert_array_equal(
        spherical_distances(nothing, np.concatenate([nothing, a])), [[0, 68]]
    )


@pytest.mark.parametrize("bits", [8, 64, 72, 136])
def test_spherical_distances__are_counts_of_bits(bits):
    generator = np.random.default_rng(0)
    a, b = (generator.random((n, bits)) < 0.4 for n in (5, 40))
    differing, common = (a[:, None] ^ b[None]).sum(-1), (a[:, None] & b[None]).sum(-1)
    expected = np.where(
        common > 0, differing / np.maximum(common, 1), -(-bits // 64) * 64 + differing
    )
    expected[(common == 0) & (differing == 0)] = 0
    np.testing.assert_allclose(spherical_distances(words(a), words(b)), expected, rtol=1e-6)


def test_smallest__orders_ties_by_position():
    values = np.array([3, 1, 2, 1, 2, 2, 0], np.float32)
    assert smallest(values, 5).tolist() == [6, 1, 3, 2, 4]
    assert smallest(values, 1).tolist() == [6]
    assert smallest(values, 7).tolist() == [6, 1, 3, 2, 4, 5, 0]


def test_median_spheres__hold_half():
    x = np.array([[0.0], [1.0], [2.0], [5.0]])
    radii, inside = median_spheres(x, np.array([[0.0], [4.0]]))
    np.testing.assert_array_equal(radii, [1, 2])  # of 0 1 2 5 and of 4 3 2 1 the second
    assert inside.T.tolist() == [[True, True, False, False], [False, False, True, True]]
    np.testing.assert_array_equal(count_overlaps(inside), [[2, 0], [0, 2]])
    # n / 4 = 1 expected, 0 found: off by one quarter of n, without deviation.
    assert overlap_errors(count_overlaps(inside), 4) == (1.0, 0.0)


def test_forces__by_hand():
    """n = 8: 4 common vectors are 2 too many: away from each other by 1/2 * 2/2, halved."""
    pivots = np.array([[0.0, 0.0], [2.0, 0.0]])
    moved = forces(pivots, np.array([[4.0, 4.0], [4.0, 4.0]]), 8)
    np.testing.assert_allclose(moved, [[-0.5, 0], [0.5, 0]])
    together = forces(pivots, np.array([[4.0, 0.0], [0.0, 4.0]]), 8)
    np.testing.assert_allclose(together, [[0.5, 0], [-0.5, 0]])
    np.testing.assert_allclose(forces(pivots, np.array([[4.0, 2.0], [2.0, 4.0]]), 8), 0)


def test_spherical__bits_are_balanced_and_overlaps_a_quarter(index, x):
    """Eqs. (2) and (3), on what it was trained on."""
    bits = index.encode(x)
    assert np.abs(bits.sum(0) - 1000).max() <= 1
    overlaps = count_overlaps(bits)
    mean, deviation = overlap_errors(overlaps, len(x))
    assert mean <= 0.10
    assert deviation <= 0.15
    assert np.abs(overlaps[np.triu_indices(16, 1)].mean() - 500) < 50


def test_spherical__the_iteration_brings_overlaps_near(index):
    first, last = np.array(index.history)[[0, -1]]
    assert 1 < len(index.history) < 300
    assert (last < first / 2).any()
    assert last[0] <= 0.10 < first[0]


def test_spherical__search_is_by_its_distance(index, x):
    index._words.clear()
    index.add(x[:700])
    index.add(x[700:])
    D, ids = index.search(x[:8], 50, block_bytes=4 * len(x) * 3)  # three queries in a block
    distances = spherical_distances(words(index.encode(x[:8])), words(index.encode(x)))
    order = np.argsort(distances, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(D, np.take_along_axis(distances, order, 1))
    assert D.dtype == np.float32
    assert ids.dtype == np.int64
    assert index.sa_code_size() == 2


def test_spherical__is_repeated_by_its_seed(x):
    pivots = []
    for seed in (3, 3, 4):
        index = SphericalHashing(24, 8, seed=seed, n_samples=500)
        index.train(x)
        pivots.append(index.pivots)
    np.testing.assert_array_equal(pivots[0], pivots[1])
    assert not np.allclose(pivots[0], pivots[2])


def test_spherical__says_when_it_did_not_get_there(x, caplog):
    index = SphericalHashing(24, 16, max_steps=1)
    index.train(x)
    assert "after 1 steps the overlaps are off by" in caplog.text
    assert np.abs(index.encode(x).sum(0) - 1000).max() <= 1  # radii are of the last pivots


@pytest.mark.parametrize("arguments", [{"n_samples": 1}, {"max_steps": 0}, {"mean_tolerance": 0.0}])
def test_spherical__rejects_settings(arguments):
    with pytest.raises(ValueError, match="expected n_samples >= 2"):
        SphericalHashing(4, 8, **arguments)
