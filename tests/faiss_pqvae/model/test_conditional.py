"""The conditional decoder: what codes decode to, and which codes are chosen."""

import pytest
import torch

from faiss_pqvae.model.conditional import ConditionalCode

D, M, KSUB = 6, 3, 8


@pytest.fixture
def code():
    """A decoder whose networks say something, about a centre."""
    torch.manual_seed(0)
    code = ConditionalCode(D, M, KSUB, width=8)
    code.begin_at(torch.randn(M, KSUB, D))
    for parameter in code.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    code.centre.fill_(3.0)
    code.unit.fill_(2.0)
    return code


def every_code():
    grids = torch.meshgrid(*[torch.arange(KSUB)] * M, indexing="ij")
    return torch.stack(grids, -1).view(-1, M)


def vectors(n=40):
    return 3 + 4 * torch.randn(n, D, generator=torch.Generator().manual_seed(1))


def test_begin_at__is_the_plain_sum_of_codewords():
    codebooks = torch.randn(M, KSUB, D, generator=torch.Generator().manual_seed(0))
    code = ConditionalCode(D, M, KSUB, width=8)
    code.begin_at(codebooks)
    ids = every_code()
    plain = sum(codebooks[m, ids[:, m]] for m in range(M))
    assert torch.allclose(code.decode(ids), plain, atol=1e-5)
    assert torch.allclose(code.plain_sums(ids), plain, atol=1e-5)


def test_fit_unit__takes_mean_and_deviation():
    code, x = ConditionalCode(D, M, KSUB, width=8), vectors(500)
    code.fit_unit(x)
    inside = code.inside(x)
    assert torch.allclose(inside.mean(0), torch.zeros(D), atol=1e-5)
    assert float(inside.square().mean()) == pytest.approx(1, abs=1e-5)


def test_decode__is_the_end_of_the_path(code):
    ids = every_code()
    path = code.path(ids)
    assert len(path.after) == len(path.guessed) == M
    assert torch.allclose(code.decode(ids), path.after[-1] * 2 + 3, atol=1e-5)
    assert code.decode(ids[:0]).shape == (0, D)


def test_path__a_codeword_depends_on_those_before_alone(code):
    ids = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 3]])
    first, second = code.path(ids).after[:2]
    assert torch.equal(first[0], first[1])
    # Some processors round a row of a product by its place in the batch.
    torch.testing.assert_close(second[0], second[1])
    added = second - first
    assert not torch.allclose(added[0], added[2])


def test_compared__shrinks_about_the_centre(code):
    ids = every_code()[:20]
    code.shrinks.fill_(0.5)
    assert torch.allclose(code.compared(ids) - 3, (code.decode(ids) - 3) / 2, atol=1e-5)


def test_choose__finds_the_best_of_all_codes_where_all_are_tried(code):
    x = vectors()
    chosen = code.decode(code.choose(x, effort=KSUB**M))
    best = torch.cdist(x, code.decode(every_code())).min(1).values
    assert torch.allclose((chosen - x).norm(dim=1), best, atol=1e-4)


def test_choose__weighs_what_plain_sums_miss(code):
    x, ids = vectors(), every_code()
    code.plain_weight.fill_(0.5)
    errors = torch.cdist(code.inside(x), code.inside(code.decode(ids))).square()
    errors += 0.5 * torch.cdist(code.inside(x), code.plain_sums(ids)).square()
    chosen = code.choose(x, effort=KSUB**M)
    index = chosen @ torch.tensor([KSUB**2, KSUB, 1])
    found = errors.gather(1, index.unsqueeze(1))[:, 0]
    assert torch.allclose(found, errors.min(1).values, atol=1e-3)


def test_choose__more_effort_decodes_better(code):
    x = vectors(200)
    errors = [float((code.decode(code.choose(x, e)) - x).square().mean()) for e in (0, 1, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


def test_choose__gives_items_alone_the_codes_that_they_get_together(code):
    x = vectors(30)
    together = code.choose(x, 4)
    assert torch.equal(torch.cat([code.choose(row, 4) for row in x.split(1)]), together)


def test_choose__of_no_vectors_and_of_one_codebook():
    code = ConditionalCode(D, 1, KSUB, width=8)
    code.begin_at(torch.randn(1, KSUB, D, generator=torch.Generator().manual_seed(0)))
    x = vectors()
    nearest = torch.cdist(x, code.first.detach()).argmin(1)
    assert torch.equal(code.choose(x, 16)[:, 0], nearest)
    assert code.choose(x[:0], 16).shape == (0, 1)


@pytest.mark.parametrize("effort", [-1, 1.5, True, None])
def test_choose__refuses_another_effort(code, effort):
    with pytest.raises((TypeError, ValueError), match="effort"):
        code.choose(vectors(), effort)


@pytest.mark.parametrize("m", range(M))
def test_merge__codewords_that_are_alike_decode_alike(code, m):
    ids = every_code()
    alike = torch.arange(KSUB)
    alike[5] = 2
    merged = ids.clone()
    merged[:, m] = alike[ids[:, m]]
    before = code.decode(merged)
    code.merge(m, alike)
    assert torch.allclose(code.decode(ids), before, atol=1e-5)
    assert torch.equal(code.plain_sums(ids), code.plain_sums(merged))
