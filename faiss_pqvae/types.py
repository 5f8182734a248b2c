"""The types of arrays, each once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]  # ids, keys, places and row numbers
CodeArray = npt.NDArray[np.uint8]
WordArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
