"""The toy encoder: found by name, trained, written and read."""

import numpy as np

from faiss_pqvae import ModelConfig, TrainingConfig, index_factory, read_index, write_index


def test_pooled__trains_and_comes_back(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    training = TrainingConfig(epochs=1, batch_size=16, precision="float32", device="cpu")
    model = ModelConfig(encoder="pooled")
    index = index_factory((3, 8, 8), "PQVAE4x4", model=model, training=training)
    index.train(x, progress=False)
    index.add(x)
    write_index(index, tmp_path)
    again = read_index(tmp_path)
    np.testing.assert_array_equal(again.search(x[:5], 3)[1], index.search(x[:5], 3)[1])
