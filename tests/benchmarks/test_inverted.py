"""Recall and speed of inverted files: rows, and a file that a later run goes on with."""

import json
from functools import partial

import inverted
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.training.objectives.synthesis import SynthesisTask


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(inverted, "NPROBES", (1, 4))
    monkeypatch.setattr(inverted, "TIMED", 10)
    monkeypatch.setattr(SynthesisTask, "_faster", lambda self: "float32")
    little = {"rounds": 1, "mixing": 0.0, "effort": 1, "start_effort": 1, "final_effort": 1}
    monkeypatch.setattr(fpq, "Synthesis", partial(fpq.Synthesis, **little))


def test_main__measures_every_row_once(short, vector_files, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    run = partial(inverted.main, *vector_files, out, nlist=4, M=4, epochs=1)
    run()
    result = json.loads(out.read_text())
    rows = result["rows"]
    assert [*rows] == [
        "OPQ4,IVF4,PQ4np",
        "IVF4,RQ3x8_Nqint8",
        "IVF4,PQVAE4 ranking",
        "IVF4,PQVAE4 additive",
        "IVF4,PQVAE4,RDecoder, tables alone",
        "IVF4,PQVAE4,RDecoder, 30 candidates",
        "IVF4,PQVAE4,RDecoder, 100 candidates",
    ]
    assert ["hits" in row for row in rows.values()] == [True] + 6 * [False]
    first, *_, last = rows.values()
    hits = inverted.unpacked(first["hits"]["1-recall@10, nprobe=4"], (90,))
    assert first["1-recall@10, nprobe=4"] == [round(float(hits.mean()), 4), 0, 0]
    for n in (1, 10):
        key = f"1-recall@{n}, nprobe=4"
        assert last[key][1] == pytest.approx(last[key][0] - first[key][0], abs=2e-4)
    assert last["1-recall@10, nprobe=4"][0] > last["1-recall@10, nprobe=1"][0]
    assert all(row["queries per second, nprobe=1"] > 0 for row in rows.values())

    del rows["IVF4,PQVAE4 additive"]
    out.write_text(json.dumps(result))
    monkeypatch.setattr(inverted, "of_faiss", None)
    run()  # from the training that is there
    again = json.loads(out.read_text())["rows"]
    assert list(again)[-1] == "IVF4,PQVAE4 additive"
    assert again["OPQ4,IVF4,PQ4np"] == first
    with pytest.raises(ValueError, match="choose another --out"):
        inverted.main(*vector_files, out, nlist=8, M=4, epochs=1)
