"""A learned code's files: what is taken for its own."""

import types

import numpy as np
import pytest

from faiss_pqvae import ModelConfig, Reconstruction, TrainingConfig
from faiss_pqvae.eval.methods.learned_code import LearnedCode

NETWORKS = ModelConfig(encoder="mlp", width=4, dsub=3)
RNG = np.random.default_rng(0)
DATA = types.SimpleNamespace(
    train=RNG.standard_normal((60, 6), dtype=np.float32),
    database=RNG.standard_normal((40, 6), dtype=np.float32),
    labels_to_train=None,
)


def code(folder, **changes):
    training = TrainingConfig(epochs=1, batch_size=16, precision="float32", **changes)
    return LearnedCode(2, 3, NETWORKS, training, objective=Reconstruction(), folder=folder / "code")


def changed(name):
    x = getattr(DATA, name).copy()
    x[17] += 1
    return types.SimpleNamespace(**{**vars(DATA), name: x})


def test_index__is_read_where_it_is_that_of_the_same_data(tmp_path, monkeypatch):
    expected = code(tmp_path).index(DATA).search(DATA.database, 3)
    written = (tmp_path / "code" / "config.json").stat().st_mtime_ns
    monkeypatch.setattr("faiss_pqvae.LatentIndex.add", None)
    found = code(tmp_path).index(DATA).search(DATA.database, 3)
    assert all(map(np.array_equal, found, expected))
    assert (tmp_path / "code" / "config.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("held", ["", "{", '{"items": "0"}', None])
def test_index__of_another_database_is_filled_anew(tmp_path, held):
    code(tmp_path).index(DATA)
    other = changed("database")
    file = tmp_path / "code" / "held.json"
    if held is None:
        file.unlink()
    elif held:
        file.write_text(held)
    expected = code(tmp_path / "fresh").index(other)
    found = code(tmp_path).index(other)
    D1, I1 = expected.search(other.database, 3)
    D2, I2 = found.search(other.database, 3)
    assert np.array_equal(I1, I2)
    assert np.array_equal(D1, D2)


@pytest.mark.parametrize(
    ("data", "changes"), [(changed("train"), {}), (DATA, {"lr": 0.1})], ids=["train", "lr"]
)
def test_index__of_another_training_is_refused(tmp_path, data, changes):
    code(tmp_path).index(DATA)
    with pytest.raises(ValueError, match="other settings or data"):
        code(tmp_path, **changes).index(data)
