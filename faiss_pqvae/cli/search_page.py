"""The page of `search --html`: every query beside what was found, with small pictures."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from faiss_pqvae.data.source import Source
from faiss_pqvae.data.thumbnails import thumbnail, thumbnail_of_file
from faiss_pqvae.index.items import Items
from faiss_pqvae.messages import printable
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray, IdArray

SIDE = 224  # pixels, at most, of the longer side of a picture: twice of what most screens show
_SMALL = 64  # pixels of a picture's side, up to which they are shown one by one
PAGE_BYTES = 20_000_000  # of queries and results; the queries beyond are left out

_STYLE = """
:root { color-scheme: light dark; --text: #1d2125; --quiet: #626a73; --ground: #fff;
  --card: #f4f5f7; --line: #dfe2e6; --mark: #17803d; --bar: #8fa3bb; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --quiet: #9aa3ac;
  --ground: #15181b; --card: #1f2428; --line: #333a40; --mark: #4cc06f; --bar: #52708f; } }
* { box-sizing: border-box; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 90rem;
  padding: 1.25rem; color: var(--text); background: var(--ground); }
h1 { font-size: 1.3rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0 0 1.25rem; }
dt { color: var(--quiet); font-size: .75rem; }
dd { margin: 0; overflow-wrap: anywhere; }
section { display: grid; grid-template-columns: 12rem 1fr; gap: 1.25rem; padding: 1.25rem 0;
  border-top: 1px solid var(--line); }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem;
  list-style: none; margin: 0; padding: 0; }
figure { margin: 0; border-radius: .5rem; background: var(--card); overflow: hidden;
  height: 100%; }
section > figure { border-top: 3px solid var(--mark); height: max-content; }
img { display: block; width: 100%; aspect-ratio: 4/3; object-fit: contain;
  background: var(--line); }
.small img[src^="data:image/png"] { image-rendering: pixelated; }
figcaption { padding: .4rem .6rem .6rem; font-size: .8rem; overflow-wrap: anywhere; }
figcaption p { margin: 0; display: flex; justify-content: space-between; color: var(--quiet);
  font-variant-numeric: tabular-nums; }
figcaption b { color: var(--mark); font-weight: 600; }
a { color: inherit; text-decoration: none; }
a:hover { text-decoration: underline; }
i { display: block; height: 3px; margin: .25rem 0; border-radius: 2px; background: var(--line); }
i > span { display: block; height: 100%; border-radius: 2px; background: var(--bar); }
@media (max-width: 40rem) { body { padding: .75rem; } section { grid-template-columns: 1fr; }
  ol { grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .5rem; }
  section > figure { display: flex; }
  section > figure > :not(figcaption) { width: 45%; flex: none; } }
"""
_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
<dl>{facts}</dl>
<main{kind}>
"""


class Found(NamedTuple):
    """What a search found.

    Attributes:
        D: (nq, k) float32.
        I: (nq, k) int64, -1 where there is nothing.
        query_s: seconds of a query, on average.
    """

    D: FloatArray
    I: IdArray  # noqa: E741 - FAISS's name
    query_s: float


class Thumbnails:
    """Small pictures of items, by the files of their table.

    Args:
        items: the table, or None.
        read: opens a file with several images; None where items are no images.

    Attributes:
        lost: how many were asked for, and are not where the table says.
    """

    def __init__(self, items: Items | None, read: Callable[[str], Source] | None) -> None:
        self._items, self._read = items, read
        self._opened: dict[Path, Source | None] = {}
        self._made: dict[int, str | None] = {}
        self.lost = 0

    def name(self, i: int) -> str:
        """That of an item, "" if it has none."""
        return "" if self._items is None else str(self._items.names(i))

    def link(self, i: int) -> str | None:
        """Where the file of an item is, if it is a file of its own."""
        place = None if self._items is None else self._items.place(i)
        if place is None or place[1] is not None or not place[0].is_absolute():
            return None
        return place[0].as_uri()

    def of(self, i: int) -> str | None:
        """That of an item, as a URI; None where its file is gone or is no image."""
        if i not in self._made:
            self._made[i] = self._make(i)
        return self._made[i]

    def _make(self, i: int) -> str | None:
        place = None if self._items is None else self._items.place(i)
        if place is None:
            return None
        picture = self._at(*place)
        self.lost += picture is None and self._read is not None
        return picture

    def _at(self, path: Path, row: int | None) -> str | None:
        if row is None:
            picture = thumbnail_of_file(path, SIDE)
            return None if picture is None else f"data:image/jpeg;base64,{picture}"
        if path not in self._opened:
            self._opened[path] = self._open(path)
        source = self._opened[path]
        return None if source is None or row >= len(source) else _of_row(source, row)

    def _open(self, path: Path) -> Source | None:
        """A file; None if it is gone, or no longer one of images."""
        try:
            source = None if self._read is None else self._read(str(path))
        except (ValueError, OSError):
            return None
        return source if source is not None and len(source.shape) == 4 else None


def _of_row(source: Source, row: int) -> str:
    return f"data:image/png;base64,{thumbnail(source[row : row + 1][0], SIDE)}"


def page(
    title: str,
    facts: Mapping[str, str],
    queries: Source,
    names: Items,
    found: Found,
    stored: Thumbnails,
    *,
    limit_bytes: int = PAGE_BYTES,
) -> tuple[str, int]:
    """A page of HTML that needs no other file.

    Args:
        title: what stands above.
        facts: about index and search, by what they are called.
        queries: what was searched for.
        names: of the queries, by place.
        found: what was found.
        stored: of what was found.
        limit_bytes: from which on no more queries are shown.

    Returns:
        The page, and how many of the queries it shows.
    """
    asked = Thumbnails(names, None)
    listed = "".join(f"<div><dt>{_text(n)}</dt><dd>{_text(v)}</dd></div>" for n, v in facts.items())
    # Of a few pixels, which a browser would blur.
    small = len(queries.shape) == 4 and max(queries.shape[2:]) <= _SMALL
    kind = ' class="small"' if small else ""
    parts = [_HEAD.format(title=_text(title), style=_STYLE, facts=listed, kind=kind)]
    size, shown = 0, 0
    with Progress("drawing the page", len(queries), unit="queries") as bar:
        for i, (distances, ids) in enumerate(zip(found.D, found.I, strict=True)):
            if size > limit_bytes:
                break
            picture = asked.of(i)
            if picture is None and len(queries.shape) == 4:
                picture = _of_row(queries, i)
            query = _figure(picture, asked.name(i), asked.link(i), "<p><b>query</b></p>")
            there = ids != -1
            results = _results(distances[there], ids[there], stored)
            parts.append(f"<section>{query}\n<ol>{results}</ol></section>\n")
            size, shown = size + len(parts[-1]), shown + 1
            bar.update(1)
    if shown < len(queries):
        parts.append(f"<p>The first {shown} of {len(queries)} queries.</p>\n")
    return "".join(parts), shown


def _results(distances: FloatArray, ids: IdArray, stored: Thumbnails) -> str:
    """What was found for a query, the nearest first."""
    figures = []
    for rank, (d, item, share) in enumerate(
        zip(distances, ids.tolist(), _shares(distances), strict=True), 1
    ):
        below = (
            f"<p><b>{rank}</b><span>{d:.4g}</span></p>"
            f'<i><span style="width:{100 * share:.0f}%"></span></i>'
        )
        name = stored.name(item) or str(item)
        figures.append(f"<li>{_figure(stored.of(item), name, stored.link(item), below)}</li>\n")
    return "".join(figures)


def _shares(distances: FloatArray) -> list[float]:
    """How long the bar of each distance is, in [0, 1]: from 0, or the lowest below it."""
    values = distances.astype(float)
    low = min(0.0, values.min(initial=0.0))
    span = values.max(initial=0.0) - low
    shares: list[float] = ((values - low) / (span or 1.0)).tolist()
    return shares


def _figure(picture: str | None, name: str, link: str | None, below: str) -> str:
    text = _text(name)
    image = "" if picture is None else f'<img alt="" src="{picture}">'
    if link is not None:
        before = f'<a href="{html.escape(link)}">'
        text, image = f"{before}{text}</a>", image and f"{before}{image}</a>"
    return f"<figure>{image}<figcaption>{below}{text}</figcaption></figure>"


def _text(text: str) -> str:
    return html.escape(printable(text))
