"""Classes for items without: those that their nearest labelled items agree on, as far as they may.

How often the vote is right is counted on held-out items whose labels are known, and the least
agreement that counts is chosen by that (self-training; Yarowsky, ACL 1995).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.data.labels import Labels
from faiss_pqvae.progress import Progress

from ..data.items import Rows

SHARPNESS = 10.0  # of votes: exp of the cosine times this
_LEAST_HELD = 20  # held-out items below which a share says nothing
_AT_A_TIME = 1024


class Vote(NamedTuple):
    """What labelled items say of others.

    Attributes:
        classes: (n,) int64, the class with the most votes.
        agreement: (n,) float64, its share of them.
    """

    classes: Tensor
    agreement: Tensor


class PseudoLabels(NamedTuple):
    """What a vote gave.

    Attributes:
        rows: (m,) int64 of the items that have a class now.
        classes: (m,) int64.
        right: the share of held-out items of such agreement whose class the vote knew.
        held: how many these are.
    """

    rows: Rows
    classes: Rows
    right: float
    held: int

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        arrays = {"rows": torch.from_numpy(self.rows), "classes": torch.from_numpy(self.classes)}
        return {**self._asdict(), **arrays}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> PseudoLabels:
        """What `state` was made of."""
        arrays = {name: state[name].numpy() for name in ("rows", "classes")}
        return cls(**{**state, **arrays})


def vote(z: Tensor, labelled: Tensor, y: Tensor, *, progress: bool = False) -> Vote:
    """The classes of labelled latents, each of which counts the more the nearer it is, by cosine.

    All of them vote, in float64: of the nearest alone most items would have the same agreement, 1,
    and who may be wrong would not be told from who is right.

    Args:
        z: (n, d) float.
        labelled: (m, d) float, m >= 1.
        y: (m, C) float of zeros and a one: their classes.
        progress: draw a bar.
    """
    labelled, y = functional.normalize(labelled), y.double()
    classes, agreement = [], []
    with Progress("votes", len(z), unit="items", shown=progress) as bar:
        for part in torch.split(z, _AT_A_TIME):
            cosines = (functional.normalize(part) @ labelled.T).double()
            votes = (SHARPNESS * cosines).exp() @ y
            most, winner = (votes / votes.sum(1, keepdim=True)).max(1)
            classes.append(winner)
            agreement.append(most)
            bar.update(len(part))
    return Vote(torch.cat(classes), torch.cat(agreement))


def least_agreement(held: Vote, truth: Tensor, precision: float) -> tuple[float, float, int]:
    """The least agreement from which on a vote is right often enough, as held-out items say.

    Args:
        held: of items whose classes are known.
        truth: (n,) int64, these.
        precision: share of right ones that is asked for.

    Returns:
        The agreement, the share that is right of those with as much or more, and their number; an
        agreement of infinity where no 20 of them are right often enough.
    """
    order = held.agreement.argsort(descending=True)
    agreement = held.agreement[order]
    right = (held.classes == truth)[order].double().cumsum(0)
    share = right / torch.arange(1, len(order) + 1, device=order.device)
    # What agrees to the same degree stays together: a cut is behind the last of them.
    ends = torch.ones(len(order), dtype=torch.bool, device=order.device)
    ends[:-1] = agreement[:-1] > agreement[1:]
    fits = ends & (share >= precision)
    fits[: _LEAST_HELD - 1] = False
    if not fits.any():
        return float("inf"), 0.0, 0
    last = int(fits.nonzero()[-1])
    return float(agreement[last]), float(share[last]), last + 1


def with_classes(labels: Labels, found: PseudoLabels) -> Labels:
    """Labels with those of items that had none: `found.rows` are such."""
    counts = np.diff(labels.starts)
    counts[found.rows] = 1
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    classes = np.empty(starts[-1], np.int64)
    old = np.ones(len(classes), bool)
    old[starts[found.rows]] = False
    classes[old] = labels.classes
    classes[starts[found.rows]] = found.classes
    return Labels(labels.n_classes, classes, starts)
