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


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
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
    done = run("search_photos.py", str(photos), "--page", str(page), "--n-queries", "6", "--k", "3")
    assert done.returncode == 0, done.stderr
    assert "broken.jpg" in done.stdout
    html = page.read_text()
    rows = re.findall(r'<div class="row">(.*?)</div>', html)
    assert len(rows) >= 5  # a broken one cannot be searched for
    for row in rows:
        asked, *found = re.findall(r"<figcaption>([a-z]+)\d", row)
        assert found == [asked] * 3  # palaces by palaces, flowers by flowers
    assert "http" not in html  # it needs no other file


def test_search_photos__says_what_it_needs(tmp_path: Path) -> None:
    done = run("search_photos.py", str(tmp_path))
    assert done.returncode == 1
    assert "expected 30 photographs or more" in done.stderr
