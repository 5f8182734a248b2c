"""What is learned, one file an objective."""

from .contrastive import Contrastive
from .dpq import DPQ
from .dqn import DQN
from .ranking import Ranking
from .reconstruction import Reconstruction

__all__ = ["DPQ", "DQN", "Contrastive", "Ranking", "Reconstruction"]
