"""The ann-benchmarks module: against a stand-in of its base class, and in the harness itself.

The harness is found by `import ann_benchmarks`, or in the folder that ANN_BENCHMARKS names.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae.native import faiss

DEFINITIONS = Path(__file__).parents[2] / "benchmarks" / "ann_benchmarks"
FOLDER = DEFINITIONS / "faiss_pqvae_ann"
D, NQ, K = 12, 20, 10
REFINED = "IVF{nlist},PQVAE{M}x4,RFlat"
SIZES = {"nlist": 2, "M": 4}
TRAINING = {"epochs": 1, "seed": 0, "precision": "float32", "device": "cpu"}
EXHAUSTIVE = {"nprobe": 2, "k_factor": 30}


def _vectors(n: int, seed: int) -> np.ndarray:
    """(n, D) float64, of very different lengths: cosines and distances give other neighbours."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, D)) * rng.uniform(0.2, 5, (n, 1))


def _neighbours(metric: str, x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Ids (nq, K) of the true neighbours, in float64."""
    if metric == "angular":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    distances = np.square(q[:, None] - x[None]).sum(-1)
    return np.argsort(distances, axis=1, kind="stable")[:, :K]


@pytest.fixture(scope="module")
def algorithm(behind: Callable[..., type]) -> type:
    """The class, over a stand-in for what ann-benchmarks's base class promises."""

    class BaseANN:
        def done(self) -> None: ...

    return behind("ann_benchmarks", BaseANN, FOLDER)


@pytest.fixture(scope="module", params=["euclidean", "angular"])
def fitted(request: pytest.FixtureRequest, algorithm: type) -> Any:
    algo = algorithm(request.param, REFINED, SIZES, TRAINING)
    x = _vectors(300, 0)
    algo.fit(x)
    np.testing.assert_array_equal(x, _vectors(300, 0))  # it is not the algorithm's to change
    return algo


# against the stand-in ----------------------------------------------------------------------------


def test_query__finds_the_true_neighbours_when_everything_is_refined(fitted: Any) -> None:
    x, q = _vectors(300, 0), _vectors(NQ, 1)
    fitted.set_query_arguments(EXHAUSTIVE)
    got = np.stack([fitted.query(v, K) for v in q])
    np.testing.assert_array_equal(got, _neighbours(fitted.metric, x, q))
    assert not np.array_equal(_neighbours("angular", x, q), _neighbours("euclidean", x, q))


def test_batch_query__answers_as_query_does(fitted: Any) -> None:
    q = _vectors(NQ, 2)
    fitted.set_query_arguments({"nprobe": 1, "k_factor": 2})
    fitted.batch_query(q, K)
    got = fitted.get_batch_results()
    assert len(got) == NQ
    for v, ids in zip(q, got, strict=True):
        np.testing.assert_array_equal(ids, fitted.query(v, K))


def test_query__returns_fewer_ids_instead_of_padding(fitted: Any) -> None:
    fitted.set_query_arguments({"nprobe": 1, "k_factor": 1})
    invlists = faiss.extract_index_ivf(fitted.native.base_index).invlists
    lists = [invlists.list_size(i) for i in range(2)]
    assert min(lists) > 0
    for v in _vectors(NQ, 3):
        ids = fitted.query(v, 300)
        assert len(ids) in lists
        assert len(set(ids)) == len(ids)
        assert ids.min() >= 0


def test_query__takes_raw_vectors_and_encodes_them_itself(fitted: Any) -> None:
    base = faiss.downcast_index(fitted.native.base_index)
    encoder = faiss.downcast_VectorTransform(base.chain.at(0))
    weights = faiss.vector_to_array(encoder.A)
    fitted.set_query_arguments({"nprobe": 1, "k_factor": 1})
    q = _vectors(NQ, 4)
    before = [fitted.query(v, K) for v in q]
    faiss.copy_array_to_vector(np.zeros_like(weights), encoder.A)
    try:
        after = [fitted.query(v, K) for v in q]
    finally:
        faiss.copy_array_to_vector(weights, encoder.A)
    # With an encoder that makes one latent of everything, every query visits the same candidates.
    assert len({frozenset(ids) for ids in after}) == 1
    assert len({frozenset(ids) for ids in before}) > NQ / 2


def test_get_additional__tells_bytes_and_settings(fitted: Any) -> None:
    fitted.set_query_arguments(EXHAUSTIVE)
    told = fitted.get_additional()
    # Two bytes of codes and one of the list's number; float32 vectors for the second look.
    assert (told["code_bytes"], told["refine_bytes"]) == (3, 4 * D)
    assert told["encoder_s"] > 0
    assert 4 * D * D < told["model_bytes"] < 4 * 4 * D * D + 10_000  # a matrix, and little beside
    assert str(fitted) == "FaissPQVAE(IVF2,PQVAE4x4,RFlat, nprobe=2, k_factor=30)"
    json.dumps(told)  # plain values, as HDF5's attributes want them


def test_threads__are_one_for_queries_and_all_for_the_rest(
    algorithm: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: asked.append(("torch", n)))
    monkeypatch.setattr(faiss, "omp_set_num_threads", lambda n: asked.append(("faiss", n)))
    algo = algorithm("euclidean", "PQVAE{M}x4", {"M": 2}, TRAINING)

    def asked_by(call: Any, *arguments: Any) -> list[int]:
        asked.clear()
        call(*arguments)
        assert asked[::2] == [("torch", n) for _, n in asked[1::2]]
        return [n for name, n in asked if name == "faiss"]

    assert asked_by(algo.fit, _vectors(100, 0)) == [3, 1]
    assert asked_by(algo.query, _vectors(1, 5)[0], K) == []
    assert asked_by(algo.batch_query, _vectors(2, 5), K) == [3, 1]
    assert asked_by(algo.done) == [3]


def test_set_query_arguments__refuses_what_the_index_does_not_have(algorithm: type) -> None:
    algo = algorithm("euclidean", "PQVAE{M}x4", {"M": 2}, TRAINING)
    algo.fit(_vectors(100, 0))
    for name in ("k_factor", "nprobe", "efSearch"):
        with pytest.raises(ValueError, match=f"PQVAE2x4 has no {name} to set"):
            algo.set_query_arguments({name: 2})
    assert len(algo.query(_vectors(1, 5)[0], K)) == K


def test_fit__refuses_a_second_look_that_faiss_cannot_take(algorithm: type) -> None:
    algo = algorithm("euclidean", "PQVAE2x4,RDecoder", {}, TRAINING)
    with pytest.raises(ValueError, match="FAISS cannot run the decoder"):
        algo.fit(_vectors(100, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hamming", "PQVAE4"), "expected metric of .* got .'hamming'"),
        (("euclidean", "PQVAE{M}"), r"expected sizes for \['M'\] .* got \[\]"),
        (("euclidean", "PQVAE4", {"M": 4}), r"expected sizes for \[\] .* got \['M'\]"),
        (("euclidean", "PQVAE4", {}, {"epoch": 1}), r"expected training settings .* \['epoch'\]"),
        (("euclidean", "PQVAE4", {}, {"epochs": 0}), "expected epochs >= 1"),
    ],
)
def test_constructor__refuses(algorithm: type, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm(*arguments)


def test_query__refuses_before_fit_and_settings_it_does_not_know(algorithm: type) -> None:
    algo = algorithm("euclidean", "PQVAE4")
    with pytest.raises(ValueError, match="expected a call of fit before"):
        algo.query(np.zeros(D), K)
    with pytest.raises(ValueError, match=r"expected query settings .* got \['probes'\]"):
        algo.set_query_arguments({"probes": 1})


# in the harness ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harness() -> Path:
    """The folder of ann-benchmarks: with run.py, logging.conf and the package."""
    if "ANN_BENCHMARKS" in os.environ:
        folder = Path(os.environ["ANN_BENCHMARKS"])
        assert (folder / "run.py").is_file(), f"no run.py of ann-benchmarks in {folder}"
        return folder
    spec = importlib.util.find_spec("ann_benchmarks")
    if spec is None or spec.origin is None:
        pytest.skip("ann-benchmarks is not here: ANN_BENCHMARKS names its folder")
    return Path(spec.origin).parents[1]


def _run(harness: Path, cwd: Path, *command: str) -> str:
    path = [str(harness), str(DEFINITIONS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_harness__makes_every_algorithm_that_the_definitions_name(
    harness: Path, tmp_path: Path
) -> None:
    script = """
import json, sys
from ann_benchmarks.definitions import algorithm_status, get_definitions, instantiate_algorithm
from faiss_pqvae import index_factory

told = []
for metric in ("euclidean", "angular"):
    found = get_definitions(100, "float", metric, 10, sys.argv[1])
    for definition in found:
        algo = instantiate_algorithm(definition)
        index_factory(100, algo.description, algo.METRICS[metric])
        for settings, in definition.query_argument_groups:
            assert set(settings) <= set(algo.QUERY_SETTINGS), settings
        told.append([metric, definition.algorithm, algorithm_status(definition).name, str(algo)])
print(json.dumps(told))
"""
    lines = _run(harness, tmp_path, "-c", script, str(DEFINITIONS)).splitlines()
    made = json.loads(lines[-1])
    assert {status for _, _, status, _ in made} == {"AVAILABLE"}
    for metric in ("euclidean", "angular"):
        names = {name for each, name, _, _ in made if each == metric}
        assert names == {f"faiss-pqvae{kind}" for kind in ("", "-ivf", "-hnsw", "-smoke")}
    assert len({tuple(each) for each in made}) == len(made)


@pytest.mark.timeout(600)
def test_harness__runs_the_module_out_of_tree(harness: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "logging.conf").write_bytes((harness / "logging.conf").read_bytes())
    (tmp_path / "data").mkdir()
    # Small data of our own, under a name that the harness knows; it then downloads nothing.
    name = "random-xs-20-angular"
    x, q = _vectors(400, 0), _vectors(NQ, 1)
    true = _neighbours("angular", x, q)
    x_unit, q_unit = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    with h5py.File(tmp_path / "data" / f"{name}.hdf5", "w") as file:
        file.attrs.update({"distance": "angular", "point_type": "float", "type": "dense"})
        file.attrs["dimension"] = D
        file["train"], file["test"], file["neighbors"] = x, q, true
        file["distances"] = 1 - (q_unit[:, None] * x_unit[true]).sum(-1)
    options = ["--algorithm", "faiss-pqvae-smoke", "--run-disabled", "--runs", "1"]
    folders = ["--dataset", name, "--definitions", str(DEFINITIONS)]
    # On a busy machine its worker can look into the queue before the definition has arrived
    # there, and stop: the harness then ran nothing, and says nothing.
    for _ in range(5):
        said = _run(harness, tmp_path, str(harness / "run.py"), "--local", *folders, *options)
        if "Trying to instantiate" in said:
            break

    paths = sorted((tmp_path / "results" / name / "10" / "faiss-pqvae-smoke").glob("*.hdf5"))
    assert len(paths) == 2, said  # a worker that fails does not fail the harness
    recalls = []
    for path in paths:
        with h5py.File(path) as file:
            told, times = dict(file.attrs), file["times"][:]
            pairs = zip(file["neighbors"][:], true, strict=True)
            recalls.append(np.mean([np.isin(got, ids).mean() for got, ids in pairs]))
        assert times.shape == (NQ,)
        assert told["distance"] == "angular"
        assert told["code_bytes"] == 3
        # Every query was encoded within its time, and that takes at least this long.
        assert 0 < told["encoder_s"] < times.mean()
    one_list, all_lists = recalls
    assert 0.3 < one_list <= all_lists
    assert all_lists > 0.5  # by chance, a second look at 100 of 400 would find a quarter
