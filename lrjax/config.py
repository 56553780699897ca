"""Converts values to plain dicts for JSON, and back."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import numpy as np

from lrjax.static import HashableTree, StaticArguments
from lrjax.transforms.chain import Named
from lrjax.transforms.orthogonal import MuonDimensionNumbers
from lrjax.value import Value, config_name, hyperparameter_names, value_classes

_TYPE = "type"


def to_config(value: Value) -> dict[str, Any]:
    """Converts a value to a plain dict for JSON, `{"type": name, argument: ...}`, and the values inside it likewise.

    Raises:
      TypeError: an argument can't be stored in JSON: a function, or a tree not made of dicts, lists and tuples.

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
    plain = lambda item: _plain(item, owner, name)
    if isinstance(x, Value):
        return to_config(x)
    if isinstance(x, Named):
        return [plain(x.name), to_config(x.transform)]
    if isinstance(x, MuonDimensionNumbers):
        return {_TYPE: "MuonDimensionNumbers", **{field: plain(item) for field, item in x._asdict().items()}}
    if isinstance(x, HashableTree):
        return _plain_tree(x.tree, plain)
    if isinstance(x, Mapping) and not isinstance(x, StaticArguments):
        return _plain_tree(x, plain)
    if type(x) is tuple or isinstance(x, list):
        return [plain(item) for item in x]
    if isinstance(x, (np.ndarray, jax.Array)) and not isinstance(x, jax.core.Tracer):
        return {_TYPE: "array", "dtype": x.dtype.name, "values": np.asarray(x).tolist()}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise TypeError(f"to_config: `{name}` of {owner} must be something that JSON can hold, got {x!r}.")


def _plain_tree(tree: Any, plain: Callable[[Any], Any]) -> Any:
    """Converts a tree of dicts, lists and tuples; adds the type of what JSON has not, such as tuples."""
    if type(tree) is tuple:
        return {_TYPE: "tuple", "items": [_plain_tree(item, plain) for item in tree]}
    if type(tree) is list:
        return [_plain_tree(item, plain) for item in tree]
    if not isinstance(tree, Mapping):
        return plain(tree)
    if all(isinstance(key, str) for key in tree) and _TYPE not in tree:
        return {key: _plain_tree(item, plain) for key, item in tree.items()}
    return {_TYPE: "dict", "items": [[plain(key), _plain_tree(item, plain)] for key, item in tree.items()]}


def from_config(config: Mapping[str, Any]) -> Any:
    """Converts a dict of `to_config` back to the value.

    Raises:
      ValueError: the type is unknown, or an argument is missing, unknown or invalid; the message names it.

    >>> import lrjax
    >>> lrjax.from_config({"type": "step_decay", "init_value": 0.1, "step_size": 30, "decay_rate": 0.5})
    step_decay(init_value=0.1, step_size=30, decay_rate=0.5)
    """
    if not isinstance(config, Mapping) or _TYPE not in config:
        raise ValueError(f"from_config: `config` must be a dict with a {_TYPE!r}, got {config!r}.")
    name = config[_TYPE]
    cls = value_classes.get(name) or _unpickled(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"from_config: {_TYPE!r} must be the name of an lrjax value, got {name!r}.")
    arguments = {key: _rebuilt(item) for key, item in config.items() if key != _TYPE}
    parameters = inspect.signature(cls).parameters
    unknown = [key for key in arguments if key not in parameters] if cls._variadic is None else []
    if unknown:
        raise ValueError(f"from_config: {name} takes {', '.join(parameters)}, got `{unknown[0]}`.")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"from_config: {error}") from None


def _unpickled(name: str, base: type = Value) -> Any:
    """Finds a class that was unpickled, as by cloudpickle, and so was never decorated in this process."""
    for cls in base.__subclasses__():
        if "_domains" in vars(cls) and config_name(cls) == name:
            return cls
        if found := _unpickled(name, cls):
            return found
    return None


def _rebuilt(x: Any) -> Any:
    if isinstance(x, list):
        return [_rebuilt(item) for item in x]
    if not isinstance(x, Mapping):
        return x
    match x.get(_TYPE):
        case None:
            return {key: _rebuilt(item) for key, item in x.items()}
        case "MuonDimensionNumbers":
            return MuonDimensionNumbers(_axes(x["reduction_axis"]), _axes(x["output_axis"]))
        case "array":
            return np.asarray(x["values"], x["dtype"])
        case "tuple":
            return tuple(map(_rebuilt, x["items"]))
        case "dict":
            return {key: _rebuilt(item) for key, item in x["items"]}
    return from_config(x)


def _axes(x: Any) -> Any:
    return tuple(x) if isinstance(x, list) else x
