"""Where the batches of a sweep come from, in one form for all the ways to give them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import jax
import numpy as np

from lrjax.value import bad_argument

KINDS = (
    "arrays with a leading step axis, arrays of examples with `batch_size`, a function from the step to a batch, "
    "or an iterable of batches"
)


CHUNK = 512  # steps of one call of the program, at most
LOADED, LOADED_BYTES = 128, 2**26  # batches that are loaded for one call, at most


@dataclasses.dataclass(frozen=True)
class Batches:
    """`chunk(start, count)` is what the program is given for `count` steps, in arrays for `size` of them, so that all
    chunks have one shape; `at((given, chunk), i, seed)` is a batch, for the seed of this place in the list of seeds.

    `at` is traced, and part of what the program is compiled for: it compares by value.
    """

    chunk: Callable[[int, int], Any]
    at: Callable[[Any, Any, Any], Any]
    steps: int | None = None  # how many there are, where that is known
    size: int = CHUNK  # the most steps of a chunk
    once: bool = False  # whether each batch should be asked for once, and then feed every run
    given: Any = None  # arrays that are the same for all chunks


@dataclasses.dataclass(frozen=True)
class _Called:
    """The batch that somebody's function makes."""

    function: Callable[[Any], Any]

    def __call__(self, chunk: Any, i: Any, seed: Any) -> Any:
        return self.function(chunk[1] + i)


def _of_step(chunk: Any, i: Any, seed: Any) -> Any:
    arrays, start = chunk
    return jax.tree.map(lambda x: x[start + i], arrays)


def _of_chunk(chunk: Any, i: Any, seed: Any) -> Any:
    return jax.tree.map(lambda x: x[i], chunk[1])


def _of_order(chunk: Any, i: Any, seed: Any) -> Any:
    examples, order = chunk
    return jax.tree.map(lambda x: x[order[seed, i]], examples)


def steps_of(of: str, batches: Any, batch_size: int | None) -> int | None:
    """How many batches there are, where that is known."""
    if batch_size is not None or callable(batches) or isinstance(batches, Iterator):
        return None
    if _is_iterable(batches):
        return len(batches) if hasattr(batches, "__len__") else None
    return _length(of, batches)


def as_batches(of: str, batches: Any, batch_size: int | None, steps: int | None, seeds: Sequence[int]) -> Batches:
    """The batches, however they are given; `of` is who asks, for its errors."""
    if batch_size is not None:
        return _examples(of, batches, batch_size, seeds)
    if callable(batches):
        return Batches(lambda start, count: np.int32(start), _Called(batches))
    if _is_iterable(batches):
        return _iterable(of, batches)
    length = _length(of, batches)
    if steps is not None and steps > length:
        raise bad_argument(of, "batches", f"at least `steps`={steps} of them", length)
    return Batches(lambda start, count: np.int32(start), _of_step, length, given=batches)


def _is_iterable(batches: Any) -> bool:
    return isinstance(batches, list) or (isinstance(batches, Iterable) and not _is_tree_of_arrays(batches))


def _is_tree_of_arrays(x: Any) -> bool:
    if isinstance(x, Iterator):
        return False
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)


def _length(of: str, tree: Any) -> int:
    """The one length of the first axis."""
    lengths = {len(x) if np.ndim(x) else 0 for x in jax.tree.leaves(tree)}
    if not _is_tree_of_arrays(tree) or len(lengths) != 1 or lengths == {0}:
        raise bad_argument(of, "batches", KINDS, tree)
    return lengths.pop()


def _fitting(most: int, size: int) -> int:
    """How many steps may be loaded for one call, of so many bytes each."""
    return max(1, min(most, LOADED_BYTES // max(1, size)))


def _examples(of: str, examples: Any, batch_size: int, seeds: Sequence[int]) -> Batches:
    """Every epoch all of them in a new order, which is another one for each seed and the same for every run."""
    count = _length(of, examples)
    if not 1 <= batch_size <= count:
        raise bad_argument(of, "batch_size", f"a whole number from 1 to the {count} examples", batch_size)
    per_epoch = count // batch_size
    size = _fitting(CHUNK, 4 * batch_size * len(seeds))

    # the order is NumPy's: a sort inside the program takes longer to compile than many sweeps take
    def epoch(number: int) -> np.ndarray:
        """[seeds, batches, batch_size]."""
        orders = np.stack([np.random.default_rng((seed, number)).permutation(count) for seed in seeds])
        return orders[:, : per_epoch * batch_size].reshape(len(seeds), per_epoch, batch_size).astype(np.int32)

    def chunk(start: int, steps: int) -> Any:
        first, last = start // per_epoch, (start + steps - 1) // per_epoch
        orders = np.concatenate([epoch(number) for number in range(first, last + 1)], axis=1)
        orders = orders[:, start - first * per_epoch :][:, :steps]
        return np.pad(orders, ((0, 0), (0, size - steps), (0, 0)))

    return Batches(chunk, _of_order, size=size, given=examples)


def _iterable(of: str, batches: Iterable[Any]) -> Batches:
    """Each batch is asked for once; what can be gone through again, such as a list, begins anew after its end."""
    again = not isinstance(batches, Iterator)
    source, taken = iter(_endless(batches) if again else batches), 0
    first = next(source, None)
    if first is None:
        raise bad_argument(of, "batches", "at least 1 batch", batches)
    source = chain([first], source)
    size = _fitting(LOADED, sum(np.asarray(x).nbytes for x in jax.tree.leaves(first)))

    def chunk(start: int, count: int) -> Any:
        nonlocal source, taken
        if start < taken:
            if not again:
                raise bad_argument(of, "batches", "something that can be gone through again", batches)
            source, taken = _endless(batches), 0
        got = list(islice(source, start - taken, start - taken + count))
        if len(got) < count:
            raise bad_argument(of, "batches", f"at least {start + count} batches", f"an end after {start + len(got)}")
        taken = start + count
        try:
            return jax.tree.map(lambda *xs: np.stack(xs), *got, *got[-1:] * (size - count))
        except ValueError:
            shapes = sorted({str(jax.tree.map(np.shape, batch)) for batch in got})
            raise bad_argument(of, "batches", "all of one shape (drop a last one that is shorter)", shapes) from None

    return Batches(chunk, _of_chunk, steps_of(of, batches, None), size, once=True)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            return
