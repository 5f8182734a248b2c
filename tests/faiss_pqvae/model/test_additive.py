"""Additive codes as product codes."""

import pytest
import torch

from faiss_pqvae.model.additive import Tables, first_alike, fitted, lift, lowered, sweep
from faiss_pqvae.model.spec import repeated

D, M, KSUB = 5, 3, 8


def some_tables(seed=0):
    generator = torch.Generator().manual_seed(seed)
    codewords = torch.randn(M, KSUB, D, generator=generator)
    return Tables(codewords, torch.randn(M, KSUB, generator=generator))


def some_codes(n=100):
    return torch.randint(KSUB, (n, M), generator=torch.Generator().manual_seed(1))


def stacked(codewords, ids):
    return torch.cat([codewords[m][ids[:, m]] for m in range(M)], 1)


@pytest.mark.parametrize("shrinks", [1.0, 0.8])
def test_lift__distances_are_those_to_sums(shrinks):
    tables, ids, centre = some_tables(), some_codes(), torch.full((D,), 2.0)
    q = torch.randn(7, D, generator=torch.Generator().manual_seed(2))
    lifted = lift(tables, centre, torch.tensor(shrinks), "l2")
    squared = torch.cdist(repeated(q, M), stacked(lifted.codewords, ids)).square()
    vectors, lengths = tables.sums(ids)
    about = q - centre
    expected = about.square().sum(1)[:, None] - 2 * about @ vectors.T + shrinks * lengths
    assert torch.allclose(squared - lifted.offset, expected, atol=1e-3)


def test_lift__far_from_zero_is_as_near_to_it():
    tables, ids, centre = some_tables(), some_codes(), torch.full((D,), 1000.0)
    q = 1000 + torch.randn(7, D, generator=torch.Generator().manual_seed(2))
    lifted = lift(tables, centre, torch.tensor(0.8), "l2")
    left = repeated(q, M).unsqueeze(1) - stacked(lifted.codewords, ids)
    vectors, lengths = tables.sums(ids)
    about = q - centre
    expected = about.square().sum(1)[:, None] - 2 * about @ vectors.T + 0.8 * lengths
    assert torch.allclose(left.square().sum(2) - lifted.offset, expected, atol=1e-2)
    found = lowered(lifted, centre).sums(ids)[1]
    assert torch.allclose(found, 0.8 * lengths, atol=1e-2)


def test_lift__inner_products_are_those_with_sums():
    tables, ids, centre = some_tables(), some_codes(), torch.full((D,), 2.0)
    q = torch.randn(7, D, generator=torch.Generator().manual_seed(2))
    lifted = lift(tables, centre, torch.tensor(1.0), "inner_product")
    products = repeated(q, M) @ stacked(lifted.codewords, ids).T
    assert torch.allclose(products, q @ (tables.sums(ids)[0] + centre).T, atol=1e-4)
    assert float(lifted.offset) == 0


def test_lowered__undoes_lift():
    tables, centre = some_tables(), torch.full((D,), 2.0)
    lifted = lift(tables, centre, torch.tensor(0.9), "l2")
    found = lowered(lifted, centre)
    assert torch.allclose(found.codewords, tables.codewords, atol=1e-5)
    # A number can go from one codebook's biases to another's: their sums are what counts.
    ids = some_codes()
    assert torch.allclose(found.sums(ids)[1], 0.9 * tables.sums(ids)[1], atol=1e-3)


def test_repeated__keeps_lengths_and_distances():
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(0))
    assert repeated(x, M).shape == (4, M * (D + 1))
    assert torch.allclose(repeated(x, M).norm(dim=1), x.norm(dim=1), atol=1e-6)
    assert torch.allclose(torch.cdist(repeated(x, M), repeated(x, M)), torch.cdist(x, x), atol=1e-3)


def test_fitted__finds_the_codewords_that_vectors_are_sums_of():
    tables, ids = some_tables(), some_codes(2000)
    x = tables.sums(ids)[0]
    found = fitted(ids, x, torch.zeros(M, KSUB, D))
    vectors, lengths = found.sums(ids)
    assert torch.allclose(vectors, x, atol=1e-2)
    # The best sum of numbers: what it leaves is orthogonal to every codeword's items.
    left = x.square().sum(1) - lengths
    means = [left[ids[:, m] == k].mean() for m in range(M) for k in range(KSUB)]
    assert max(map(abs, means)) < 0.05


def test_fitted__codewords_of_no_item_stay():
    ids = some_codes(50).clamp(max=KSUB - 2)
    prior = torch.randn(M, KSUB, D, generator=torch.Generator().manual_seed(3))
    found = fitted(ids, torch.randn(50, D, generator=torch.Generator().manual_seed(4)), prior)
    assert torch.allclose(found.codewords[:, -1], prior[:, -1], atol=1e-6)


def least_squares(ids, target, ridge, prior):
    """As `fitted`, by the equations for all codewords at once."""
    columns = torch.zeros(len(ids), M * KSUB, dtype=torch.float64)
    for m in range(M):
        columns[torch.arange(len(ids)), m * KSUB + ids[:, m]] = 1
    held = ridge * torch.eye(M * KSUB, dtype=torch.float64)
    prior = prior.flatten(0, 1).double()
    right = columns.T @ (target.double() - columns @ prior)
    found = prior + torch.linalg.solve(columns.T @ columns + held, right)
    return found.float().view(M, KSUB, -1)


@pytest.mark.parametrize("alike", [0.0, 0.3])
def test_fitted__is_as_near_to_vectors_and_lengths_as_least_squares(alike):
    generator = torch.Generator().manual_seed(5)
    ids = some_codes(1000)
    same = torch.rand(len(ids), generator=generator) < alike
    ids[same, 1] = ids[same, 0]  # codes that say the same are the hard case
    x = some_tables().sums(ids)[0] + 0.5 * torch.randn(len(ids), D, generator=generator)
    prior = torch.zeros(M, KSUB, D)
    found = fitted(ids, x, prior).sums(ids)
    lengths = x.square().sum(1, keepdim=True)
    usual = (lengths.mean() / M).expand(M, KSUB, 1)
    solved = least_squares(ids, torch.cat([x, lengths], 1), 0.125, torch.cat([prior, usual], -1))
    best = Tables(solved[..., :-1], solved[..., -1]).sums(ids)
    for mine, exact, wanted in zip(found, best, (x, lengths[:, 0]), strict=True):
        assert (mine - wanted).square().mean() <= 1.01 * (exact - wanted).square().mean()


def test_sweep__leaves_over_what_it_says_and_less_of_it():
    ids, codebooks = some_codes(), torch.zeros(M, KSUB, D)
    x = torch.randn(len(ids), D, generator=torch.Generator().manual_seed(3))
    before, errors = x.clone(), []
    for _ in range(3):
        sweep(codebooks, ids, x, sweeps=1)
        sums = sum(codebooks[m][ids[:, m]] for m in range(M))
        torch.testing.assert_close(x, before - sums, rtol=1e-4, atol=1e-5)
        errors.append(float(x.square().mean()))
    assert float(before.square().mean()) > errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_sweep__a_codeword_of_no_vector_stays_and_a_ridge_holds_the_others(ridge):
    codebooks, ids = torch.ones(1, 3, 2), torch.tensor([[0], [0], [2]])
    sweep(codebooks, ids, torch.full((3, 2), 3.0), sweeps=50, ridge=ridge)
    expected = torch.tensor([1 + 6 / (2 + ridge), 1, 1 + 3 / (1 + ridge)])
    torch.testing.assert_close(codebooks[0], expected[:, None].expand(3, 2))


def test_first_alike__is_oneself_unless_one_before_is_the_same():
    codewords = torch.tensor([[2.0, 1.0], [0.0, 1.0], [2.0, 1.0], [2.0, 0.0], [0.0, 1.0]])
    assert first_alike(codewords).tolist() == [0, 1, 0, 3, 1]
