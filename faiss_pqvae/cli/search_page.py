"""The page of `search --html`: every query beside what was found, with small pictures."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faiss_pqvae.data.source import Source
from faiss_pqvae.data.thumbnails import thumbnail, thumbnail_of_file
from faiss_pqvae.index.items import Items
from faiss_pqvae.messages import printable
from faiss_pqvae.types import FloatArray, IdArray

SIDE = 96  # pixels, at most, of the longer side of a picture
PAGE_BYTES = 20_000_000  # of queries and results; the queries beyond are left out

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }}
.query {{ display: flex; gap: .5rem; padding: .5rem 0; border-bottom: 1px solid #ddd; }}
.query > figure:first-child {{ border-right: 3px solid #2a6; margin-right: .5rem; }}
.query {{ overflow-x: auto; }}
figure {{ margin: 0; padding-right: .5rem; width: 6.5rem; flex: none; }}
img {{ display: block; max-width: 6rem; }}
figcaption {{ overflow-wrap: anywhere; font-size: 12px; }}
small {{ color: #666; }}
</style>
<h1>{title}</h1>
"""


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
        self.lost = 0

    def name(self, i: int) -> str:
        """That of an item, "" if it has none."""
        return "" if self._items is None else str(self._items.names(i))

    def of(self, i: int) -> str | None:
        """That of an item, PNG in base64; None where its file is gone or is no image."""
        place = None if self._items is None else self._items.place(i)
        if place is None:
            return None
        picture = self._at(*place)
        self.lost += picture is None and self._read is not None
        return picture

    def _at(self, path: Path, row: int | None) -> str | None:
        if row is None:
            return thumbnail_of_file(path, SIDE)
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
    return thumbnail(source[row : row + 1][0], SIDE)


def page(
    title: str,
    queries: Source,
    names: Items,
    found: tuple[FloatArray, IdArray],
    stored: Thumbnails,
    *,
    limit_bytes: int = PAGE_BYTES,
) -> tuple[str, int]:
    """A page of HTML that needs no other file.

    Args:
        title: what stands above.
        queries: what was searched for.
        names: of the queries, by place.
        found: D (nq, k) and I (nq, k).
        stored: of what was found.
        limit_bytes: from which on no more queries are shown.

    Returns:
        The page, and how many of the queries it shows.
    """
    asked = Thumbnails(names, None)
    parts, size, shown = [_HEAD.format(title=html.escape(printable(title)))], 0, 0
    for i, (distances, ids) in enumerate(zip(*found, strict=True)):
        if size > limit_bytes:
            break
        picture = asked.of(i)
        if picture is None and len(queries.shape) == 4:
            picture = _of_row(queries, i)
        cells = [_figure(picture, asked.name(i), "query")]
        there = ids != -1
        for d, item in zip(distances[there], ids[there], strict=True):
            name = stored.name(int(item)) or str(item)
            cells.append(_figure(stored.of(int(item)), name, f"{d:.4g}"))
        parts.append(f'<div class="query">{"".join(cells)}</div>\n')
        size, shown = size + len(parts[-1]), shown + 1
    if shown < len(queries):
        parts.append(f"<p>The first {shown} of {len(queries)} queries.</p>\n")
    return "".join(parts), shown


def _figure(picture: Any, name: str, below: str) -> str:
    text = html.escape(printable(name))
    image = "" if picture is None else f'<img alt="" src="data:image/png;base64,{picture}">'
    return (
        f'<figure title="{text}">{image}<figcaption>{text}<br><small>{below}</small>'
        "</figcaption></figure>"
    )
