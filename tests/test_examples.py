"""The examples do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """30 parts of two photographs, half of each, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(30):
        picture = load_sample_images().images[number % 2]
        top, left = generator.integers(0, (200, 300))
        part = picture[top : top + 200, left : left + 300]
        Image.fromarray(part).save(
            folder / f"{'palace' if number % 2 == 0 else 'flower'}{number}.jpg"
        )
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_search_photos__finds_what_is_alike_and_shows_it(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    done = run("search_photos.py", str(photos), "--page", str(page), "--n", "6", "--k", "3")
    assert done.returncode == 0, done.stderr
    html = page.read_text()
    assert "broken" not in html
    rows = re.findall(r'<div class="row">(.*?)</div>', html)
    assert len(rows) == 6
    for row in rows:
        asked, *found = re.findall(r"<figcaption>([a-z]+)\d", row)
        assert found == [asked] * 3  # palaces by palaces, flowers by flowers
    assert "http" not in html  # it needs no other file


PAGES = sorted((EXAMPLES.parent / "docs").rglob("*.md"))


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("embeddings.py", ["--n", "1600", "--bytes-each", "2", "--minutes", "0.02"], "among 10"),
        ("labels.py", ["--epochs", "1"], "16 bits: "),
        ("own_encoder.py", ["--n", "80", "--side", "32"], "efficientnet-lite0"),
        ("own_objective.py", ["--epochs", "1", "--n", "200"], "is_trained=True"),
        ("own_method.py", ["--n", "1500"], "PQ about the mean"),
        ("inject_into_faiss.py", ["--n", "4000"], "1000000"),
        ("sentence_embeddings.py", ["lines.txt", "--ask", "a GPU", "--code", "PQVAE4x4"], "GPU"),
    ],
)
def test_example__runs_in_a_quick_form(name, arguments, says, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(page.read_text() for page in PAGES))
    done = run(name, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_example__shards_with_ray(tmp_path: Path) -> None:
    arguments = ["--n", "2000", "--parts", "2", "--workers", "1"]
    done = run("shards_with_ray.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x.npy:0" in done.stdout


def test_examples__are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path.name
