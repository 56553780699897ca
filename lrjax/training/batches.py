"""Loads the batches of a task in one form, whichever kind of data it has."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.training.data import as_iterable, count_examples, is_tree_of_arrays
from lrjax.training.loader import Loader, steps_that_fit
from lrjax.training.task import Task
from lrjax.value import bad_argument

KINDS = (
    "arrays of examples with `batch_size`, arrays with a leading step axis with `stacked=True`, a function from the "
    "step to a batch, an iterable of batches, or a generator function of them"
)
MAX_CHUNK_STEPS = 512  # of one call of the compiled program


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of all runs, chunk by chunk: a chunk is what one call of the compiled program needs.

    `load_chunk(start, count)` returns the chunk of `count` steps, padded to `chunk_size` so that all have one shape;
    `batch_at((shared, chunk), i, seed_index)` picks the batch of its i-th step for a seed. `batch_at` is traced and
    part of the key of the compiled program, so it compares by value.
    """

    load_chunk: Callable[[int, int], Any]
    batch_at: Callable[[Any, Any, Any], Any]
    chunk_size: int = MAX_CHUNK_STEPS  # steps
    chunk_shapes: Any = None  # arrays in the shape of a chunk, where loading one to see it would cost batches
    load_once: bool = False  # whether each batch is loaded once and used for all runs
    shared: Any = None  # arrays that all chunks use
    digest: Callable[[int], str] = lambda steps: ""  # of the first batches, where they are loaded from an iterable


@dataclasses.dataclass(frozen=True)
class _FunctionOfStep:
    """Calls the user's function of the step."""

    function: Callable[[Any], Any]

    def __call__(self, chunk: Any, i: Any, seed: Any) -> Any:
        return self.function(chunk[1] + i)


def _batch_of_step(chunk: Any, i: Any, seed: Any) -> Any:
    arrays, start = chunk
    return jax.tree.map(lambda x: x[start + i], arrays)


def _batch_of_chunk(chunk: Any, i: Any, seed: Any) -> Any:
    return jax.tree.map(lambda x: x[i], chunk[1])


def _shuffled_batch(chunk: Any, i: Any, seed: Any) -> Any:
    examples, order = chunk
    return jax.tree.map(lambda x: x[order[seed, i]], examples)


def known_steps(task: Task) -> int | None:
    """Returns the default length of a run: the task's `steps`, or the number of batches; None where unknown."""
    if task.steps is not None:
        return task.steps
    if task.stacked:
        return _length(task.data)
    if task.batch_size is None and not callable(task.data) and hasattr(task.data, "__len__"):
        return len(task.data)
    return None


def distinct_seeds(task: Task, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the seeds that make a difference: only the first, where neither the initial parameters nor the order of
    the examples nor the loss depend on the seed."""
    if len(seeds) == 1 or task.takes_key:
        return seeds
    is_shuffled = not task.stacked and task.batch_size is not None and task.batch_size < _length(task.data)
    return seeds if is_shuffled or (is_function(task.init) and _uses_its_key(task.init)) else seeds[:1]


def _uses_its_key(init: Callable[[Any], Any]) -> bool:
    program = jax.make_jaxpr(init)(jax.random.key(0)).jaxpr
    used = [variable for equation in program.eqns for variable in equation.invars] + program.outvars
    return any(variable in program.invars for variable in used)


def as_batches(
    caller: str, task: Task, steps: int, seeds: Sequence[int], hashed: bool = False, begin: int = 0
) -> Batches:
    """Returns the batches of a task.

    Args:
      caller: the function that the user called, for errors.
      task: the task.
      steps: of each run.
      seeds: of all runs.
      hashed: whether batches from an iterable are hashed while they are loaded.
      begin: the first step.

    Raises:
      ValueError: there are too few batches, or the data are of no known kind.
    """
    data = as_iterable(task.data)
    if task.stacked:
        if task.batch_size is not None:
            raise bad_argument("Task", "batch_size", "left out, with `stacked`", task.batch_size)
        length = _length(data)
        if steps > length:
            raise bad_argument(caller, "steps", f"at most the {length} batches of the task", steps)
        return Batches(lambda start, count: np.int32(start), _batch_of_step, shared=data)
    if task.batch_size is not None:
        return _shuffled(data, task.batch_size, seeds)
    if callable(data):
        return Batches(lambda start, count: np.int32(start), _FunctionOfStep(data))
    if isinstance(data, Iterator | list) or (isinstance(data, Iterable) and not is_tree_of_arrays(data)):
        return _loaded(Loader(caller, data, steps, hashed, begin))
    if is_tree_of_arrays(data):
        words = "given, since the data are arrays: examples in a batch; or `stacked=True`, where a batch is one step"
        raise bad_argument("Task", "batch_size", words, None)
    raise bad_argument("Task", "data", KINDS, data)


def _loaded(loader: Loader) -> Batches:
    size = loader.chunk_size
    shapes = jax.tree.map(lambda x: np.broadcast_to(x, (size, *x.shape)), loader.first_batch)
    return Batches(loader.chunk, _batch_of_chunk, size, shapes, load_once=True, digest=loader.digest)


def check_repeatable(caller: str, task: Task) -> None:
    """Checks that the data can be iterated more than once."""
    if isinstance(task.data, Iterator):
        words = f"something that {caller} can go through again, such as a list or a generator function"
        raise bad_argument("Task", "data", words, task.data)


def _length(tree: Any) -> int:
    count = count_examples(tree)
    if not is_tree_of_arrays(tree) or not count:
        raise bad_argument("Task", "data", f"{KINDS}; arrays have one length", tree)
    return count


def _shuffled(examples: Any, batch_size: int, seeds: Sequence[int]) -> Batches:
    """Shuffles the examples for each epoch and seed; all runs of a seed see the same order."""
    count = _length(examples)
    if batch_size > count:
        raise bad_argument("Task", "batch_size", f"a whole number from 1 to the {count} examples", batch_size)
    per_epoch = count // batch_size
    size = steps_that_fit(MAX_CHUNK_STEPS, 4 * batch_size * len(seeds))

    # shuffled by NumPy: a sort inside the program takes longer to compile than many sweeps take
    def epoch(number: int) -> np.ndarray:
        """Returns indices of examples, [seeds, batches, batch_size]."""
        orders = np.stack([np.random.default_rng((seed, number)).permutation(count) for seed in seeds])
        return orders[:, : per_epoch * batch_size].reshape(len(seeds), per_epoch, batch_size).astype(np.int32)

    def load_chunk(start: int, steps: int) -> Any:
        first, last = start // per_epoch, (start + steps - 1) // per_epoch
        orders = np.concatenate([epoch(number) for number in range(first, last + 1)], axis=1)
        orders = orders[:, start - first * per_epoch :][:, :steps]
        return np.pad(orders, ((0, 0), (0, size - steps), (0, 0)))

    return Batches(load_chunk, _shuffled_batch, size, shared=examples)
