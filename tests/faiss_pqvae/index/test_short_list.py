"""The candidates between look-up tables and decoder."""

import numpy as np
import pytest
import torch

from faiss_pqvae.index.short_list import ShortList
from faiss_pqvae.model.additive import Tables, lift
from faiss_pqvae.model.conditional import ConditionalCode

D, M, KSUB = 5, 4, 8


@pytest.mark.parametrize("n", [1, 6, 30])
def test_short_list__ranks_by_the_exact_lengths_of_sums(n):
    generator = torch.Generator().manual_seed(0)
    codewords = torch.randn(M, KSUB, D, generator=generator)
    tables = Tables(codewords, torch.randn(M, KSUB, generator=generator))
    decoder = ConditionalCode(D, M, KSUB, width=8)
    decoder.centre.fill_(2.0)
    decoder.table_shrinks.fill_(0.9)
    lifted = lift(tables, decoder.centre, decoder.table_shrinks, "l2")
    decoder.offset.copy_(lifted.offset)
    ids = torch.randint(KSUB, (3, 30, M), generator=generator)
    q = torch.randn(3, D, generator=generator) - 2
    vectors, lengths = tables.sums(ids.view(-1, M))
    vectors, lengths = vectors.view(3, 30, D), lengths.view(3, 30)
    products = -2 * (vectors * q[:, None]).sum(-1)
    keys = np.arange(90).reshape(3, 30) + 1000
    keys[1, 3] = keys[2, :4] = -1
    D_tables = (products + 0.9 * lengths).numpy() + 17
    exact = np.where(keys == -1, np.inf, (products + 0.9 * vectors.square().sum(-1)).numpy())
    found = ShortList(lifted.codewords, decoder)(D_tables, keys, ids.numpy().astype("u1"), n)
    assert np.array_equal(found, np.take_along_axis(keys, np.argsort(exact, 1)[:, :n], 1))
