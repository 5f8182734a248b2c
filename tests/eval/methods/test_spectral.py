import numpy as np
import pytest

from faiss_pqvae.eval.methods.spectral import SpectralHashing, eigenvalues, smoothest_modes


def test_smoothest_modes__by_hand():
    """k / (b - a) is 1/4, 2/4, 3/4, ... for width 4, 1/2, 1, ... for width 2, 1, ... for 1."""
    modes = smoothest_modes(np.array([2.0, 4.0, 1.0]), 6)
    assert modes.tolist() == [[1, 1], [0, 1], [1, 2], [1, 3], [0, 2], [1, 4]]


def test_smoothest_modes__have_the_smallest_of_all_eigenvalues():
    width = np.array([3.0, 1.7, 0.9, 0.8])
    modes = smoothest_modes(width, 16)
    # With epsilon = 1 the higher ones are all 1 in float64.
    every = eigenvalues(width[:, None], np.arange(1, 17)[None], epsilon=0.1)
    taken = every[modes[:, 0], modes[:, 1] - 1]
    np.testing.assert_array_equal(taken, np.sort(every.ravel())[:16])
    assert len({tuple(mode) for mode in modes.tolist()}) == 16


def test_eigenvalues__eq_8_by_hand():
    value = eigenvalues(np.array([2.0]), np.array([1]), epsilon=0.5)
    np.testing.assert_allclose(value, 1 - np.exp(-0.125 * (np.pi / 2) ** 2))


def test_smoothest_modes__skip_directions_without_extent():
    assert smoothest_modes(np.array([0.0, 1.0]), 2).tolist() == [[1, 1], [1, 2]]
    with pytest.raises(ValueError, match="expected vectors that vary"):
        smoothest_modes(np.zeros(3), 8)


def test_spectral__bits_of_a_line_by_hand():
    """On [0, 16] bit k is the sign of cos(k pi x / 16): it changes k times, first at 8 / k."""
    x = np.linspace(0, 16, 401, dtype=np.float32)[:, None]
    index = SpectralHashing(1, 8)
    index.train(x)
    assert index.modes.tolist() == [[0, k] for k in range(1, 9)]
    # Principal components have no sign of their own: 0 may be at either end.
    bits = index.encode(x)
    ends = bits if index.components[0, 0] > 0 else bits[::-1]
    np.testing.assert_array_equal((np.diff(ends.astype(int), axis=0) != 0).sum(0), range(1, 9))
    position = np.linspace(0, 16, 401)
    for k in range(1, 9):
        clear = np.abs(np.cos(k * np.pi * position / 16)) > 1e-5  # zeros of the cosine are on x
        expected = np.cos(k * np.pi * position / 16) > 0
        np.testing.assert_array_equal(ends[clear, k - 1], expected[clear])


def test_spectral__bits_of_a_box_are_balanced_and_uncorrelated():
    """Uniform in a box, rotated: the setting that eqs. (7) and (8) are exact for.

    Only cosines of odd frequencies k < l in one direction have signs that are correlated: by the
    Fourier series of the sign, 1 / l for k = 1.
    """
    generator = np.random.default_rng(0)
    box = generator.uniform(size=(4000, 3)) * [8, 3.8, 2]
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    x = (box @ rotation).astype(np.float32)
    index = SpectralHashing(3, 8)
    index.train(x)
    signs = 2.0 * index.encode(x) - 1
    assert np.abs(signs.mean(0)).max() < 0.1
    found = np.abs(signs.T @ signs / len(signs))
    modes = index.modes.tolist()
    assert modes[:3] == [[0, 1], [0, 2], [1, 1]]
    for i, (direction, k) in enumerate(modes):
        for j, (other, frequency) in enumerate(modes[i + 1 :], i + 1):
            both_odd = direction == other and k == 1 and frequency % 2 == 1
            assert found[i, j] == pytest.approx(1 / frequency if both_odd else 0, abs=0.1)


def test_spectral__search_is_by_hamming_distance_and_nothing_is_random():
    x = np.random.default_rng(1).normal(size=(200, 12)).astype(np.float32)
    indexes = [SpectralHashing(12, 16, seed=seed) for seed in (0, 1)]
    found = []
    for index in indexes:
        index.train(x)
        index.add(x[:150])
        index.add(x[150:])
        found.append(index.search(x[:9], 30))
    D, ids = found[0]
    np.testing.assert_array_equal(ids, found[1][1])
    bits = indexes[0].encode(x)
    distances = (bits[:9, None] != bits[None]).sum(-1)
    assert D.dtype == np.float32
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(D, np.sort(distances, axis=1)[:, :30])
    np.testing.assert_array_equal(np.take_along_axis(distances, ids, 1), D)
    assert indexes[0].sa_code_size() == 2
