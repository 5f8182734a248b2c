"""An encoder of your own under the code: here a pretrained network, by name and as a module.

pip install "faiss-pqvae[cpu,backbone]"
python examples/own_encoder.py
"""

import numpy as np
import torch
import tyro
from torch import nn

import faiss_pqvae as fpq


def main(n: int = 300, side: int = 96) -> None:
    """Indexes n pictures by what two networks see in them."""
    pictures = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype="uint8")

    # By name: weights of ImageNet, from a package. It is asked once for every picture.
    index = fpq.index_factory(pictures.shape[1:], "PCA64,PQVAE8x4", encoder="efficientnet-lite0")
    index.train(pictures)
    index.add(pictures)
    fpq.write_index(index, "pretrained.pqvae")
    print(fpq.read_index("pretrained.pqvae"))  # it knows its network by that name

    # A module: what it wants to see is said, and that its weights stay as they are.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    backbone = fpq.Backbone(module, trainable=False, size=64, mean=mean, deviation=deviation)
    index = fpq.index_factory(pictures.shape[1:], "PQVAE8x4", encoder=backbone)
    index.train(pictures)
    index.add(pictures)
    fpq.write_index(index, "own.pqvae")
    print(fpq.read_index("own.pqvae", encoder=module))  # a file imports no code
    print(index.search(pictures[:3], k=3)[1])


if __name__ == "__main__":
    tyro.cli(main)
