"""Parses schedules and optimizers from text without `eval`: only calls of lrjax's own are accepted."""

import ast
import difflib
import inspect
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from lrjax.schedules.base import Schedule
from lrjax.transforms.base import GradientTransformation
from lrjax.value import value_classes

_METHODS = ("clip", "delay", "repeat", "stretch", "warmup")
_OPERATORS = {ast.Mult: operator.mul, ast.Add: operator.add}
_MAX_NODES = 100  # calls and operators: a schedule of more would exceed the recursion limit when it is traced

_repr = reprlib.Repr()
_repr.maxstring = 60
_quoted = _repr.repr


def parse_schedule(text: str) -> Schedule:
    """Parses a schedule, written as in Python after `from lrjax import *`.

    Accepts names of schedules, numbers, strings, lists, tuples and dicts, `*` and `+`, and the methods of a schedule.

    Raises:
      ValueError: the text is anything else, or an argument is bad; the message names it.

    >>> from lrjax.parse import parse_schedule
    >>> parse_schedule("linear_schedule(1e-3, 0, 100).warmup(10)")
    warmup_schedule(schedule=linear_schedule(init_value=0.001, end_value=0, transition_steps=100, \
transition_begin=0), steps=10, init_value=0.0)
    """
    value = _parsed(text, "a schedule", _value)
    if not isinstance(value, Schedule):
        raise ValueError(f"not a schedule: {_quoted(text)}. Write a call such as 'cosine_decay_schedule(0.1, 1000)'.")
    return value


def parse_optimizer(text: str, learning_rate: float = 1e-3) -> GradientTransformation:
    """Parses an optimizer: its name, or a call of it, whose `learning_rate` may be left out.

    Accepts the optimizers that have a `learning_rate`, with the arguments that `parse_schedule` accepts.

    Raises:
      ValueError: the text is anything else, or an argument is bad; the message names it.

    >>> from lrjax.parse import parse_optimizer
    >>> parse_optimizer("sgd(momentum=0.9)")
    sgd(learning_rate=0.001, momentum=0.9, nesterov=False, accumulator_dtype=None)
    """
    return _parsed(text, "an optimizer", lambda node: _optimizer(node, learning_rate))


def _parsed(text: str, what: str, read: Callable[[ast.expr], Any]) -> Any:
    try:
        tree = ast.parse(text.strip(), mode="eval")
        nodes = sum(isinstance(node, (ast.Call, ast.BinOp)) for node in ast.walk(tree))
        if nodes > _MAX_NODES:
            raise ValueError(f"not {what}: made of {nodes} parts, more than {_MAX_NODES}.")
        return read(tree.body)
    except SyntaxError as error:
        raise ValueError(f"not {what}: {error.msg.split(';')[0]} in {_quoted(text)}.") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"not {what}: it is nested too deeply.") from None


def _optimizers() -> dict[str, Any]:
    return {
        name: cls
        for name, cls in value_classes.items()
        if cls.__module__.startswith("lrjax.optimizers.") and "learning_rate" in inspect.signature(cls).parameters
    }


def _optimizer(node: ast.expr, learning_rate: float) -> GradientTransformation:
    function, call = (node.func, node) if isinstance(node, ast.Call) else (node, None)
    if not isinstance(function, ast.Name):
        raise ValueError(f"not an optimizer: {_quoted(ast.unparse(node))}. Write one such as 'sgd(momentum=0.9)'.")
    cls = by_name(function.id, _optimizers(), "optimizer")
    positional, named = ([], {}) if call is None else _arguments(call)
    if not positional:
        named.setdefault("learning_rate", learning_rate)
    return _called(function.id, cls, positional, named)


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
        case ast.Call(func=function):
            name, callee = _callee(function)
            return _called(name, callee, *_arguments(node))
    raise _not_allowed(node)


def _arguments(call: ast.Call) -> tuple[list[Any], dict[str, Any]]:
    if not all(k.arg for k in call.keywords):  # **
        raise _not_allowed(call)
    return [_value(arg) for arg in call.args], {k.arg: _value(k.value) for k in call.keywords if k.arg}


def _called(name: str, callee: Any, positional: list[Any], named: dict[str, Any]) -> Any:
    try:
        inspect.signature(callee).bind(*positional, **named)
    except TypeError as error:
        raise ValueError(f"{name}: {error}.") from None
    return callee(*positional, **named)


def _not_allowed(node: ast.expr) -> ValueError:
    return ValueError(f"not allowed in such text: {_quoted(ast.unparse(node))}.")


def _combined(left: Any, op: Callable[[Any, Any], Any], right: Any) -> Any:
    schedules = [isinstance(x, Schedule) for x in (left, right)]
    if not any(schedules) or not all(isinstance(x, (Schedule, int, float)) for x in (left, right)):
        raise ValueError("`*` and `+` take a schedule and a number, or two schedules.")
    return op(left, right)


def _callee(node: ast.expr) -> tuple[str, Any]:
    if isinstance(node, ast.Name):
        return node.id, by_name(node.id, _schedules(), "schedule")
    if isinstance(node, ast.Attribute) and isinstance(schedule := _receiver(node.value), Schedule):
        if node.attr not in _METHODS:
            raise ValueError(f"no method {_quoted(node.attr)} is allowed; these are: {', '.join(_METHODS)}.")
        return node.attr, getattr(schedule, node.attr)
    raise _not_allowed(node)


def by_name(name: str, known: Mapping[str, Any], what: str) -> Any:
    """What is called so among the `known`.

    Raises:
      ValueError: nothing is; the message has the names that are close.
    """
    if name not in known:
        stems = {name.removesuffix("_schedule"): name for name in known}
        close = difflib.get_close_matches(name.removesuffix("_schedule"), stems, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(stems[stem] for stem in close)}?" if close else ""
        raise ValueError(f"no {what} is called {_quoted(name)}.{hint}")
    return known[name]


def _receiver(node: ast.expr) -> Any:
    """Parses the schedule that a method is called on: a call, a sum or a product."""
    return _value(node) if isinstance(node, (ast.Call, ast.BinOp)) else None
