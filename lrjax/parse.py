"""Schedules from text, safely: the text is a call of public schedules, and nothing else is ever run."""

import ast
import difflib
import inspect
import operator
import reprlib
from collections.abc import Callable
from typing import Any

from lrjax.schedules.base import Schedule
from lrjax.value import value_classes

_METHODS = ("clip", "delay", "repeat", "stretch", "warmup")
_OPERATORS = {ast.Mult: operator.mul, ast.Add: operator.add}
_MOST_PARTS = 100  # calls and operators: more would nest deeper than Python's stack lets a schedule be compiled

_repr = reprlib.Repr()
_repr.maxstring = 60
_quoted = _repr.repr


def parse_schedule(text: str) -> Schedule:
    """The schedule that `text` describes, as it would be written in Python after `from lrjax import *`.

    Takes the names of schedules, numbers, strings, lists, tuples and dicts, `*` and `+`, and the methods of a schedule.

    Raises:
      ValueError: the text is anything else, or an argument is bad; the message names it.

    >>> from lrjax.parse import parse_schedule
    >>> parse_schedule("linear_schedule(1e-3, 0, 100).warmup(10)")
    warmup_schedule(schedule=linear_schedule(init_value=0.001, end_value=0, transition_steps=100, \
transition_begin=0), steps=10, init_value=0.0)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        parts = sum(isinstance(node, (ast.Call, ast.BinOp)) for node in ast.walk(tree))
        if parts > _MOST_PARTS:
            raise ValueError(f"not a schedule: made of {parts} parts, more than {_MOST_PARTS}.")
        value = _value(tree.body)
    except SyntaxError as error:
        raise ValueError(f"not a schedule: {error.msg.split(';')[0]} in {_quoted(text)}.") from None
    except (RecursionError, MemoryError):
        raise ValueError("not a schedule: it is nested too deeply.") from None
    if not isinstance(value, Schedule):
        raise ValueError(f"not a schedule: {_quoted(text)}. Write a call such as 'cosine_decay_schedule(0.1, 1000)'.")
    return value


def _schedules() -> dict[str, Any]:
    return {
        name: cls
        for name, cls in value_classes.items()
        if issubclass(cls, Schedule) and cls.__module__.startswith("lrjax.") and name != "from_callable"
    }


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as constant):
            return constant
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {_value(k): _value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _combined(_value(left), _OPERATORS[type(op)], _value(right))
        case ast.Call(func=function, args=args, keywords=keywords) if all(k.arg for k in keywords):
            name, callee = _callee(function)
            positional = [_value(arg) for arg in args]
            named = {k.arg: _value(k.value) for k in keywords if k.arg}
            try:
                inspect.signature(callee).bind(*positional, **named)
            except TypeError as error:
                raise ValueError(f"{name}: {error}.") from None
            return callee(*positional, **named)
    raise _not_allowed(node)


def _not_allowed(node: ast.expr) -> ValueError:
    return ValueError(f"not allowed in a schedule: {_quoted(ast.unparse(node))}.")


def _combined(left: Any, op: Callable[[Any, Any], Any], right: Any) -> Any:
    schedules = [isinstance(x, Schedule) for x in (left, right)]
    if not any(schedules) or not all(isinstance(x, (Schedule, int, float)) for x in (left, right)):
        raise ValueError("`*` and `+` take a schedule and a number, or two schedules.")
    return op(left, right)


def _callee(node: ast.expr) -> tuple[str, Any]:
    if isinstance(node, ast.Name):
        known = _schedules()
        if node.id not in known:
            stems = {name.removesuffix("_schedule"): name for name in known}
            close = difflib.get_close_matches(node.id.removesuffix("_schedule"), stems, n=3, cutoff=0.5)
            hint = f" Did you mean {', '.join(stems[stem] for stem in close)}?" if close else ""
            raise ValueError(f"no schedule is called {_quoted(node.id)}.{hint}")
        return node.id, known[node.id]
    if isinstance(node, ast.Attribute) and isinstance(schedule := _receiver(node.value), Schedule):
        if node.attr not in _METHODS:
            raise ValueError(f"no method {_quoted(node.attr)} is allowed; these are: {', '.join(_METHODS)}.")
        return node.attr, getattr(schedule, node.attr)
    raise _not_allowed(node)


def _receiver(node: ast.expr) -> Any:
    """What a method is called on: only calls and sums of schedules can make one."""
    return _value(node) if isinstance(node, (ast.Call, ast.BinOp)) else None
