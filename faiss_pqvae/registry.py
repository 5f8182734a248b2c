"""Names for things: networks, objectives, methods and data sets, ours and other people's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from faiss_pqvae.messages import suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name.

    A thing is found by the name that it was registered under, by the name of an installed package's
    entry point, or as "package.module:attribute"; or it is handed in itself.

    Args:
        kind: what such a thing is called in messages.
        group: entry points of other packages are looked for under this name.
        home: the module that registers our own, imported when the first name is looked up.
    """

    def __init__(self, kind: str, group: str, home: str) -> None:
        self.kind, self.group, self.home = kind, group, home
        self._one = f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that gives a function or a class a name.

        Raises:
            ValueError: no name that can be looked up, or one that something else has.
        """
        if not name or ":" in name:
            raise ValueError(f"expected the name of a {self.kind} without ':', got {name!r}")

        def keep(thing: T) -> T:
            taken = self._things.get(name)
            if taken is not None and _origin(taken) != _origin(thing):
                raise ValueError(f"the name {name!r} is taken by another {self.kind}: {taken!r}")
            self._things[name] = thing
            return thing

        return keep

    def unregister(self, name: str) -> None:
        """Takes a name back.

        Raises:
            ValueError: a name that nothing was registered under.
        """
        if name not in self._things:
            raise ValueError(f"expected a registered {self.kind} to take back, got {name!r}")
        del self._things[name]

    def names(self) -> list[str]:
        """All names, ours first; what other packages offer is not imported for it."""
        importlib.import_module(self.home)
        return [*dict.fromkeys((*self._things, *sorted(self._offered())))]

    def get(self, key: str | T) -> T:
        """The thing that a name, a reference or the thing itself stands for.

        Args:
            key: a name, "package.module:attribute" (which is imported), or anything that is no
                string, which is returned.

        Raises:
            ValueError: a name that nothing has; a module or an attribute that is not there.
        """
        if not isinstance(key, str):
            return key
        if ":" in key:
            return self._imported(key)
        registered = self.registered(key)
        if registered is not None:
            return registered
        offered = self._offered()
        if key in offered:
            return self._loaded(offered[key])
        known = ", ".join(map(repr, self.names()))
        raise ValueError(
            f"expected {self._one} of {known}, or 'package.module:attribute', got {key!r}"
            f"{suggestion(key, self.names())}"
        )

    def name_of(self, thing: T) -> str:
        """The name of something, or "package.module:attribute" where it has none."""
        importlib.import_module(self.home)
        for name, known in self._things.items():
            if known is thing:
                return name
        return ":".join(map(str, _origin(thing)))

    def registered(self, name: str) -> T | None:
        """The thing registered under a name; nothing but our own modules is imported for it."""
        if name not in self._things:
            importlib.import_module(self.home)
        return self._things.get(name)

    def _offered(self) -> dict[str, EntryPoint]:
        """Entry points by name."""
        return {point.name: point for point in entry_points(group=self.group)}

    def _loaded(self, point: EntryPoint) -> T:
        try:
            thing: T = point.load()
        except Exception as error:  # whatever somebody's package raises
            raise ValueError(
                f"the {self.kind} {point.name!r} that an installed package offers as "
                f"{point.value!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        return thing

    def _imported(self, reference: str) -> T:
        module, _, attribute = reference.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ValueError(
                f"expected {self._one} as 'package.module:attribute', got {reference!r}: {error}"
            ) from error
        thing: T = found
        return thing


def _origin(thing: Any) -> tuple[Any, ...]:
    """What stays the same when a module is imported again."""
    named = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return named if all(named) else (id(thing),)


def is_ours(thing: Any) -> bool:
    """Whether a function or a class is of this package."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


encoders: Registry[Callable[..., Any]] = Registry(
    "encoder", "faiss_pqvae.encoders", "faiss_pqvae.model.networks"
)
decoders: Registry[Callable[..., Any]] = Registry(
    "decoder", "faiss_pqvae.decoders", "faiss_pqvae.model.networks"
)
objectives: Registry[Any] = Registry(
    "objective", "faiss_pqvae.objectives", "faiss_pqvae.training.objectives"
)
methods: Registry[Callable[..., Any]] = Registry(
    "method", "faiss_pqvae.methods", "faiss_pqvae.eval.methods"
)
datasets: Registry[Callable[..., Any]] = Registry(
    "data set", "faiss_pqvae.datasets", "faiss_pqvae.eval.data.sets"
)
