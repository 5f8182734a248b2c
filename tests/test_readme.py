"""What the README shows has to run, and its figures have to be those of the stored results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme__snippet_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = SNIPPETS[number].replace("epochs=3", "epochs=1")
    names = {}
    exec(compile(code, f"README snippet {number}", "exec"), names)
    if "index" in names:
        assert names["index"].ntotal == 4000
        assert names["I"].shape == (1000, 10)


def table_rows(file):
    """The README's table cells below the link to a result file, keyed by method and search."""
    after = README.split(f"(results/{file})", 1)[1]
    lines = [line for line in after.splitlines() if line.startswith("|")]
    rows = {}
    for line in lines:
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        rows.setdefault(cells[0], cells[1:])
    return rows


@pytest.mark.parametrize("file", ["demo.json", "cifar10-jpeg.json"])
def test_readme__figures_are_those_of_the_stored_results(file):
    results = json.loads((ROOT / "results" / file).read_text())
    assert results["command"].startswith("faiss-pqvae ")
    shown = table_rows(file)
    bits = sorted({row["bits"] for row in results["rows"] if not row["reference"]})
    checked = 0
    for row in results["rows"]:
        if row["reference"]:
            continue
        name = row["method"] + (f" ({row['search'].upper()})" if row["method"] == "PQ-VAE" else "")
        expected = " / ".join(
            f"{100 * row['metrics'][key]:.1f}" for key in ("map@1000", "map@1000/min(R,k)")
        )
        assert shown[name][bits.index(row["bits"])] == expected
        checked += 1
    assert checked >= 12


def scan_rows(results):
    """The README's table of scans: how many times faster, speed, and what memory would allow."""
    figures = {figure["name"]: figure for figure in results["figures"]}
    rows = []
    for bits, code_bytes in ((4, 4), (6, 6), (8, 8)):
        for search in ("ADC", "SDC / IndexPQ's ADC", "1 query, ADC"):
            cells = []
            for n in ("1M", "10M"):
                figure = figures[f"{n} codes of 8 x {bits} bits, {search}"]
                details = figure["details"]
                limit = 1000 * details["memory_gb_per_s"] / code_bytes
                speed = details["million_codes_per_s"]
                cells.append(f"{1 / figure['median']:.1f} ({speed:,.0f} of {limit:,.0f})")
            name = search.replace(" / IndexPQ's ADC", "")
            target = "" if figure["target"] is None else f"{1 / figure['target']:.1f}"
            rows.append(f"| 8 x {bits} bits | {name} | {' | '.join(cells)} | {target} |")
    return rows


def test_readme__scan_figures_are_those_of_the_stored_results():
    results = json.loads((ROOT / "results" / "bench-scan.json").read_text())
    shown = README.split("(results/bench-scan.json)", 1)[1].splitlines()
    assert [line for line in shown if line.startswith("| 8 x")] == scan_rows(results)


SPEEDS = [  # the figures of a row of the README's table, top to bottom
    ("training step, conv, decoder linear",),
    ("training step, conv, decoder conv",),
    ("add, conv",),
    ("search, 1000 queries, adc", "search, 1000 queries, sdc"),
    ("search, 1 query at a time, adc", "search, 1 query at a time, sdc"),
    ("peak resident memory of add, mlp, 1000000 images",),
]


def speed_cells(results):
    """What the README's table of speeds has to say was measured."""
    figures = {figure["name"]: figure for figure in results["figures"]}
    return [
        " / ".join(
            f"{figures[name]['median']:.0f} MB"
            if figures[name]["unit"] == "MB"
            else f"{figures[name]['median']:.2f}"
            for name in names
        )
        for names in SPEEDS
    ]


def test_readme__speeds_are_those_of_the_stored_results():
    results = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    rows = README.split("(results/benchmarks.json)", 1)[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == speed_cells(results)


def second_look_rows(results):
    """The README's table of refinement, in percent."""
    ways = ["codes alone"]
    ways += [f"{name}, k_factor={k}" for name in ("RDecoder", "RFlat") for k in (4, 10)]
    rows = []
    for data, metric in (("mnist5k", "precision@10"), ("bsds-sift", "1-recall@10")):
        (found,) = (values for name, values in results.items() if name.startswith(data))
        rows.append(" | ".join(f"{100 * found[way][metric]:.1f}" for way in ways))
    return rows


def test_readme__second_looks_are_those_of_the_stored_results():
    results = json.loads((ROOT / "results" / "refinement.json").read_text())
    rows = README.split("(results/refinement.json)", 1)[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("|", 2)[2].strip(" |") for row in rows] == second_look_rows(results)
