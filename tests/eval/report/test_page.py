import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from faiss_pqvae.eval.measure.raw import read_ids
from faiss_pqvae.eval.measure.results import write_results
from faiss_pqvae.eval.report import gallery
from faiss_pqvae.eval.report import training as report_training
from faiss_pqvae.eval.report.gallery import spread
from faiss_pqvae.eval.report.page import rebuild_report, write_report
from faiss_pqvae.eval.report.shown import shown
from faiss_pqvae.eval.report.svg import method_styles
from faiss_pqvae.eval.report.text import sentences

VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects the tags, the attributes and the text of a page; an unclosed tag is an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def classes(self):
        return [name for key, value in self.attributes if key == "class" for name in value.split()]


def test_write_report__needs_no_network(report_page):
    page = Page(report_page)
    links = [value for key, value in page.attributes if key.split(":")[-1] in ("src", "href")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in report_page
    assert not re.search(r"url\((?!#|data:)", report_page)
    assert len(report_page) < 3_000_000


def test_write_report__shows_every_method_and_escapes_names(report_run, report_page):
    page = Page(report_page)
    shown = "".join(page.text)
    for row in report_run[0].rows:
        assert row.method in shown
    assert "<b>$bold" not in report_page
    assert "<i>'" not in report_page
    assert "faiss-pqvae demo --name '<i>'" in shown


def test_write_report__has_unique_ids(report_page):
    ids = [value for key, value in Page(report_page).attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_write_report__summary_names_the_best_at_the_common_length(report_run, report_page):
    results = report_run[0]
    rows = [row for row in results.rows if row.bits == 16]
    best = max(rows, key=lambda row: row.metrics["map@50"])
    shown = "".join(Page(report_page).text)
    share = 100 * best.metrics["map@50"]
    assert f"At 16 bits (2 bytes per vector) {best.method} ({best.search}) has the highest" in shown
    assert f"mAP@50, {share:.2f} %" in shown
    assert "Exact L2 on 256 bytes per vector" in shown


def test_write_report__references_of_equal_bytes_are_drawn_among_the_others(report_run, tmp_path):
    """Codes that are compared after decoding: not the best, no line across, not in the summary."""
    results = report_run[0]
    decoded = [
        replace(row, method="RQ, decoded", search="reference", reference=True, metrics=better)
        for row in results.rows
        if row.method == "PQ"
        for better in [dict.fromkeys(row.metrics, 1.0)]
    ]
    page = shown(replace(results, rows=(*results.rows, *decoded)))
    assert [row.method for row in page.yardsticks] == ["Exact L2"]
    assert {row.method for row in page.references} == {"Exact L2", "RQ, decoded"}
    assert "RQ, decoded" not in {row.method for row in page.best}
    text = write_report(page.results, None, tmp_path).read_text()
    summary = text.split('<p class="summary">')[1].split("</p>")[0]
    assert "Exact L2 on 256 bytes" in summary
    assert "decoded" not in summary
    assert "which no scan does" in text
    figure = text.split("by code length</h3>")[1].split("</figure>")[0]
    assert figure.count("RQ, decoded (reference)") == 1  # one line over both lengths
    curves = text.split("Precision and recall at 24 bits</h3>")[1].split("</figure>")[0]
    assert curves.count("RQ, decoded") == 1


def test_write_report__of_vectors_says_what_rows_cost(report_run, tmp_path):
    names = {"map@50": "1-recall@10", "precision@50": "ndcg@10"}
    rows = tuple(
        replace(
            row,
            metrics={new: row.metrics[old] for old, new in names.items()},
            model_bytes=1234567,
            trained_on="half: 300 items",
        )
        for row in report_run[0].rows
    )
    of_vectors = replace(report_run[0], rows=rows, comparisons=())
    page = Page(write_report(of_vectors, None, tmp_path).read_text())
    text = "".join(page.text)
    for part in ("encode\u00a0us", "queries/s", "model\u00a0bytes", "trained\u00a0on", "1,234,567"):
        assert part in text
    assert "add\u00a0s" not in text
    assert text.count("half: 300") == len(rows)
    assert "nDCG@10: the grades of the first 10" in text


def test_write_report__draws_all_figures(report_page):
    shown = "".join(Page(report_page).text)
    for title in (
        "mAP@50 by code length",
        "Precision and recall at 16 bits",
        "Precision and recall at 24 bits",
        "Codeword usage after the last epoch",
        "Codewords of PQ-VAE, 16 bits",
        "2 of 8 never",
        "Differences in mAP@50, query by query",
        "mAP@50 against speed at 2 to 3 bytes",
        "Seeds",
    ):
        assert title in shown
    assert Page(report_page).tags.count("svg") == 21


def test_write_report__gallery_marks_hits_and_misses(report_run, blobs, report_page):
    results, out, _, _ = report_run
    page = Page(report_page)
    # Ten queries, ten images each, three methods at 16 bits and exact L2.
    assert page.classes().count("cell") == 10 * 10 * 4
    queries = spread(blobs.query_labels, 10, gallery.SEED)
    hits = 0
    for row in results.rows:
        if row.bits != 24:
            ids = read_ids(out, row.key)[queries, :10]
            hits += (blobs.database_labels[ids] == blobs.query_labels[queries, None]).sum()
    shown = "".join(page.text)
    assert shown.count("✓") == hits + 1  # and the key
    assert page.classes().count("miss") == 400 - hits + 1
    assert "query: long" in dict.fromkeys(v for k, v in page.attributes if k == "aria-label")


def test_rebuild_report__is_the_same_page(report_run, blobs, report_page):
    out = report_run[1]
    (out / "report.html").unlink()
    (out / "log.jsonl").unlink()
    (out / "raw").rename(out / "moved-raw")  # not even the raw results are needed
    assert rebuild_report(out).read_text() == report_page
    (out / "moved-raw").rename(out / "raw")


def test_rebuild_report__rejects_corrupt_inputs(report_run, tmp_path):
    write_results(replace(report_run[0], rows=(), comparisons=()), tmp_path / "results.json")
    assert rebuild_report(tmp_path).exists()
    inputs = tmp_path / "report_inputs.json"
    inputs.write_text("{")
    with pytest.raises(ValueError, match=r"report_inputs\.json: expected JSON"):
        rebuild_report(tmp_path)
    inputs.write_text("[]")
    with pytest.raises(ValueError, match="expected an object, got list"):
        rebuild_report(tmp_path)
    inputs.write_text(json.dumps({"gallery": {"images": ["a)} body{background:url(http://x)"]}}))
    with pytest.raises(ValueError, match=r"the gallery's images in .* as base64"):
        rebuild_report(tmp_path)


def test_gallery__leaves_out_other_data(report_run, blobs, tmp_path, caplog):
    results, out, _, _ = report_run
    assert gallery.gallery(results, blobs, tmp_path) is None
    assert "is not in the gallery" in caplog.text
    assert (
        gallery.gallery(
            results,
            replace(blobs, queries=blobs.queries[:3], query_labels=blobs.query_labels[:3]),
            out,
        )
        is None
    )
    assert "its results are of other data" in caplog.text


def test_gallery__is_of_images_only(report_run, blobs):
    vectors = [getattr(blobs, part).reshape(-1, 64) for part in ("train", "database", "queries")]
    flat = replace(blobs, train=vectors[0], database=vectors[1], queries=vectors[2])
    assert gallery.gallery(report_run[0], flat, report_run[1]) is None


def test_write_report__survives_a_missing_log_and_no_rows(report_run, tmp_path, caplog):
    empty = replace(report_run[0], rows=(), comparisons=())
    trainings = {"lost": tmp_path / "no.jsonl"}
    page = Page(write_report(empty, None, tmp_path, trainings=trainings).read_text())
    assert "30 queries in 300 items" in "".join(page.text)
    assert "no training curves" in caplog.text


def test_write_report__rejects_flat_usage(report_run, tmp_path):
    with pytest.raises(
        ValueError, match=r"expected usage of shape \(M, ksub\) for 'x', got \(3,\)"
    ):
        write_report(report_run[0], None, tmp_path, usage={"x": np.ones(3, np.int64)})


def test_spread__takes_every_class_before_one_twice():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2)
    chosen = spread(labels, 8, seed=1)
    assert sorted(labels[chosen[:3]]) == sorted(labels[chosen[3:6]]) == [0, 1, 2]
    assert sorted(labels[chosen[6:]]) == [0, 1]
    np.testing.assert_array_equal(chosen, spread(labels, 8, seed=1))
    assert len(set(spread(labels, 100, seed=1))) == 57


def test_write_report__says_how_sure_it_is(report_run, report_page):
    shown = "".join(Page(report_page).text)
    (row,) = (row for row in report_run[0].rows if row.method == "PQ" and row.bits == 16)
    low, high = row.intervals["map@50"]
    assert f"{100 * row.metrics['map@50']:.2f} ±{50 * (high - low):.2f}" in shown
    assert "PQ 3 seeds" in shown
    for sentence in sentences(report_run[0]):
        assert sentence in shown
    assert "paired t-test over queries, Holm's correction" in shown


def test_gallery__stops_at_its_bytes(report_run, blobs):
    results, out, _, _ = report_run
    assert len(gallery.gallery(results, blobs, out, limit_bytes=1)["queries"]) == 1


def test_write_report__draws_what_learns_from_labels(report_run, tmp_path):
    epochs = [
        {
            "event": "epoch",
            "epoch": epoch,
            "loss": 2.0,
            "classes": 1.5 - epoch,
            "contrast": 3.0,
            "quantization": 0.1,
            "validation_loss": 0.75,
            "validation_classes": 1.6,
            "perplexity": [2.0, 3.5],
            "usage": [0.5, 1.0],
        }
        for epoch in range(2)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, epochs)))
    page = write_report(report_run[0], None, tmp_path, trainings={"DPQ, 32 bits": log}).read_text()
    shown = "".join(Page(page).text)
    for label in ("loss of classes", "mAP of held-out items [%]", "contrastive loss"):
        assert label in shown
    assert "loss of pairs" not in shown
    assert "reconstruction error" not in shown


def test_training_figures__map_is_of_what_learns_from_labels_only():
    epoch = {"validation_loss": 0.25}
    assert report_training._with_map({**epoch, "pairs": 1.0})["validation_map"] == 75
    assert "validation_map" not in report_training._with_map({**epoch, "reconstruction": 1.0})
    assert "validation_map" not in report_training._with_map({"pairs": 1.0})


def test_method_styles__are_distinct_and_keep_colours_for_what_is_marked(report_run):
    (one,) = (row for row in report_run[0].rows if row.method == "LSH")
    rows = [replace(one, method=f"M{i}", marked=i in (3, 8)) for i in range(16)]
    styles = method_styles(rows)
    looks = [(style["color"], style["marker"], str(style["ls"])) for style in styles.values()]
    assert len(set(looks)) == 16
    others = [name for name in styles if name not in ("M3", "M8")]
    assert len({styles[name]["color"] for name in others[:8]}) == 8
    kept = {styles[name]["color"] for name in ("M3", "M8")}
    assert len(kept) == 2
    assert not kept & {style["color"] for name, style in styles.items() if name not in ("M3", "M8")}
    assert styles["M3"]["lw"] > 2
    assert {style["ls"] for style in styles.values() if style["ls"] == "-"} == {"-"}


def test_figures__can_be_read_on_400_pixels(report_page):
    figures = re.findall(r"<svg.*?</svg>", report_page, re.DOTALL)
    assert len(figures) == 21
    for figure in figures:
        (width,) = re.findall(r'viewBox="0 0 ([\d.]+) ', figure)
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", figure)]
        assert sizes
        assert min(sizes) * 360 / float(width) >= 10  # pixels of a letter, beside the margins


def test_write_report__says_what_kind_of_run_it_is(report_run, tmp_path):
    results = report_run[0]
    rows = tuple(replace(row, marked=row.method == "LSH") for row in results.rows)
    noted = replace(results, note="A quick run.", rows=rows)
    page = write_report(noted, None, tmp_path).read_text()
    shown = "".join(Page(page).text)
    assert '<p class="warning">A quick run.</p>' in page
    assert "what the others are compared with" in shown
    assert "30 queries are searched for in a database of 300 items; trained on: " in shown
    assert "relevant to a query: items of the same class. Protocol: 30 queries" in shown
    assert "marked" in Page(page).classes()
    named = replace(results, protocol=results.dataset)  # which says nothing more
    assert "Protocol:" not in write_report(named, None, tmp_path).read_text()


def test_write_report__tabulates_seeds(report_run, report_page):
    (row,) = (row for row in report_run[0].rows if row.seeds and row.bits == 16)
    values = [100 * value for value in row.seeds["map@50"]]
    cells = [row.metrics["map@50"] * 100, np.std(values, ddof=1), min(values), max(values)]
    part = report_page.split('<table id="seeds">')[1].split("</table>")[0]
    assert [f"{cell:.2f}" for cell in cells] == re.findall(r"<td>(\d+\.\d\d)</td>", part)


def test_write_report__has_a_row_a_result_comparison_and_seeded_row(report_run, report_page):
    results = report_run[0]
    seeded = [row for row in results.rows if row.seeds]
    # Of four tables, one of them of all costs, and their headings.
    counted = 2 * len(results.rows) + len(results.comparisons) + len(seeded) + 4
    assert Page(report_page).tags.count("tr") == counted


def test_write_report__draws_what_nothing_else_beats_in_both(report_run, tmp_path):
    """Bytes and speed against quality, also where no code has several settings."""
    results = report_run[0]
    rows = tuple(row for row in results.rows if "=" not in row.search)
    assert {row.bytes_per_vector for row in rows if not row.reference} == {2, 3}
    text = write_report(replace(results, rows=rows), None, tmp_path).read_text()
    figures = {part.split("</h3>")[0]: part.split("</figure>")[0] for part in text.split("<h3>")}
    speed = figures["mAP@50 against speed at 2 bytes"]
    for drawn in (figures["mAP@50 by code length"], speed):
        assert drawn.count("Pareto front") == 1
    untimed = tuple(replace(row, search_s=0.0, queries_per_s=None) for row in rows)
    text = write_report(replace(results, rows=untimed), None, tmp_path).read_text()
    assert "against speed" not in text
