"""Clusters of sub-vectors, against brute force and against sums done by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.model.clustering import (
    accumulate,
    assign,
    distance_ratio,
    histogram,
    kmeans,
    look_up,
    perplexity,
    replace_dead,
    split,
    squared_distances,
    two_nearest,
    usage,
)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _brute_force(z_m: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """(M, n, ksub) float64 squared distances, by differences."""
    return (z_m.double().unsqueeze(2) - codewords.double().unsqueeze(1)).square().sum(-1)


def _error(z_m: torch.Tensor, codewords: torch.Tensor) -> float:
    return float(_brute_force(z_m, codewords).min(-1).values.sum())


@settings(max_examples=25)
@given(
    M=st.integers(1, 4),
    nbits=st.integers(1, 12),
    dsub=st.integers(1, 5),
    n=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_assign__finds_the_nearest(M: int, nbits: int, dsub: int, n: int, seed: int) -> None:
    generator = _seeded(seed)
    z_m = torch.randn(M, n, dsub, generator=generator)
    codewords = torch.randn(M, 2**nbits, dsub, generator=generator)
    ids = assign(z_m, codewords)
    assert ids.shape == (n, M)
    assert ids.dtype == torch.int64
    distances = _brute_force(z_m, codewords)
    chosen = distances.gather(2, ids.T.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(chosen, distances.min(-1).values, atol=1e-5)


def test_assign__does_not_depend_on_the_blocks(generator: torch.Generator) -> None:
    z_m = torch.randn(2, 11, 3, generator=generator)
    codewords = torch.randn(2, 8, 3, generator=generator)
    whole = assign(z_m, codewords)
    four_rows = assign(z_m, codewords, block_elements=2 * 8 * 4)
    assert torch.equal(four_rows, whole)


def test_squared_distances__agree_with_differences(generator: torch.Generator) -> None:
    z_m = torch.randn(3, 7, 4, generator=generator)
    codewords = torch.randn(3, 8, 4, generator=generator)
    expected = _brute_force(z_m, codewords).float()
    torch.testing.assert_close(squared_distances(z_m, codewords), expected, atol=1e-5, rtol=1e-5)


def test_look_up__inverts_assign_on_codewords(generator: torch.Generator) -> None:
    codewords = torch.randn(3, 8, 2, generator=generator)
    ids = torch.randint(8, (20, 3), generator=generator)
    z_m = look_up(codewords, ids)
    expected = torch.stack([codewords[m, ids[:, m]] for m in range(3)])
    assert torch.equal(z_m, expected)
    assert torch.equal(assign(z_m, codewords), ids)


def test_accumulate__by_hand() -> None:
    z = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    ids = torch.tensor([[0, 1], [0, 1], [1, 1]])
    counts, sums = accumulate(split(z, 2), ids, 2)
    assert counts.tolist() == [[2, 1], [0, 3]]
    assert sums.tolist() == [[[3], [4]], [[0], [70]]]


@pytest.mark.parametrize("seed", range(3))
def test_kmeans__error_never_rises(seed: int) -> None:
    z_m = torch.randn(2, 200, 3, generator=_seeded(seed))
    errors = [
        _error(z_m, kmeans(z_m, 8, iterations=i, generator=_seeded(seed))) for i in range(0, 12, 2)
    ]
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_kmeans__repeats_under_a_seed() -> None:
    z_m = torch.randn(2, 50, 3, generator=_seeded(0))
    first, second = (kmeans(z_m, 8, iterations=5, generator=_seeded(1)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("n", [1, 3])
def test_kmeans__of_fewer_points_than_codewords(n: int, generator: torch.Generator) -> None:
    z_m = torch.randn(2, n, 3, generator=generator)
    codewords = kmeans(z_m, 8, iterations=3, generator=generator)
    assert codewords.shape == (2, 8, 3)
    assert torch.isfinite(codewords).all()
    assert _error(z_m, codewords) == pytest.approx(0, abs=1e-3)


def test_usage_and_perplexity__by_hand() -> None:
    ids = torch.tensor([[0, 2], [1, 2], [0, 2], [1, 2]])
    counts = histogram(ids, 4)
    assert counts.tolist() == [[2, 2, 0, 0], [0, 0, 4, 0]]
    assert usage(counts).tolist() == [0.5, 0.25]
    assert perplexity(counts).tolist() == pytest.approx([2, 1])
    p = np.array([0.5, 0.25, 0.125, 0.125])
    expected = math.exp(-(p * np.log(p)).sum())
    assert float(perplexity(torch.tensor([[4, 2, 1, 1]]))) == pytest.approx(expected)


def test_perplexity__of_nothing_counted_is_finite() -> None:
    assert torch.isfinite(perplexity(torch.zeros(2, 4))).all()


def test_distance_ratio__by_hand() -> None:
    codewords = torch.tensor([[[0.0], [4.0], [100.0]]])
    # Nearest and second: 1 and 3, then 0.5 and 3.5.
    ratio = distance_ratio(torch.tensor([[1.0], [4.5]]), codewords)
    assert ratio == pytest.approx((1 + 0.5) / (3 + 4.5))


def test_distance_ratio__of_coinciding_codewords_is_one() -> None:
    assert distance_ratio(torch.zeros(3, 2), torch.zeros(1, 4, 2)) == 1


def test_two_nearest__are_those_of_brute_force(generator: torch.Generator) -> None:
    z_m = torch.randn(2, 9, 3, generator=generator)
    codewords = torch.randn(2, 8, 3, generator=generator)
    distances, ids = two_nearest(z_m, codewords)
    expected = _brute_force(z_m, codewords).sqrt().sort(-1)
    torch.testing.assert_close(distances, expected.values[..., :2].float(), atol=1e-4, rtol=1e-4)
    assert torch.equal(ids, expected.indices[..., :2])


def test_replace_dead__in_place_and_from_the_points(generator: torch.Generator) -> None:
    codewords = torch.randn(4, 3, generator=generator)
    before, z = codewords.clone(), 50 + torch.randn(16, 3, generator=generator)
    counts = torch.tensor([4.0, 0.3, 0.5, 0.0])  # dead below 0.1 * 16 / 4
    moved = replace_dead(codewords, counts, z, threshold=0.1, generator=generator)
    assert moved.tolist() == [1, 3]
    assert torch.equal(codewords[[0, 2]], before[[0, 2]])
    assert all((z == row).all(-1).any() for row in codewords[moved])
    assert counts.tolist() == [4, 4, 0.5, 4]
    assert not len(replace_dead(codewords, counts, z, threshold=0.1, generator=generator))
