"""Keys of content: whatever differs has another one."""

import numpy as np
import pytest
import torch

from faiss_pqvae.data.batches import content_key
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.data.open import open_source

N, D = 9000, 128  # more than one piece that is read at a time


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, D), dtype=np.float32)


@pytest.mark.parametrize("row", [0, 4321, 8191, 8192, N - 1])
def test_content_key__of_one_changed_number(vectors, row):
    key = content_key(vectors, "x")
    before = vectors[row, 77]
    vectors[row, 77] = np.nextafter(before, np.float32(9))
    assert content_key(vectors, "x") != key
    vectors[row, 77] = before
    assert content_key(vectors, "x") == key


def test_content_key__of_rows_in_another_order_and_of_another_shape(vectors):
    changed = [vectors[::-1], vectors[:-1], vectors.reshape(N // 2, 2 * D)]
    keys = {content_key(x, "x") for x in (vectors, *changed)}
    assert len(keys) == 4


def test_content_key__is_of_the_values_wherever_they_are(vectors, tmp_path):
    np.save(tmp_path / "x.npy", vectors)
    raw = vectors.tobytes()
    (tmp_path / "x.fbin").write_bytes(np.array([N, D], "<u4").tobytes() + raw)
    same = [
        open_source(tmp_path / "x.npy"),
        open_source(tmp_path / "x.fbin"),
        torch.from_numpy(vectors),
        vectors.astype(np.float64),
        np.asfortranarray(vectors),
    ]
    assert {content_key(x, "x") for x in same} == {content_key(vectors, "x")}


def test_content_key__tells_bytes_from_floats():
    x = np.zeros((4, 1, 2, 2), np.uint8)
    assert content_key(x, "x") != content_key(x.astype(np.float32), "x")


def test_content_key__nan_raises(vectors):
    x = vectors.copy()
    x[8500, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 8500"):
        content_key(x, "the items")


def test_key_of_parts__counts_header_and_every_part():
    assert key_of_parts("a", [b"1", b"2"]) == key_of_parts("a", [b"1", b"2"])
    others = [("b", [b"1", b"2"]), ("a", [b"2", b"1"]), ("a", [b"12"]), ("a", [b"1"])]
    assert len({key_of_parts(*other) for other in [("a", [b"1", b"2"]), *others]}) == 5
