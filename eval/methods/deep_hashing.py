"""Deep Hashing: bits from the signs of a small network that learns without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy.typing as npt
import torch

from faiss_pqvae.registry import methods
from faiss_pqvae.types import BoolArray

from .binary import Hashing, check_rows, check_sizes, check_trained, check_training
from .build import from_class, reduced_by_pca
from .method import Method, Request

INPUT_SCALE = 2.0  # deviations of the first component that become 1

Tensor = torch.Tensor
Layers = Sequence[tuple[Tensor, Tensor]]


class DeepHashing(Hashing):
    """Unsupervised Deep Hashing (Liong, Lu, Wang, Moulin and Zhou, CVPR 2015).

    Layers h_m = tanh(W_m h_(m-1) + c_m), codes sign(h_M), learned by gradient descent on
    `objective`: the codes shall lose little, the bits vary, the rows of every W_m be orthonormal
    and the parameters small.

    Assumed, since our sources do not give them: two hidden layers of 2 and 3/2 times the bits (at
    most d); vectors are centred and divided by twice the deviation of their first component; W_1
    starts at the leading components, the other W at random orthonormal rows, c at 0; Adam in
    mini-batches; the defaults below. These were chosen by recall on Gaussian vectors of 128
    dimensions: with smaller weights, or after many more steps, bits become constant, or all become
    the same one, which the objective allows and which finds nothing.

    Args:
        d: dimension of the vectors.
        bits: bits of a code, a multiple of 8.
        seed: of the first weights and of the order of the vectors.
        steps: of the descent.
        batch_size: vectors in a step, at most; they come in the order of random permutations.
        learning_rate: of Adam.
        variance_weight: lambda_1.
        independence_weight: lambda_2.
        decay_weight: lambda_3.

    Attributes:
        layers: ((W: (out, in), c: (out,)), ...) float32, after training.
        history: the objective of every step's batch.
        settings: what decides the result besides d, bits and seed.
    """

    def __init__(
        self,
        d: int,
        bits: int,
        *,
        seed: int = 0,
        steps: int = 300,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        variance_weight: float = 300.0,
        independence_weight: float = 1000.0,
        decay_weight: float = 30.0,
    ) -> None:
        check_sizes(bits, d)
        if steps < 1 or batch_size < 2 or not learning_rate > 0:
            raise ValueError(
                "expected steps >= 1, batch_size >= 2 and learning_rate > 0, got "
                f"{steps}, {batch_size} and {learning_rate}"
            )
        super().__init__(bits)
        self.d, self.seed = d, seed
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.weights = (variance_weight, independence_weight, decay_weight)
        self.settings = {
            "hidden": list(_widths(d, bits)[:-1]),
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "variance_weight": variance_weight,
            "independence_weight": independence_weight,
            "decay_weight": decay_weight,
        }
        self.is_trained = False
        self.layers: Layers = ()
        self.history: list[float] = []
        self._mean: Tensor
        self._scale: Tensor

    def train(self, x: npt.NDArray[Any], /) -> None:
        """Learns from x: (n, d) floats.

        Raises:
            TypeError: x has no floating point values.
            ValueError: x has another shape, values that are not finite, or one vector only.
        """
        rows = torch.tensor(check_training(x, self.d))  # a copy: torch wants to be able to write
        generator = torch.Generator().manual_seed(self.seed)
        self._mean = rows.mean(dim=0)
        rows -= self._mean
        self.layers, self._scale = _first_layers(rows, self.bits, generator)
        rows /= self._scale
        parameters = [part.requires_grad_() for layer in self.layers for part in layer]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        self.history = []
        for batch in islice(_batches(len(rows), self.batch_size, generator), self.steps):
            loss = objective(self.layers, forward(self.layers, rows[batch]), *self.weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.history.append(float(loss.detach()))
        for part in parameters:
            part.requires_grad_(False)
        if not all(bool(torch.isfinite(part).all()) for part in parameters):
            raise ValueError(f"the training diverged with a learning rate of {self.learning_rate}")
        self.is_trained = True

    def model_bytes(self) -> int:
        """Bytes of what was learned."""
        parts = (self._mean, self._scale, *(part for layer in self.layers for part in layer))
        return sum(part.nbytes for part in parts)

    def encode(self, x: npt.NDArray[Any], /) -> BoolArray:
        """The bits of x: (n, d) floats to (n, bits) bool."""
        check_trained(self.is_trained)
        rows = torch.tensor(check_rows(x, self.d))
        with torch.no_grad():
            bits: BoolArray = (forward(self.layers, (rows - self._mean) / self._scale) > 0).numpy()
        return bits


@methods.register("Deep Hashing")
def rows(request: Request) -> Iterator[Method]:
    """At whole bytes only."""
    if request.bits % 8 == 0:
        name = f"{reduced_by_pca(request.shape).label}Deep Hashing"
        yield from_class(
            name, DeepHashing, bits=request.bits, shape=request.shape, seed=request.seed
        )


def forward(layers: Layers, x: Tensor) -> Tensor:
    """h_M of x: tanh(W h + c), layer by layer; (n, d) to (n, bits)."""
    for weight, bias in layers:
        x = torch.tanh(x @ weight.T + bias)
    return x


def objective(
    layers: Layers,
    h: Tensor,
    variance_weight: float,
    independence_weight: float,
    decay_weight: float,
) -> Tensor:
    """What is made small: J1 - lambda_1 J2 + lambda_2 J3 + lambda_3 J4 (METHODS, section 2).

    J1 = ||B - H||^2 / (2 n), what the signs B = sgn(H) lose;
    J2 = ||H - mean(H)||^2 / (2 n), the variance of the bits;
    J3 = sum_m ||W_m W_m^T - I||^2 / 2, the dependence of a layer's projections;
    J4 = sum_m (||W_m||^2 + ||c_m||^2) / 2.

    Assumed: J1 is a mean over vectors as J2 is, so that the weights do not depend on the size of a
    batch; J2 is about the mean, since otherwise a constant bit would be as good as a balanced one.

    Args:
        layers: ((W, c), ...).
        h: (n, bits), the output of the last layer.
        variance_weight: lambda_1.
        independence_weight: lambda_2.
        decay_weight: lambda_3.

    Returns:
        A scalar.
    """
    signs = torch.where(h > 0, 1.0, -1.0)
    quantization = (signs - h).square().sum() / (2 * len(h))
    variance = (h - h.mean(dim=0)).square().sum() / (2 * len(h))
    zero = h.new_zeros(())
    dependence, size = zero, zero
    for weight, bias in layers:
        identity = torch.eye(len(weight), dtype=weight.dtype)
        dependence = dependence + (weight @ weight.T - identity).square().sum() / 2
        size = size + (weight.square().sum() + bias.square().sum()) / 2
    return (
        quantization
        - variance_weight * variance
        + independence_weight * dependence
        + decay_weight * size
    )


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of batches, permutation after permutation without end."""
    while True:
        yield from torch.split(torch.randperm(n, generator=generator), size)


def _widths(d: int, bits: int) -> tuple[int, int, int]:
    """Outputs of the three layers."""
    return min(2 * bits, d), min(3 * bits // 2, d), bits


def _first_layers(rows: Tensor, bits: int, generator: torch.Generator) -> tuple[Layers, Tensor]:
    """Weights to start from, and the deviation of what the first layer projects to.

    Args:
        rows: (n, d), centred.
        bits: outputs of the last layer.
        generator: of the random weights.
    """
    d = rows.shape[1]
    widths = _widths(d, bits)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    leading = vectors.flip(1)[:, : widths[0]].T.contiguous()  # (out, d), by falling variance
    # Where tanh is nearly linear: bits of saturated components forget by how much items differ.
    scale = INPUT_SCALE * (rows @ leading[0]).square().mean().sqrt()
    layers = [(leading, torch.zeros(widths[0]))]
    for inputs, outputs in pairwise(widths):
        noise = torch.randn(max(inputs, outputs), min(inputs, outputs), generator=generator)
        orthonormal = torch.linalg.qr(noise)[0]  # its columns
        weight = orthonormal.T if outputs <= inputs else orthonormal
        layers.append((weight.contiguous(), torch.zeros(outputs)))
    return layers, scale
