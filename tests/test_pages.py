"""README and docs: what they show runs, and where they point there is something."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])
# What a page shows takes minutes; here it has to run.
SMALLER = (
    ("(20_000, 96)", "(400, 96)"),
    ("6000", "900"),
    ("5900", "800"),
    ('    "PQVAE8",  #', '    "PQVAE4x4", objective=fpq.Additive(filled=0, rounds=1),  #'),
    ("OPQ8,PQ8", "OPQ2,PQ2x4"),
    ("OPQ4,IVF16,PQ4", "OPQ4,IVF4,PQ4x4"),
    ('"PQVAE8,RDecoder",', '"PQVAE3x4,RDecoder",'),
    ('(64, "PQVAE8")', '(64, "PQVAE4x4", objective=fpq.Additive(filled=0, rounds=1))'),
    ('(16, "PQVAE4")', '(16, "PQVAE4x4", objective=fpq.Additive(filled=0, rounds=1))'),
    ('"IVF16,PQVAE4")', '"IVF4,PQVAE4x4", objective=fpq.Additive(filled=0, rounds=1))'),
    ("Synthesis(epochs=2)", "Synthesis(epochs=1, filled=0, rounds=1, start_items=800)"),
    ("(5000, 32)", "(700, 32)"),
    ("(3000, 16)", "(700, 16)"),
    ("(1000, 16)", "(50, 16)"),
    ("(2_000, 3, 64, 64)", "(64, 3, 32, 32)"),
    ("(3, 64, 64)", "(3, 32, 32)"),
    ("budget_minutes=20", "epochs=1"),
    ("epochs=3", "epochs=1"),
)


def snippets(page):
    """All of a page's snippets in Python, one after another."""
    return "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore:.*training items")
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=name_of)
def test_page__its_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = snippets(page)
    for shown, run in SMALLER:
        code = code.replace(shown, run)
    names = {}
    exec(compile(code, name_of(page), "exec"), names)
    assert names["index"].ntotal if "index" in names else names


def anchors(page):
    """What links may name of a page."""
    found = set()
    in_code = False
    for line in page.read_text().splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("#") and not in_code:
            words = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
            found.add(re.sub(r"\s", "-", words))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page__its_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_readme__is_one_page():
    assert len(README.read_bytes()) <= 6 * 1024


ROWS = {
    "**`PQVAE8,RDecoder`**": ("PQ-VAE, re-ranked", "k_factor=1"),
    "**`PQVAE8`**": ("PQ-VAE", "adc"),
    "LSQ": ("LSQ, norm inside", "adc"),
    "RQ": ("RQ, norm inside", "adc"),
    "OPQ": ("OPQ", "adc"),
    "PQ": ("PQ", "adc"),
}


def test_readme__its_table_is_that_of_the_stored_results():
    files = ("vectors-bsds-sift-8.json", "vectors-debian-text-half-8.json")
    stored = [json.loads((ROOT / "results" / file).read_text())["rows"] for file in files]
    lines = []
    for name, key in ROWS.items():
        cells = [name]
        for rows in stored:
            (row,) = (row for row in rows if (row["method"], row["search"]) == key)
            recalls = (row["metrics"][f"1-recall@{at}"] for at in (1, 10))
            cells += [f"{100 * recall:.1f}" for recall in recalls]
        cells += [f"{row[cost]:,.0f}" for cost in ("encode_us", "queries_per_s")]
        lines.append(f"| {' | '.join(cells)} |")
    table = README.read_text().split("\n| 8 bytes a vector |")[1].split("\n\n")[0]
    assert table.splitlines()[2:] == lines


def test_readme__ours_find_more_than_every_quantizer_of_faiss():
    """What its first paragraph says, of the quantizers whose codes a scan serves."""
    for file in ("vectors-bsds-sift-8.json", "vectors-debian-text-half-8.json"):
        rows = json.loads((ROOT / "results" / file).read_text())["rows"]
        ours = [row for row in rows if (row["method"], row["search"]) in list(ROWS.values())[:2]]
        others = [r for r in rows if not (r["reference"] or r["method"].startswith("PQ-VAE"))]
        assert len(others) >= 5
        for metric in ("1-recall@1", "1-recall@10"):
            lowest = min(row["intervals"][metric][0] for row in ours)
            assert max(row["intervals"][metric][1] for row in others) < lowest
