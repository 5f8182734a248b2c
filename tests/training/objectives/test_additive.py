"""Vectors: sums of codewords that tables compare exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import timeless

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import Additive, TrainingConfig, Views, fit, kept, new_model
from faiss_pqvae.training.objectives import query_map, sums

D, M, NBITS = 8, 4, 3
SMALL = Additive(rounds=3, effort=4, filled=0)
TRAINING = TrainingConfig(device="cpu")


def vectors(n=600, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


def model(metric=None, **config):
    return new_model((D,), M, NBITS, ModelConfig(**config), objective=SMALL, metric=metric)


def trained(x, settings=SMALL, training=TRAINING, metric=None, **options):
    net = model(metric)
    return net, fit(net, x, training, objective=settings, progress=False, **options)


def error(net, x):
    x = torch.from_numpy(x)
    code = net.code_decoder
    return float((code.decode(code.choose(x, 8)) - x).square().mean() / x.var(0).mean())


def test_fit__rounds_lower_the_error_of_items_seen_and_unseen():
    start, _ = trained(vectors(), replace(SMALL, rounds=0))
    net, history = trained(vectors(), replace(SMALL, rounds=8))
    errors = history[0]["errors"]
    assert len(errors) == 8
    assert errors == sorted(errors, reverse=True)
    assert error(net, vectors(seed=1)) < 0.95 * error(start, vectors(seed=1))


def test_fit__takes_the_penalty_that_finds_most_neighbours():
    net, history = trained(vectors())
    recalls = history[0]["validation_recall@10"]
    assert len(recalls) == 5
    assert history[0]["penalty"] == float(net.code_decoder.penalty)
    assert history[0]["penalty"] == 0.25 * recalls.index(max(recalls))
    assert history[-1]["validation_loss"] == pytest.approx(1 - max(recalls))


def test_fit__by_inner_products_has_codewords_in_all_codes():
    net, history = trained(vectors(), metric="inner_product")
    assert len(net.code_decoder.codebooks) == M
    assert len(history[0]["validation_recall@10"]) == 1


def test_fit__repeats_exactly():
    (a, first), (b, second) = (trained(vectors()) for _ in range(2))
    assert timeless(first) == timeless(second)
    assert a.fingerprint() == b.fingerprint()


@pytest.mark.parametrize(("at", "times"), [("codebooks", 1), ("rounds", 2), ("checkpoint", 1)])
def test_fit__goes_on_after_a_kill_along_the_same_trajectory(tmp_path, at, times):
    class KilledError(Exception):
        pass

    whole, history = trained(vectors())
    put, left = kept.Kept.put, [times]

    def dying(self, name, state):
        put(self, name, state)
        left[0] -= name == at
        if not left[0]:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept.Kept, "put", dying)
        with pytest.raises(KilledError):
            trained(vectors(), folder=tmp_path)
    net, again = trained(vectors(), folder=tmp_path)
    assert net.fingerprint() == whole.fingerprint()
    assert timeless(again) == timeless(history)


def test_fit__starts_at_the_codebooks_that_are_made_for_it():
    asked = []

    def codebooks(x, *, M, nbits):
        asked.append((x.shape, M, nbits))
        return np.random.default_rng(0).standard_normal((M, 2**nbits, D)).astype(np.float32)

    net, _ = trained(vectors(), replace(SMALL, rounds=0), codebooks=codebooks)
    assert asked == [((570, D), M - 1, NBITS)]
    expected = codebooks(np.zeros((1, D)), M=M - 1, nbits=NBITS)
    np.testing.assert_array_equal(net.code_decoder.codebooks.detach(), expected)


def test_fit__ends_its_rounds_when_a_budget_is_over(monkeypatch, tmp_path):
    """Also one that was interrupted, whose seconds count."""

    class KilledError(Exception):
        pass

    now, put = [0.0], kept.Kept.put

    def slowly(self, name, state):
        now[0] += 30
        put(self, name, state)
        if name == "rounds" and state["rounds"] == 2 and self.folder is not None:
            raise KilledError

    monkeypatch.setattr(sums.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(kept.Kept, "put", slowly)
    training = replace(TRAINING, budget_minutes=2.0)
    settings = replace(SMALL, rounds=8)
    _, history = trained(vectors(), settings, training=training)
    assert len(history[0]["errors"]) == 3  # the start's codebooks took 30 seconds, too
    with pytest.raises(KilledError):
        trained(vectors(), settings, training=training, folder=tmp_path)
    monkeypatch.undo()
    now[0] += 1000  # between the two
    monkeypatch.setattr(sums.time, "monotonic", lambda: now[0])
    _, again = trained(vectors(), settings, training=training, folder=tmp_path)
    assert len(again[0]["errors"]) == 8  # no second more has passed
    assert history[0]["errors"] == again[0]["errors"][:3]


class Centroids:
    """Two coarse centroids, far from each other."""

    settings = "two"

    def __call__(self):
        return np.stack([np.full(D, 4.5, np.float32), np.full(D, 5.5, np.float32)])


def test_fit__behind_coarse_centroids_learns_what_they_leave_over():
    net, history = trained(vectors(), coarse=Centroids())
    assert net.spec.by_residual
    x, centroids = torch.from_numpy(vectors()), torch.from_numpy(Centroids()())
    left = x - centroids[torch.cdist(x, centroids).argmin(1)]
    assert float(net.code_decoder.centre.abs().max()) < 0.2
    code = net.code_decoder
    assert (code.decode(code.choose(left, 8)) - left).square().mean() < 0.2 * left.square().mean()
    assert history[0]["validation_recall@10"][0] > 0.5


def test_networks__refuses_what_is_not_for_vectors():
    with pytest.raises(ValueError, match="expected vectors"):
        new_model((1, 8, 8), M, NBITS, objective=SMALL)
    with pytest.raises(ValueError, match="no encoder or decoder"):
        new_model((D,), M, NBITS, ModelConfig(encoder="mlp"), objective=SMALL)
    with pytest.raises(ValueError, match=r"dsub=None, or d \+ 1 = 9, .* got 3"):
        new_model((D,), M, NBITS, ModelConfig(dsub=3), objective=SMALL)
    assert new_model((D,), M, NBITS, ModelConfig(dsub=D + 1), objective=SMALL).config.dsub == D + 1
    with pytest.raises(ValueError, match="at most 8 bits"):
        new_model((D,), M, 9, objective=SMALL)
    with pytest.raises(ValueError, match="M >= 2"):
        new_model((D,), 1, NBITS, objective=SMALL)
    assert new_model((D,), 1, NBITS, objective=SMALL, metric="inner_product").M == 1


def test_settled__refuses_views_and_a_pretrained_model():
    with pytest.raises(ValueError, match="no views"):
        trained(vectors(), training=replace(TRAINING, views=Views(noise=0.1)))
    with pytest.raises(ValueError, match="no pretrained model"):
        trained(vectors(), pretrained=trained(vectors())[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("items", 1),
        ("start_items", 0),
        ("rounds", -1),
        ("sweeps", 0),
        ("effort", -1),
        ("mixing", 2),
    ],
)
def test_additive__refuses_wrong_settings(name, value):
    with pytest.raises(ValueError, match=name):
        Additive(**{name: value})


def test_fit__real_queries_get_a_map_where_those_held_out_find_more(monkeypatch):
    monkeypatch.setattr(query_map, "_ROUNDS", 3)
    queries = 0.5 * vectors(400, 7) + 4
    net, history = trained(vectors(), queries=queries)
    found = history[-1]["queries"]
    assert (found["queries"], found["held_out"]) == (280, 120)
    assert found["kept"] == (net.query_map is not None)
    without, _ = trained(vectors())
    for name, value in without.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
