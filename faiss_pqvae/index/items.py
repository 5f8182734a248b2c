"""What the items of an index are called: ids to names, and to the files that they came from.

numpy only. A run is a range of ids whose items lie in a file one after another, so that a billion
vectors in a hundred files are a hundred runs, and no names are stored that can be computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.own_ids import check_once
from faiss_pqvae.foreign import as_array, as_ids
from faiss_pqvae.index.texts import Texts
from faiss_pqvae.types import IdArray

WHOLE = -1  # number of an item that is a file of its own
OWN = -2  # number of an item whose text is a name of the user's own, and no file


@dataclass(frozen=True, eq=False)
class Items:
    """A table from ids to names; it never changes, every method makes a new one.

    Names of files are relative to `root`, with "/", and absolute where they lie elsewhere. Row 7
    of a file of vectors is "x.npy:7".

    Attributes:
        ids: (r,) int64, the first id of every run, rising; no run has the id -1.
        counts: (r,) int64, how many ids it has; they do not overlap.
        numbers: (r,) int64, the row of the first in its file, or `WHOLE` or `OWN`.
        files: (r,) int64, which of `texts` is its file, or its name.
        texts: each once.
        root: an absolute folder, or "".
    """

    ids: IdArray
    counts: IdArray
    numbers: IdArray
    files: IdArray
    texts: Texts
    root: str = ""

    @classmethod
    def of_names(cls, names: Iterable[str], ids: Any = None) -> Items:
        """Names of one's own.

        Args:
            names: (n,) strings; a column of Arrow, too.
            ids: (n,) int64 of the items; by default 0 to n.

        Raises:
            TypeError: names that are no strings, ids that are no integers.
            ValueError: another number of ids, an id or a name that is there twice, an empty name,
                the id -1, which is FAISS's for nothing.
        """
        plain = names.to_pylist() if hasattr(names, "to_pylist") else names
        names = [_checked_name(name) for name in plain]
        own = np.arange(len(names)) if ids is None else as_ids(ids, len(names))
        check_once(names, "names")
        check_once(own, "ids")
        if (own == -1).any():
            raise ValueError("expected ids other than -1, which means that nothing was found")
        numbers = np.full(len(names), OWN)
        return _of_rows(own, numbers, np.arange(len(names)), Texts.of(names), "")

    @classmethod
    def of_files(cls, paths: Sequence[str | Path], root: str) -> Items:
        """The items 0 to n, each a file of its own."""
        n = len(paths)
        texts = Texts.of(relative(path, root) for path in paths)
        one = np.ones(n, np.int64)
        return cls(np.arange(n), one, np.full(n, WHOLE), np.arange(n), texts, root)

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[str | Path, int]], root: str) -> Items:
        """The items 0 to n of files, of which each has several.

        Args:
            parts: (path, number of items), in order.
            root: see the class.
        """
        parts = [(path, count) for path, count in parts if count]
        counts = np.array([count for _, count in parts], np.int64)
        texts = Texts.of(relative(path, root) for path, _ in parts)
        places = np.arange(len(parts))
        return cls(np.cumsum(counts) - counts, counts, np.zeros_like(counts), places, texts, root)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def are_own(self) -> bool:
        """Whether there are names of the user's own, which are no files."""
        return bool((self.numbers == OWN).any())

    def names(self, ids: Any) -> npt.NDArray[np.object_]:
        """The names of ids, of any shape: strings, and "" where there is none, as of -1.

        Raises:
            TypeError: ids that are no integers.
        """
        wanted = as_array(ids, "ids")
        flat = as_ids(wanted.reshape(-1))
        found = np.full(wanted.size, "", object)
        runs = self._runs(flat)
        for place in np.flatnonzero(runs >= 0):
            text, number = self._text(int(runs[place]), int(flat[place]))
            found[place] = text if number < 0 else f"{text}:{number}"
        return found.reshape(wanted.shape)

    def place(self, i: int) -> tuple[Path, int | None] | None:
        """The file of an id, and its row there (None: the whole file); None if there is none."""
        run = int(self._runs(np.array([i]))[0])
        if run < 0 or self.numbers[run] == OWN:
            return None
        text, number = self._text(run, i)
        return Path(self.root, text), None if number == WHOLE else number

    def all_ids(self) -> IdArray:
        """Every id that has a name: (len,) int64, rising."""
        runs = np.repeat(np.arange(len(self.ids)), self.counts)
        return self.ids[runs] + np.arange(len(runs)) - self._starts()[runs]

    def ids_in(self, other: Items) -> IdArray:
        """The ids that another table of the same root has for these.

        Returns:
            (len,) int64 in the order of the ids here, -1 for what it does not have.
        """
        places = {other.texts[i]: i for i in range(len(other.texts))}
        mine = [places.get(self.texts[i], -1) for i in range(len(self.texts))]
        theirs = np.array(mine, np.int64)[self.files]
        order = np.argsort(other.files, kind="stable")
        low = np.searchsorted(other.files[order], theirs, "left")
        high = np.searchsorted(other.files[order], theirs, "right")
        starts, found = self._starts(), np.full(len(self), -1)
        for run in np.flatnonzero(low < high):
            first, start, count = self.numbers[run], starts[run], self.counts[run]
            for like in order[low[run] : high[run]]:
                begin, n, i = other.numbers[like], other.counts[like], other.ids[like]
                if first < 0 or begin < 0:
                    found[start] = i if first == begin else found[start]
                    continue
                rows = np.arange(max(first, begin), min(first + count, begin + n))
                found[start + rows - first] = i + rows - begin
        return found

    def under(self, ids: int | IdArray, places: IdArray | None = None) -> Items:
        """The same items under other ids.

        Args:
            ids: the new ones, (len(places),) int64 without repetition, or what to add to the old.
            places: (n,) the old ids, which all have names; by default all, in rising order.
        """
        if places is None and isinstance(ids, int):
            return replace(self, ids=self.ids + ids)
        places = self.all_ids() if places is None else places
        runs = self._runs(places)
        numbers = self.numbers[runs]
        numbers = np.where(numbers < 0, numbers, numbers + places - self.ids[runs])
        new = places + ids if isinstance(ids, int) else ids
        return _of_rows(new, numbers, self.files[runs], self.texts, self.root)

    def without(self, ids: IdArray) -> Items:
        """Those whose id is not among ids (n,) int64."""
        runs = self._runs(ids)
        ids, runs = ids[runs >= 0], runs[runs >= 0]
        if not len(ids):
            return self
        # Where every item is counted, not by ids, whose sums may overflow.
        starts = self._starts()
        gone = np.unique(starts[runs] + (ids - self.ids[runs]))
        begins = np.sort(np.concatenate([starts, gone + 1]))
        ends = np.sort(np.concatenate([starts + self.counts, gone]))
        begins, ends = begins[begins < ends], ends[begins < ends]
        runs = np.searchsorted(starts, begins, "right") - 1
        ahead = begins - starts[runs]
        numbers = self.numbers[runs]
        left = replace(
            self,
            ids=self.ids[runs] + ahead,
            counts=ends - begins,
            numbers=np.where(numbers < 0, numbers, numbers + ahead),
            files=self.files[runs],
        )
        return left._with_texts_in_use()

    def closed(self, removed: IdArray) -> Items:
        """Those that are left, moved up, of items that are counted from 0.

        Args:
            removed: (n,) int64, rising, also those without a name.
        """
        left = self.without(removed)
        return replace(left, ids=left.ids - np.searchsorted(removed, left.ids))

    def rooted(self, root: str) -> Items:
        """The same items in a table of another root."""
        none = np.empty(0, np.int64)
        return Items(none, none, none, none, Texts.of([]), root).joined(self)

    def joined(self, other: Items) -> Items:
        """These and those of another table, which has other ids."""
        texts = (other._text_for(run, self.root) for run in range(len(other.ids)))
        places = {self.texts[i]: i for i in range(len(self.texts))}
        theirs = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
        ids = np.concatenate([self.ids, other.ids])
        order = np.argsort(ids)
        return Items(
            ids[order],
            np.concatenate([self.counts, other.counts])[order],
            np.concatenate([self.numbers, other.numbers])[order],
            np.concatenate([self.files, theirs])[order],
            Texts.of(places),
            self.root,
        )

    def _runs(self, ids: IdArray) -> IdArray:
        """The run of every id, -1 where it has no name."""
        runs = np.searchsorted(self.ids, ids, "right") - 1
        within = runs >= 0
        # Unsigned, in which a difference of two int64 does not overflow.
        ahead = ids[within].view(np.uint64) - self.ids[runs[within]].view(np.uint64)
        there = ahead < self.counts[runs[within]].view(np.uint64)
        runs[within] = np.where(there, runs[within], -1)
        return runs

    def _starts(self) -> IdArray:
        """How many items are before every run."""
        starts: IdArray = np.cumsum(self.counts) - self.counts
        return starts

    def _text(self, run: int, i: int) -> tuple[str, int]:
        """The text of an id in a run, and its number."""
        number = int(self.numbers[run])
        ahead = i - int(self.ids[run])
        return self.texts[int(self.files[run])], number if number < 0 else number + ahead

    def _text_for(self, run: int, root: str) -> str:
        """The text of a run in a table with another root."""
        text = self.texts[int(self.files[run])]
        if self.numbers[run] == OWN or self.root == root:
            return text
        return relative(Path(self.root, text), root)

    def _with_texts_in_use(self) -> Items:
        used, files = np.unique(self.files, return_inverse=True)
        return replace(self, files=files.astype(np.int64), texts=self.texts.take(used))


def _of_rows(ids: IdArray, numbers: IdArray, files: IdArray, texts: Texts, root: str) -> Items:
    """A table of items (n,) one by one: neighbours in a file become runs."""
    order = np.argsort(ids)
    ids, numbers, files = ids[order], numbers[order], files[order]
    follows = np.zeros(len(ids), bool)
    follows[1:] = (
        (ids[1:] == ids[:-1] + 1)
        & (files[1:] == files[:-1])
        & (numbers[:-1] >= 0)
        & (numbers[1:] == numbers[:-1] + 1)
    )
    first = np.flatnonzero(~follows)
    counts = np.diff(first, append=len(ids))
    rows = Items(ids[first], counts, numbers[first], files[first], texts, root)
    return rows._with_texts_in_use()


def relative(path: str | Path, root: str) -> str:
    """How a table of that root calls a file; what has no folder, such as a data set, as it is."""
    text, above = str(path), root.rstrip(os.sep) + os.sep  # text: pathlib is slow for millions
    inside = bool(root) and text.startswith(above)
    return text[len(above) :].replace(os.sep, "/") if inside else text


def check_items_fit(items: Items, ntotal: int, *, counted: bool) -> None:
    """Whether a table can be that of an index.

    Args:
        items: the table.
        ntotal: items of the index.
        counted: whether their ids count from 0.

    Raises:
        ValueError: names of more items than there are, or of ids that are not there.
    """
    n = int(items.counts.astype(np.uint64).sum())
    if n > ntotal:
        raise ValueError(f"expected names of at most the {ntotal} items of the index, got {n}")
    if counted and n:
        low, high = int(items.ids[0]), int(items.ids[-1]) + int(items.counts[-1]) - 1
        if low < 0 or high >= ntotal:
            raise ValueError(f"expected names of the ids 0 to {ntotal - 1}, got {low} to {high}")


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"expected names as strings, got {type(name).__name__}")
    if not name:
        raise ValueError("expected a name for every item, got an empty one")
    return str(name)
