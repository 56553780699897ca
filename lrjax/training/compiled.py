"""Caches compiled functions by program, for as long as the user's functions are alive."""

import dataclasses
import weakref
from types import MethodType
from typing import Any

import jax

from lrjax.training.program import Program, advance, start
from lrjax.value import Value


class Compiled:
    """`start` and `advance` of a program, jitted. Equal programs share one. It keeps no program alive, and is freed
    with the user's functions in them: `jax.jit` with the program as a static argument would keep both for ever."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that compiling took, the first time
        self._users: list[weakref.ref[Program]] = []
        # closures over the list, not over self: without a reference cycle the executables are freed at once
        users = self._users
        self.start = jax.jit(_named("start", lambda *args: start(_alive(users), *args)))
        self.advance = jax.jit(_named("advance", lambda *args: advance(_alive(users), *args)), donate_argnums=0)

    def add_user(self, program: Program) -> None:
        self._users[:] = [ref for ref in self._users if ref() is not None] + [weakref.ref(program)]


class _Key:
    """The key of a program in the cache, hashed once, since at interpreter exit nothing can be hashed."""

    def __init__(self, program: Program):
        self.items = _weak_key(program, lambda ref, pop=_compiled.pop: pop(self, None))
        self._hash = hash(self.items)

    def __eq__(self, other: object) -> bool:
        # no global name, since at interpreter exit there are none
        return self is other or (type(other) is type(self) and self.items == other.items)

    def __hash__(self) -> int:
        return self._hash


_compiled: dict[_Key, Compiled] = {}


def compiled(program: Program) -> Compiled:
    """Returns the compiled functions of a program, which the caller must keep alive while it uses them."""
    entry = _compiled.setdefault(_Key(program), Compiled())
    entry.add_user(program)
    return entry


def _weak_key(x: Any, callback: Any) -> Any:
    """Returns a key that compares as `x`, with weak references to the functions in it, which get the `callback`."""
    if isinstance(x, tuple):
        return (type(x), *(_weak_key(item, callback) for item in x))
    if isinstance(x, Value):
        return x
    if dataclasses.is_dataclass(x) and type(x).__module__.startswith("lrjax."):
        return (type(x), *(_weak_key(item, callback) for item in vars(x).values()))
    if not callable(x):
        return x
    try:
        return weakref.WeakMethod(x, callback) if isinstance(x, MethodType) else weakref.ref(x, callback)
    except TypeError:  # a class without weak references
        return x


def _alive(users: list[weakref.ref[Program]]) -> Program:
    return next(program for ref in users if (program := ref()) is not None)


def _named(name: str, function: Any) -> Any:
    """Names a function, for the logs of JAX."""
    function.__name__ = name
    return function
