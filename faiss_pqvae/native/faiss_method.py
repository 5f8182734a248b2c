"""FAISS's own methods, whatever another module put in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def faiss_method(index: Any, name: str) -> Callable[..., Any]:
    """A method of an index as FAISS itself has it: takes and gives arrays.

    `import faiss.contrib.torch_utils`, which is for everyone in the process, replaces methods of
    every index by ones that take no `params` and give tensors. It keeps what was there beside.

    Args:
        index: any faiss.Index.
        name: of the method.
    """
    method: Callable[..., Any] = getattr(index, f"{name}_numpy", None) or getattr(index, name)
    return method
