"""Where the batches of a sweep come from, in one form for all the ways to give them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.value import bad_argument

KINDS = (
    "arrays with a leading step axis, arrays of examples with `batch_size`, a function from the step to a batch, "
    "or an iterable of batches"
)


@dataclasses.dataclass(frozen=True)
class Batches:
    """`chunk(start, count, size)` is what the program is given for some steps, in arrays for `size` of them, so that
    all chunks have one shape; `at(chunk, i, seed)` is a batch of it.

    `at` is traced, and part of what the program is compiled for: it compares by value.
    """

    chunk: Callable[[int, int, int], Any]
    at: Callable[[Any, Any, Any], Any]
    steps: int | None  # how many there are, where that is known


@dataclasses.dataclass(frozen=True)
class _Called:
    """The batch that somebody's function makes."""

    function: Callable[[Any], Any]

    def __call__(self, start: Any, i: Any, seed: Any) -> Any:
        return self.function(start + i)


def _of_step(chunk: Any, i: Any, seed: Any) -> Any:
    arrays, start = chunk
    return jax.tree.map(lambda x: x[start + i], arrays)


def _of_order(chunk: Any, i: Any, seed: Any) -> Any:
    examples, order = chunk
    return jax.tree.map(lambda x: x[order[seed, i]], examples)


def as_batches(batches: Any, batch_size: int | None, steps: int | None, seeds: int) -> Batches:
    """The batches, however they are given."""
    if batch_size is not None:
        return _examples(batches, batch_size, seeds)
    if callable(batches):
        return Batches(lambda start, count, size: jnp.int32(start), _Called(batches), None)
    if isinstance(batches, list) or (isinstance(batches, Iterable) and not _is_tree_of_arrays(batches)):
        return _iterable(batches)
    length = _length(batches)
    if steps is not None and steps > length:
        raise bad_argument("sweep", "batches", f"at least `steps`={steps} of them", length)
    arrays = jax.tree.map(jnp.asarray, batches)
    return Batches(lambda start, count, size: (arrays, jnp.int32(start)), _of_step, length)


def _is_tree_of_arrays(x: Any) -> bool:
    if isinstance(x, Iterator):
        return False
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)


def _length(tree: Any) -> int:
    """The one length of the first axis."""
    lengths = {len(x) if np.ndim(x) else 0 for x in jax.tree.leaves(tree)}
    if not _is_tree_of_arrays(tree) or len(lengths) != 1 or lengths == {0}:
        raise bad_argument("sweep", "batches", KINDS, tree)
    return lengths.pop()


def _examples(examples: Any, batch_size: int, seeds: int) -> Batches:
    """Every epoch all of them in a new order, which is another one for each seed and the same for every run."""
    count = _length(examples)
    if not 1 <= batch_size <= count:
        raise bad_argument("sweep", "batch_size", f"a whole number from 1 to the {count} examples", batch_size)
    per_epoch = count // batch_size
    arrays = jax.tree.map(jnp.asarray, examples)

    def order(start: int, steps: int) -> jax.Array:
        first, last = start // per_epoch, (start + steps - 1) // per_epoch
        epochs = jnp.concatenate([_shuffled(epoch, seeds, count, batch_size) for epoch in range(first, last + 1)], 1)
        return epochs[:, start - first * per_epoch :][:, :steps]

    return Batches(lambda start, count, size: (arrays, order(start, size)), _of_order, None)


@jax.jit(static_argnums=(1, 2, 3))
def _shuffled(epoch: Any, seeds: int, count: int, batch_size: int) -> jax.Array:
    """The examples [seeds, batches, batch_size] of an epoch."""
    key = jax.random.fold_in(jax.random.key(0), epoch)
    orders = jax.vmap(lambda seed: jax.random.permutation(jax.random.fold_in(key, seed), count))(jnp.arange(seeds))
    whole = count // batch_size * batch_size
    return orders[:, :whole].reshape(seeds, -1, batch_size)


def _iterable(batches: Iterable[Any]) -> Batches:
    """Each batch is asked for once; what can be gone through again, such as a list, begins anew after its end."""
    again = not isinstance(batches, Iterator)
    source, taken = iter(_endless(batches) if again else batches), 0

    def chunk(start: int, count: int, size: int) -> Any:
        nonlocal source, taken
        if start < taken:
            if not again:
                raise bad_argument("tune", "batches", "something that can be gone through again", batches)
            source, taken = _endless(batches), 0
        got = list(islice(source, start - taken, start - taken + count))
        if len(got) < count:
            raise bad_argument(
                "sweep", "batches", f"at least {start + count} batches", f"an end after {start + len(got)}"
            )
        taken = start + count
        return jax.tree.map(lambda *xs: np.stack(xs), *got, *got[-1:] * (size - count)), jnp.int32(0)

    return Batches(chunk, _of_step, len(batches) if again and hasattr(batches, "__len__") else None)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            return
