"""Which index a collection gets: within what is wanted, or an error that says what would do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faiss_pqvae.index.grammar import parse
from faiss_pqvae.scale.planning import QUERIES, Wishes, make_plan

GIB = 1 << 30


@given(
    n=st.integers(4 * QUERIES, 2_000_000_000),
    d=st.integers(2, 2048),
    memory_bytes=st.integers(1, 64 * GIB),
    code_bytes=st.none() | st.integers(2, 64),
    workers=st.none() | st.integers(1, 64),
)
def test_make_plan__fits_or_is_refused(n, d, memory_bytes, code_bytes, workers):
    wishes = Wishes(memory_bytes=memory_bytes, code_bytes=code_bytes, workers=workers)
    try:
        plan = make_plan(n, d, wishes)
    except ValueError as error:
        assert "expected memory" in str(error)  # noqa: PT017 - either of both is right
        return
    assert plan.memory_bytes <= memory_bytes
    assert plan.n_train + plan.n_queries <= n
    assert 1 <= plan.n_parts <= n
    assert plan.nlist * 39 <= plan.n_train
    assert plan.workers == (workers or plan.workers) >= 1
    assert plan.code_bytes == (code_bytes or plan.code_bytes)
    assert plan.code_bytes == parse(plan.description).M
    assert f"{n:,} vectors" in plan.lines()[0]
    assert all(s >= 0 for s in plan.seconds.values())


def test_make_plan__of_ten_millions_within_three_gigabytes():
    plan = make_plan(10_000_000, 128, Wishes(memory_bytes=3 * GIB, workers=2))
    assert plan.description == "IVF8192,PQVAE8,RDecoder"
    assert plan.fits
    assert plan.index_bytes == 160_000_000
    assert plan.seconds["encode"] <= 2 * 3600
    apart = make_plan(1_000_000_000, 128, Wishes(memory_bytes=3 * GIB))
    assert not apart.fits
    assert "searched in its file (--mmap)" in " ".join(apart.lines())


def test_make_plan__bytes_of_the_whole_index():
    plan = make_plan(1_000_000, 384, Wishes(index_bytes=20_000_000))
    assert (plan.code_bytes, plan.index_bytes) == (12, 20_000_000)
    assert make_plan(50_000, 384, Wishes(index_bytes=400_000)).code_bytes == 8  # no ids


@pytest.mark.parametrize(
    ("n", "wishes", "message"),
    [
        (3999, {}, "at least 4,000 vectors"),
        (10**6, {"code_bytes": 1}, "codes of 2 to 64 bytes, got 1"),
        (10**6, {"code_bytes": 65}, "codes of 2 to 64 bytes, got 65"),
        (10**6, {"code_bytes": 8, "index_bytes": 10**8}, "got both"),
        (10**6, {"index_bytes": 10**7}, r"at least 11\.4 MiB for 1,000,000 codes, got 9\.5 MiB"),
        (10**6, {"memory_bytes": 10**8}, r"memory of at least 0\.9 GiB|of at least"),
        (10**6, {"workers": 9}, "expected memory for encoding"),
    ],
)
def test_make_plan__says_what_would_do(n, wishes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(n, 128, Wishes(**wishes))
