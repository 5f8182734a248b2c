"""Ids of one's own: every int64 but -1, in every kind of index, with and without a direct map."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import in_id_map, unwrapped
from faiss_pqvae.native.store.store import Store

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, N, NLIST = 8, 90, 4
KEEP_IDS = [
    *[("IVF", 8, ""), ("IVFfs", 4, ""), ("IVF", 8, "IDMap2"), ("IVFfs", 4, "IDMap")],
    *[("PQ", 8, "IDMap2"), ("PQfs", 4, "IDMap"), ("HNSW", 8, "IDMap2")],
]
LISTS = [("IVF", 8, ""), ("IVFfs", 4, ""), ("IVF", 8, "IDMap2"), ("IVFfs", 4, "IDMap2")]
LIMITS = np.iinfo(np.int64)
IDS = {
    "below -1": -2 - np.arange(N),
    "hashes": np.random.default_rng(1).integers(LIMITS.min, LIMITS.max, N),
    "around 0": np.setdiff1d(np.arange(-45, 46), [-1]),
    "the limits": np.concatenate([[LIMITS.min, LIMITS.max, 0, -2], 2**40 + np.arange(N - 4)]),
}


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


@pytest.fixture
def make(make_identity: Callable[..., LatentIndex]) -> Callable[..., LatentIndex]:
    """An index whose encoder changes nothing; `refine`: None, "decoder" or "flat"."""

    def make(
        kind: str, nbits: int, id_map: str, metric: int = L2, *, refine: Any = None
    ) -> LatentIndex:
        refine = faiss.IndexFlat(D, metric) if refine == "flat" else refine
        index = make_identity(kind, nbits, metric, id_map, refine=refine)
        index.k_factor = 2.0
        return index

    return make


@pytest.fixture
def make_pair(make: Any) -> Callable[..., tuple[LatentIndex, LatentIndex, Any]]:
    """The same items under ids and under 0, 1, ...; and what names the first by the second."""

    def pair(case: Any, ids: np.ndarray, refine: Any = None) -> Any:
        ours, plain = make(*case, refine=refine), make(*case, refine=refine)
        ours.add_with_ids(vectors(N), ids)
        plain.add_with_ids(vectors(N), np.arange(N))
        return ours, plain, lambda rows: np.where(rows == -1, -1, ids[rows])

    return pair


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("refine", [None, "decoder", "flat"])
@pytest.mark.parametrize("case", KEEP_IDS, ids=str)
@pytest.mark.jury
def test_search__finds_every_id(make_pair, case, refine, ids):
    ours, plain, named = make_pair(case, IDS[ids], refine)
    q = vectors(5, seed=1)
    D_, I, R = ours.search_and_reconstruct(q, N + 3)  # noqa: E741
    expected = plain.search_and_reconstruct(q, N + 3)
    np.testing.assert_array_equal(D_, expected[0])
    np.testing.assert_array_equal(np.sort(I), np.sort(named(expected[1])))  # of equals, any first
    np.testing.assert_array_equal(R[I != -1], ours.reconstruct_batch(I[I != -1]))
    np.testing.assert_array_equal(np.isnan(R), np.isnan(expected[2]))
    np.testing.assert_array_equal(ours.search(q, N + 3)[1], I)
    np.testing.assert_array_equal(ours.search(q, 4)[0], plain.search(q, 4)[0])
    assert case[0] == "HNSW" or set(I[0]) == {-1, *IDS[ids].tolist()}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("case", KEEP_IDS, ids=str)
def test_ids__are_selected_and_looked_up(make_pair, case, ids):
    ours, plain, named = make_pair(case, IDS[ids])
    rows = np.arange(0, N, 3)
    np.testing.assert_array_equal(
        ours.reconstruct_batch(IDS[ids][rows]), plain.reconstruct_batch(rows)
    )
    q = vectors(4, seed=1)
    selected = faiss.SearchParameters(sel=faiss.IDSelectorBatch(IDS[ids][rows]))
    params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(rows))
    np.testing.assert_array_equal(
        np.sort(ours.search(q, N, params=selected)[1]),
        np.sort(named(plain.search(q, N, params=params)[1])),
    )
    found, expected = ours.range_search(q, 9.0), plain.range_search(q, 9.0)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(np.sort(found[2]), np.sort(named(expected[2])))
    if case[0] != "HNSW":
        assert ours.remove_ids(IDS[ids][rows]) == len(rows)
        plain.remove_ids(rows)
        found, expected = ours.search(q, N)[1], named(plain.search(q, N)[1])
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))


@pytest.mark.parametrize("refine", ["decoder", "flat"])
@pytest.mark.parametrize("case", KEEP_IDS, ids=str)
@pytest.mark.jury
def test_bundle__keeps_every_id(make_pair, tmp_path, case, refine):
    ours, _, _ = make_pair(case, IDS["hashes"], refine)
    write_index(ours, tmp_path)
    again, q = read_index(tmp_path), vectors(3, seed=1)
    if case[0].startswith("IVF"):
        again.nprobe = NLIST
    for found, expected in zip(again.search(q, N), ours.search(q, N), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_reconstruct_n__counts_through_zero(make):
    index = make("IVF", 8, "")
    index.add_with_ids(vectors(9), np.arange(-12, -3))
    np.testing.assert_array_equal(
        index.reconstruct_n(-10, 4), index.reconstruct_batch(np.arange(-10, -6))
    )
    with pytest.raises(ValueError, match="ids that are stored, got -13"):
        index.reconstruct_n(-13, 4)
    with pytest.raises(ValueError, match="expected ni from 0 to ntotal, 9, or -1"):
        index.reconstruct_n(0, -2)


# -- the one that is nobody's

MINUS_ONE = "ids other than -1, by which FAISS means 'nothing found'"


@pytest.mark.parametrize("refine", [None, "flat"])
@pytest.mark.parametrize("case", KEEP_IDS, ids=str)
def test_add__refuses_minus_one(make, case, refine):
    index = make(*case, refine=refine)
    index.add_with_ids(vectors(3), [5, 6, -7])
    with pytest.raises(ValueError, match=f"{MINUS_ONE}, got it in row 1"):
        index.add_with_ids(vectors(3), [8, -1, 9])
    if refine is None:
        with pytest.raises(ValueError, match=f"{MINUS_ONE}, got it in row 0"):
            index.add_sa_codes(index.sa_encode(vectors(1)), [-1])
    assert index.ntotal == 3
    assert set(index.search(vectors(1), 4)[1][0]) == {5, 6, -7, -1}


@pytest.mark.parametrize("refine", [None, "flat"])
@pytest.mark.parametrize("case", [c for c in KEEP_IDS if c[0] != "HNSW"], ids=str)
@pytest.mark.parametrize(
    ("ids", "add_id", "match"),
    [
        ([5, -3, 9], 2, "an add_id that makes ids other than -1, .* got 2 for the id -3"),
        ([5, LIMITS.max - 3, 9], 4, f"int64, got 4 for the id {LIMITS.max - 3}"),
        (
            [5, LIMITS.min + 3, 9],
            -4,
            f"int64, got -4 for the id {LIMITS.min + 3}",
        ),
        ([5, 6, 7], 2**70, "expected add_id from -9223372036854775808"),
    ],
)
def test_merge__refuses_to_make_ids_that_nobody_may_give(make, case, refine, ids, add_id, match):
    index, other = make(*case, refine=refine), make(*case, refine=refine)
    for each, own in ((index, [100, 101, 102]), (other, ids)):
        each.add_with_ids(vectors(3), own)
    with pytest.raises(ValueError, match=match):
        index.merge_from(other, add_id)
    assert (index.ntotal, other.ntotal) == (3, 3)
    assert set(other.search(vectors(1), 3)[1][0]) == set(ids)


@pytest.mark.parametrize("case", KEEP_IDS, ids=str)
def test_minus_one__of_an_index_that_is_handed_in(make, tmp_path, case):
    """FAISS itself takes it, and its own `remove_ids` takes it out."""
    index = make(*case)
    index.faiss_index.add_with_ids(vectors(3), np.array([4, -1, 5]))
    with pytest.raises(ValueError, match=f"{MINUS_ONE}, got a vector with it: in the faiss index"):
        LatentIndex(index.model, L2, faiss_index=index.faiss_index)
    with pytest.raises(ValueError, match=MINUS_ONE):
        Store(index.faiss_index)
    with pytest.raises(ValueError, match=MINUS_ONE):
        write_index(index, tmp_path)
    if case[0] != "HNSW" and not case[2]:
        index.faiss_index.remove_ids(np.array([-1]))
        assert LatentIndex(index.model, L2, faiss_index=index.faiss_index).ntotal == 2


# -- direct maps

MAPS = {"array": faiss.DirectMap.Array, "hash table": faiss.DirectMap.Hashtable}


def _add(index: LatentIndex, x: np.ndarray, ids: np.ndarray, numbered: bool) -> None:
    if numbered and not in_id_map(index.faiss_index):
        index.add(x)
    else:
        index.add_with_ids(x, ids)


def _codes(index: LatentIndex, x: np.ndarray, ids: np.ndarray, numbered: bool) -> None:
    own = not numbered or in_id_map(index.faiss_index)
    index.add_sa_codes(index.sa_encode(x), ids if own else None)


def _merge(index: LatentIndex, x: np.ndarray, ids: np.ndarray, numbered: bool) -> None:
    other = type(index)(index.model, L2, faiss_index=faiss.clone_index(index.faiss_index))
    other.reset()
    unwrapped(other.faiss_index).set_direct_map_type(unwrapped(index.faiss_index).direct_map.type)
    other.add_with_ids(x, ids)
    index.merge_from(other)


def _fail(index: LatentIndex, x: np.ndarray, ids: np.ndarray, numbered: bool) -> None:
    index.batch_size = 7
    wrong = x.copy()
    wrong[-1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        _add(index, wrong, ids, numbered)
    _add(index, x, ids, numbered)


CHANGES = {"add": _add, "add_sa_codes": _codes, "merge_from": _merge, "add that fails": _fail}


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "own ids"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("map_type", MAPS)
@pytest.mark.parametrize("case", LISTS, ids=str)
def test_direct_map__finds_the_right_item_after_changes(make, case, map_type, change, numbered):
    index, x, half = make(*case), vectors(N), N // 2
    ids = np.arange(N)
    if not numbered:
        ids[half:] -= 2**40
    bare = unwrapped(index.faiss_index)
    _add(index, x[: half // 2], ids[: half // 2], numbered=True)
    bare.set_direct_map_type(MAPS[map_type])
    _add(index, x[half // 2 : half], ids[half // 2 : half], numbered=True)
    CHANGES[change](index, x[half:], ids[half:], numbered)
    expected = index.sa_decode(index.sa_encode(x))
    np.testing.assert_allclose(index.reconstruct_batch(ids), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(index.compute_residual(x[-1], int(ids[-1])), x[-1] - expected[-1])
    np.testing.assert_allclose(index.reconstruct(int(ids[0])), expected[0], rtol=1e-5, atol=1e-6)
    if map_type == "hash table":  # and goes on being one
        assert bare.direct_map.type == MAPS[map_type]
    index.remove_ids(ids[:3])
    np.testing.assert_allclose(index.reconstruct_batch(ids[3:]), expected[3:], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=f"ids that are stored, got {ids[1]}"):
        index.reconstruct_batch(ids[1:5])


@pytest.mark.parametrize("map_type", MAPS)
@pytest.mark.parametrize("case", LISTS, ids=str)
def test_direct_map__refines_by_the_right_item(make, case, map_type):
    index, plain = make(*case, refine="decoder"), make(*case, refine="decoder")
    x, q = vectors(N), vectors(5, seed=1)
    unwrapped(index.faiss_index).set_direct_map_type(MAPS[map_type])
    for each in (index, plain):
        for rows in np.split(np.arange(N), 3):
            _add(each, x[rows], rows, numbered=True)
    for found, expected in zip(index.search(q, 9), plain.search(q, 9), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_direct_map__is_there_again_after_an_addition_that_fails(make):
    index = make("IVF", 8, "")
    index.add(vectors(9))
    index.faiss_index.make_direct_map()
    x = vectors(4)
    x[-1] = np.inf
    index.batch_size = 2
    with pytest.raises(ValueError, match="finite"):
        index.add_with_ids(x, np.arange(4) - 20)
    assert index.faiss_index.direct_map.type == faiss.DirectMap.Array
    assert index.faiss_index.direct_map.array.size() == 9


def test_check_compatible_for_merge__leaves_direct_maps(make):
    index, other = make("IVF", 8, ""), make("IVF", 8, "")
    for each in (index, other):
        each.add(vectors(9))
        each.faiss_index.make_direct_map()
    index.check_compatible_for_merge(other)
    for each in (index, other):
        assert each.faiss_index.direct_map.type == faiss.DirectMap.Array
