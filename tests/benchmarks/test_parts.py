"""What each part is worth: rows with one change each, and a file that a later run goes on with."""

import dataclasses
import json
from functools import partial

import numpy as np
import parts
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.training.objectives import query_map
from faiss_pqvae.training.objectives.synthesis import SynthesisTask


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("bench_scan.read_bandwidth", lambda: 1.0)
    monkeypatch.setattr(parts, "TIMED", 20)
    monkeypatch.setattr(query_map, "_ROUNDS", 1)
    monkeypatch.setattr(SynthesisTask, "_faster", lambda self: "float32")
    monkeypatch.setattr(fpq, "Additive", partial(fpq.Additive, rounds=1, mixing=0.0))


def test_rows_of__each_has_one_change():
    rows = parts.rows_of(fpq.Synthesis(epochs=6), (3, 4))
    main = rows[parts.MAIN]
    assert main == parts.Row(parts.Training(fpq.Synthesis(epochs=6), seed=3))

    def flat(value, name=""):
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}").items()}

    changes = {
        name: dict(flat(dataclasses.asdict(row)).items() - flat(dataclasses.asdict(main)).items())
        for name, row in rows.items()
        if type(row.training.objective) is fpq.Synthesis
    }
    assert changes.pop(parts.MAIN) == {}
    assert all(len(found) == 1 for found in changes.values())
    assert changes["effort 0"] == {".effort": 0}
    assert changes["plain 0"] == {".training.objective.plain": 0}
    assert len(set(rows.values())) == len(rows)


def test_compared__by_hand():
    hits = np.array([[1, 1], [0, 1], [0, 0], [1, 1]], bool)
    main = np.array([[0, 1], [0, 1], [0, 1], [1, 1]], bool)
    found = parts.compared(hits, main)
    assert found == {
        "queries": 4,
        "1-recall@1": [0.5, 0.25],
        "1-recall@10": [0.75, 0.2165],
        "gain@1": [0.25, 0.2165],
        "gain@10": [-0.25, 0.2165],
    }


def test_main__writes_rows_and_goes_on_with_those_that_are_missing(
    vector_files, short, tmp_path, monkeypatch
):
    out = tmp_path / "parts.json"
    objective = fpq.Synthesis(epochs=1, rounds=1, mixing=0.0)
    options = {"M": 2, "objective": objective, "half": True}
    names = ("additive tables", "plain sums, no network", "short list by tables alone", "shrink 1")
    parts.main(*vector_files, out, only=names[:1], **options)
    first = json.loads(out.read_text())["rows"]
    assert [*first] == [parts.MAIN, "additive tables"]
    measured, before = [], parts.Bench.measured
    monkeypatch.setattr(
        parts.Bench, "measured", lambda self, row: measured.append(row) or before(self, row)
    )
    parts.main(*vector_files, out, only=(*names, "real queries", "start at k-means"), **options)
    stored = json.loads(out.read_text())
    rows = stored["rows"]
    assert len(measured) == 5
    assert {name: rows[name] for name in first} == first
    assert {"command", "environment", "setting"} <= stored.keys()
    main = rows[parts.MAIN]
    assert (main["queries"], main["gain@1"], main["gain@10"]) == (90, [0, 0], [0, 0])
    assert rows["real queries"]["queries"] == 45
    for name in ("plain sums, no network", "shrink 1"):  # of the same training and codes
        assert rows[name]["train_s"] == main["train_s"]
        gain = rows[name]["1-recall@1"][0] - main["1-recall@1"][0]
        assert rows[name]["gain@1"][0] == pytest.approx(gain, abs=2e-4)
    assert rows["shrink 1"]["relative_error"] == main["relative_error"]
    assert rows["plain sums, no network"]["relative_error"] != main["relative_error"]
    log = tmp_path / "parts-trainings" / "start-at-k-means" / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[0])["start"] == "k-means"
    with pytest.raises(ValueError, match="another --out"):
        parts.main(*vector_files, out, **{**options, "M": 3})


def test_main__refuses_what_it_does_not_know(vector_files, tmp_path):
    with pytest.raises(ValueError, match=r"expected rows of .*'twice'"):
        parts.main(*vector_files, tmp_path / "a.json", only=("twice",))
    with pytest.raises(ValueError, match="--learn or --half"):
        parts.main(*vector_files, tmp_path / "a.json", learn=vector_files[0], half=True)
