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
    ("pictures-dpq-few-9.json", "5,000 labels"),
    ("pictures-dpq-all.json", "50,000 labels"),
)


WITHOUT_LABELS, OTHERS = "pictures-32.json", "pictures-32-others.json"


def results(name):
    return json.loads((ROOT / "results" / name).read_text())


def exact_of(name):
    """The row of exact search over the features; where all parts learn there are none."""
    found = [row for row in results(name)["rows"] if row["search"] == "exact"]
    return found[0] if found[0]["bits"] == 32 * 1280 else exact_of("pictures-dpq-few.json")


def map_of(row):
    """The mAP of a row in percent, with half of its interval, and its metric."""
    (metric,) = (key for key in row["metrics"] if key.startswith("map@") and "/" not in key)
    low, high = row["intervals"][metric]
    return metric, f"{100 * row['metrics'][metric]:.1f} ± {50 * (high - low):.1f}"


def without_labels_table():
    """What codes of 4 bytes find without labels, and exact search over the features."""
    rows = [row for name in (WITHOUT_LABELS, OTHERS) for row in results(name)["rows"]]
    found = {(row["method"], row["search"]): row for row in rows}  # exact search is in both
    exact = found["Exact L2", "exact"]["metrics"]["map@1000"]
    lines = ["| method | bytes | search | mAP@1000 | of exact |", "| --- | --- | --- | --- | --- |"]
    for row in sorted(found.values(), key=lambda row: -row["metrics"]["map@1000"]):
        value = row["metrics"]["map@1000"]
        name = WITHOUT_LABELS if row["marked"] else OTHERS
        cells = (
            f"[{row['method']}](../results/{name})",
            f"{row['bytes_per_vector']:,}",
            row["search"],
            map_of(row)[1],
            f"{100 * value / exact:.0f} %",
        )
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
            map_of(exact_of(name))[1],
            f"{rows['adc']['train_s'] / 60:.0f}",
            f"{rows['adc']['model_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [without_labels_table, parts_table, with_labels_table])
def test_page__has_the_tables_of_the_stored_results(table):
    assert table() in PAGE


def test_without_labels__ours_is_above_the_others_by_more_than_the_intervals():
    """What the page says: above every other method."""
    (ours,) = (row for row in results(WITHOUT_LABELS)["rows"] if row["search"] == "adc")
    lowest = ours["intervals"]["map@1000"][0]
    others = results(OTHERS)["rows"]
    assert {"ITQ", "PQ", "OPQ", "RQ, decoded"} <= {row["method"] for row in others}
    assert all(row["intervals"]["map@1000"][1] < lowest for row in others)


def test_page__says_where_the_seeds_end():
    (row,) = (row for row in results(WITHOUT_LABELS)["rows"] if row["search"] == "adc")
    first, second, third = (f"{100 * value:.1f}" for value in row["seeds"]["map@1000"])
    assert f"seeds 0, 1 and 2 end at {first}, {second} and {third}" in " ".join(PAGE.split())


FILES = (*(name for name, _ in WITH_LABELS), WITHOUT_LABELS, OTHERS, "pictures-parts.json")


@pytest.mark.parametrize("name", FILES)
def test_page__has_the_command_of_every_stored_result(name):
    command = results(name)["command"]
    page = " ".join(PAGE.replace("\\\n", " ").split())
    assert " ".join(command.split()) in page
