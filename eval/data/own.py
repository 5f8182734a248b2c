"""Data of your own: a folder of images per class, Parquet, or .npy files, and their labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from faiss_pqvae.data.arrow import first_with_rows, is_list, read_column
from faiss_pqvae.data.flat import Float32Rows
from faiss_pqvae.data.folders import files_in
from faiss_pqvae.data.images import ImageFolder, ImageOptions, Mode, ParquetImages
from faiss_pqvae.data.images.cache import decode_all
from faiss_pqvae.data.images.label_column import plain, without_nan
from faiss_pqvae.data.labels import check_labels
from faiss_pqvae.data.npy import read_npy
from faiss_pqvae.data.open import are_images, check_used, open_source
from faiss_pqvae.data.own_ids import OwnIds, read_id_column, read_own_ids
from faiss_pqvae.data.source import Source
from faiss_pqvae.data.tables import open_parquet_vectors, parquet_columns
from faiss_pqvae.types import IdArray

from .classes import classes_of
from .held import HELD_BYTES
from .known_neighbors import read_neighbors
from .labelled import LabelledData
from .qrels import read_qrels
from .splits import LabelledItems
from .texts import Lines
from .vectors import VectorParts

# In a folder of .npy files; all but the first may be absent.
_NPY = (
    "items.npy",
    "labels.npy",
    "queries.npy",
    "query_labels.npy",
    "qrels.tsv",
    "item_ids.txt",
    "query_ids.txt",
)
# What concerns vectors without labels alone.
_OF_VECTORS = (
    *("distance", "neighbors", "filter_labels", "query_filter_labels", "texts", "query_texts"),
)


@dataclass(frozen=True)
class OwnData:
    """What to read of data that lie at a path.

    Attributes:
        queries: a folder or a file like the data's; without it, queries are drawn from the data.
        labels: a .npy file with the labels of the data: integers (n,), or bool (n, classes) where
            an item may be of several.
        query_labels: likewise of the queries.
        qrels: a text file with real relevance, beside vectors and queries without labels: lines of
            a query, an item and a grade, or TREC's four columns.
        distance: by which neighbours are the nearest, of vectors without labels; for cosine all
            vectors are scaled to length 1.
        neighbors: exact neighbours that are known, of vectors without labels: places (nq, at least
            100) in .npy, .ivecs, or .ibin and .bin, also as big-ann has them, with distances
            behind. They are used if they are right for a sample.
        filter_labels: a .npy file of integers (n,), of vectors: searches are measured besides with
            a filter that leaves the items of the query's own label.
        query_filter_labels: likewise of the queries, (nq,).
        texts: a text file of what the vectors stand for, a line each, also as .gz; the report
            shows it.
        query_texts: likewise of the queries.
        query_ids: what the qrels call the queries, in their order: lines of .txt, or .npy or .json;
            by default their places from 0 on.
        item_ids: likewise of the items.
        id_column: likewise, the column of ids in Parquet files of items and of queries.
        column: the column of images or of vectors in Parquet; by default "image", or the only one
            of images or of vectors.
        label_column: the column of labels in Parquet: integers or text, or lists of them where
            items are of several classes; by default "label", where there is one.
        size: height and width that the images of a folder, or in Parquet, are resized to.
        mode: RGB for three channels, L for one (grey); by default RGB.
        orient: turn images as their EXIF orientation says, as every viewer does.
        skip_broken: leave out images that cannot be read, and name them, instead of an error that
            lists them all. The rows of labels are places among all files.
        crop: where they are resized, cut the middle out in the proportions of that size first, in
            place of stretching them; by default where the network of --features, or the encoder of
            --index, wants that.
    """

    queries: Path | None = None
    labels: Path | None = None
    query_labels: Path | None = None
    qrels: Path | None = None
    distance: Literal["l2", "inner_product", "cosine"] = "l2"
    neighbors: Path | None = None
    filter_labels: Path | None = None
    query_filter_labels: Path | None = None
    texts: Path | None = None
    query_texts: Path | None = None
    query_ids: Path | None = None
    item_ids: Path | None = None
    id_column: str | None = None
    column: str | None = None
    label_column: str | None = None
    size: tuple[int, int] | None = None
    mode: Mode | None = None
    orient: bool = True
    skip_broken: bool = False
    crop: bool | None = None

    @property
    def images(self) -> ImageOptions:
        """What of this is said of images."""
        return ImageOptions(
            size=self.size,
            crop=self.crop,
            mode=self.mode,
            orient=self.orient,
            skip_broken=self.skip_broken,
            column=self.column,
        )


class _Part(NamedTuple):
    """Items and their labels as they were read.

    Attributes:
        items: (n, ...) items.
        labels: as `classes_of` takes them, or None.
        names: of the classes that integers stand for, where these are known.
    """

    items: Source
    labels: Any
    names: tuple[str, ...] | None


def open_own(path: Path, options: OwnData) -> LabelledData | LabelledItems | VectorParts:
    """Opens data at a path: labelled items, or vectors with queries.

    Args:
        path: a folder of images per class; a Parquet file, or a folder of them; a .npy file, whose
            labels `options` name; or a folder with items.npy and labels.npy, and queries.npy and
            query_labels.npy where the queries are given; or with items.npy and queries.npy, and
            qrels.tsv where real relevance is known, whose ids are lines of item_ids.txt and
            query_ids.txt, or places.
        options: see there.

    Returns:
        Labelled data; labelled items of which queries are still to be drawn, when none are given;
        vectors, when queries and no labels are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: labels are missing, or do not fit; a column is missing (the message lists those
            that are there); a file is corrupt.
        ImportError: a library is needed and not installed; the message names its extra.
    """
    said = options.query_ids or options.item_ids or options.id_column
    path, options = _npy_folder(path, options)
    if options.qrels is not None and (options.queries is None or options.labels is not None):
        raise ValueError(
            f"expected --queries and no labels beside the judgements of {options.qrels}: they are "
            "of given queries, and labels say themselves what is relevant"
        )
    if options.qrels is None and said:
        raise ValueError("expected --qrels beside ids of queries or items, which it calls them by")
    part = _read(path, options.labels, options)
    usual = OwnData()
    of_vectors = [name for name in _OF_VECTORS if getattr(options, name) != getattr(usual, name)]
    if part.labels is not None and of_vectors:
        raise ValueError(
            f"expected no {_option(of_vectors[0])} with labels, which say what is relevant: it is "
            "of vectors without"
        )
    what = f"{path.name} ({len(part.items):,} items"
    if options.queries is None:
        if part.labels is None:
            raise ValueError(
                f"expected labels of {path} or queries to evaluate with, got neither: give a "
                "folder of images per class, a column of labels, --labels FILE.npy, or --queries"
            )
        (labels,), names = classes_of([part.labels], [part.names])
        check_labels(labels, len(part.items))
        description = f"{what} of {len(names):,} classes)"
        return LabelledItems(path.name, description, _held(part.items), labels, names)
    queries = _read(options.queries, options.query_labels, options)
    items, asked = _of_one_float(part.items, queries.items)
    if part.labels is None and queries.labels is None:
        return _vectors(path, items, asked, options)
    if part.labels is None or queries.labels is None:
        which = path if part.labels is None else options.queries
        raise ValueError(f"expected labels of {which}, too, as of the other part")
    (labels, query_labels), names = classes_of(
        [part.labels, queries.labels], [part.names, queries.names]
    )
    check_labels(labels, len(part.items))
    database = _held(items)
    return LabelledData(
        name=path.name,
        protocol=f"own data: {len(queries.items):,} queries given, {options.queries.name}",
        description=f"{what} of {len(names):,} classes)",
        train=database,
        database=database,
        database_labels=labels,
        queries=_held(asked),
        query_labels=query_labels,
        class_names=names,
    )


def _npy_folder(path: Path, options: OwnData) -> tuple[Path, OwnData]:
    """The files of a folder that holds arrays, where it is one."""
    if not (path / _NPY[0]).is_file():
        return path, options
    found = [file if (file := path / name).is_file() else None for name in _NPY]
    return path / _NPY[0], replace(
        options,
        queries=options.queries or found[2],
        labels=options.labels or found[1],
        query_labels=options.query_labels or found[3],
        qrels=options.qrels or found[4],
        item_ids=options.item_ids or found[5],
        query_ids=options.query_ids or found[6],
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _of_one_float(items: Source, queries: Source) -> tuple[Source, Source]:
    """Both as float32, where they are floats of two sizes."""
    if items.dtype == queries.dtype or (items.dtype.kind, queries.dtype.kind) != ("f", "f"):
        return items, queries
    return Float32Rows(items), Float32Rows(queries)


def _vectors(path: Path, database: Source, queries: Source, options: OwnData) -> VectorParts:
    if len(database.shape) != 2:
        raise ValueError(
            f"expected labels of {path}: without them only vectors (n, d) have neighbours to find, "
            f"got shape {database.shape}"
        )
    description = f"{path.name} ({len(database):,} vectors)"
    judged = None
    if options.qrels is not None:
        assert options.queries is not None  # else this is not reached
        judged = read_qrels(
            options.qrels,
            query_ids=_ids(options.query_ids, options.queries, options.id_column, len(queries)),
            item_ids=_ids(options.item_ids, path, options.id_column, len(database)),
        )
    return VectorParts(
        path.stem,
        description,
        database,
        queries,
        shipped=None if options.neighbors is None else read_neighbors(options.neighbors),
        metric="inner_product" if options.distance == "inner_product" else "l2",
        unit=options.distance == "cosine",
        qrels=judged,
        item_labels=_labels_to_filter(options.filter_labels),
        query_labels=_labels_to_filter(options.query_filter_labels),
        texts=None if options.texts is None else Lines(options.texts),
        query_texts=None if options.query_texts is None else Lines(options.query_texts),
    )


def _labels_to_filter(file: Path | None) -> IdArray | None:
    if file is None:
        return None
    found = read_npy(file, "labels to filter by")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"expected integers (n,) in {file}, got {found.dtype} {found.shape}")
    return found.astype(np.int64)


def _ids(file: Path | None, path: Path, column: str | None, n: int) -> OwnIds | None:
    """Ids of the n items at a path: of a file, or of a column; None where they are places."""
    if file is not None:
        ids = read_own_ids(file)
    elif column is not None:
        suffix, files = files_in(path) if path.is_dir() else (path.suffix.lower(), [path])
        if suffix != ".parquet":
            raise ValueError(f"expected Parquet for a column {column!r} of ids, got {path}")
        ids = read_id_column(files, column)
    else:
        return None
    if len(ids) != n:
        raise ValueError(f"expected {n:,} ids, one an item of {path}, got {len(ids):,}")
    return ids


def _held(source: Source) -> Source:
    """Read now, where it is small; images are decoded now. Training reads items many times."""
    if isinstance(source, ImageFolder | ParquetImages):
        pixels: Source = decode_all(source, memory_bytes=HELD_BYTES)
        return pixels
    size = int(np.prod(source.shape, dtype=np.int64)) * source.dtype.itemsize
    return source[:] if size <= HELD_BYTES else source


def _read(path: Path, labels: Path | None, options: OwnData) -> _Part:
    suffix, files = files_in(path) if path.is_dir() else (path.suffix.lower(), [path])
    if suffix == ".parquet":
        part = _read_parquet(files, options, with_labels=labels is None)
    else:
        source = open_source(path, images=options.images)
        names = getattr(source, "class_names", None)
        part = _Part(source, getattr(source, "labels", None), names)
    return part if labels is None else _Part(part.items, _given(labels, path, part.items), None)


def _given(labels: Path, path: Path, items: Source) -> Any:
    """Labels of a file, one an item, or one of all that there were before broken ones left."""
    given = read_npy(labels, "labels")
    ids, total = getattr(items, "ids", None), getattr(items, "total", len(items))
    if len(given) != total:
        raise ValueError(
            f"expected {total:,} labels in {labels}, one an item of {path}, got {len(given):,}"
        )
    return given if ids is None else given[ids]


def _read_parquet(files: list[Path], options: OwnData, *, with_labels: bool) -> _Part:
    first = first_with_rows(files)
    columns = parquet_columns(first)
    label = options.label_column or ("label" if "label" in columns else None)
    for name in (options.column, options.label_column):
        # A pattern names several columns of numbers.
        if name is not None and name not in columns and "*" not in name:
            raise ValueError(f"expected a column {name!r} in {first}, got {[*columns]}")
    labels = None
    if with_labels and label is not None:
        labels = np.concatenate([_column(file, label) for file in files])
    if not are_images(files, options.column, without=label):
        check_used(options.images, files[0], of_images=False)
        return _Part(open_parquet_vectors(files, options.column, without=label), labels, None)
    whole = labels is not None and labels.dtype.kind in "iu"
    images = ParquetImages(
        files,
        image_column=options.column,
        label_column=label or "",
        **options.images.arguments(),
    )
    if labels is not None and images.ids is not None:
        labels = labels[images.ids]
    # With integers, the names of classes are in the metadata, as Hugging Face writes them.
    return _Part(images, labels, images.class_names if whole else None)


def _column(path: Path, name: str) -> Any:
    """Integers or text (n,), or lists of them as objects."""
    column = without_nan(read_column(path, name))
    if column.null_count:
        raise ValueError(
            f"expected a label in every row of the column {name!r} of {path}, got "
            f"{column.null_count} nulls: evaluate without these rows, or give --labels FILE.npy"
        )
    if is_list(column.type):
        found = np.empty(len(column), object)
        found[:] = column.to_pylist()
        return found
    return np.asarray(plain(column))
