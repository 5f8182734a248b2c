"""Sentence embeddings of texts about Debian's packages, and which of them belong together."""

from __future__ import annotations

from faiss_pqvae.data.npy import open_npy, read_npy
from faiss_pqvae.registry import datasets

from ..protocol import DATA_VARIABLE, data_folder
from ..qrels import read_qrels
from ..texts import Lines
from ..vectors import VectorParts

_TEXTS = ("base.txt.gz", "queries.txt")  # which a report shows, where they are there
_FILES = ("base.npy", "queries.npy", "groundtruth.npy", "qrels.tsv")


@datasets.register("debian-text")
def debian_text() -> VectorParts:
    """73,037 paragraphs of 384 dimensions, one-line summaries as queries, and their relevance.

    Raises:
        FileNotFoundError: it is not there; the message says which files go where.
    """
    folder = data_folder() / "debian-text"
    base, queries, truth, qrels = (folder / name for name in _FILES)
    if not all((folder / name).is_file() for name in _FILES):
        raise FileNotFoundError(
            f"debian-text is not there: put {', '.join(_FILES)} into {folder}, the subfolder "
            f"debian-text of {DATA_VARIABLE}"
        )
    texts = [folder / name for name in _TEXTS]
    has_texts = all(path.is_file() for path in texts)
    return VectorParts(
        name="debian-text",
        description="debian-text (sentence embeddings of texts about Debian's packages)",
        database=open_npy(base),
        queries=open_npy(queries),
        shipped=read_npy(truth, "ids of neighbours").astype("int64"),
        qrels=read_qrels(qrels),
        texts=Lines(texts[0]) if has_texts else None,
        query_texts=Lines(texts[1]) if has_texts else None,
    )
