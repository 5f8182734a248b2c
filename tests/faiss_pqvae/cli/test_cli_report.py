"""`faiss-pqvae report`: what a finished evaluation said, again, from its files alone."""

import csv
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from faiss_pqvae.cli import main
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.measure.results import read_results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.eval.report.text import table
from faiss_pqvae.registry import datasets


@pytest.fixture(scope="module")
def toy():
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = (80 * labels[:, None, None, None] + generator.integers(0, 90, (150, 1, 6, 6))).astype(
        np.uint8
    )
    return LabelledData(
        name="toy",
        protocol="toy",
        description="three greys",
        train=images[:120],
        database=images[:120],
        database_labels=labels[:120],
        queries=images[120:],
        query_labels=labels[120:],
        class_names=("dark", "grey", "light"),
    )


@pytest.fixture(scope="module")
def evaluated(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    codes = [("PQ", "PQ4x2np"), ("LSH", "LSH8rt")]
    methods = [exact(36), *(from_factory(name, 8, 36, factory) for name, factory in codes)]
    write_report(run(toy, methods, out, k=10), toy, out)
    return out


@pytest.fixture
def out(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    return tmp_path / "run"


def test_report__writes_the_same_page_without_data(out, capsys):
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    shutil.rmtree(out / "raw")
    main(["report", str(out)])
    assert (out / "report.html").read_bytes() == before
    printed = capsys.readouterr().out
    assert table(read_results(out / "results.json")) in printed
    assert "At 1 bytes" in printed
    assert "no gallery" not in printed


def test_report__compares_what_is_asked_for(out, capsys):
    before = (out / "results.json").read_bytes()
    main(["report", str(out), "--method", "LSH", "--metric", "precision@10"])
    printed = capsys.readouterr().out
    assert "LSH (adc) is" in printed
    assert "Differences in precision@10" in printed
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "OPQ"], r"expected a method of .*'PQ'.*, got 'OPQ'"),
        (["--metric", "map@11"], r"expected a metric of .*'map@10'.*, got 'map@11'"),
        (["--dataset", "nothing"], "expected a data set of"),
        (["--queries", "q.npy"], "expected --dataset with options of its data, got .*q.npy"),
        (["--size", "8", "8"], r"expected --dataset with options of its data, got .*\(8, 8\)"),
    ],
)
def test_report__rejects_what_was_not_measured(out, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(out), *options])
    assert re.search(message, capsys.readouterr().err)


def test_report__draws_a_lost_gallery_again(out, toy, capsys, register):
    register(datasets, "toy", lambda: toy)
    page = (out / "report.html").read_text()
    (out / "report_inputs.json").unlink()
    main(["report", str(out)])
    assert "--dataset toy draws it" in capsys.readouterr().out
    assert "Nearest images" not in (out / "report.html").read_text()
    main(["report", str(out), "--dataset", "toy"])
    assert (out / "report.html").read_text() == page
    assert "no gallery" not in capsys.readouterr().out


def test_report__rejects_other_data(out, toy, capsys, register):
    register(datasets, "other", lambda: replace(toy, name="other"))
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(out), "--dataset", "other"])
    assert "expected the data of the run" in capsys.readouterr().err


def test_report__needs_a_finished_run(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path)])
    assert "results.json" in capsys.readouterr().err


def test_report__compares_two_runs_of_the_same_data(toy, out, tmp_path, capsys):
    other = tmp_path / "other"
    codes = [("PQ", "PCA4,PQ4x2np"), ("OPQ", "OPQ4_36,PQ4x2np")]
    methods = [from_factory(name, 8, 36, factory) for name, factory in codes]
    run(toy, methods, other, k=10)
    main(["report", str(out), str(other)])
    printed = capsys.readouterr().out
    before, after = (
        next(row for row in read_results(folder / "results.json").rows if row.method == "PQ")
        for folder in (out, other)
    )
    difference = 100 * (after.metrics["map@10"] - before.metrics["map@10"])
    line = next(line for line in printed.splitlines() if line.startswith("PQ "))
    assert f"{difference:+.2f}" in line
    assert "Only in the first run: Exact L2 (exact), 1152 bits; LSH (adc), 8 bits." in printed
    assert "Only in the second run: OPQ (adc), 8 bits." in printed
    main(["report", str(out), str(out), "--metric", "precision@10"])
    printed = capsys.readouterr().out
    assert printed.count("+0.00  [+0.00, +0.00]") == 3
    assert "precision@10 %, from the first run to the second" in printed


def test_report__refuses_to_compare_other_data(toy, out, tmp_path, capsys):
    other = tmp_path / "other"
    fewer = replace(toy, queries=toy.queries[:20], query_labels=toy.query_labels[:20])
    run(fewer, [from_factory("PQ", 8, 36, "PQ4x2np")], other, k=10)
    relevant = tmp_path / "relevant"
    labels = replace(toy, query_labels=toy.query_labels[::-1].copy())
    run(labels, [from_factory("PQ", 8, 36, "PQ4x2np")], relevant, k=10)
    for folder, options, message in (
        (other, (), "two runs of the same data, got toy .* whose items differ"),
        (relevant, (), "two runs of the same data, got toy .* whose relevant items differ"),
        (out, ("--method", "PQ"), "expected neither --method nor --dataset with two runs"),
        (out, ("--metric", "none"), "expected rows with none that both runs have"),
        (tmp_path / "nothing", (), "no evaluation in .*nothing, which does not exist"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["report", str(out), str(folder), *options])
        assert re.search(message, capsys.readouterr().err)


def test_report__tables_for_other_programs_lie_beside_the_page(out):
    results = read_results(out / "results.json")
    with (out / "results.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert len(lines) == len(results.rows)
    rows = {row.method: row for row in results.rows}
    for line in lines:
        row = rows[line["method"]]
        assert float(line["map@10"]) == row.metrics["map@10"]
        assert float(line["map@10 low"]) == row.intervals["map@10"][0]
        assert float(line["p99 ms"]) == row.latency_ms["p99"]
        assert line["reference"] == str(int(row.reference))
    latex = (out / "table.tex").read_text()
    assert latex.count("\\\\") == 1 + len(results.rows)
    best = max(rows["PQ"], rows["LSH"], key=lambda row: row.metrics["map@10"])
    value = f"{100 * best.metrics['map@10']:.1f}"
    line = next(line for line in latex.splitlines() if line.startswith(f"{best.method} "))
    assert f"\\textbf{{{value}" in line
    exact_line = next(line for line in latex.splitlines() if line.startswith("Exact L2"))
    assert "textbf" not in exact_line
