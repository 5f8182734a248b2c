"""docs/scale.md says what `plan` says, and what harm was survived."""

import json
from pathlib import Path

import plan_table

RESULTS = Path(__file__).parents[2] / "results"


def page() -> str:
    return plan_table.PAGE.read_text(encoding="utf-8")


def test_scale__the_table_is_that_of_the_plan():
    assert plan_table.table() in page()


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
