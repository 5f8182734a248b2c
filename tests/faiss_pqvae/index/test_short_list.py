"""The candidates between look-up tables and decoder."""

import numpy as np
import pytest
import torch

from faiss_pqvae.index import short_list
from faiss_pqvae.index.short_list import ShortList, lacking_by_pairs, lacking_by_sums
from faiss_pqvae.model.additive import Tables, lift
from faiss_pqvae.model.conditional import ConditionalCode

D, M, KSUB = 5, 4, 8


@pytest.mark.parametrize("most_bytes", [0, 2**26])
@pytest.mark.parametrize("n", [1, 6, 30])
def test_short_list__ranks_by_the_exact_lengths_of_sums(n, most_bytes, monkeypatch):
    monkeypatch.setattr(short_list, "_MOST_BYTES", most_bytes)
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
    assert np.array_equal(found, np.argsort(exact, 1)[:, :n])


@pytest.mark.parametrize("M", [2, 32])
def test_lacking__of_sums_is_that_of_pairs_in_parts_of_any_size(M, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    codewords = torch.randn(M, KSUB, D, generator=generator)
    tables = Tables(codewords, torch.randn(M, KSUB, generator=generator))
    codes = np.random.default_rng(0).integers(KSUB, size=(100, M), dtype=np.uint8)
    whole = lacking_by_pairs(tables, torch.tensor(0.9))(codes)
    monkeypatch.setattr(short_list, "_CODES_AT_A_TIME", 7)
    monkeypatch.setattr(short_list, "_SUMS_BYTES", 200)
    for lacking in (lacking_by_pairs, lacking_by_sums):
        np.testing.assert_allclose(lacking(tables, torch.tensor(0.9))(codes), whole, atol=1e-3)


@pytest.mark.parametrize(("M", "way"), [(23, "pairs"), (24, "sums")])
def test_short_list__tables_of_pairs_take_64_mb_at_most(M, way, monkeypatch):
    ways = {name: lambda *args, name=name: name for name in ("pairs", "sums")}
    for name, make in ways.items():
        monkeypatch.setattr(short_list, f"lacking_by_{name}", make)
    found = ShortList(torch.zeros(M, 256, D + 1), ConditionalCode(D, M, 256, width=1))
    assert found._lacking == way
