"""Interruptions at every phase of a training: the same call goes on, to the same bits."""

import functools
import itertools
import logging
import math
import time

import numpy as np
import pytest
import torch

from faiss_pqvae import (
    Additive,
    Backbone,
    LatentIndex,
    ModelConfig,
    Ranking,
    TrainingConfig,
    index_factory,
    read_index,
    write_index,
)
from faiss_pqvae.data import batches
from faiss_pqvae.index import coarse, factory, opq, transforms
from faiss_pqvae.index import training as index_training
from faiss_pqvae.native import faiss
from faiss_pqvae.training import loop
from faiss_pqvae.training.objectives import (
    additive,
    linear_start,
    neighbours,
    query_map,
    ranking,
    sums,
)

D = 8
SMALL = Ranking(anchors=64, sample=64, pool=16, rounds=3, epochs=2, lr=0.01)
TRAINING = TrainingConfig(epochs=2, batch_size=32, device="cpu", validation_fraction=0.2)


@functools.cache
def vectors(n=300):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, D)) @ np.diag(np.arange(1, D + 1))).astype(np.float32)


def trained(folder=None, description="IVF4,PQVAE2x3", x=None):
    index = index_factory(D, description, training=TRAINING, objective=SMALL)
    index.train(vectors() if x is None else x, folder=folder, progress=False)
    return index


@functools.cache
def uninterrupted(description="IVF4,PQVAE2x3"):
    return state(trained(description=description))


def state(index):
    native = faiss.serialize_index(index.faiss_index).tobytes()
    transforms = None if index.transforms is None else index.transforms.as_bytes()
    return index.model.fingerprint(), native, transforms


class Interrupts:
    """A function that Ctrl-C interrupts when it is called for the nth time; it counts calls."""

    def __init__(self, monkeypatch, owner, name, call):
        self.function, self.call, self.called = getattr(owner, name), call, 0
        monkeypatch.setattr(owner, name, self.run(self))

    @staticmethod
    def run(own):
        def counted(*arguments, **options):
            own.called += 1
            if own.called == own.call:
                raise KeyboardInterrupt
            return own.function(*arguments, **options)

        return counted


# What is interrupted when it is called for the nth time, and how often the next call calls it.
OF_CODES = [
    (batches, "read_rows", 1, 1),  # the key
    (neighbours, "nearest", 1, 2),
    (neighbours, "nearest", 2, 2),
    (opq, "_go_on", 4, 18),  # of 20 parts of OPQ three are kept; one call begins with them
    (opq, "_centroids", 22, 2),  # 20 parts, one of three codebooks
    (neighbours.Neighbours, "hits", 2, 7),
    (linear_start, "_means", 2, 2),
    (loop.Trainer, "_step", 1, 4),
    (loop.Trainer, "_step", 4, 2),  # the last epoch again
    (ranking.VectorTask, "validate", 2, 1),
    (loop.Trainer, "_keep_trained", 1, 1),
]
OF_RESIDUALS = [
    (batches, "read_rows", 1, 1),
    (coarse, "learn_coarse", 1, 1),
    (coarse, "write_checked", 1, 1),
    (coarse, "read_checked", 1, 1),
    (neighbours, "nearest", 3, 3),
    (opq, "_go_on", 4, 18),
    (neighbours.Neighbours, "hits", 2, 5),
    (linear_start, "_means", 2, 2),
    (loop.Trainer, "_keep_trained", 1, 1),
    (index_training, "inject_coarse", 1, 1),
]


@pytest.mark.parametrize(
    ("description", "owner", "name", "call", "made_again"),
    [
        *(("PQVAE2x3", *phase) for phase in OF_CODES),
        *(("IVF4,PQVAE2x3", *phase) for phase in OF_RESIDUALS),
        ("IVF4(IVF2,Flat),PQVAE2x3", index_training, "train_coarse", 1, 1),  # of latents
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_train__goes_on_from_every_phase(
    description, owner, name, call, made_again, monkeypatch, tmp_path
):
    expected = uninterrupted(description)
    with monkeypatch.context() as patch:
        Interrupts(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, description)
    counted = Interrupts(monkeypatch, owner, name, None)
    assert state(trained(tmp_path, description)) == expected
    assert counted.called == made_again or name == "read_rows"
    # What a trained model was learned behind stays, too.
    left = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    kept = ["coarse"] if description.startswith("IVF4,") else []
    assert left == [*kept, "log.jsonl", "trained.pt"]


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize(
    ("owner", "name", "call", "made_again"),
    [
        (factory, "residual_codebooks", 1, 1),
        (sums, "sweep", 2, 2),  # of three rounds
        (additive.AdditiveTask, "_judge", 1, 1),
        (loop.Trainer, "_keep_trained", 1, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_train__sums_go_on_from_every_phase(
    owner, name, call, made_again, in_folder, monkeypatch, tmp_path
):
    folder = tmp_path if in_folder else None

    def new():
        objective = Additive(rounds=3, effort=2, filled=500)
        return index_factory(D, "PQVAE3x3", training=TRAINING, objective=objective)

    expected, index = new(), new()
    expected.train(vectors(), progress=False)
    with monkeypatch.context() as patch:
        Interrupts(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            index.train(vectors(), folder=folder, progress=False)
    assert not index.is_trained
    counted = Interrupts(monkeypatch, owner, name, None)
    index.train(vectors(), folder=folder, progress=False)
    assert state(index) == state(expected)
    assert counted.called == (made_again if in_folder else {"sweep": 3}.get(name, 1))


def test_train__coarse_centroids_are_kept_and_not_learned_again(monkeypatch, tmp_path):
    first = state(trained(tmp_path))
    monkeypatch.setattr(coarse, "learn_coarse", pytest.fail)
    assert state(trained(tmp_path)) == first
    (path,) = tmp_path.glob("coarse-*")
    path.write_bytes(path.read_bytes()[:-1])  # damaged: they are learned anew
    monkeypatch.undo()
    assert state(trained(tmp_path)) == first


def test_train__lists_of_another_kind_are_refused_in_a_folder(monkeypatch, tmp_path):
    trained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for description in ("IVF5,PQVAE2x3", "PQVAE2x3"):
        with pytest.raises(ValueError, match="what is learned from besides the items"):
            trained(tmp_path, description)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_train__ctrl_c_names_the_phases_that_are_kept(monkeypatch, tmp_path):
    Interrupts(monkeypatch, linear_start, "_means", 1)
    with pytest.raises(KeyboardInterrupt) as stopped:
        trained(tmp_path)
    (note,) = stopped.value.__notes__
    assert note.startswith(f"{tmp_path} keeps of what precedes the training: neighbours, ")
    assert "rotation-of-OPQ-from-the-identity, codebooks-of-OPQ" in note


def test_train__another_training_s_phases_are_refused(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        Interrupts(patch, linear_start, "_means", 1)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = vectors().copy()
    other[123, 4] += 1
    with pytest.raises(ValueError, match=r"phase-neighbours.pt belongs .*the content of the items"):
        trained(tmp_path, x=other)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("description", ["IVF4,PQVAE2x3", "PCA4,PQVAE2x3", "PQVAE2x3,RFlat"])
def test_train__another_item_in_a_finished_folder_is_refused(description, tmp_path):
    trained(tmp_path, description)
    assert state(trained(tmp_path, description)) == uninterrupted(description)
    other = vectors().copy()
    other[-1, 0] += 1
    with pytest.raises(ValueError, match="the content of the items"):
        trained(tmp_path, description, x=other)


@pytest.mark.parametrize("damaged", [False, True])
def test_train__transforms_are_kept_and_not_learned_again(damaged, monkeypatch, tmp_path):
    description = "OPQ2_4,PQVAE2x3"
    expected, learned, train = uninterrupted(description), [], transforms._train
    monkeypatch.setattr(transforms, "_train", lambda *given: (learned.append(1), train(*given)))
    with monkeypatch.context() as patch:
        Interrupts(patch, neighbours, "nearest", 1)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, description)
    (kept,) = tmp_path.glob("transforms-*")
    if damaged:
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert state(trained(tmp_path, description)) == expected
    assert len(learned) == (2 if damaged else 1)


@pytest.mark.parametrize(
    ("description", "n", "expected"),
    [
        ("IVF4,PQVAE2x3", 155, "155 training items for 4 inverted lists are few: it goes on"),
        ("PQVAE2x3", 155, "124 training items for 8 codewords in a codebook are few: it goes on"),
    ],
)
def test_train__warns_of_too_few(description, n, expected, caplog, capfd):
    caplog.set_level(logging.WARNING)
    trained(x=vectors()[:n], description=description)
    assert any(message.startswith(expected) for message in caplog.messages)
    assert "WARNING clustering" not in capfd.readouterr().err  # once is enough


def test_train__opq_of_fewer_vectors_than_dimensions_is_an_error():
    """FAISS writes beyond its memory, which ends the process."""
    x = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    index = index_factory(400, "OPQ2_400,PQVAE2x2", training=TRAINING)
    with pytest.raises(ValueError, match="expected at least 400 vectors to train OPQ"):
        index.train(x, progress=False)


def test_train__every_phase_of_vectors_says_what_it_is_in_a_log(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "faiss_pqvae.progress")
    seconds = itertools.count(0.0, 40.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    index = index_factory(D, "PCA4,IVF4,PQVAE2x3,RFlat", training=TRAINING, objective=SMALL)
    index.train(vectors())
    records = [record for record in caplog.records if record.name == "faiss_pqvae.progress"]
    said = [record.getMessage().partition(":")[0] for record in records]
    assert [*dict.fromkeys(said)] == [
        *("reading training data", "training what refines", "training PCA4"),
        *("k-means of 4 inverted lists", "neighbours", "OPQ"),
        *("PQ", "encoding", "searching", "settling", "training"),
    ]


def asked(n=300):
    return 0.4 * vectors(n)[::-1] + 6


def test_train__queries_are_in_every_search_bundle_and_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(query_map, "_ROUNDS", 2)
    monkeypatch.setattr(query_map, "_CONVINCING", -math.inf)
    plain, index = (
        index_factory(D, "IVF4,PQVAE2x3", training=TRAINING, objective=SMALL) for _ in "ab"
    )
    plain.train(vectors(900), progress=False)
    index.train(vectors(900), queries=asked(), progress=False)
    assert index.history[-1]["queries"]["kept"]
    assert index.model.codebooks() == plain.model.codebooks()
    assert faiss.serialize_index(index.faiss_index).tobytes() == state(plain)[1]
    for each in (plain, index):
        each.add(vectors(900))
        each.nprobe = 4
    queries = asked(50)
    mapped = index.model.map_queries(torch.from_numpy(queries)).detach().numpy()
    D_, I_ = index.search(queries, 5)
    np.testing.assert_array_equal(I_, plain.search(mapped, 5)[1])
    assert (plain.search(queries, 5)[1] != I_).any()
    write_index(index, tmp_path)
    np.testing.assert_array_equal(read_index(tmp_path).search(queries, 5)[0], D_)
    index.reset()
    index.train(vectors(900), progress=False)  # anew, without
    assert index.model.fingerprint() == plain.model.fingerprint()


def _fit_that_sees(seen):
    class Fit:
        def check(self, n, **given):
            seen["given"] = given
            return {"queries": given["queries"]}

        def __call__(self, model, x, **options):
            seen.update(options)
            model.fitted.fill_(True)
            return []

    return Fit()


def test_train__queries_pass_front_and_transforms():
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    seen = {}
    front = Backbone(Doubled(), trainable=False)
    index = index_factory(D, "RR6,PQVAE2x3", encoder=front)
    index.fit = _fit_that_sees(seen)
    queries = asked(70)
    index.train(vectors(), queries=queries, progress=False)
    np.testing.assert_array_equal(seen["given"]["queries"], queries)
    expected = index.transforms.apply(torch.from_numpy(2 * queries))
    assert seen["queries"].shape == (70, 6)
    torch.testing.assert_close(seen["queries"][:], expected)


@pytest.mark.parametrize("front", [False, True])
def test_train__refuses_wrong_queries_before_anything_is_trained(front, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "__init__", pytest.fail)
    encoder = Backbone(torch.nn.Identity(), trainable=False) if front else None
    index = index_factory(D, "PQVAE2x3", training=TRAINING, objective=SMALL, encoder=encoder)
    queries = asked()
    queries[250, 3] = np.nan
    wrong = {
        "finite training queries, got NaN or infinity in row 250": queries,
        r"training queries of shape \(n, 8\), got \(300, 7\)": queries[:, 1:],
        "at least 40 training queries": asked(39),
    }
    for message, x in wrong.items():
        with pytest.raises(ValueError, match=message):
            index.train(vectors(), queries=x, progress=False)


@pytest.mark.parametrize("objective", ["reconstruction", "contrastive", "dqn"])
def test_train__queries_for_what_does_not_learn_from_them_raise(objective):
    code = "DQN" if objective == "dqn" else "PQVAE"
    index = index_factory(D, f"{code}2x3", objective=objective, model=ModelConfig(encoder="mlp"))
    with pytest.raises(ValueError, match=f"no queries for the objective '{objective}'"):
        index.train(vectors(), queries=asked(), progress=False)


def test_train__queries_for_a_model_that_is_trained_raise():
    model = trained(description="PQVAE2x3").model
    native = index_factory(D, "IVF4,PQVAE2x3").faiss_index
    native.by_residual = False
    index = LatentIndex(model, faiss_index=native)
    with pytest.raises(ValueError, match="expected no queries, got some: the model is trained"):
        index.train(vectors(), queries=asked(), progress=False)
