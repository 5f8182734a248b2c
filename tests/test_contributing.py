"""CONTRIBUTING.md and CHANGELOG.md speak of what is there."""

import re
import tomllib
from pathlib import Path

import pytest

import faiss_pqvae as fpq
from faiss_pqvae import registry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = ("faiss_pqvae", "training", "eval", "tests", "benchmarks", "results", ".ci")
PATHS = sorted(set(re.findall(rf"[`(]((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./]*)[`)]", TEXT)))


@pytest.mark.parametrize("path", PATHS)
def test_paths__are_there(path):
    assert (ROOT / path).exists()


def test_paths__were_found():
    assert len(PATHS) > 15


def test_targets__are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for named in re.findall(r"`make ([a-z ]+)`|^make ([a-z]+)", TEXT, re.MULTILINE):
        assert set("".join(named).split()) <= known


def test_entry_points__are_the_registries():
    groups = {f".{name}" for name in ("encoders", "decoders", "objectives", "methods", "datasets")}
    line = next(line for line in TEXT.splitlines() if line.startswith("[project.entry-points."))
    assert set(re.findall(r"\.[a-z]+(?=[\",]|$)", line)) == groups
    for group in groups:
        assert getattr(registry, group[1:]).group == f"faiss_pqvae{group}"


def test_changelog__has_the_version_and_what_is_coming():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert fpq.__version__ in versions
    assert all(f"\n[{version}]: https://" in text for version in versions)
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Changelog"].endswith("/CHANGELOG.md")
