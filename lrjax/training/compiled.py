"""What is compiled for programs, for as long as the functions that the user gave are alive."""

import dataclasses
import weakref
from types import MethodType
from typing import Any

import jax

from lrjax.training.program import Program, advance, start
from lrjax.value import Value


class Compiled:
    """`start` and `advance` of a program, jitted. Equal programs share one; it keeps none of them alive, and goes when
    one of the user's functions in them does: `jax.jit` with the program as a static argument would keep both for
    ever."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that compiling took, the first time
        self._users: list[weakref.ref[Program]] = []
        # closures over the list: without a cycle, what is compiled is freed at once
        users = self._users
        self.start = jax.jit(_named("start", lambda *args: start(_alive(users), *args)))
        self.advance = jax.jit(_named("advance", lambda *args: advance(_alive(users), *args)), donate_argnums=0)

    def add_user(self, program: Program) -> None:
        self._users[:] = [ref for ref in self._users if ref() is not None] + [weakref.ref(program)]


class _Key:
    """What a program compares by, hashed once: at the end of the process nothing can be hashed any more."""

    def __init__(self, program: Program):
        self.items = _weak(program, lambda ref, pop=_compiled.pop: pop(self, None))
        self._hash = hash(self.items)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Key) and self.items == other.items)

    def __hash__(self) -> int:
        return self._hash


_compiled: dict[_Key, Compiled] = {}


def compiled(program: Program) -> Compiled:
    """That of this program; the caller keeps the program alive while it is used."""
    found = _compiled.setdefault(_Key(program), Compiled())
    found.add_user(program)
    return found


def _weak(x: Any, forget: Any) -> Any:
    """What compares as `x` but doesn't keep the functions in it alive; `forget` is called when one is gone."""
    if isinstance(x, tuple):
        return (type(x), *(_weak(item, forget) for item in x))
    if isinstance(x, Value):
        return x
    if dataclasses.is_dataclass(x) and type(x).__module__.startswith("lrjax."):
        return (type(x), *(_weak(item, forget) for item in vars(x).values()))
    if not callable(x):
        return x
    try:
        return weakref.WeakMethod(x, forget) if isinstance(x, MethodType) else weakref.ref(x, forget)
    except TypeError:  # a class without weak references
        return x


def _alive(users: list[weakref.ref[Program]]) -> Program:
    return next(program for ref in users if (program := ref()) is not None)


def _named(name: str, function: Any) -> Any:
    """By this name in what JAX logs."""
    function.__name__ = name
    return function
