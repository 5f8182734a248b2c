"""Inverted files of additive codes of what coarse centroids leave over, against numpy."""

import copy
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from faiss_pqvae import LatentIndex, TrainingConfig, index_factory
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.training import Additive

D, N, K = 8, 300, 5
SMALL = Additive(rounds=1, sweeps=1, effort=2, filled=0)
TRAINING = TrainingConfig(device="cpu")
L2 = ["IVF4,PQVAE3x4", "IDMap2,IVF4,PQVAE3x4", "IVF4,PQVAE4x4fs"]
CASES = [
    *((kind, metric) for kind in L2 for metric in ("l2", "ip", "cosine")),
    ("IVF4_HNSW4,PQVAE3x4", "l2"),
    ("IVF4(SQ8),PQVAE3x4", "l2"),
    ("IVF4,PQVAE2x6", "l2"),  # one codeword and its length
    ("IVF4,PQVAE1x4", "ip"),
    ("IVF1,PQVAE3x4", "l2"),
    ("IDMap,IVF4,PQVAE3x4", "l2"),
    ("L2norm,PCA6,IVF4,PQVAE3x4", "l2"),
]


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(2 * rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


def untrained(description, metric=None):
    return index_factory(D, description, metric, training=TRAINING, objective=SMALL)


@functools.cache
def _made(description, metric):
    index = untrained(description, metric)
    index.train(vectors(), progress=False)
    index.effort = 4
    if "IDMap" in description:
        index.add_with_ids(vectors(), np.arange(N) + 2**40)
    else:
        index.add(vectors())
    index.nprobe = index._store.bare.nlist
    return index


def made(description="IVF4,PQVAE3x4", metric="l2"):
    return copy.deepcopy(_made(description, metric))


class Plain:
    """The codes of an index's items in float64, by centroids, codewords and lengths alone."""

    def __init__(self, index, x, effort=4):
        self.index, self.code = index, index.model.code_decoder
        self.is_l2 = index.metric_type == faiss.METRIC_L2
        centroids = coarse_centroids(codebook_index(index.faiss_index)).astype(np.float64)
        first = centroids.reshape(len(centroids), index.model.M, -1)[:, 0, :-1]
        self.centroids = first * index.model.M**0.5
        x = self.compared(x)
        if self.is_l2:
            self.lists = ((x[:, None] - self.centroids) ** 2).sum(-1).argmin(1)
        else:
            self.lists = (x @ self.centroids.T).argmax(1)
        left = (x - self.centroids[self.lists]).astype(np.float32)
        self.ids = self.code.choose(torch.from_numpy(left), effort)
        self.sums = self.code.sums(self.ids).double().numpy()
        self.about = self.centroids[self.lists] + self.code.centre.double().numpy()
        self.decoded = self.about + self.sums

    def compared(self, x):
        """Items or queries behind transforms and, for cosines, of length 1."""
        if self.index.transforms is not None:
            x = self.index.transforms.apply(torch.from_numpy(x)).numpy()
        x = x.astype(np.float64)
        unit = self.index.model.spec.is_unit
        return x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x

    def distances(self, q):
        """From queries (nq, d), as they are compared, to all items: (nq, n)."""
        if not self.is_l2:
            return q @ self.decoded.T
        left = q[:, None] - self.about
        lengths = self.code.lengths.double().numpy()[self.ids[:, -1]]
        return (left**2).sum(-1) - 2 * (left * self.sums).sum(-1) + lengths

    def best(self, exact):
        return (np.sort(exact) if self.is_l2 else -np.sort(-exact))[:, :K]


def in_a_gap(exact):
    """A threshold in the middle of the distances, away from all of them."""
    middle = np.sort(exact.ravel())[exact.size * 2 // 5 : exact.size * 3 // 5]
    widest = np.diff(middle).argmax()
    return float(middle[widest : widest + 2].mean())


def places(I):  # noqa: E741 - FAISS's name
    return I % 2**40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search__is_the_plain_formula(case):
    index, plain = made(*case), Plain(made(*case), vectors())
    assert codebook_index(index.faiss_index).by_residual
    assert index.model.spec.by_residual
    for search_type in ("adc", "sdc"):
        index.search_type, q = search_type, vectors(20, seed=1)
        asked = plain.compared(q) if search_type == "adc" else Plain(index, q).decoded
        exact = plain.distances(asked)
        found, I = index.search(q, K)  # noqa: E741 - FAISS's name
        atol = 0.03 * np.abs(exact).max() if "fs" in case[0] else 2e-4
        np.testing.assert_allclose(found, np.take_along_axis(exact, places(I), 1), atol=atol)
        np.testing.assert_allclose(found, plain.best(exact), atol=2 * atol)
        thresh = in_a_gap(exact)
        lims, found, I = index.range_search(q, thresh)  # noqa: E741 - FAISS's name
        rows = np.repeat(np.arange(20), np.diff(lims.astype(int)))
        np.testing.assert_allclose(found, exact[rows, places(I)], atol=2e-4)
        inside = exact < thresh if plain.is_l2 else exact > thresh
        assert inside.sum() == len(I)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_add__stores_centroid_and_chosen_codewords(case):
    index, plain, x = made(*case), Plain(made(*case), vectors()), vectors()
    ids = np.arange(N) + (2**40 if "IDMap" in case[0] else 0)
    stored = index.reconstruct_batch(ids)
    expected = torch.from_numpy(plain.decoded).float()
    torch.testing.assert_close(
        index.model.decode(torch.from_numpy(stored)), expected, atol=1e-4, rtol=0
    )
    codes = index.sa_encode(x)
    np.testing.assert_allclose(index.sa_decode(codes), stored, atol=1e-5)
    other = made(*case)
    other.reset()
    other.add_sa_codes(codes, ids if "IDMap" in case[0] else None)
    for mine, theirs in zip(
        index.search(vectors(20, 1), K), other.search(vectors(20, 1), K), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_add__chooses_better_codes_than_the_native_index_would():
    index, x = made(), vectors()
    nearest = index.faiss_index.sa_decode(index.faiss_index.sa_encode(index.encode(x)))
    errors = [((index.decode(z) - x) ** 2).mean() for z in (index.reconstruct_n(0, N), nearest)]
    assert errors[0] < 0.8 * errors[1]
    index.reset()
    index.effort = 0
    index.add(x)
    assert ((index.decode(index.reconstruct_n(0, N)) - x) ** 2).mean() > errors[0]


def test_encode__gives_latents_of_queries_which_decode_to_the_items():
    index, x = made(), vectors()
    np.testing.assert_array_equal(index.encode(x), index.encode_queries(x))
    np.testing.assert_allclose(index.decode(index.encode(x)), x, rtol=1e-6)
    left = index.decode(index.compute_residual_n(x, np.arange(N)))
    np.testing.assert_allclose(left, x - Plain(index, x).decoded, atol=1e-4)


@pytest.mark.parametrize("kind", L2)
@pytest.mark.parametrize("refine", ["", ",RFlat"])
def test_add__in_batches_and_all_or_nothing(kind, refine):
    class Failing:
        shape, dtype = (N, D), np.dtype(np.float32)

        def __len__(self):
            return N

        def __getitem__(self, rows):
            if isinstance(rows, slice) and (rows.stop or 0) > 200:
                raise OSError("gone")
            return vectors()[rows]

    whole = made(kind + refine) if refine else made(kind)
    index = copy.deepcopy(whole)
    index.reset()
    index.batch_size = 64
    ids = np.arange(N) + 2**40
    numbered = "IDMap" in kind
    with pytest.raises(OSError, match="gone"):
        index.add_with_ids(Failing(), ids)
    assert index.ntotal == 0
    index.add_with_ids(vectors(), ids)
    found, I = index.search(vectors(20, 1), K)  # noqa: E741 - FAISS's name
    expected, J = whole.search(vectors(20, 1), K)
    np.testing.assert_allclose(found, expected, rtol=0.02 if "fs" in kind else 1e-5)
    assert numbered or (I >= 2**40).all()
    assert "fs" in kind or (places(I) == places(J)).mean() > 0.95


@pytest.mark.parametrize("kind", [*L2, "IVF4_HNSW4,PQVAE3x4"])
def test_search__is_the_same_after_everything_that_copies(kind, copied):
    index, q = made(kind), vectors(20, seed=1)
    expected = index.search(q, K)
    for other in copied(index):
        assert (other.model.spec, other.effort) == (index.model.spec, 4)
        for mine, theirs in zip(expected, other.search(q, K), strict=True):
            np.testing.assert_array_equal(theirs, mine)
        np.testing.assert_array_equal(other.sa_encode(q), index.sa_encode(q))


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", L2)
def test_to_faiss__finds_the_same(kind, metric):
    index, q = made(kind, metric), vectors(20, seed=1)
    found, I = index.to_faiss().search(q, K, D=np.zeros((20, K), np.float32))  # noqa: E741
    expected, J = index.search(q, K)
    np.testing.assert_allclose(found - float(index.model.code_decoder.offset), expected, atol=1e-4)
    np.testing.assert_array_equal(I, J)


@pytest.mark.parametrize("kind", L2)
def test_merge_from__and_remove_ids(kind):
    whole, half, rest = (made(kind) for _ in range(3))
    ids = np.arange(N) + (2**40 if "IDMap" in kind else 0)
    half.remove_ids(ids[150:])
    rest.remove_ids(ids[:150])
    half.merge_from(rest)
    assert (half.ntotal, rest.ntotal) == (N, 0)
    q = vectors(20, seed=1)
    np.testing.assert_allclose(half.search(q, K)[0], whole.search(q, K)[0], rtol=1e-3, atol=1e-4)
    selected = faiss.SearchParameters(sel=faiss.IDSelectorBatch(ids[10:40]))
    I = half.search(q, K, params=selected)[1]  # noqa: E741 - FAISS's name
    assert np.isin(I, ids[10:40]).all()


def test_search__visits_lists_as_it_is_told():
    index, q = made(), vectors(20, seed=1)
    plain = Plain(index, vectors())
    one = ((q[:, None] - plain.centroids) ** 2).sum(-1).argmin(1)
    everywhere = index.search(q, K)
    for params in (None, faiss.SearchParametersIVF(nprobe=1)):
        index.nprobe = 4 if params else 1
        I = index.search(q, K, params=params)[1]  # noqa: E741 - FAISS's name
        assert (plain.lists[I] == one[:, None]).all()
        assert (everywhere[1] != I).any()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", L2)
def test_refine__decoder_adds_the_centroid(kind, metric):
    index, q = made(f"{kind},RDecoder", metric), vectors(20, seed=1)
    index.k_factor = N / K
    x = Plain(index, vectors()).decoded
    asked = Plain(index, q).compared(q)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    if metric == "l2":
        exact = np.sort(((asked[:, None] - x) ** 2).sum(-1))
    else:
        exact = -np.sort(-(asked @ x.T))
    np.testing.assert_allclose(index.search(q, K)[0], exact[:, :K], atol=2e-4)


def test_direct_map__finds_what_is_stored():
    index = made()
    expected = index.reconstruct_n(0, N)
    for kind in (faiss.DirectMap.Array, faiss.DirectMap.Hashtable):
        index.faiss_index.set_direct_map_type(kind)
        np.testing.assert_array_equal(index.reconstruct_n(0, N), expected)
        index.add(vectors())
        np.testing.assert_array_equal(index.reconstruct_n(N, N), expected)
        index.remove_ids(np.arange(N, 2 * N))


def test_sa_encode__by_several_threads_at_once():
    index, x = made(), vectors(64, seed=1)
    expected = index.sa_encode(x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(index.sa_encode, [x] * 8):
            np.testing.assert_array_equal(found, expected)


def test_search__maps_queries_and_no_items():
    index, q = made(), vectors(20, seed=1)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        index.model.add_query_map().weight += torch.from_numpy(0.1 * rng.standard_normal((D, D)))
    plain = Plain(index, vectors())
    mapped = index.model.map_queries(torch.from_numpy(q)).detach().numpy()
    for search_type in ("adc", "sdc"):
        index.search_type = search_type
        asked = mapped if search_type == "adc" else Plain(index, mapped).decoded
        expected = plain.best(plain.distances(asked.astype(np.float64)))
        np.testing.assert_allclose(index.search(q, K)[0], expected, atol=2e-4)
    np.testing.assert_array_equal(index.sa_encode(q), made().sa_encode(q))


def test_train__without_residuals_is_what_it_was():
    index, flat = untrained("IVF4,PQVAE3x4"), untrained("PQVAE3x4")
    index.faiss_index.by_residual = False
    for each in (index, flat):
        each.train(vectors(), progress=False)
    assert not index.model.spec.by_residual
    assert index.model.fingerprint() == flat.model.fingerprint()
    np.testing.assert_array_equal(index.sa_encode(vectors())[:, 1:], flat.sa_encode(vectors()))


def test_init__codebooks_of_residuals_want_their_own_centroids():
    index = made()
    sizes = index.model.latent_dim, "IVF4,PQ3x4np"
    for wrong in (None, faiss.index_factory(*sizes)):
        with pytest.raises(ValueError, match="by_residual=True and the coarse centroids"):
            LatentIndex(index.model, faiss_index=wrong)
    native = faiss.index_factory(*sizes)
    native.quantizer.add(coarse_centroids(index.faiss_index))
    again = LatentIndex(index.model, faiss_index=native)
    again.effort = 4
    again.add(vectors())
    again.nprobe, q = 4, vectors(20, seed=1)
    np.testing.assert_allclose(again.search(q, K)[0], index.search(q, K)[0], atol=1e-4)


def test_add__of_nothing_and_of_what_is_no_item():
    index = made()
    index.add(vectors(0))
    assert index.sa_encode(vectors(0)).shape == (0, index.sa_code_size())
    with pytest.raises(ValueError, match="NaN"):
        index.add(np.full((2, D), np.nan, np.float32))
    assert index.ntotal == N
    assert index.search(vectors(0), K)[1].shape == (0, K)
