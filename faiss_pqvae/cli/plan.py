"""The command `plan`: which index a collection of vectors gets, and what that costs."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from faiss_pqvae.cli.sizes import bytes_of, recall_of
from faiss_pqvae.data.open import open_several
from faiss_pqvae.data.source import Source, natural_order
from faiss_pqvae.scale.planning import Plan, Wishes, make_plan


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the index of a collection.

    Attributes:
        memory: of all processes together, as in 4G or 800M; 4G by default.
        code_bytes: of an item's code; by default 8 below 256 dimensions and 16 from there on.
        index_size: of all codes and ids, as in 1G, instead of --bytes.
        target_recall: the share of queries whose nearest item is to be among so many results, as in
            0.9@10, which is the default: so many lists are visited as reach it, 1, 2, 4 or more.
        train_minutes: of the passes of the training; by default there are 16.
    """

    memory: str | None = None
    code_bytes: Annotated[int | None, tyro.conf.arg(name="bytes")] = None
    index_size: str | None = None
    target_recall: str | None = None
    train_minutes: float | None = None

    def wishes(self, *, workers: int | None, effort: int | None) -> Wishes:
        """As a plan is made for them.

        Raises:
            ValueError: no sizes, or numbers that make no sense.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"expected workers >= 1, got {workers}")
        minutes = self.train_minutes
        if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
            raise ValueError(f"expected --train-minutes > 0, got {minutes}")
        if effort is not None and effort < 0:
            raise ValueError(f"expected --effort >= 0, got {effort}")
        return Wishes(
            memory_bytes=bytes_of(self.memory or "4G", "--memory"),
            code_bytes=self.code_bytes,
            index_bytes=None
            if self.index_size is None
            else bytes_of(self.index_size, "--index-size"),
            workers=workers,
            effort=effort,
            train_minutes=self.train_minutes,
        )


def expanded(sources: Sequence[str]) -> list[str]:
    """Paths, with those in place of a pattern that it stands for, in natural order.

    Raises:
        FileNotFoundError: a pattern that stands for nothing.
    """
    found: list[str] = []
    for text in sources:
        if Path(text).exists() or not glob.has_magic(text):
            found.append(text)
            continue
        paths = natural_order(Path(path) for path in glob.glob(text, recursive=True))  # noqa: PTH207 - also absolute ones
        if not paths:
            raise FileNotFoundError(f"expected files that {text} stands for, found none")
        found += map(str, paths)
    return found


def planned(sources: Sequence[str], wishes: Wishes) -> tuple[Source, Plan]:
    """A collection, and what index it gets.

    Raises:
        ValueError: no vectors, or wishes that nothing fulfils.
    """
    source = open_several(sources, in_memory_bytes=0)
    if len(source.shape) != 2:
        raise ValueError(
            f"expected vectors, got items of shape {source.shape[1:]}: `train` and `build BUNDLE "
            "DATA` take images"
        )
    return source, make_plan(*source.shape, wishes)


def plan(
    sources: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SOURCE...", help="vectors: paths, or patterns such as 'emb/*.npy'"),
    ],
    /,
    *,
    wanted: Annotated[Wanted, tyro.conf.arg(name="")] = Wanted(),
    workers: int | None = None,
    effort: int | None = None,
) -> None:
    """Print which index `build SOURCE... OUT` would make, how large it is and how long it takes.

    Args:
        sources: of the collection.
        wanted: of the index.
        workers: processes that encode; by default what processors and memory allow.
        effort: of the choice of codes: 16 finds the most, 1 encodes the fastest; by default the
            most that takes two hours.
    """
    if not sources:
        raise ValueError("expected at least one path of vectors, got none")
    wishes = wanted.wishes(workers=workers, effort=effort)
    recall_of(wanted.target_recall or "0.9@10")
    _, made = planned(expanded(sources), wishes)
    print("\n".join(made.lines()))
    print("next: faiss-pqvae build, with the same words and a folder for the index behind them")
