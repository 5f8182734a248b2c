"""The table of bytes and minutes in docs/scale.md, as `plan` says them on two cores."""

from __future__ import annotations

import re
from pathlib import Path

from faiss_pqvae.scale.planning import Wishes, make_plan

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
SIZES = [(n, d) for d in (384, 768) for n in (10**6, 10**7, 10**8, 10**9)]
WISHES = Wishes(memory_bytes=16 << 30, workers=2)
CORES = 2


def table() -> str:
    """In Markdown."""
    rows = [
        "| vectors | dimensions | index | memory | effort | lists | codes | encode | "
        "exact neighbours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for n, d in SIZES:
        plan = make_plan(n, d, WISHES, cores=CORES)
        seconds = (plan.seconds[name] for name in ("lists", "learn", "encode", "exact neighbours"))
        cells = [f"{n // 10**6:,} million", str(d), _gb(plan.index_bytes), _gb(plan.memory_bytes)]
        cells += [str(plan.effort), *map(_minutes, seconds)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.3g} GB"


def _minutes(s: float) -> str:
    return f"{s / 60:,.0f} min" if s >= 90 else f"{s:.0f} s"


def main() -> None:
    """Writes it into the page."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"(<!-- /?plan -->\n)", text)
    parts[2] = table() + "\n"
    PAGE.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
