"""docs/pictures.md: its table is that of stored results."""

import json
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


def results(name):
    return json.loads((ROOT / "results" / name).read_text())


def map_of(row):
    """The mAP of a row in percent, with half of its interval, and its metric."""
    (metric,) = (key for key in row["metrics"] if key.startswith("map@") and "/" not in key)
    low, high = row["intervals"][metric]
    return metric, f"{100 * row['metrics'][metric]:.1f} ± {50 * (high - low):.1f}"


def with_labels_table():
    """What labels bring, by fine-tuning the last parts of the network."""
    lines = [
        "| method | learned from | metric | ADC | SDC | exact, 5,120 bytes | minutes | MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, learned_from in WITH_LABELS:
        rows = {row["search"]: row for row in results(name)["rows"] if row["marked"]}
        metric, adc = map_of(rows["adc"])
        cells = [
            f"[{rows['adc']['method']}](../results/{name})",
            learned_from,
            metric.replace("map", "mAP"),
            adc,
            map_of(rows["sdc"])[1],
            map_of(next(row for row in results(name)["rows"] if row["search"] == "exact"))[1],
            f"{rows['adc']['train_s'] / 60:.0f}",
            f"{rows['adc']['model_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_page__has_the_table_of_the_stored_results():
    assert with_labels_table() in PAGE


@pytest.mark.parametrize("name", [name for name, _ in WITH_LABELS])
def test_page__has_the_command_of_every_stored_result(name):
    command = results(name)["command"]
    page = " ".join(PAGE.replace("\\\n", " ").split())
    assert " ".join(command.split()) in page
