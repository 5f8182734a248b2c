"""What builds in parts survive: processes killed and disks filled, each at a random moment.

Every trial begins a build in parts, does it harm, and gives the same command again until it is
done. The index has to be that of a build that nothing happened to, to the bit. Killed are a worker,
the process that began the workers, and the raylet of Ray's; a disk is a file system in memory that
is too small, and grown afterwards (where nobody may mount one, a limit of the size of files).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

import faiss_pqvae as fpq
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes

D, FILES = 16, 8
PARTS = 24
AGAIN = 5  # times that a command is given again at most
PATIENCE_S = 300


class NotTheSameError(AssertionError):
    """A build that was harmed made another index."""


class Trials:
    """Builds that are harmed.

    Args:
        folder: for everything.
        n: vectors.
        seed: of the moments.
    """

    def __init__(self, folder: Path, n: int, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        x = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
        (folder / "x").mkdir()
        for number, part in enumerate(np.array_split(x, FILES)):
            np.save(folder / "x" / f"{number}.npy", part)
        index = fpq.index_factory(D, "IVF16,PQVAE8x4", objective="additive")
        index.train(x[:2000])
        fpq.write_index(index, folder / "model")
        self.expected, self.took_s = {}, {}
        for engine in ("local", "ray"):
            started = time.monotonic()
            self.begun(folder / engine, engine).wait(PATIENCE_S)
            self.took_s[engine] = time.monotonic() - started
            self.expected[engine] = made(folder / engine)
        if self.expected["local"] != self.expected["ray"]:
            raise NotTheSameError("two engines made different indexes")

    def begun(self, out: Path, engine: str, **options: Any) -> subprocess.Popen[str]:
        """The command, in a session of its own."""
        command = [
            "build",
            self.folder / "model",
            self.folder / "x",
            "--out",
            out,
            "--workers",
            "2",
        ]
        command += ["--parts", str(PARTS), "--merge", "--engine", engine]
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "faiss_pqvae", *command],
                stdout=said,
                stderr=said,
                start_new_session=True,
                text=True,
                **options,
            )

    def moment(self, engine: str) -> float:
        """Seconds after which harm is done: within what a build takes."""
        return float(self.rng.uniform(0.1, 0.95) * self.took_s[engine])

    def finished(self, out: Path, engine: str) -> int:
        """Gives the command until it is done; how often that was."""
        number, status = 0, 1
        while status and number < AGAIN:
            status = self.begun(out, engine).wait(PATIENCE_S)
            number += 1
        self.check(out, engine)
        return number

    def check(self, out: Path, engine: str) -> None:
        """Whether an index is that of an undisturbed build."""
        if made(out) != self.expected[engine]:
            raise NotTheSameError(f"the index in {out} is another one")


def made(out: Path) -> str | None:
    """The hash of the index in a bundle; None without one."""
    with contextlib.suppress(FileNotFoundError):
        sha256: str = json.loads((out / "config.json").read_bytes())["files"]["index"]["sha256"]
        return sha256
    return None


def children(pid: int, name: bytes) -> list[int]:
    """Processes below another one whose command line has a word."""
    found, below = [], {pid}
    rows = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            rows.append((int(path.name), parent, (path / "cmdline").read_bytes()))
    grew = True
    while grew:
        more = {child for child, parent, _ in rows if parent in below} - below
        below |= more
        grew = bool(more)
    for child, _, command in rows:
        if child in below and child != pid and name in command:
            found.append(child)
    return found


def kill_one_of(trials: Trials, out: Path, engine: str, name: bytes | None) -> int:
    """Kills a process of a build, the first one without a name; how often the command was given.

    A build that was over before, or had no such process, is begun anew.
    """
    while True:
        process = trials.begun(out, engine)
        wait_s, started = trials.moment(engine), time.monotonic()
        while process.poll() is None and time.monotonic() - started < wait_s:
            time.sleep(0.01)
        found = [process.pid] if name is None else children(process.pid, name)
        if process.poll() is None and found:
            break
        process.wait(PATIENCE_S)
        shutil.rmtree(out)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(trials.rng.choice(found)), signal.SIGKILL)
    if process.wait(PATIENCE_S):
        return 1 + trials.finished(out, engine)
    trials.check(out, engine)
    return 1


def worker(trials: Trials, out: Path) -> int:
    """Kills one of the processes that encode."""
    return kill_one_of(trials, out, "local", b"spawn_main")


def driver(trials: Trials, out: Path) -> int:
    """Kills the process that began them."""
    return kill_one_of(trials, out, "local", None)


def raylet(trials: Trials, out: Path) -> int:
    """Kills the raylet."""
    return kill_one_of(trials, out, "ray", b"/raylet/raylet")


def full_disk(trials: Trials, out: Path) -> int:
    """A disk with room for a part of it."""
    needs = sum(path.stat().st_size for path in (trials.folder / "local").rglob("*.*"))
    room = int(trials.rng.uniform(0.05, 0.95) * needs)
    with small_disk(out, room) as grow:
        process = trials.begun(out, "local", preexec_fn=None if grow else limited(room // PARTS))
        process.wait(PATIENCE_S)
        if process.returncode not in (0, 2):
            raise NotTheSameError(f"expected an error of a full disk, got {process.returncode}")
        if grow:
            grow()
        number = trials.finished(out, "local")
    return 1 + number


@contextlib.contextmanager
def small_disk(out: Path, room: int) -> Iterator[Callable[[], Any] | None]:
    """A file system in memory with so many bytes; yields what grows it, None if nobody may."""
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        grown = ["mount", "-o", "remount,size=1g", str(out)]
        yield lambda: subprocess.run(grown, check=True)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def limited(n_bytes: int) -> Callable[[], None]:
    """Lets no file of a process grow beyond so many bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


KINDS = {"worker": worker, "driver": driver, "raylet": raylet, "full disk": full_disk}


def main(out: Path, times: int = 10, n: int = 40_000, seed: int = 0) -> None:
    """Does harm to builds and writes what came of it.

    Args:
        out: JSON file.
        times: that each harm is done.
        n: vectors.
        seed: of the moments.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name), n, seed)
        with tqdm(total=times * len(KINDS), desc="harm", disable=not sys.stderr.isatty()) as bar:
            for kind, harm in KINDS.items():
                commands = []
                for number in range(times):
                    commands.append(
                        harm(trials, trials.folder / f"{kind}-{number}".replace(" ", "-"))
                    )
                    bar.update()
                rows.append({"harm": kind, "the same index": len(commands), "commands": commands})
                print(json.dumps(rows[-1]), flush=True)
    about = {"command": shlex.join(["python", *sys.argv]), "environment": environment()}
    setting = {"n": n, "d": D, "parts": PARTS, "workers": 2, "seed": seed}
    content = {**about, "setting": setting, "seconds": trials.took_s, "rows": rows}
    replace_bytes(out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
