"""The toy objective: found by name, trained, and its options on the command line."""

import numpy as np
import pytest

from faiss_pqvae import TrainingConfig, index_factory, objectives
from faiss_pqvae.cli import main


def test_agreement__trains_by_name():
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    training = TrainingConfig(epochs=2, batch_size=16, precision="float32", device="cpu")
    index = index_factory((3, 8, 8), "PQVAE4x4", training=training, objective="agreement")
    index.train(x, progress=False)
    assert index.history[0]["objective"] == {"name": "agreement", "spread": 1.0}
    assert "validation_agreement" in index.history[1]
    assert "agreement" in objectives.names()


def test_agreement__has_options_of_its_own(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--model.objective", "agreement", "--help"])
    told = capsys.readouterr().out
    assert "--agreement.spread" in told
    assert "--contrastive" not in told
