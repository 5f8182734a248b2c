"""Packaging, as far as pyproject.toml cannot say it: three folders at the top, one package."""

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

setup(packages=PACKAGES, package_dir=ROOTS)
