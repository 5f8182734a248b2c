"""More vectors than there are: mixtures of two, for codes that are to serve others, too."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 16  # times as many as there are: what more of them teaches is not worth the time it takes


def filled_up(x: Tensor, n: int, share: float, generator: torch.Generator) -> Tensor:
    """Vectors, and mixtures of them where there are fewer than n.

    A mixture is sqrt(1 - a^2) of a vector and a of another one about their mean, a even in
    [0, share]: as far from the mean as vectors are (as mixup, Zhang et al. 2018, is not). Codewords
    that are means of a few vectors learn these by heart, and of mixtures they cannot.

    Args:
        x: (n_x, d) float32.
        n: vectors wanted, of which 16 times as many as there are are made; more than n stay.
        share: of the second vector, at most; 0 makes no mixtures.
        generator: on the CPU.

    Returns:
        (max(min(n, 16 n_x), n_x), d), the vectors first; (n_x, d) without mixtures.
    """
    lacking = min(n, _MOST * len(x)) - len(x)
    if lacking <= 0 or not share:
        return x
    first, second = (
        torch.randint(len(x), (lacking,), generator=generator).to(x.device) for _ in range(2)
    )
    a = (share * torch.rand(lacking, 1, generator=generator)).to(x.device)
    about = x - x.mean(0)
    mixed = (1 - a.square()).sqrt() * about[first] + a * about[second] + x.mean(0)
    return torch.cat([x, mixed])
