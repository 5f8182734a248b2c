"""Inverted files of codes that a deep decoder ranks, of what coarse centroids leave over."""

import copy
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae import ModelConfig, Synthesis, TrainingConfig, index_factory
from faiss_pqvae.index import refine, searching
from faiss_pqvae.model.additive import Lifted, lowered
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.training import kept

D, N, K = 8, 300, 5
SMALL = Synthesis(epochs=2, batch_size=64, effort=2, final_effort=4, lr=5e-3, rounds=1, filled=0)
LISTS = ["IVF4,PQVAE3x4", "IDMap2,IVF4,PQVAE3x4", "IVF4,PQVAE4x4fs"]
CASES = [
    *((kind, metric) for kind in LISTS for metric in ("l2", "ip", "cosine")),
    ("IVF4_HNSW4,PQVAE3x4", "l2"),
    ("IVF4(SQ8),PQVAE3x4", "l2"),
    ("IVF1,PQVAE3x6", "l2"),
    ("IVF4,PQVAE3x8", "l2"),
    ("L2norm,PCA6,IVF4,PQVAE3x4", "l2"),
]


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(2 * rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


def _untrained(description, metric):
    return index_factory(
        D,
        f"{description},RDecoder",
        metric,
        model=ModelConfig(width=8),
        training=TrainingConfig(device="cpu", precision="float32"),
        objective=SMALL,
    )


@functools.cache
def _made(description, metric):
    index = _untrained(description, metric)
    index.train(vectors(), progress=False)
    index.effort = 4
    if "IDMap" in description:
        index.add_with_ids(vectors(), np.arange(N) + 2**40)
    else:
        index.add(vectors())
    index.nprobe = index._store.bare.nlist
    return index


def made(description=LISTS[0], metric="l2"):
    return copy.deepcopy(_made(description, metric))


class Plain:
    """Codes of an index's items, by centroids and decoder alone."""

    def __init__(self, index, x):
        self.index, self.code = index, index.model.code_decoder
        latents = coarse_centroids(codebook_index(index.faiss_index))
        centroids = latents.reshape(len(latents), index.model.M, -1)[:, 0, :-1]
        self.centroids = centroids * index.model.M**0.5
        x = self.compared(x)
        nearest = faiss.IndexFlat(x.shape[1], index.metric_type)
        nearest.add(self.centroids)
        self.around = self.centroids[nearest.search(x, 1)[1][:, 0]]
        self.ids = self.code.choose(torch.from_numpy(x - self.around), index.effort)
        self.decoded = self.around + self.code.compared(self.ids).numpy()
        if index.model.spec.is_unit:
            self.decoded /= np.linalg.norm(self.decoded, axis=1, keepdims=True)

    def compared(self, x):
        """Items or queries behind transforms and, for cosines, of length 1."""
        if self.index.transforms is not None:
            x = self.index.transforms.apply(torch.from_numpy(x)).numpy()
        unit = self.index.model.spec.is_unit
        return x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x

    def distances(self, q):
        q = self.compared(q)
        if self.index.metric_type == faiss.METRIC_L2:
            return ((q[:, None] - self.decoded) ** 2).sum(-1)
        return q @ self.decoded.T

    def by_tables(self, q):
        """By sums of codewords, in float64; L2."""
        code, model = self.code, self.index.model
        tables = lowered(Lifted(model.quantizer.codewords.detach(), code.offset), code.centre)
        sums, lengths = (each.double().numpy() for each in tables.sums(self.ids))
        left = (self.compared(q)[:, None] - self.around).astype(np.float64) - code.centre.numpy()
        return (left**2).sum(-1) - 2 * (left * sums).sum(-1) + lengths


def places(I):  # noqa: E741 - FAISS's name
    return I % 2**40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search__of_all_candidates_is_the_plain_formula(case):
    index = made(*case)
    plain, q = Plain(index, vectors()), vectors(20, seed=1)
    assert index.model.spec.by_residual
    assert codebook_index(index.faiss_index).by_residual
    index.k_factor = N / K
    found, I = index.search(q, K)  # noqa: E741 - FAISS's name
    exact = plain.distances(q)
    best = np.sort(exact) if case[1] == "l2" else -np.sort(-exact)
    np.testing.assert_allclose(found, best[:, :K], atol=2e-4)
    np.testing.assert_allclose(found, np.take_along_axis(exact, places(I), 1), atol=2e-4)


@pytest.mark.parametrize("kind", LISTS[:2])
def test_search__without_decoder_is_by_tables_of_what_is_left(kind):
    index = made(kind)
    index.refiner = None
    plain, q = Plain(index, vectors()), vectors(20, seed=1)
    exact = plain.by_tables(q)
    found, I = index.search(q, K)  # noqa: E741 - FAISS's name
    np.testing.assert_allclose(found, np.sort(exact)[:, :K], atol=1e-3)
    np.testing.assert_allclose(found, np.take_along_axis(exact, places(I), 1), atol=1e-3)


def test_search__takes_candidates_by_sums_with_their_exact_lengths():
    index, q = made(), vectors(20, seed=1)
    plain = Plain(index, vectors())
    code, n = plain.code, 10
    tables = lowered(Lifted(index.model.quantizer.codewords.detach(), code.offset), code.centre)
    sums, _ = tables.sums(plain.ids)
    shrinks = float(code.table_shrinks)
    left = q[:, None] - plain.around - code.centre.numpy()
    exact = (left**2).sum(-1) - 2 * (left * sums.numpy()).sum(-1)
    exact += shrinks * (sums**2).sum(-1).numpy()
    z = index.encode_queries(q)
    D_, I, codes = index._store.search_and_return_codes(z, N)  # noqa: E741
    found = index.refiner.shortened(D_, refine.Candidates(I, codes), n)
    assert all(len(set(keys)) == n for keys in found.keys)
    mine = np.take_along_axis(exact, found.keys, 1)
    np.testing.assert_allclose(mine, np.sort(exact)[:, :n], atol=1e-4)


@pytest.mark.parametrize("kind", LISTS)
def test_search__of_few_lists_selected_ids_and_more_than_there_is(kind):
    index, q = made(kind), vectors(20, seed=1)
    plain = Plain(index, vectors())
    before, ids = index.search(q, K), np.arange(N) + (2**40 if "IDMap" in kind else 0)
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBatch(ids[10:40]))
    D_, I = index.search(q, 40, params=chosen)  # noqa: E741 - FAISS's name
    assert (np.sort(I[:, :30]) == ids[10:40]).all()
    assert (I[:, 30:] == -1).all()
    np.testing.assert_allclose(D_[:, :30], np.sort(plain.distances(q)[:, 10:40]), atol=2e-4)
    index.nprobe = 1
    one = index.search(q, N)
    assert (one[1] == -1).any()
    nearest = ((q[:, None] - plain.centroids) ** 2).sum(-1).argmin(1)
    for row, number in zip(one[1], nearest, strict=True):
        found = places(row[row != -1])
        assert (plain.around[found] == plain.centroids[number]).all()
    index.nprobe = 4
    for mine, theirs in zip(before, index.search(q, K), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    index.reset()
    assert (index.search(q, K)[1] == -1).all()


def test_search__is_the_same_in_parts(monkeypatch):
    index, q = made(), vectors(30, seed=1)
    index.k_factor = 2
    whole = index.search(q, K)
    monkeypatch.setattr(searching, "_LISTED_AT_A_TIME", 2500)
    monkeypatch.setattr(refine, "_CENTROIDS_AT_A_TIME", 3)
    index.refiner.chunk_bytes = 1000
    for part, expected in zip(index.search(q, K), whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-5)


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("kind", [*LISTS, "IVF4_HNSW4,PQVAE3x4"])
def test_search__is_the_same_after_everything_that_copies(kind, search_type, copied):
    index, q = made(kind), vectors(20, seed=1)
    index.search_type = search_type
    expected = index.search(q, K)
    for other in copied(index):
        assert (other.model.spec, other.effort) == (index.model.spec, 4)
        for mine, theirs in zip(expected, other.search(q, K), strict=True):
            np.testing.assert_array_equal(theirs, mine)
        np.testing.assert_array_equal(other.sa_encode(q), index.sa_encode(q))


@pytest.mark.parametrize("kind", LISTS)
def test_merge_from__and_codes_that_are_added(kind):
    whole, half, rest = (made(kind) for _ in range(3))
    q, ids = vectors(20, seed=1), np.arange(N) + (2**40 if "IDMap" in kind else 0)
    half.remove_ids(ids[150:])
    rest.remove_ids(ids[:150])
    half.merge_from(rest)
    np.testing.assert_allclose(half.search(q, K)[0], whole.search(q, K)[0], rtol=1e-4)
    codes = whole.sa_encode(vectors())
    half.reset()
    half.add_sa_codes(codes, ids if "IDMap" in kind else None)
    np.testing.assert_allclose(half.search(q, K)[0], whole.search(q, K)[0], rtol=1e-4)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_to_faiss__finds_what_tables_find_and_says_so(metric):
    index, q = made(metric=metric), vectors(20, seed=1)
    with pytest.warns(UserWarning, match="cannot run the decoder"):
        native = index.to_faiss()
    index.refiner = None
    expected, J = index.search(q, K)
    found, I = native.search(q, K)  # noqa: E741 - FAISS's name
    np.testing.assert_array_equal(I, J)
    np.testing.assert_allclose(found - float(index.model.code_decoder.offset), expected, atol=1e-3)


def test_search__through_a_direct_map():
    index, q = made(), vectors(20, seed=1)
    expected = index.search(q, K)
    for kind in (faiss.DirectMap.Array, faiss.DirectMap.Hashtable):
        index.faiss_index.set_direct_map_type(kind)
        for mine, theirs in zip(expected, index.search(q, K), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_search__tells_items_apart_that_have_one_id():
    index, q = made(), vectors(20, seed=1)
    index.reset()
    index.add_with_ids(vectors(), np.arange(N) // 2)
    index.k_factor = N / K
    found, I = index.search(q, K)  # noqa: E741 - FAISS's name
    exact = Plain(index, vectors()).distances(q)
    np.testing.assert_allclose(found, np.sort(exact)[:, :K], atol=2e-4)
    of_either = np.take_along_axis(exact.reshape(20, -1, 2), I[..., None], 1)
    assert np.isclose(found[..., None], of_either, atol=2e-4).any(-1).all()


@pytest.mark.parametrize("kind", [LISTS[0], LISTS[2]])
def test_search__refuses_ids_that_do_not_tell_items_apart(kind):
    """FastScan, or with a selector FAISS, does not say which of two items it has found."""
    index, q = made(kind), vectors(20, seed=1)
    index.remove_ids(np.arange(10))
    index.add(vectors(10, seed=3))  # the ids go on at how many there are
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, N))
    with pytest.raises(ValueError, match="several items of the id 290: write 'IDMap,'"):
        index.search(q, N - 10, params=chosen)
    numbered = made(LISTS[1])
    numbered.reset()
    numbered.add_with_ids(vectors(), np.arange(N) // 2)
    assert (numbered.search(q, K, params=chosen)[1] < N // 2).all()


@pytest.mark.parametrize("phase", ["trained", "neighbours", "codebooks", "rounds", "codes"])
def test_train__goes_on_in_its_folder(phase, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    put = kept.Kept.put

    def dying(self, name, state):
        put(self, name, state)
        if name == phase:
            raise KilledError

    expected = made().model.fingerprint()
    untrained = [_untrained(LISTS[0], "l2") for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(kept.Kept, "put", dying)
        with pytest.raises(KilledError):
            untrained[0].train(vectors(), progress=False, folder=tmp_path)
    untrained[1].train(vectors(), progress=False, folder=tmp_path)
    assert untrained[1].model.fingerprint() == expected


def test_search__by_several_threads_at_once():
    index, q = made(), vectors(64, seed=1)
    expected = index.search(q, K)
    again = made()  # has looked at nothing yet
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda part: again.search(part, K), [q] * 8):
            for mine, theirs in zip(expected, found, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_decode__of_latents_is_the_sum_of_centroid_and_codewords():
    index, x = made(), vectors()
    plain = Plain(index, x)
    tables = index.model.code_decoder
    found = index.decode(index.reconstruct_n(0, N))
    sums = lowered(
        Lifted(index.model.quantizer.codewords.detach(), tables.offset), tables.centre
    ).sums(plain.ids)[0]
    expected = plain.around + tables.centre.numpy() + sums.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_train__on_residuals_decodes_better_than_on_vectors():
    index, x = made("IVF4,PQVAE3x8"), vectors()
    flat = index_factory(D, "PQVAE3x8,RDecoder", model=ModelConfig(width=8), objective=SMALL)
    flat.train(x, progress=False)
    flat.effort = 4
    of_vectors = flat.model.code_decoder
    plain = Plain(index, x)
    of_residuals = plain.around + plain.code.decode(plain.ids).numpy()
    decoded = of_vectors.decode(of_vectors.choose(torch.from_numpy(x), 4)).numpy()
    assert ((x - of_residuals) ** 2).mean() < 0.8 * ((x - decoded) ** 2).mean()


def test_decoder__refuses_an_index_that_gives_no_codes_back():
    flat = index_factory(
        D, "PQVAE3x4", model=ModelConfig(width=8), objective=SMALL, training=TrainingConfig(seed=0)
    )
    flat.train(vectors(), progress=False)
    graph = faiss.IndexHNSWPQ(flat.model.latent_dim, 3, 4, 4)
    with pytest.raises(ValueError, match=r"gives codes back.*got IndexHNSWPQ"):
        fpq.LatentIndex(flat.model, faiss_index=graph, refine_index="decoder")
