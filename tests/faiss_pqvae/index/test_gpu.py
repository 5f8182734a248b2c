"""GPU indexes: their layout searched on the CPU; what needs a card is marked `gpu`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import LatentIndex, index_cpu_to_gpu, index_gpu_to_cpu
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.index import gpu
from faiss_pqvae.index.gpu import GpuLatentIndex, distribute
from faiss_pqvae.index.gpu_parts import FaissPart
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.native import faiss
from faiss_pqvae.native.gpu_layout import (
    bytes_needed,
    coarse_of,
    from_bytes,
    gpu_layout,
    lists_of,
    to_bytes,
)
from faiss_pqvae.native.inject import inject_codebooks, new_index_pq, new_residual_index
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.store.contents import read
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.training import TrainingConfig, fit

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
NLIST = 5
D_IN = 8
HASHES = np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 40)  # half of them below 0
KINDS = ("PQ", "PQFastScan", "IVFPQ", "IVFPQFastScan")
RESIDUALS = ("IVFPQ of residuals", "IVFPQFastScan of residuals")
# One GPU, replicas, shards.
SPREADS = [(1, False), (2, False), (3, True)]

Found = tuple[np.ndarray, np.ndarray]


def _vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def _codebooks(M: int, nbits: int, dsub: int = 3) -> Codebooks:
    return Codebooks(_vectors(M << nbits, dsub).reshape(M, -1, dsub))


def _native(kind: str, codebooks: Codebooks, metric: int = L2, id_map: Any = None) -> Any:
    """An empty native index; an inverted file searches all of its lists."""
    sizes = (codebooks.d, codebooks.M, codebooks.nbits, metric)
    kind, _, residuals = kind.partition(" of ")
    if kind.startswith("IVF"):
        quantizer = faiss.IndexFlat(codebooks.d, metric)
        quantizer.add(_vectors(NLIST, codebooks.d, seed=9))
        index = getattr(faiss, f"Index{kind}")(quantizer, codebooks.d, NLIST, *sizes[1:])
        index.by_residual, index.nprobe = bool(residuals), NLIST
    else:
        index = getattr(faiss, f"Index{kind}")(*sizes)
    inject_codebooks(index, codebooks)
    return index if id_map is None else id_map(index)


def _residual(d: int, M: int, nbits: int) -> Any:
    """A native index of residual codes, as DPQ's are."""
    index = new_residual_index(d, M, nbits)
    centroids = _vectors(M << nbits, d).reshape(M, -1, d)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    return index


def _filled(M: int, nbits: int, metric: int = L2, *, n: int = 50, dsub: int = 3) -> Any:
    index = _native("PQ", _codebooks(M, nbits, dsub), metric)
    index.add(_vectors(n, index.d, seed=1))
    return index


def _search(layout: Any, xq: np.ndarray, k: int) -> Found:
    return layout.search(np.pad(xq, ((0, 0), (0, layout.d - xq.shape[1]))), k)


def _assert_first(found: Found, everything: Found, tolerance: float = 2e-6) -> None:
    """`found` has the best of `everything`, which is sorted and has every id once, up to ties."""
    D, I = (np.asarray(part) for part in found)  # noqa: E741
    D_all, I_all = everything
    k = min(D.shape[1], D_all.shape[1])
    assert (I[:, k:] == -1).all()
    atol = tolerance * np.abs(D_all).max(initial=1)
    np.testing.assert_allclose(D[:, :k], D_all[:, :k], rtol=0, atol=atol)
    for i, d, i_all, d_all in zip(I[:, :k], D[:, :k], I_all, D_all, strict=True):
        distance = dict(zip(i_all.tolist(), d_all.tolist(), strict=True))
        assert len(set(i.tolist())) == k
        np.testing.assert_allclose([distance[key] for key in i.tolist()], d, rtol=0, atol=atol)


# -- the layout finds what the index finds


@given(
    M=st.integers(1, 18),
    nbits=st.integers(1, 8),
    dsub=st.sampled_from([1, 3, 4]),
    metric=st.sampled_from([L2, IP]),
    n=st.integers(0, 90),
    nlist=st.none() | st.integers(1, 40),
)
@settings(max_examples=80)
def test_gpu_layout__finds_what_index_pq_finds(M, nbits, dsub, metric, n, nlist):
    index = _filled(M, nbits, metric, n=n, dsub=dsub)
    xq = _vectors(3, index.d, seed=2)
    everything = index.search(xq, max(n, 1)) if n else (np.empty((3, 0)), np.empty((3, 0)))
    _assert_first(_search(gpu_layout(index, nlist=nlist), xq, 7), everything)


@pytest.mark.parametrize("id_map", [None, faiss.IndexIDMap, faiss.IndexIDMap2])
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_layout__of_every_kind_with_ids_of_its_own(kind, id_map):
    codebooks = _codebooks(6, 4)
    xb, xq = _vectors(70, 18, seed=1), _vectors(4, 18, seed=2)
    ids = np.random.default_rng(3).permutation(70) + 2**40
    index, exact = (
        _native(kind, codebooks, id_map=id_map),
        faiss.IndexIDMap(new_index_pq(codebooks)),
    )
    if id_map is None and not kind.startswith("IVF"):
        ids = np.arange(70)
        index.add(xb)
    else:
        index.add_with_ids(xb, ids)
    exact.add_with_ids(xb, ids)
    layout = gpu_layout(index, nlist=None if kind.startswith("IVF") else 8)
    _assert_first(_search(layout, xq, 9), exact.search(xq, 70))  # in all lists


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize(("kind", "nbits"), [("IVFPQ", 5), ("IVFPQ", 8), ("IVFPQFastScan", 4)])
def test_gpu_layout__codes_of_vectors_stay_in_their_lists_too(kind, nbits, metric):
    index = _native(kind, _codebooks(4, nbits), metric)
    x, q = _vectors(60, index.d, seed=1), _vectors(4, index.d, seed=2)
    index.add(x)
    exact = _native("IVFPQ", _codebooks(4, nbits), metric)  # of distances that are not rounded
    exact.add(x)
    for nprobe in (1, 2, NLIST):
        index.nprobe = exact.nprobe = nprobe
        layout = gpu_layout(index)
        assert not layout.quantizer.reconstruct_n(0, NLIST).any()
        lists = lists_of(index, read(index))
        coarse, padded = coarse_of(lists, layout.d), np.pad(q, ((0, 0), (0, layout.d - index.d)))
        probes = coarse.search(padded, nprobe)[1]
        np.testing.assert_array_equal(probes, index.quantizer.search(q, nprobe)[1])
        found = layout.search_preassigned(padded, 60, probes, None)
        everything = exact.search(q, 60)
        none = everything[1] == -1
        assert none.any() == (nprobe < NLIST)
        assert [set(row) for row in found[1]] == [set(row) for row in everything[1]]
        np.testing.assert_allclose(found[0][~none], everything[0][~none], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "nlist"), [(0, 1), (255, 1), (1023, 1), (1024, 2), (65536, 16), (70001, 16)]
)
def test_gpu_layout__deals_to_equal_lists(n, nlist):
    index = new_index_pq(_codebooks(1, 8))
    faiss.copy_array_to_vector(np.zeros(n, np.uint8), index.codes)
    index.ntotal = n
    layout = gpu_layout(index)
    sizes = [layout.invlists.list_size(i) for i in range(layout.nlist)]
    assert layout.nlist == nlist == layout.nprobe
    assert sum(sizes) == n == layout.ntotal
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("M", "nbits", "padded"),
    [
        *(
            (1, 1, 1),
            (5, 8, 8),
            (4, 4, 2),
            (7, 4, 4),
            (9, 2, 3),
            (17, 1, 3),
            (5, 3, 8),
            (13, 7, 16),
        ),
        *((33, 8, 40), (49, 8, 56), (65, 8, 96), (96, 8, 96), (129, 4, 96), (768, 1, 96)),
    ],
)
def test_gpu_layout__has_an_m_that_a_gpu_takes(M, nbits, padded):
    layout = gpu_layout(_filled(M, nbits, n=2, dsub=1), nlist=2)
    assert (layout.pq.M, layout.pq.nbits, layout.code_size) == (padded, 8, padded)


def test_gpu_layout__is_what_a_gpu_takes():
    layout = gpu_layout(_filled(4, 8, IP), nlist=6)
    centroids = layout.quantizer.reconstruct_n(0, 6)
    assert layout.is_trained
    assert layout.by_residual
    assert layout.polysemous_ht == 0
    assert layout.metric_type == layout.quantizer.metric_type == IP
    np.testing.assert_array_equal(centroids, np.zeros((6, layout.d)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _filled(2, 9), ValueError, "at most 8 bits a code on a GPU, got 9"),
        (lambda: _filled(97, 8, dsub=1), ValueError, "at most 96 bytes on a GPU, got 97"),
        (lambda: _filled(97, 3, dsub=1), ValueError, "at most 96 bytes on a GPU, got 97"),
        (lambda: faiss.IndexPQ(8, 2, 8), ValueError, "expected a trained index"),
        (lambda: faiss.IndexFlatL2(8), TypeError, "alone or in an IDMap, got IndexFlatL2"),
        (lambda: faiss.IndexHNSWPQ(8, 2, 16), TypeError, "alone or in an IDMap, got IndexHNSWPQ"),
        (lambda: _residual(8, 2, 4), TypeError, "got codewords that are added"),
        (
            lambda: faiss.IndexIVFPQR(faiss.IndexFlatL2(8), 8, 4, 2, 8, 2, 8),
            TypeError,
            "alone or in an IDMap, got IndexIVFPQR",
        ),
    ],
)
def test_gpu_layout__refuses(make, error, message):
    with pytest.raises(error, match=message):
        gpu_layout(make())


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize(
    ("kind", "nbits"), [(RESIDUALS[0], 6), (RESIDUALS[0], 8), (RESIDUALS[1], 4)]
)
def test_gpu_layout__codes_of_residuals_stay_in_their_lists(kind, nbits, metric):
    index = _native(kind, _codebooks(5, nbits), metric)
    x, q = _vectors(90, index.d, seed=1), _vectors(6, index.d, seed=2)
    index.add(x)
    for nprobe in (1, 2, NLIST):
        index.nprobe = nprobe
        layout = gpu_layout(index)
        sizes = [[each.invlists.list_size(i) for i in range(NLIST)] for each in (index, layout)]
        assert sizes[0] == sizes[1]
        assert (layout.by_residual, layout.nprobe, layout.nlist) == (True, nprobe, NLIST)
        D, I = index.search(q, 90, D=np.zeros((6, 90), np.float32))  # noqa: E741
        found = _search(layout, q, 90)
        assert [set(row) for row in found[1]] == [set(row) for row in I]
        if "Fast" not in kind:  # whose distances are rounded
            np.testing.assert_allclose(found[0], D, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["IVFPQ", *RESIDUALS[:1]])
def test_gpu_layout__lists_are_not_dealt_anew(kind):
    index = _native(kind, _codebooks(4, 8))
    with pytest.raises(ValueError, match="expected nlist=None for an inverted file, whose 5"):
        gpu_layout(index, nlist=2)
    index.nprobe = 2049
    with pytest.raises(ValueError, match="nprobe up to 2048 on a GPU, got 2049"):
        gpu_layout(index)


@pytest.mark.parametrize("nlist", [0, -1, 2049])
def test_gpu_layout__refuses_an_nlist_that_cannot_be_probed(nlist):
    with pytest.raises(ValueError, match=f"nlist from 1 to 2048, got {nlist}"):
        gpu_layout(_filled(2, 8), nlist=nlist)


@given(M=st.integers(1, 20), nbits=st.integers(1, 8), n=st.integers(0, 5))
@settings(max_examples=40)
def test_to_bytes__is_undone_by_from_bytes(M, nbits, n):
    ids = np.random.default_rng(0).integers(0, 1 << nbits, (n, M)).astype(np.int32)
    codes = faiss.pack_bitstrings(ids, nbits)
    codebooks = _codebooks(M, nbits, dsub=1)
    wide = to_bytes(codes, codebooks, 24)
    assert wide.shape == (n, 24)
    np.testing.assert_array_equal(from_bytes(wide, codebooks), codes)


# -- the class, over parts on the CPU


def _on_cpu(index: LatentIndex, parts: int = 1, shard: bool = False) -> GpuLatentIndex:
    """All but the copy to a GPU: the parts are copies of the layouts on the CPU."""
    copies = [faiss.clone_index] * parts
    inverted = kind_of(codebook_index(index.faiss_index)).has_lists
    nlist = None if inverted else 4
    return distribute(index, torch.device("cpu"), copies, shard=shard, nlist=nlist)


@pytest.fixture
def make_kind(make_model: Callable[..., Any]) -> Callable[..., LatentIndex]:
    """A LatentIndex over a native index of some kind, with n vectors."""

    def make(
        kind: str,
        nbits: int = 4,
        metric: int = L2,
        *,
        n: int,
        id_map: Any = None,
        M: int = 3,
        dsub: int = 4,
    ) -> LatentIndex:
        model = make_model((D_IN,), M, nbits, dsub=dsub, encoder="linear")
        native = _native(kind, model.codebooks(), metric, id_map)
        index = LatentIndex(model, metric, faiss_index=native)
        if n and id_map is not None:
            index.add_with_ids(_vectors(n, D_IN), np.arange(n)[::-1] * 3 + 2**33)
        elif n:
            index.add(_vectors(n, D_IN))
        return index

    return make


@pytest.mark.parametrize("nbits", [1, 3, 8])
def test_make_kind__gives_codes_that_differ(make_kind, nbits):
    index = make_kind("PQ", nbits, n=60)
    codes = index.sa_encode(_vectors(60, D_IN))
    assert len(np.unique(codes, axis=0)) >= min(2 ** (3 * nbits) // 2, 40)


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("nbits", [3, 4, 8])
def test_search__finds_what_the_index_finds(make_kind, nbits, metric, search_type, parts, shard):
    index = make_kind("PQ", nbits, metric, n=40, id_map=faiss.IndexIDMap)
    index.search_type = search_type
    copied = _on_cpu(index, parts, shard)
    queries = _vectors(7, D_IN, seed=1)
    copied.batch_size = 4
    found = copied.search(queries, 6)
    assert [part.dtype for part in found] == [np.float32, np.int64]
    _assert_first(found, index.search(queries, 40), 1e-5)
    np.testing.assert_array_equal(copied.assign(queries, 6), found[1])


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
def test_search__beyond_ntotal_pads_with_minus_one(make_kind, parts, shard):
    copied = _on_cpu(make_kind("PQ", n=3), parts, shard)
    I = copied.search(_vectors(3, D_IN, seed=1), 5)[1]  # noqa: E741
    assert copied.ntotal == 3
    assert (np.sort(I[:, :3]) == np.arange(3)).all()
    assert (I[:, 3:] == -1).all()


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("metric", [L2, IP])
def test_search__finds_ids_below_0(make_kind, metric, parts, shard):
    """Which FAISS's own IndexShards takes for none."""
    index = make_kind("IVFPQ", 4, metric, n=0)
    index.add_with_ids(_vectors(40, D_IN), HASHES)
    copied, queries = _on_cpu(index, parts, shard), _vectors(5, D_IN, seed=1)
    _assert_first(copied.search(queries, 6), index.search(queries, 40), 1e-5)
    assert set(copied.search(queries, 41)[1][0]) == {-1, *HASHES.tolist()}
    again = copied.gather(lambda part: part)
    np.testing.assert_array_equal(again.reconstruct_batch(HASHES), index.reconstruct_batch(HASHES))


@pytest.mark.parametrize("kind", ["PQ", "IVFPQ"])
def test_search__asks_no_replica_for_nothing(make_kind, monkeypatch, kind):
    index, q = make_kind(kind, n=9), _vectors(2, D_IN, seed=1)
    copied, asked = _on_cpu(index, 5), []
    find = FaissPart.find
    monkeypatch.setattr(
        FaissPart,
        "find",
        lambda part, given, wanted: asked.append(given.z) or find(part, given, wanted),
    )
    _assert_first(copied.search(q, 3), index.search(q, 9), 1e-5)
    assert [len(queries) for queries in asked] == [1, 1]


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
def test_search__of_no_queries_finds_nothing(make_kind, parts, shard):
    copied, none = _on_cpu(make_kind("PQ", n=9), parts, shard), _vectors(0, D_IN)
    results = [*copied.search(none, 3), copied.assign(none, 3), copied.encode(none)]
    kinds = [(0, 3), np.float32], [(0, 3), np.int64], [(0, 3), np.int64], [(0, 12), np.float32]
    assert [[array.shape, array.dtype] for array in results] == [*kinds]


def test_copy__refuses_to_leave_a_part_empty(make_kind):
    with pytest.raises(ValueError, match="at least 1 items, got 0"):
        _on_cpu(make_kind("PQ", n=0), 2)
    with pytest.raises(ValueError, match="at least 3 items, got 2"):
        _on_cpu(make_kind("PQ", n=2), 3, shard=True)


def test_search__refuses_what_a_gpu_ignores(make_kind):
    copied = _on_cpu(make_kind("PQ", n=9))
    parameters = faiss.SearchParametersIVF(sel=faiss.IDSelectorRange(0, 3))
    with pytest.raises(TypeError, match="on a GPU, got SearchParametersIVF: lists to"):
        copied.search(_vectors(1, D_IN), 2, params=parameters)
    with pytest.raises(ValueError, match="k from 1 to 2048 on a GPU, got 2049"):
        copied.search(_vectors(1, D_IN), 2049)
    with pytest.raises(ValueError, match="expected k >= 1"):
        copied.search(_vectors(1, D_IN), 0)
    with pytest.raises(ValueError, match="queries of shape"):
        copied.search(_vectors(1, 3), 2)


@pytest.mark.parametrize("scale", [1e21, 1e36, np.float32(np.finfo(np.float32).max)])
def test_search__refuses_items_whose_distances_overflow(make_kind, scale):
    index = make_kind("PQ", n=9)
    for each in (index, _on_cpu(index)):
        for refused in (each.encode, lambda x, each=each: each.search(x, 2)):
            with pytest.raises(ValueError, match="expected items with latents below 1e18"):
                refused(np.sign(_vectors(3, D_IN)) * np.float32(scale))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy, np.asfortranarray])
@pytest.mark.parametrize(("parts", "shard"), SPREADS)
def test_queries__are_checked_as_on_the_cpu(make_kind, value, form, parts, shard):
    index = make_kind("PQ", n=9)
    copied = _on_cpu(index, parts, shard)
    index.batch_size = copied.batch_size = 2
    queries = _vectors(5, D_IN)
    queries[3, 1] = value  # in the second batch
    for name, arguments in (("search", (2,)), ("assign", (2,)), ("encode", ())):
        messages = []
        for each in (index, copied):
            with pytest.raises(ValueError, match="got NaN or infinity in row 3") as error:
                getattr(each, name)(form(queries), *arguments)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_queries__that_are_images_are_checked_as_on_the_cpu(make_index, make_items, value):
    index = make_index((1, 8, 8), n=5)
    copied = _on_cpu(index)
    queries = make_items(3, (1, 8, 8)) / np.float32(255)
    queries[2, 0, 1, 1] = value
    for each in (index, copied):
        with pytest.raises(ValueError, match=r"float images in \[0, 1\]|NaN or infinity in row 2"):
            each.search(queries, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_search__refuses_latents_that_are_not_finite(make_kind, value):
    copied = _on_cpu(make_kind("PQ", n=9))
    assert copied.search(_vectors(3, D_IN), 2)[1].shape == (3, 2)
    with torch.no_grad():
        copied.model.encoder.map.weight[0, 0] = value
    for refused in (copied.encode, lambda x: copied.search(x, 2)):
        with pytest.raises(ValueError, match="got larger ones or NaN"):
            refused(_vectors(3, D_IN))


def test_copy__tells_what_the_index_tells(make_kind):
    index = make_kind("PQ", metric=IP, n=9)
    copied = _on_cpu(index)
    for name in ("d", "input_shape", "metric_type", "ntotal", "is_trained", "search_type"):
        assert getattr(copied, name) == getattr(index, name)
    scan = "'IndexIVFPQ, tables of float32'"
    assert repr(copied) == f"GpuLatentIndex({scan}, ntotal=9)"
    assert repr(_on_cpu(index, 2)) == f"GpuLatentIndex({scan}, 2 replicas, ntotal=9)"
    assert repr(_on_cpu(index, 2, shard=True)) == f"GpuLatentIndex({scan}, 2 shards, ntotal=9)"
    wide = _on_cpu(make_kind("PQ", 8, n=9, M=49, dsub=1))
    assert wide.scan == "IndexIVFPQ, tables of float16"
    np.testing.assert_allclose(copied.encode(_vectors(5, D_IN)), index.encode(_vectors(5, D_IN)))


def test_copy__refuses_a_slip(make_kind):
    copied = _on_cpu(make_kind("PQ", n=9))
    assert len(copied) == 9
    with pytest.raises(AttributeError, match="no attribute 'batchsize'; did you mean 'batch_size'"):
        copied.batchsize = 3
    with pytest.raises(ValueError, match="expected batch_size >= 1, got 0"):
        copied.batch_size = 0


def test_copies__of_something_else_say_what_is_meant(make_kind):
    index = make_kind("PQ", n=9)
    with pytest.raises(TypeError, match="got LatentIndex: a LatentIndex is on the CPU already"):
        index_gpu_to_cpu(index)
    with pytest.raises(TypeError, match=r"got IndexPQ: .* faiss.index_gpu_to_cpu copies"):
        index_gpu_to_cpu(index.faiss_index)
    with pytest.raises(TypeError, match=r"got IndexPQ: faiss\.index_cpu_to_gpu copies"):
        index_cpu_to_gpu(index.faiss_index)
    with pytest.raises(TypeError, match="got GpuLatentIndex"):
        index_cpu_to_gpu(_on_cpu(index))


def test_copy__and_original_do_not_share_settings(make_kind):
    index = make_kind("PQ", n=9)
    copied = _on_cpu(index)
    copied.search_type = "sdc"
    index.add(_vectors(1, D_IN))
    assert index.search_type == "adc"
    assert (copied.ntotal, index.ntotal) == (9, 10)
    assert copied.model is not index.model
    with pytest.raises(ValueError, match="expected search_type"):
        copied.search_type = "hamming"  # type: ignore[assignment]


@pytest.mark.parametrize("method", ["add", "train", "reset", "remove_ids"])
def test_copy__does_not_change(make_kind, method):
    with pytest.raises(TypeError, match="change the one on the CPU and copy it again"):
        getattr(_on_cpu(make_kind("PQ", n=9)), method)(_vectors(2, D_IN))


def test_copy__transforms_its_queries(make_model):
    rotation = faiss.RandomRotationMatrix(6, 12)
    rotation.init(3)
    chain = faiss.IndexPreTransform(rotation, faiss.IndexFlatL2(12))
    index = LatentIndex(make_model((12,)), transforms=Transforms(chain))
    index.add(_vectors(30, 6))
    copied = _on_cpu(index)
    queries = _vectors(4, 6, seed=1)
    assert copied.d == 6
    _assert_first(copied.search(queries, 5), index.search(queries, 30), 1e-5)
    assert copied.gather(faiss.clone_index).transforms is index.transforms


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda make: make(M=2, nbits=9), "codewords of 9 bits, and it takes 8 at most"),
        (lambda make: make(M=97, nbits=8, dsub=1), "97 bytes, and it takes 96 at most"),
        (lambda make: make(refine_index="decoder"), "a decoder behind them"),
    ],
)
def test_copy__says_why_faiss_does_not_take_codes(make_model, make, got):
    def index(M=2, nbits=4, dsub=4, refine_index=None):
        model = make_model((D_IN,), M, nbits, dsub=dsub, encoder="linear")
        index = LatentIndex(model, refine_index=refine_index)
        index.add(_vectors(20, D_IN))
        return index

    with pytest.raises(TypeError, match=f"for on a GPU, got {got}: torch scans them"):
        _on_cpu(make(index))
    assert gpu.scan_of(make(index), "auto") == "torch"


def test_copy__refuses_an_index_that_stores_vectors_besides(make_model):
    index = LatentIndex(make_model((D_IN,)), refine_index=faiss.IndexFlatL2(D_IN))
    for scan in ("auto", "faiss", "torch"):
        with pytest.raises(ValueError, match="one that refines by stored vectors"):
            gpu.scan_of(index, scan)
    with pytest.raises(ValueError, match="'auto', 'faiss' or 'torch', got 'cuvs'"):
        gpu.scan_of(index, "cuvs")


# -- what FAISS's kernels lack


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("kind", ["PQ", "IVFPQ", RESIDUALS[0]])
def test_selector__is_asked_about_more_results(make_kind, kind, metric, parts, shard):
    index, q = make_kind(kind, 8, metric, n=900, M=4), _vectors(5, D_IN, seed=1)
    copied = _on_cpu(index, parts, shard)
    for share in (2, 9, 100):
        params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.arange(0, 900, share)))
        everything = index.search(q, 900, params=params)
        n = int((everything[1][0] != -1).sum())
        expected = everything[0][:, :n], everything[1][:, :n]
        _assert_first(copied.search(q, 12, params=params), expected, 1e-5)


def test_selector__of_too_few_among_the_nearest(make_kind, monkeypatch):
    index = make_kind("PQ", 8, n=500)
    copied = _on_cpu(index)
    monkeypatch.setattr("faiss_pqvae.index.gpu_parts.MAX_SELECTION", 80)
    rare = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.array([3, 250])))
    with pytest.raises(ValueError, match=r"takes k=2 of the 80 nearest .* scan='torch'"):
        copied.search(_vectors(9, D_IN, seed=1), 2, params=rare)
    none = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.array([], np.int64)))
    with pytest.raises(ValueError, match="got 9 queries of which it takes less"):
        copied.search(_vectors(9, D_IN, seed=1), 2, params=none)


@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("metric", [L2, IP])
def test_add__of_residuals_is_what_faiss_can(make_kind, metric, nbits):
    index = make_kind(RESIDUALS[0], nbits, metric, n=40)
    index.items = Items.of_names(["a", "b"], [3, 40])
    copied, more = _on_cpu(index), _vectors(31, D_IN, seed=4)
    assert copied.takes_more
    assert copied.items.names([3, 40]).tolist() == ["a", "b"]
    copied.add(more)
    copied.add_with_ids(more[:2], [2**40, 2**41])
    assert copied.items.names([3, 40]).tolist() == ["a", ""]
    index.add(more)
    index.add_with_ids(more[:2], np.array([2**40, 2**41]))
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (copied.gather(faiss.clone_index), index))
    )


def test_add__is_refused_where_faiss_would_misplace(make_kind):
    residuals = make_kind(RESIDUALS[0], 3, n=30)  # of which 3 bits become 8
    mapped = make_kind(RESIDUALS[0], 4, n=30, id_map=faiss.IndexIDMap2)
    dealt, in_lists = make_kind("PQ", n=30), make_kind("IVFPQ", n=30)
    copies = [_on_cpu(index) for index in (residuals, mapped, dealt, in_lists)]
    copies.append(_on_cpu(make_kind(RESIDUALS[0], n=30), 2, shard=True))
    for copied in copies:
        assert not copied.takes_more
        with pytest.raises(TypeError, match="change the one on the CPU and copy it again"):
            copied.add(_vectors(3, D_IN))


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("n", [3, 41])
@pytest.mark.parametrize("id_map", [None, faiss.IndexIDMap, faiss.IndexIDMap2])
@pytest.mark.parametrize("kind", KINDS)
def test_gather__restores_the_native_index(make_kind, kind, id_map, n, parts, shard):
    index = make_kind(kind, n=n, id_map=id_map)
    restored = _on_cpu(index, parts, shard).gather(faiss.clone_index)
    assert type(restored.faiss_index) is type(index.faiss_index)
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (restored, index))
    )


@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("id_map", [None, faiss.IndexIDMap2])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("kind", [*KINDS[2:], *RESIDUALS])
def test_copy__of_an_inverted_file_searches_the_same_lists_and_goes_back(
    make_kind, kind, metric, id_map, parts, shard
):
    index, q = make_kind(kind, metric=metric, n=41, id_map=id_map), _vectors(5, D_IN, seed=1)
    copied = _on_cpu(index, parts, shard)
    plain = kind.replace("FastScan", "")  # of distances that are not rounded
    exact = make_kind(plain, metric=metric, n=41, id_map=id_map)
    for index.nprobe in (2, NLIST):
        exact.nprobe = copied.nprobe = index.nprobe
        assert copied.nprobe == index.nprobe
        for name in ("adc", "sdc"):
            copied.search_type = exact.search_type = name
            D, I = copied.search(q, 41)  # noqa: E741
            expected = exact.search(q, 41)
            np.testing.assert_allclose(D, expected[0], rtol=1e-4, atol=1e-4)
            assert [set(row) for row in I] == [set(row) for row in expected[1]]
    restored = copied.gather(faiss.clone_index)
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (restored, index))
    )


@pytest.mark.parametrize("kind", [KINDS[2], RESIDUALS[0]])
def test_nprobe__of_an_inverted_file_alone(make_kind, kind):
    copied = _on_cpu(make_kind(kind, n=9))
    copied.nprobe = 2000
    assert copied.nprobe == NLIST
    with pytest.raises(ValueError, match="nprobe from 1 to 2048, got 0"):
        copied.nprobe = 0
    dealt = _on_cpu(make_kind("PQ", n=9))
    with pytest.raises(ValueError, match="has no inverted lists, and so no nprobe"):
        dealt.nprobe = 3


def test_gather__restores_ids_that_can_be_looked_up(make_kind):
    index = make_kind("PQ", n=20, id_map=faiss.IndexIDMap2)
    restored = _on_cpu(index).gather(faiss.clone_index)
    latents = [i.faiss_index.reconstruct(2**33 + 9) for i in (restored, index)]
    np.testing.assert_array_equal(*latents)


@pytest.mark.parametrize("inverted", [False, True])
def test_gather__restores_blocks_of_another_size(make_model, inverted):
    model = make_model((D_IN,), 3, 4, encoder="linear")
    native = faiss.IndexPQFastScan(model.latent_dim, 3, 4, L2, 64)
    if inverted:
        quantizer = faiss.IndexFlatL2(model.latent_dim)
        quantizer.add(_vectors(2, model.latent_dim))
        native = faiss.IndexIVFPQFastScan(quantizer, model.latent_dim, 2, 3, 4, L2, 64)
    index = LatentIndex(model, faiss_index=native)
    index.add(_vectors(70, D_IN))
    restored = _on_cpu(index).gather(faiss.clone_index)
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (restored, index))
    )


@pytest.mark.parametrize("nbits", range(1, 9))
def test_gather__restores_codes_of_all_sizes(make_kind, nbits):
    index = make_kind("PQ", nbits, n=23)
    restored = _on_cpu(index).gather(faiss.clone_index)
    np.testing.assert_array_equal(
        *(faiss.vector_to_array(i.faiss_index.codes) for i in (restored, index))
    )


def test_gather__restores_the_settings(make_kind):
    index = make_kind("PQ", n=9)
    index.history, index.description, index.k_factor = [{"event": "end"}], "a description", 3
    copied = _on_cpu(index)
    copied.search_type, copied.batch_size = "sdc", 17
    restored = copied.gather(faiss.clone_index)
    assert restored.model is index.model
    for name in ("history", "description", "k_factor", "fit"):
        assert getattr(restored, name) == getattr(index, name)
    assert (restored.search_type, restored.batch_size) == ("sdc", 17)
    restored.add(_vectors(4, D_IN))  # it is a usable index
    assert (restored.ntotal, copied.ntotal) == (13, 9)


def test_copy_and_gather__keep_the_names_of_items(make_kind):
    index = make_kind("PQ", n=9)
    index.items = Items.of_names(["a", "b"], [3, 4])
    gpu = _on_cpu(index)
    assert gpu.items.names([3, 4, 5]).tolist() == ["a", "b", ""]
    assert gpu.gather(faiss.clone_index).items.names([3]).tolist() == ["a"]


# -- devices


def test_index_cpu_to_gpu__of_a_faiss_for_the_cpu_names_the_extra(make_kind, monkeypatch):
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(RuntimeError, match=r'pip install "faiss-pqvae\[gpu\]"'):
        index_cpu_to_gpu(make_kind("PQ", n=9))


def _pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, *, torch_sees: bool) -> None:
    """As if there were GPUs: enough for the checks before anything is copied."""
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees)


@pytest.mark.parametrize(
    ("gpus", "torch_sees", "message"),
    [(0, True, "FAISS finds no GPU on this host"), (1, False, "PyTorch does not")],
)
def test_index_cpu_to_gpu__without_a_gpu(make_kind, monkeypatch, gpus, torch_sees, message):
    _pretend(monkeypatch, gpus, torch_sees=torch_sees)
    with pytest.raises(RuntimeError, match=message):
        index_cpu_to_gpu(make_kind("PQ", n=9))


@pytest.mark.parametrize("device", [2, -1, [], [0, 2]])
def test_index_cpu_to_gpu__refuses_devices_that_are_not_there(make_kind, monkeypatch, device):
    _pretend(monkeypatch, 2, torch_sees=True)
    with pytest.raises(ValueError, match="numbers of GPUs from 0 to 1, got"):
        index_cpu_to_gpu(make_kind("PQ", n=9), device)


class _Card:
    """Stands in for the resources of a card on which nothing may be stored."""


@pytest.mark.parametrize("kind", ["PQ", "IVFPQ"])
def test_index_cpu_to_gpu__says_how_much_memory_is_missing(make_kind, monkeypatch, kind):
    _pretend(monkeypatch, 1, torch_sees=True)
    monkeypatch.setattr(faiss, "StandardGpuResources", _Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 10**9))
    message = r"expected 0\.00 GB free on GPU 0 for 99 items, got 0\.00 GB: several GPUs with shard"
    with pytest.raises(MemoryError, match=message):
        index_cpu_to_gpu(make_kind(kind, n=99))


@pytest.mark.parametrize("kind", ["PQ", "IVFPQ"])
def test_bytes_needed__are_those_of_codes_ids_and_tables(make_kind, kind):
    copied = _on_cpu(make_kind(kind, 8, n=99, M=4))
    layout = copied.faiss_index
    tables = layout.pq.centroids.size() + layout.nlist * layout.d
    assert bytes_needed(layout) == 99 * (4 + 8) + 4 * tables
    assert bytes_needed(faiss.IndexFlatL2(7)) == 0
    # A file of it has all of this, and little more.
    assert 0 < faiss.serialize_index(layout).nbytes - bytes_needed(layout) < 500


# -- on a GPU

GPUS = faiss.get_num_gpus() if torch.cuda.is_available() else 0
# The same card twice shows what several cards would.
_LISTS = [[0, 0], list(range(GPUS))][: 1 + (GPUS > 1)]
GPU_SPREADS = [(0, False), *((several, shard) for several in _LISTS for shard in (False, True))]


def on_gpu(test: Any) -> Any:
    reason = "no CUDA device that both FAISS and PyTorch see"
    return pytest.mark.gpu(pytest.mark.skipif(not GPUS, reason=reason)(test))


def _reference(index: LatentIndex, z: np.ndarray, search_type: str = "adc") -> Found:
    """All ids, by the CPU's native index, for the latents that the GPU encoded."""
    native = index.faiss_index
    if search_type == "sdc":
        z = native.sa_decode(native.sa_encode(z))
    return native.search(z, index.ntotal)


@on_gpu
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gpu__checks_queries_that_are_there_already(make_kind, value):
    """NaN and infinity in tensors on the card are refused."""
    copied = index_cpu_to_gpu(make_kind("PQ", n=9))
    queries = torch.from_numpy(_vectors(5, D_IN)).cuda()
    queries[3, 1] = value
    for refused in (copied.encode, lambda x: copied.search(x, 2)):
        with pytest.raises(ValueError, match="got NaN or infinity in row 3"):
            refused(queries)


@on_gpu
@pytest.mark.parametrize(("device", "shard"), GPU_SPREADS, ids=str)
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("nbits", [1, 3, 4, 8])
def test_gpu__finds_what_the_cpu_finds(make_kind, nbits, metric, search_type, device, shard):
    """Product codes of 1 to 8 bits, ADC and SDC, one card, replicas, shards; and back."""
    index = make_kind("PQ", nbits, metric, n=2000, M=5)
    copied = index_cpu_to_gpu(index, device, shard=shard)
    copied.search_type = search_type
    queries = _vectors(33, D_IN, seed=1)
    reference = _reference(index, copied.encode(queries), search_type)
    _assert_first(copied.search(queries, 20), reference, 1e-5)
    restored = index_gpu_to_cpu(copied)
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (restored, index))
    )


@on_gpu
@pytest.mark.parametrize(("dsub", "M"), [(4, 1), (4, 16), (7, 3), (16, 48), (4, 56), (4, 90)])
@pytest.mark.parametrize("metric", [L2, IP])
def test_gpu__takes_all_sizes(make_kind, dsub, M, metric):
    """Numbers and lengths of sub-vectors up to what FAISS's kernels take, tables of float16."""
    index = make_kind("PQ", 8, metric, n=500, M=M, dsub=dsub)
    copied = index_cpu_to_gpu(index)
    queries = _vectors(9, D_IN, seed=1)
    # Tables of float16 have 11 bits, and only the sum is compared here.
    tolerance = 1e-5 if M <= 48 else 5e-3
    _assert_first(copied.search(queries, 20), _reference(index, copied.encode(queries)), tolerance)


@on_gpu
@pytest.mark.parametrize("nlist", [1, 7, 2048])
@pytest.mark.parametrize("n", [1, 3, 3000])
def test_gpu__deals_to_any_number_of_lists(make_kind, n, nlist):
    """Any `nlist`, fewer items than lists."""
    index = make_kind("PQ", 8, n=n, M=4)
    copied = index_cpu_to_gpu(index, nlist=nlist)
    queries = _vectors(5, D_IN, seed=1)
    found = copied.search(queries, 2048)
    _assert_first(found, _reference(index, copied.encode(queries)), 1e-5)


@on_gpu
def test_gpu__gives_tensors_for_tensors_on_any_stream(make_kind):
    """Results are there in the order of PyTorch's own stream."""
    copied = index_cpu_to_gpu(make_kind("PQ", 8, n=3000, M=4))
    queries = _vectors(3000, D_IN, seed=1)
    D, I = copied.search(queries, 10)  # noqa: E741
    assert isinstance(D, np.ndarray)
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            found = copied.search(torch.from_numpy(queries).cuda(), 10)
            # Read on the stream at once: the search must have been ordered before.
            sums = found[0].sum(), found[1].sum()
        stream.synchronize()
        assert all(part.is_cuda for part in found)
        np.testing.assert_allclose(found[0].cpu(), D, rtol=1e-4, atol=1e-5)
        assert (found[1].cpu().numpy() == I).mean() > 0.99
        np.testing.assert_allclose(float(sums[0]), D.sum(dtype=np.float64), rtol=1e-4)


@on_gpu
def test_gpu__finds_ids_below_0(make_kind):
    """Ids below 0 are ids."""
    index = make_kind("IVFPQ", n=0)
    index.add_with_ids(_vectors(40, D_IN), HASHES)
    I = index_cpu_to_gpu(index).search(_vectors(5, D_IN, seed=1), 41)[1]  # noqa: E741
    assert set(I[0]) == {-1, *HASHES.tolist()}


@on_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_gpu__keeps_ids_beyond_32_bits(make_kind, kind):
    """Ids of an IDMap, around every kind; and back."""
    index = make_kind(kind, n=100, id_map=faiss.IndexIDMap2)
    copied = index_cpu_to_gpu(index)
    I = copied.search(_vectors(5, D_IN, seed=1), 100)[1]  # noqa: E741
    assert (np.sort(I) == np.sort(faiss.vector_to_array(index.faiss_index.id_map))).all()
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (index_gpu_to_cpu(copied), index))
    )


@on_gpu
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("kind", [*KINDS[2:], *RESIDUALS])
def test_gpu__visits_the_lists_that_the_cpu_visits(make_kind, kind, metric, search_type):
    """Inverted files by every `nprobe`; and back list for list."""
    index, q = make_kind(kind, metric=metric, n=2000), _vectors(33, D_IN, seed=1)
    copied = index_cpu_to_gpu(index)
    exact = make_kind(kind.replace("FastScan", ""), metric=metric, n=2000)  # unrounded
    copied.search_type = exact.search_type = search_type
    for copied.nprobe in (1, 2, NLIST):
        exact.nprobe = copied.nprobe
        D, I = exact.search(q, 2000)  # noqa: E741
        found = copied.search(q, 2000)
        np.testing.assert_allclose(found[0], D, rtol=1e-3, atol=1e-3)
        # Centroids that are as near may be told apart otherwise.
        assert np.mean([set(a) == set(b) for a, b in zip(found[1], I, strict=True)]) > 0.9
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (index_gpu_to_cpu(copied), index))
    )


@on_gpu
@pytest.mark.parametrize("kind", ["PQ", "IVFPQ", RESIDUALS[0]])
def test_gpu__asks_a_selector_about_more_results(make_kind, kind):
    """Selected items alone, by FAISS's kernels."""
    index, q = make_kind(kind, 8, n=900, M=4), _vectors(5, D_IN, seed=1)
    params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.arange(0, 900, 9)))
    D, I = index.search(q, 100, params=params)  # noqa: E741
    _assert_first(index_cpu_to_gpu(index).search(q, 12, params=params), (D, I), 1e-3)


@on_gpu
@pytest.mark.parametrize("metric", [L2, IP])
def test_gpu__adds_residuals(make_kind, metric):
    """FAISS encodes and stores on the card what it would on the CPU."""
    index, more = make_kind(RESIDUALS[0], 8, metric, n=40), _vectors(500, D_IN, seed=4)
    copied = index_cpu_to_gpu(index)
    copied.add(more)
    index.add(more)
    restored = index_gpu_to_cpu(copied)
    assert restored.ntotal == copied.ntotal == 540
    ids = np.arange(540)
    same = np.isclose(restored.reconstruct_batch(ids), index.reconstruct_batch(ids), atol=1e-4)
    assert same.all(1).mean() > 0.99


@on_gpu
def test_gpu__trains_and_stays_there(make_model):
    """A model that was trained on the card encodes and searches there."""
    model = make_model((D_IN,), trained=False)
    fit(model, _vectors(200, D_IN), TrainingConfig(epochs=2, batch_size=32), progress=False)
    assert model.device.type == "cuda"
    index = LatentIndex(model)
    index.add(_vectors(200, D_IN))
    copied = index_cpu_to_gpu(index)
    assert copied.encode(torch.from_numpy(_vectors(5, D_IN)).cuda()).is_cuda
    queries = _vectors(5, D_IN, seed=1)
    _assert_first(copied.search(queries, 9), _reference(index, copied.encode(queries)), 1e-5)
