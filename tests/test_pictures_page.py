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
    ("pictures-dpq-few-pseudo.json", "5,000 labels, then classes for 43,124 others"),
    ("pictures-dpq-all.json", "50,000 labels"),
)


# Ours, and the other methods on the same features.
WITHOUT_LABELS = ("pictures-32.json", "pictures-16-64.json")
OTHERS = ("pictures-32-others.json", "pictures-16-64-others.json")
BITS = (16, 32, 64)
EXACT = 32 * 1280


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


def rows_of(names):
    """All rows of several files, by method, search and bits."""
    rows = [row for name in names for row in results(name)["rows"]]
    return {(row["method"], row["search"], row["bits"]): row for row in rows}


def without_labels_table():
    """What codes of 2, 4 and 8 bytes find without labels, and exact search over the features."""
    found = rows_of(WITHOUT_LABELS) | rows_of(OTHERS)
    exact = map_of(found["Exact L2", "exact", EXACT])[1]
    kinds = {key[:2] for key in found if key[2] in BITS}
    best = {kind: found[(*kind, 32)]["metrics"]["map@1000"] for kind in kinds}
    lines = ["| method | search | 2 bytes | 4 bytes | 8 bytes |", "| --- | --- | --- | --- | --- |"]
    for kind in sorted(kinds, key=lambda kind: -best[kind]):
        cells = [map_of(found[(*kind, bits)])[1] if (*kind, bits) in found else "" for bits in BITS]
        lines.append(f"| {' | '.join([*kind, *cells])} |")
    return "\n".join([*lines, f"| *Exact L2, 5,120 bytes* | exact | {' | '.join([exact] * 3)} |"])


def parts_table():
    """What each setting is worth: the best first."""
    rows = sorted(results("pictures-parts.json")["rows"], key=lambda row: -row["map@1000"])
    lines = ["| changed | mAP@1000 | epochs |", "| --- | --- | --- |"]
    for row in rows:
        value = f"{100 * row['map@1000']:.1f} ± {100 * row['half_interval']:.1f}"
        lines.append(f"| {row['changed']} | {value} | {row['epochs']:.0f} |")
    return "\n".join(lines)


def curve_table():
    """mAP@1000 of the test queries after some minutes of training."""
    curves = results("pictures-curve.json")["curves"]
    lines = ["| learned with | first | half way | at the end |", "| --- | --- | --- | --- |"]
    for curve in curves:
        points = curve["points"]
        shown = [points[0], points[len(points) // 2], points[-1]]
        cells = [f"{100 * p['map@1000']:.1f} ({p['elapsed_s'] / 60:.1f} min)" for p in shown]
        lines.append(f"| {' | '.join([curve['name'], *cells])} |")
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


@pytest.mark.parametrize(
    "table", [without_labels_table, parts_table, curve_table, with_labels_table]
)
def test_page__has_the_tables_of_the_stored_results(table):
    assert table() in PAGE


@pytest.mark.parametrize("bits", BITS)
def test_without_labels__ours_is_above_the_others_by_more_than_the_intervals(bits):
    """What the page says: above every other method."""
    lowest = rows_of(WITHOUT_LABELS)["PQ-VAE, contrastive", "adc", bits]["intervals"]["map@1000"][0]
    others = {key: row for key, row in rows_of(OTHERS).items() if key[2] in (bits, EXACT)}
    assert {"Exact L2", "ITQ", "PQ", "OPQ", "RQ, decoded"} <= {name for name, _, _ in others}
    assert all(row["intervals"]["map@1000"][1] < lowest for row in others.values())


def test_page__says_where_the_seeds_end():
    text = " ".join(PAGE.split())
    for bits in BITS:
        row = rows_of(WITHOUT_LABELS)["PQ-VAE, contrastive", "adc", bits]
        first, second, third = (f"{100 * value:.1f}" for value in row["seeds"]["map@1000"])
        assert f"{first}, {second} and {third} with {bits // 8} bytes" in text


MEASURED = ("pictures-parts.json", "pictures-curve.json")
FILES = (*(name for name, _ in WITH_LABELS), *WITHOUT_LABELS, *OTHERS, *MEASURED)


@pytest.mark.parametrize("name", FILES)
def test_page__has_the_command_of_every_stored_result(name):
    command = results(name)["command"]
    page = " ".join(PAGE.replace("\\\n", " ").split())
    assert " ".join(command.split()) in page
