"""The command `info`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.cli.drawing import Row, bars, columns, histogram, in_bytes, takes_blocks
from faiss_pqvae.cli.reading import Bundle, is_of_shards
from faiss_pqvae.messages import printable

if TYPE_CHECKING:
    from faiss_pqvae import Items, LatentIndex

_COLUMNS = 32  # of a histogram, at most
_BESIDE = 38  # columns of what stands beside one
# Of more sub-quantizers than that are shown the first, and those whose codewords say the least.
_ALL, _FIRST, _WORST = 16, 8, 4


def info(bundle: Bundle, /, *, encoder: str | None = None, decoder: str | None = None) -> None:
    """Print what a bundle holds, where its bytes go, and how evenly codewords are used.

    Of a folder of shards: which of them there are.

    Args:
        bundle: folder of an index, or of shards.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    # Here, because they import torch, which --help does without.
    from faiss_pqvae.index.bundle import read_config, read_index

    if is_of_shards(bundle):
        lines, parts = _of_shards(bundle)
        _print_lines(lines)
        _print_block(_chart("bytes on the disk", parts))
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
    _print_lines(lines)
    _print_block(_bytes(bundle, config, index))
    _print_block(_lists(index))
    _print_block(_use_of_codewords(index))


def _print_lines(lines: dict[str, str]) -> None:
    for name, value in lines.items():
        print(f"{name:>14}  {value}")


def _print_block(lines: list[str]) -> None:
    """Lines of a chart, below its title, which is the first; nothing where there are none."""
    if lines:
        print("\n".join(["", *lines]))


def _of_shards(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Which parts there are, and of what; and where their bytes are."""
    from faiss_pqvae.scale.job import read_job
    from faiss_pqvae.scale.joined import missing_parts
    from faiss_pqvae.scale.shard import shard_path

    job = read_job(folder)
    model, missing = job.read_model(), missing_parts(job)
    done = [part for part in range(job.n_parts) if part not in missing]
    sizes = [shard_path(job, part).stat().st_size for part in done]
    n_bytes = sum(sizes)
    lines = {
        "index": f"{model.description}, in parts",
        "items": f"{job.n:,} of {model.sa_code_size()} bytes, from {job.where}",
        "parts": f"{len(done):,} of {job.n_parts:,} are done, {in_bytes(n_bytes)}",
        "model": job.model[:12],
    }
    if missing:
        first = f"{missing[0] + 1}/{job.n_parts}"
        lines["missing"] = f"{len(missing):,}, such as {first}: `build --part {first}` makes it"
    of_model = sum(file.stat().st_size for file in job.model_folder.iterdir())
    of_parts = {f"part {part + 1}": size for part, size in zip(done, sizes, strict=True)}
    if len(of_parts) > _ALL:
        lines["a part"] = f"{in_bytes(min(sizes))} to {in_bytes(max(sizes))}"
        of_parts = {"parts": n_bytes}
    return lines, {"model": of_model, **of_parts}


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


def _bytes(bundle: Path, config: dict[str, Any], index: LatentIndex) -> list[str]:
    """Where the bytes of the files go, and what memory they need."""
    from faiss_pqvae.cli.stored_bytes import stored_bytes

    found = stored_bytes(bundle, config, index)
    largest_first = sorted(found.parts.items(), key=lambda part: -part[1])
    memory = f"memory: {in_bytes(found.memory)} or more"
    if found.front:
        memory += f", {in_bytes(found.front)} of it an encoder that is not in the bundle"
    if found.mapped:
        memory += f"; {in_bytes(found.mapped)} less with --mmap"
    item = [f"each item takes {found.item:,.1f} of them"] if index.ntotal else []
    return [*_chart("bytes on the disk", dict(largest_first)), *item, memory]


def _chart(title: str, parts: dict[str, int]) -> list[str]:
    """A bar for each part, with its bytes and its share of all."""
    total = sum(parts.values())
    rows = [
        Row(name, n_bytes, f"{in_bytes(n_bytes):>8}  {n_bytes / max(1, total):>4.0%}")
        for name, n_bytes in parts.items()
    ]
    drawn = bars(rows, columns(sys.stdout), blocks=takes_blocks(sys.stdout))
    return [f"{title}: {in_bytes(total)}", *drawn]


def _lists(index: LatentIndex) -> list[str]:
    """How evenly items are spread over inverted lists, where there are some."""
    from faiss_pqvae.native.kinds import kind_of
    from faiss_pqvae.native.kinds.lists import list_sizes
    from faiss_pqvae.native.walk import codebook_index

    native = codebook_index(index.faiss_index)
    if not kind_of(native).has_lists:
        return []
    if not index.ntotal:
        return [f"inverted lists: {native.nlist:,}, all empty; a search visits {native.nprobe:,}"]
    sizes = np.array(list_sizes(native))
    imbalance = native.invlists.imbalance_factor()
    return [
        f"inverted lists: {native.nlist:,}, imbalance {imbalance:.2f} (1 is even); a search visits "
        f"{native.nprobe:,}",
        f"{_drawn(sizes)}  {sizes.min():,} to {sizes.max():,} items each, "
        f"{(sizes == 0).sum():,} empty",
    ]


def _use_of_codewords(index: LatentIndex) -> list[str]:
    """How evenly the stored items are spread over the codewords of each sub-quantizer."""
    import torch

    from faiss_pqvae.model.clustering import histogram as counted_codewords
    from faiss_pqvae.model.clustering import perplexity, usage
    from faiss_pqvae.native.store.contents import codeword_blocks

    ksub = index.model.quantizer.ksub
    if not index.ntotal:
        return ["use of codewords: none yet, the index is empty"]
    counts = torch.zeros(index.model.M, ksub, dtype=torch.int64)
    for ids in codeword_blocks(index.faiss_index):
        counts += counted_codewords(torch.from_numpy(ids), ksub)
    used, spread = usage(counts).tolist(), perplexity(counts).tolist()
    shown = _shown(spread)
    part = "level" if index.model.structure == "residual" else "sub-quantizer"
    lines = [
        f"use of codewords: the {ksub} of each {part}, from the most used to the least",
        *(
            f"{m:>6}  {_drawn(counts[m].numpy())}  {used[m]:>4.0%} used, perplexity {spread[m]:.1f}"
            for m in shown
        ),
    ]
    if len(shown) < len(spread):
        lines += [
            f"of all {len(spread)}: {min(used):.0%} to {max(used):.0%} used, perplexity "
            f"{min(spread):.1f} to {max(spread):.1f}, {np.mean(spread):.1f} on average;",
            f"shown are the first {_FIRST}, and the {_WORST} of the lowest perplexity",
        ]
    return lines


def _shown(spread: list[float]) -> list[int]:
    """Which sub-quantizers have a line, by their perplexities."""
    if len(spread) <= _ALL:
        return list(range(len(spread)))
    return sorted({*range(_FIRST), *np.argsort(spread, kind="stable")[:_WORST].tolist()})


def _drawn(counts: npt.NDArray[Any]) -> str:
    width = min(_COLUMNS, columns(sys.stdout) - _BESIDE)
    return histogram(counts, width, blocks=takes_blocks(sys.stdout))


def _names(items: Items | None) -> str:
    if items is None:
        return "none, items have ids only"
    files = f", files in {printable(str(items.root))}" if items.root else ""
    return f"of {len(items)} items{files}"
