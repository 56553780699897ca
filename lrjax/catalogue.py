"""The catalogue of the public values, each with the example in its docstring.

Pictures, tables, pages and benchmarks that show every value are generated from it, so a new value needs no entry in
any of them.
"""

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from lrjax.value import Value


def public_values(names: Mapping[str, Any]) -> dict[str, type[Value]]:
    """Returns the value classes among the public names (`vars(lrjax)`), without aliases, in the order of the source."""
    values = {
        name: cls
        for name, cls in names.items()
        if isinstance(cls, type) and issubclass(cls, Value) and cls.__name__ == name and "__wrapped__" in vars(cls)
    }
    position = lambda cls: (cls.__module__, vars(cls)["__wrapped__"].__code__.co_firstlineno)
    return dict(sorted(values.items(), key=lambda item: position(item[1])))


def example_call(cls: type[Value]) -> str:
    """Returns the source of the first call of `cls` in its docstring.

    Raises:
      ValueError: the docstring shows no call of `cls`.

    >>> import lrjax
    >>> example_call(lrjax.cosine_decay_schedule)
    'lrjax.cosine_decay_schedule(0.1, decay_steps=100)'
    """
    return example_source(cls)[1]


def example(cls: type[Value]) -> Value:
    """Returns the value that `example_call` makes.

    >>> import lrjax
    >>> example(lrjax.cosine_decay_schedule)
    cosine_decay_schedule(init_value=0.1, decay_steps=100, alpha=0.0, exponent=1.0)
    """
    lines_before, call = example_source(cls)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(lines_before, names)
    return eval(call, names)


def example_source(cls: type[Value]) -> tuple[str, str]:
    """Returns the example lines of the docstring before the first call of `cls`, and that call.

    Raises:
      ValueError: the docstring shows no call of `cls`.
    """
    import doctest  # here, as it takes long to import

    before = ""
    for line in doctest.DocTestParser().get_examples(inspect.getdoc(cls) or ""):
        for node in ast.walk(ast.parse(line.source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == cls.__name__:
                return before, ast.get_source_segment(line.source, node) or ""
        before += line.source
    raise ValueError(f"example: the docstring of {cls.__name__} must show a call of it, got none.")
