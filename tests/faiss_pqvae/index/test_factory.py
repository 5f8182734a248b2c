"""From a description to an index: the right native parts, trained in the right order."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import LatentIndex, ModelConfig, TrainingConfig, index_factory
from faiss_pqvae.index.factory import register, unregister
from faiss_pqvae.index.refine import Decoder, StoredVectors
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.walk import codebook_index

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
SMALL = ModelConfig(dsub=3, width=4)
LINEAR = ModelConfig(encoder="linear", dsub=4)
SHORT = TrainingConfig(epochs=1, batch_size=64, precision="float32", device="cpu")


# -- what is made


@settings(max_examples=15)
@given(M=st.integers(1, 8), nbits=st.integers(1, 12))
def test_index_factory__makes_every_valid_combination(M: int, nbits: int) -> None:
    index = index_factory(12, f"PQVAE{M}x{nbits}", model=SMALL)
    assert (index.model.M, index.model.nbits) == (M, nbits)
    assert (index.faiss_index.pq.M, index.faiss_index.pq.nbits) == (M, nbits)
    assert index.faiss_index.d == 3 * M
    assert (index.is_trained, index.ntotal) == (False, 0)


KINDS = {
    "PQVAE4x6": "IndexPQ",
    "PQVAE4x4fs": "IndexPQFastScan",
    "IVF8,PQVAE4x6": "IndexIVFPQ",
    "IVF8_HNSW4,PQVAE4x6": "IndexIVFPQ",
    "IVF8(IVF2,Flat),PQVAE4x6": "IndexIVFPQ",
    "IVF8,PQVAE4x4fs": "IndexIVFPQFastScan",
    "HNSW8,PQVAE4x6": "IndexHNSWPQ",
}


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("id_map", ["", "IDMap", "IDMap2"])
@pytest.mark.parametrize("description", KINDS)
def test_index_factory__makes_the_native_index(description: str, id_map: str, metric: int) -> None:
    index = index_factory(12, f"{id_map},{description}".strip(","), metric, model=SMALL)
    native = index.faiss_index
    if id_map:
        assert type(native).__name__ == f"Index{id_map}"
        assert native.metric_type == metric
        native = faiss.downcast_index(native.index)
    assert type(native).__name__ == KINDS[description]
    # FAISS's own factory forgets an HNSW index's inner product.
    assert (native.d, native.metric_type) == (12, metric)
    assert index.metric_type == metric
    if description.startswith("IVF"):
        gives_centroids = "(IVF2" not in description
        assert (native.nlist, native.by_residual, index.nprobe) == (8, gives_centroids, 1)
        assert native.quantizer.metric_type == metric
    if description.startswith("HNSW"):
        # Twice as many on the lowest level.
        assert [native.hnsw.nb_neighbors(level) for level in (0, 1)] == [16, 8]
        assert faiss.downcast_index(native.storage).metric_type == metric


def test_index_factory__leaves_nprobe_and_ef_search_to_be_set() -> None:
    index = index_factory(12, "IDMap2,IVF8,PQVAE4", model=SMALL)
    index.nprobe = 3
    assert faiss.downcast_index(index.faiss_index.index).nprobe == 3
    index = index_factory(12, "HNSW8,PQVAE4", model=SMALL)
    index.efSearch = 40
    assert index.faiss_index.hnsw.efSearch == 40


@pytest.mark.parametrize(
    ("description", "names", "d_out"),
    [
        ("L2norm,PQVAE2", ["NormalizationTransform"], 12),
        ("PCA8,PQVAE2", ["PCAMatrix"], 8),
        ("L2norm,PCAR8,RR,PQVAE2", ["NormalizationTransform", "PCAMatrix", "RandomRotation"], 8),
        ("OPQ2_8,PQVAE2", ["OPQMatrix"], 8),
        ("Pad20,PQVAE2", ["RemapDimensionsTransform"], 20),
    ],
)
def test_index_factory__makes_the_transforms(
    description: str, names: list[str], d_out: int
) -> None:
    index = index_factory(12, description, model=SMALL)
    assert index.transforms is not None
    made = [type(transform).__name__ for transform in index.transforms.chain]
    assert all(name.startswith(start) for name, start in zip(made, names, strict=True))
    assert index.model.input_shape == (d_out,)
    assert (index.input_shape, index.d) == ((12,), 12)


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("coarse", ["", "IDMap2,", "IVF4,", "IDMap2,IVF4,", "HNSW4,"])
@pytest.mark.parametrize(
    ("refine", "kind"), [("RFlat", "IndexFlat"), ("Refine(SQfp16)", "IndexScalarQuantizer")]
)
def test_index_factory__makes_the_index_to_refine_with(
    refine: str, kind: str, coarse: str, metric: int
) -> None:
    index = index_factory((3, 8, 8), f"{coarse}PQVAE2,{refine}", metric, model=SMALL)
    assert isinstance(index.refiner, StoredVectors)
    native = index.refiner.index
    if "IVF" in coarse:  # whose keys are not places
        assert type(native) is faiss.IndexIDMap2
        native = faiss.downcast_index(native.index)
    assert type(native).__name__.startswith(kind)
    assert (native.d, native.metric_type) == (192, metric)


def test_index_factory__makes_a_decoder_to_refine_with() -> None:
    index = index_factory(12, "PQVAE2,RDecoder", model=SMALL)
    assert isinstance(index.refiner, Decoder)
    assert index.refiner.model is index.model
    assert index_factory(12, "PQVAE2", model=SMALL).refiner is None


@pytest.mark.parametrize(
    ("metric", "number", "unit"),
    [("l2", L2, False), ("ip", IP, False), (IP, IP, False), ("Cosine", IP, True)],
)
def test_index_factory__takes_every_name_of_a_metric(metric: Any, number: int, unit: bool) -> None:
    index = index_factory(12, "PQVAE2,RFlat", metric, model=SMALL)
    assert (index.metric_type, index.model.config.unit_latents) == (number, unit)
    assert index.refiner.index.metric_type == number
    again = LatentIndex(index.model, metric)
    assert again.metric_type == number


def test_index_factory__takes_the_metric_of_dpq_by_every_name() -> None:
    for metric in ("ip", "inner_product", IP, "cosine"):
        assert index_factory(12, "DPQ2x4", metric).metric_type == IP
    with pytest.raises(ValueError, match="METRIC_INNER_PRODUCT for DPQ"):
        index_factory(12, "DPQ2x4", "l2")


def test_constructor__refuses_cosine_of_other_lengths() -> None:
    model = index_factory(12, "PQVAE2", model=SMALL).model
    with pytest.raises(ValueError, match="latents of length 1 for 'cosine'"):
        LatentIndex(model, "cosine")


@pytest.mark.parametrize("config", [None, SMALL])
def test_index_factory__makes_unit_latents_for_cosine(config: ModelConfig | None) -> None:
    index = index_factory(12, "IVF4,PQVAE2,RFlat", "cosine", model=config)
    assert index.model.config.unit_latents
    assert index.model.config.dsub == (config.dsub if config else 6)
    assert index.metric_type == IP
    assert isinstance(index.refiner, StoredVectors)
    assert index.refiner.unit


@pytest.mark.parametrize("shape", [12.0, "12", (1, 8.0, 8), None, True])
def test_index_factory__rejects_shapes_of_another_type(shape: Any) -> None:
    with pytest.raises(TypeError, match="expected an integer as input shape, got"):
        index_factory(shape, "PQVAE2x4")


@pytest.mark.parametrize("shape", [[1, 8, 8], torch.Size([1, 8, 8]), np.zeros((1, 8, 8)).shape])
def test_index_factory__takes_a_shape_as_any_sequence(shape: Any) -> None:
    assert index_factory(shape, "PQVAE2x4", model=SMALL).input_shape == (1, 8, 8)


@pytest.mark.parametrize("shape", [0, -3, (8, 8), (1, 0, 8), ()])
@pytest.mark.parametrize("refine", ["", ",RFlat"])
def test_index_factory__rejects_impossible_shapes(shape: Any, refine: str) -> None:
    with pytest.raises(ValueError, match="input shape"):
        index_factory(shape, f"PQVAE2x4{refine}")


@pytest.mark.parametrize("shape", [0, -3, (0,)])
def test_index_factory__rejects_impossible_shapes_before_transforms(shape: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        index_factory(shape, "L2norm,PQVAE2x4")


def test_index_factory__takes_dimension_and_shape_alike() -> None:
    assert index_factory(12, "PQVAE2x4", model=SMALL).input_shape == (12,)
    assert index_factory(np.int64(12), "PQVAE2x4", model=SMALL).input_shape == (12,)
    assert index_factory((12,), "PQVAE2x4", model=SMALL).input_shape == (12,)
    assert index_factory((1, 8, 8), "PQVAE2x4", model=SMALL).input_shape == (1, 8, 8)


def test_index_factory__hands_metric_and_model_on() -> None:
    index = index_factory(12, "PQVAE2x4", IP, model=SMALL)
    assert isinstance(index, LatentIndex)
    assert index.metric_type == IP
    assert index.model.config == replace(SMALL.for_items((12,), 2, 4), objective="ranking")
    assert index.model.spec.metric == "inner_product"


@pytest.mark.parametrize("metric", [faiss.METRIC_Linf, "l3", "hamming"])
@pytest.mark.parametrize("description", ["PQVAE2x4", "IVF4,PQVAE2", "HNSW4,PQVAE2", "PQVAE2,RFlat"])
def test_index_factory__rejects_another_metric(description: str, metric: Any) -> None:
    with pytest.raises(ValueError, match=r"'cosine', faiss.METRIC_L2 or"):
        index_factory(12, description, metric)


def test_index_factory__rejects_sizes_that_faiss_cannot_search() -> None:
    with pytest.raises(ValueError, match="dsub=2 with nbits=1"):
        index_factory(12, "HNSW4,PQVAE2x1", model=ModelConfig(dsub=2))


# -- register


@pytest.fixture
def registered() -> Iterator[Any]:
    """FAISS's own function, while ours is in its place."""
    before = faiss.index_factory
    register()
    yield before
    unregister()
    assert faiss.index_factory is before


def test_register__makes_faiss_understand_the_new_code(registered: Any) -> None:
    index = faiss.index_factory(12, "IVF4,PQVAE4x6", IP)
    assert isinstance(index, LatentIndex)
    assert (index.input_shape, index.metric_type) == ((12,), IP)
    assert index.description == "IVF4,PQVAE4x6"
    assert isinstance(faiss.index_factory((1, 8, 8), "PQVAE4"), LatentIndex)
    other = ModelConfig(objective="reconstruction", encoder="mlp", dsub=4, update="ema")
    assert faiss.index_factory(12, "PQVAE4", model=other).model.config == other


def test_register__leaves_every_other_string_to_faiss(registered: Any) -> None:
    assert type(faiss.index_factory(12, "PQ4x8np", IP)) is faiss.IndexPQ
    assert faiss.index_factory(12, "IVF4,Flat").nlist == 4
    with pytest.raises(RuntimeError, match="could not parse"):
        faiss.index_factory(12, "PQVA4")
    with pytest.raises(TypeError):
        faiss.index_factory(12, 3)


def test_register__does_not_nest(registered: Any) -> None:
    with pytest.raises(ValueError, match="that FAISS understands"):
        faiss.index_factory(12, "PQVAE2,Refine(PQVA2)")
    with pytest.raises(ValueError, match="expected"):
        faiss.index_factory(12, "IVF4(PQVAE2),PQVAE2")


def test_register__twice_is_once(registered: Any) -> None:
    once = faiss.index_factory
    register()
    assert faiss.index_factory is once
    unregister()
    assert faiss.index_factory is registered


def test_unregister__without_register_does_no_harm() -> None:
    before = faiss.index_factory
    unregister()
    assert faiss.index_factory is before


def test_register__keeps_what_others_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def others(*args: Any) -> str:
        return "others"

    monkeypatch.setattr(faiss, "index_factory", others)
    unregister()
    assert faiss.index_factory is others
    register()
    assert faiss.index_factory(12, "Flat") == "others"
    assert isinstance(faiss.index_factory(12, "PQVAE2"), LatentIndex)
    unregister()
    assert faiss.index_factory is others


def test_import__patches_nothing() -> None:
    code = """
import torch, faiss, inspect
def members(owner):
    return {name: id(value) for name, value in vars(owner).items()}
owners = [faiss, *(c for _, c in inspect.getmembers(faiss, inspect.isclass))]
before = [members(owner) for owner in owners]
import faiss_pqvae
after = [members(owner) for owner in owners]
print(before == after)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


# -- from training to results


def _trained(description: str, metric: Any, x: np.ndarray) -> LatentIndex:
    index = index_factory(16, description, metric, model=LINEAR, training=SHORT)
    index.train(x, progress=False)
    if description.startswith("IDMap"):
        index.add_with_ids(x, np.arange(len(x)) + 2**40)
    else:
        index.add(x)
    if "IVF" in description:
        index.nprobe = 8
    return index


def _coarse_of(index: LatentIndex, z: np.ndarray) -> Any:
    """What an inverted file takes off latents before it codes them."""
    native = codebook_index(index.faiss_index)
    if not getattr(native, "by_residual", False):
        return np.zeros_like(z)
    centroids = coarse_centroids(native)
    return centroids[native.quantizer.search(z, 1)[1][:, 0]]


@pytest.mark.parametrize("metric", [L2, IP, "cosine"])
@pytest.mark.parametrize(
    "description",
    [*KINDS, "IDMap2,PQVAE4x6", "IDMap,IVF8,PQVAE4x4fs", "L2norm,PCA8,PQVAE4x6", "RR,PQVAE4"],
)
def test_index_factory__trains_and_searches(make_items: Any, description: str, metric: Any) -> None:
    x, queries = make_items(300, (16,)), make_items(20, (16,), 1)
    index = _trained(description, metric, x)
    D, I = index.search(queries, 5)  # noqa: E741
    assert D.shape == I.shape == (20, 5)
    assert (I >= 0).all()
    # Look-up tables in float64, of the latents and the codewords at the returned ids.
    centroids = extract_codebooks(index.faiss_index).centroids.astype(np.float64)
    assert np.array_equal(centroids, index.model.codebooks().centroids)
    M, _, dsub = centroids.shape
    taken_off, latents = _coarse_of(index, index.encode(x)), index.encode(x)
    z = index.encode(queries).astype(np.float64).reshape(20, M, 1, dsub)
    residuals = (latents - taken_off).reshape(300, M, 1, dsub)
    codes = ((residuals - centroids) ** 2).sum(-1).argmin(-1)  # (300, M)
    tables = ((z - centroids) ** 2 if metric == L2 else z * centroids).sum(-1)  # (20, M, ksub)
    stored = centroids[np.arange(M), codes].reshape(300, M * dsub) + taken_off
    flat = z.reshape(20, -1)
    all_D = flat @ stored.T  # (20, 300)
    if metric == L2:
        all_D = ((flat[:, None] - stored) ** 2).sum(-1)
    span = (tables.max(-1) - tables.min(-1)).max()
    fast = "fs" in description
    atol = M * span / 255 if fast else 1e-4 * span
    np.testing.assert_allclose(D, np.take_along_axis(all_D, I % 2**40, 1), atol=atol)
    if not description.startswith(("HNSW", "IVF8(IVF2")):  # these do not look everywhere
        best = np.sort(all_D)[:, :5] if metric == L2 else -np.sort(-all_D)[:, :5]
        np.testing.assert_allclose(D, best, atol=2 * atol)
    for twin in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        again = twin.search(queries, 5)
        np.testing.assert_array_equal(again[1], I)
        np.testing.assert_array_equal(again[0], D)


def test_index_factory__cosine_is_between_unit_latents_and_codes(make_items: Any) -> None:
    x, queries = make_items(300, (16,)), make_items(20, (16,), 1)
    index = _trained("PQVAE4x6", "cosine", x)
    z = index.encode(queries)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    D, I, R = index.search_and_reconstruct(queries, 5)  # noqa: E741
    # The codes stand for vectors of about length 1: their own length is part of the product.
    np.testing.assert_allclose(D, (z[:, None] * R).sum(-1), atol=1e-6)
    np.testing.assert_array_equal(R[0, 0], index.reconstruct(I[0, 0]))
    # Brighter or darker, longer or shorter: with a mean of zero it is the same direction.
    index.model.mean.zero_()
    index.model.latent_norm.running_mean.zero_()
    index.model.encoder.map.bias.data.zero_()
    np.testing.assert_allclose(index.encode(3 * queries), index.encode(queries), atol=1e-6)


def test_train__of_too_few_vectors_for_the_lists_leaves_the_index(make_items: Any) -> None:
    index = index_factory(16, "IVF500,PQVAE4x4", model=LINEAR, training=SHORT)
    with pytest.raises(ValueError, match="500, to train with, got 100"):
        index.train(make_items(100, (16,)), progress=False)
    assert not index.is_trained
    assert not index.model.is_trained


def test_train__from_a_pretrained_model_where_vectors_start_at_opq_says_so(make_model: Any) -> None:
    x = np.random.default_rng(0).standard_normal((100, 12)).astype(np.float32)
    index = index_factory(12, "PQVAE4x4", pretrained=make_model((12,), encoder="linear"))
    with pytest.raises(ValueError, match="expected no pretrained model"):
        index.train(x)


@pytest.mark.parametrize(
    "coarse", ["IVF16(RQ2x2)", "IVF16(LSQ2x2)", "IVF16(IVF4,RQ2x4)", "IVF4(ITQ16,Flat)"]
)
def test_index_factory__refuses_coarse_centroids_that_faiss_cannot_copy(coarse):
    with pytest.raises(ValueError, match="coarse centroids that FAISS can copy untrained"):
        index_factory(16, f"{coarse},PQVAE4")
