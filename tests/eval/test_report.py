import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from faiss_pqvae.eval import gallery
from faiss_pqvae.eval.data import LabelledData
from faiss_pqvae.eval.gallery import spread
from faiss_pqvae.eval.methods import exact, from_factory
from faiss_pqvae.eval.raw import read_ids
from faiss_pqvae.eval.report import rebuild_report, write_report
from faiss_pqvae.eval.runner import run
from faiss_pqvae.native import faiss

VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}
HOSTILE = "<b>$bold</b>"


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


def labelled(items, labels, name="blobs"):
    return LabelledData(
        name=name,
        protocol="30 queries",
        description="three noisy blobs",
        train=items[:300],
        database=items[:300],
        database_labels=labels[:300],
        queries=items[300:],
        query_labels=labels[300:],
        class_names=("round", "long", "flat"),
    )


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = np.arange(330) % 3
    centres = generator.integers(60, 196, (3, 1, 8, 8))
    noise = generator.normal(scale=60, size=(330, 1, 8, 8))
    return labelled(np.clip(centres[labels] + noise, 0, 255).astype(np.uint8), labels)


METHODS = [
    exact(64),
    from_factory("LSH", 16, 64, "LSH16rt", search="hamming"),
    from_factory("PQ", 16, 64, "PQ8x2np"),
    from_factory(HOSTILE, 16, 64, "PQ4x4np"),
    from_factory("PQ", 24, 64, "PQ8x3np"),
]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run with its logs: (results, out, trainings, usage)."""
    out = tmp_path_factory.mktemp("run")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # tiny parallel regions on busy cores take minutes
    results = run(data, METHODS, out, k=50, command="faiss-pqvae demo --name '<i>'")
    faiss.omp_set_num_threads(before)
    epochs = [
        {
            "event": "epoch",
            "epoch": epoch,
            "reconstruction": 1 / (epoch + 1),
            "validation_reconstruction": 1.1 / (epoch + 1),
            "quantization": 0.1,
            "distance_ratio": 0.5,
            "perplexity": [2.0, 3.5],
            "usage": [0.5, 1.0],
        }
        for epoch in range(3)
    ]
    lines = [{"event": "start"}, *epochs, {"event": "epoch", "epoch": 3}, 3]
    log = out / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "epo')
    usage = {"PQ-VAE, 16 bits": np.array([[5, 0, 5, 0], [1, 2, 3, 4]])}
    return results, out, {"PQ-VAE, 16 bits": log}, usage


@pytest.fixture(scope="module")
def text(finished, data):
    results, out, trainings, usage = finished
    path = write_report(results, data, out, trainings=trainings, usage=usage)
    assert path == out / "report.html"
    return path.read_text()


def test_write_report__needs_no_network(text):
    page = Page(text)
    links = [value for key, value in page.attributes if key.split(":")[-1] in ("src", "href")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#|data:)", text)
    assert len(text) < 3_000_000


def test_write_report__shows_every_method_and_escapes_names(text):
    page = Page(text)
    shown = "".join(page.text)
    for method in METHODS:
        assert method.name in shown
    assert "<b>$bold" not in text
    assert "<i>'" not in text
    assert "faiss-pqvae demo --name '<i>'" in shown


def test_write_report__has_unique_ids(text):
    ids = [value for key, value in Page(text).attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_write_report__summary_names_the_best_at_the_common_length(finished, text):
    results = finished[0]
    rows = [row for row in results.rows if row.bits == 16]
    best = max(rows, key=lambda row: row.metrics["map@50"])
    shown = "".join(Page(text).text)
    share = 100 * best.metrics["map@50"]
    assert f"At 16 bits (2 bytes per vector) {best.method} ({best.search}) has the highest" in shown
    assert f"mAP@50, {share:.2f} %" in shown
    assert "Exact L2 on 256 bytes per vector" in shown


def test_write_report__draws_all_figures(text):
    shown = "".join(Page(text).text)
    for title in (
        "mAP@50 by code length",
        "Precision and recall at 16 bits",
        "Precision and recall at 24 bits",
        "Codeword usage after the last epoch",
        "Codewords of PQ-VAE, 16 bits",
        "2 of 8 never",
        "Differences in mAP@50, query by query",
    ):
        assert title in shown
    assert Page(text).tags.count("svg") == 7


def test_write_report__gallery_marks_hits_and_misses(finished, data, text):
    results, out, _, _ = finished
    page = Page(text)
    # Ten queries, ten images each, three methods at 16 bits and exact L2.
    assert page.classes().count("cell") == 10 * 10 * 4
    queries = spread(data.query_labels, 10, gallery.SEED)
    hits = 0
    for row in results.rows:
        if row.bits != 24:
            ids = read_ids(out, row.key)[queries, :10]
            hits += (data.database_labels[ids] == data.query_labels[queries, None]).sum()
    shown = "".join(page.text)
    assert shown.count("✓") == hits + 1  # and the key
    assert page.classes().count("miss") == 400 - hits + 1
    assert "query: long" in dict.fromkeys(v for k, v in page.attributes if k == "aria-label")


def test_rebuild_report__is_the_same_page(finished, data, text):
    out = finished[1]
    (out / "report.html").unlink()
    (out / "log.jsonl").unlink()
    (out / "raw").rename(out / "moved-raw")  # not even the raw results are needed
    assert rebuild_report(out).read_text() == text
    (out / "moved-raw").rename(out / "raw")


def test_rebuild_report__rejects_corrupt_inputs(finished, tmp_path):
    (tmp_path / "results.json").write_bytes((finished[1] / "results.json").read_bytes())
    assert rebuild_report(tmp_path).exists()
    (tmp_path / "report_inputs.json").write_text("{")
    with pytest.raises(ValueError, match=r"report_inputs\.json: expected JSON"):
        rebuild_report(tmp_path)


def test_write_report__leaves_out_a_gallery_of_other_data(finished, data, tmp_path, caplog):
    results, _, _, _ = finished
    page = Page(write_report(results, data, tmp_path).read_text())
    assert "cell" not in page.classes()
    assert "is not in the gallery" in caplog.text


def test_write_report__vectors_have_no_gallery(tmp_path):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(330, 8)).astype(np.float32)
    data = labelled(vectors, np.arange(330) % 3, "vectors")
    results = run(data, [exact(8)], tmp_path, k=10)
    text = write_report(results, data, tmp_path).read_text()
    assert "Nearest images" not in text
    assert "Exact L2" in "".join(Page(text).text)


def test_write_report__survives_a_missing_log_and_no_rows(finished, tmp_path, caplog):
    empty = replace(finished[0], rows=())
    trainings = {"lost": tmp_path / "no.jsonl"}
    text = write_report(empty, None, tmp_path, trainings=trainings).read_text()
    assert "30 queries in 300 items" in "".join(Page(text).text)
    assert "no training curves" in caplog.text


def test_write_report__rejects_flat_usage(finished, tmp_path):
    with pytest.raises(
        ValueError, match=r"expected usage of shape \(M, ksub\) for 'x', got \(3,\)"
    ):
        write_report(finished[0], None, tmp_path, usage={"x": np.ones(3, np.int64)})


def test_spread__takes_every_class_before_one_twice():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2)
    chosen = spread(labels, 8, seed=1)
    assert sorted(labels[chosen[:3]]) == sorted(labels[chosen[3:6]]) == [0, 1, 2]
    assert sorted(labels[chosen[6:]]) == [0, 1]
    np.testing.assert_array_equal(chosen, spread(labels, 8, seed=1))
    assert len(set(spread(labels, 100, seed=1))) == 57


def test_gallery__stops_at_its_bytes(finished, data, monkeypatch):
    results, out, _, _ = finished
    monkeypatch.setattr(gallery, "GALLERY_BYTES", 1)
    assert len(gallery.gallery(results, data, out)["queries"]) == 1


def test_png__makes_large_images_small():
    colour = gallery._png(np.zeros((3, 200, 100), np.uint8))
    grey = gallery._png(np.zeros((1, 8, 8), np.uint8))
    for encoded, size in ((colour, (32, 64)), (grey, (8, 8))):
        image = gallery.Image.open(gallery.io.BytesIO(gallery.base64.b64decode(encoded)))
        assert image.size == size
