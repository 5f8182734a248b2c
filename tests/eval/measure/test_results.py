import json
import re

import pytest

from faiss_pqvae.eval.measure.results import (
    Comparison,
    Results,
    Row,
    best_rows,
    main_metric,
    metric_names,
    ranked_rows,
    read_results,
    sort_rows,
    write_results,
)
from faiss_pqvae.eval.report.shown import best_settings
from faiss_pqvae.eval.report.text import (
    comparison_table,
    levels_table,
    seeds_table,
    sentences,
    table,
)


def row(method="PQ", bits=64, value=0.5, **changes):
    defaults = {
        "method": method,
        "bits": bits,
        "bytes_per_vector": bits // 8,
        "search": "adc",
        "metrics": {"map@1000": value, "map@1000/min(R,k)": value / 2, "precision@100": value},
        "train_s": 1.0,
        "add_s": 0.25,
        "search_s": 2,
        "config": {"factory": "PQ8x8np"},
        "curves": {"k": [1.0, 10.0], "precision": [0.5, 0.25], "recall": [0.1, 0.5]},
        "key": "0" * 20,
    }
    return Row(**{**defaults, **changes})


def results(*rows, **changes):
    defaults = {
        "dataset": "blobs",
        "protocol": "halves",
        "n_database": 4000,
        "n_queries": 1000,
        "environment": {"cores": 2},
        "command": "faiss-pqvae demo",
        "created": "2026-01-01T00:00:00+00:00",
        "data": "blobs in 8 x 8 pixels",
    }
    return Results(rows=tuple(rows), **{**defaults, **changes})


def comparison(difference=0.028, interval=(0.025, 0.031), p=0.0, **changes):
    defaults = {
        "method": "PQ-VAE",
        "search": "adc",
        "other": "OPQ",
        "other_search": "adc",
        "bits": 64,
        "bytes_per_vector": 8,
        "metric": "map@1000",
        "difference": difference,
        "interval": list(interval),
        "p": p,
        "p_single": p,
    }
    return Comparison(**{**defaults, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


def edited(path, change):
    """Writes good results, applies `change` to the JSON, writes it back."""
    write_results(results(row()), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_write_results__read_back_equal(path):
    sure = {
        "intervals": {"map@1000": [0.4, 0.6]},
        "keys": ["0" * 20, "1" * 20, "2" * 20],
        "seeds": {"map@1000": [0.4, 0.5, 0.6]},
        "seed_intervals": {"map@1000": [0.4, 0.6]},
    }
    written = results(
        row(**sure, trained_on="half: 7 items", model_bytes=12, encode_us=3.5, queries_per_s=2.0),
        row("Exact L2", 32 * 784, reference=True),
        command=None,
        comparisons=(comparison(),),
        confidence={"level": 0.95},
        fingerprint="f" * 64,
    )
    write_results(written, path)
    assert read_results(path) == written
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_write_results__has_the_keys_of_the_contract(path):
    write_results(results(row()), path)
    content = json.loads(path.read_text())
    whole = "format dataset protocol n_database n_queries environment rows command created data"
    assert set(whole.split()) <= set(content)
    part = "method bits bytes_per_vector search metrics train_s add_s search_s config"
    assert set(part.split()) <= set(content["rows"][0])
    assert content["format"] == 1


def test_write_results__keeps_the_old_file_when_it_fails(path):
    write_results(results(row()), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(results(row(value=float("nan"))), path)
    assert path.read_bytes() == before


def test_read_results__takes_the_smallest_file_of_the_contract(path):
    def shrink(content):
        for key in ("k", "command", "created", "data", "comparisons", "confidence", "fingerprint"):
            del content[key]
        added = ("intervals", "keys", "seeds", "seed_intervals")
        added = (*added, "trained_on", "model_bytes", "encode_us", "queries_per_s")
        for key in ("curves", "key", "reference", *added):
            del content["rows"][0][key]
        content["added later"] = content["rows"][0]["added later"] = 1

    read = read_results(edited(path, shrink))
    assert (read.k, read.command, read.rows[0].curves) == (1000, None, {})
    first = read.rows[0]
    assert (first.trained_on, first.model_bytes, first.encode_us, first.queries_per_s) == (
        *("", None, None, None),
    )


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff\xfe", b"not json"])
def test_read_results__rejects_what_is_no_json(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*results.json: expected JSON"):
        read_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "expected format 1, got 2; a newer version"),
        (lambda c: c.update(format=0), "expected format 1, got 0"),
        (lambda c: c.update(format="1"), "expected 'format' in the file as int, got str"),
        (lambda c: c.pop("dataset"), "expected a key 'dataset' in the file"),
        (lambda c: c.update(n_queries=True), "expected 'n_queries' in the file as int, got bool"),
        (lambda c: c.update(rows={}), "expected 'rows' in the file as list, got dict"),
        (lambda c: c["rows"].append(3), "expected row 1 to be an object, got int"),
        (lambda c: c["rows"][0].pop("bits"), "expected a key 'bits' in row 0"),
        (lambda c: c["rows"][0].update(train_s="1"), "expected 'train_s' in row 0 as float"),
        (lambda c: c["rows"][0]["metrics"].update(x=None), "expected 'x' in the metrics of row 0"),
        (lambda c: c["rows"][0]["curves"].update(k=1), "expected 'k' in the curves of row 0"),
        (
            lambda c: c["rows"][0].update(intervals={"a": [1.0]}),
            "expected 2 numbers as 'a' in the intervals of row 0, got 1",
        ),
        (lambda c: c["rows"][0].update(keys=[1]), "expected 'keys' in row 0 as str, got int"),
        (lambda c: c.update(comparisons=[{}]), "expected a key 'method' in comparison 0"),
        (lambda c: c.update(left_out=[{}]), "expected a key 'method' in leftout 0"),
    ],
)
def test_read_results__names_what_is_wrong(path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_results(edited(path, change))


def test_read_results__rejects_a_list(path):
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected the file to be an object, got list"):
        read_results(path)


def test_best_rows__one_a_code_length_without_references():
    rows = [
        row("PQ", 32, 0.3),
        row("PQ-VAE", 32, 0.4),
        row("PQ", 64, 0.6),
        row("PQ-VAE", 64, 0.5),
        row("Exact L2", 25088, 0.9, reference=True),
    ]
    assert best_rows(results(*rows)) == [rows[1], rows[2]]


def test_table__sorted_aligned_and_marked():
    text = table(
        results(
            row("Exact L2", 25088, 0.9, reference=True, search="exact"),
            row("PQ", 64, 0.5),
            row("PQ-VAE", 64, 0.61, search="sdc", marked=True),
            row("PQ-VAE", 64, 0.62),
            row("PQ", 32, 0.25),
        )
    )
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["method", "bits", "bytes", "search"]
    assert [line.split()[0] for line in lines if "---" not in line] == [
        "method", "PQ", "PQ-VAE", ">", "PQ", "Exact"
    ]  # fmt: skip
    assert [line.endswith("*") for line in lines[2:6]] == [True, True, False, False]
    assert lines[4].startswith("> PQ-VAE ")
    values = ["8", "adc", "62.00", "31.00", "62.00", "1.00", "0.25", "2.00", "*"]
    assert lines[3].split() == ["PQ-VAE", "64", *values]
    assert lines[6] == lines[1]
    ends = {line.index(".", 30) for line in lines[2:6]}
    assert len(ends) == 1


def test_table__of_vectors_says_what_rows_cost_and_learned_from():
    """Of 4,000 items and 1,000 queries; what is made of seconds is there for older files, too."""
    metrics = {"1-recall@10": 0.5, "ndcg@10": 0.25}
    new = {"trained_on": "learn: 70,000 items", "model_bytes": 123456, "latency_ms": {"p99": 1.25}}
    text = table(
        results(row("PQ", metrics=metrics, **new), row("OPQ", metrics=metrics, search_s=0.0))
    )
    head, _, *lines = text.splitlines()
    costs = ["train s", "encode us", "queries/s", "p99 ms", "model bytes", "trained on"]
    assert re.split(r" {2,}", head)[4:] == ["1-recall@10 %", "nDCG@10 %", *costs]
    assert [re.split(r" {2,}", line)[6:] for line in lines] == [
        ["1.00", "62.5", "-", "-", "-", "-", "*"],
        ["1.00", "62.5", "500", "1.25", "123,456", "learn: 70,000", "*"],
    ]


def test_table__says_what_is_kept_of_exact_search():
    judged = {"1-recall@10": 0.5, "ndcg@10": 0.25, "mrr@10": 0.2}
    kept = {"kept": {"ndcg@10": 0.625, "mrr@10": 0.5}, "kept_intervals": {"ndcg@10": [0.6, 0.65]}}
    page = results(
        row("PQ", metrics=judged, **kept),
        row("Exact L2", bits=4096, metrics=judged, search="exact", reference=True),
    )
    head, _, first, _, exact = table(page).splitlines()
    assert re.split(r" {2,}", head)[4:6] == ["nDCG@10: % of exact", "1-recall@10 %"]
    assert re.split(r" {2,}", first)[4] == "62.5 [60.0, 65.0]"
    assert re.split(r" {2,}", exact)[4] == "-"


def test_levels_table__reads_curves_where_there_are_some():
    found = {
        ("IVF", "nprobe=1"): (0.65, 900.0),
        ("IVF", "nprobe=4"): (0.85, 500.0),
        ("IVF", "nprobe=16"): (0.86, 100.0),
        ("PQ", "adc"): (0.82, 300.0),
        ("OPQ", "adc"): (0.9, 200.0),
    }
    rows = [
        row(name, metrics={"1-recall@10": value}, search=search, queries_per_s=speed)
        for (name, search), (value, speed) in found.items()
    ]
    lines = levels_table(results(*rows)).splitlines()
    assert lines == [
        "Fastest settings by 1-recall@10 reached, queries a second:",
        "  50 %: IVF (nprobe=1), 8 bytes: 900; PQ (adc), 8 bytes: 300; OPQ (adc), 8 bytes: 200",
        "  60 %: IVF (nprobe=1), 8 bytes: 900; PQ (adc), 8 bytes: 300; OPQ (adc), 8 bytes: 200",
        "  70 %: IVF (nprobe=4), 8 bytes: 500; PQ (adc), 8 bytes: 300; OPQ (adc), 8 bytes: 200",
        "  80 %: IVF (nprobe=4), 8 bytes: 500; PQ (adc), 8 bytes: 300; OPQ (adc), 8 bytes: 200",
        "  90 %: OPQ (adc), 8 bytes: 200",
    ]
    assert levels_table(results(*rows[3:])) == ""
    assert levels_table(results(rows[0], *rows[3:])) == ""


def test_table__shows_a_missing_metric_as_a_dash():
    line = table(results(row(metrics={}))).splitlines()[2]
    assert line.split() == ["PQ", "64", "8", "adc", "-", "-", "-", "1.00", "0.25", "2.00"]


def test_metric_names__follow_what_the_rows_have():
    assert metric_names(results(row(), k=50)) == ["map@50", "map@50/min(R,k)", "precision@50"]
    names = ["10-recall@10", "1-recall@100", "1-recall@1", "ndcg@10", "100-recall@100"]
    names.append("1-recall@10")
    vectors = results(row(metrics=dict.fromkeys(names, 0.5)))
    assert metric_names(vectors) == [
        *("1-recall@1", "1-recall@10", "1-recall@100", "10-recall@10", "100-recall@100"),
        "ndcg@10",
    ]
    assert main_metric(vectors) == "1-recall@10"
    assert main_metric(results(row(metrics={"1-recall@1": 0.5}))) == "1-recall@1"
    assert main_metric(results(k=7)) == "map@7"


def test_best_rows__of_vectors_follow_1_recall_at_10():
    rows = [
        row("A", metrics={"1-recall@1": 0.9, "1-recall@10": 0.9}),
        row("B", metrics={"1-recall@1": 0.1, "1-recall@10": 0.95}),
    ]
    assert best_rows(results(*rows)) == [rows[1]]


def test_sort_rows__numbers_in_settings_are_numbers():
    rows = [row(search=f"nprobe={n}") for n in (16, 4, 64, 1)]
    assert [one.search for one in sort_rows(rows)] == [
        "nprobe=1", "nprobe=4", "nprobe=16", "nprobe=64"
    ]  # fmt: skip


def test_best_settings__of_a_sweep_one_of_types_all():
    rows = [
        row("A", value=0.3, search="nprobe=1"),
        row("A", value=0.5, search="nprobe=4"),
        row("A", value=0.2, search="sdc,nprobe=4"),
        row("B", value=0.4),
        row("B", value=0.3, search="sdc"),
        row("A", bits=32, value=0.1, search="nprobe=1"),
    ]
    assert best_settings(rows, "map@1000") == [rows[i] for i in (1, 2, 3, 4, 5)]


def test_table__has_half_the_width_of_intervals():
    intervals = {"map@1000": [0.48, 0.53], "precision@100": [0.49, 0.51]}
    line = table(results(row(intervals=intervals))).splitlines()[2]
    assert "50.00 ±2.50" in line
    assert "50.00 ±1.00" in line
    assert line.count("±") == 2


def test_comparisons__as_a_table_and_in_words():
    found = results(
        comparisons=(
            comparison(other="PCA+OPQ"),
            comparison(0.1, (0.09, 0.11), other="LSH", other_search="hamming"),
            comparison(-0.001, (-0.004, 0.002), 0.4, other="RQ"),
            comparison(0.002, (0.001, 0.004), 0.06, other="PQ"),
            comparison(-0.02, (-0.03, -0.01), 0.0012, other="LSQ"),
        )
    )
    assert sentences(found) == [
        "At 8 bytes PQ-VAE (adc) is above PCA+OPQ (adc) by 2.80 points [2.50, 3.10] and "
        "LSH (hamming) by 10.00 [9.00, 11.00].",
        "At 8 bytes PQ-VAE (adc) is not clearly apart from RQ (adc): -0.10 points [-0.40, 0.20] "
        "and PQ (adc): 0.20 [0.10, 0.40].",
        "At 8 bytes PQ-VAE (adc) is below LSQ (adc) by 2.00 points [1.00, 3.00].",
    ]
    lines = comparison_table(found).splitlines()
    assert lines[2].split() == [
        "8", "PQ-VAE", "(adc)", "PCA+OPQ", "(adc)", "+2.80", "[+2.50,", "+3.10]", "<", "0.0001"
    ]  # fmt: skip
    assert lines[6].endswith("0.0012")
    assert "paired t-test, Holm's correction" in lines[-1]
    assert comparison_table(results()) == ""
    assert sentences(results()) == []


def test_read_results__knows_the_former_name_of_a_split(tmp_path):
    subset = ", random subset: 20 of 300 database items (seed 0)"
    for protocol in ("dqn", f"dqn{subset}", "dqn-like", "mnist5k"):
        write_results(results(row(), protocol=protocol), tmp_path / "results.json")
        found = read_results(tmp_path / "results.json").protocol
        present = {"dqn": "few-labels", f"dqn{subset}": f"few-labels{subset}"}
        assert found == present.get(protocol, protocol)


def test_seeds_table__mean_deviation_and_range_over_seeds():
    values = [0.70, 0.74, 0.78]
    one = row("PQ-VAE", 32, 0.74, seeds={"map@1000": values}, marked=True, keys=["0" * 20] * 3)
    lines = seeds_table(results(row(), one)).splitlines()
    assert lines[0] == "mAP@1000 % over seeds:"
    numbers = ["74.00", "4.00", "70.00", "78.00"]
    assert lines[-1].split() == [">", "PQ-VAE", "32", "adc", "3", *numbers]
    assert len(lines) == 4
    assert seeds_table(results(row())) == ""


def test_ranked_rows__by_bits_then_the_best_first_and_the_unmeasured_last():
    rows = [row("A", 32, 0.1), row("B", 32, 0.3), row("C", 16, 0.2), row("D", 32, metrics={})]
    assert [one.method for one in ranked_rows(rows, "map@1000")] == ["C", "B", "A", "D"]
