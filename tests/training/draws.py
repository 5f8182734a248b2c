"""What the losses of labels are tried on: vectors of length 1, and their classes."""

import numpy as np
import torch
from torch.nn import functional


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(draws, dim=-1)


def classes_of(n: int, C: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    y = rng.random((n, C)) < 0.4
    y[np.arange(n), rng.integers(0, C, n)] = True
    return torch.from_numpy(y).float()
