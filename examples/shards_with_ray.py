"""A collection encoded in parts by Ray's workers, and served by its actors.

pip install "faiss-pqvae[cpu,scale]"
python examples/shards_with_ray.py
"""

import os
from pathlib import Path

import numpy as np
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.cli import main as command

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def main(folder: Path = Path("shards"), n: int = 20_000, parts: int = 4, workers: int = 2) -> None:
    """Trains on a sample, encodes n vectors in parts, searches them."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 32), dtype="float32")
    np.save(folder / "x.npy", x)

    index = fpq.index_factory(32, "PQVAE4x4")
    index.train(x[:4000])
    fpq.write_index(index, folder / "model.pqvae")

    made = str(folder / "made")
    source = [str(folder / "model.pqvae"), str(folder / "x.npy")]
    by_ray = ["--parts", str(parts), "--engine", "ray", "--workers", str(workers)]
    command(["build", *source, "--out", made, *by_ray])
    shards = fpq.open_shards(made, engine="ray", workers=workers)
    I = shards.search(x[:3], 5)[1]
    print(I, shards.items.names(I[0]).tolist())


if __name__ == "__main__":
    tyro.cli(main)
