"""What can be seen of the code behind a method, as a hash: other code, another hash.

Compiled code and not its text: the text on the disk may have changed since it was imported, and
what was typed into a notebook has none. Comments do not count; files that code reads, and other
packages, are not seen.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

_OURS = __name__.partition(".")[0]
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
_CACHED = type(functools.lru_cache(len))
_VALUES = (type(None), bool, int, float, complex, str, bytes, Path, np.generic, torch.dtype)


def code_hash(*things: Any) -> str:
    """A sha256, in hexadecimal digits, of functions, classes, objects and what they are made of.

    Of functions and classes it has module, name, compiled code, defaults, closures, base classes
    and the globals that they use; of objects their attributes, of arrays and networks the values.
    Followed is what is in the package (or for ours the module) of the first thing, and what is
    not installed, such as a script and the files beside it; all else is a name.
    """
    return _Seen(_module_of(_root(things[0])) if things else "").digest(things)


class _Seen:
    """A walk over things, each of them once.

    Args:
        home: name of the module in which it begins.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.numbers: dict[int, int] = {}
        self.kept: list[Any] = []  # or another thing could get the same id
        self.found = hashlib.sha256()

    def digest(self, things: tuple[Any, ...]) -> str:
        """The hash of all of them, in their order."""
        self._take(things)
        return self.found.hexdigest()

    def _note(self, *words: object) -> None:
        self.found.update(repr(words).encode())

    def _take(self, thing: Any) -> None:
        """Adds a thing, or the number of one that was added before."""
        if isinstance(thing, _VALUES):
            self._note(type(thing).__name__, str(thing))
            return
        if id(thing) in self.numbers:
            self._note("again", self.numbers[id(thing)])
            return
        self.numbers[id(thing)] = len(self.numbers)
        self.kept.append(thing)
        for part in self._parts(thing):
            self._take(part)

    def _parts(self, thing: Any) -> Iterator[Any]:
        """What a thing is made of, after a note of what it is."""
        self._note(_name(thing))
        if isinstance(thing, list | tuple):
            yield from thing
        elif isinstance(thing, set | frozenset):
            yield from sorted(thing, key=repr)
        elif isinstance(thing, dict | types.MappingProxyType):
            yield from (part for pair in thing.items() for part in pair)
        elif isinstance(thing, np.ndarray | torch.Tensor):
            yield from _of_array(thing)
        elif isinstance(thing, functools.partial):
            yield from (thing.func, thing.args, thing.keywords)
        elif isinstance(thing, types.MethodType):
            yield from (thing.__func__, thing.__self__)
        elif isinstance(thing, types.CodeType):
            yield from (thing.co_code, thing.co_names, thing.co_consts)
        elif isinstance(thing, types.FunctionType):
            yield from self._of_function(thing) if self._follows(thing) else ()
        elif isinstance(thing, type):
            yield from self._of_class(thing) if self._follows(thing) else ()
        elif isinstance(thing, torch.nn.Module):
            yield from ([type(part) for part in thing.modules()], dict(thing.state_dict()))
        elif isinstance(thing, property):
            yield from (thing.fget, thing.fset)
        elif isinstance(thing, functools.cached_property):
            yield thing.func
        elif isinstance(thing, staticmethod | classmethod | _CACHED):
            yield thing.__wrapped__
        elif self._follows(type(thing)) and not is_ours(_module_of(type(thing))):
            yield from (type(thing), getattr(thing, "__dict__", {}))
            slots = copyreg._slotnames(type(thing))  # type: ignore[attr-defined]
            yield [getattr(thing, name, None) for name in slots]

    def _of_function(self, function: types.FunctionType) -> Iterator[Any]:
        yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
        yield [_content(cell) for cell in function.__closure__ or ()]
        names = dict.fromkeys(_names_in(function.__code__))
        for name in names:
            used = function.__globals__.get(name)
            if isinstance(used, types.ModuleType) and self._follows(used):
                yield from (getattr(used, part) for part in names if hasattr(used, part))
            elif used is not None and not isinstance(used, types.ModuleType):
                yield from (name, used)

    def _of_class(self, kind: type) -> Iterator[Any]:
        yield kind.__bases__
        for name, part in vars(kind).items():
            if not name.startswith("__") or callable(part):  # the others are told by the rest
                yield from (name, part)

    def _follows(self, thing: Any) -> bool:
        """Whether a module, a class or a function is looked into."""
        module = _module_of(thing)
        if module == "builtins":  # a function there was made by `exec` or `eval`
            return isinstance(thing, types.FunctionType)
        if is_ours(module):
            return module == self.home or (is_ours(self.home) and isinstance(thing, type))
        same = module.partition(".")[0] == self.home.partition(".")[0]
        return same or not is_installed(module)


def _root(thing: Any) -> Any:
    """The function or class that a thing begins with."""
    while isinstance(thing, functools.partial | types.MethodType):
        thing = thing.func if isinstance(thing, functools.partial) else thing.__func__
    return thing if isinstance(thing, type | types.FunctionType) else type(thing)


def _module_of(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    return str(getattr(thing, "__module__", None) or "builtins")


def is_ours(module: str) -> bool:
    """Whether a module is of this package."""
    return module.partition(".")[0] == _OURS


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module is the language's or of an installed package."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None:  # built in, unless it is what was typed
        return module != "__main__"
    file = Path(path).resolve()
    return file.is_relative_to(_LIBRARY) or not _INSTALLED.isdisjoint(file.parts)


def _name(thing: Any) -> str:
    """A thing by module and name, an object by its class."""
    is_named = isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType)
    named = thing if is_named else type(thing)
    return f"{_module_of(named)}.{named.__qualname__}"


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The names that compiled code uses, that of functions inside of it included."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names_in(part)


def _of_array(array: Any) -> Iterator[str]:
    values = array.detach().cpu() if isinstance(array, torch.Tensor) else array
    if isinstance(values, torch.Tensor) and values.dtype == torch.bfloat16:
        values = values.float()  # numpy has no such numbers
    values = np.ascontiguousarray(values)
    content = repr(values.tolist()) if values.dtype.hasobject else values.tobytes()
    yield from (str(array.dtype), str(array.shape))
    yield hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _content(cell: Any) -> Any:
    """What a closure holds; nothing where it is not there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
