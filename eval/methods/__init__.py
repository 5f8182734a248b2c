"""Methods by name: one file a method, one line here, in the order of the rows."""
# ruff: noqa: F401, I001 - importing registers, and the order is wanted

from . import exact
from . import lsh
from . import spectral
from . import spherical
from . import itq
from . import deep_hashing
from . import pq
from . import opq
from . import fastscan
from . import scalar
from . import whole_bytes
from . import rq
from . import lsq
from . import product_residual
from . import rabitq
from . import scann
from . import learned
from . import inverted
