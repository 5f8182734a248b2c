"""Neighbours in the files that people have."""

import numpy as np
import pytest

from faiss_pqvae.eval.data.known_neighbors import read_neighbors

IDS = np.array([[3, 1, 2], [0, 2, 3]])


def header(n, depth):
    return np.array([n, depth], "<u4").tobytes()


@pytest.mark.parametrize("suffix", [".bin", ".ibin"])
def test_read_neighbors__of_big_ann_with_distances_or_without(suffix, tmp_path):
    path = tmp_path / f"truth{suffix}"
    ids = IDS.astype("<u4").tobytes()
    path.write_bytes(header(2, 3) + ids + np.zeros(6, "<f4").tobytes())
    np.testing.assert_array_equal(read_neighbors(path), IDS)
    path.write_bytes(header(2, 3) + ids)
    np.testing.assert_array_equal(read_neighbors(path), IDS)
    for wrong in (header(2, 3) + ids[:-4], header(2, 3) + ids + b"1234", b"", header(0, 3)):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"queries and .* neighbours each, got {len(wrong)}"):
            read_neighbors(path)


def test_read_neighbors__of_numpy_and_texmex(tmp_path):
    np.save(tmp_path / "truth.npy", IDS.astype(np.int32))
    np.testing.assert_array_equal(read_neighbors(tmp_path / "truth.npy"), IDS)
    rows = [np.array([3, *row], "<i4").tobytes() for row in IDS]
    (tmp_path / "truth.ivecs").write_bytes(b"".join(rows))
    np.testing.assert_array_equal(read_neighbors(tmp_path / "truth.ivecs"), IDS)
    np.save(tmp_path / "truth.npy", IDS.astype(float))
    with pytest.raises(ValueError, match=r"expected integers \(nq, depth\) in .* got float64"):
        read_neighbors(tmp_path / "truth.npy")
    with pytest.raises(ValueError, match=r"expected ids in a file \.ivecs or \.ibin, got"):
        read_neighbors(tmp_path / "truth.txt")
