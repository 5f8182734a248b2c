"""The command `info`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from faiss_pqvae.cli.reading import Bundle, is_of_shards

if TYPE_CHECKING:
    from faiss_pqvae import Items, LatentIndex


def info(bundle: Bundle, /, *, encoder: str | None = None, decoder: str | None = None) -> None:
    """Print what a bundle holds.

    Of a folder of shards: which of them there are.

    Args:
        bundle: folder of an index, or of shards.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    # Here, because they import torch, which --help does without.
    from faiss_pqvae.index.bundle import read_config, read_index

    if is_of_shards(bundle):
        _print_lines(_of_shards(bundle))
        return
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
        **_choice(index),
        "model": ", ".join(f"{name}={value}" for name, value in model["config"].items()),
        "written with": ", ".join(f"{n} {v}" for n, v in config["versions"].items()),
    }
    if index.model.query_map is not None:
        lines["queries"] = "mapped, as real ones taught in the training"
    if index.ntotal:
        lines |= _use_of_codewords(index)
    _print_lines(lines)


def _print_lines(lines: dict[str, str]) -> None:
    for name, value in lines.items():
        print(f"{name:>14}  {value}")


def _of_shards(folder: Path) -> dict[str, str]:
    """Which parts there are, and of what."""
    from faiss_pqvae.scale.job import read_job
    from faiss_pqvae.scale.joined import missing_parts
    from faiss_pqvae.scale.shard import shard_path

    job = read_job(folder)
    model, missing = job.read_model(), missing_parts(job)
    done = [part for part in range(job.n_parts) if part not in missing]
    n_bytes = sum(shard_path(job, part).stat().st_size for part in done)
    lines = {
        "index": f"{model.description}, in parts",
        "items": f"{job.n:,} of {model.sa_code_size()} bytes, from {job.where}",
        "parts": f"{len(done):,} of {job.n_parts:,} are done, {n_bytes / 1e6:,.1f} MB",
        "model": job.model[:12],
    }
    if missing:
        first = f"{missing[0] + 1}/{job.n_parts}"
        lines["missing"] = f"{len(missing):,}, such as {first}: `build --part {first}` makes it"
    return lines


def _choice(index: LatentIndex) -> dict[str, str]:
    """How codes are chosen and candidates ranked, where a decoder does that."""
    from faiss_pqvae.model.conditional import ConditionalCode

    code = index.model.code_decoder
    if code is None:
        return {}
    n_bytes = sum(weight.nbytes for weight in code.parameters())
    kind = "sums of codewords"
    if isinstance(code, ConditionalCode):
        kind = "codewords that depend on those before"
    return {
        "decoder": f"{n_bytes / 1e6:.1f} MB, of {kind}; effort {index.effort}, k_factor "
        f"{index.k_factor:g}"
    }


def _use_of_codewords(index: LatentIndex) -> dict[str, str]:
    """How evenly the stored items are spread over the codewords of each sub-quantizer."""
    import torch

    from faiss_pqvae.model.clustering import histogram, perplexity, usage
    from faiss_pqvae.native.store.contents import codeword_ids

    ids = torch.from_numpy(codeword_ids(index.faiss_index))
    counts = histogram(ids, index.model.quantizer.ksub)
    return {
        "codewords used": " ".join(f"{u:.0%}" for u in usage(counts).tolist()),
        "perplexity": " ".join(f"{p:.1f}" for p in perplexity(counts).tolist()),
    }


def _names(items: Items | None) -> str:
    if items is None:
        return "none, items have ids only"
    return f"of {len(items)} items" + (f", files in {items.root}" if items.root else "")
