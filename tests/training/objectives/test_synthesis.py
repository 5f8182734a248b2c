"""Vectors: codes chosen against a deep decoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import timeless

from faiss_pqvae.model.additive import Lifted, lowered
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import Synthesis, TrainingConfig, Views, fit, kept, new_model
from faiss_pqvae.training.loop import Trainer
from faiss_pqvae.training.objectives import query_map, sums
from faiss_pqvae.training.objectives.synthesis import SynthesisTask

D, M, NBITS = 8, 3, 3
SMALL = Synthesis(batch_size=64, effort=2, final_effort=4, rounds=2, filled=0)
TRAINING = TrainingConfig(epochs=4, device="cpu", precision="float32")


def vectors(n=600, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


def model(metric=None, **config):
    return new_model((D,), M, NBITS, ModelConfig(width=8, **config), objective=SMALL, metric=metric)


def trained(x, settings=SMALL, training=TRAINING, metric=None, **options):
    net = model(metric)
    return net, fit(net, x, training, objective=settings, progress=False, **options)


def error(net, x):
    x = torch.from_numpy(x)
    decoded = net.code_decoder.decode(net.code_decoder.choose(x, 8))
    return float((decoded - x).square().mean() / x.var(0).mean())


def test_fit__gives_items_that_it_has_not_seen_back_better_than_its_start_does():
    x = vectors()
    stay, _ = trained(x, replace(SMALL, lr=0.0))
    learned, history = trained(x, replace(SMALL, lr=1e-2), replace(TRAINING, epochs=24))
    unseen = vectors(seed=1)
    assert error(learned, unseen) < 0.9 * error(stay, unseen)
    start, *epochs, end = history
    assert start["start"] == "k-means"
    assert end["validation_loss"] == min(event["validation_loss"] for event in epochs)
    assert all(0 <= event["validation_recall@1"] <= 1 for event in epochs)


def test_fit__leaves_tables_that_stand_for_the_codes():
    net, _ = trained(vectors())
    x, code = torch.from_numpy(vectors(seed=1)), net.code_decoder
    lifted = Lifted(net.quantizer.codewords.detach(), code.offset)
    sums, lengths = lowered(lifted, code.centre).sums(code.choose(x, 8))
    about = x - code.centre
    assert float((sums - about).square().mean()) < 0.5 * float(about.square().mean())
    wanted = code.table_shrinks * about.square().sum(1)
    assert np.corrcoef(lengths, wanted)[0, 1] > 0.2
    assert 0.7 <= float(code.shrinks) <= 1
    assert 0.7 <= float(code.table_shrinks) <= 1


def test_fit__by_inner_products_shrinks_nothing():
    net, _ = trained(vectors(), metric="inner_product")
    code = net.code_decoder
    assert (float(code.shrinks), float(code.table_shrinks), float(code.offset)) == (1, 1, 0)


def test_fit__repeats_exactly():
    (a, first), (b, second) = (trained(vectors()) for _ in range(2))
    assert timeless(first) == timeless(second)
    assert a.fingerprint() == b.fingerprint()


class Centroids:
    """Two coarse centroids, far from each other."""

    settings = "two"

    def __call__(self):
        return np.stack([np.full(D, 4.5, np.float32), np.full(D, 5.5, np.float32)])


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_fit__behind_coarse_centroids_learns_what_they_leave_over(metric):
    net, history = trained(vectors(), metric=metric, coarse=Centroids())
    assert net.spec.by_residual
    x, centroids = torch.from_numpy(vectors(seed=1)), torch.from_numpy(Centroids()())
    nearest = torch.cdist(x, centroids).argmin(1) if metric == "l2" else (x @ centroids.T).argmax(1)
    left, code = x - centroids[nearest], net.code_decoder
    decoded = code.decode(code.choose(left, 8))
    assert (decoded - left).square().mean() < 0.5 * left.var(0).mean()
    if metric == "l2":  # by inner products a few long items are the nearest of all
        assert all(event["validation_recall@1"] > 0.2 for event in history[1:-1])


def test_fit__recalls_are_those_of_whole_vectors():
    """Of centroids that leave nothing over, everything is found, whatever is coded."""

    class All(Centroids):
        def __call__(self):
            return vectors()

    _, history = trained(vectors(), coarse=All())
    assert [event["validation_recall@1"] for event in history[1:-1]] == [1] * TRAINING.epochs


def test_fit__other_coarse_centroids_are_refused_in_a_folder(tmp_path):
    class Others(Centroids):
        settings = "others"

    training = replace(TRAINING, epochs=1)
    trained(vectors(), training=training, coarse=Centroids(), folder=tmp_path)
    for wrong in ({"coarse": Others()}, {}):
        with pytest.raises(ValueError, match="what is learned from besides the items"):
            trained(vectors(), training=training, folder=tmp_path, **wrong)


@pytest.mark.parametrize("coarse", [None, Centroids()])
@pytest.mark.parametrize("at", ["neighbours", "codebooks", "rounds", "codes", 3, 9, 20])
def test_fit__goes_on_after_a_kill_along_the_same_trajectory(tmp_path, at, coarse):
    """Within a phase before the first step, or within steps, whose codes are in the checkpoint."""

    class KilledError(Exception):
        pass

    x, training = vectors(), replace(TRAINING, checkpoint_every=2)
    whole, history = trained(x, training=training, coarse=coarse)
    put = kept.Kept.put
    steps = []

    def dying(self, name, state):
        put(self, name, state)
        steps.append(state.get("step", 0))
        if name == at or (isinstance(at, int) and steps[-1] >= at):
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept.Kept, "put", dying)
        with pytest.raises(KilledError):
            trained(x, training=training, folder=tmp_path, coarse=coarse)
    net, again = trained(x, training=training, folder=tmp_path, coarse=coarse)
    assert net.fingerprint() == whole.fingerprint()
    assert timeless(again) == timeless(history)


def test_fit__measures_the_faster_precision_once(tmp_path, monkeypatch):
    """Beside the codes that were chosen in it, which a kill before the first step leaves."""

    class KilledError(Exception):
        pass

    def dying(self, *args):
        raise KilledError

    x, training = vectors(), replace(TRAINING, epochs=1, precision="auto")
    monkeypatch.setattr(SynthesisTask, "_faster", lambda self: "bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SynthesisTask, "terms", dying)
        with pytest.raises(KilledError):
            trained(x, training=training, folder=tmp_path)
    monkeypatch.setattr(SynthesisTask, "_faster", lambda self: "float32")
    _, history = trained(x, training=training, folder=tmp_path)
    assert history[0]["precision"] == "bfloat16"


def test_fit__an_item_keeps_a_code_that_is_decoded_better():
    x = vectors()
    net = model()
    objective = replace(SMALL, chosen_anew=1.0, kept_first=0.0, lr=0.0)
    trainer = Trainer(net, x, TRAINING, objective, progress=False, given={})
    task = trainer.task
    before = task._error(task.x, task.codes.long())
    task.settings = replace(task.settings, effort=0)  # chooses badly
    trainer.train(progress=False)
    assert task._error(task.x, task.codes.long()) == pytest.approx(before, rel=1e-5)


def test_finish__judges_by_the_codes_of_the_best_weights(monkeypatch):
    """Not by those that the last epoch's weights have chosen."""
    objective = replace(SMALL, chosen_anew=1.0, kept_first=0.0)
    trainer = Trainer(model(), vectors(), TRAINING, objective, progress=False, given={})
    task, codes, decoders = trainer.task, [], []
    errors, decode = iter([0.3, 0.1, 0.4, 0.2]), task._decoded
    monkeypatch.setattr(SynthesisTask, "_error", lambda *_: next(errors))

    def decoded():
        codes.append(task.codes.clone())
        decoders.append(task.decoder.first.detach().clone())
        return decode()

    monkeypatch.setattr(task, "_decoded", decoded)
    trainer.train(progress=False)
    assert trainer.history[-1]["best_epoch"] == 1
    *epochs, at_end = codes
    assert torch.equal(decoders[-1], decoders[1])
    assert torch.equal(at_end, epochs[1])
    assert not torch.equal(at_end, epochs[3])


def test_networks__refuses_what_is_not_for_vectors():
    with pytest.raises(ValueError, match="expected vectors"):
        new_model((1, 8, 8), M, NBITS, objective=SMALL)
    with pytest.raises(ValueError, match="no encoder or decoder"):
        new_model((D,), M, NBITS, ModelConfig(encoder="mlp"), objective=SMALL)
    with pytest.raises(ValueError, match="at most 8 bits"):
        new_model((D,), M, 9, objective=SMALL)


def test_settled__refuses_views_and_a_pretrained_model():
    with pytest.raises(ValueError, match="no views"):
        trained(vectors(), training=replace(TRAINING, views=Views(noise=0.1)))
    with pytest.raises(ValueError, match="no pretrained model"):
        trained(vectors(), pretrained=trained(vectors())[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("items", 1),
        ("batch_size", 1),
        ("epochs", 0),
        ("effort", -1),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("chosen_anew", 1.5),
        ("kept_first", -0.1),
        ("mixing", 1.5),
        ("rounds", -1),
        ("start_effort", -1),
    ],
)
def test_synthesis__refuses_wrong_settings(name, value):
    with pytest.raises(ValueError, match=name):
        Synthesis(**{name: value})


def asked(n=400, seed=7):
    """Queries that are not like the items: short, and beside them."""
    return 0.5 * vectors(n, seed) + 4


def test_fit__real_queries_get_a_map_where_those_held_out_find_more(monkeypatch):
    monkeypatch.setattr(query_map, "_ROUNDS", 3)
    net, history = trained(vectors(), queries=asked())
    found = history[-1]["queries"]
    assert (found["queries"], found["held_out"]) == (280, 120)
    assert found["kept"] == (net.query_map is not None)
    without, _ = trained(vectors())
    for name, value in without.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    q = torch.from_numpy(asked(20, 8))
    mapped = net.map_queries(q)
    assert torch.equal(net.encode_queries(q), without.encode_queries(mapped))


def test_fit__refuses_too_few_queries_and_goes_on_with_the_same_alone(tmp_path):
    with pytest.raises(ValueError, match="at least 40 training queries"):
        trained(vectors(), queries=asked(39))
    training = replace(TRAINING, epochs=1)
    trained(vectors(), training=training, queries=asked(50), folder=tmp_path)
    with pytest.raises(ValueError, match="what is learned from besides the items"):
        trained(vectors(), training=training, queries=asked(50, 8), folder=tmp_path)


def test_fit__rounds_take_a_part_of_a_budget(monkeypatch):
    asked = []
    fit_sums = sums.Sums.fit

    def noted(self, *args, budget_s, **options):
        asked.append(budget_s)
        return fit_sums(self, *args, budget_s=budget_s, **options)

    monkeypatch.setattr(sums.Sums, "fit", noted)
    trained(vectors(), training=replace(TRAINING, budget_minutes=0.02))
    trained(vectors(), training=replace(TRAINING, epochs=1))
    assert asked == [pytest.approx(0.3), None]


def test_fit__does_not_go_on_from_another_start(tmp_path):
    def codebooks(x, *, M, nbits):
        return np.zeros((M, 2**nbits, D), np.float32)

    training = replace(TRAINING, epochs=1)
    trained(vectors(), training=training, folder=tmp_path)
    with pytest.raises(ValueError, match="what is learned from besides the items"):
        trained(vectors(), training=training, codebooks=codebooks, folder=tmp_path)


def test_fit__starts_at_the_codebooks_that_are_made_for_it():
    rng = np.random.default_rng(0)
    asked = []

    def codebooks(x, *, M, nbits):
        assert nbits == NBITS
        asked.append(x)
        return rng.standard_normal((M, 2**NBITS, D)).astype(np.float32)

    settings = replace(SMALL, lr=0.0, weight_decay=0.0, rounds=0)
    net, history = trained(vectors(), settings, codebooks=codebooks)
    assert history[0]["start"] == "RQ"
    ((x,),) = (asked,)
    assert abs(x.mean()) < 1e-3  # as the decoder sees them
    assert np.square(x).mean() == pytest.approx(1, abs=0.1)
    again = np.random.default_rng(0).standard_normal((M, 2**NBITS, D)).astype(np.float32)
    code = net.code_decoder
    ids = torch.randint(2**NBITS, (20, M), generator=torch.Generator().manual_seed(0))
    sums = sum(torch.from_numpy(again[m])[ids[:, m]] for m in range(M))
    assert torch.allclose(code.inside(code.decode(ids)), sums, atol=1e-4)
