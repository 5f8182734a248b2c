"""An objective of your own: codes under which two views of a picture agree.

python examples/own_objective.py
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tyro
from torch import Tensor

import faiss_pqvae as fpq
from faiss_pqvae.training.objectives.protocol import Setup, Terms
from faiss_pqvae.training.objectives.view_task import ViewTask


@dataclass(frozen=True)
class Agreement:
    """Views agree and latents spread (VICReg's first terms), beside the quantization."""

    title: ClassVar[str] = "agreement"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ()  # besides the items: "labels", "queries", ...
    spread: float = 1.0

    def spec(self, *, unit: bool, metric: Any) -> fpq.CodeSpec:
        return fpq.CodeSpec(latents="unit" if unit else "free", metric=metric or "l2")

    def networks(self, config: fpq.ModelConfig, input_shape: Any) -> fpq.ModelConfig:
        return config

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def settled(self, model: fpq.PQVAE, config: fpq.TrainingConfig) -> Any:
        return self, config.for_shape(model.input_shape, strong=True)

    def task(self, setup: Setup, given: dict[str, Any]) -> ViewTask:
        def terms(views: Tensor, clean: Tensor, *, bypass: bool) -> Terms:
            q = setup.model.quantize(views)
            one, two = q.z.chunk(2)
            parts = {"agreement": (one - two).square().mean(), "quantization": q.commitment_loss}
            uneven = (1 - (q.z.var(0) + 1e-4).sqrt()).relu().mean()
            loss = parts["agreement"] + self.spread * uneven + 0.1 * q.commitment_loss
            return Terms(loss, parts, q.z.detach(), q.ids)

        return ViewTask(setup, terms, n_views=2, trains_decoder=False, by_batch=True)


def main(epochs: int = 3, n: int = 1000) -> None:
    training = fpq.TrainingConfig(epochs=epochs, batch_size=64)
    index = fpq.index_factory((3, 32, 32), "PQVAE8x4", objective=Agreement(), training=training)
    index.train(np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype="uint8"))
    print(index, index.history[-1])


if __name__ == "__main__":
    tyro.cli(main)
