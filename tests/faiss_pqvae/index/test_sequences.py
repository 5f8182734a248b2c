"""Random sequences of operations on every kind of index, beside brute force in numpy.

The suite plays FAISS_PQVAE_SEQUENCES of them, 1000 by default.
"""

import copy
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.index.gpu import distribute
from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import list_ids, unwrapped

SEQUENCES = int(os.environ.get("FAISS_PQVAE_SEQUENCES", "1000"))
L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, NLIST = 8, 4
KINDS = [("PQ", 8), ("PQ", 4), ("PQfs", 4), ("IVF", 8), ("IVFfs", 4), ("HNSW", 8)]
# Rows that come again and again: the same vector under several ids, and the same query.
POOL = np.random.default_rng(7).standard_normal((40, D), dtype=np.float32)
HASHES = np.random.default_rng(8).integers(-(2**63), 2**63, 60)  # half of them below 0


class Play:
    """An index and what it has to hold.

    Every operation takes a random generator, does one thing to both, and compares.
    """

    def __init__(self, make: Callable[..., Any], reference: Any, key: tuple, refined: bool) -> None:
        self.kind, self.nbits, self.metric, self.id_map = self.key = key
        self.refined, self.make, self.make_reference = refined, make, reference
        self.index, self.reference = self._new()
        self.is_ivf = self.kind.startswith("IVF")
        self.takes_ids = self.reference.keeps_ids

    def _new(self) -> tuple[LatentIndex, Any]:
        refine = faiss.IndexFlat(D, self.metric) if self.refined else None
        index = self.make(*self.key, refine=refine)
        index.batch_size, index.k_factor = 4, 1000.0  # all are candidates
        return index, self.make_reference(*self.key, refined=self.refined)

    def run(self, operation: str, rng: np.random.Generator) -> None:
        getattr(self, operation)(rng)
        assert self.index.ntotal == len(self.reference.ids)

    def check(self, q: np.ndarray, k: int, params: Any = None, allowed: Any = None) -> None:
        found = self.index.search(q, k, params=params)
        if self.index.search_type == "sdc" and not self.refined:
            q = self.reference.quantize(q)
        self.reference.check_search(found, q, k, allowed)

    # -- what is drawn

    def _ids(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """From so few that some come twice: small, large, below 0; or hashes of 64 bits."""
        if rng.random() < 0.25:
            return rng.choice(HASHES, n)
        return rng.choice([0, 2**31, 2**41, -61, -(2**41), -(2**63)]) + rng.integers(0, 60, n)

    def _some_ids(self, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.05:
            return np.empty(0, np.int64)
        there = self.reference.ids
        chosen = there[rng.random(len(there)) < rng.random()]
        return np.concatenate([chosen, rng.integers(-50, 50, 2)]).astype(np.int64)

    def _selector(self, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        """A selector and the ids it takes."""
        ids = self._some_ids(rng)
        how = rng.integers(5)
        if how == 0:
            return faiss.IDSelectorBatch(ids), ids
        if how == 2:
            return faiss.IDSelectorArray(ids), ids
        if how == 3:
            bits = rng.integers(0, 256, 8, dtype=np.uint8)
            return faiss.IDSelectorBitmap(bits), np.flatnonzero(
                np.unpackbits(bits, bitorder="little")
            )
        if how == 1 and len(ids):
            low, high = np.sort(rng.choice(ids, 2))
            stored = self.reference.ids
            taken = stored[(stored >= low) & (stored < high)]
            return faiss.IDSelectorRange(int(low), int(high)), taken
        taken = np.setdiff1d(self.reference.ids, ids)
        return faiss.IDSelectorNot(faiss.IDSelectorBatch(ids)), taken

    def _batch(self, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        """Vectors and their ids, None where the index numbers them."""
        most = rng.choice([1, 4, 14, 40], p=[0.1, 0.3, 0.3, 0.3])  # a fast scan's block has 32
        x = POOL[rng.integers(0, len(POOL), rng.integers(0, most))]
        own = self.id_map or (self.is_ivf and rng.random() < 0.5)
        return x, self._ids(rng, len(x)) if own else None

    def _clash(self, ids: Any, n: int) -> bool:
        """Whether ids come twice where a refined index needs each once."""
        if not (self.refined and self.is_ivf and not self.id_map):
            return False
        there = self.reference.ids
        if ids is None:
            ids = np.arange(len(there), len(there) + n)
        return len(np.unique(np.concatenate([there, ids]))) < len(there) + len(ids)

    # -- operations

    def add(self, rng: np.random.Generator) -> None:
        x, ids = self._batch(rng)
        add = (
            (lambda: self.index.add(x)) if ids is None else lambda: self.index.add_with_ids(x, ids)
        )
        if self._clash(ids, len(x)):
            with pytest.raises(ValueError, match="expected ids of which every item has its own"):
                add()
            return
        add()
        self.reference.add(x, ids)

    def add_sa_codes(self, rng: np.random.Generator) -> None:
        x, ids = self._batch(rng)
        codes = self.index.sa_encode(x)
        if self.refined:
            with pytest.raises(ValueError, match="codes do not hold them"):
                self.index.add_sa_codes(codes, ids)
            return
        self.index.add_sa_codes(codes, ids)
        self.reference.add(x, ids)

    def add_that_fails(self, rng: np.random.Generator) -> None:
        x, ids = self._batch(rng)
        x = np.concatenate([x, POOL[:3]] * 3)[:10].copy()
        ids = None if ids is None else np.arange(len(x)) + 2**50
        how = rng.integers(4 if self.takes_ids else 3)
        match = "expected|numbers its vectors itself"
        if how == 0:
            x[-1, rng.integers(D)] = rng.choice([np.nan, np.inf])
            match = f"row {len(x) - 1}"
            if self._clash(ids, len(x)):
                match = "expected ids of which"
        elif how == 1:
            x = x[:, 1:]
        elif how == 3:
            ids = rng.permutation(len(x)) - 1
            match = "ids other than -1"
        else:
            ids = np.arange(len(x) + 1)
        with pytest.raises((ValueError, TypeError), match=match):
            self.index.add(x) if ids is None else self.index.add_with_ids(x, ids)

    def remove_ids(self, rng: np.random.Generator) -> None:
        sel, gone = self._selector(rng)
        if rng.random() < 0.5:
            sel = gone
        if self.kind == "HNSW":
            with pytest.raises(ValueError, match="cannot remove"):
                self.index.remove_ids(sel)
            return
        assert self.index.remove_ids(sel) == self.reference.remove(gone)

    def merge_from(self, rng: np.random.Generator) -> None:
        other, reference = self._new()
        x, _ = self._batch(rng)
        ids = None
        if self.takes_ids:
            ids = rng.permutation(60)[: len(x)] + int(rng.choice([0, 2**33, -90]))
        if ids is None:
            other.add(x)
        else:
            other.add_with_ids(x, ids)
        reference.add(x, ids)
        add_id = int(rng.choice([0, 70, 2**35, -100])) if self.takes_ids else 0
        if ids is not None and self.kind != "HNSW" and (ids + add_id == -1).any():
            with pytest.raises(ValueError, match="an add_id that makes ids other than -1"):
                self.index.merge_from(other, add_id)
            assert other.ntotal == len(x)
            return
        if self.kind == "HNSW" or self._clash(None if ids is None else ids + add_id, 0):
            with pytest.raises(ValueError, match=r"expected ids of which|cannot be merged"):
                self.index.merge_from(other, add_id)
            assert other.ntotal == len(x)
            return
        self.index.merge_from(other, add_id)
        self.reference.merge(reference, add_id)
        assert other.ntotal == 0
        other.search(x, 2)
        if rng.random() < 0.3:  # the other one goes on
            if self.id_map:
                other.add_with_ids(x, ids)
            else:
                other.add(x)
            reference.add(x, ids if self.id_map else None)
            reference.check_search(other.search(x, 9), x, 9)

    def reset(self, rng: np.random.Generator) -> None:
        self.index.reset()
        self.reference.remove(self.reference.ids)

    def search(self, rng: np.random.Generator) -> None:
        q = POOL[rng.integers(0, len(POOL), rng.integers(0, 7))] + np.float32(0.1)
        self.index.search_type = str(rng.choice(["adc", "sdc"]))
        k = int(rng.integers(1, len(self.reference.ids) + 4))
        params, allowed = None, None
        if rng.random() < 0.5:
            sel, allowed = self._selector(rng)
            params = faiss.SearchParameters(sel=sel)
        self.check(q, k, params, allowed)

    def search_and_reconstruct(self, rng: np.random.Generator) -> None:
        q = POOL[rng.integers(0, len(POOL), rng.integers(0, 4))]
        self.index.search_type = "adc"
        D_, I, R = self.index.search_and_reconstruct(q, 6)  # noqa: E741
        self.reference.check_search((D_, I), q, 6)
        assert R.shape == (len(q), 6, D)
        assert np.isnan(R[I == -1]).all()
        self._check_stored(I[I != -1], R[I != -1])

    def range_search(self, rng: np.random.Generator) -> None:
        q = POOL[rng.integers(0, len(POOL), rng.integers(0, 7))]
        thresh = float(rng.choice([-5.0, 0.5, 3.0, 12.0, 1e6]))
        if self.refined:
            with pytest.raises(ValueError, match="range_search"):
                self.index.range_search(q, thresh)
            return
        self.index.search_type = str(rng.choice(["adc", "sdc"]))
        sel, allowed = self._selector(rng)
        params = faiss.SearchParameters(sel=sel)
        if rng.random() < 0.5:
            params, allowed = None, None
        found = self.index.range_search(q, thresh, params=params)
        q = self.reference.quantize(q) if self.index.search_type == "sdc" else q
        self.reference.check_range(found, q, thresh, allowed)

    def reconstruct(self, rng: np.random.Generator) -> None:
        ids = self.reference.ids
        wanted = ids[rng.random(len(ids)) < 0.5]
        self._check_stored(wanted, self.index.reconstruct_batch(wanted))
        for id_ in wanted[:5]:  # alone: one that a direct map lacks is looked for with all others
            self._check_stored(np.array([id_]), self.index.reconstruct(id_)[None])
        if not self.takes_ids:
            n0 = int(rng.integers(0, len(ids) + 1))
            self._check_stored(ids[n0:], self.index.reconstruct_n(n0))
        x = POOL[rng.integers(0, len(POOL), len(wanted))]
        residuals = self.index.compute_residual_n(x, wanted)
        self._check_stored(wanted, x - residuals)
        for missing in (2**55, -1, -(2**55)):
            with pytest.raises(ValueError, match=r"expected ids .* got -?\d"):
                self.index.reconstruct_batch(np.append(wanted, missing))

    def _check_stored(self, ids: np.ndarray, x: np.ndarray) -> None:
        """Of several under one id, any may be meant."""
        assert x.shape == (len(ids), D)
        for wanted, vector in zip(ids, x, strict=True):
            stored = self.reference.x[self.reference.ids == wanted]
            assert np.abs(stored - vector).max(1).min(initial=np.inf) < 1e-5

    def make_direct_map(self, rng: np.random.Generator) -> None:
        """Of any type: the array is only for ids from 0, each of which is there."""
        if not self.is_ivf:
            return
        bare = unwrapped(self.index.faiss_index)
        stored = np.concatenate([list_ids(bare, number) for number in range(NLIST)])
        maps = [faiss.DirectMap.NoMap, faiss.DirectMap.Hashtable, faiss.DirectMap.Array]
        fits = np.array_equal(np.sort(stored), np.arange(len(stored)))
        bare.set_direct_map_type(int(rng.choice(maps if fits else maps[:2])))

    def copy_to_parts(self, rng: np.random.Generator) -> None:
        """As to several GPUs and back."""
        parts = int(rng.integers(1, 4))
        shard = bool(rng.random() < 0.5)
        if self.refined or self.kind == "HNSW" or self.index.ntotal < parts:
            return
        uploads = [faiss.clone_index] * parts
        copied = distribute(self.index, torch.device("cpu"), uploads, shard=shard, nlist=None)
        copied.search_type = "adc"
        q = POOL[rng.integers(0, len(POOL), rng.integers(0, 7))]
        k = int(rng.integers(1, len(self.reference.ids) + 4))
        self.reference.check_search(copied.search(q, k), q, k)
        self.index = copied.gather(lambda part: part)
        if self.is_ivf:
            self.index.nprobe = NLIST

    def to_faiss(self, rng: np.random.Generator) -> None:
        """What FAISS finds in a copy of its own."""
        # A refined inverted file needs ids from 0; a fast scan begins with what lies in memory.
        if self.refined and (self.is_ivf or self.kind.endswith("fs")):
            return
        q = POOL[rng.integers(0, len(POOL), rng.integers(1, 7))]
        k = int(rng.integers(1, len(self.reference.ids) + 4))
        D_ = np.zeros((len(q), k), np.float32)
        self.reference.check_search(self.index.to_faiss().search(q, k, D=D_), q, k)

    def copy(self, rng: np.random.Generator) -> None:
        how = rng.integers(4)
        if how == 0:
            self.index = pickle.loads(pickle.dumps(self.index))
        elif how == 1:
            self.index = copy.deepcopy(self.index)
        elif how == 2 and not self.refined:
            native = faiss.deserialize_index(faiss.serialize_index(self.index.faiss_index))
            index = LatentIndex(self.index.model, self.metric, faiss_index=native)
            index.batch_size = self.index.batch_size
            self.index = index
        elif rng.random() < 0.2:  # which waits for the disk
            with tempfile.TemporaryDirectory() as folder:
                write_index(self.index, Path(folder) / "index")
                mmap = not self.kind.endswith("fs") and rng.random() < 0.5
                self.index = read_index(Path(folder) / "index", mmap=mmap)
                if mmap:  # the copy is in memory
                    self._check_mapped()
                    self.index = copy.deepcopy(self.index)
            self.index.batch_size, self.index.k_factor = 4, 1000.0
        if self.is_ivf:
            self.index.nprobe = NLIST

    def _check_mapped(self) -> None:
        self.index.k_factor = 1000.0
        if self.is_ivf:
            self.index.nprobe = NLIST
        self.check(POOL[:2], len(self.reference.ids) + 1)
        with pytest.raises(ValueError, match="memory-mapped"):
            self.index.add(POOL[:2])


OPERATIONS = [
    *("add", "add", "add", "add_sa_codes", "add_that_fails", "remove_ids", "remove_ids"),
    *("merge_from", "reset", "search", "search", "range_search", "reconstruct"),
    *("search_and_reconstruct", "copy", "make_direct_map", "reconstruct"),
    *("copy_to_parts", "to_faiss"),
]
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2**16)), min_size=2, max_size=10
)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sequence(kind, make_identity, make_reference):
    @settings(max_examples=-(-SEQUENCES // len(KINDS)))
    @given(
        metric=st.sampled_from([L2, IP]),
        id_map=st.sampled_from(["", "IDMap", "IDMap2"]),
        refined=st.sampled_from([False, False, True]),
        first=st.integers(0, 9),
        steps=STEPS,
    )
    def play(
        metric: int, id_map: str, refined: bool, first: int, steps: list[tuple[str, int]]
    ) -> None:
        game = Play(make_identity, make_reference, (*kind, metric, id_map), refined)
        game.run("add", np.random.default_rng(first))
        game.run("make_direct_map", np.random.default_rng(first))
        for operation, seed in steps:
            game.run(operation, np.random.default_rng(seed))
        game.index.search_type = "adc"
        game.check(POOL[:5], max(1, game.index.ntotal))

    play()
