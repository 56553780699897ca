"""Signatures as they are written."""

import ast
import builtins
import inspect
import sys
import textwrap
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class WrittenSignature:
    """The signature of a class as its function was written, `b1: Decay = 0.9`, and not with all that `Decay` is. It is
    made when somebody asks for it: it reads the source."""

    def __init__(self, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], returns: str):
        self._function, self._parameters, self._returns = function, parameters, returns

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        written = _written_annotations(self._function)
        annotated = [p.replace(annotation=written.get(p.name, p.annotation)) for p in self._parameters]
        return inspect.Signature(annotated, return_annotation=_Written(self._returns))


class _Written(str):
    """An annotation in a signature, shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _written_annotations(function: Callable[..., Any]) -> dict[str, _Written]:
    """By parameter; empty where the source isn't known."""
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    is_function = isinstance(definition, ast.FunctionDef)
    given = [node for node in ast.walk(definition.args) if isinstance(node, ast.arg)] if is_function else []
    return {arg.arg: _Written(ast.unparse(arg.annotation)) for arg in given if arg.annotation is not None}


def evaluated(annotation: Any, function: Callable[..., Any], imported_for_types: Mapping[str, Any]) -> Any:
    """The annotation itself, where `from __future__ import annotations` made a string of it.

    Its names are looked up where the function was written: in its closure, in the functions around it that are still
    running, in its module; and, for names that were imported for the type checker alone, in the last argument.
    """
    if not isinstance(annotation, str):
        return annotation
    closure = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    module = getattr(function, "__globals__", {})
    scopes, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_globals is module:
            scopes.append(frame.f_locals)
        frame = frame.f_back
    names = ChainMap(dict(closure), *map(dict, scopes), module, vars(builtins), imported_for_types)
    try:
        return eval(annotation, {}, names)
    except NameError as error:
        raise TypeError(
            f"{function.__name__}: the annotation {annotation!r} must be of names that exist when the function is "
            f"decorated. {error}."
        ) from None
