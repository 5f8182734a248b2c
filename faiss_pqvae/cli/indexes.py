"""Commands on an index: `train`, `build`, `search` and `info`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from tqdm import tqdm

from faiss_pqvae.cli.options import Learning
from faiss_pqvae.data.open import ImageFolder, Source, chunks, open_source
from faiss_pqvae.index.bundle import read_config, read_index, write_index
from faiss_pqvae.index.factory import Training
from faiss_pqvae.index.handed_in import backbone_of, record_of_decoder
from faiss_pqvae.index.latent_index import LatentIndex, check_k
from faiss_pqvae.index.metrics import METRICS
from faiss_pqvae.model.clustering import histogram, perplexity, usage
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.store.contents import codeword_ids
from faiss_pqvae.training import TrainingConfig

_DATA_HELP = (
    "a folder of images; a Parquet file with a column of images or of vectors; a .npy file "
    "(n, c, h, w) or (n, d); vectors in .fvecs, .bvecs, .fbin, .u8bin, .i8bin or .hdf5, where "
    "FILE.hdf5/test is one of its data sets; or the name of a data set (mnist5k, mnist, cifar10, "
    "cifar10-jpeg, or one of another package, or package.module:attribute)"
)
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_DATA_HELP)]
Folder = tyro.conf.Positional[Path]
Metric = Literal["l2", "inner_product", "cosine"]


_METRICS: dict[Any, Any] = {"cosine": "cosine", **METRICS}


def train(
    data: Data,
    out: Folder,
    /,
    *,
    factory: str = "PQVAE8x8",
    metric: Metric | None = None,
    labels: Path | None = None,
    word_vectors: Path | None = None,
    size: tuple[int, int] | None = None,
    pretrained: Path | None = None,
    encoder: str | None = None,
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
    learning: Learning = Learning({}),  # noqa: B008 - replaced by the options of objectives
) -> None:
    """Train encoder, decoder and codebooks on images or vectors, and write an empty index.

    The log is in OUT/training/log.jsonl. The same command goes on after an interruption.

    Args:
        data: what to train on.
        out: folder for the bundle.
        factory: PQVAE{M}x{nbits}: M sub-quantizers of nbits bits each (8x8: 8 bytes an item), with
            FAISS's own items around: IVF1024,PQVAE16 or HNSW32,PQVAE8 (fewer items searched),
            PQVAE16x4fs (the fastest scan), PCA256,PQVAE16 (vectors), PQVAE8,RFlat (refined by the
            items themselves), PQVAE8,RDecoder (refined by their reconstructions). DQN4x8 and
            DPQ4x8 learn from labels: DQN's code is a product as PQ-VAE's is, of DPQ's code every
            first so many bytes are a code.
        metric: what searches compare latents by: l2, and for DPQ inner_product by default.
        labels: for DQN and DPQ: a .npy file with labels of the items, (n,) integers, -1 for none,
            or (n, classes) of bool for several each. By default those that the data have: a data
            set's, the column "label" of a Parquet file, or the folders of images.
        word_vectors: for DPQ: a .npy file with word vectors of the classes, (classes, e) floats.
        size: height and width that images of a folder are resized to.
        pretrained: folder of a trained index whose encoder the training starts from: for another
            code length, or for other images; of the same network and width.
        encoder: a name of a registered encoder, or package.module:attribute for one of your own: a
            torch module, or a function make(input_shape, latent_dim, width=...) that makes one. It
            keeps its weights; a Backbone(..., trainable=False) is left as it is, and codes of its
            features are learned.
        model: networks and bottleneck.
        training: the loop.
        learning: the objective.
    """
    source, known = open_labelled(data, size)
    shape = tuple(source.shape[1:])
    index = learning.index(
        shape,
        factory,
        None if metric is None else _METRICS[metric],
        model=model,
        training=training,
        encoder=encoder,
        pretrained=None if pretrained is None else _pretrained(pretrained, encoder),
    )
    given = _supervision(index, factory, known, labels, word_vectors)
    index.train(source, **given, folder=out / "training")
    write_index(index, out)
    print(f"trained on {len(source)} items in {_summary(index)}; the bundle is {out}")
    _print_next(index, f"build {shlex.quote(str(out))} DATA")


def _print_next(index: LatentIndex, command: str) -> None:
    """The command to go on with, and the networks that a bundle of the index asks for."""
    backbone = backbone_of(index)
    networks = {} if backbone is None else {"encoder": backbone.reference}
    if (decoder := record_of_decoder(index.model)) is not None:
        networks["decoder"] = decoder["reference"]
    given = [f" --{name} {shlex.quote(reference)}" for name, reference in networks.items()]
    print(f"next: faiss-pqvae {command}{''.join(given)}")


def _pretrained(bundle: Path, encoder: str | None) -> PQVAE:
    """The model of a bundle, with the encoder that both trainings have, if it is not ours."""
    needed = read_config(bundle).get("encoder") is not None
    return read_index(bundle, encoder=encoder if needed else None).model


def _supervision(
    index: LatentIndex,
    factory: str,
    known: npt.NDArray[Any] | None,
    labels: Path | None,
    word_vectors: Path | None,
) -> dict[str, Any]:
    """What `LatentIndex.train` gets besides the items: labels from a file, or else the known."""
    assert isinstance(index.fit, Training)
    if "labels" not in index.fit.objective.learns_from:
        if labels is not None or word_vectors is not None:
            raise ValueError(
                f"expected --labels and --word-vectors with DQN or DPQ only, got {factory}"
            )
        return {}
    found = known if labels is None else _read_array(labels)
    if found is None:
        raise ValueError(
            f"expected labels for {factory}: --labels FILE.npy, a labelled data set, a Parquet "
            "file with a column 'label', or a folder of images per class"
        )
    if word_vectors is None:
        return {"labels": found}
    return {"labels": found, "word_vectors": _read_array(word_vectors)}


def _read_array(path: Path) -> npt.NDArray[Any]:
    """An array of a .npy file; `LatentIndex.train` looks at its shape and dtype."""
    try:
        with path.open("rb") as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except ValueError as error:
        raise ValueError(f"cannot read {path}: expected an array as .npy; {error}") from error


def _summary(index: LatentIndex) -> str:
    """What a training took, and how many codewords are in use after its last epoch."""
    end = index.history[-1]
    text = f"{end['elapsed_s']:.0f} s and {end['step']} steps"
    used = [event["perplexity"] for event in index.history if event.get("perplexity")]
    if used:
        text += (
            f"; perplexity {np.mean(used[-1]):.0f} of {index.model.quantizer.ksub} codewords (low: "
            "train longer)"
        )
    return text


def build(
    bundle: Folder,
    data: Data,
    /,
    *,
    out: Path | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
) -> None:
    """Encode items and store their codes in a trained index, in place of what it held.

    Images of a folder are resized to what the index was trained with.

    Args:
        bundle: folder of a trained index.
        data: what to store; the ids count from 0 in its order.
        out: folder for the filled index; by default BUNDLE itself.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    source = _open_for(index, data)
    index.reset()
    with tqdm(total=len(source), unit="item", desc="adding", disable=None) as bar:
        for chunk in chunks(source, index.batch_size):
            ids = np.arange(index.ntotal, index.ntotal + len(chunk))
            if isinstance(index.faiss_index, faiss.IndexIDMap):
                index.add_with_ids(chunk, ids)
            else:
                index.add(chunk)
            bar.update(len(chunk))
    target = bundle if out is None else out
    write_index(index, target)
    print(f"{index.ntotal} items of {index.sa_code_size()} bytes in {target}")
    _print_next(index, f"search {shlex.quote(str(target))} QUERIES")


def search(
    bundle: Folder,
    queries: Data,
    /,
    *,
    k: int = 10,
    search_type: str | None = None,
    nprobe: int | None = None,
    ef_search: int | None = None,
    k_factor: float | None = None,
    mmap: bool = False,
    encoder: str | None = None,
    decoder: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print the nearest stored items of every query, as a table or as JSON.

    Images of a folder are resized to what the index was trained with.

    Args:
        bundle: folder of a filled index.
        queries: what to search for.
        k: results per query.
        search_type: adc (the query's latent against codes) or sdc (codes against codes); by
            default what the bundle was written with.
        nprobe: inverted lists to visit, of an IVF index; more finds more and takes longer.
        ef_search: candidates to keep, of an HNSW index; more finds more and takes longer.
        k_factor: candidates per result that a refined index looks at a second time.
        mmap: leave the codes on the disk, for collections larger than memory.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
        as_json: print {"D": [[...]], "I": [[...]]} instead of a table.
    """
    k = check_k(k)
    index = read_index(bundle, mmap=mmap, encoder=encoder, decoder=decoder)
    if search_type is not None:
        index.search_type = search_type  # type: ignore[assignment]  # checked by the setter
    if nprobe is not None:
        index.nprobe = nprobe
    if ef_search is not None:
        index.efSearch = ef_search
    if k_factor is not None:
        index.k_factor = k_factor
    D, I = index.search(_open_for(index, queries), k)  # noqa: E741 - FAISS's names
    if as_json:
        print(json.dumps({"D": D.tolist(), "I": I.tolist()}))
        return
    print(f"{'query':>7}  nearest ids (distance), {index.search_type}")
    for number, (distances, ids) in enumerate(zip(D, I, strict=True)):
        pairs = (f"{i} ({d:.4g})" for d, i in zip(distances, ids, strict=True) if i >= 0)
        print(f"{number:>7}  {'  '.join(pairs)}")


def info(bundle: Folder, /, *, encoder: str | None = None, decoder: str | None = None) -> None:
    """Print what a bundle holds.

    Args:
        bundle: folder of an index.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
    """
    config = read_config(bundle)
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    model = config["model"]
    lines = {
        "index": f"{config['factory']}, {config['metric']}, search type {config['search_type']}",
        "items": f"{index.ntotal} of {index.sa_code_size()} bytes",
        "scan": index.scan,
        "input": f"{' x '.join(map(str, index.input_shape))}",
        "latents": f"{index.model.latent_dim} dimensions, {index.model.M} "
        + ("levels" if index.model.structure == "residual" else "sub-vectors"),
        "code": ", ".join(f"{name} {value}" for name, value in asdict(index.model.spec).items()),
        "model": ", ".join(f"{name}={value}" for name, value in model["config"].items()),
        "written with": ", ".join(f"{n} {v}" for n, v in config["versions"].items()),
    }
    if index.ntotal:
        counts = torch.from_numpy(codeword_counts(index))
        lines["codewords used"] = " ".join(f"{u:.0%}" for u in usage(counts).tolist())
        lines["perplexity"] = " ".join(f"{p:.1f}" for p in perplexity(counts).tolist())
    for name, value in lines.items():
        print(f"{name:>14}  {value}")


def codeword_counts(index: LatentIndex) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often the stored items have each codeword: (M, ksub) int64."""
    ids = codeword_ids(index.faiss_index)
    counts: np.ndarray[Any, np.dtype[np.int64]] = histogram(
        torch.from_numpy(ids), index.model.quantizer.ksub
    ).numpy()
    return counts


def _open_for(index: LatentIndex, data: str) -> Source:
    """As `open_data`, with the images of a folder in the size and the channels of the index."""
    if len(index.input_shape) == 3 and Path(data).is_dir():
        channels, height, width = index.input_shape
        return ImageFolder(data, (height, width), mode="L" if channels == 1 else "RGB")
    return open_data(data, None)


def open_data(data: str, size: tuple[int, int] | None) -> Source:
    """The items that an argument names: a path, or else a data set."""
    return open_labelled(data, size)[0]


def open_labelled(
    data: str, size: tuple[int, int] | None
) -> tuple[Source, npt.NDArray[Any] | None]:
    """The items that an argument names, and their labels, where they have any."""
    path = Path(data)
    if size is not None:
        if not path.is_dir():
            raise ValueError(f"expected a folder of images to resize, got {data}")
        folder = ImageFolder(path, size=size)
        return folder, folder.labels
    named = ":" in data or (path.name == data and not path.suffix)
    if named and not path.exists():
        # The extra "eval" is needed for data sets only.
        from faiss_pqvae.eval.data.load import load

        found = load(data)
        return found.database, getattr(found, "database_labels", None)
    source = open_source(path)
    return source, getattr(source, "labels", None)
