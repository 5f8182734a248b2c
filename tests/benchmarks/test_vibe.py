"""The VIBE module, against a stand-in of its base class; config.yml as VIBE reads it."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from faiss_pqvae import LatentIndex
from faiss_pqvae.index.grammar import parse
from faiss_pqvae.native import faiss

FOLDER = Path(__file__).parents[2] / "benchmarks" / "vibe" / "faiss_pqvae"
CONFIG = yaml.safe_load((FOLDER / "config.yml").read_text())
METRICS = ("euclidean", "cosine", "normalized", "ip")  # of VIBE's floats
D, N, NQ, K = 12, 300, 20, 10
BRIEF = 0.002  # minutes
REFINED = "IVF4,PQVAE4x4,RFlat"
EXHAUSTIVE = (N / K, 4)


def _vectors(metric: str, n: int, seed: int) -> np.ndarray:
    """(n, D) float32, of very different lengths where these may differ."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D)) * rng.uniform(0.2, 5, (n, 1)) + 0.1
    x /= np.linalg.norm(x, axis=1, keepdims=True) if metric == "normalized" else 1
    return x.astype(np.float32)


def _neighbours(metric: str, x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Ids (nq, K) of the true neighbours, in float64."""
    x, q = np.float64(x), np.float64(q)
    if metric == "euclidean":
        return np.argsort(np.square(q[:, None] - x[None]).sum(-1), axis=1)[:, :K]
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.argsort(-q @ x.T, axis=1)[:, :K]


def _definitions() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(definition, run group) of config.yml."""
    return [(each, run) for each in CONFIG["float"]["any"] for run in each["run_groups"].values()]


def _grid(values: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    """As VIBE expands `args` and `query_args`: every combination, in their order."""
    return [*itertools.product(*values.values())]


@pytest.fixture(scope="module")
def algorithm(behind: Callable[..., type]) -> type:
    """The class, over a stand-in for what VIBE's base class promises."""

    class BaseANN:
        def get_memory_usage(self) -> float:
            return 0.0

        def get_additional(self) -> dict[str, Any]:
            return {}

    return behind("vibe", BaseANN, FOLDER)


@pytest.fixture(scope="module", params=METRICS)
def fitted(request: pytest.FixtureRequest, algorithm: type) -> Any:
    algo = algorithm(request.param, REFINED, BRIEF)
    x = _vectors(request.param, N, 0)
    algo.fit(x)
    np.testing.assert_array_equal(x, _vectors(request.param, N, 0))  # VIBE's, not to be changed
    return algo


# config.yml --------------------------------------------------------------------------------------


def test_config__has_what_vibe_asks_for() -> None:
    names = [each["name"] for each, _ in _definitions()]
    assert names == ["pqvae", "ivf-pqvae", "hnsw-pqvae", "pqvae-smoke"]
    for each, run in _definitions():
        assert each["module"] == f"vibe.algorithms.{FOLDER.name}"
        assert each["singularity_image"] == FOLDER.name
        assert each["constructor"] == "FaissPQVAE"
        assert each["base_args"] == ["@metric"]
        assert each["ood"] is True
        assert each["disabled"] is (each["name"] == "pqvae-smoke")
        assert len(_grid(run["args"])) <= 20
        assert len(_grid(run["query_args"])) <= 60


def test_config__every_index_is_made(algorithm: type) -> None:
    told = set()
    for metric, (_, run) in itertools.product(METRICS, _definitions()):
        for arguments in _grid(run["args"]):
            algo = algorithm(metric, *arguments)
            assert parse(algo.description).text == algo.description
            told.add((metric, str(algo)))
    assert len(told) == len(METRICS) * sum(len(_grid(run["args"])) for _, run in _definitions())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("number", range(len(_definitions())))
def test_config__every_run_group_builds_and_answers(
    algorithm: type, number: int, metric: str
) -> None:
    _, run = _definitions()[number]
    x, q = _vectors(metric, N, 0), _vectors(metric, NQ, 1)
    description, _ = _grid(run["args"])[0]
    for large, small in ((r"IVF\d+", "IVF4"), (r"PQVAE\d+x\d", "PQVAE4x4")):
        description = re.sub(large, small, description)
    algo = algorithm(metric, description, BRIEF)
    algo.fit(x)
    found, most = [], 4 if "IVF4" in description else N  # as many lists, or items, as there are
    for settings in _grid(run["query_args"]):
        algo.set_query_arguments(*settings[:1], *(min(each, most) for each in settings[1:]))
        ids = [algo.query(v, K) for v in q]
        assert all(0 < len(each) == len(set(each)) <= K for each in ids)
        assert all(each.min() >= 0 for each in ids)
        pairs = zip(ids, _neighbours(metric, x, q), strict=True)
        found.append(np.mean([np.isin(each, true).sum() / K for each, true in pairs]))
    assert found[-1] > max(found[0] + 0.05, 0.6)  # the grid goes from fast to good


# the class ---------------------------------------------------------------------------------------


def test_query__finds_the_true_neighbours_when_everything_is_refined(fitted: Any) -> None:
    x, q = _vectors(fitted.metric, N, 0), _vectors(fitted.metric, NQ, 1)
    fitted.set_query_arguments(*EXHAUSTIVE)
    got = np.stack([fitted.query(v, K) for v in q])
    np.testing.assert_array_equal(got, _neighbours(fitted.metric, x, q))


def test_query__returns_fewer_ids_instead_of_padding(fitted: Any) -> None:
    fitted.set_query_arguments(1, 1)
    invlists = faiss.extract_index_ivf(fitted.native.base_index).invlists
    lists = [invlists.list_size(i) for i in range(4)]
    assert sum(lists) == N
    for v in _vectors(fitted.metric, NQ, 3):
        ids = fitted.query(v, N)
        assert len(ids) in lists
        assert len(set(ids)) == len(ids)
        assert ids.min() >= 0


def test_query__takes_raw_vectors_and_encodes_them_itself(fitted: Any) -> None:
    base = faiss.downcast_index(fitted.native.base_index)
    assert isinstance(base, faiss.IndexPreTransform)
    assert base.d == D


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_fit_ood__hands_the_queries_to_the_training(
    algorithm: type, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    train = LatentIndex.train

    def watched(self: LatentIndex, x: Any, *, queries: Any) -> None:
        train(self, x, queries=queries)
        seen.append((queries, self.history[-1]["queries"], self.model.query_map))

    monkeypatch.setattr(LatentIndex, "train", watched)
    x, learn, q = (_vectors(metric, n, seed) for n, seed in ((N, 0), (100, 1), (NQ, 2)))
    algo = algorithm(metric, REFINED, BRIEF)
    algo.fit_ood(x, learn, np.zeros((100, 100), np.int64))
    np.testing.assert_array_equal(learn, _vectors(metric, 100, 1))
    ((queries, told, query_map),) = seen
    lengths = np.linalg.norm(learn, axis=1, keepdims=True) if metric == "cosine" else 1
    np.testing.assert_allclose(queries, learn / lengths, atol=1e-6)
    assert told["queries"] + told["held_out"] == 100
    assert algo.get_additional()["maps_queries"] is (query_map is not None)
    algo.set_query_arguments(*EXHAUSTIVE)
    got = np.stack([algo.query(v, K) for v in q])
    np.testing.assert_array_equal(got, _neighbours(metric, x, q))


def test_get_additional__tells_bytes_and_settings(fitted: Any) -> None:
    fitted.set_query_arguments(*EXHAUSTIVE)
    told = fitted.get_additional()
    # Two bytes of codes and one of the list's number; float32 vectors for the second look.
    assert (told["code_bytes"], told["refine_bytes"]) == (3, 4 * D)
    assert told["maps_queries"] is False
    assert (
        str(fitted) == "FaissPQVAE(IVF4,PQVAE4x4,RFlat, minutes=0.002, k_factor_rf=30.0, nprobe=4)"
    )
    json.dumps(told)  # plain values, as HDF5's attributes want them


def test_fit__refuses_a_second_look_that_faiss_cannot_take(algorithm: type) -> None:
    with pytest.raises(UserWarning, match="FAISS cannot run the decoder"):
        algorithm("euclidean", "PQVAE2x4,RDecoder", BRIEF).fit(_vectors("euclidean", N, 0))


def test_constructor__refuses(algorithm: type) -> None:
    with pytest.raises(ValueError, match=r"expected metric of .* got 'hamming'"):
        algorithm("hamming", REFINED, 1)
    with pytest.raises(ValueError, match="expected budget_minutes > 0"):
        algorithm("ip", REFINED, 0)


def test_set_query_arguments__refuses_what_the_index_does_not_have(algorithm: type) -> None:
    algo = algorithm("ip", "PQVAE2x4", BRIEF)
    algo.fit(_vectors("ip", N, 0))
    with pytest.raises(RuntimeError, match="k_factor_rf"):
        algo.set_query_arguments(2)
