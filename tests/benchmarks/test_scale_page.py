"""docs/scale.md says what `plan` says, and what harm was survived."""

import json
from pathlib import Path

import plan_table
import pytest
import scale_page

from faiss_pqvae.scale.planning import Wishes, make_plan

SLOPES = {
    "learn": "learning",
    "encode": "encoding",
    "exact neighbours": "exact neighbours",
    "measure": "measuring",
    "1,000 searches": "a search",
}
RESULTS = Path(__file__).parents[2] / "results"


def page() -> str:
    return plan_table.PAGE.read_text(encoding="utf-8")


def test_scale__the_table_is_that_of_the_plan():
    assert plan_table.table() in page()


@pytest.mark.parametrize("name", scale_page.TABLES)
def test_scale__tables_of_what_was_measured_are_those_of_the_stored_results(name):
    assert f"<!-- {name} -->\n{scale_page.TABLES[name]()}\n<!-- /{name} -->" in page()


def test_scale__slopes_memory_and_shards_are_those_of_the_stored_result():
    found = json.loads((RESULTS / "collection.json").read_text())
    slopes = [f"{found['slopes'][name]:.2f} ({what}" for name, what in SLOPES.items()]
    text = " ".join(page().split())
    for said in slopes:
        assert said in text
    assert found["memory"] == "3G"
    everything = [*found["rows"].values(), found["by Ray"]]
    assert all(max(row["peak_bytes"].values()) < 3 << 30 for row in everything)
    assert found["by Ray"]["shards"] == found["rows"]["10,000,000"]["shards"]
    assert found["by Ray"]["index_sha256"] == found["rows"]["10,000,000"]["index_sha256"]
    assert [name for name, row in found["rows"].items() if row["recall"] >= 0.9] == ["1,000,000"]


def test_scale__what_is_said_of_a_billion_is_in_the_stored_result():
    found = json.loads((RESULTS / "billion.json").read_text())
    assert found["n"] == 10**9
    assert 0.15 < found["codes_gb_per_s"] / found["memory_gb_per_s"] < 0.25
    assert 0.15 < found["1-recall@100"] < 0.25
    assert found["n"] // 300_000 == 3333


def test_scale__the_plan_of_what_was_measured():
    found = json.loads((RESULTS / "collection.json").read_text())["rows"]
    for row in found.values():
        wishes = Wishes(memory_bytes=3 << 30, workers=2, effort=row["effort"])
        plan = make_plan(row["n"], 128, wishes, cores=2)
        assert plan.description == row["description"]
        took = row["seconds"]["encode"]
        assert 0.7 < plan.seconds["encode"] / took < 1.3
        assert max(row["peak_bytes"].values()) < plan.memory_bytes
    text = " ".join(page().split())
    said = f"{took / 60:.0f} minutes, where the plan says {plan.seconds['encode'] / 60:.0f}"
    assert f"ten million took {said}" in text


def test_scale__the_harm_that_was_survived_is_that_of_the_stored_result():
    rows = json.loads((RESULTS / "faults.json").read_text())["rows"]
    commands = {row["harm"]: row["commands"] for row in rows}
    assert [row["the same index"] for row in rows] == [10] * 4
    text = " ".join(page().split())
    assert "10 times each at random moments" in text
    assert "of an undisturbed build in all 40 cases" in text
    assert "a killed worker needed no second command, the others one" in text
    assert {*commands.pop("worker")} == {1}
    assert all({*given} == {2} for given in commands.values())
