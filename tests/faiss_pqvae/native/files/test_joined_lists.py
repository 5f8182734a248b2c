"""Inverted files joined list by list are the file that FAISS writes of merged ones."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.native.files.io import read_native
from faiss_pqvae.native.files.joined_lists import can_join, write_joined

D, NLIST = 8, 5


@pytest.fixture(scope="module")
def trained() -> faiss.IndexIVFPQ:
    x = np.random.default_rng(0).normal(size=(400, D)).astype(np.float32)
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(D), D, NLIST, 2, 4)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(x)
    index.nprobe = 3
    return index


def _filled(trained: faiss.IndexIVFPQ, n: int, start: int, seed: int) -> faiss.IndexIVFPQ:
    index = faiss.clone_index(trained)
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    index.add_with_ids(x, np.arange(start, start + n))
    return index


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_write_joined__is_what_merging_gives(trained, tmp_path_factory, sizes) -> None:
    folder = tmp_path_factory.mktemp("joined")
    starts = np.cumsum(sizes) - sizes
    parts = [_filled(trained, n, int(at), n) for n, at in zip(sizes, starts, strict=True)]
    empty = faiss.clone_index(trained)
    write_joined(empty, parts, folder / "joined.faiss")
    assert empty.ntotal == 0
    whole = faiss.clone_index(trained)
    for part in parts:
        whole.merge_from(part, 0)
    for mmap in (False, True):
        found = read_native(folder / "joined.faiss", "index", mmap=mmap)
        assert (found.ntotal, found.nprobe) == (sum(sizes), 3)
        np.testing.assert_array_equal(faiss.serialize_index(found), faiss.serialize_index(whole))


def test_write_joined__of_mapped_parts(trained, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.faiss")
        faiss.write_index(_filled(trained, 50, 50 * number, number), str(paths[-1]))
    parts = [read_native(path, "index", mmap=True) for path in paths]
    write_joined(trained, parts, tmp_path / "joined.faiss")
    assert read_native(tmp_path / "joined.faiss", "index").ntotal == 150


def test_write_joined__a_full_disk_is_told(trained, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    link = tmp_path / "joined.faiss"
    link.symlink_to(full)
    with pytest.raises(OSError, match=r"cannot write .*joined\.faiss: No space left on device"):
        write_joined(trained, [_filled(trained, 50_000, 0, 0)], link)


def test_can_join__lists_of_plain_codes_alone(trained) -> None:
    assert can_join(trained)
    assert not can_join(faiss.IndexPQ(D, 2, 4))
    assert not can_join(faiss.index_factory(D, "IVF5,PQ4x4fs"))
