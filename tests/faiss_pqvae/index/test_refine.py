"""Refinement: the base search proposes, exact vectors or reconstructions decide."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import PQVAE, LatentIndex, ModelConfig, TrainingConfig, index_factory
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_index_pq

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
LARGE = 2**40  # ids that are no places
D_IN = 12

Make = Callable[..., LatentIndex]


@pytest.fixture(scope="module")
def make(make_model: Callable[..., PQVAE], make_items: Callable[..., np.ndarray]) -> Make:
    """A trained index of a description, with n items in it."""

    def make_one(
        description: str, metric: Any = L2, n: int = 0, *, shape: tuple[int, ...] = (D_IN,)
    ) -> LatentIndex:
        config = {"encoder": "linear", "dsub": 4, "unit_latents": metric == "cosine"}
        model = make_model(shape, 3, 6, **config)
        like = index_factory(shape, description, metric, model=model.config)
        refine = "decoder"
        if isinstance(like.refiner, StoredVectors):
            refine = like.refiner.index
        index = LatentIndex(
            model, like.metric_type, faiss_index=like.faiss_index, refine_index=refine
        )
        index.description = description
        if not index.is_trained:
            index.train(make_items(200, shape, seed=5), progress=False)
        if "IVF" in description:
            index.nprobe = 3
        if n:
            _add(index, make_items(n, shape))
        return index

    return make_one


def _add(index: LatentIndex, x: np.ndarray, ids: Any = None) -> None:
    if "IDMap" in index.description:
        ids = np.arange(index.ntotal, index.ntotal + len(x)) + LARGE if ids is None else ids
        index.add_with_ids(x, ids)
    else:
        index.add(x)


def _vectors(x: np.ndarray, *, unit: bool = False) -> np.ndarray:
    """Items as flat vectors in float64; uint8 images in [0, 1]."""
    flat = (x / 255 if x.ndim == 4 else x).reshape(len(x), -1).astype(np.float64)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True) if unit else flat


def _pairs(a: np.ndarray, b: np.ndarray, metric: Any) -> np.ndarray:
    """Distances between all vectors of a and b, smaller is better."""
    return ((a[:, None] - b) ** 2).sum(-1) if metric == L2 else -(a @ b.T)


def _base(index: LatentIndex, queries: np.ndarray, k: int, params: Any = None) -> np.ndarray:
    """The ids that the index finds without refinement."""
    refiner, index.refiner = index.refiner, None
    try:
        return index.search(queries, k, params=params)[1]
    finally:
        index.refiner = refiner


def _expected(D: np.ndarray, ids: np.ndarray, k: int, metric: Any) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the candidates ids (n, k_base) by distances D (n, number of ids)."""
    D = np.where(ids < 0, np.inf, np.take_along_axis(D, np.maximum(ids, 0), 1))
    order = D.argsort(1, kind="stable")[:, :k]
    D, ids = np.take_along_axis(D, order, 1), np.take_along_axis(ids, order, 1)
    D = np.where(ids < 0, np.finfo(np.float32).max, D)
    return (D if metric == L2 else -D), ids


def _check(
    found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, np.ndarray], rtol: float = 1e-5
) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    scale = np.abs(expected[0][expected[1] >= 0]).max()
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol, atol=rtol * scale)


# -- distances are those to what is stored

COARSE = ["", "IDMap2,", "IDMap,", "IVF4,", "IDMap2,IVF4,", "HNSW8,"]


@pytest.mark.parametrize("metric", [L2, IP, "cosine"])
@pytest.mark.parametrize("coarse", COARSE)
def test_flat__distances_are_exact(make, make_items, coarse, metric):
    index = make(f"{coarse}PQVAE3x6,RFlat", metric, 150)
    index.k_factor = 4.0
    queries = make_items(10, (D_IN,), 1)
    unit = metric == "cosine"
    D = _pairs(_vectors(queries, unit=unit), _vectors(make_items(150, (D_IN,)), unit=unit), metric)
    expected = _expected(D, _base(index, queries, 20) % LARGE, 5, metric)
    D, I = index.search(queries, 5)  # noqa: E741
    _check((D, I % LARGE), expected)
    assert (I >= LARGE).all() == ("IDMap" in coarse)
    # The base search alone is worse.
    assert (_base(index, queries, 5) != I).any()


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("kind", ["SQfp16", "SQ8", "PQ4x4", "SQbf16"])
@pytest.mark.parametrize("coarse", ["", "IDMap2,IVF4,"])
def test_refine__distances_are_those_to_the_second_codes(make, make_items, coarse, kind, metric):
    index = make(f"{coarse}PQVAE3x6,Refine({kind})", metric, 150)
    index.k_factor = 4.0
    queries = make_items(10, (D_IN,), 1)
    codes = index.refiner.index
    codes = faiss.downcast_index(codes.index) if coarse else codes
    stored = codes.reconstruct_n(0, 150).astype(np.float64)
    items = make_items(150, (D_IN,))
    tolerance = {"SQfp16": 1e-3, "SQbf16": 1e-2, "SQ8": 0.3, "PQ4x4": 2.5}[kind]
    assert 0 < np.abs(stored - items).max() < tolerance * np.abs(items).max()
    D = _pairs(_vectors(queries), stored, metric)
    expected = _expected(D, _base(index, queries, 20) % LARGE, 5, metric)
    D, I = index.search(queries, 5)  # noqa: E741
    _check((D, I % LARGE), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flat__of_images_is_between_pixels_in_0_to_1(make, make_items, dtype):
    shape = (2, 4, 4)
    index = make("PQVAE3x6,RFlat", L2, 60, shape=shape)
    index.k_factor = 60.0
    queries = make_items(5, shape, 1)
    D = _pairs(_vectors(queries), _vectors(make_items(60, shape)), L2)
    given = queries if dtype == np.uint8 else queries.astype(np.float32) / 255
    _check(index.search(given, 5), _expected(D, np.tile(np.arange(60), (5, 1)), 5, L2))


@pytest.mark.parametrize("metric", [L2, IP, "cosine"])
@pytest.mark.parametrize("coarse", COARSE)
def test_decoder__distances_are_to_reconstructions(make, make_items, coarse, metric):
    index = make(f"{coarse}PQVAE3x6,RDecoder", metric, 150)
    index.k_factor = 2.0  # of 10 results, which are the least
    queries = make_items(10, (D_IN,), 1)
    with torch.inference_mode():
        normalized = index.model.normalize(torch.from_numpy(queries)).double()
        ids = np.arange(150) + (LARGE if "IDMap" in coarse else 0)
        decoded = index.model.decoder(torch.from_numpy(index.reconstruct_batch(ids))).double()
    if metric == "cosine":
        normalized, decoded = (torch.nn.functional.normalize(x) for x in (normalized, decoded))
    D = _pairs(normalized.numpy(), decoded.numpy(), metric)
    expected = _expected(D, _base(index, queries, 20) % LARGE, 5, metric)
    D, I = index.search(queries, 5)  # noqa: E741
    # Vectors of the same code have the same distance, in any order.
    np.testing.assert_allclose(D, expected[0], rtol=1e-4, atol=1e-5)
    assert np.mean(np.equal(I % LARGE, expected[1])) > 0.8


def test_decoder__of_standardised_images_sees_them_as_the_model_does(make_model, make_items):
    model = make_model((1, 8, 8), 3, 6)
    index = LatentIndex(model, refine_index="decoder")
    index.add(make_items(40))
    index.k_factor = 40.0
    queries = make_items(4, seed=1)
    with torch.inference_mode():
        normalized = model.normalize(torch.from_numpy(queries)).flatten(1).double().numpy()
        decoded = model.decoder(torch.from_numpy(index.reconstruct_n())).flatten(1).double().numpy()
    D, I = index.search(queries, 40)  # noqa: E741
    expected = np.take_along_axis(_pairs(normalized, decoded, L2), I, 1)
    np.testing.assert_allclose(D, expected, rtol=1e-4)
    assert (np.diff(D, axis=1) >= 0).all()


# -- k_factor


@pytest.fixture(scope="module")
def twins(make_items: Callable[..., np.ndarray]) -> Callable[..., tuple[LatentIndex, Any]]:
    """An index whose encoder changes nothing, and FAISS's own of the same codes and vectors."""

    def make_both(description: str, metric: int) -> tuple[LatentIndex, Any]:
        with torch.no_grad():
            config = ModelConfig(encoder="linear", dsub=4, normalize_latents=False)
            model = PQVAE((D_IN,), 3, 6, config).eval()
            model.encoder.map.weight.copy_(torch.eye(D_IN))
            model.encoder.map.bias.zero_()
            generator = torch.Generator().manual_seed(1)
            shape = model.quantizer.codewords.shape
            model.quantizer.codewords.copy_(torch.randn(shape, generator=generator))
            model.fitted.fill_(True)
        x = make_items(300, (D_IN,))
        like = index_factory(D_IN, description, metric, model=config)
        stored = faiss.IndexFlat(D_IN, metric)
        if "IVF" in description:
            like.faiss_index.by_residual = False  # the codewords are those of latents
        index = LatentIndex(model, metric, faiss_index=like.faiss_index, refine_index=stored)
        if not index.is_trained:
            index.train(x, progress=False)
        base = copy.deepcopy(index.faiss_index)
        index.add(x)
        base.add(x)
        flat = faiss.IndexFlat(D_IN, metric)
        flat.add(x)
        native = faiss.IndexRefine(base, flat)
        native.referenced_objects = [base, flat]
        return index, native

    return make_both


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("k_factor", [1.0, 1.3, 2.0, 7.5, 1000.0])
@pytest.mark.parametrize("description", ["PQVAE3x6,RFlat", "IVF4,PQVAE3x6,RFlat"])
def test_k_factor__is_faisss(twins, make_items, description, k_factor, metric):
    index, native = twins(description, metric)
    queries = make_items(20, (D_IN,), 1)
    index.k_factor = native.k_factor = k_factor
    _check(index.search(queries, 7), native.search(queries, 7))
    # In the parameters it goes before the attribute.
    params = faiss.IndexRefineSearchParameters(k_factor=k_factor)
    index.k_factor = native.k_factor = 1.0
    _check(index.search(queries, 7, params=params), native.search(queries, 7, params=params))


@pytest.mark.parametrize("nprobe", [1, 2, 4])
def test_parameters__of_the_base_reach_it(twins, make_items, nprobe):
    index, native = twins("IVF4,PQVAE3x6,RFlat", L2)
    queries = make_items(20, (D_IN,), 1)
    params = faiss.IndexRefineSearchParameters(
        k_factor=3, base_index_params=faiss.SearchParametersIVF(nprobe=nprobe)
    )
    found = index.search(queries, 7, params=params)
    _check(found, native.search(queries, 7, params=params))
    # Given alone, they are the base's, too.
    index.k_factor = 3.0
    alone = index.search(queries, 7, params=faiss.SearchParametersIVF(nprobe=nprobe))
    np.testing.assert_array_equal(alone[1], found[1])
    index.nprobe = nprobe
    np.testing.assert_array_equal(index.search(queries, 7)[1], found[1])


@pytest.mark.parametrize("coarse", COARSE)
def test_parameters__select_ids(make, make_items, coarse):
    index = make(f"{coarse}PQVAE3x6,RFlat", L2, 150)
    index.k_factor = 10.0
    queries = make_items(5, (D_IN,), 1)
    ids = np.arange(0, 150, 9) + (LARGE if "IDMap" in coarse else 0)
    sel = faiss.IDSelectorBatch(ids)
    for params in (
        faiss.SearchParameters(sel=sel),
        faiss.IndexRefineSearchParameters(
            k_factor=10, base_index_params=faiss.SearchParameters(sel=sel)
        ),
    ):
        found = index.search(queries, 4, params=params)[1]
        assert np.isin(found, [*ids, -1]).all()
        assert (found >= 0).any(1).all()


def test_parameters__are_refused_where_faiss_would_ignore_them(make, make_items):
    index = make("PQVAE3x6,RFlat", L2, 20)
    sel = faiss.IDSelectorBatch([1])
    with pytest.raises(ValueError, match="in its base_index_params"):
        index.search(make_items(2, (D_IN,)), 1, params=faiss.IndexRefineSearchParameters(sel=sel))
    index.refiner = None
    with pytest.raises(TypeError, match="does not refine"):
        index.search(make_items(2, (D_IN,)), 1, params=faiss.IndexRefineSearchParameters())


@pytest.mark.parametrize("k_factor", [0.0, 0.99, -1.0, np.nan, np.inf])
def test_k_factor__below_one_is_refused(make, make_items, k_factor):
    index = make("PQVAE3x6,RFlat", L2, 20)
    queries = make_items(2, (D_IN,))
    with pytest.raises(ValueError, match="k_factor >= 1"):
        index.search(queries, 1, params=faiss.IndexRefineSearchParameters(k_factor=float(k_factor)))
    with pytest.raises(ValueError, match="k_factor >= 1"):
        index.k_factor = k_factor
    assert index.k_factor == 1


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("refine", ["RFlat", "RDecoder"])
@pytest.mark.parametrize("coarse", ["", "IDMap2,IVF4,", "HNSW8,"])
def test_search__pads_as_faiss_does(make, make_items, coarse, refine, metric):
    index = make(f"{coarse}PQVAE3x6,{refine}", metric)
    index.k_factor = 3.0
    if "IVF" in coarse:
        index.nprobe = 4
    queries = make_items(3, (D_IN,), 1)
    worst = np.finfo(np.float32).max * (1 if metric == L2 else -1)
    D, I = index.search(queries, 4)  # noqa: E741
    assert (I == -1).all()
    assert (worst == D).all()
    _add(index, make_items(2, (D_IN,)))
    D, I = index.search(queries, 4)  # noqa: E741
    assert (np.sort(I[:, :2] % LARGE) == [0, 1]).all()
    assert (I[:, 2:] == -1).all()
    assert (D[:, 2:] == worst).all()


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
def test_search__refines_what_either_search_type_finds(make, make_items, search_type):
    index = make("PQVAE3x6,RFlat", L2, 150)
    index.search_type, index.k_factor = search_type, 3.0
    queries = make_items(10, (D_IN,), 1)
    D = _pairs(_vectors(queries), _vectors(make_items(150, (D_IN,))), L2)
    _check(index.search(queries, 5), _expected(D, _base(index, queries, 15), 5, L2))


@pytest.mark.parametrize("coarse", COARSE)
def test_search_and_reconstruct__is_search_with_latents(make, make_items, coarse):
    index = make(f"{coarse}PQVAE3x6,RFlat", L2, 50)
    index.k_factor = 5.0
    queries = make_items(4, (D_IN,), 1)
    D, I, R = index.search_and_reconstruct(queries, 3)  # noqa: E741
    expected = index.search(queries, 3)
    np.testing.assert_array_equal(I, expected[1])
    np.testing.assert_array_equal(D, expected[0])
    np.testing.assert_array_equal(R[2, 1], index.reconstruct(I[2, 1]))


def test_search__in_chunks_is_search_at_once(make, make_items):
    index = make("IVF4,PQVAE3x6,RFlat", L2, 150)
    index.k_factor = 4.0
    queries = make_items(10, (D_IN,), 1)
    D, I = index.search(queries, 5)  # noqa: E741
    for size in (1, 2500):
        index.refiner.chunk_bytes = size
        again = index.search(queries, 5)
        np.testing.assert_array_equal(again[1], I)
        np.testing.assert_allclose(again[0], D, rtol=1e-5)


# -- base and refinement stay aligned

KEPT = ["", "IDMap,", "IDMap2,", "IVF4,", "IDMap,IVF4,", "IDMap2,IVF4,"]


def _check_aligned(index: LatentIndex, items: dict[int, np.ndarray], queries: np.ndarray) -> None:
    """Every stored item is found with its own exact distance."""
    assert index.ntotal == index.refiner.index.ntotal == len(items)
    if isinstance(index.refiner.index, faiss.IndexIDMap2):
        index.refiner.index.check_consistency()
    if not items:
        return
    if "IVF" in index.description:
        index.nprobe = 4
    k = len(items)
    index.k_factor = 1.0
    D, I = index.search(queries, k)  # noqa: E741
    ids = np.array([*items])
    exact = _pairs(_vectors(queries), _vectors(np.stack([*items.values()])), L2)
    there = I >= 0
    if "HNSW" in index.description:  # which may leave some of them unreached
        assert np.isin(I[there], ids).all()
        assert there.mean() > 0.5
    else:
        assert (np.sort(I, 1) == np.sort(ids)).all()
    by_id = {int(i): exact[:, column] for column, i in enumerate(ids)}
    expected = [by_id[int(I[row, column])][row] for row, column in np.argwhere(there)]
    np.testing.assert_allclose(D[there], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(
    coarse=st.sampled_from(KEPT),
    steps=st.lists(st.tuples(st.sampled_from(["add", "remove", "merge"]), st.integers(0, 2**16))),
)
def test_changes__keep_every_item_with_its_vector(make, make_items, coarse, steps):
    description = f"{coarse}PQVAE3x6,RFlat"
    index = make(description)
    items: dict[int, np.ndarray] = {}
    queries = make_items(3, (D_IN,), 99)
    named = "IDMap" in coarse or "IVF" in coarse
    fresh = 0

    def add(to: LatentIndex, x: np.ndarray) -> dict[int, np.ndarray]:
        nonlocal fresh
        if not named:
            to.add(x)
            return {}
        ids = 7 * np.arange(fresh, fresh + len(x)) + 10**12
        fresh += len(x)
        to.add_with_ids(x, ids)
        return dict(zip(ids.tolist(), x, strict=True))

    for step, seed in [("add", 1), *steps]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((int(rng.integers(1, 20)), D_IN), dtype=np.float32)
        if step == "remove":
            gone = rng.choice([*items, 5], min(len(items), int(rng.integers(1, 12))) or 1)
            gone = np.unique(gone)
            assert index.remove_ids(gone) == len(set(gone.tolist()) & {*items})
            kept = [(key, value) for key, value in items.items() if key not in gone]
            items = dict(kept) if named else dict(enumerate(value for _, value in kept))
        elif step == "add":
            added = add(index, x)
            items |= added or dict(enumerate(x, len(items)))
        else:
            other = make(description)
            added = add(other, x)
            index.merge_from(other, 0)
            assert other.ntotal == other.refiner.index.ntotal == 0
            items |= added or dict(enumerate(x, len(items)))
    _check_aligned(index, items, queries)


@pytest.mark.parametrize("coarse", KEPT)
def test_merge_from__moves_ids(make, make_items, coarse):
    index, other = (make(f"{coarse}PQVAE3x6,RFlat", L2, n) for n in (20, 30))
    if not coarse:
        with pytest.raises(ValueError, match="add_id=0"):
            index.merge_from(other, 1000)
        assert (other.ntotal, other.refiner.index.ntotal) == (30, 30)
    index.merge_from(other, 1000 if coarse else 0)
    start = LARGE if "IDMap" in coarse else 0
    step = 1000 if "IDMap" in coarse or "IVF" in coarse else 20
    a, b = make_items(20, (D_IN,)), make_items(30, (D_IN,))
    items = dict(enumerate(a, start)) | dict(enumerate(b, start + step))
    _check_aligned(index, items, make_items(3, (D_IN,), 1))
    assert other.ntotal == other.refiner.index.ntotal == 0
    _add(other, a)  # goes on as a new one
    _check_aligned(other, dict(enumerate(a, start)), make_items(3, (D_IN,), 1))


@pytest.mark.parametrize("coarse", [*COARSE])
def test_reset__empties_both(make, make_items, coarse):
    index = make(f"{coarse}PQVAE3x6,RFlat", L2, 20)
    index.reset()
    assert index.ntotal == index.refiner.index.ntotal == 0
    x = make_items(10, (D_IN,), 3)
    _add(index, x)
    items = dict(enumerate(x, LARGE if "IDMap" in coarse else 0))
    _check_aligned(index, items, make_items(3, (D_IN,), 1))


@pytest.mark.parametrize("coarse", ["IDMap,", "IDMap2,", "IVF4,", "IDMap2,IVF4,", "IDMap2,HNSW8,"])
def test_reset__forgets_ids(make, make_items, coarse):
    index = make(f"{coarse}PQVAE3x6,RFlat", L2, 20)
    index.reset()
    index.add_with_ids(make_items(20, (D_IN,)), 1000 + np.arange(20))
    assert index.reconstruct(1015).shape == (12,)
    for gone in (15, LARGE + 15):
        with pytest.raises(ValueError, match="ids that are stored"):
            index.reconstruct(gone)


class Failing:
    """A source that raises in the reading of its third batch."""

    dtype = np.dtype(np.float32)

    def __init__(self, x: np.ndarray, error: BaseException) -> None:
        self.x, self.shape, self.error = x, x.shape, error

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        if rows.start >= 8:
            raise self.error
        return self.x[rows]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
@pytest.mark.parametrize("coarse", COARSE)
def test_add__failing_half_way_leaves_both(make, make_items, coarse, error):
    index = make(f"{coarse}PQVAE3x6,RFlat", L2, 20)
    index.batch_size = 4
    x = make_items(12, (D_IN,), 1)
    with pytest.raises(type(error)):
        _add(index, Failing(x, error))
    start = LARGE if "IDMap" in coarse else 0
    items = dict(enumerate(make_items(20, (D_IN,)), start))
    _check_aligned(index, items, make_items(3, (D_IN,), 2))
    _add(index, x)
    _check_aligned(index, items | dict(enumerate(x, start + 20)), make_items(3, (D_IN,), 2))


@pytest.mark.parametrize("coarse", COARSE)
def test_add__of_nan_in_the_last_batch_leaves_both(make, make_items, coarse):
    index = make(f"{coarse}PQVAE3x6,Refine(SQfp16)", L2, 20)
    index.batch_size = 4
    x = make_items(11, (D_IN,), 1)
    x[10, 3] = np.nan
    with pytest.raises(ValueError, match="row 10"):
        _add(index, x)
    assert index.ntotal == index.refiner.index.ntotal == 20
    _add(index, x[:10])
    assert index.ntotal == index.refiner.index.ntotal == 30


def test_add__of_an_id_twice_is_refused_where_it_finds_the_vector(make, make_items):
    x = make_items(3, (D_IN,))
    index = make("IVF4,PQVAE3x6,RFlat", L2, 20)
    for ids in ([30, 31, 30], [30, 19, 31]):
        with pytest.raises(ValueError, match=f"got {ids[1] if 19 in ids else 30} again"):
            index.add_with_ids(x, ids)
    index.remove_ids([3])
    with pytest.raises(ValueError, match="got 19 again"):
        index.add(x)  # would be 19, 20, 21
    other = make("IVF4,PQVAE3x6,RFlat", L2, 20)
    with pytest.raises(ValueError, match="again"):
        index.merge_from(other)
    assert (index.ntotal, index.refiner.index.ntotal) == (19, 19)
    assert (other.ntotal, other.refiner.index.ntotal) == (20, 20)
    # In an IDMap the vectors are found by their places.
    index = make("IDMap2,IVF4,PQVAE3x6,RFlat")
    index.nprobe = 4
    index.add_with_ids(x, [5, 6, 5])
    D, I = index.search(x, 3)  # noqa: E741
    np.testing.assert_array_equal(I[:, 0], [5, 6, 5])
    np.testing.assert_allclose(D[:, 0], 0, atol=1e-6)
    assert index.remove_ids([5]) == 2
    np.testing.assert_array_equal(index.search(x, 1)[1][:, 0], [6, 6, 6])


def test_merge_from__of_codes_that_mean_something_else_is_refused(make, make_items):
    index = make("PQVAE3x6,Refine(SQ8)", L2, 20)
    other = make("PQVAE3x6,Refine(SQ8)")
    codes = faiss.IndexScalarQuantizer(D_IN, faiss.ScalarQuantizer.QT_8bit)
    codes.train(3 * make_items(50, (D_IN,), 9))
    other.refiner = StoredVectors(codes)
    other.add(make_items(10, (D_IN,), 1))
    with pytest.raises(ValueError, match="codes that mean the same"):
        index.merge_from(other)
    with pytest.raises(ValueError, match="refines by"):
        index.merge_from(make("PQVAE3x6,RFlat"))
    with pytest.raises(ValueError, match="refines by"):
        index.merge_from(make("PQVAE3x6,RDecoder"))
    assert (index.ntotal, index.refiner.index.ntotal, other.ntotal) == (20, 20, 10)


# -- what refinement does not allow


def test_add_sa_codes__is_refused_with_stored_vectors(make, make_items):
    index = make("PQVAE3x6,RFlat", L2, 20)
    codes = index.sa_encode(make_items(3, (D_IN,)))
    with pytest.raises(ValueError, match="codes do not hold them"):
        index.add_sa_codes(codes)
    assert index.ntotal == 20
    index = make("PQVAE3x6,RDecoder", L2, 20)
    index.add_sa_codes(codes)
    assert index.ntotal == 23
    np.testing.assert_array_equal(index.search(make_items(3, (D_IN,)), 23)[1].max(1), 22)


@pytest.mark.parametrize("refine", ["RFlat", "RDecoder"])
def test_range_search__is_refused(make, make_items, refine):
    index = make(f"PQVAE3x6,{refine}", L2, 20)
    with pytest.raises(ValueError, match="no range_search: the threshold would be"):
        index.range_search(make_items(2, (D_IN,)), 1.0)


@pytest.mark.parametrize(
    "index",
    [
        faiss.IndexHNSWFlat(D_IN, 4),
        faiss.IndexIDMap(faiss.IndexFlat(D_IN)),
        faiss.IndexIDMap2(faiss.IndexFlat(D_IN)),
        faiss.index_factory(D_IN, "PCA4,Flat"),
        faiss.index_factory(D_IN, "RQ2x4"),
        faiss.index_factory(D_IN, "PQ4x4fs"),
    ],
)
def test_constructor__rejects_indexes_that_give_no_vectors_back(make_model, index):
    with pytest.raises(ValueError, match="gives single vectors back"):
        LatentIndex(make_model((D_IN,)), refine_index=index)


def test_constructor__rejects_indexes_of_other_sizes(make_model, make_items):
    model = make_model((D_IN,))
    with pytest.raises(ValueError, match="of d=12"):
        LatentIndex(model, refine_index=faiss.IndexFlat(8))
    with pytest.raises(ValueError, match="metric_type=1, got d=12 and 0"):
        LatentIndex(model, refine_index=faiss.IndexFlat(D_IN, IP))
    full = faiss.IndexFlat(D_IN)
    full.add(make_items(3, (D_IN,)))
    with pytest.raises(ValueError, match="of 0 items, got 3"):
        LatentIndex(model, refine_index=full)
    native = new_index_pq(model.codebooks())
    native.add(np.zeros((3, native.d), np.float32))
    assert LatentIndex(model, faiss_index=native, refine_index=full).ntotal == 3


def test_untrained_refinement__is_not_a_trained_index(make_model, make_items):
    codes = faiss.index_factory(D_IN, "SQ8")
    index = LatentIndex(make_model((D_IN,)), refine_index=codes)
    assert not index.is_trained
    with pytest.raises(ValueError, match="not trained yet"):
        index.add(make_items(3, (D_IN,)))
    codebooks = index.model.codebooks()
    index.train(make_items(50, (D_IN,)), progress=False)  # that alone
    assert index.is_trained
    assert index.model.codebooks() == codebooks
    index.add(make_items(3, (D_IN,)))
    assert (index.ntotal, index.refiner.index.ntotal) == (3, 3)


def test_train__again_fits_the_second_codes_anew(make_items):
    model = ModelConfig(encoder="linear", dsub=4)
    training = TrainingConfig(epochs=1, batch_size=64, precision="float32", device="cpu")
    index = index_factory(D_IN, "IVF4,PQVAE3x4,Refine(SQ8)", model=model, training=training)
    for scale in (1, 100):
        x = scale * make_items(100, (D_IN,))
        index.train(x, progress=False)
        index.add(x)
        index.k_factor, index.nprobe = 100.0, 4
        D, I = index.search(x, 1)  # noqa: E741
        np.testing.assert_array_equal(I[:, 0], np.arange(100))
        assert D.max() < 1e-3 * scale**2
        index.reset()


def test_train__of_too_few_items_for_the_second_codes_leaves_the_index(make_model, make_items):
    index = LatentIndex(make_model((D_IN,)), refine_index=faiss.index_factory(D_IN, "PQ4x8"))
    with pytest.raises(ValueError, match="cannot train the index to refine with on 20 items"):
        index.train(make_items(20, (D_IN,)), progress=False)
    assert not index.is_trained


# -- copies


@pytest.mark.parametrize("refine", ["RFlat", "Refine(SQ8)", "RDecoder"])
@pytest.mark.parametrize("coarse", COARSE)
def test_copy_and_pickle__search_alike_and_live_alone(make, make_items, coarse, refine):
    index = make(f"{coarse}PQVAE3x6,{refine}", L2, 50)
    index.k_factor = 3.0
    queries = make_items(5, (D_IN,), 1)
    expected = index.search(queries, 4)
    twins = [copy.deepcopy(index), pickle.loads(pickle.dumps(index))]
    _add(index, make_items(20, (D_IN,), 2))
    for twin in twins:
        _check(twin.search(queries, 4), expected)
        _add(twin, make_items(5, (D_IN,), 3))
        assert twin.ntotal == 55
        assert twin.search(make_items(5, (D_IN,), 3), 4)[0].shape == (5, 4)
