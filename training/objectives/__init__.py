"""What is learned, one file an objective."""

from . import agreement  # noqa: F401 - registers
from .contrastive import Contrastive
from .dpq import DPQ
from .dqn import DQN
from .ranking import Ranking
from .reconstruction import Reconstruction

__all__ = ["DPQ", "DQN", "Contrastive", "Ranking", "Reconstruction"]
