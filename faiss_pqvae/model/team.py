"""Several processes that train one model: who they are, and what they tell each other.

All draw the same random numbers and take every step together. Of a batch each reads and encodes its
share; what is learned of the batch as a whole (codewords, contrasts, what is dead) all learn of the
latents of all. What a step minimises is the mean of what the processes minimise, so that it is what
one process would minimise alone. Only the first one writes files.

A process that nobody made one of several is all of the team, and nothing here does anything.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

_TO_MEET = timedelta(minutes=10)
_PATIENCE = timedelta(days=2)  # for what one process does alone; who dies is noticed by torchrun


def is_asked_for() -> bool:
    """Whether torchrun, or what has its environment variables, began this process as one of many.

    Raises:
        ValueError: a WORLD_SIZE that is no number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise ValueError(f"expected a number of processes in WORLD_SIZE, got {text!r}")
    return int(text) > 1


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Makes this process one of those that torchrun began, for as long as the block takes.

    Args:
        device: that they train on, see `TrainingConfig.device`.

    Raises:
        ValueError: environment variables that name no team; more processes than cards.
        OSError: the others are not found within ten minutes.
    """
    if not is_asked_for() or distributed.is_initialized():
        yield
        return
    # Neither is in every build. The functions of `nn` take the group of their import as a default:
    # imported later (by any optimizer) they would keep it, and its threads, beyond its end, where
    # these may meet an interpreter that is gone, and abort the process.
    import torch.distributed.nn
    from torch.distributed.rendezvous import rendezvous

    backend = "nccl" if torch.cuda.is_available() and device != "cpu" else "gloo"
    if backend == "nccl":
        n, cards = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if n > cards:
            raise ValueError(f"expected at most {cards} processes, one for each card, got {n}")
        torch.cuda.set_device(local_device())
    try:
        store, rank, n = next(rendezvous("env://", timeout=_TO_MEET))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(n)], _TO_MEET)
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=n, timeout=_PATIENCE
        )
    except (distributed.DistError, RuntimeError) as error:
        raise ConnectionError(f"the processes do not find each other: {error}") from error
    try:
        yield
    finally:
        distributed.destroy_process_group()


_is_alone = False  # while the others wait, or do the same by themselves


@contextmanager
def _alone() -> Iterator[None]:
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def size() -> int:
    """How many processes train together."""
    if _is_alone or not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def is_first() -> bool:
    """Whether this is the one that writes files and says how far it is."""
    return size() == 1 or distributed.get_rank() == 0


def local_device() -> torch.device:
    """The card of a process among those of its machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def share(n: int) -> slice:
    """Which of n rows are this process's own."""
    return _shares(n)[distributed.get_rank()] if size() > 1 else slice(0, n)


def _shares(n: int) -> list[slice]:
    return [slice(n * i // size(), n * (i + 1) // size()) for i in range(size())]


def count(n_own: int) -> int:
    """How many rows all processes have together."""
    return n_own if size() == 1 else int(total(torch.tensor(n_own, device=_device())))


def _device() -> torch.device:
    """Where the processes tell each other tensors."""
    return local_device() if distributed.get_backend() == "nccl" else torch.device("cpu")


def mean_of_own(values: Tensor, n: int) -> Tensor:
    """What this process has of a mean over n rows, so that the mean over all processes is that.

    Args:
        values: (n_own, ...) float, of the own share; perhaps of no row.
        n: rows of all.
    """
    if size() == 1:
        return values.mean()
    return values.sum() * (size() / (n * math.prod(values.shape[1:])))


def gathered(x: Tensor, n: int, *, groups: int = 1) -> Tensor:
    """The rows of all processes, in their order; gradients go back to whoever a row is of.

    Args:
        x: (groups * n_own, ...): of every group the own share of its n rows.
        n: rows of a group.
        groups: such as the views of every item, one view of all items after another.

    Returns:
        (groups * n, ...).
    """
    if size() == 1:
        return x
    own = share(n)
    parts = x.reshape(groups, own.stop - own.start, *x.shape[1:])
    found: Tensor = _Gathered.apply(parts, n)  # type: ignore[no-untyped-call]
    return found.flatten(0, 1)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n: int) -> Tensor:
        ctx.n = n
        shares = _shares(n)
        most = max(own.stop - own.start for own in shares)
        padded = x.new_zeros(len(x), most, *x.shape[2:])
        padded[:, : x.shape[1]] = x
        found = [torch.empty_like(padded) for _ in shares]
        # As bytes: not every backend knows every type.
        distributed.all_gather([part.view(torch.uint8) for part in found], padded.view(torch.uint8))
        return torch.cat(
            [part[:, : own.stop - own.start] for part, own in zip(found, shares, strict=True)], 1
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[:, share(ctx.n)], None


def summed(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients are what the losses of all want of it."""
    found: Tensor = _Summed.apply(x)  # type: ignore[no-untyped-call]
    return found


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradients."""
    if size() == 1:
        return x
    x = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradients."""
    return x if size() == 1 else total(x) / size()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Makes every gradient the mean of those of all processes."""
    if size() == 1:
        return
    found = [p.grad for p in parameters if p.grad is not None]
    if not found:
        return
    flat = torch.cat([gradient.flatten() for gradient in found])
    distributed.all_reduce(flat)
    flat /= size()
    sizes = [gradient.numel() for gradient in found]
    for gradient, part in zip(found, torch.split(flat, sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed(value: T) -> T:
    """The first process's value: plain, or of tensors, which the others get in main memory."""
    if size() == 1:
        return value
    held: list[Any] = [None]
    if is_first():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        held = [buffer.getvalue()]
    distributed.broadcast_object_list(held, 0)
    if is_first():
        return value
    found: T = torch.load(io.BytesIO(held[0]), map_location="cpu", weights_only=False)
    return found


def by_first(make: Callable[[], T]) -> T:
    """What the first process makes while the others wait.

    Raises:
        ValueError: it could not, in every process; the first raises what it met itself.
    """
    if size() == 1:
        return make()
    found: tuple[Any, str | None] = (None, None)
    try:
        if is_first():
            with _alone():
                found = make(), None
    except BaseException as error:
        agreed((None, f"{type(error).__name__}: {error}"))
        raise
    value, failed = agreed(found)
    if failed is not None:
        raise ValueError(f"the first process failed: {failed}")
    made: T = value
    return made


@contextmanager
def first_before_others() -> Iterator[None]:
    """Lets the first process do what leaves files, and the others then find them."""
    if size() == 1:
        yield
        return
    if not is_first():
        by_first(lambda: None)
        with _alone():
            yield
        return
    failed: str | None = None
    try:
        with _alone():
            yield
    except BaseException as error:
        failed = f"{type(error).__name__}: {error}"
        raise
    finally:
        agreed((None, failed))


def check_agreement(what: str, value: Any, some: Tensor | None = None) -> None:
    """Refuses processes that were given different things.

    Args:
        what: they are, in words.
        value: what has to be equal.
        some: numbers that have to be equal but for rounding.

    Raises:
        ValueError: in every one of them.
    """
    if size() == 1:
        return
    numbers = torch.zeros(0) if some is None else some.detach().cpu().double()
    found: list[Any] = [None] * size()
    distributed.all_gather_object(found, (value, tuple(numbers.shape), numbers))
    first, shape, near = found[0]
    for other, other_shape, others in found:
        if (other, other_shape) != (first, shape) or not torch.allclose(others, near, rtol=1e-3):
            raise ValueError(
                f"expected the same {what} in all {size()} processes, got different ones"
            )
