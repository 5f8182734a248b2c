"""Codes that return the class: DPQ, whose prefixes are codes, too.

pip install "faiss-pqvae[cpu,eval,demo]"
python examples/labels.py
"""

import numpy as np
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.eval import load


def main(epochs: int = 5, labelled: int = 500) -> None:
    """Learns from images of which a part has labels.

    Args:
        epochs: of the training.
        labelled: images with a label; the others take part without.
    """
    data = load("mnist5k")
    labels = data.database_labels.copy()
    labels[labelled:] = -1

    training = fpq.TrainingConfig(epochs=epochs, batch_size=64)
    model = fpq.ModelConfig(width=16)
    index = fpq.index_factory((1, 28, 28), "DPQ4x4", model=model, training=training)
    index.train(data.database, labels)
    index.add(data.database)
    for levels in range(1, 5):
        short = index.prefix(levels)  # nothing is trained or encoded again
        found = data.database_labels[short.search(data.queries, 10)[1]]
        right = (found == data.query_labels[:, None]).mean()
        print(f"{4 * levels:>2} bits: {100 * right:.1f} % of ten results are of the query's class")
    counts = np.bincount(data.database_labels)
    print(f"by chance {100 * counts.max() / counts.sum():.1f} %")


if __name__ == "__main__":
    tyro.cli(main)
