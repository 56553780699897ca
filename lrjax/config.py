"""Values as plain dicts that survive JSON, and back."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lrjax.transforms.base import Named
from lrjax.value import Frozen, Value, config_name, hyperparameter_names, value_classes

_TYPE = "type"


def to_config(value: Value) -> dict[str, Any]:
    """The value as a plain dict that survives JSON: `{"type": name, argument: ...}`, values in values likewise.

    Raises:
      TypeError: an argument is a function, or a tree that isn't made of dicts and lists: JSON can't hold it.

    >>> import lrjax
    >>> lrjax.to_config(lrjax.step_decay(0.1, step_size=30, decay_rate=0.5))
    {'type': 'step_decay', 'init_value': 0.1, 'step_size': 30, 'decay_rate': 0.5}
    """
    if not isinstance(value, Value):
        raise TypeError(f"to_config: `value` must be an lrjax value, got {value!r}.")
    config: dict[str, Any] = {_TYPE: config_name(type(value))}
    for name in hyperparameter_names(value):
        config[name] = _plain(vars(value)[name], type(value).__name__, name)
    return config


def _plain(x: Any, owner: str, name: str) -> Any:
    if isinstance(x, Value):
        return to_config(x)
    if isinstance(x, Named):
        return [x.name, to_config(x.transform)]
    if isinstance(x, tuple):
        return [_plain(item, owner, name) for item in x]
    if isinstance(x, Frozen):
        return _plain_tree(x.tree, owner, name)
    if isinstance(x, (np.ndarray, jax.Array)) and not isinstance(x, jax.core.Tracer):
        return {_TYPE: "array", "dtype": x.dtype.name, "values": np.asarray(x).tolist()}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise TypeError(f"to_config: `{name}` of {owner} must be something that JSON can hold, got {x!r}.")


def _plain_tree(tree: Any, owner: str, name: str) -> Any:
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {key: _plain_tree(item, owner, name) for key, item in tree.items()}
    if type(tree) is list:
        return [_plain_tree(item, owner, name) for item in tree]
    if isinstance(tree, bool):
        return tree
    raise TypeError(f"to_config: `{name}` of {owner} must be made of dicts and lists, got {tree!r}.")


def from_config(config: Mapping[str, Any]) -> Any:
    """The value that `to_config` made the dict of.

    Raises:
      ValueError: the type is unknown, an argument is missing or unknown, or its value is bad; the message names it.

    >>> import lrjax
    >>> lrjax.from_config({"type": "step_decay", "init_value": 0.1, "step_size": 30, "decay_rate": 0.5})
    step_decay(init_value=0.1, step_size=30, decay_rate=0.5)
    """
    if not isinstance(config, Mapping) or _TYPE not in config:
        raise ValueError(f"from_config: `config` must be a dict with a {_TYPE!r}, got {config!r}.")
    name = config[_TYPE]
    cls = value_classes.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"from_config: {_TYPE!r} must be the name of an lrjax value, got {name!r}.")
    arguments = {key: _rebuilt(item) for key, item in config.items() if key != _TYPE}
    parameters = inspect.signature(cls).parameters
    wrong = [key for key in arguments if key not in parameters] if cls._variadic is None else []
    if wrong:
        raise ValueError(f"from_config: {name} takes {', '.join(parameters)}, got `{wrong[0]}`.")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"from_config: {error}") from None


def _rebuilt(x: Any) -> Any:
    if isinstance(x, Mapping) and x.get(_TYPE) == "array":
        return np.asarray(x["values"], x["dtype"])
    if isinstance(x, Mapping) and isinstance(x.get(_TYPE), str):
        return from_config(x)
    if isinstance(x, list):
        return [_rebuilt(item) for item in x]
    return x
