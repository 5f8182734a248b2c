"""What `build` does in parts: one of them, all by several processes, or one index of all."""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.messages import counted

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex


@dataclass(frozen=True)
class Sharding:
    """How an index is built in parts.

    Attributes:
        part: make one part alone, such as 17/400: from 1/400 to 400/400, each on any machine that
            has the folder and DATA, a path then, as in an array of jobs. What is there and whole is
            not made again.
        workers: make all parts by so many processes beside each other.
        engine: of the workers. local: processes on this machine. ray: tasks of Ray Core, in the
            cluster that RAY_ADDRESS names, or else on this machine (pip install
            "faiss-pqvae[scale]"). torchrun: this command is given many times, by torchrun or by
            Slurm (srun), and each makes its share of the parts; --merge afterwards.
        parts: in how many, with --workers; by default some for each worker, of a million items at
            most.
        merge: make one index of all parts in the folder, in the end.
    """

    part: str | None = None
    workers: int | None = None
    engine: Literal["local", "ray", "torchrun"] = "local"
    parts: int | None = None
    merge: bool = False


def build_parts(
    bundle: Path,
    data: str,
    out: Path | None,
    images: ImageOptions,
    effort: int | None,
    how: Sharding,
) -> None:
    """Makes shards of an index, or one index of them.

    Raises:
        ValueError: options that do not go together; parts that failed, the others being done.
    """
    from faiss_pqvae import read_index, write_index
    from faiss_pqvae.scale.engines import make_shards, own_place
    from faiss_pqvae.scale.job import begin
    from faiss_pqvae.scale.joined import JOINED, merged, missing_parts
    from faiss_pqvae.scale.shard import remove_leftovers, shard_path

    if out is None or out.resolve() == bundle.resolve():
        raise ValueError(f"expected --out with another folder than {bundle} for its parts")
    if how.part is not None and how != Sharding(part=how.part):
        raise ValueError("expected --part alone, or --workers, --parts and --merge without it")
    if how.workers is None and how.engine == "ray":
        raise ValueError("expected --workers with --engine ray")
    if how.engine == "torchrun" and how.merge:
        raise ValueError("expected --merge by one process, when all parts are there")
    index = read_index(bundle)
    if effort is not None:
        set_effort(index, effort)
    number, n_parts = (None, how.parts) if how.part is None else _numbers(how.part)
    rank, size = own_place() if how.engine == "torchrun" else (0, 1)
    job = begin(index, data, out, n_parts, images, workers=(how.workers or 1) * size)
    n_parts = job.n_parts
    if how.merge:
        index.check_compatible_for_merge(copy.deepcopy(index))
    if number is not None:
        make_shards(job, [number - 1])
        print(f"part {number} of {n_parts}: {shard_path(job, number - 1)}")
        return
    if how.engine == "torchrun":  # each looks at its own parts alone
        make_shards(job, range(n_parts), workers=how.workers or 1, engine=how.engine)
        own = len(range(rank, n_parts, size))
        print(f"{counted(own, 'part')} of process {rank} of {size} in {out}")
        return
    wanted = missing_parts(job)
    if how.workers is not None:
        make_shards(job, wanted, workers=how.workers, engine=how.engine)
    elif wanted:
        first = shlex.join(["faiss-pqvae", "build", str(bundle), data, "--out", str(out)])
        raise ValueError(
            f"{counted(len(wanted), 'part')} of {n_parts} missing, such as {wanted[0] + 1}: "
            f"{first} --part {wanted[0] + 1}/{n_parts}, or --workers N for all of them"
        )
    remove_leftovers(job)
    print(f"{counted(job.n, 'item')} of {job.where} in {counted(n_parts, 'part')} in {out}")
    if not how.merge:
        print(f"next: fpq.open_shards({str(out)!r}) searches them; --merge makes one index of them")
        return
    whole = merged(job)
    write_index(whole, out)
    (out / JOINED).unlink(missing_ok=True)
    print(f"{counted(whole.ntotal, 'item')} of {whole.sa_code_size()} bytes in {out}")
    print_next(whole, f"search {shlex.quote(str(out))} QUERIES")


def set_effort(index: LatentIndex, effort: int) -> None:
    """Says how codes are chosen.

    Raises:
        ValueError: a code that knows no choice.
    """
    if not index.model.spec.is_additive:
        raise ValueError(
            f"expected no --effort for {index.description}, whose codes are the nearest codewords"
        )
    index.effort = effort


def _numbers(part: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"expected --part as in 17/400, from 1/400 to 400/400, got {part!r}")
    return int(match[1]), int(match[2])
