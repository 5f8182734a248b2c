"""Training of the models of `faiss_pqvae`."""

from faiss_pqvae.training.config import LabelTraining, TrainingConfig
from faiss_pqvae.training.loop import fit
from faiss_pqvae.training.views import Views

__all__ = ["LabelTraining", "TrainingConfig", "Views", "fit"]
