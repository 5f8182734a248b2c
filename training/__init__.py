"""Training of the models of `faiss_pqvae`."""

from .build import new_model
from .config import TrainingConfig
from .data.picture_views import PictureViews
from .data.views import Views
from .loop import fit
from .objectives import DPQ, DQN, Additive, Contrastive, Ranking, Reconstruction, Synthesis
from .objectives.labelled import LabelTraining

__all__ = [
    "DPQ",
    "DQN",
    "Additive",
    "Contrastive",
    "LabelTraining",
    "PictureViews",
    "Ranking",
    "Reconstruction",
    "Synthesis",
    "TrainingConfig",
    "Views",
    "fit",
    "new_model",
]
