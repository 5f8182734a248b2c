"""PQVAE: normalisation, shapes, and ids that mean the same in torch and in FAISS."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import PQVAE, ModelConfig, Synthesis
from faiss_pqvae.native.inject import new_index_pq
from faiss_pqvae.training import Additive, new_model

SHAPES = [(1, 8, 8), (3, 8, 8), (12,)]


@pytest.mark.parametrize("standardize", [True, False])
def test_normalize__uint8_and_float_are_the_same(make_model, make_items, standardize) -> None:
    model = make_model((3, 8, 8), standardize=standardize)
    x = torch.from_numpy(make_items(5, (3, 8, 8)))
    assert torch.equal(model.normalize(x), model.normalize(x.float() / 255))
    assert torch.equal(model.encode(x), model.encode(x.float() / 255))


def test_normalize__vectors_of_uint8_are_not_scaled(make_model) -> None:
    model = make_model((12,))
    x = torch.arange(24, dtype=torch.uint8).reshape(2, 12)
    assert torch.equal(model.normalize(x), model.normalize(x.float()))


def test_standardize__forgets_brightness_and_keeps_the_direction(make_model) -> None:
    model = make_model((3, 8, 8))
    x = 0.25 + 0.5 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    normal = model.normalize(x)
    torch.testing.assert_close(model.normalize(x + 0.2), normal, atol=1e-5, rtol=1e-5)
    faded = model.normalize(0.5 * x + 0.1)
    cosine = torch.cosine_similarity(faded.flatten(1), normal.flatten(1))
    assert cosine.min() > 1 - 1e-5
    # Much less than the factor two that the contrast lost.
    assert (faded.flatten(1).norm(dim=1) / normal.flatten(1).norm(dim=1)).min() > 0.6


def test_standardize__of_a_flat_image_is_zero(make_model) -> None:
    assert make_model().normalize(torch.full((1, 1, 8, 8), 0.7)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(3, 8, 8), (12,)], ids=str)
def test_fit_normalization__gives_zero_mean_and_unit_scale(shape) -> None:
    model = PQVAE(shape, 2, 4, ModelConfig(dsub=4, width=4, standardize=False))
    x = 0.3 + 0.1 * torch.rand(200, *shape, generator=torch.Generator().manual_seed(0))
    model.fit_normalization(x)
    normal = model.normalize(x)
    assert normal.mean().abs() < 1e-4
    assert normal.square().mean().sqrt() == pytest.approx(1, abs=1e-4)


def test_fit_normalization__of_constant_data_stays_finite() -> None:
    model = PQVAE((4,), 2, 4, ModelConfig(dsub=4, width=4))
    model.fit_normalization(torch.ones(8, 4))
    assert torch.isfinite(model.normalize(torch.ones(8, 4))).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decoder", ["linear", "mlp"])
def test_decode__shape_and_range(make_model, shape, decoder) -> None:
    model = make_model(shape, decoder=decoder)
    with torch.inference_mode():
        x = model.decode(100 * torch.randn(5, model.latent_dim))
    assert x.shape == (5, *shape)
    assert x.dtype == torch.float32
    if len(shape) == 3:
        assert x.min() >= 0
        assert x.max() <= 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward__shapes(make_model, make_items, shape) -> None:
    model = make_model(shape, M=3)
    out = model(torch.from_numpy(make_items(5, shape)))
    assert out.x.shape == (5, *shape)
    assert out.quantized.z_q.shape == (5, 12)
    assert out.quantized.ids.shape == (5, 3)


@settings(max_examples=10)
@given(M=st.integers(1, 4), nbits=st.integers(3, 9), dsub=st.integers(1, 4))
def test_bottleneck__ids_are_the_codes_of_faiss(make_model, make_items, M, nbits, dsub) -> None:
    model = make_model((1, 8, 8), M, nbits, dsub=dsub, encoder="linear")
    with torch.inference_mode():
        quantized = model(torch.from_numpy(make_items(40))).quantized
    index = new_index_pq(model.codebooks())
    z = quantized.z.numpy()
    decoded = index.sa_decode(index.sa_encode(z))
    expected = model.codebooks().decode(quantized.ids.numpy())
    # They may differ where two codewords are as near as float32 can tell.
    errors = [np.square(z - y, dtype=np.float64).sum(1) for y in (decoded, expected)]
    np.testing.assert_allclose(*errors, atol=1e-5)
    assert (decoded == expected).mean() > 0.9
    np.testing.assert_allclose(quantized.z_q, expected, atol=1e-5)


def test_bottleneck__ids_of_eight_bits_are_the_code_bytes(make_model, make_items) -> None:
    model = make_model(M=4)
    with torch.inference_mode():
        quantized = model(torch.from_numpy(make_items(40))).quantized
    codes = new_index_pq(model.codebooks()).sa_encode(quantized.z.numpy())
    np.testing.assert_array_equal(codes, quantized.ids.numpy())
    assert len(np.unique(codes)) > 10  # the comparison is not one of constants


def test_codebooks__are_the_codewords(make_model) -> None:
    model = make_model(M=3, nbits=4)
    codebooks = model.codebooks()
    np.testing.assert_array_equal(codebooks.centroids, model.quantizer.codewords)
    model.quantizer.codewords.zero_()
    assert codebooks.centroids.any()  # a copy


def test_codebooks__of_a_parameter(make_model) -> None:
    model = make_model(update="gradient")
    expected = model.quantizer.codewords.detach().numpy()
    np.testing.assert_array_equal(model.codebooks().centroids, expected)


@pytest.mark.parametrize("shape", [(), (8, 8), (1, 1, 8, 8), (0,), (3, 0, 8)], ids=str)
def test_model__rejects_other_input_shapes(shape) -> None:
    with pytest.raises(ValueError, match="input shape"):
        PQVAE(shape, 2, 4)


@pytest.mark.parametrize("setting", [{"dsub": 0}, {"width": 0}], ids=str)
def test_model_config__rejects(setting) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(setting))} >="):
        ModelConfig(**setting)


@pytest.mark.parametrize("name", ["objective", "encoder", "decoder"])
def test_model_config__takes_names_and_says_where_the_thing_itself_goes(name) -> None:
    with pytest.raises(TypeError, match=rf"{name} as a name.*index_factory\(..., {name}=...\)"):
        ModelConfig(**{name: torch.nn.Identity()})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("M", [1, 3])
def test_encode__of_the_contrastive_objective_is_on_spheres(
    make_model, make_items, shape, M
) -> None:
    model = make_model(shape, M, objective="contrastive")
    with torch.inference_mode():
        z = model.encode(torch.from_numpy(make_items(20, shape)))
    lengths = z.view(20, M, 4).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((20, M), M**-0.5))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encode__of_dpq_is_inside_the_unit_sphere(make_model, make_items, shape) -> None:
    model = make_model(shape, objective="dpq")
    x = torch.from_numpy(make_items(20, shape))
    with torch.inference_mode():
        h = model.latent_norm(model.encoder(model.normalize(x)))
        z = model.encode(x)
    expected = h / torch.sqrt(h.shape[1] + (h * h).sum(1))[:, None]
    torch.testing.assert_close(z, expected)
    assert z.norm(dim=1).max() < 1
    assert z.norm(dim=1).std() > 0
    with torch.inference_mode():
        cosine = make_model(shape, objective="dpq", unit_latents=True).encode(x)
    torch.testing.assert_close(cosine.norm(dim=1), torch.ones(20))


def test_contrastive__tables_of_faiss_add_up_to_cosines(make_index, make_items) -> None:
    """ADC is exact: ||z - e||^2 = 2 - 2 <z, e> where both have length 1."""
    index = make_index(M=4, nbits=4, n=50, objective="contrastive")
    queries = make_items(7, seed=3)
    D, ids = index.search(queries, 50)
    z = index.encode(queries)
    stored = index.reconstruct_n(0, 50)
    cosines = np.einsum("qd,nd->qn", z.astype(np.float64), stored)
    np.testing.assert_allclose(D, np.take_along_axis(2 - 2 * cosines, ids, 1), atol=1e-5)


def test_is_trained__is_part_of_the_state(make_model) -> None:
    trained = make_model()
    fresh = make_model(trained=False)
    assert not fresh.is_trained
    fresh.load_state_dict(trained.state_dict())
    assert fresh.is_trained


@pytest.mark.parametrize(
    ("shape", "M", "nbits", "config", "encoder", "dsub"),
    [
        ((128,), 8, 8, {}, "linear", 16),
        ((10,), 4, 8, {}, "linear", 3),  # a little padding
        ((3,), 8, 8, {}, "linear", 1),
        ((8,), 4, 2, {}, "linear", 3),  # FAISS cannot search 2 dimensions at 2 bits
        ((12,), 4, 8, {"dsub": 5}, "linear", 5),
        ((12,), 4, 8, {"encoder": "mlp"}, "mlp", 16),
        ((3, 8, 8), 4, 8, {}, "conv", 16),
        ((12,), 4, 8, {"update": "gradient"}, "linear", 3),
    ],
)
def test_for_items__fills_in_what_depends_on_them(shape, M, nbits, config, encoder, dsub) -> None:
    filled = PQVAE(shape, M, nbits, ModelConfig(**config)).config
    assert (filled.encoder, filled.dsub) == (encoder, dsub)
    assert filled.for_items(shape, M, nbits) == filled


def test_query_map__begins_as_the_identity_and_is_a_part_of_the_model(make_model):
    model = make_model((12,), 3, 6, encoder="linear")
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    z = model.encode(x)
    assert model.query_map is None
    assert model.map_queries(x) is x
    assert torch.equal(model.encode_queries(x), z)
    names = set(model.state_dict())
    layer = model.add_query_map()
    assert set(model.state_dict()) - names == {"query_map.weight", "query_map.bias"}
    torch.testing.assert_close(model.encode_queries(x), z)
    with torch.no_grad():
        layer.bias += 1
    torch.testing.assert_close(model.encode_queries(x), model.encode(x + 1))
    torch.testing.assert_close(model.encode_mapped(x + 1), model.encode(x + 1))
    torch.testing.assert_close(model.encode(x), z)


def test_forward__of_additive_codes_decodes_what_is_chosen():
    model = new_model((12,), 3, 4, objective=Synthesis())
    generator = torch.Generator().manual_seed(0)
    model.code_decoder.begin_at(torch.randn(3, 16, 12, generator=generator))
    model.quantizer.codewords.data.normal_(generator=generator)
    x = torch.randn(5, 12, generator=generator)
    found = model(x)
    assert torch.equal(found.quantized.ids, model.code_decoder.choose(x, 16))
    assert torch.equal(found.x, model.decode(model.encode(x)))


def test_query_map__of_additive_codes_by_cosines_forgets_lengths():
    model = new_model((12,), 3, 4, ModelConfig(unit_latents=True), objective=Synthesis())
    model.add_query_map().bias.data += 1
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.encode_queries(10 * x), model.encode_queries(x))


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_encode_centroids__of_additive_codes_keep_their_length(metric):
    unit = metric == "inner_product"
    model = new_model(
        (5,), 3, 4, ModelConfig(unit_latents=unit), objective=Additive(), metric=metric
    )
    c, x = 2 * torch.randn(4, 5), torch.randn(4, 5)
    torch.testing.assert_close(model.summed(model.encode_centroids(c)), c)
    asked = torch.nn.functional.normalize(x) if unit else x
    left = model.encode_queries(x) - model.encode_centroids(c)
    torch.testing.assert_close(model.summed(left), asked - c)


def test_add_query_map__refuses_images(make_model):
    with pytest.raises(ValueError, match=r"of vectors for a map of queries.* \(1, 8, 8\)"):
        make_model((1, 8, 8)).add_query_map()
