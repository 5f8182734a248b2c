"""Everything that runs on a card, checked and measured by one command in eight minutes.

    python benchmarks/gpu_check.py --out DIR

Parts follow each other in order of worth, each in a process of its own and under a limit of its
own: what raises, crashes or hangs ends that part alone, and what it had found by then is kept.
After every part `DIR/gpu-check.json` has all results so far. Data are drawn from a seed.

The exit status is 0 if everything passed that this machine has, 1 if anything failed, was not done
in time, or could not be shown on the card that was asked for, and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

# None of these loads torch or FAISS: a library that dies while it loads ends one part.
import tyro
from gpu_check_part import MARGIN_S, Check, DiffersError, read_findings

from faiss_pqvae.files import replace_bytes

FORMAT = 1
MINUTES = 8.0
NO_CARD: Literal["not run: no card"] = "not run: no card"
_PART = "part"  # the first argument of a process that runs one
_LOG_CHARS = 6000
_INTERRUPTED = "interrupted"

Device = Literal["auto", "cuda", "cpu"]
Status = Literal["passed", "failed", "not run: no card", "out of time"]


@dataclass(frozen=True)
class Part:
    """Something that is checked or measured.

    Attributes:
        name: for people and `--only`.
        limit_s: after so many seconds it is ended, of a run of `MINUTES`.
        run: "module:function", called with a `Check`.
        needs_card: there is nothing of it on a CPU.
    """

    name: str
    limit_s: float
    run: str
    needs_card: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a part.

    Attributes:
        name: of the part.
        status: how it ended.
        seconds: that it took.
        limit_s: that it had.
        findings: in the order they were made; "what" each is about, and values.
        error: of a part that did not pass, the end of what its process said.
    """

    name: str
    status: Status
    seconds: float = 0.0
    limit_s: float = 0.0
    findings: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def run_parts(
    parts: list[Part], out: Path, *, device: Device = "auto", minutes: float = MINUTES
) -> int:
    """Runs parts, and writes what came of them after each.

    Args:
        parts: in order.
        out: folder for gpu-check.json.
        device: where; a card that is asked for and not there is never replaced by the CPU.
        minutes: for all of them; their limits grow and shrink with it.

    Returns:
        The exit status of the script.
    """
    started = time.monotonic()
    record: dict[str, Any] = {
        "format": FORMAT,
        "command": f"python benchmarks/gpu_check.py --device {device} --minutes {minutes:g}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": minutes,
        "asked": device,
    }
    ends = started + 60 * minutes
    results: list[Result] = []
    taken = "none"
    for part in [ENVIRONMENT, *parts]:
        is_first = part is ENVIRONMENT
        if is_first:  # found out in any case, however little time there is
            result = run_part(part, "cpu", started + part.limit_s)
        elif taken == "none" or (part.needs_card and taken == "cpu"):
            result = Result(part.name, NO_CARD)
        else:
            result = run_part(part, taken, ends, minutes / MINUTES)
        results.append(result)
        if is_first:
            found = {key: value for each in result.findings for key, value in each.items()}
            found.pop("what", None)
            taken = device_taken(device, found)
            record |= {"device": taken, "environment": found}
            about = found.get("card", "no card")
            print(f"device: {taken} (asked for: {device}), {about}", flush=True)
        write(out, record, results)
        print(row(result), flush=True)
        if result.error.startswith(_INTERRUPTED):
            return 130
    print(f"\n{out / 'gpu-check.json'}, after {time.monotonic() - started:.0f} s")
    return exit_status(results[:1], results[1:])


def device_taken(asked: Device, found: dict[str, Any]) -> str:
    """Where parts run: "none" where a card was asked for that is not there."""
    card = "card" in found
    if asked == "cuda":
        return "cuda" if card else "none"
    return "cuda" if card and asked == "auto" else "cpu"


def exit_status(first: list[Result], results: list[Result]) -> int:
    """0 if something was shown, and nothing failed or ran out of time; otherwise 1."""
    shown = any(result.status == "passed" for result in results)
    bad = any(result.status not in ("passed", NO_CARD) for result in [*first, *results])
    return 0 if shown and not bad else 1


def run_part(part: Part, device: str, ends: float, stretch: float = 1.0) -> Result:
    """Runs a part in a process of its own.

    Args:
        part: the part.
        device: "cuda" or "cpu".
        ends: when the whole script's time is over, by time.monotonic().
        stretch: by which its limit grows.

    Returns:
        Its result; of one that Ctrl-C ended it says so in the error's first word.
    """
    started = time.monotonic()
    limit_s = min(part.limit_s * stretch, ends - started)
    if limit_s <= MARGIN_S:
        return Result(part.name, "out of time", limit_s=max(round(limit_s, 1), 0.0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, _PART, part.run, device, str(started + limit_s), name]
        with (folder / "log").open("w") as log:
            # In a session of its own: the terminal's Ctrl-C is ours, and all it began is ended.
            child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        interrupted, code = False, None
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            interrupted = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        status: Status = "passed" if code == 0 else "out of time" if code is None else "failed"
        return Result(
            part.name,
            "failed" if interrupted else status,
            seconds=round(time.monotonic() - started, 1),
            limit_s=round(limit_s, 1),
            findings=read_findings(folder),
            error="" if code == 0 else how_it_ended(code, folder / "log", interrupted=interrupted),
        )


def how_it_ended(code: int | None, log: Path, *, interrupted: bool) -> str:
    """Why a process did not pass, and the end of what it said."""
    said = log.read_text(errors="replace").replace(f"{Path(__file__).parents[1]}/", "")
    said = said[-_LOG_CHARS:].strip()
    how = f"exit status {code}"
    if interrupted:
        how = _INTERRUPTED
    elif code is None:
        how = "ended at its limit"
    elif code < 0:
        how = f"ended by {signal.Signals(-code).name}"
    return f"{how}\n{said}" if said else how


def write(out: Path, record: dict[str, Any], results: list[Result]) -> None:
    """Replaces gpu-check.json."""
    out.mkdir(parents=True, exist_ok=True)
    content = {**record, "parts": [asdict(result) for result in results]}
    text = json.dumps(content, indent=1, allow_nan=False)
    replace_bytes(out / "gpu-check.json", f"{text}\n".encode())


def row(result: Result) -> str:
    """A part's line in the table."""
    cells = f"{result.name:<14}{result.status:<18}{result.seconds:>6.1f} s"
    cells += f"{len(result.findings):>5} findings"
    if n := sum("not_measured" in finding for finding in result.findings):
        cells += f", {n} not measured"
    reasons = result.error.splitlines()[-1:] if result.status == "failed" else []
    return "  ".join([cells, *(textwrap.shorten(reason, 100) for reason in reasons)])


def part_process(run: str, device: str, ends: str, folder: str) -> None:
    """What the process of a part does.

    Args:
        run: see `Part`.
        device: see `Check`.
        ends: likewise.
        folder: likewise.

    Raises:
        DiffersError: something went wrong that did not end the part.
    """
    faulthandler.enable()  # a crash says where it was
    check = Check(device, float(ends), Path(folder))
    # Should nobody be there any more to end it.
    signal.alarm(max(1, math.ceil(check.ends - time.monotonic()) + 5))
    module, _, function = run.partition(":")
    getattr(importlib.import_module(module), function)(check)
    if check.failed:
        raise DiffersError(f"{len(check.failed)} failed: {', '.join(check.failed)}")


ENVIRONMENT = Part("environment", 45, "gpu_check_machine:environment")
PARTS = [
    Part("search", 75, "gpu_check_search:search", needs_card=True),
    Part("torch scan", 45, "gpu_check_search:torch_scan"),
    Part("streams", 20, "gpu_check_threads:streams", needs_card=True),
    Part("threads", 20, "gpu_check_threads:threads"),
    Part("speed", 105, "gpu_check_speed:speed"),
    Part("nlist", 40, "gpu_check_speed:lists", needs_card=True),
    Part("training", 80, "gpu_check_training:training"),
    Part("encoding", 25, "gpu_check_networks:encoding"),
    Part("refinement", 30, "gpu_check_networks:refinement"),
    Part("layouts", 15, "gpu_check_search:layouts"),
    Part("contrastive", 480, "gpu_check_training:contrastive", needs_card=True),
]


def main(
    out: Path, *, device: Device = "auto", minutes: float = MINUTES, only: tuple[str, ...] = ()
) -> int:
    """Runs the parts.

    Args:
        out: folder for gpu-check.json.
        device: "auto" takes a card where there is one, and says so.
        minutes: for everything; limits of parts grow and shrink with it.
        only: parts, by name; all by default.
    """
    known = [part.name for part in PARTS]
    if unknown := [name for name in only if name not in known]:
        raise SystemExit(f"expected parts of {known}, got {unknown}")
    if not (math.isfinite(minutes) and minutes > 0):
        raise SystemExit(f"expected minutes > 0, got {minutes}")
    parts = [part for part in PARTS if not only or part.name in only]
    return run_parts(parts, out, device=device, minutes=minutes)


if __name__ == "__main__":
    if sys.argv[1:2] == [_PART]:
        part_process(*sys.argv[2:])
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the part, too
        sys.exit(tyro.cli(main, description=__doc__))
