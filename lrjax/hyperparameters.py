"""Batches and replaces the hyperparameters of values."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.value import Value, ValueT, hyperparameter_names


def batched(value: ValueT) -> ValueT:
    """Broadcasts every number of a batch to the length of the batch, so that `jax.vmap` maps over all of them.

    Raises:
      ValueError: no hyperparameter is a batch, or two have different lengths.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> schedules = lrjax.cosine_decay_schedule(jnp.array([0.1, 0.2]), decay_steps=100)
    >>> jax.vmap(lambda schedule: schedule(50))(lrjax.batched(schedules))
    Array([0.05, 0.1 ], dtype=float32)
    """
    size = batch_length(value)
    if size is None:
        words = "must have hyperparameters that are arrays of one length, got single numbers only"
        raise ValueError(f"batched: `value` {words}.")

    def broadcast(x: Any, rank: int) -> Any:
        if jnp.ndim(x) > rank:
            return x
        if isinstance(x, jax.Array):
            return jnp.broadcast_to(x, (size, *x.shape))
        return np.broadcast_to(np.asarray(x, jnp.result_type(x)), (size, *np.shape(x)))  # compiles nothing

    return _map_numbers(value, 0, broadcast)


def batch_length(value: Value) -> int | None:
    """Returns the length of a batch; None for a single value.

    Raises:
      ValueError: two hyperparameters have different lengths.
    """
    sizes: set[int] = set()

    def note(x: Any, rank: int) -> Any:
        sizes.update(jnp.shape(x)[: jnp.ndim(x) - rank][:1])
        return x

    _map_numbers(value, 0, note)
    if len(sizes) > 1:
        words = f"must have hyperparameters that are arrays of one length, got lengths {sorted(sizes)}"
        raise ValueError(f"batched: `value` {words}.")
    return sizes.pop() if sizes else None


def _map_numbers(x: Any, rank: int, change: Callable[[Any, int], Any]) -> Any:
    """Copies a value with `change(leaf, rank)` in place of each leaf, where `rank` is that of a single value's leaf."""
    if isinstance(x, Value):
        copy = object.__new__(type(x))
        for name, field in vars(x).items():
            domain = x._domains.get(name)
            is_static = domain is not None and domain.static
            vars(copy)[name] = field if is_static else _map_numbers(field, domain.rank if domain else 0, change)
        return copy
    is_value = lambda v: isinstance(v, Value)
    map_one = lambda v: _map_numbers(v, 0, change) if is_value(v) else change(v, rank)
    return jax.tree.map(map_one, x, is_leaf=is_value)


def with_hyperparams(value: ValueT, **hyperparams: Any) -> ValueT:
    """Copies a value with the named hyperparameters replaced, at any depth of a chain.

    Raises:
      ValueError: a name doesn't exist, or exists more than once; the message lists the names that exist.

    >>> import lrjax
    >>> tx = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.sgd(0.1))
    >>> lrjax.with_hyperparams(tx, learning_rate=0.01)
    chain(clip_by_global_norm(max_norm=1.0), sgd(learning_rate=0.01, momentum=None, nesterov=False, \
accumulator_dtype=None))
    """
    values = list(_names_by_path(value))
    for name in hyperparams:
        count = sum(n == name for _, names in values for n in names)
        if count != 1:
            existing = ", ".join(sorted({_dotted(path, n) for path, names in values for n in names}))
            how = f"{count} hyperparameters" if count else "no hyperparameter"
            raise ValueError(f"with_hyperparams: {how} `{name}` in {type(value).__name__}; there are: {existing}.")
    return _rebuild(value, hyperparams)


def _dotted(path: tuple[str, ...], name: str) -> str:
    return ".".join((*path, name))


def _names_by_path(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yields (path, names of the hyperparameters that don't contain values) of every value in this one, outermost
    first."""
    if isinstance(value, Value):
        names = hyperparameter_names(value)
        yield path, tuple(n for n in names if not (isinstance(vars(value)[n], tuple) and _holds_values(vars(value)[n])))
        for n in names:
            yield from _names_by_path(vars(value)[n], (*path, n))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _names_by_path(item, (*path[:-1], f"{path[-1]}[{i}]") if path else path)


def _holds_values(items: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Value) or (isinstance(x, tuple) and _holds_values(x)) for x in items)


def _rebuild(x: Any, changes: dict[str, Any]) -> Any:
    if isinstance(x, tuple):
        return tuple(_rebuild(item, changes) for item in x)
    if not isinstance(x, Value):
        return x
    fields = {n: changes[n] if n in changes else _rebuild(vars(x)[n], changes) for n in hyperparameter_names(x)}
    return dataclasses.replace(x, **fields)  # type: ignore[type-var]
