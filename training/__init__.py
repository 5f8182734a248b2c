"""Training of the models of `faiss_pqvae`."""

from .config import LabelTraining, TrainingConfig
from .data.views import Views
from .loop import fit

__all__ = ["LabelTraining", "TrainingConfig", "Views", "fit"]
