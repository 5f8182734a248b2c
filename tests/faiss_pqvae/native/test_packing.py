"""Codes keep their meaning in every layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.packing import Unpacker, flatten_blocks, merge_codebooks


def _pack(ids: np.ndarray, nbits: int) -> np.ndarray:
    """(n, M) ids to FAISS's code bytes, by FAISS."""
    return np.asarray(faiss.pack_bitstrings(ids.astype(np.int32), nbits))


@settings(max_examples=60)
@given(nbits=st.integers(1, 8), M=st.integers(1, 40), n=st.integers(1, 50), seed=st.integers(0, 99))
def test_unpacker__undoes_packing(nbits: int, M: int, n: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 2**nbits, (n, M))
    packed = _pack(ids, nbits)
    width = -(-M // 4) * 4
    unpack = Unpacker(packed.shape[1], nbits, width)
    for part in (slice(0, 1), slice(0, n), slice(n // 2, n)):  # memory that grows, and is reused
        codes = unpack(packed[part])
        assert codes.shape == (len(ids[part]), width)
        assert codes.dtype == np.uint8
        assert codes.flags.c_contiguous
        np.testing.assert_array_equal(codes[:, :M], ids[part])
        assert codes.max() < 2**nbits


def test_unpacker__by_hand() -> None:
    codes = Unpacker(3, 6, 4)(np.array([[0b01_000001, 0b0011_0000, 0b111111_00]], np.uint8))
    np.testing.assert_array_equal(codes, [[1, 1, 3, 63]])


@settings(max_examples=60)
@given(
    sizes=st.sampled_from([(1, 8), (1, 3), (2, 4), (2, 3), (3, 2), (4, 2)]),
    M=st.integers(1, 17),
    seed=st.integers(0, 99),
)
def test_merge__leaves_the_meaning_of_the_bytes(sizes: tuple[int, int], M: int, seed: int) -> None:
    nbits, group = sizes
    rng = np.random.default_rng(seed)
    centroids = rng.standard_normal((M, 2**nbits, 3), dtype=np.float32)
    merged = merge_codebooks(centroids, group)
    fields = -(-M // group)
    assert merged.shape == (fields, 2 ** (nbits * group), group * 3)
    assert merged.flags.c_contiguous
    ids = rng.integers(0, 2**nbits, (20, M))
    bits = np.unpackbits(_pack(ids, nbits), axis=1, bitorder="little")[:, : M * nbits]
    bits = np.pad(bits, ((0, 0), (0, fields * group * nbits - M * nbits)))
    wide = bits.reshape(20, fields, -1) @ (1 << np.arange(group * nbits))
    x = Codebooks(merged).decode(wide)
    np.testing.assert_array_equal(x[:, : M * 3], Codebooks(centroids).decode(ids))
    assert not x[:, M * 3 :].any()


def test_merge__of_codewords_that_are_added() -> None:
    centroids = np.random.default_rng(0).standard_normal((5, 4, 3), dtype=np.float32)
    merged = merge_codebooks(centroids, 2, "residual")
    assert (merged.shape, merged.dtype) == ((3, 16, 3), np.float32)
    np.testing.assert_allclose(merged[1, 2 + 4 * 3], centroids[2, 2] + centroids[3, 3], rtol=1e-6)
    np.testing.assert_array_equal(merged[2, 1 + 4 * 3], centroids[4, 1])


def test_merge__missing_ids_have_any_value() -> None:
    merged = merge_codebooks(np.ones((1, 4, 2), np.float32), 2)
    np.testing.assert_array_equal(merged, np.tile(np.float32([1, 1, 0, 0]), (1, 16, 1)))


@pytest.mark.parametrize("block_size", [32, 64])
def test_flatten__of_blocks_by_hand(block_size: int) -> None:
    # FAISS packs these; vector i has the codes i % 16 and 15 - i % 16.
    ids = np.stack([np.arange(64) % 16, 15 - np.arange(64) % 16], axis=1)
    index = faiss.IndexPQFastScan(2, 2, 4, faiss.METRIC_L2, block_size)
    faiss.copy_array_to_vector(np.tile(np.arange(16, dtype=np.float32), 2), index.pq.centroids)
    index.is_trained = True
    index.add(ids.astype(np.float32))
    rows = flatten_blocks(faiss.vector_to_array(index.codes), 1, block_size)
    np.testing.assert_array_equal(rows[:, 0], ids[:, 0] | ids[:, 1] << 4)
