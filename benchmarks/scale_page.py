"""The tables of what was measured in docs/scale.md, from the stored results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "scale.md", ROOT / "results"
_PHASES = ("learn", "encode", "exact neighbours", "measure")


def collections() -> str:
    """Builds of whole collections, in Markdown."""
    found = json.loads((RESULTS / "collection.json").read_bytes())
    lines = [
        "| vectors | learn | encode | exact neighbours | measure | most memory at a time | index | "
        "recall among 10 | ms a query |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [*found["rows"].items(), ("the same by Ray", found["by Ray"])]
    for name, row in rows:
        phase = max(row["peak_bytes"], key=row["peak_bytes"].get)
        seconds = row["seconds"] | ({"learn": None} if "model" in row else {})  # another's
        cells = [name, *(_minutes(seconds[phase]) for phase in _PHASES)]
        cells.append(f"{row['peak_bytes'][phase] / 2**30:.2f} GiB ({phase})")
        cells.append(f"{row['n'] * 16 / 1e6:,.1f} MB")
        cells.append(f"{row['recall']:.3f} at nprobe {row['nprobe']}")
        cells.append(f"{row['ms_a_query']:.2f}" if "ms_a_query" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def team() -> str:
    """What two processes gain in a training, in Markdown."""
    found = json.loads((RESULTS / "bench-team.json").read_bytes())["rows"]
    lines = [
        "| objective | one thread | two threads | two processes |",
        "| --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["objective"] for row in found):
        gained = {
            (row["processes"], row["threads"]): row for row in found if row["objective"] == name
        }
        cells = [f"{gained[1, 1]['epoch_s']:.1f} s"]
        cells += [f"{gained[team]['speed_up']:.2f} times" for team in ((1, 2), (2, 1))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def billion() -> str:
    """A billion codes, in Markdown."""
    found = json.loads((RESULTS / "billion.json").read_bytes())
    spent = found["core_seconds"]
    rows = {
        "vectors made, encoded, compared with all queries": " + ".join(
            f"{s / 60:.0f}" for s in spent.values()
        )
        + " core minutes",
        "codes joined and written": f"{found['joined_s'] / 60:.1f} min",
        "on the disk": f"{found['index_bytes'] / 1e9:.2f} GB",
        "opened, mapped": f"{found['opened_s']:.2f} s",
        "first query": f"{found['first_query_s']:.1f} s",
        "one query, two threads": f"{found['one_query_s']:.2f} s, "
        f"{found['one_query_gb_per_s']:.1f} GB of codes a second",
        f"{found['queries']} queries in one call": f"{found['queries_per_s']:.2f} a second, "
        f"{found['codes_gb_per_s']:.1f} GB of codes a second",
        "memory reads": f"{found['memory_gb_per_s']:.1f} GB a second",
        "the nearest among the first 1 / 10 / 100": " / ".join(
            f"{found[f'1-recall@{k}']:.2f}" for k in (1, 10, 100)
        ),
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows.items())])


def _minutes(s: float | None) -> str:
    if s is None:
        return "-"
    return f"{s / 60:.1f} min" if s >= 90 else f"{s:.0f} s"


TABLES: dict[str, Any] = {"collections": collections, "team": team, "billion": billion}


def main() -> None:
    """Writes them into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        if f"<!-- {name} -->" not in text:
            continue
        parts = re.split(rf"(<!-- /?{name} -->\n)", text)
        parts[2] = table() + "\n"
        text = "".join(parts)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
