"""What the data of a task are: arrays, a function of the step, or an iterable of batches."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function


class _GeneratorFunction:
    """An iterable that calls a generator function for each pass."""

    def __init__(self, function: Callable[[], Iterator[Any]]):
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return self._function()


def as_iterable(data: Any) -> Any:
    """Returns a generator function as an iterable, other data as they are."""
    return _GeneratorFunction(data) if inspect.isgeneratorfunction(data) else data


def is_tree_of_arrays(x: Any) -> bool:
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)


def count_examples(tree: Any) -> int | None:
    """Returns the length of the first axis, None where the leaves differ in it."""
    lengths = {len(x) if np.ndim(x) else None for x in jax.tree.leaves(tree)}
    return lengths.pop() if len(lengths) == 1 else None


def batch_shapes(data: Any, batch_size: int | None, stacked: bool) -> Any:
    """Returns shapes and dtypes of a batch, None for an iterator, whose first batch would be lost."""
    if stacked or batch_size is not None:
        shape = lambda x: (batch_size, *x.shape[1:]) if batch_size is not None else x.shape[1:]
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(x), x.dtype), data)
    data = as_iterable(data)
    if is_function(data):
        return jax.eval_shape(data, jax.ShapeDtypeStruct((), np.int32))
    if isinstance(data, Iterable) and not isinstance(data, (Iterator, dict, tuple)):
        return jax.eval_shape(lambda: jax.tree.map(np.asarray, next(iter(data))))
    return None
