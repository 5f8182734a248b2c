"""What each part of a deep decoder over codes is worth: one row a part, each with one change.

All rows are compared with the main one query by query: the gain, and its standard error. A row is
written as soon as it is measured; called again, it goes on with those that are missing, from the
trainings beside the file. Real queries are learned from by halves: both rows answer the other half.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from bench_scan import one_thread

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.eval.methods.learned_index import kept_bytes
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.model.additive import Lifted, lowered
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.model.pqvae import EFFORT
from faiss_pqvae.native import faiss

MAIN = "main"
CANDIDATES, RECALLS_AT = 100, (1, 10)
TIMED, AT_A_TIME = 2000, 4096  # items
EFFORTS, WIDTHS = (0, 1, 4, 64), (16, 32, 128)  # beside the main row's 16 and 64

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Training:
    """What a model is trained by.

    Attributes:
        objective: with its settings.
        width: of the networks, see `ModelConfig`.
        seed: of the training.
        from_kmeans: the start's codebooks are plain k-means, and not FAISS's.
        asks: it learns from the first half of the real queries, too.
    """

    objective: Any
    width: int = 64
    seed: int = 0
    from_kmeans: bool = False
    asks: bool = False


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        training: of the model.
        effort: of the choice of codes.
        decoder: whether the decoder ranks candidates; else tables alone answer.
        short_list: whether its candidates are the best by exact sums of codewords, or by tables.
        shrinks: whether what is decoded is shrunk.
    """

    training: Training
    effort: int = EFFORT
    decoder: bool = True
    short_list: bool = True
    shrinks: bool = True


def rows_of(objective: fpq.Synthesis, seeds: tuple[int, ...]) -> dict[str, Row]:
    """All rows by name, the main one first."""
    sums = fpq.Additive(filled=objective.filled)
    epochs = objective.epochs
    training = Training(objective, seed=seeds[0])
    main = Row(training)

    def trained(**changes: Any) -> Row:
        return Row(replace(training, **changes))

    def learned(**changes: Any) -> Row:
        return trained(objective=replace(objective, **changes))

    return {
        MAIN: main,
        **{f"seed {seed}": trained(seed=seed) for seed in seeds[1:]},
        "plain sums, no network": replace(main, decoder=False),
        "additive tables": replace(trained(objective=sums), decoder=False),
        "product codes": replace(trained(objective=fpq.Ranking()), decoder=False),
        "short list by tables alone": replace(main, short_list=False),
        "no mixtures": learned(mixing=0.0),
        "no rounds before": learned(rounds=0),
        "codes never chosen anew": learned(chosen_anew=0.0),
        **{f"effort {effort}": replace(main, effort=effort) for effort in EFFORTS},
        **{f"width {width}": trained(width=width) for width in WIDTHS},
        "half the epochs": learned(epochs=max(1, epochs // 2)),
        "twice the epochs": learned(epochs=2 * epochs),
        "start at k-means": trained(from_kmeans=True),
        "plain 0": learned(plain=0.0),
        "shrink 1": replace(main, shrinks=False),
        "real queries": trained(asks=True),
    }


@dataclass(frozen=True)
class WithoutCodebooks:
    """A `Fit` that hands no codebooks of FAISS's to what it trains."""

    fit: Any
    takes_coarse: bool = False

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        """What a training gets, without them."""
        found: dict[str, Any] = self.fit.check(n, **given)
        return {name: value for name, value in found.items() if name != "codebooks"}

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Trains."""
        return self.fit(*args, **options)


class Bench:
    """Vectors, their neighbours, and what was trained with them.

    Args:
        xt: (n, d) float32, to train with.
        xb: (n, d) float32, to search in.
        xq: (nq, d) float32, to search for.
        M: bytes of a code.
        folders: of every training.
    """

    def __init__(
        self, xt: Floats, xb: Floats, xq: Floats, M: int, folders: dict[Training, Path]
    ) -> None:
        self.xt, self.xb, self.xq, self.M, self.folders = xt, xb, xq, M, folders
        exact = faiss.IndexFlatL2(xb.shape[1])
        exact.add(xb)
        self.nearest = exact.search(xq, 1)[1]
        self.coded: dict[tuple[Training, int], tuple[Codes, float]] = {}

    def index(self, row: Row) -> Any:
        """The index of a row, trained and empty."""
        training = row.training
        objective = training.objective
        epochs = max(fpq.TrainingConfig().epochs, getattr(objective, "epochs", 1))
        index = fpq.index_factory(
            self.xb.shape[1],
            f"PQVAE{self.M}" + (",RDecoder" if row.decoder else ""),
            model=fpq.ModelConfig(width=training.width),
            training=fpq.TrainingConfig(seed=training.seed, epochs=epochs),
            objective=objective,
        )
        if training.from_kmeans:
            index.fit = WithoutCodebooks(index.fit)
        asked = self.xq[: len(self.xq) // 2] if training.asks else None
        index.train(self.xt, queries=asked, folder=self.folders[training])
        index.effort, index.k_factor = row.effort, 1.0
        if row.decoder and not row.shrinks:
            index.model.code_decoder.shrinks.fill_(1)
        if row.decoder and not row.short_list:
            index.refiner.short_list.per_candidate = 1
        return index

    def codes(self, row: Row, index: Any) -> tuple[Codes, float]:
        """Codes of all items, and microseconds an item of one thread; rows can share them."""
        key = row.training, row.effort
        if key not in self.coded:
            self.coded[key] = index.sa_encode(self.xb), microseconds(index, self.xb[:TIMED])
        return self.coded[key]

    def measured(self, row: Row) -> tuple[dict[str, Any], Hits]:
        """Figures of a row, and whether each query (nq, 2) found its neighbour."""
        index = self.index(row)
        model_bytes = kept_bytes(index)  # without codes
        codes, encode_us = self.codes(row, index)
        index.add_sa_codes(codes)
        found = index.search(self.xq, min(CANDIDATES, len(self.xb)))[1] == self.nearest
        hits = np.stack([found[:, :at].any(1) for at in RECALLS_AT], 1)
        figures = {
            "relative_error": round(relative_error(row, index, codes, self.xb), 5),
            "train_s": round(index.train_s, 1),
            "encode_us": round(encode_us, 1),
            "model_bytes": model_bytes,
        }
        return figures, hits


def microseconds(index: Any, x: Floats) -> float:
    """Of the encoding of an item, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread():
            index.sa_encode(x[:100])
            started = time.perf_counter()
            index.sa_encode(x)
            return 1e6 * (time.perf_counter() - started) / len(x)
    finally:
        torch.set_num_threads(threads)


def relative_error(row: Row, index: Any, codes: Codes, x: Floats) -> float:
    """What a row's codes (n, M) miss of vectors (n, d), squared, over their variance."""
    missed = 0.0
    for start in range(0, len(x), AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        missed += float(np.square(x[part] - decoded(row, index, codes[part])).sum())
    return missed / float(np.square(x - x.mean(0)).sum())


@torch.no_grad()
def decoded(row: Row, index: Any, codes: Codes) -> Floats:
    """The vectors (n, d) that codes (n, M) stand for."""
    code = index.model.code_decoder
    if code is None:
        found: Floats = index.decode(index.sa_decode(codes))
        return found
    ids = torch.from_numpy(codes).long().to(index.model.device)
    if isinstance(code, ConditionalCode) and not row.decoder:
        lifted = Lifted(index.model.quantizer.codewords, code.offset)
        found = (lowered(lifted, code.centre).sums(ids)[0] + code.centre).cpu().numpy()
    else:
        found = code.decode(ids).cpu().numpy()
    return found


def compared(hits: Hits, main: Hits) -> dict[str, Any]:
    """Recalls of queries (nq, 2), and the gain over the main row's, with their standard errors."""
    found: dict[str, Any] = {"queries": len(hits)}
    for at, mine, others in zip(RECALLS_AT, hits.T, main.T, strict=True):
        gain = mine.astype(np.float64) - others
        for name, values in ((f"1-recall@{at}", mine), (f"gain@{at}", gain)):
            figures = values.mean(), values.std() / np.sqrt(len(values))
            found[name] = [round(float(figure), 4) for figure in figures]
    return found


def packed(hits: Hits) -> str:
    """Hits of any shape as text, for a file."""
    return np.packbits(hits).tobytes().hex()


def unpacked(bits: str, shape: tuple[int, ...]) -> Hits:
    """The hits of a stored row."""
    found = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=np.prod(shape))
    return found.reshape(shape).astype(bool)


def read_vectors(base: str, queries: str, learn: str | None, *, half: bool) -> list[Floats]:
    """What is trained with, searched in and searched for."""
    if half and learn is not None:
        raise ValueError(f"expected --learn or --half, got both: {learn}")
    xb, xq = (np.ascontiguousarray(open_source(file)[:], np.float32) for file in (base, queries))
    if half:
        middle = len(xb) // 2
        return [xb[:middle], xb[middle:], xq]
    if learn is None:
        return [xb, xb, xq]
    return [np.ascontiguousarray(open_source(learn)[:], np.float32), xb, xq]


def stored_rows(out: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """The rows that a file has already.

    Raises:
        ValueError: they are of other vectors or settings.
    """
    if not out.exists():
        return {}
    stored = json.loads(out.read_text())
    if stored["setting"] != setting:
        raise ValueError(
            f"{out} has rows of {stored['setting']}, expected {setting}: choose another --out"
        )
    rows: dict[str, Any] = stored["rows"]
    return rows


def main(
    base: str,
    queries: str,
    out: Path,
    learn: str | None = None,
    half: bool = False,
    M: int = 8,
    objective: fpq.Synthesis = fpq.Synthesis(),  # noqa: B008 - frozen
    seeds: tuple[int, ...] = (0,),
    only: tuple[str, ...] = (),
) -> None:
    """Measures all rows and writes them.

    Args:
        base: file of the vectors that are searched.
        queries: likewise.
        out: JSON file; the trainings are kept in a folder beside it.
        learn: likewise, to train with; the base by default.
        half: train with the first half of the base, and search in the second.
        M: bytes of a code.
        objective: what the main row learns.
        seeds: of all rows, and further ones of the main row alone.
        only: names of rows, besides the main one; all by default.
    """
    rows = rows_of(objective, seeds)
    if unknown := set(only) - set(rows):
        raise ValueError(f"expected rows of {[*rows]}, got {sorted(unknown)}")
    setting = {"base": base, "queries": queries, "learn": learn, "half": half, "M": M}
    setting |= {"objective": asdict(objective), "seed": seeds[0]}
    measured = stored_rows(out, setting)
    kept = out.with_name(f"{out.stem}-trainings")
    folders = {
        row.training: kept / re.sub("[^a-z0-9]+", "-", name)
        for name, row in reversed(rows.items())  # of several rows the first has the name
    }
    bench = Bench(*read_vectors(base, queries, learn, half=half), M, folders)
    for name, row in rows.items():
        if name in measured or (only and name not in (MAIN, *only)):
            continue
        figures, hits = bench.measured(row)
        of_main = hits if name == MAIN else unpacked(measured[MAIN]["hits"], hits.shape)
        asked = slice(len(hits) // 2 if row.training.asks else 0, None)
        measured[name] = {**compared(hits[asked], of_main[asked]), **figures}
        print(json.dumps({name: measured[name]}, indent=1), flush=True)
        if name == MAIN:  # later rows, perhaps of another run, are compared with them
            measured[name]["hits"] = packed(hits)
        about = {"command": shlex.join(["python", *sys.argv]), "environment": environment()}
        content = {**about, "setting": setting, "rows": measured}
        replace_bytes(out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
