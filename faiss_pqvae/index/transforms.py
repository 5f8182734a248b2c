"""Transforms before the encoder: FAISS's own, on vectors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faiss_pqvae.data.batches import read_rows, read_sample
from faiss_pqvae.files import read_checked, write_checked
from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray


class Transforms:
    """A chain of faiss.VectorTransform.

    Args:
        index: a faiss.IndexPreTransform that holds the chain; what it wraps is not used.
        description: what `from_description` makes an untrained one of.
    """

    def __init__(self, index: Any, description: str | None = None) -> None:
        self.index, self.description = index, description

    @classmethod
    def from_description(cls, d: int, description: str) -> Transforms:
        """An untrained chain for vectors of d dimensions, from FAISS's grammar ("L2norm,PCA64")."""
        return cls(faiss.index_factory(d, f"{description},Flat"), description)

    def __reduce__(self) -> Any:
        # FAISS's files, and so its copies, forget what an untrained transform is to become.
        if self.description is not None and not self.is_trained:
            return Transforms.from_description, (self.d_in, self.description)
        return Transforms, (self.index, self.description)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transforms):
            return NotImplemented
        return self.as_bytes() == other.as_bytes()

    def __str__(self) -> str:
        return self.description or "transforms"

    def as_bytes(self) -> bytes:
        """What they do, and nothing else."""
        serialized: npt.NDArray[np.uint8] = faiss.serialize_index(self.index)
        return serialized.tobytes()

    __hash__ = None  # type: ignore[assignment]  # compared by what they do

    @property
    def d_in(self) -> int:
        """Dimension of the vectors that go in."""
        return int(self.index.d)

    @property
    def d_out(self) -> int:
        """Dimension of the vectors that come out."""
        return int(self.chain[-1].d_out)

    @property
    def chain(self) -> list[Any]:
        """The native transforms, first to last."""
        chain = self.index.chain
        return [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be transformed."""
        return all(transform.is_trained for transform in self.chain)

    def trained(self, x: Any, what: str, *, n_max: int = 2**16) -> Transforms:
        """A chain like this one, fitted to a sample of at most n_max vectors x (n, d_in).

        One that was given without a description keeps the transforms that are trained.

        Raises:
            ValueError: vectors that FAISS cannot fit a transform to, such as too few of them.
        """
        fitted = (
            copy.deepcopy(self)
            if self.description is None
            else Transforms.from_description(self.d_in, self.description)
        )
        z: FloatArray = read_sample(x, n_max, what).float().cpu().contiguous().numpy()
        for transform in fitted.chain:
            if not transform.is_trained:
                _train(transform, z)
            z = transform.apply(z)
        return fitted

    def write(self, path: Path) -> None:
        """Keeps trained ones in a file, whose folder is made when missing; see `read`."""
        write_checked(path, self.as_bytes())

    def read(self, path: Path) -> Transforms | None:
        """What `write` kept of such a chain; None if that is not there, or damaged."""
        content = read_checked(path)
        if content is None:
            return None
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        return Transforms(index, self.description)

    def apply(self, x: Tensor) -> Tensor:
        """Vectors (n, d_in) of any dtype to (n, d_out) float32, on the CPU."""
        z: FloatArray = x.float().cpu().contiguous().numpy()
        for transform in self.chain:
            z = transform.apply(z)
        return torch.from_numpy(z)

    def reverse(self, z: FloatArray) -> FloatArray:
        """Vectors (n, d_out) float32 back to (n, d_in), as far as each transform can.

        Raises:
            ValueError: a transform that cannot be undone.
        """
        for transform in reversed(self.chain):
            try:
                z = transform.reverse_transform(z)
            except RuntimeError as error:
                name = type(transform).__name__
                raise ValueError(f"{name} cannot be undone by FAISS: {error}") from error
        return z


def _train(transform: Any, x: FloatArray) -> None:
    least = max(transform.d_in, transform.d_out)
    if isinstance(transform, faiss.OPQMatrix) and len(x) < least:
        # FAISS would write beyond its memory, which ends the process.
        raise ValueError(f"expected at least {least} vectors to train OPQ with, got {len(x)}")
    try:
        transform.train(x)
    except RuntimeError as error:
        name = type(transform).__name__
        raise ValueError(f"FAISS cannot train {name} on {len(x)} vectors: {error}") from error


class Transformed:
    """The rows of x, transformed when they are read: what a training reads.

    Args:
        x: vectors (n, d_in).
        transforms: fitted ones.
        what: the name of x in messages.
    """

    def __init__(self, x: Any, transforms: Transforms, what: str) -> None:
        self.x, self.transforms, self.what = x, transforms, what
        self.shape = (x.shape[0], transforms.d_out)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> Tensor:
        return self.transforms.apply(read_rows(self.x, rows, self.what))
