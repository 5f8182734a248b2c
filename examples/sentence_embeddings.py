"""Search sentences by codes of 8 bytes of their embeddings.

    pip install "faiss-pqvae[cpu]" scikit-learn            # or sentence-transformers
    python examples/sentence_embeddings.py lines.txt --ask "a question"
    python examples/sentence_embeddings.py lines.txt --model all-MiniLM-L6-v2 --ask "a question"

Without a model words are counted and brought to 64 dimensions (latent semantic analysis), which
needs no download. A model is a name or a folder of sentence-transformers.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro

import faiss_pqvae as fpq


def embedder(sentences: list[str], model: str | None) -> Callable[[list[str]], np.ndarray]:
    """From sentences to vectors of length 1."""
    if model is not None:
        from sentence_transformers import SentenceTransformer

        network = SentenceTransformer(model)
        return lambda texts: network.encode(texts, normalize_embeddings=True)
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    words = TfidfVectorizer(sublinear_tf=True)
    pipe = make_pipeline(words, TruncatedSVD(64, random_state=0), Normalizer()).fit(sentences)
    return lambda texts: pipe.transform(texts).astype("float32")


def main(
    lines: tyro.conf.Positional[Path],
    ask: str,
    model: str | None = None,
    code: str = "PQVAE8",
    k: int = 5,
) -> None:
    """Prints the k lines of a text that are nearest to a question."""
    sentences = [line for line in dict.fromkeys(lines.read_text().splitlines()) if line.strip()]
    embed = embedder(sentences, model)
    x = embed(sentences)
    index = fpq.index_factory(x.shape[1], code, "cosine")
    index.train(x)
    index.add(x)
    index.items = fpq.Items.of_names(sentences)
    cosines, ids = index.search(embed([ask]), k)
    for cosine, sentence in zip(cosines[0], index.items.names(ids[0]), strict=True):
        print(f"{cosine:.2f}  {sentence}")


if __name__ == "__main__":
    tyro.cli(main)
