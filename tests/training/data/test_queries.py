"""Queries that a training is given: some to learn from, the others held out."""

import numpy as np
import pytest
import torch

from faiss_pqvae.training.data import queries as module
from faiss_pqvae.training.data.queries import LEAST, check_queries, split_queries

CPU = torch.device("cpu")


def split(x, d=3, seed=0, unit=False):
    generator = torch.Generator().manual_seed(seed)
    return split_queries(x, (d,), unit=unit, generator=generator, device=CPU)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_split_queries__each_is_learned_from_or_held_out(rng, dtype):
    x = (rng.permutation(300) % 251).reshape(100, 3).astype(dtype)
    found = split(x)
    assert found.train.shape == (70, 3)
    assert found.held_out.shape == (30, 3)
    assert found.train.dtype == torch.float32
    both = torch.cat([found.train, found.held_out]).numpy()
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, x.astype(np.float32).tolist()))
    assert torch.equal(split(x).held_out, found.held_out)
    assert not torch.equal(split(x, seed=1).held_out, found.held_out)


def test_split_queries__brings_them_to_length_1_where_items_are(rng):
    x = rng.standard_normal((50, 3)).astype(np.float32)
    as_they_are, unit = split(x), split(x, unit=True)
    for part in ("train", "held_out"):
        expected = torch.nn.functional.normalize(getattr(as_they_are, part))
        assert torch.equal(getattr(unit, part), expected)
    assert unit.key == as_they_are.key


def test_split_queries__the_key_is_of_the_content(rng):
    x = rng.standard_normal((50, 3))
    changed = x.copy()
    changed[49, 2] += 1
    assert split(x).key == split(torch.from_numpy(x)).key != split(changed).key


def test_split_queries__of_very_many_a_sample(rng, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 60)
    x = rng.standard_normal((200, 3))
    found = split(x)
    assert (len(found.train), len(found.held_out)) == (42, 18)
    x[:, 0] += 0  # the same
    assert found.key == split(x).key


def test_split_queries__refuses_what_items_could_not_be(rng):
    x = rng.standard_normal((50, 3))
    with pytest.raises(ValueError, match=r"expected training queries of shape \(n, 4\)"):
        split(x, d=4)
    x[7, 1] = np.nan
    with pytest.raises(ValueError, match="finite training queries, got NaN or infinity in row 7"):
        split(x)


def test_check_queries__wants_enough_to_hold_some_out(rng):
    assert check_queries(None) is None
    x = rng.standard_normal((LEAST, 3))
    assert check_queries(x) is x
    with pytest.raises(ValueError, match=f"at least {LEAST} training queries.* got {LEAST - 1}"):
        check_queries(x[1:])
