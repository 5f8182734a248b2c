"""The grammar."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import LatentIndex, ModelConfig, index_factory
from faiss_pqvae.grammar import parse
from faiss_pqvae.native import faiss

SMALL = ModelConfig(dsub=3, width=4)


@given(M=st.integers(1, 10_000), nbits=st.integers(0, 99))
def test_parse__reads_what_was_formatted(M: int, nbits: int) -> None:
    parsed = parse(f"PQVAE{M}x{nbits}")
    assert (parsed.M, parsed.nbits) == (M, nbits)


def test_parse__nbits_is_8_by_default() -> None:
    assert parse("PQVAE16").nbits == 8


@settings(max_examples=15)
@given(M=st.integers(1, 8), nbits=st.integers(1, 12))
def test_index_factory__makes_every_valid_combination(M: int, nbits: int) -> None:
    index = index_factory(12, f"PQVAE{M}x{nbits}", model=SMALL)
    assert (index.model.M, index.model.nbits) == (M, nbits)
    assert (index.faiss_index.pq.M, index.faiss_index.pq.nbits) == (M, nbits)
    assert index.faiss_index.d == 3 * M
    assert (index.is_trained, index.ntotal) == (False, 0)


@given(
    st.one_of(
        st.text(max_size=20),
        st.text(alphabet="PQVAE0123456789x,fs -", max_size=12),
        st.from_regex(r"PQVAE[0-9]+(x[0-9]+)?.", fullmatch=True),
        st.from_regex(r".PQVAE[0-9]+(x[0-9]+)?", fullmatch=True),
    )
)
def test_parse__rejects_everything_else(description: str) -> None:
    if re.fullmatch(r"PQVAE[0-9]+(x[0-9]+)?", description):
        assert min(parse(description)) >= 0
    else:
        with pytest.raises(ValueError, match="expected"):
            parse(description)


@pytest.mark.parametrize("description", ["IVF64,PQ8", "PQ8x8", "Flat", "", "HNSW32", "pqvae8x8"])
def test_index_factory__sends_faiss_strings_to_faiss(description: str) -> None:
    with pytest.raises(ValueError, match=r"faiss\.index_factory"):
        index_factory(12, description)


@pytest.mark.parametrize(
    "description",
    ["PQVAE", "PQVAEx8", "PQVAE8x", "PQVAE8x8x8", " PQVAE8", "PQVAE8\n", "PQVAE-8", "PQVAE٨"],
)
def test_index_factory__says_what_it_expected(description: str) -> None:
    with pytest.raises(ValueError, match="nothing around it"):
        index_factory(12, description)


@pytest.mark.parametrize("description", ["PQVAE0x8", "PQVAE4x0", "PQVAE4x13"])
def test_index_factory__rejects_numbers_out_of_range(description: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        index_factory(12, description)


@pytest.mark.parametrize("description", [None, 8, b"PQVAE8"])
def test_index_factory__rejects_descriptions_of_another_type(description) -> None:
    with pytest.raises(TypeError, match="description string"):
        index_factory(12, description)


@pytest.mark.parametrize("shape", [12.0, "12", (1, 8.0, 8), None, [1, 8, 8]])
def test_index_factory__rejects_shapes_of_another_type(shape) -> None:
    with pytest.raises(TypeError):
        index_factory(shape, "PQVAE2x4")


@pytest.mark.parametrize("shape", [0, -3, (8, 8), (1, 0, 8), ()])
def test_index_factory__rejects_impossible_shapes(shape) -> None:
    with pytest.raises(ValueError, match="input shape"):
        index_factory(shape, "PQVAE2x4")


def test_index_factory__takes_dimension_and_shape_alike() -> None:
    assert index_factory(12, "PQVAE2x4", model=SMALL).input_shape == (12,)
    assert index_factory((12,), "PQVAE2x4", model=SMALL).input_shape == (12,)
    assert index_factory((1, 8, 8), "PQVAE2x4", model=SMALL).input_shape == (1, 8, 8)


def test_index_factory__hands_metric_and_model_on() -> None:
    index = index_factory(12, "PQVAE2x4", faiss.METRIC_INNER_PRODUCT, model=SMALL)
    assert isinstance(index, LatentIndex)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.model.config == SMALL


def test_index_factory__rejects_another_metric() -> None:
    with pytest.raises(ValueError, match="METRIC_L2"):
        index_factory(12, "PQVAE2x4", faiss.METRIC_Linf)
