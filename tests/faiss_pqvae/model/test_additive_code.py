"""Sums of codewords, and the length of a sum as the last code."""

import pytest
import torch

from faiss_pqvae.model.additive import lift
from faiss_pqvae.model.additive_code import AdditiveCode, levels_of, nearest_level
from faiss_pqvae.model.clustering import assign, split
from faiss_pqvae.model.spec import repeated

D, M, KSUB = 6, 4, 8


def vectors(n=60, seed=1):
    return 3 + 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def made(*, has_lengths=True, penalty=0.5):
    code = AdditiveCode(D, M, KSUB, has_lengths=has_lengths)
    generator = torch.Generator().manual_seed(0)
    code.codebooks.data = torch.randn(code.codebooks.shape, generator=generator)
    code.centre.fill_(3.0)
    code.penalty.fill_(penalty)
    if has_lengths:
        x = vectors(500, 5)
        lengths = code.compared_lengths(x - 3, code.choose(x, 1))
        code.lengths.copy_(levels_of(lengths, KSUB))
    return code


def every_code(m):
    grids = torch.meshgrid(*[torch.arange(KSUB)] * m, indexing="ij")
    return torch.stack(grids, -1).view(-1, m)


def test_decode__is_the_centre_and_the_sum_of_codewords_but_the_length():
    code, ids = made(), every_code(M)[::37]
    plain = 3 + sum(code.codebooks[m, ids[:, m]] for m in range(M - 1))
    assert torch.allclose(code.decode(ids), plain, atol=1e-5)
    assert torch.equal(code.compared(ids), code.decode(ids))
    assert code.decode(ids[:0]).shape == (0, D)


@pytest.mark.parametrize("has_lengths", [True, False])
def test_choose__with_every_beginning_finds_the_nearest_sum_of_all(has_lengths):
    code, x = made(has_lengths=has_lengths), vectors(20)
    books = len(code.codebooks)
    every = every_code(books)
    nearest = torch.cdist(x, code.decode(every)).argmin(1)
    found = code.choose(x, KSUB**books)
    assert torch.equal(found[:, :books], every[nearest])


def test_choose__keeps_what_a_beam_of_single_steps_keeps():
    """Against the plain search, level by level."""
    code, x, kept = made(), vectors(30), 3
    for row, found in zip(x - 3, code.choose(x, kept), strict=True):
        beam = [((), row)]
        for codewords in code.codebooks.detach():
            longer = [((*ids, k), left - codewords[k]) for ids, left in beam for k in range(KSUB)]
            beam = sorted(longer, key=lambda one: float(one[1].square().sum()))[:kept]
        assert beam[0][0] == tuple(found[:-1].tolist())


def test_choose__more_effort_is_never_far_worse_and_mostly_better():
    code, x = made(), vectors(500)
    errors = [
        float((code.decode(code.choose(x, effort)) - x).square().mean()) for effort in (0, 1, 4, 16)
    ]
    assert errors[0] == errors[1] > errors[2] > errors[3]
    with pytest.raises(ValueError, match="effort"):
        code.choose(x, -1)
    assert code.choose(x[:0], 4).shape == (0, M)


def test_choose__the_last_code_is_the_level_nearest_to_the_length():
    code, x = made(), vectors(200)
    ids = code.choose(x, 4)
    sums = code.decode(ids) - 3
    wanted = sums.square().sum(1) + 0.5 * (x - 3 - sums).square().sum(1)
    expected = (wanted[:, None] - code.lengths).abs().argmin(1)
    assert torch.equal(ids[:, -1], expected)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_tables__of_repeated_queries_are_distances_to_sums_with_their_lengths(metric):
    code = made(has_lengths=metric == "l2")
    x, q = vectors(40), vectors(10, 2)
    lifted = lift(code.tables(), code.centre, torch.ones(()), metric)
    ids = code.choose(x, 4)
    stored = torch.stack([lifted.codewords[m, ids[:, m]] for m in range(M)], 1).flatten(1)
    asked = repeated(q, M)
    sums = code.decode(ids)
    if metric == "l2":
        found = (asked[:, None] - stored).square().sum(-1) - lifted.offset
        lengths = code.lengths[ids[:, -1]]
        expected = (q - 3).square().sum(1)[:, None] - 2 * (q - 3) @ (sums - 3).T + lengths
    else:
        found, expected = asked @ stored.T, q @ sums.T
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(assign(split(stored, M), lifted.codewords), ids)


def test_merge__makes_codewords_those_of_others():
    code = made()
    alike = torch.arange(KSUB)
    alike[5] = 2
    before = code.codebooks[1, 2].clone()
    code.merge(1, alike)
    code.merge(M - 1, alike)
    assert torch.equal(code.codebooks[1, 5], before)
    assert code.lengths[5] == code.lengths[2]


def test_levels_of__are_near_and_in_order():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3)).square()
    levels = levels_of(values, 16)
    assert torch.equal(levels, levels.sort().values)
    error = (values - levels[nearest_level(values, levels)]).square().mean()
    even = torch.linspace(float(values.min()), float(values.max()), 16)
    assert error < 0.8 * (values - even[nearest_level(values, even)]).square().mean()
    assert torch.equal(levels_of(torch.ones(3), 8), torch.ones(8))
