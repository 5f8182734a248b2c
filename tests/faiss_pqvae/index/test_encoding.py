"""Two ways into an index: that of what is stored, and that of queries, which may have a map."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae import LatentIndex, index_factory, read_index, write_index
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.index.gpu import distribute
from faiss_pqvae.native import faiss
from faiss_pqvae.training import new_model

D = 12
Pair = tuple[LatentIndex, LatentIndex, Callable[[np.ndarray], np.ndarray]]

KINDS = ["PQVAE3x6", "PQVAE4x4fs", "IVF4,PQVAE3x6", "HNSW8,PQVAE3x6", "L2norm,PCA8,PQVAE3x6"]
REFINED = ["PQVAE3x6,RDecoder", "IVF4,PQVAE3x6,RDecoder"]


@pytest.fixture(scope="module")
def make_pair(make_model: Any, make_items: Any) -> Callable[..., Pair]:
    """An index whose model maps queries, the same one without the map, and the map itself."""

    def make(description: str, metric: Any = "l2") -> Pair:
        like = index_factory(D, description, metric)
        transforms = like.transforms and like.transforms.trained(make_items(300, (D,)), "x")
        d = D if transforms is None else transforms.d_out
        unit = metric == "cosine"
        model = make_model(
            (d,), like.model.M, like.model.nbits, encoder="linear", unit_latents=unit
        )
        plain = LatentIndex(
            model,
            like.metric_type,
            faiss_index=index_factory(D, description, metric, model=model.config).faiss_index,
            transforms=transforms,
            refine_index="decoder" if like.refiner else None,
        )
        if not plain.is_trained:
            plain.train(make_items(300, (D,), 5), progress=False)
        plain.k_factor = 4.0
        mapped = copy.deepcopy(plain)
        layer = mapped.model.add_query_map()
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            layer.weight += 0.3 * torch.randn(d, d, generator=generator)
            layer.bias += 0.3 * torch.randn(d, generator=generator)
        A, b, mean = (
            t.detach().double().numpy() for t in (layer.weight, layer.bias, mapped.model.mean)
        )
        for index in (plain, mapped):
            index.add(make_items(120, (D,)))

        def map_of(x: np.ndarray) -> np.ndarray:
            x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x
            return ((x - mean) @ A.T + b + mean).astype(np.float32)

        return plain, mapped, map_of

    return make


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("description", [*KINDS[:1], *REFINED])
def test_queries__go_through_their_map(make_pair, make_items, description, search_type, metric):
    if (search_type, metric) == ("sdc", "cosine"):
        metric = "l2"
    plain, mapped, map_of = make_pair(description, metric)
    for index in (plain, mapped):
        index.search_type = search_type
        index.batch_size = 6
    queries = make_items(15, (D,), 1)
    expected = plain.search(map_of(queries), 5)
    found = mapped.search(queries, 5)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-4)
    assert (found[1] == expected[1]).mean() > 0.97
    assert (mapped.search(queries, 5)[1] != plain.search(queries, 5)[1]).any()


CALLS: dict[str, Callable[[LatentIndex, np.ndarray], Any]] = {
    "assign": lambda index, x: index.assign(x, 3),
    "range_search": lambda index, x: np.sort(index.range_search(x, 40.0)[2]),
    "search_and_reconstruct": lambda index, x: index.search_and_reconstruct(x, 3)[2],
    "encode_queries": lambda index, x: index.encode_queries(x),
    "to_faiss": lambda index, x: index.to_faiss().search(x, 3)[1],
}


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("call", CALLS)
def test_queries__go_through_their_map_at_every_door(make_pair, make_items, call, metric):
    if (call, metric) == ("range_search", "cosine"):
        metric = "l2"
    plain, mapped, map_of = make_pair("PQVAE3x6", metric)
    queries = make_items(15, (D,), 1)
    found, expected = CALLS[call](mapped, queries), CALLS[call](plain, map_of(queries))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    unlike = CALLS[call](plain, queries)
    assert unlike.shape != found.shape or not np.allclose(unlike, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("description", KINDS[1:])
def test_queries__behind_transforms_and_in_every_kind(make_pair, make_items, description):
    plain, mapped, map_of = make_pair(description)
    queries = make_items(15, (D,), 1)
    seen = queries if plain.transforms is None else plain.transforms.apply(torch.tensor(queries))
    z = plain.model.encode(torch.from_numpy(map_of(np.asarray(seen)))).detach().numpy()
    np.testing.assert_allclose(mapped.encode_queries(queries), z, rtol=1e-4, atol=1e-5)
    expected = plain.faiss_index.search(z, 5)[1]
    assert (mapped.search(queries, 5)[1] == expected).mean() > 0.97
    if not description.startswith("PQVAE4x4fs"):  # which rounds its tables
        assert (mapped.to_faiss().search(queries, 5)[1] == expected).mean() > 0.97


@pytest.mark.parametrize("sdc", [False, True])
@pytest.mark.parametrize("objective", ["ranking", "synthesis"])
def test_queries__are_mapped_once(objective, sdc):
    model = new_model((D,), 3, 4, objective=objective)
    layer = model.add_query_map()
    layer.bias.data += 1
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
    batch = Encoding(model.eval()).batch(x, queries=True, sdc=sdc)
    assert len(calls) == 1
    torch.testing.assert_close(batch.inputs, x + 1)


def test_items__do_not(make_pair, make_items):
    plain, mapped, _ = make_pair("PQVAE3x6")
    items = make_items(20, (D,), 2)
    same: list[Callable[[LatentIndex], Any]] = [
        lambda index: index.encode(items),
        lambda index: index.sa_encode(items),
        lambda index: index.reconstruct_n(),
        lambda index: index.compute_residual_n(items, np.arange(20)),
    ]
    for call in same:
        np.testing.assert_array_equal(call(mapped), call(plain))


def test_refinement_by_the_items__is_by_the_queries_themselves(make_items, make_model):
    model = make_model((D,), 3, 6, encoder="linear")
    with torch.no_grad():
        model.add_query_map().weight *= -1
    like = index_factory(D, "PQVAE3x6,RFlat", model=model.config)
    assert like.refiner is not None
    index = LatentIndex(model, refine_index=like.refiner.index)
    items, queries = make_items(60, (D,)), make_items(5, (D,), 1)
    index.add(items)
    index.k_factor = 60.0
    exact = ((queries[:, None] - items) ** 2).sum(-1)
    np.testing.assert_array_equal(index.assign(queries)[:, 0], exact.argmin(1))


def test_the_map__is_kept_in_bundles_copies_and_on_devices(make_pair, make_items, tmp_path):
    plain, mapped, _ = make_pair("PQVAE3x6")
    queries = make_items(15, (D,), 1)
    D_, I_ = mapped.search(queries, 3)
    write_index(mapped, tmp_path)
    for index in (read_index(tmp_path), copy.deepcopy(mapped)):
        np.testing.assert_array_equal(index.search(queries, 3)[1], I_)
        np.testing.assert_array_equal(index.search(queries, 3)[0], D_)
        mapped.check_compatible_for_merge(index)
    on_device = distribute(mapped, torch.device("cpu"), [faiss.clone_index], shard=False, nlist=4)
    np.testing.assert_array_equal(on_device.search(queries, 3)[1], I_)
    with pytest.raises(ValueError, match="with the same model"):
        mapped.check_compatible_for_merge(plain)
    assert mapped.model.fingerprint() != plain.model.fingerprint()
