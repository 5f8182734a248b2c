"""From items to latents: what an index does with everything that it is given, on CPU or GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.data.batches import check_items, read_batches
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.pqvae import EFFORT, PQVAE, have_distances
from faiss_pqvae.types import FloatArray


class Batch(NamedTuple):
    """Items on their way into or through an index.

    Attributes:
        items: (n, *seen_shape) as they were given, or what the front made of them.
        inputs: (n, *model.input_shape) after the transforms, where the model is; queries as the
            items' space has them.
        z: (n, latent_dim) float32, their latents.
    """

    items: Tensor
    inputs: Tensor
    z: FloatArray


@dataclass(frozen=True)
class Encoding:
    """The way of items through the front, the transforms and the model's encoder.

    Attributes:
        model: the PQ-VAE, on any device.
        transforms: what happens to vectors before the model sees them, or None.
        front: a frozen network before these, or None.
        effort: of the choice of items' codes, where the model has a choice.
    """

    model: PQVAE
    transforms: Transforms | None = None
    front: Front | None = None
    effort: int = EFFORT

    def check(self) -> None:
        """Whether the parts fit together.

        Raises:
            ValueError: other sizes; a trained model behind untrained transforms.
        """
        model, transforms, front = self.model, self.transforms, self.front
        if transforms is not None and (transforms.d_out,) != model.input_shape:
            raise ValueError(
                f"expected transforms that give vectors of {model.input_shape}, got "
                f"{transforms.d_out} dimensions"
            )
        if transforms is not None and model.is_trained and not transforms.is_trained:
            raise ValueError("expected the transforms that the model was trained behind, trained")
        if front is not None and (front.d_out,) != self.seen_shape:
            raise ValueError(
                f"expected a front that gives vectors of {self.seen_shape}, got {front.d_out} "
                "features"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (c, h, w) or (d,)."""
        return self.seen_shape if self.front is None else self.front.input_shape

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """Shape of one item, or of its features, behind the front."""
        return self.model.input_shape if self.transforms is None else (self.transforms.d_in,)

    @property
    def seen_d(self) -> int:
        """Components of that."""
        return math.prod(self.seen_shape)

    def batches(
        self, x: Any, batch_size: int, what: str, *, queries: bool = False, sdc: bool = False
    ) -> Iterator[Batch]:
        """Reads and encodes items, batch by batch.

        Args:
            x: (n, *input_shape) uint8 or float; of no items there are no batches.
            batch_size: items at a time.
            what: the name of x in messages.
            queries: they are compared with what is stored, and go the way of queries, which a model
                may have a map for; False for what is stored itself.
            sdc: queries are quantized here, for a code that the native index cannot choose; not
                where it is one of residuals, see `residual_codes`.

        Raises:
            TypeError, ValueError: no such items; NaN or infinity in them, in features or latents.
        """
        x = check_items(x, self.input_shape, what, may_be_empty=True)
        for items in read_batches(x, batch_size, what):
            yield self.batch(items, queries=queries, sdc=sdc)

    def latents(
        self, x: Any, batch_size: int, what: str, *, queries: bool = False, sdc: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`: `inputs` and `z` as tensors, where the model is."""
        x = check_items(x, self.input_shape, what, may_be_empty=True)
        for items in read_batches(x, batch_size, what):
            _, inputs, z = self._encode(items, queries=queries, sdc=sdc)
            yield inputs, z

    def batch(self, items: Tensor, *, queries: bool = False, sdc: bool = False) -> Batch:
        """Encodes one batch that was read, (n, *input_shape)."""
        seen, inputs, z = self._encode(items, queries=queries, sdc=sdc)
        return Batch(seen, inputs, z.cpu().contiguous().numpy())

    def decode(self, z: FloatArray, batch_size: int) -> FloatArray:
        """Latents (n, latent_dim) float32 back to items, or their features, (n, *seen_shape).

        Raises:
            ValueError: a wrong shape, NaN or infinity; a transform that cannot be undone.
        """
        model = self.model
        z = check_items(z, (model.latent_dim,), "latents", may_be_empty=True)
        with torch.inference_mode():
            parts = [
                model.decode(batch.to(model.device)).cpu().numpy()
                for batch in read_batches(z, batch_size, "latents")
            ]
        items = np.concatenate(parts or [np.empty((0, *model.input_shape), np.float32)])
        return items if self.transforms is None else self.transforms.reverse(items)

    def check_same(self, other: Encoding) -> None:
        """Whether another one gives the same latents.

        Raises:
            ValueError: other weights, other transforms, another front.
        """
        if not _same_weights(self.model, other.model):
            raise ValueError("expected an index with the same model, got one with other weights")
        if self.transforms != other.transforms:
            raise ValueError("expected an index with the same transforms, got other ones")
        if self.front != other.front:
            raise ValueError(f"expected an index behind {self.front}, got one behind {other.front}")

    def behind_front(self) -> Encoding:
        """The way of features, which have passed the front."""
        return Encoding(self.model, self.transforms, effort=self.effort)

    def _encode(
        self, items: Tensor, *, queries: bool, sdc: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.front is not None:
            items = self.front.apply(items)
        inputs = items if self.transforms is None else self.transforms.apply(items)
        with torch.inference_mode():
            inputs = inputs.to(self.model.device)
            if queries:
                inputs = self.model.map_queries(inputs)
                z = self._z_of_mapped(inputs, sdc=sdc)
            else:
                z = self.model.encode(inputs, effort=self.effort)
        if not have_distances(z):
            raise ValueError("expected items with latents below 1e18, got larger ones or NaN")
        return items, inputs, z

    def _z_of_mapped(self, inputs: Tensor, *, sdc: bool) -> Tensor:
        spec = self.model.spec
        if sdc and spec.is_additive and not spec.by_residual:
            return self.model.encode_symmetric(inputs, effort=self.effort)
        return self.model.encode_mapped(inputs)


def _same_weights(a: PQVAE, b: PQVAE) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items()
    )
