"""What the pages of results say has to be what the stored results say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from faiss_pqvae.cli.recipes import SPREADS, Spread

ROOT = Path(__file__).parents[1]
NAMES = ("vectors", "images", "labels", "paper", "second-look", "speed")
FILES = (*(f"results/{name}.md" for name in NAMES), "tutorial/pictures.md")
# As the root sees their links.
PAGES = "\n".join((ROOT / "docs" / name).read_text("utf-8") for name in FILES).replace(
    "](../../", "]("
)
DEMO = "demo-seeds.json"


def rows_under(head):
    """The rows of the page's table whose first line begins so."""
    return PAGES.split(head, 1)[1].split("\n\n")[0].splitlines()[2:]


def stored(file):
    """A result file."""
    return json.loads((ROOT / "results" / file).read_text())


def paragraph_after(mark):
    """What follows a mark in its paragraph of the pages, on one line."""
    return " ".join(PAGES.split(mark, 1)[1].split("\n\n")[0].split())


def cell(row, metrics):
    """The first metric with half of its interval, the others bare, in percent."""
    shown = []
    for number, metric in enumerate(metrics):
        text = f"{100 * row['metrics'][metric]:.1f}"
        if number == 0 and metric in row["intervals"]:
            low, high = row["intervals"][metric]
            text += f" ± {50 * (high - low):.1f}"
        shown.append(text)
    return " / ".join(shown)


OURS = ("PQ-VAE", "DQN", "DPQ")


def result_table(results, metrics=None):
    """The page's table of an evaluation: a row a method, a column a code length, best in bold."""
    vectors = "1-recall@10" in results["rows"][0]["metrics"]
    images = ("map@1000", "map@1000/min(R,k)")
    metrics = metrics or (("1-recall@10", "1-recall@1") if vectors else images)
    rows = [row for row in results["rows"] if not row["reference"] and "=" not in row["search"]]
    bits = sorted({row["bits"] for row in rows})
    lines = {}
    for row in sorted(rows, key=lambda row: (row["method"].startswith(OURS), row["bits"])):
        ours = row["method"].startswith(OURS)
        name = f"{row['method']} ({row['search'].upper()})" if ours else row["method"]
        lines.setdefault(name, dict.fromkeys(bits, ""))[row["bits"]] = cell(row, metrics)
        best = max(r["metrics"][metrics[0]] for r in rows if r["bits"] == row["bits"])
        if row["metrics"][metrics[0]] == best:
            lines[name][row["bits"]] = f"**{cell(row, metrics)}**"
    head = f"| method | {' | '.join(f'{length} bits' for length in bits)} |"
    body = [f"| {name} | {' | '.join(cells.values())} |" for name, cells in lines.items()]
    return [head, f"| --- |{' --- |' * len(bits)}", *body]


# Of the rows of both files, those that the pages show.
CONTRASTIVE_ROWS = {
    *("PCA+ITQ", "PQ", "PCA+OPQ", "PCA+OPQ (2x8)", "PCA+OPQ (4x8)", "PCA+RQ"),
    "PQ-VAE, contrastive",
}


def test_pages__figures_of_the_contrastive_objective_are_stored():
    files = ("contrastive-32.json", "contrastive-16-64.json")
    parts = [stored(file) for file in files]
    rows = [row for part in parts for row in part["rows"] if row["method"] in CONTRASTIVE_ROWS]
    table = PAGES.split(f"(results/{files[1]})", 1)[1].split("\n\n| method", 1)[1]
    assert f"| method{table}".split("\n\n")[0].splitlines() == result_table({"rows": rows})
    assert {part["protocol"] for part in parts} == {"pqvae"}
    assert {part["n_queries"] for part in parts} == {10_000}
    for row in rows:
        if row["method"].startswith("PQ-VAE"):
            log = (ROOT / "results" / f"contrastive-{row['bits']}.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in log]
            assert events[-1]["elapsed_s"] == row["train_s"]
            assert set(events[-2]["usage"]) == {1.0}


# Of the rows of results with labels, those that the pages show.
LABELLED_ROWS = {"PCA+ITQ", "PCA+OPQ", "PCA+RQ", "DQN", "DPQ"}
LABELLED = ("dpq-few-labels", "dqn-few-labels", "dqn-few-labels-lengths")


def test_pages__figures_with_few_labels_are_stored():
    parts = [stored(f"{file}.json") for file in LABELLED]
    found = {}
    for part in parts:
        assert (part["protocol"], part["n_database"], part["n_queries"]) == ("dqn", 54_000, 1000)
        for row in part["rows"]:
            key = row["method"], row["bits"], row["search"]
            assert found.setdefault(key, row)["metrics"] == row["metrics"]  # the same baselines
    rows = [row for row in found.values() if row["method"] in LABELLED_ROWS]
    table = PAGES.split(f"(results/{LABELLED[-1]}.json)", 1)[1].split("\n\n| method", 1)[1]
    expected = result_table({"rows": rows}, ("map@54000",))
    assert f"| method{table}".split("\n\n")[0].splitlines() == expected
    adc = [row for row in rows if (row["method"], row["search"]) == ("DPQ", "adc")]
    assert [row["bits"] for row in adc] == [8, 16, 24, 32]
    precision = [row["metrics"]["map@54000"] for row in adc]
    assert sorted(precision) == precision  # grows with the length


def test_pages__figures_with_all_labels_are_stored():
    results = stored("dpq-all-labels.json")
    assert (results["protocol"], results["n_queries"]) == ("pqvae", 10_000)
    text = paragraph_after("(results/dpq-all-labels.json)")
    for row in results["rows"]:
        if row["method"] == "DPQ":
            assert cell(row, ("map@1000", "map@1000/min(R,k)")) in text


@pytest.mark.parametrize("file", [*LABELLED, "dpq-all-labels"])
def test_pages__trainings_with_labels_are_those_of_the_logs(file):
    ours = [row for row in stored(f"{file}.json")["rows"] if row["method"] in ("DQN", "DPQ")]
    longest = max(row["bits"] for row in ours)
    for row in ours:
        bits = longest if row["method"] == "DPQ" else row["bits"]  # one training for all lengths
        log = (ROOT / "results" / f"{file}-{bits}.jsonl").read_text().splitlines()
        assert json.loads(log[-1])["elapsed_s"] == row["train_s"]


def test_pages__ablation_with_labels_is_stored():
    record = stored("labels-ablation.json")
    table = rows_under("| changed, with labels |")

    def shown(precision):
        if precision is None:
            return ""
        return f"{100 * precision['mean']:.1f} ± {100 * precision['half_interval']:.1f}"

    expected = []
    for row in record["rows"]:
        cells = [shown(row["map"].get(bits)) for bits in ("8", "16", "24", "32")]
        expected.append(f"| {' | '.join([row['changed'], *cells])} | {row['epochs']:.1f} |")
    assert table == expected
    without = ("no quantization loss (two steps)", "no soft", "no hard")  # as the papers have it
    assert {f"DPQ, {name}" for name in without} <= {row["changed"] for row in record["rows"]}


def differences(file, *, against):
    """What the contrastive objective is above the best of the others, at every length."""
    results = stored(file)
    found = {}
    for row in results["comparisons"]:
        if row["method"] == "PQ-VAE, contrastive" and row["other"].startswith(against):
            now = found.setdefault(row["bits"], row)
            found[row["bits"]] = min(now, row, key=lambda row: row["difference"])
    points = {bits: [100 * row["difference"], *row["interval"]] for bits, row in found.items()}
    return {
        bits: (f"{difference:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]")
        for bits, (difference, low, high) in points.items()
    }


def test_pages__differences_of_the_contrastive_objective_are_stored():
    text = " ".join(PAGES.split())
    (found,) = differences(DEMO, against="PQ-VAE").values()
    assert f"above reconstruction by {found[0]} points {found[1]}" in text
    longest = differences("contrastive-16-64.json", against="")
    for bits, (points, interval) in (
        differences("contrastive-32.json", against="") | longest
    ).items():
        assert re.search(rf"{points} (points )?{re.escape(interval)} at {bits}", text)


def test_pages__figures_of_the_curve_are_stored():
    record = stored("contrastive-curve.json")
    points = {
        curve["objective"]: [100 * point["map@1000"] for point in curve["points"]]
        for curve in record["curves"]
    }
    text = paragraph_after("(results/contrastive-curve.json)")
    assert f"reconstruction ends at {points['reconstruction'][-1]:.1f}" in text
    assert f"contrastive at {points['contrastive'][-1]:.1f}" in text
    assert f"both in one sum at {points['both'][-1]:.1f}" in text
    assert f"PCA+OPQ is at {100 * record['PCA+OPQ']:.1f}" in text
    assert min(points["contrastive"]) > max(points["reconstruction"])
    assert {curve["points"][-1]["elapsed_s"] // 60 for curve in record["curves"]} == {20}


def test_pages__figures_of_the_seeds_are_stored():
    results = stored("contrastive-seeds.json")
    assert results["environment"]["cores"] == 2
    values = {
        row["method"]: [f"{100 * value:.1f}" for value in row["seeds"]["map@1000"]]
        for row in results["rows"]
        if row["search"] == "adc"
    }
    text = paragraph_after("(results/contrastive-seeds.json)")
    for name, start in (("PQ-VAE, contrastive", "ends at "), ("PCA+OPQ", "PCA+OPQ at ")):
        first, second, third = values[name]
        assert f"{start}{first}, {second} and {third}" in text


def test_pages__seeds_of_the_contrastive_objective_are_told_beside_its_table():
    (values,) = (
        [100 * value for value in row["seeds"]["map@1000"]]
        for row in stored("contrastive-seeds.json")["rows"]
        if (row["method"], row["search"]) == ("PQ-VAE, contrastive", "adc")
    )
    text = " ".join(PAGES.split("## CIFAR-10 (JPEG): codes that know", 1)[1].split())
    apart = max(values) - min(values)
    assert f"three seeds of the training of 20 minutes below end {apart:.1f} points apart" in text


def demo_spreads():
    """Of the learned codes of the demo with several seeds: figures in percent."""
    found = []
    for row in stored(DEMO)["rows"]:
        if row["marked"] and row["search"] == "adc":
            values = [100 * value for value in row["seeds"]["map@1000"]]
            figures = np.mean(values), np.std(values, ddof=1), min(values), max(values)
            rounded = [round(float(figure), 1) for figure in figures]
            found.append(Spread(row["method"], row["bits"], row["search"], len(values), *rounded))
    return tuple(found)


def test_pages__the_demo_says_how_far_seeds_are_apart():
    """Here and in what the demo prints."""
    spreads = demo_spreads()
    assert spreads == SPREADS
    text = " ".join(PAGES.split("## MNIST-5k (the demo)", 1)[1].split("\n## ")[0].split())
    assert "faiss-pqvae demo --seeds 0 1 2 3 4`" in text
    for one in spreads:
        shown = f"{one.mean:.1f} ± {one.deviation:.1f}, from {one.low:.1f} to {one.high:.1f}"
        assert f"{one.method} at {one.bits} bits {shown}" in text


SINGLE_TRAININGS = [  # the section, and the words in which it says that a figure is of one seed
    ("## CIFAR-10 (JPEG): the paper's Table 1", "One training each"),
    ("## CIFAR-10 (JPEG): codes that know", "One training each"),
    ("## CIFAR-10 (JPEG): with labels", "one training each"),
    ("## Vectors: what was learned", "Each was trained once"),
]


@pytest.mark.parametrize(("section", "words"), SINGLE_TRAININGS)
def test_pages__says_where_a_figure_is_of_one_seed(section, words):
    assert words in " ".join(PAGES.split(section, 1)[1].split("\n## ")[0].split())


def test_pages__ablation_of_the_contrastive_objective_is_stored():
    record = stored("contrastive-ablation.json")
    table = rows_under("| changed | mAP@1000 |")
    assert table == [
        f"| {row['changed']} | {100 * row['map@1000']:.1f} ± {100 * row['half_interval']:.1f} | "
        f"{100 * row['usage']:.0f} % | {row['epochs']:.1f} |"
        for row in record["rows"]
    ]
    assert min(row["usage"] for row in record["rows"]) > 0.9
    default = record["rows"][0]
    assert default["changed"] == "default"
    below, above = set(), set()
    for row in record["rows"]:
        gain = row["map@1000"] - default["map@1000"]
        if abs(gain) > max(row["half_interval"], default["half_interval"]):
            (above if gain > 0 else below).add(row["changed"])
    bits_16 = {"16 bits", "16 bits, from the default"}
    assert below == {"softness 20", "batches of 32", "batches of 512"} | bits_16
    assert above == {"width 64", "64 bits, from the default"}


def test_pages__cost_of_views_is_stored():
    figures = stored("bench-views.json")["figures"]
    network, kornia = (figure["median"] for figure in figures)
    text = " ".join(PAGES.split("(results/bench-views.json)", 1)[0].split()[-24:])
    assert f"They cost {100 * network:.0f} % of a step of the network" in text
    assert round(1 / kornia) == 5
    assert "a fifth of what kornia's cost" in text


def test_pages__figures_of_prefixes_are_stored():
    results = stored("contrastive-prefixes.json")
    found = {
        (row["changed"], int(bits)): f"{100 * scores['map@1000']:.1f}"
        for row in results["rows"]
        for bits, scores in row["scores_by_bits"].items()
    }
    nested = [found["64 bits and its prefixes", bits] for bits in (16, 32, 64)]
    alone = [found["16 bits", 16], found["default", 32], found["64 bits", 64]]
    text = " ".join(PAGES.split("nested prefixes of a code", 1)[1].split("\n## ")[0].split())
    assert f"came to {' / '.join(nested)} at 16 / 32 / 64 bits" in text
    assert f"trainings of their own to {' / '.join(alone)}" in text
    assert f"to {found['16 bits, from the default', 16]} at 16 bits" in text
    assert f"and {found['64 bits, from the default', 64]} at 64" in text


@pytest.mark.parametrize("file", [DEMO, "cifar10-jpeg.json"])
def test_pages__figures_are_those_of_the_stored_results(file):
    results = stored(file)
    assert results["command"].startswith("faiss-pqvae ")
    table = PAGES.split(f"(results/{file})", 1)[1].split("\n\n| method", 1)[1].split("\n\n")[0]
    assert f"| method{table}".splitlines() == result_table(results)
    assert results["n_database"] >= 4000


def scan_rows(results):
    """The page's table of scans: how many times faster, speed, and what memory would allow."""
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


def test_pages__scan_figures_are_those_of_the_stored_results():
    results = stored("bench-scan.json")
    shown = PAGES.split("(results/bench-scan.json)", 1)[1].splitlines()
    assert [line for line in shown if line.startswith("| 8 x")] == scan_rows(results)


SPEEDS = [  # the figures of a row of the page's table, top to bottom
    ("training step, conv, decoder linear",),
    ("training step, conv, decoder conv",),
    ("add, conv",),
    ("search, 1000 queries, adc", "search, 1000 queries, sdc"),
    ("search, 1 query at a time, adc", "search, 1 query at a time, sdc"),
    ("peak resident memory of add, mlp, 1000000 images",),
]


def speed_cells(results):
    """What the page's table of speeds has to say was measured."""
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


def test_pages__speeds_are_those_of_the_stored_results():
    results = stored("benchmarks.json")
    rows = PAGES.split("(results/benchmarks.json)", 1)[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == speed_cells(results)


def second_look_rows(results):
    """The page's table of refinement, in percent."""
    ways = ["codes alone"]
    ways += [f"{name}, k_factor={k}" for name in ("RDecoder", "RFlat") for k in (4, 10)]
    rows = []
    for data, metric in (("mnist5k", "precision@10"), ("bsds-sift", "1-recall@10")):
        (found,) = (values for name, values in results.items() if name.startswith(data))
        rows.append(" | ".join(f"{100 * found[way][metric]:.1f}" for way in ways))
    return rows


def test_pages__second_looks_are_those_of_the_stored_results():
    results = stored("refinement.json")
    rows = PAGES.split("(results/refinement.json)", 1)[1].split("\n\n")[1].splitlines()[2:]
    assert [row.split("|", 2)[2].strip(" |") for row in rows] == second_look_rows(results)


def test_pages__cost_of_an_evaluation_is_that_of_the_stored_result():
    results = stored("bench-evaluate.json")
    medians = [f["median"] for f in results["figures"]]
    judging, everything, map_ms, memory_mb, *of_vectors = medians
    text = PAGES.split("An evaluation of 12 methods", 1)[1].split("## Scans")[0]
    text = " ".join(text.split())
    assert f"report take {100 * judging:.1f} % of the time" in text
    assert f", {100 * everything:.1f} % together" in text
    assert f"takes {map_ms:.0f} ms; {memory_mb / 1000:.1f} GB" in text
    judging, everything, memory_mb = of_vectors
    assert (
        f"in 1,000,000 vectors these are {100 * judging:.1f} % and {100 * everything:.1f} %" in text
    )
    assert f"and {memory_mb / 1000:.1f} GB" in text


def test_pages__figures_of_decoding_once_are_those_of_the_stored_result():
    _, filling = stored("bench-images.json")["figures"]
    text = " ".join(PAGES.split("A training decodes an image once", 1)[1].split("\n## ")[0].split())
    once, before = (filling["details"][key] for key in ("ms_per_image", "ms_per_image_before"))
    assert f"take {once:.0f} ms each" in text
    assert f"in place of {before:.0f} ms an epoch" in text


# The first table: what it calls a row, its method and its search.
VECTOR_ROWS = {
    "**`PQVAE8,RDecoder`**, 1,000 candidates": ("PQ-VAE, re-ranked", "k_factor=10"),
    "**`PQVAE8,RDecoder`**, 100 candidates": ("PQ-VAE, re-ranked", "k_factor=1"),
    "**`PQVAE8`**, tables only": ("PQ-VAE", "adc"),
    "LSQ, a byte of it the norm": ("LSQ, norm inside", "adc"),
    "RQ, a byte of it the norm": ("RQ, norm inside", "adc"),
    '`PQVAE8`, `objective="ranking"`': ("PQ-VAE, product", "adc"),
    "OPQ": ("OPQ", "adc"),
    "Product-residual, a byte of it the norm": ("Product-residual, norm inside", "adc"),
    "PQ": ("PQ", "adc"),
    "*LSQ, every item decoded*": ("LSQ, decoded", "reference"),
    "*RQ, every item decoded*": ("RQ, decoded", "reference"),
    "*Product-residual, every item decoded*": ("Product-residual, decoded", "reference"),
}
RECALLS = "1-recall@1", "1-recall@10"
VECTOR_METRICS = {
    "vectors-bsds-sift-8.json": RECALLS,
    "vectors-debian-text-half-8.json": RECALLS,
}


def vector_table():
    """The first table of vectors, of the stored results."""
    rows = []
    for name, key in VECTOR_ROWS.items():
        cells = [name]
        for file, metrics in VECTOR_METRICS.items():
            results = stored(file)
            (row,) = (row for row in results["rows"] if (row["method"], row["search"]) == key)
            assert row["bytes_per_vector"] == 8
            for metric in metrics:
                low, high = row["intervals"][metric]
                half = 100 * (high - low) / 2
                cells.append(f"{100 * row['metrics'][metric]:.1f} ±{half:.1f}")
        cells += [f"{row[key]:,.0f}" for key in ("encode_us", "train_s", "queries_per_s")]
        cells.append(f"{row['model_bytes'] / 1e6:.1f}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def test_pages__the_first_table_is_that_of_the_stored_results():
    table = rows_under("\n| 8 bytes |")
    assert table == vector_table()
    assert PAGES.index("\n| 8 bytes |") == PAGES.index("\n| ")  # the first one


# The second table of vectors: files, in its order.
VECTORS = (
    "vectors-bsds-sift-8.json",
    "vectors-bsds-sift-base-8.json",
    "vectors-bsds-sift-16.json",
    "vectors-debian-text-half-8.json",
    "vectors-debian-text-8.json",
    "vectors-debian-text-half-16.json",
    "vectors-debian-text-16.json",
    "vectors-debian-text-half-32.json",
    "vectors-debian-text-32.json",
)
REAL = "vectors-debian-text-8.json"  # whose nDCG is told


def both_recalls(row):
    """1-recall@1 and @10, in percent."""
    return " / ".join(f"{100 * row['metrics'][metric]:.1f}" for metric in RECALLS)


def best_of(rows, ending):
    """The best of FAISS's additive codes that are compared in one way, with its name."""
    kind = [row for row in rows if row["method"].endswith(ending)]
    if not kind:
        return ""
    best = max(kind, key=lambda row: row["metrics"]["1-recall@1"])
    return f"{best['method'].removesuffix(ending)} {both_recalls(best)}"


def lengths_table():
    """The second table of vectors, of the stored results."""
    lines = []
    for file in VECTORS:
        results = stored(file)
        rows = results["rows"]
        by_name = {(row["method"], row["search"]): row for row in rows}
        deep = by_name["PQ-VAE, re-ranked", "k_factor=1"]
        tables, opq = by_name["PQ-VAE", "adc"], by_name.get(("OPQ", "adc"))
        of_sums = tables["config"]["model"]["objective"] == "additive"
        cells = [
            f"{results['dataset']}, {deep['bytes_per_vector']}",
            deep["trained_on"],
            both_recalls(deep),
            both_recalls(tables) if of_sums else f"*{both_recalls(tables)}*",
            "" if opq is None else both_recalls(opq),
            best_of(rows, ", norm inside"),
            best_of(rows, ", decoded"),
            f"{deep['model_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_pages__the_second_table_of_vectors_is_that_of_the_stored_results():
    table = rows_under("\n| data, bytes | learned from |")
    assert table == lengths_table()


def test_pages__lsq_at_32_bytes_is_that_of_the_stored_results():
    text = PAGES.split("LSQ at 32 bytes, every item decoded, is below RQ", 1)[1].split("\n\n")[0]
    text = " ".join(text.split())
    best = {part: stored(f"vectors-debian-text-{part}32.json")["rows"] for part in ("half-", "")}
    for file, part, words in (
        ("lsq-debian-text-half-32", "half-", "half of the texts {}, in {} minutes of training"),
        ("lsq8-debian-text-half-32", "half-", "FAISS's 25, {} in {} minutes"),
        ("lsq8-debian-text-32", "", "with 8 rounds alone, {}"),
    ):
        _, row = stored(f"vectors-{file}.json")["rows"]
        assert row["method"].startswith("LSQ, decoded")
        assert words.format(both_recalls(row), f"{row['train_s'] / 60:.0f}") in text
        (rq,) = (other for other in best[part] if other["method"] == "RQ, decoded")
        assert row["metrics"]["1-recall@1"] < rq["metrics"]["1-recall@1"]


def test_pages__real_relevance_of_texts_is_that_of_the_stored_result():
    rows = {(row["method"], row["search"]): row for row in stored(REAL)["rows"]}
    deep, lsq, opq, exact = (
        f"{100 * rows[key]['metrics']['ndcg@10']:.1f}"
        for key in (
            ("PQ-VAE, re-ranked", "k_factor=1"),
            ("LSQ, decoded", "reference"),
            ("OPQ", "adc"),
            ("Exact L2", "exact"),
        )
    )
    text = " ".join(PAGES.split("nDCG@10 of the real relevance", 1)[1].split("\n\n")[0].split())
    assert f"{deep} by `RDecoder`, {lsq} by LSQ decoded, {opq} by OPQ, {exact} by exact" in text


LISTS = {
    "bsds-sift": "inverted-bsds-sift.json",
    "debian-text": "inverted-debian-text.json",
}
VISITED = (1, 4, 16, 64)


def lists_table(file):
    """The page's table of inverted lists: recalls and queries a second, by lists visited."""
    lines = []
    for name, row in stored(file)["rows"].items():
        cells = [name]
        for nprobe in VISITED:
            recalls = [100 * row[f"{metric}, nprobe={nprobe}"][0] for metric in RECALLS]
            speed = row[f"queries per second, nprobe={nprobe}"]
            cells.append(f"{recalls[0]:.1f} / {recalls[1]:.1f}, {speed:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@pytest.mark.parametrize("data", LISTS)
def test_pages__tables_of_inverted_lists_are_those_of_the_stored_results(data):
    mark = f"(results/{LISTS[data]})"
    table = PAGES.split(mark, 1)[1].split("\n| 8 bytes, 1,024 lists |", 1)[1].split("\n\n")[0]
    assert table.splitlines()[2:] == lists_table(LISTS[data])


@pytest.mark.parametrize("row", ["PQVAE8 additive", "PQVAE8,RDecoder, 100 candidates"])
def test_pages__gains_of_inverted_lists_are_those_of_the_stored_results(row):
    text = " ".join(PAGES.split())
    for file in LISTS.values():
        found = stored(file)["rows"][f"IVF1024,{row}"]
        for at in (1, 10):
            gains = [100 * v[1] for name, v in found.items() if name.startswith(f"1-recall@{at},")]
            assert f"{min(gains):.1f} to {max(gains):.1f}" in text


def test_pages__costs_of_the_decoder_are_those_of_the_stored_result():
    look, narrow, *adding, memory = (
        figure["median"] for figure in stored("bench-decoder.json")["figures"]
    )
    text = " ".join(PAGES.split("**What the decoder costs**", 1)[1].split("\n\n")[0].split())
    assert f"takes {look:.1f} times the scan" in text
    effort_0, effort_4, effort_16 = adding
    assert f"takes {effort_16:.0f} us an item" in text
    assert f"{effort_4:.0f} with 4 and {effort_0:.0f} with 0" in text
    assert f"{narrow:.1f} times with networks of width 16" in text
    assert f"needs {memory:.0f} MB" in text


def test_pages__scanns_codes_are_those_of_the_stored_results():
    lines, speeds = [], []
    for data in ("bsds-sift", "debian-text"):
        by_name = {
            (row["method"], row["bits"]): row
            for row in stored(f"vectors-scann-{data}.json")["rows"]
        }
        for bits in sorted(bits for method, bits in by_name if method == "ScaNN"):
            cells = [both_recalls(by_name[method, bits]) for method in ("ScaNN", "PQ", "OPQ")]
            lines.append(f"| {data}, {bits // 8} | {' | '.join(cells)} |")
            scann, opq = (by_name[method, bits]["queries_per_s"] for method in ("ScaNN", "OPQ"))
            speeds.append(scann / opq)
    assert rows_under("\n| data, bytes | ScaNN |") == lines
    assert f"answers {min(speeds):.0f} to {max(speeds):.0f} times as many queries" in PAGES


def parts_table():
    """The page's table of what each part of a deep decoder is worth."""
    lines = []
    for name, row in stored("parts-debian-text.json")["rows"].items():
        cells = [name]
        for at in (1, 10):
            recall, gain = ([100 * x for x in row[f"{kind}@{at}"]] for kind in ("1-recall", "gain"))
            compared = "" if name == "main" else f"{gain[0]:+.1f} ±{gain[1]:.1f}"
            cells += [f"{recall[0]:.1f}", compared]
        cells.append(f"{row['relative_error']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_pages__what_parts_are_worth_is_that_of_the_stored_result():
    table = rows_under("\n| one thing changed |")
    assert table == parts_table()


def test_pages__binary_codes_of_vectors_are_those_of_the_stored_result():
    rows = {(row["method"], row["bits"]): row for row in stored("bsds-sift.json")["rows"]}
    found = [f"{100 * rows[name, 64]['metrics']['1-recall@10']:.1f}" for name in ("ITQ", "LSH")]
    text = " ".join(PAGES.split("Binary codes of 8 bytes", 1)[1].split("\n\n")[0].split())
    assert "ITQ finds {} % of the neighbours among the first 10, LSH {} %".format(*found) in text
