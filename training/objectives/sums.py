"""Additive codebooks: a beam search chooses codes, and codebooks go to the means for these."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from faiss_pqvae.model import team
from faiss_pqvae.model.additive import sweep
from faiss_pqvae.model.additive_code import AdditiveCode
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.progress import Progress

from ..kept import Kept
from .residual_start import MakeCodebooks, residual_codebooks

_CODED_AT_A_TIME = 8192


def networks_of_sums(
    config: ModelConfig, input_shape: tuple[int, ...], decoder: str, objective: str
) -> ModelConfig:
    """A model of additive codes: a decoder of these, and no network of one's own.

    Args:
        config: as it was asked for.
        input_shape: of the items.
        decoder: its name.
        objective: its name, for messages.

    Raises:
        ValueError: networks, latents of another size, or items that are no vectors.
    """
    networks = (config.encoder or "linear", config.decoder)
    if len(input_shape) != 1 or networks not in (("linear", "linear"), ("linear", decoder)):
        raise ValueError(
            "expected vectors, and no encoder or decoder of one's own, for the objective "
            f"{objective!r}, got items of shape {input_shape}, {config.encoder!r} and "
            f"{config.decoder!r}"
        )
    dsub = input_shape[0] + 1
    if config.dsub not in (None, dsub):
        raise ValueError(
            f"expected dsub=None, or d + 1 = {dsub}, for the objective {objective!r}, whose "
            f"codewords have all dimensions of a vector, got {config.dsub}"
        )
    return replace(
        config,
        encoder="linear",
        decoder=decoder,
        dsub=dsub,
        normalize_latents=False,
        update="gradient",
    )


class Sums:
    """The codebooks of an additive code, being fitted to vectors.

    Args:
        code: whose centre is set; its codebooks are changed in place.
        x: (n, d) float32.
        effort: of the choice of codes, see `AdditiveCode.choose`.
        progress: draw bars, where standard error is a terminal.
    """

    def __init__(self, code: AdditiveCode, x: Tensor, *, effort: int, progress: bool) -> None:
        self.code, self.x = code, x
        self.effort, self.progress = effort, progress

    @torch.no_grad()
    def fit(
        self,
        make: MakeCodebooks | None,
        *,
        start_items: int,
        rounds: int,
        sweeps: int,
        kept: Kept,
        generator: torch.Generator,
        budget_s: float | None = None,
    ) -> list[float]:
        """Learns the codebooks.

        Args:
            make: the residual quantizer to start at, see `residual_codebooks`.
            start_items: vectors that it learns from.
            rounds: of codes and codebooks in turn.
            sweeps: through the codebooks in every round.
            kept: keeps the start's codebooks, and those of every round.
            generator: of the start, on the CPU.
            budget_s: seconds after which no round begins any more; None: all of them.

        Returns:
            The errors of the vectors before every round, relative to their variance.
        """
        x, code = self.x, self.code
        variance = float((x - code.centre).square().mean()) or 1.0

        def start() -> dict[str, Tensor]:
            rows = torch.randperm(len(x), generator=generator)[:start_items].to(x.device)
            sizes, shown = (len(code.codebooks), code.ksub), self.progress
            sample = x[rows] - code.centre
            found = residual_codebooks(sample, *sizes, make, generator=generator, progress=shown)
            return {"codebooks": found}

        began = time.monotonic()
        state = {"rounds": 0, "errors": [], "seconds": 0.0, **kept.made("codebooks", start)}
        state |= kept.take("rounds") or {}
        began -= state["seconds"]
        code.codebooks.copy_(state["codebooks"].to(x.device))
        done, errors = state["rounds"], list(state["errors"])
        with Progress("rounds", rounds, unit="rounds", shown=self.progress, initial=done) as bar:
            for number in range(done, rounds):
                if budget_s is not None and team.agreed(time.monotonic() - began) >= budget_s:
                    break
                ids = self.codes(inner=True)
                left = x - code.decode(ids)
                errors.append(float(left.square().mean()) / variance)
                sweep(code.codebooks, ids, left, sweeps=sweeps)
                found = {"codebooks": code.codebooks.data, "errors": errors}
                seconds = time.monotonic() - began
                kept.put("rounds", {"rounds": number + 1, "seconds": seconds, **found})
                bar.update()
        return errors

    @torch.no_grad()
    def codes(self, *, inner: bool = False) -> Tensor:
        """The codes (n, M) int64 of the vectors."""
        x, found = self.x[team.share(len(self.x))], []
        with Progress("codes", len(x), unit="vectors", shown=self.progress, inner=inner) as bar:
            for part in torch.split(x, _CODED_AT_A_TIME):
                found.append(self.code.choose(part, self.effort))
                bar.update(len(part))
        return team.gathered(torch.cat(found), len(self.x))
