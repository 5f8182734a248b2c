"""What is learned, one file an objective."""

from .additive import Additive
from .contrastive import Contrastive
from .dpq import DPQ
from .dqn import DQN
from .ranking import Ranking
from .reconstruction import Reconstruction
from .synthesis import Synthesis

__all__ = ["DPQ", "DQN", "Additive", "Contrastive", "Ranking", "Reconstruction", "Synthesis"]
