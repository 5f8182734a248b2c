"""docs/gpu.md: its tables are those of the stored check, and of the tests that wait for a card."""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def between(mark):
    """What the page has between two comments."""
    return PAGE.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0].strip()


def waiting():
    """The tests marked `gpu`, and what each would show."""
    lines = ["| test | what it would show |", "| --- | --- |"]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = [ast.unparse(each) for each in node.decorator_list]
            if "on_gpu" in marks:
                shows = " ".join((ast.get_docstring(node) or "").split())
                assert shows, f"{node.name} has no docstring"
                lines.append(f"| `{path.name}::{node.name}` | {shows} |")
    return "\n".join(lines)


CHECKED = json.loads((ROOT / "results" / "gpu-check-cpu.json").read_text())


def speeds():
    """Queries a second of torch's scan and of FAISS's, on a CPU."""
    (part,) = (part for part in CHECKED["parts"] if part["name"] == "speed")
    found = {
        tuple(each["what"].rsplit(", ", 1)): each["queries_per_s"] for each in part["findings"]
    }
    lines = [
        "| codes | 1 query, torch | FAISS | 100 queries, torch | FAISS |",
        "| --- | --- | --- | --- | --- |",
    ]
    for codes in dict.fromkeys(codes for codes, _ in found):
        ours, theirs = found[codes, "torch"], found[codes, "FAISS on the CPU"]
        cells = [f"{each[n]:,.0f}" for n in ("1", "100") for each in (ours, theirs)]
        lines.append(f"| {' | '.join([codes, *cells])} |")
    return "\n".join(lines)


def test_page__has_the_speeds_of_the_stored_check():
    assert between("speed") == speeds()
    rows = [line.replace(",", "").split("|")[2:6] for line in speeds().splitlines()[2:]]
    ratios = [float(row[at + 1]) / float(row[at]) for row in rows for at in (0, 2)]
    assert f"FAISS is {min(ratios):.1f} to {max(ratios):.0f} times as fast" in PAGE
    assert CHECKED["device"] == "cpu"  # no card: the page says so
    status = {part["name"]: part["status"] for part in CHECKED["parts"]}
    assert set(status.values()) == {"passed", "not run: no card"}
    names = ", ".join(name for name, how in status.items() if how != "passed")
    assert f"not run for want of a card: {names}" in " ".join(PAGE.split())


def test_page__lists_the_tests_that_wait_for_a_card():
    assert between("tests") == waiting()
