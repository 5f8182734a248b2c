"""Rows of learned codes of vectors: by tables alone, and ranked again by the decoder."""

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.eval import load
from faiss_pqvae.eval.data.brute_force import nearest
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.methods.settings import CodeSettings
from faiss_pqvae.native import faiss

NETWORKS = fpq.ModelConfig(encoder="mlp", width=4, dsub=3)
TRAINING = fpq.TrainingConfig(epochs=1, batch_size=16, precision="float32")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x, q = (rng.standard_normal((n, 6), dtype=np.float32) for n in (290, 12))
    truth = nearest(q, x, 20, progress=False)
    return VectorData("made", "p", "d", x, x, q, "l2", truth)


def learned(data, folder, **settings):
    code = CodeSettings(fpq.Reconstruction(), folder, NETWORKS, TRAINING, **settings)
    return rows_of(data, names=["learned"], lengths=[16], learned=code)


def test_rows__of_one_training_by_tables_and_by_the_decoder(data, tmp_path):
    rows = learned(data, tmp_path)
    assert [(row.name, row.config["factory"], row.searches) for row in rows] == [
        ("PQ-VAE", "PQVAE2x8", ("adc", "sdc")),
        ("PQ-VAE, re-ranked", "PQVAE2x8,RDecoder", ("k_factor=1", "k_factor=10")),
    ]
    assert rows[0].finish == rows[1].finish
    found = run(data, rows, tmp_path, k=20)
    assert [path.parent.parent.name for path in tmp_path.rglob("trained.pt")] == ["pqvae-16"]
    rows[0].finish(data)
    index = fpq.read_index(tmp_path / "pqvae-16")
    expected = data.scores(reranked(index, data), 20)
    again = found.rows[2]
    assert (again.method, again.bytes_per_vector) == ("PQ-VAE, re-ranked", 2)
    for name, scores in expected.per_query.items():  # items of one code are tied
        assert again.metrics[name] == pytest.approx(scores.mean(), abs=0.02)
    assert again.metrics != found.rows[0].metrics
    index.reset()
    weights = sum(x.nbytes for x in index.model.state_dict().values())
    kept = weights + len(faiss.serialize_index(index.faiss_index))
    assert {row.model_bytes for row in found.rows} == {kept}
    assert {row.trained_on for row in found.rows} == {"base: 290 items"}


def test_rows__of_one_training_encode_once(data, tmp_path, monkeypatch):
    added, add = [], fpq.LatentIndex.add
    monkeypatch.setattr(fpq.LatentIndex, "add", lambda *given: added.append(given) or add(*given))
    found = run(data, learned(data, tmp_path), tmp_path, k=20)
    assert len(added) == 1
    assert len({row.add_s for row in found.rows}) == 1
    (again,) = learned(data, tmp_path)[1:]  # alone, nobody has encoded before
    alone = run(data, [again], tmp_path / "alone", k=20)
    assert len(added) == 2
    assert [row.metrics for row in alone.rows] == [row.metrics for row in found.rows[2:]]


def test_rows__no_decoder_ranks_again_what_a_contrast_looks_beyond(data, tmp_path):
    code = CodeSettings(fpq.Contrastive(), tmp_path, NETWORKS, TRAINING)
    (row,) = rows_of(data, names=["learned"], lengths=[16], learned=code)
    assert row.config["factory"] == "PQVAE2x8"
    trained_along = CodeSettings(
        fpq.Contrastive(reconstruction_weight=1.0), tmp_path, NETWORKS, TRAINING
    )
    assert len(list(rows_of(data, names=["learned"], lengths=[16], learned=trained_along))) == 2


def reranked(index, data, k=20):
    """Candidates of the scan by their decoded vectors: (nq, k) ids, best first."""
    ids = index.search(data.queries, k)[1]
    decoded = index.reconstruct_batch(ids.reshape(-1)).reshape(*ids.shape, -1)
    distances = ((decoded - data.queries[:, None]) ** 2).sum(-1)
    return np.take_along_axis(ids, np.argsort(distances, axis=1), 1)


def test_rows__what_is_ranked_again_may_learn_something_else(data, tmp_path):
    other = fpq.Reconstruction(lambda_=0.5)
    plain, again = learned(data, tmp_path, reranked=other)
    assert plain.finish != again.finish
    assert [row.config["objective"]["lambda_"] for row in (plain, again)] == [0.01, 0.5]
    run(data, [plain, again], tmp_path, k=20)
    folders = {path.parent.parent.name for path in tmp_path.rglob("trained.pt")}
    assert folders == {"pqvae-16", "pqvae-16-rdecoder"}
    again.finish(data)
    assert fpq.read_index(tmp_path / "pqvae-16-rdecoder").refiner is not None


def test_rows__candidates_are_those_of_the_index_too(data, tmp_path, monkeypatch):
    """Where an index looks at more by itself there is a row for that, too."""
    made = fpq.index_factory

    def with_more(*args, **options):
        index = made(*args, **options)
        index.k_factor = 4.0
        return index

    monkeypatch.setattr("faiss_pqvae.eval.methods.learned_code.index_factory", with_more)
    assert learned(data, tmp_path)[1].searches == ("k_factor=1", "k_factor=4")


def of_vectors(data, folder, bits, **settings):
    """Rows as `evaluate` has them of vectors for which no objective is named."""
    code = CodeSettings(
        fpq.Additive(), folder, product=fpq.Ranking(), reranked=fpq.Synthesis(), **settings
    )
    return rows_of(data, names=["learned"], lengths=[bits], learned=code, nlist=4)


@pytest.mark.parametrize(
    ("bits", "flat"),
    [
        (16, [("PQ-VAE", "PQVAE2x8", "ranking")]),
        (
            32,
            [("PQ-VAE", "PQVAE4x8", "additive"), ("PQ-VAE, product", "PQVAE4x8", "ranking")],
        ),
    ],
)
def test_rows__of_vectors_are_what_descriptions_make_and_product_codes(data, tmp_path, bits, flat):
    rows = of_vectors(data, tmp_path, bits)
    code = flat[0][1]
    assert [(row.name, row.config["factory"], row.config["objective"]["name"]) for row in rows] == [
        *flat,
        *((f"IVF4,{name}", f"IVF4,{code}", objective) for name, code, objective in flat),
        ("PQ-VAE, re-ranked", f"{code},RDecoder", "synthesis"),
        ("IVF4,PQ-VAE, re-ranked", f"IVF4,{code},RDecoder", "synthesis"),
    ]
    assert {row.searches for row in rows[: len(flat)]} == {("adc", "sdc")}
    for row in rows:  # as anybody's, who names no objective
        usual = fpq.index_factory(6, row.config["factory"]).model.config.objective
        assert row.config["objective"]["name"] == usual or row.name.endswith(", product")
    folders = [row.finish.__self__.folder.name for row in rows]
    own = [f"pqvae-{bits}", f"pqvae-{bits}-product"][: len(flat)]
    assert folders == [*own, *own, *2 * [f"pqvae-{bits}-rdecoder"]]


def test_rows__all_of_them_learn_from_queries(data, tmp_path):
    rows = of_vectors(data, tmp_path, 32, queries=np.ones((40, 6), np.float32))
    assert all("queries" in row.config for row in rows)


@pytest.mark.parametrize(
    ("shape", "objective"), [((3, 4, 4), fpq.Reconstruction()), ((8,), fpq.DPQ())]
)
def test_rows__images_and_residual_codes_have_the_tables_alone(shape, objective, tmp_path):
    x = np.random.default_rng(0).random((60, *shape), dtype=np.float32)
    labels = np.arange(60) % 3
    data = load(lambda: (x, labels))
    code = CodeSettings(objective, tmp_path, fpq.ModelConfig(width=4))
    rows = rows_of(data, names=["learned"], lengths=[16], learned=code)
    assert [row.name for row in rows] == [objective.title]
