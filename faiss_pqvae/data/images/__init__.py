"""Images on disk: a folder of them, or encoded in Parquet; decoded on access. numpy only."""

from faiss_pqvae.data.images.files import ImageFiles
from faiss_pqvae.data.images.folder import ImageFolder
from faiss_pqvae.data.images.image_options import CHANNELS, ImageOptions, Mode
from faiss_pqvae.data.images.listing import IMAGE_SUFFIXES
from faiss_pqvae.data.images.parquet import ParquetImages

__all__ = [
    "CHANNELS",
    "IMAGE_SUFFIXES",
    "ImageFiles",
    "ImageFolder",
    "ImageOptions",
    "Mode",
    "ParquetImages",
]
