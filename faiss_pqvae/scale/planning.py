"""What index a collection of vectors gets, and what that costs: chosen before anything is done.

The figures of time are of cores that were measured (Intel Xeon, 2.1 GHz with AVX-512, and AMD EPYC,
2026): they say minutes or hours, not more.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from faiss_pqvae.messages import counted

_GIB = 1 << 30
_PROCESS_BYTES = int(0.9 * _GIB)  # with torch and FAISS, and batches on their way
_PER_LIST_OF_A_PART = 160  # bytes: where its codes and ids lie in the file, and how many
_PER_TRAINING_VALUE = 32  # bytes: the vectors, what is left of them, mixtures, codes
_LISTS_FROM = 100_000  # items: fewer are scanned
_MOST_LISTS = 16_384
_TRAIN_PER_LIST = 39  # FAISS's own
_TRAIN, _MOST_TRAIN = 200_000, 500_000  # items
_ITEMS_A_PART = 1_000_000
_PARTS_A_WORKER = 4  # at least, so that none waits long for the last
_EFFORTS = (16, 8, 4, 2, 1)
_ENCODE_S = 2 * 3600  # for which effort is given up
_ID_BYTES = 8
QUERIES = 1000  # held out
_PASSES, _FILLED = 16, 200_000  # of the training, over at least so many items
# Microseconds of a core an item of 128 dimensions and 8 bytes: encoded, at effort 0 and for each
# step of it, and learned from in a pass; FLOP/s; bytes/s.
_ENCODE_US, _EFFORT_US, _LEARN_US, _GFLOPS, _READ = 60.0, 90.0, 450.0, 40e9, 400e6


@dataclass(frozen=True)
class Wishes:
    """What somebody wants of an index.

    Attributes:
        memory_bytes: of all processes together, at most.
        code_bytes: of an item's code, without the 8 of its id; None chooses.
        index_bytes: of all codes and ids, at most; instead of `code_bytes`.
        workers: processes that encode; None chooses.
        effort: of the choice of codes; None chooses.
        train_minutes: that the training of codes takes; None leaves it to its passes.
    """

    memory_bytes: int = 4 * _GIB
    code_bytes: int | None = None
    index_bytes: int | None = None
    workers: int | None = None
    effort: int | None = None
    train_minutes: float | None = None


@dataclass(frozen=True)
class Plan:
    """An index, how it is made, and what that costs.

    Attributes:
        n: items.
        d: dimensions.
        description: for `index_factory`.
        code_bytes: of an item.
        nlist: inverted lists, 0 without.
        n_train: items that codes are learned from.
        n_queries: further ones that recall is measured with.
        n_parts: of the collection, encoded one by one.
        workers: processes that encode.
        effort: of the choice of codes.
        index_bytes: of codes, and of ids in lists.
        memory_bytes: of all processes together, at most, as far as one can tell.
        fits: whether the index fits into the memory, too; else it is searched in its file, which
            is mapped into memory.
        seconds: by phase, likewise.
    """

    n: int
    d: int
    description: str
    code_bytes: int
    nlist: int
    n_train: int
    n_queries: int
    n_parts: int
    workers: int
    effort: int
    index_bytes: int
    memory_bytes: int
    fits: bool
    seconds: dict[str, float]

    def lines(self) -> list[str]:
        """The plan in words."""
        phases = ", ".join(f"{name} {_minutes(s)}" for name, s in self.seconds.items())
        lists = "" if not self.nlist else f" in {self.nlist:,} inverted lists"
        return [
            f"{self.n:,} vectors of {self.d} dimensions",
            f"index   {self.description}: codes of {self.code_bytes} bytes{lists}, "
            f"{_size(self.index_bytes)} in all"
            + ("" if self.fits else ", searched in its file (--mmap)"),
            f"learn   from {self.n_train:,} vectors; recall is measured with {self.n_queries:,} "
            "others",
            f"encode  {counted(self.n_parts, 'part')} by {counted(self.workers, 'worker')}, "
            f"effort {self.effort}",
            f"memory  {_size(self.memory_bytes)} at most",
            f"time    about {_minutes(sum(self.seconds.values()))}: {phases}",
        ]


def make_plan(n: int, d: int, wishes: Wishes, *, cores: int | None = None) -> Plan:
    """The index of n vectors of d dimensions, made by so many cores; None: all of this machine.

    Raises:
        ValueError: too few vectors, or wishes that nothing fulfils; the message says what would.
    """
    least = 4 * QUERIES
    if n < least:
        raise ValueError(
            f"expected at least {least:,} vectors to learn from and to measure with, got {n:,}: "
            "`train` and `build BUNDLE DATA` take fewer"
        )
    cores = cores or len(os.sched_getaffinity(0))
    code_bytes = _code_bytes(n, d, wishes)
    n_train, nlist = _training(n, d, wishes.memory_bytes)
    workers = wishes.workers or max(1, min(cores, wishes.memory_bytes // _PROCESS_BYTES - 1))
    effort = _effort(n, d, code_bytes, nlist, min(workers, cores), wishes.effort)
    lists = f"IVF{nlist}," if nlist else ""
    index_bytes = n * (code_bytes + (_ID_BYTES if nlist else 0))
    peaks = {
        "learning": _PROCESS_BYTES + n_train * d * _PER_TRAINING_VALUE,
        "encoding": _PROCESS_BYTES * (1 if workers == 1 else 1 + workers),
        "joining": _PROCESS_BYTES + parts_for(n, workers) * nlist * _PER_LIST_OF_A_PART,
    }
    phase = max(peaks, key=lambda name: peaks[name])
    if peaks[phase] > wishes.memory_bytes:
        raise ValueError(
            f"expected memory for {phase}, {_size(peaks[phase])}, got "
            f"{_size(wishes.memory_bytes)}: give more, or fewer workers"
        )
    passes = _PASSES * max(n_train, _FILLED) * _LEARN_US * _scale(d, code_bytes) / 1e6 / cores
    learn = passes if wishes.train_minutes is None else 60 * wishes.train_minutes
    lloyd = 2 * 25 * max(nlist, 1) * min(n_train, 256 * nlist) * d
    return Plan(
        n=n,
        d=d,
        description=f"{lists}PQVAE{code_bytes},RDecoder",
        code_bytes=code_bytes,
        nlist=nlist,
        n_train=n_train,
        n_queries=QUERIES,
        n_parts=parts_for(n, workers),
        workers=workers,
        effort=effort,
        index_bytes=index_bytes,
        memory_bytes=peaks[phase],
        fits=_PROCESS_BYTES + index_bytes <= wishes.memory_bytes,
        seconds={
            "read": n * d * 4 / _READ,
            "lists": lloyd / _GFLOPS / cores,
            "learn": learn,
            "encode": _encode_s(n, d, code_bytes, nlist, effort) / min(workers, cores),
            "exact neighbours": 2.0 * QUERIES * n * d / _GFLOPS / cores,
        },
    )


def parts_for(n: int, workers: int) -> int:
    """In how many parts n items are encoded."""
    return min(n, max(_PARTS_A_WORKER * workers, math.ceil(n / _ITEMS_A_PART)))


def _code_bytes(n: int, d: int, wishes: Wishes) -> int:
    if wishes.code_bytes is not None and wishes.index_bytes is not None:
        raise ValueError("expected bytes of a code or of the whole index, got both")
    if wishes.index_bytes is not None:
        ids = _ID_BYTES if n >= _LISTS_FROM else 0
        found = wishes.index_bytes // n - ids
        if found < 4:
            raise ValueError(
                f"expected at least {_size(n * (4 + ids))} for {n:,} codes, got "
                f"{_size(wishes.index_bytes)}"
            )
        return min(16, found)
    if wishes.code_bytes is None:
        return 8 if d < 256 else 16
    if not 2 <= wishes.code_bytes <= 64:
        raise ValueError(f"expected codes of 2 to 64 bytes, got {wishes.code_bytes}")
    return wishes.code_bytes


def _training(n: int, d: int, memory_bytes: int) -> tuple[int, int]:
    """How many vectors to learn from, and how many inverted lists they are enough for."""
    fits = (memory_bytes - _PROCESS_BYTES) // (_PER_TRAINING_VALUE * d)
    most = min(n - QUERIES, _MOST_TRAIN, fits)
    if most < QUERIES:
        least = _PROCESS_BYTES + QUERIES * _PER_TRAINING_VALUE * d
        raise ValueError(f"expected memory of at least {_size(least)}, got {_size(memory_bytes)}")
    nlist = 0
    if n >= _LISTS_FROM:
        wanted = 2 ** round(math.log2(3 * math.sqrt(n)))
        enough = 2 ** int(math.log2(most / _TRAIN_PER_LIST))
        nlist = min(wanted, enough, _MOST_LISTS)
    return min(most, max(_TRAIN, _TRAIN_PER_LIST * nlist)), nlist


def _effort(n: int, d: int, code_bytes: int, nlist: int, at_a_time: int, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    for effort in _EFFORTS:
        if _encode_s(n, d, code_bytes, nlist, effort) / at_a_time <= _ENCODE_S:
            return effort
    return _EFFORTS[-1]


def _encode_s(n: int, d: int, code_bytes: int, nlist: int, effort: int) -> float:
    """Seconds of one core: each item's list is found, and then its code."""
    us = (_ENCODE_US + _EFFORT_US * effort) * _scale(d, code_bytes)
    return n * (us / 1e6 + 2.0 * nlist * d / _GFLOPS)


def _scale(d: int, code_bytes: int) -> float:
    """How much longer an item takes than one of 128 dimensions and 8 bytes."""
    return float(code_bytes / 8 * (d / 128) ** 0.6)


def _size(n: float) -> str:
    for unit, factor in (("GiB", _GIB), ("MiB", 1 << 20)):
        if n >= factor:
            return f"{n / factor:.1f} {unit}"
    return f"{n / 1024:.0f} KiB"


def _minutes(s: float) -> str:
    if s < 90:
        return f"{s:.0f} s"
    return f"{s / 60:.0f} min" if s < 5400 else f"{s / 3600:.1f} h"
