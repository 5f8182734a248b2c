"""Which rows an evaluation has: by name, from other packages, and of an index that exists."""

import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae.eval import load
from faiss_pqvae.eval.measure.raw import job_key
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.baselines import YARDSTICKS
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.methods.code_shape import (
    shape_of_codes,
    shape_of_learned_code,
    usual_lengths,
)
from faiss_pqvae.eval.methods.given import GivenIndex, given, opened
from faiss_pqvae.eval.methods.learned_code import codeword_counts
from faiss_pqvae.eval.methods.method import Method, Request
from faiss_pqvae.eval.methods.settings import CodeSettings
from faiss_pqvae.native import faiss
from faiss_pqvae.registry import methods


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = np.arange(320) % 4
    x = (generator.normal(size=(320, 16)) + 3 * np.eye(16)[labels]).astype(np.float32)
    return load(lambda: (x[:300], labels[:300], x[300:], labels[300:]))


def mine(request: Request) -> Method:
    """A method of somebody else's."""
    return from_factory("Mine", request.bits, request.d, f"PQ{request.bits // 8}np")


def test_rows_of__takes_names_and_references(data, register):
    register(methods, "mine", mine)
    rows = rows_of(data, names=["LSH", "mine", f"{__name__}:mine"][:2], lengths=[16, 32])
    assert [(row.name, row.bits) for row in rows] == [
        *(("LSH", 16), ("Mine", 16), ("LSH", 32), ("Mine", 32))
    ]
    with pytest.raises(ValueError, match=r"expected a method of 'Exact L2', 'LSH', .*got 'HNSW'"):
        rows_of(data, names=["HNSW"])
    with pytest.raises(ValueError, match="expected methods with rows"):
        rows_of(data, names=["IVF"])  # no lists are asked for


def test_rows_of__imports_what_a_reference_names(data, tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "from faiss_pqvae.eval.methods.build import from_factory\n"
        "def mine(request):\n"
        "    return [from_factory('Mine', request.bits, request.d, 'PQ2np', seed=request.seed)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = rows_of(data, names=["own_method:mine"], lengths=[16], seeds=(0, 1))
    assert [(row.name, row.seed) for row in rows] == [("Mine", 0), ("Mine", 1)]


def test_rows_of__default_is_everything_or_yardsticks(data, tmp_path):
    names = {row.name for row in rows_of(data, lengths=[16])}
    assert {"Exact L2", "Spectral Hashing", "LSQ, decoded", "OPQ"} <= names
    learned = CodeSettings(fpq.DQN(), tmp_path, fpq.ModelConfig(width=4, dsub=2))
    rows = rows_of(data, lengths=[16], learned=learned)
    names = {row.name.removesuffix(", decoded").removesuffix(", norm inside") for row in rows}
    assert names <= {*YARDSTICKS, "DQN"}


def test_methods__every_name_has_one_row_or_none_at_each_length(data):
    for bits, d in ((12, 16), (32, 16), (64, 300), (128, 128)):
        M = 2 if bits == 12 else 8
        for name in methods.names():
            rows = list(methods.get(name)(Request(bits, (d,), M=M)))
            assert all(isinstance(row, Method) for row in rows), name
            assert {row.bits for row in rows if not row.reference} <= {bits}


@dataclass(frozen=True)
class Unheard:
    """An objective that nothing here knows."""

    title: ClassVar[str] = "Unheard"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ()

    def spec(self, *, unit, metric):
        return fpq.CodeSpec()


def test_code_shape__is_asked_of_the_objective():
    images, vectors = (3, 32, 32), (128,)
    for objective in (None, fpq.Reconstruction(), Unheard()):
        assert usual_lengths(images, objective) == (32, 64)
        assert usual_lengths(vectors, objective) == (64, 128)
        assert shape_of_codes(48, images, objective) == (8, 6)
        assert shape_of_codes(64, vectors, objective) == (8, 8)
    assert shape_of_learned_code(64, images, fpq.Contrastive()) == (16, 4)
    assert shape_of_learned_code(64, vectors, fpq.Contrastive()) == (8, 8)
    assert shape_of_codes(64, images, fpq.Contrastive()) == (8, 8)
    assert usual_lengths(images, fpq.DQN()) == (12, 24, 32, 48)
    assert usual_lengths(images, fpq.DPQ()) == (8, 16, 24, 32)
    assert shape_of_codes(12, images, fpq.DQN()) == (2, 6)
    assert shape_of_codes(24, images, fpq.DPQ()) == (3, 8)
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        shape_of_codes(12, images, fpq.DPQ())


# An index that exists ----------------------------------------------------------------------------


def given_at(path, n=300):
    """The row of an index at a path, for items of 16 values."""
    return given(opened(path), path, (16,), n)


def test_given__a_native_file_is_filled_or_taken_as_it_is(data, tmp_path):
    native = faiss.index_factory(16, "PQ4x4np")
    native.pq.cp.min_points_per_centroid = 1
    native.train(data.database)
    empty, full = tmp_path / "empty.index", tmp_path / "full.faiss"
    faiss.write_index(native, str(empty))
    native.add(data.database)
    faiss.write_index(native, str(full))
    rows = [given_at(path) for path in (empty, full)]
    assert rows[0].name == "IndexPQ (FAISS file empty.index)"
    results = run(data, rows, tmp_path / "out", k=10)
    assert {row.bytes_per_vector for row in results.rows} == {2}
    assert results.rows[0].metrics == results.rows[1].metrics
    expected = data.scores(native.search(data.queries, 10)[1], 10).per_query["map@10"].mean()
    assert results.rows[0].metrics["map@10"] == pytest.approx(expected, abs=0.02)  # ties
    native.add(data.database[:5])
    faiss.write_index(native, str(full))
    with pytest.raises(
        ValueError, match="300 items of the database, got 305 items in it: give it empty"
    ):
        given_at(full)


def test_given__a_bundle_is_filled_or_taken_as_it_is(data, make_model, tmp_path):
    index = fpq.LatentIndex(make_model((16,), 2, 4))
    index.description = "PQVAE2x4"
    fpq.write_index(index, tmp_path / "photos")
    row = given_at(tmp_path / "photos")
    assert row.name == "PQVAE2x4 (bundle photos)"
    assert (row.bits, row.searches) == (8, ("adc", "sdc"))
    results = run(data, [row], tmp_path / "out", k=10)
    index.add(data.database)
    fpq.write_index(index, tmp_path / "photos")
    again = run(data, [given_at(tmp_path / "photos")], tmp_path / "out2", k=10)
    assert [row.metrics for row in results.rows] == [row.metrics for row in again.rows]
    counts = codeword_counts(index, 2, 4)
    assert (counts.shape, counts.sum(axis=1).tolist()) == ((2, 16), [300, 300])


@pytest.mark.parametrize(
    ("ids", "shift", "message"),
    [
        (np.arange(300), 0, None),
        (
            np.arange(300)[::-1],
            0,
            r"under the ids 0 to 299, got \d+ others among 100 of them: give",
        ),
        (np.arange(300), 5, r"got \d+ others among 100 of them: give it empty"),
        (
            -2 - np.arange(300),
            0,
            "ids 0 to 299: expected ids that are stored, got 0; give it empty",
        ),
    ],
    ids=["places", "reversed", "other items", "negative"],
)
def test_given__a_filled_bundle_has_the_items_under_their_places(
    data, make_model, tmp_path, ids, shift, message
):
    native = faiss.IndexIDMap2(faiss.IndexPQ(8, 2, 4))
    index = fpq.LatentIndex(make_model((16,), 2, 4), faiss_index=native)
    index.add_with_ids(np.roll(data.database, shift, axis=0), ids)
    fpq.write_index(index, tmp_path / "b")
    row = given_at(tmp_path / "b").build((16,))
    if message is None:
        row.add(data.database)
        return
    with pytest.raises(ValueError, match=message):  # and no results that mean other items
        row.add(data.database)


@pytest.mark.parametrize(
    ("factory", "search"), [("IVF8,PQ4x4np", "nprobe=1"), ("HNSW8,Flat", "efSearch=16")]
)
def test_given__says_how_far_a_native_index_searches(data, tmp_path, factory, search):
    native = faiss.index_factory(16, factory)
    native.train(data.database)
    native.add(data.database)
    faiss.write_index(native, str(tmp_path / "x.index"))
    (row,) = run(data, [given_at(tmp_path / "x.index")], tmp_path / "out", k=200).rows
    assert row.search == search
    assert 0 < row.metrics["recall@200"] < 1  # misses are no error


def test_given__rejects_other_items_and_other_files(data, make_model, tmp_path):
    fpq.write_index(fpq.LatentIndex(make_model((8,), 2, 4)), tmp_path / "b")
    with pytest.raises(ValueError, match=r"items of shape \(8,\) for .*, got \(16,\)"):
        given_at(tmp_path / "b")
    faiss.write_index(faiss.IndexFlatL2(8), str(tmp_path / "flat.index"))
    with pytest.raises(ValueError, match="expected items of 8 values"):
        given_at(tmp_path / "flat.index")
    (tmp_path / "text.index").write_text("no index")
    with pytest.raises(ValueError, match=r"cannot read .* as a FAISS index"):
        given_at(tmp_path / "text.index")
    with pytest.raises(FileNotFoundError, match="missing does not exist; expected a bundle"):
        given_at(tmp_path / "missing")
    faiss.write_index(faiss.IndexPQ(16, 2, 4), str(tmp_path / "untrained.index"))
    with pytest.raises(ValueError, match="expected a trained index"):
        given_at(tmp_path / "untrained.index")


def test_rows_of__other_code_of_an_encoder_is_another_training(data, tmp_path, monkeypatch):
    def make(bias):
        def encoder(input_shape, latent_dim, *, width):
            return torch.nn.Linear(input_shape[0], latent_dim, bias=bias)

        return encoder

    module = types.ModuleType("of_somebody")
    monkeypatch.setitem(sys.modules, "of_somebody", module)
    found = []
    for encoder in (make(True), make(True), make(False), None):
        module.make = encoder
        name = None if encoder is None else "of_somebody:make"
        settings = CodeSettings(
            fpq.Reconstruction(), tmp_path, fpq.ModelConfig(encoder=name or "mlp", dsub=2)
        )
        row, _ = rows_of(data, names=["learned"], lengths=[16], learned=settings)
        found.append((row.finish.__self__.folder.name, job_key(data, row, "adc", 9, "")))
    assert found[0] == found[1]
    assert len(set(found)) == len(dict(found)) == 3
    assert found[3][0] == "pqvae-16"  # ours have no code in their names


def test_given__a_native_index_of_other_items_is_refused():
    x = np.random.default_rng(0).standard_normal((400, 8), dtype=np.float32)
    index = faiss.index_factory(8, "PQ4x4np")
    index.train(x)
    index.add(x[::-1].copy())
    with pytest.raises(ValueError, match="expected mine with the items of the database, under"):
        GivenIndex(index, "mine").add(x)
    index.reset()
    index.add(x)
    GivenIndex(index, "mine").add(x)
