"""Packaging beyond pyproject.toml: three folders, one package, and where README's links lead."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOTS = {
    "faiss_pqvae": "faiss_pqvae",
    "faiss_pqvae.training": "training",
    "faiss_pqvae.eval": "eval",
}
PACKAGES = [
    name
    for root, folder in ROOTS.items()
    for name in (root, *(f"{root}.{package}" for package in find_packages(folder)))
]
PROJECT = "faiss-pqvae/faiss-pqvae"
PICTURES = f"https://raw.githubusercontent.com/{PROJECT}/main"
PAGES = f"https://github.com/{PROJECT}/blob/main"


def readme() -> str:
    """README.md, whose links and pictures are found from a package index, too."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    elsewhere = r"(?!https?://|#)"
    text = re.sub(rf"(!\[[^]]*\]\(){elsewhere}", rf"\g<1>{PICTURES}/", text)
    return re.sub(rf"(\]\(){elsewhere}", rf"\g<1>{PAGES}/", text)


setup(
    packages=PACKAGES,
    package_dir=ROOTS,
    long_description=readme(),
    long_description_content_type="text/markdown",
)
