"""Schedules from text, safely: the text is a call of public schedules, and nothing else is ever run."""

import ast
import difflib
import operator
from typing import Any

from lrjax.schedules.base import Schedule
from lrjax.value import value_classes

_METHODS = ("clip", "delay", "stretch", "repeat", "warmup")
_OPERATORS = {ast.Mult: operator.mul, ast.Add: operator.add}


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
        value = _value(tree.body)
    except SyntaxError as error:
        raise ValueError(f"not a schedule: {error.msg} in {text!r}.") from None
    except (RecursionError, MemoryError):
        raise ValueError("not a schedule: it is nested too deeply.") from None
    if not isinstance(value, Schedule):
        raise ValueError(f"not a schedule: {text!r}. Write a call such as 'cosine_decay_schedule(0.1, 1000)'.")
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
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(k): _value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _combined(_value(left), _OPERATORS[type(op)], _value(right))
        case ast.Call(func=function, args=args, keywords=keywords) if all(k.arg for k in keywords):
            callee = _callee(function)
            arguments = [_value(arg) for arg in args]
            try:
                return callee(*arguments, **{k.arg: _value(k.value) for k in keywords if k.arg})
            except TypeError as error:
                raise ValueError(str(error).replace(".__init__()", "")) from None
    raise ValueError(f"not allowed in a schedule: {ast.unparse(node)!r}.")


def _combined(left: Any, op: Any, right: Any) -> Any:
    if not any(isinstance(x, Schedule) for x in (left, right)):
        raise ValueError("`*` and `+` take a schedule and a number, or two schedules.")
    return op(left, right)


def _callee(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        known = _schedules()
        if node.id not in known:
            close = difflib.get_close_matches(node.id, known, n=3, cutoff=0.5)
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            raise ValueError(f"no schedule is called {node.id!r}.{hint}")
        return known[node.id]
    if isinstance(node, ast.Attribute) and node.attr in _METHODS:
        schedule = _value(node.value)
        if isinstance(schedule, Schedule):
            return getattr(schedule, node.attr)
    raise ValueError(f"not allowed in a schedule: {ast.unparse(node)!r}.")
