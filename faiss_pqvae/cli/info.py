"""The command `info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from faiss_pqvae.cli.reading import Folder
from faiss_pqvae.index.bundle import read_config, read_index
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.clustering import histogram, perplexity, usage
from faiss_pqvae.native.store.contents import codeword_ids


def info(bundle: Folder, /, *, encoder: str | None = None, decoder: str | None = None) -> None:
    """Print what a bundle holds.

    Args:
        bundle: folder of an index.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    config = read_config(bundle)
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    model = config["model"]
    lines = {
        "index": f"{config['factory']}, {config['metric']}, search type {config['search_type']}",
        "items": f"{index.ntotal} of {index.sa_code_size()} bytes",
        "names": _names(index.items),
        "scan": index.scan,
        "input": f"{' x '.join(map(str, index.input_shape))}",
        "latents": f"{index.model.latent_dim} dimensions, {index.model.M} "
        + ("levels" if index.model.structure == "residual" else "sub-vectors"),
        "code": ", ".join(f"{name} {value}" for name, value in asdict(index.model.spec).items()),
        "model": ", ".join(f"{name}={value}" for name, value in model["config"].items()),
        "written with": ", ".join(f"{n} {v}" for n, v in config["versions"].items()),
    }
    if index.ntotal:
        counts = torch.from_numpy(codeword_counts(index))
        lines["codewords used"] = " ".join(f"{u:.0%}" for u in usage(counts).tolist())
        lines["perplexity"] = " ".join(f"{p:.1f}" for p in perplexity(counts).tolist())
    for name, value in lines.items():
        print(f"{name:>14}  {value}")


def _names(items: Items | None) -> str:
    if items is None:
        return "none, items have ids only"
    return f"of {len(items)} items" + (f", files in {items.root}" if items.root else "")


def codeword_counts(index: LatentIndex) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often the stored items have each codeword: (M, ksub) int64."""
    ids = codeword_ids(index.faiss_index)
    counts: np.ndarray[Any, np.dtype[np.int64]] = histogram(
        torch.from_numpy(ids), index.model.quantizer.ksub
    ).numpy()
    return counts
