"""Data sets by name: one file a set, one line here."""
# ruff: noqa: F401, I001 - importing registers

from . import bsds_sift
from . import cifar10
from . import debian_text
from . import image_lists
from . import mirflickr
from . import mnist
from . import public
