"""What the demo trains, and what it says of one training of each."""

import numpy as np
import pytest

from faiss_pqvae.cli import evaluate, recipes
from faiss_pqvae.cli.recipes import QUICK, Spread, note_on_seeds
from faiss_pqvae.eval import load


def test_note_on_seeds__has_the_spread_that_is_known(monkeypatch):
    spread = Spread("PQ-VAE, contrastive", 32, "adc", 5, 77.12, 1.94, 74.5, 79.9)
    monkeypatch.setattr(recipes, "SPREADS", (spread,))
    assert note_on_seeds().endswith(
        "mAP@1000 of 5 seeds, ± their deviation: PQ-VAE, contrastive of 32 bits (adc) 77.1 ± 1.9, "
        "from 74.5 to 79.9."
    )


@pytest.mark.parametrize(
    ("options", "note", "seeds"),
    [
        ({"quick": True}, QUICK, {0}),
        ({"quick": True, "seeds": (0, 3)}, QUICK, {0, 3}),
        ({}, note_on_seeds(), {0}),
        ({"seeds": (0, 1, 2)}, "", {0, 1, 2}),
    ],
)
def test_demo__trains_every_code_with_every_seed(tmp_path, monkeypatch, options, note, seeds):
    x, y = np.zeros((40, 1, 28, 28), np.uint8), np.arange(40) % 10
    monkeypatch.setattr(
        evaluate, "load", lambda name: load(lambda: (x[:30], y[:30], x[30:], y[30:]))
    )
    asked = {}
    monkeypatch.setattr(
        evaluate, "measure", lambda data, rows, **given: asked.update(given, r=rows)
    )
    evaluate.demo(out=tmp_path, **options)
    learned = [(row.name, row.bits) for row in asked["r"] if row.marked]
    assert {name for name, _ in learned} == {"PQ-VAE", "PQ-VAE, contrastive"}
    assert all(learned.count(one) == len(seeds) for one in learned)
    assert {row.seed for row in asked["r"]} == seeds
    assert asked["note"] == note
