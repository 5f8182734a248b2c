"""Packaging: three folders at the top, one package below `faiss_pqvae` once installed."""

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
EXTRAS = {
    # faiss-cpu and faiss-gpu own the same files: choose one, never both.
    "cpu": ["faiss-cpu>=1.15.1"],
    "gpu": ["faiss-gpu>=1.15.1"],
    "eval": ["matplotlib>=3.9", "jinja2>=3.1", "pillow>=10", "h5py>=3.11", "pyarrow>=17"],
    "demo": ["mlxtend>=0.23"],
    "dev": [
        "pytest>=8",
        "hypothesis>=6.100",
        "scikit-learn>=1.5",
        "pytest-timeout>=2.3",
        "pytest-benchmark>=5",
        "ruff>=0.8",
        "mypy>=1.13",
        "build>=1.2",
    ],
}

LONG_DESCRIPTION = Path(__file__).with_name("README.md").read_text(encoding="utf-8")

setup(
    name="faiss-pqvae",
    version="0.1.0",
    description="Learned product codes in native FAISS indexes: train a PQ-VAE, inject, search.",
    long_description=LONG_DESCRIPTION,
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=PACKAGES,
    package_dir=ROOTS,
    package_data={"faiss_pqvae": ["py.typed"], "faiss_pqvae.eval": ["*.html"]},
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.13",
        "tqdm>=4.66",
        "safetensors>=0.4",
        "tyro>=0.9",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["faiss-pqvae=faiss_pqvae.cli:main"]},
)
