"""Indexes whose items get the code that the decoder gives them back from."""

import copy
import pickle

import numpy as np
import pytest
import torch

from faiss_pqvae import (
    ModelConfig,
    Ranking,
    Synthesis,
    TrainingConfig,
    deserialize_index,
    index_factory,
    read_index,
    serialize_index,
    write_index,
)
from faiss_pqvae.index import gpu, searching
from faiss_pqvae.native import faiss
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.registry import objectives

D, N, K = 8, 600, 5
SMALL = Synthesis(epochs=2, batch_size=64, effort=2, final_effort=4, lr=5e-3, rounds=1, filled=0)
KINDS = ["PQVAE3x4", "PQVAE3x8", "IDMap2,PQVAE3x4", "IVF4,PQVAE3x4", "PQVAE4x4fs"]


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


def made(description="PQVAE3x4,RDecoder", metric=None, n=N):
    index = index_factory(
        D,
        description,
        metric,
        model=ModelConfig(width=8),
        training=TrainingConfig(device="cpu", precision="float32"),
        objective=SMALL,
    )
    if "IVF" in description:  # of residuals, see test_residual_decoder
        codebook_index(index.faiss_index).by_residual = False
    index.train(vectors(), progress=False)
    x = vectors(n, seed=1)
    if index.takes_ids and "IDMap" in description:
        index.add_with_ids(x, np.arange(n) * 3)
    else:
        index.add(x)
    if "IVF" in description:
        index.nprobe = 4
    return index


@pytest.fixture(scope="module")
def index():
    return made()


def decoded(index, x):
    """What queries are compared with, of items, by the plain formula."""
    code = index.model.code_decoder
    if index.model.spec.is_unit:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return code.compared(code.choose(torch.from_numpy(x), index.effort)).numpy()


@pytest.mark.parametrize(
    ("description", "objective"),
    [
        ("PQVAE4,RDecoder", "synthesis"),
        ("IDMap2,IVF4,PQVAE4x6,RDecoder", "synthesis"),
        ("L2norm,PCA4,PQVAE4,RDecoder", "synthesis"),
        ("PQVAE4", "additive"),
        ("PQVAE16x8", "additive"),
        ("PQVAE4,RFlat", "additive"),
        ("IDMap2,L2norm,PCA4,PQVAE4,Refine(SQ8)", "additive"),
        ("IDMap,PQVAE4", "additive"),
        ("PQVAE3", "ranking"),
        ("PQVAE17", "ranking"),
        ("PQVAE8x4", "ranking"),
        ("PQVAE4x10", "ranking"),
        ("PQVAE4x4fs", "ranking"),
        ("HNSW8,PQVAE4", "ranking"),
        ("IVF4,PQVAE4", "additive"),
        ("HNSW8,PQVAE4,RDecoder", "ranking"),
        ("PQVAE4x4fs,RDecoder", "ranking"),
        ("PQVAE4x10,RDecoder", "ranking"),
    ],
)
def test_index_factory__vectors_get_the_codes_that_find_the_most(description, objective):
    for metric in ("l2", "ip", "cosine"):
        index = index_factory(D, description, metric)
        assert index.model.config.objective == objective
        assert index.model.spec.is_additive == (objective != "ranking")


def test_index_factory__other_networks_and_items_stay_as_they_were():
    for description in ("PQVAE4", "PQVAE4,RDecoder"):
        mlp = index_factory(D, description, model=ModelConfig(encoder="mlp"))
        images = index_factory((1, 8, 8), description)
        assert mlp.model.config.objective == images.model.config.objective == "reconstruction"
        ranking = index_factory(D, description, objective=Ranking())
        assert not ranking.model.spec.is_additive
    short = index_factory(D, "PQVAE4", model=ModelConfig(dsub=3)).model
    assert (short.config.objective, short.config.dsub) == ("ranking", 3)


def test_index_factory__a_graph_has_no_additive_codes():
    with pytest.raises(ValueError, match=r"expected no graph.*: objective='ranking'"):
        index_factory(D, "HNSW8,PQVAE4", objective=Synthesis())


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_search__of_all_candidates_is_the_plain_formula(kind, metric):
    index = made(f"{kind},RDecoder", metric)
    index.k_factor = N
    x, q = decoded(index, vectors(seed=1)), vectors(20, seed=2)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    flat = faiss.IndexFlatL2(D) if metric == "l2" else faiss.IndexFlatIP(D)
    flat.add(x)
    expected = flat.search(q, K)[0]
    D_, I = index.search(vectors(20, seed=2), K)  # noqa: E741
    np.testing.assert_allclose(D_, expected, rtol=1e-3, atol=2e-4)
    places = I // 3 if "IDMap" in kind else I
    at = (q[:, None] - x[places]) ** 2 if metric == "l2" else q[:, None] * x[places]
    np.testing.assert_allclose(at.sum(-1), expected, rtol=1e-3, atol=2e-4)


def test_search__looks_at_candidates_for_ten_results_at_least(index):
    q = vectors(30, seed=2)
    ten, one = index.search(q, 10), index.search(q, 1)
    np.testing.assert_array_equal(one[1], ten[1][:, :1])
    np.testing.assert_array_equal(one[0], ten[0][:, :1])


def test_search__of_many_candidates_is_the_same_in_parts(monkeypatch):
    index, q = made("IVF4,PQVAE3x4,RDecoder"), vectors(30, seed=2)
    index.k_factor = 2
    whole = index.search(q, K)
    monkeypatch.setattr(searching, "_LISTED_AT_A_TIME", 2500)
    for part, expected in zip(index.search(q, K), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_search__by_tables_alone_gives_distances_to_sums_of_codewords():
    index = made("PQVAE3x4")
    code, q = index.model.code_decoder, vectors(10, seed=2)
    z, zq = index.encode(vectors(seed=1)), index.encode_queries(q)
    expected = ((zq[:, None] - z) ** 2).sum(-1) - float(code.offset)
    D_, I = index.search(q, K)  # noqa: E741
    np.testing.assert_allclose(D_, np.sort(expected, 1)[:, :K], rtol=1e-3, atol=1e-2)
    thresh = float(np.median(D_))
    lims, D_, I = index.range_search(q, thresh)  # noqa: E741
    inside = np.abs(expected - thresh) > 1e-2
    found = np.zeros_like(expected, bool)
    for i in range(len(q)):
        found[i, I[lims[i] : lims[i + 1]]] = True
    np.testing.assert_array_equal(found[inside], (expected < thresh)[inside])
    assert (thresh + 1e-3 > D_).all()


def test_search__of_more_than_there_is(index):
    few = made(n=3)
    _, I = few.search(vectors(4, seed=2), 7)  # noqa: E741
    assert (np.sort(I[:, :3]) == np.arange(3)).all()
    assert (I[:, 3:] == -1).all()
    empty = made(n=0)
    assert (empty.search(vectors(4, seed=2), 7)[1] == -1).all()
    assert empty.search(vectors(0, seed=2), 7)[1].shape == (0, 7)


def test_search__of_selected_ids(index):
    params = faiss.SearchParameters(sel=faiss.IDSelectorRange(10, 40))
    I = index.search(vectors(10, seed=2), K, params=params)[1]  # noqa: E741
    assert ((I >= 10) & (I < 40)).all()


@pytest.mark.parametrize("kind", KINDS[:4])
def test_search_type__sdc_compares_what_the_codes_of_queries_stand_for(kind):
    index = made(kind)
    q = vectors(20, seed=2)
    z = torch.from_numpy(index.encode(q)).view(20, index.model.M, -1)[..., :-1]
    sums = z.sum(1) / index.model.M**0.5
    again = copy.deepcopy(index)
    index.search_type = "sdc"
    D_, I = index.search(q, K)  # noqa: E741
    expected, J = again.search(sums.numpy(), K)
    np.testing.assert_allclose(D_, expected, rtol=1e-4, atol=1e-3)
    assert (I == J).mean() > 0.95


def test_effort__more_is_decoded_better_and_is_kept(index, tmp_path):
    index, x, errors = copy.deepcopy(index), vectors(seed=1), []
    for effort in (0, 1, 8):
        index.reset()
        index.effort = effort
        index.add(x)
        errors.append(float(((index.decode(index.reconstruct_n(0, N)) - x) ** 2).mean()))
    assert errors[2] < min(errors[:2])
    write_index(index, tmp_path)
    assert read_index(tmp_path).effort == 8
    with pytest.raises(ValueError, match="effort"):
        index.effort = -1
    with pytest.raises(TypeError, match="effort"):
        index.effort = 0.5


def test_sa_encode__is_what_add_stores(index):
    x = vectors(seed=1)
    codes = index.sa_encode(x)
    np.testing.assert_array_equal(index.sa_decode(codes), index.reconstruct_n(0, N))
    again = copy.deepcopy(index)
    again.reset()
    again.add_sa_codes(codes)
    q = vectors(20, seed=2)
    for mine, other in zip(index.search(q, K), again.search(q, K), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_add__of_more_codewords_than_items_stores_what_decodes_to_what_was_chosen():
    index = index_factory(
        D,
        "PQVAE3x8,RDecoder",
        model=ModelConfig(width=8),
        training=TrainingConfig(device="cpu", precision="float32"),
        objective=SMALL,
    )
    index.train(vectors(30), progress=False)
    x = vectors(200, seed=1)
    index.add(x)
    code = index.model.code_decoder
    chosen = code.decode(code.choose(torch.from_numpy(x), index.effort))
    stored = code.decode(torch.from_numpy(index.refiner.store.codes(np.arange(200))))
    torch.testing.assert_close(stored, chosen)


def test_decode__of_reconstructed_latents_is_the_deep_decoder(index):
    x = vectors(seed=1)
    code = index.model.code_decoder
    expected = code.decode(code.choose(torch.from_numpy(x), index.effort)).numpy()
    found = index.decode(index.reconstruct_n(0, N))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_search__is_the_same_after_everything_that_copies(kind, tmp_path):
    index = made(f"{kind},RDecoder")
    q = vectors(20, seed=2)
    expected = index.search(q, K)
    write_index(index, tmp_path)
    copies = [
        read_index(tmp_path),
        read_index(tmp_path, mmap=True),
        deserialize_index(serialize_index(index)),
        pickle.loads(pickle.dumps(index)),
        copy.deepcopy(index),
    ]
    for other in copies:
        for mine, theirs in zip(expected, other.search(q, K), strict=True):
            np.testing.assert_array_equal(theirs, mine)
        assert (other.k_factor, other.effort) == (10, 16)


def test_merge_from__and_remove_ids(index):
    whole, half, rest = (copy.deepcopy(index) for _ in range(3))
    half.remove_ids(np.arange(300, N))
    rest.remove_ids(np.arange(300))
    half.merge_from(rest)
    q = vectors(20, seed=2)
    for mine, theirs in zip(whole.search(q, K), half.search(q, K), strict=True):
        np.testing.assert_array_equal(theirs, mine)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", ["PQVAE3x4", "IDMap2,PQVAE3x4", "IVF4,PQVAE3x4"])
def test_to_faiss__finds_what_tables_find_and_says_so(kind, metric):
    index = made(f"{kind},RDecoder", metric)
    with pytest.warns(UserWarning, match="cannot run the decoder"):
        native = index.to_faiss()
    index.refiner = None
    q = vectors(20, seed=2)
    D_, I = index.search(q, K)  # noqa: E741
    found, J = native.search(q, K)
    np.testing.assert_array_equal(I, J)
    offset = float(index.model.code_decoder.offset)
    np.testing.assert_allclose(found - offset, D_, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_to_faiss__maps_queries_of_any_length_as_the_index_does(metric):
    index = made(metric=metric)
    index.refiner = None
    rng = np.random.default_rng(0)
    with torch.no_grad():
        index.model.add_query_map().weight += torch.from_numpy(0.1 * rng.standard_normal((D, D)))
    q = vectors(20, seed=2) * (10 if metric == "cosine" else 1)
    np.testing.assert_array_equal(index.to_faiss().search(q, K)[1], index.search(q, K)[1])


def test_bundle__refuses_another_decoder_in_its_configuration(index, tmp_path):
    write_index(index, tmp_path)
    from faiss_pqvae.index import bundle

    config = bundle.read_config(tmp_path)
    assert config["spec"]["latents"] == "repeated"
    assert config["model"]["config"]["decoder"] == "conditional"
    with pytest.raises(ValueError, match="conditional"):
        bundle.PQVAE((D,), 3, 4, ModelConfig(decoder="conditional"))


def test_distribute__leaves_additive_codes_to_torch(index):
    assert gpu.scan_of(index, "auto") == "torch"
    message = "got additive ones, with codewords of all 8 dimensions: torch scans them"
    with pytest.raises(TypeError, match=message):
        gpu.distribute(index, torch.device("cpu"), [], shard=False, nlist=None)


def test_objectives__know_it_by_name():
    assert objectives.get("synthesis") is Synthesis
