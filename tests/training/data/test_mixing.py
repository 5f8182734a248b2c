"""Mixtures of vectors, where there are few."""

import pytest
import torch

from faiss_pqvae.training.data.mixing import filled_up


def vectors(n=300):
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    return 7 + x * torch.tensor([1.0, 2, 3, 4, 5])


def filled(x, n, share=0.7, seed=1):
    return filled_up(x, n, share, torch.Generator().manual_seed(seed))


def test_filled_up__begins_with_the_vectors_and_has_their_mean_and_spread():
    x = vectors()
    found = filled(x, 4500)
    assert found.shape == (4500, 5)
    assert torch.equal(found[:300], x)
    mixed = found[300:]
    assert torch.allclose(mixed.mean(0), x.mean(0), atol=0.3)
    assert torch.allclose(mixed.std(0), x.std(0), rtol=0.1)


def test_filled_up__a_mixture_is_mostly_one_vector():
    x = vectors(4)
    about = x - x.mean(0)
    for share in (0.1, 0.7):
        mixed = filled(x, 50, share)[4:] - x.mean(0)
        best = torch.stack(
            [
                (mixed - (1 - a * a) ** 0.5 * about[i] - a * about[j]).square().sum(1)
                for i in range(4)
                for j in range(4)
                for a in torch.linspace(0, share, 101)
            ]
        ).amin(0)
        assert float(best.max()) < 0.01 * float(about.square().sum(1).mean())


@pytest.mark.parametrize(("n", "share"), [(300, 0.7), (10, 0.7), (5000, 0.0)])
def test_filled_up__leaves_enough_vectors_alone(n, share):
    x = vectors()
    assert filled(x, n, share) is x


def test_filled_up__a_few_vectors_do_not_cost_what_many_do():
    assert len(filled(vectors(4), 200_000)) == 64


def test_filled_up__repeats():
    assert torch.equal(filled(vectors(), 900), filled(vectors(), 900))
    assert not torch.equal(filled(vectors(), 900), filled(vectors(), 900, seed=2))
