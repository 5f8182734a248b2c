"""Additive codebooks: a beam search chooses codes, and codebooks go to the means for these."""

from __future__ import annotations

import torch
from torch import Tensor

from faiss_pqvae.model.additive import sweep
from faiss_pqvae.model.additive_code import AdditiveCode
from faiss_pqvae.progress import Progress

from ..kept import Kept
from .residual_start import MakeCodebooks, residual_codebooks

_CODED_AT_A_TIME = 8192


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
    ) -> list[float]:
        """Learns the codebooks.

        Args:
            make: the residual quantizer to start at, see `residual_codebooks`.
            start_items: vectors that it learns from.
            rounds: of codes and codebooks in turn.
            sweeps: through the codebooks in every round.
            kept: keeps the start's codebooks, and those of every round.
            generator: of the start, on the CPU.

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

        state = {"rounds": 0, "errors": [], **kept.made("codebooks", start)}
        state |= kept.take("rounds") or {}
        code.codebooks.copy_(state["codebooks"].to(x.device))
        done, errors = state["rounds"], list(state["errors"])
        with Progress("rounds", rounds, unit="rounds", shown=self.progress, initial=done) as bar:
            for number in range(done, rounds):
                ids = self.codes(inner=True)
                left = x - code.decode(ids)
                errors.append(float(left.square().mean()) / variance)
                sweep(code.codebooks, ids, left, sweeps=sweeps)
                found = {"codebooks": code.codebooks.data, "errors": errors}
                kept.put("rounds", {"rounds": number + 1, **found})
                bar.update()
        return errors

    @torch.no_grad()
    def codes(self, *, inner: bool = False) -> Tensor:
        """The codes (n, M) int64 of the vectors."""
        x, found = self.x, []
        with Progress("codes", len(x), unit="vectors", shown=self.progress, inner=inner) as bar:
            for part in torch.split(x, _CODED_AT_A_TIME):
                found.append(self.code.choose(part, self.effort))
                bar.update(len(part))
        return torch.cat(found)
