"""docs/pictures.md: its tables are those of stored results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pictures.md").read_text()

# Of each row: file, what it learned from.
WITH_LABELS = (
    ("pictures-dqn-few.json", "5,000 labels"),
    ("pictures-dpq-few.json", "5,000 labels"),
    ("pictures-dpq-all.json", "50,000 labels"),
)


WITHOUT_LABELS = "pictures-32.json"


def results(name):
    return json.loads((ROOT / "results" / name).read_text())


def map_of(row):
    """The mAP of a row in percent, with half of its interval, and its metric."""
    (metric,) = (key for key in row["metrics"] if key.startswith("map@") and "/" not in key)
    low, high = row["intervals"][metric]
    return metric, f"{100 * row['metrics'][metric]:.1f} ± {50 * (high - low):.1f}"


def without_labels_table():
    """What codes of 4 bytes find without labels, and exact search over the features."""
    found = {
        (row["method"], row["search"]): row
        for row in results(WITHOUT_LABELS)["rows"]
        if row["marked"] or row["search"] == "exact"
    }
    lines = ["| method | bytes | search | mAP@1000 | of exact |", "| --- | --- | --- | --- | --- |"]
    exact = found["Exact L2", "exact"]["metrics"]["map@1000"]
    for (method, search), row in found.items():
        share = f"{100 * row['metrics']['map@1000'] / exact:.0f} %"
        cells = method, f"{row['bytes_per_vector']:,}", search, map_of(row)[1], share
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table():
    """What each setting is worth: the best first."""
    rows = sorted(results("pictures-parts.json")["rows"], key=lambda row: -row["map@1000"])
    lines = ["| changed | mAP@1000 | epochs |", "| --- | --- | --- |"]
    for row in rows:
        value = f"{100 * row['map@1000']:.1f} ± {100 * row['half_interval']:.1f}"
        lines.append(f"| {row['changed']} | {value} | {row['epochs']:.0f} |")
    return "\n".join(lines)


def with_labels_table():
    """What labels bring, by fine-tuning the last parts of the network."""
    lines = [
        "| method | learned from | parts | metric | ADC | SDC | exact | minutes | MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, learned_from in WITH_LABELS:
        rows = {row["search"]: row for row in results(name)["rows"] if row["marked"]}
        metric, adc = map_of(rows["adc"])
        cells = [
            f"[{rows['adc']['method']}](../results/{name})",
            learned_from,
            re.search(r"--model.fine-tuned (\d)", results(name)["command"])[1],
            metric.replace("map", "mAP"),
            adc,
            map_of(rows["sdc"])[1],
            map_of(next(row for row in results(name)["rows"] if row["search"] == "exact"))[1],
            f"{rows['adc']['train_s'] / 60:.0f}",
            f"{rows['adc']['model_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [without_labels_table, parts_table, with_labels_table])
def test_page__has_the_tables_of_the_stored_results(table):
    assert table() in PAGE


def test_page__says_where_the_seeds_end():
    (row,) = (row for row in results(WITHOUT_LABELS)["rows"] if row["search"] == "adc")
    first, second, third = (f"{100 * value:.1f}" for value in row["seeds"]["map@1000"])
    assert f"seeds 0, 1 and 2 end at {first}, {second} and {third}" in " ".join(PAGE.split())


FILES = (*(name for name, _ in WITH_LABELS), WITHOUT_LABELS, "pictures-parts.json")


@pytest.mark.parametrize("name", FILES)
def test_page__has_the_command_of_every_stored_result(name):
    command = results(name)["command"]
    page = " ".join(PAGE.replace("\\\n", " ").split())
    assert " ".join(command.split()) in page
