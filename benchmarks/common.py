"""What the benchmarks share: paired timing, figures with targets, their table and their file.

Only ratios of paired measurements are compared with a target: both sides take turns within one
run, so that a busy or a slow machine hits them alike.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.training import new_model

FORMAT = 1


@dataclass(frozen=True)
class Options:
    """Settings of a benchmark.

    Attributes:
        quick: small sizes and few repeats: shows that everything runs, its figures mean little.
        threads: of torch and FAISS; None leaves the libraries' own choice.
        repeats: measurements of every figure; None takes what the benchmark thinks enough.
        out: the JSON file; None takes results/bench-NAME.json (results/benchmarks.json for
            run.py), and runs/ instead of results/ with --quick.
    """

    quick: bool = False
    threads: int | None = None
    repeats: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        values: one per repeat; their median is compared with the target.
        target: highest median that is good enough; None for information.
        unit: of values and target; "" for ratios.
        limit: what bounds the figure, in words and numbers.
        details: sizes and secondary numbers, JSON values.
    """

    name: str
    values: list[float]
    target: float | None = None
    unit: str = ""
    limit: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the median meets the target: "met", "missed" or "information"."""
        if self.target is None:
            return "information"
        return "met" if self.median <= self.target else "missed"


@dataclass(frozen=True)
class Pairs:
    """Times of two sides that took turns.

    Attributes:
        a_s: seconds of the first side, one per pair.
        b_s: seconds of the second side.
    """

    a_s: list[float]
    b_s: list[float]

    @property
    def ratios(self) -> list[float]:
        """Time of the first side over the second's, one per pair."""
        return [round(a / b, 4) for a, b in zip(self.a_s, self.b_s, strict=True)]

    @property
    def medians_s(self) -> tuple[float, float]:
        """Median seconds of the two sides; their quotient is not the median ratio."""
        return statistics.median(self.a_s), statistics.median(self.b_s)


Measure = Callable[[Options], list[Figure]]


def timed_pairs(
    a: Callable[[], object], b: Callable[[], object], *, repeats: int, warmup: int = 1
) -> Pairs:
    """Times two sides in turns: a b, b a, a b, ...; the order changes so that neither gains.

    Args:
        a: the first side.
        b: the second side.
        repeats: pairs that are measured.
        warmup: pairs before that.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(-warmup, repeats):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            started = time.perf_counter()
            (a, b)[side]()
            seconds = time.perf_counter() - started
            if i >= 0:
                times[side].append(seconds)
    return Pairs(*times)


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of torch's matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def random_items(n: int, input_shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise as items: (n, *input_shape) uint8."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, *input_shape), dtype=np.uint8)


def make_model(
    input_shape: tuple[int, ...],
    config: ModelConfig,
    *,
    M: int = 8,
    nbits: int = 8,
    objective: str = "reconstruction",
) -> PQVAE:
    """A PQ-VAE whose codewords are the k-means centroids of the latents of noise."""
    torch.manual_seed(0)
    model = new_model(input_shape, M, nbits, config, objective=objective)
    x = torch.from_numpy(random_items(1024, input_shape))
    model.fit_normalization(x)
    with torch.no_grad():
        z = model.encode(x)  # in training mode: the batch's own statistics
    generator = torch.Generator().manual_seed(0)
    model.quantizer.initialize(z, batch_size=256, generator=generator, iterations=1)
    return model


def make_index(input_shape: tuple[int, ...], config: ModelConfig) -> LatentIndex:
    """An empty index that takes items, without a training."""
    model = make_model(input_shape, config)
    model.fitted.fill_(True)
    return LatentIndex(model)


def table(figures: list[Figure]) -> str:
    """Figures as aligned text, and below it what bounds them."""
    head = ("figure", "target", "median", "min - max", "verdict")
    lines = [head, *(_cells(figure) for figure in figures)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths))
    limits = [f"  {figure.name}: {figure.limit}" for figure in figures if figure.limit]
    return "\n".join(row.rstrip() for row in [*rows, "", "limits:", *limits])


def _cells(figure: Figure) -> tuple[str, ...]:
    digits = 0 if figure.unit else 3
    target = "-" if figure.target is None else f"<= {figure.target:g} {figure.unit}"
    median = f"{figure.median:.{digits}f} {figure.unit}"
    spread = f"{min(figure.values):.{digits}f} - {max(figure.values):.{digits}f}"
    return figure.name, target.strip(), median.strip(), spread, figure.verdict


def write_figures(path: Path, name: str, options: Options, figures: list[Figure]) -> None:
    """Writes figures with the command and the environment that they come from.

    Raises:
        OSError: the disk is full or failing; an older file is still there.
    """
    content = {
        "format": FORMAT,
        "benchmark": name,
        "command": command(name, options),
        "quick": options.quick,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        # Above the number of cores: something else ran, and single times mean little.
        "environment": {**environment(), "load_1min": round(os.getloadavg()[0], 2)},
        "figures": [
            {**asdict(figure), "median": figure.median, "verdict": figure.verdict}
            for figure in figures
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def command(name: str, options: Options) -> str:
    """The shell command of a run, without the place of its file."""
    script = "run" if name == "benchmarks" else f"bench_{name}"
    words = ["python", f"benchmarks/{script}.py"]
    words += ["--quick"] * options.quick
    for option in ("threads", "repeats"):
        value = getattr(options, option)
        words += [] if value is None else [f"--{option}", str(value)]
    return " ".join(words)


def run_script(name: str, measures: list[Measure], description: str | None) -> None:
    """The command line of a benchmark: measures, prints the table, writes the file.

    Args:
        name: of the benchmark: "add" for bench_add.py, "benchmarks" for run.py.
        measures: what gives the figures.
        description: for --help.
    """
    options = tyro.cli(Options, description=description)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        faiss.omp_set_num_threads(options.threads)
    started = time.perf_counter()
    figures = []
    for measure in measures:
        figures += measure(options)
    print(table(figures))
    stem = name if name == "benchmarks" else f"bench-{name}"
    folder = Path("runs" if options.quick else "results")
    path = options.out or folder / f"{stem}.json"
    write_figures(path, name, options, figures)
    print(f"\n{path}, after {time.perf_counter() - started:.0f} s")
