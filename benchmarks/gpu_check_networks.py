"""What networks do to items on a device: encode them, and look at results a second time."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_check_indexes import D_IN, copied, make_model, mixed, pictures, quick
from gpu_check_machine import seconds_of
from gpu_check_part import Check, DiffersError

import faiss_pqvae as fpq
from faiss_pqvae.native import faiss
from faiss_pqvae.native.store.contents import read


def encoding(check: Check) -> None:
    """Images a second, and latents that are the CPU's."""
    for encoder in ("conv", "resnet", "resnet18") if check.on_card else ("conv",):
        with check.trying(encoder):
            images, _ = pictures(20_000 if check.on_card else 256, (3, 32, 32))
            index = fpq.LatentIndex(make_model((3, 32, 32), 8, 8, encoder=encoder))
            index.add(images[:64])
            copy = copied(check, index, "torch")
            z, reference = copy.encode(images[:64]), index.encode(images[:64])
            apart = float(np.abs(np.asarray(z) - reference).max() / np.abs(reference).max())
            # A card multiplies for convolutions with 11 bits.
            if not apart <= (2e-2 if check.on_card else 1e-5):
                raise DiffersError(f"latents are {apart:.1e} apart")
            cpu_s = seconds_of(partial(index.encode, images[:256]), "cpu")
            found = {"cpu_images_per_s": round(256 / cpu_s, 1)}
            for place in ("memory", "card") if check.on_card else ("memory",):
                x: Any = torch.from_numpy(images).cuda() if place == "card" else images
                took_s = seconds_of(partial(copy.encode, x), check.device)
                found[f"images_per_s_from_{place}"] = round(len(images) / took_s, 1)
            check.note(encoder, latents_apart=apart, shape=[3, 32, 32], **found)


def refinement(check: Check) -> None:
    """Results ranked again by the decoder: the CPU's, and what that gives and takes."""
    d, n = (64, 10_000) if check.on_card else (D_IN, 1500)
    x = mixed(n + 100, d)
    database, queries = x[:n], x[n:]
    objective = fpq.Synthesis(rounds=1, epochs=2, filled=0, effort=2, start_effort=2)
    index = fpq.index_factory(d, "PQVAE4x4,RDecoder", objective=objective, training=quick())
    index.train(database, progress=False)
    plain = fpq.LatentIndex(index.model)
    for each in (index, plain):
        each.effort = 2
        each.add(database)
    exact = faiss.IndexFlatL2(d)
    exact.add(database)
    nearest = exact.search(queries, 1)[1]
    copy = copied(check, index, "torch")
    kinds: dict[str, Any] = {"refined": copy, "refined_cpu": index, "codes_alone_cpu": plain}
    found = {name: each.search(queries, 10) for name, each in kinds.items()}
    (D, I), (D_cpu, I_cpu) = found["refined"], found["refined_cpu"]  # noqa: E741
    codes = read(index.faiss_index).codes  # what has the same code is the same to a decoder
    same = float((codes[I_cpu] == codes[I]).all(-1).mean())
    apart = float(np.abs(D - D_cpu).max() / np.abs(D_cpu).max())
    check.note(
        "RDecoder",
        n=n,
        codes_the_same=same,
        distances_apart=apart,
        recall_at_10={
            name: float((nearest == ids).any(1).mean()) for name, (_, ids) in found.items()
        },
        # Of arrays, which are there when a search returns.
        queries_per_s={
            name: round(len(queries) / seconds_of(partial(each.search, queries, 10), "cpu"))
            for name, each in kinds.items()
        },
    )
    if not (same >= 0.98 and apart <= 1e-3):
        raise DiffersError(f"{same:.3f} of the codes are the same, distances {apart:.1e} apart")
