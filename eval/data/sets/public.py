"""Public sets of vectors by the names that people have for them, and where they come from.

Nothing is downloaded: the sets have up to tens of gigabytes, and their hosts publish no checksums
that could be relied on. The message of what is missing says what goes where; ground truths that
come with a set are compared with our own on a sample before they are used.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from faiss_pqvae.data.open import open_source
from faiss_pqvae.registry import datasets

from ..known_neighbors import read_neighbors
from ..protocol import DATA_VARIABLE, folder_for
from ..vectors import VectorParts
from .ann_benchmarks import open_hdf5
from .texmex import is_texmex, open_texmex

_ANN_BENCHMARKS = "http://ann-benchmarks.com/{name}.hdf5"
_VIBE = "https://huggingface.co/datasets/vector-index-bench/vibe/resolve/main/{name}.hdf5"
_TEXMEX = "ftp://ftp.irisa.fr/local/texmex/corpus/{name}.tar.gz"
_DEEP = "https://storage.yandexcloud.net/yandex-research/ann-datasets/DEEP/{name}"
_DEEP_TRUTH = "https://comp21storage.z5.web.core.windows.net/comp21/ground_truths/deep-10M"

# Of one file: train is the database, test the queries.
HDF5 = {
    **dict.fromkeys(
        (
            "deep-image-96-angular",
            "fashion-mnist-784-euclidean",
            "gist-960-euclidean",
            "glove-25-angular",
            "glove-50-angular",
            "glove-100-angular",
            "glove-200-angular",
            "lastfm-64-dot",
            "mnist-784-euclidean",
            "nytimes-256-angular",
            "sift-128-euclidean",
        ),
        _ANN_BENCHMARKS,
    ),
    **dict.fromkeys(
        (
            "agnews-mxbai-1024-euclidean",
            "arxiv-nomic-768-normalized",
            "ccnews-nomic-768-normalized",
            "celeba-resnet-2048-cosine",
            "coco-nomic-768-normalized",
            "codesearchnet-jina-768-cosine",
            "dpr-jina-768-normalized",
            "glove-200-cosine",
            "gooaq-distilroberta-768-normalized",
            "imagenet-align-640-normalized",
            "imagenet-clip-512-normalized",
            "inaturalist-resnet-2048-cosine",
            "laion-clip-512-normalized",
            "landmark-dino-768-cosine",
            "landmark-nomic-768-normalized",
            "llama-128-ip",
            "msmarco-qwen-1024-normalized",
            "simplewiki-openai-3072-normalized",
            "yahoo-minilm-384-normalized",
            "yandex-200-cosine",
            "yi-128-ip",
        ),
        _VIBE,
    ),
}
TEXMEX = {"sift1m": "sift", "gist1m": "gist", "siftsmall": "siftsmall"}  # the archive's own name
PUBLIC = frozenset({*HDF5, *TEXMEX, "deep10m"})


def _hdf5(name: str) -> VectorParts:
    path = folder_for(name, HDF5[name].format(name=name)) / f"{name}.hdf5"
    if not path.is_file():
        raise _missing(name, [path], HDF5[name].format(name=name))
    return open_hdf5(path)


def _texmex(name: str) -> VectorParts:
    archive = TEXMEX[name]
    folder = folder_for(name, _TEXMEX.format(name=archive)) / archive
    if not is_texmex(folder):
        parts = [folder / f"{archive}_{part}.fvecs" for part in ("base", "query", "learn")]
        raise _missing(name, parts, _TEXMEX.format(name=archive))
    return open_texmex(folder)


@datasets.register("deep10m")
def deep10m() -> VectorParts:
    """The first 10,000,000 of Deep1B, as big-ann-benchmarks has them."""
    folder = folder_for("deep10m", _DEEP.format(name="base.10M.fbin")) / "deep10m"
    base, queries = folder / "base.10M.fbin", folder / "query.public.10K.fbin"
    truth = folder / "deep-10M.bin"
    absent = [path for path in (base, queries) if not path.is_file()]
    if absent:
        address = " and ".join(_DEEP.format(name=path.name) for path in absent)
        hint = f"{address} (and, to save its exact search, {_DEEP_TRUTH} as {truth.name})"
        raise _missing("deep10m", absent, hint)
    return VectorParts(
        name="deep10m",
        description="Deep1B, the first 10,000,000",
        database=open_source(base),
        queries=open_source(queries),
        shipped=read_neighbors(truth) if truth.is_file() else None,
    )


def _missing(name: str, paths: list[Path], address: str) -> FileNotFoundError:
    files = ", ".join(path.name for path in paths)
    return FileNotFoundError(
        f"{name} is not there: put {files} from {address} into {paths[0].parent}, which "
        f"{DATA_VARIABLE} leads to"
    )


for _name in HDF5:
    datasets.register(_name)(partial(_hdf5, _name))
for _name in TEXMEX:
    datasets.register(_name)(partial(_texmex, _name))
