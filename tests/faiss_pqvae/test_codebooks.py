"""Codebooks: a value that is checked once and never changes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks


def _centroids(M: int = 2, ksub: int = 4, dsub: int = 3) -> np.ndarray:
    return np.arange(M * ksub * dsub, dtype=np.float32).reshape(M, ksub, dsub)


@settings(max_examples=30)
@given(M=st.integers(1, 5), nbits=st.integers(1, 12), dsub=st.integers(1, 4))
def test_codebooks__sizes_follow_from_the_shape(M: int, nbits: int, dsub: int) -> None:
    codebooks = Codebooks(_centroids(M, 2**nbits, dsub))
    assert (codebooks.M, codebooks.nbits, codebooks.dsub) == (M, nbits, dsub)
    assert (codebooks.ksub, codebooks.d) == (2**nbits, M * dsub)


def test_codebooks__copies_and_locks_the_array() -> None:
    given_array = _centroids()
    codebooks = Codebooks(given_array)
    given_array[0, 0, 0] = 99
    assert codebooks.centroids[0, 0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        codebooks.centroids[0, 0, 0] = 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_codebooks__become_contiguous_float32(dtype: type) -> None:
    transposed = _centroids(4, 2, 3).astype(dtype).transpose(1, 0, 2)
    codebooks = Codebooks(transposed)
    assert codebooks.centroids.dtype == np.float32
    assert codebooks.centroids.flags.c_contiguous
    np.testing.assert_array_equal(codebooks.centroids, transposed)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.longdouble),
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: torch.from_numpy(x).bfloat16(),
        lambda x: x.tolist(),
    ],
    ids=["big-endian", "longdouble", "gradient", "bfloat16", "list"],
)
def test_codebooks__take_foreign_floats(convert: Any) -> None:
    codebooks = Codebooks(convert(_centroids()))
    np.testing.assert_array_equal(codebooks.centroids, _centroids())
    assert codebooks.centroids.dtype.isnative
    ids = torch.tensor([[1, 0]])
    np.testing.assert_array_equal(
        codebooks.decode(ids), codebooks.decode(np.array([[1, 0]], ">i2"))
    )


def test_codebooks__say_how_to_convert() -> None:
    with pytest.raises(TypeError, match=r"got complex64: write centroids\.real"):
        Codebooks(_centroids() * 1j)
    with pytest.raises(
        TypeError, match="centroids as a dense array, got a tensor on the device meta"
    ):
        Codebooks(torch.empty(2, 4, 3, device="meta"))
    with pytest.raises(ValueError, match="beyond its range"):
        Codebooks(_centroids().astype(np.longdouble) + np.longdouble(10) ** 300)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, object, np.complex64, bool])
def test_codebooks__reject_what_is_not_float(dtype: type) -> None:
    with pytest.raises(TypeError, match="float dtype"):
        Codebooks(_centroids().astype(dtype))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 4, 3), (0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_codebooks__reject_other_ranks_and_empty_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(M, ksub, dsub\)"):
        Codebooks(np.zeros(shape, np.float32))


@pytest.mark.parametrize("ksub", [1, 3, 100, 255, 8192])
def test_codebooks__reject_a_ksub_that_no_nbits_gives(ksub: int) -> None:
    with pytest.raises(ValueError, match=f"got {ksub}"):
        Codebooks(np.zeros((2, ksub, 1), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_codebooks__reject_values_that_are_not_finite(value: float) -> None:
    centroids = _centroids()
    centroids[1, 3, 2] = value
    with pytest.raises(ValueError, match="finite"):
        Codebooks(centroids)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_codebooks__reject_values_beyond_float32() -> None:
    with pytest.raises(ValueError, match="float32"):
        Codebooks(np.full((1, 2, 1), 1e300))


def test_codebooks__compare_by_value() -> None:
    assert Codebooks(_centroids()) == Codebooks(_centroids())
    assert Codebooks(_centroids()) != Codebooks(_centroids() + 1)
    assert Codebooks(_centroids(2, 4, 3)) != Codebooks(_centroids(3, 4, 2))
    assert Codebooks(_centroids()) != "codebooks"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Codebooks(_centroids()))


def test_codebooks__repr_names_the_sizes() -> None:
    assert repr(Codebooks(_centroids())) == "Codebooks(M=2, ksub=4, dsub=3)"


def test_decode__by_hand() -> None:
    decoded = Codebooks(_centroids()).decode(np.array([[0, 0], [3, 1]]))
    np.testing.assert_array_equal(decoded, [[0, 1, 2, 12, 13, 14], [9, 10, 11, 15, 16, 17]])
    assert decoded.dtype == np.float32


def test_residual__codewords_have_all_dimensions() -> None:
    codebooks = Codebooks(_centroids(5, 4, 3), structure="residual")
    assert (codebooks.M, codebooks.ksub, codebooks.nbits) == (5, 4, 2)
    assert (codebooks.d, codebooks.dsub) == (3, 3)
    assert repr(codebooks) == "Codebooks(M=5, ksub=4, d=3, structure='residual')"


def test_residual__is_another_value_than_the_product() -> None:
    residual = Codebooks(_centroids(), structure="residual")
    assert residual == Codebooks(_centroids(), structure="residual")
    assert residual != Codebooks(_centroids())
    assert Codebooks(_centroids()) == Codebooks(_centroids(), structure="product")


@pytest.mark.parametrize("structure", ["additive", "", None])
def test_codebooks__reject_another_structure(structure: Any) -> None:
    with pytest.raises(ValueError, match=f"'product' or 'residual', got {structure!r}"):
        Codebooks(_centroids(), structure=structure)


def test_codebooks__take_the_structure_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        Codebooks(_centroids(), "residual")  # type: ignore[misc]


def test_decode__adds_the_codewords_of_a_residual_by_hand() -> None:
    codebooks = Codebooks(_centroids(), structure="residual")
    decoded = codebooks.decode(np.array([[0, 0], [3, 1]]))
    np.testing.assert_array_equal(decoded, [[12, 14, 16], [24, 26, 28]])
    assert decoded.dtype == np.float32
    decoded[:] = 0  # a copy
    assert codebooks.centroids[1, 3, 2] == 23


def test_decode__of_one_residual_level_is_a_copy() -> None:
    codebooks = Codebooks(_centroids(1), structure="residual")
    decoded = codebooks.decode(np.array([[2]]))
    decoded[:] = 0
    np.testing.assert_array_equal(codebooks.centroids[0, 2], [6, 7, 8])


def test_decode__of_no_residual_ids_is_empty() -> None:
    codebooks = Codebooks(_centroids(), structure="residual")
    assert codebooks.decode(np.zeros((0, 2), np.int64)).shape == (0, 3)


def test_decode__of_no_ids_is_empty() -> None:
    assert Codebooks(_centroids()).decode(np.zeros((0, 2), np.int64)).shape == (0, 6)


def test_decode__rejects_floats() -> None:
    with pytest.raises(TypeError, match="integer ids"):
        Codebooks(_centroids()).decode(np.zeros((1, 2)))


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 2, 1)])
def test_decode__rejects_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        Codebooks(_centroids()).decode(np.zeros(shape, np.int64))


@pytest.mark.parametrize("bad", [-1, 4])
def test_decode__rejects_ids_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        Codebooks(_centroids()).decode(np.array([[0, bad]]))
