"""Where the batches of a run come from, in one form for all the ways to give them."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.training.loader import Calls, Loader, fitting
from lrjax.training.task import Task, examples_in, is_tree_of_arrays
from lrjax.value import bad_argument

KINDS = (
    "arrays of examples with `batch_size`, arrays with a leading step axis with `stacked=True`, a function from the "
    "step to a batch, an iterable of batches, or a generator function of them"
)
CHUNK = 512  # steps of one call of the program, at most


@dataclasses.dataclass(frozen=True)
class Batches:
    """`chunk(start, count)` is what the program is given for `count` steps, in arrays for `size` of them, so that all
    chunks have one shape; `batch_at((given, chunk), i, seed)` is a batch, for the seed of this index in the list of
    seeds.

    `batch_at` is traced, and part of what the program is compiled for: it compares by value.
    """

    chunk: Callable[[int, int], Any]
    batch_at: Callable[[Any, Any, Any], Any]
    size: int = CHUNK  # the most steps of a chunk
    like: Any = None  # of loaded batches: arrays like a chunk
    once: bool = False  # whether each batch should be asked for once, and then feed every run
    given: Any = None  # arrays that are the same for all chunks
    digest: Callable[[int], str] = lambda steps: ""  # of the first so many batches, where they are loaded


@dataclasses.dataclass(frozen=True)
class _Called:
    """The batch that a user's function makes."""

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


def known_steps(task: Task) -> int | None:
    """How long a run is where the call doesn't say: the task's own length, or the number of batches."""
    if task.steps is not None:
        return task.steps
    if task.stacked:
        return _length(task.data)
    if task.batch_size is None and not callable(task.data) and hasattr(task.data, "__len__"):
        return len(task.data)
    return None


def distinct_seeds(task: Task, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds that are different runs: the first one, where neither the start nor the order of the examples nor a key
    of the loss depends on the seed."""
    if len(seeds) == 1 or task.takes_key:
        return seeds
    is_shuffled = not task.stacked and task.batch_size is not None and task.batch_size < _length(task.data)
    return seeds if is_shuffled or (is_function(task.init) and _uses_its_key(task.init)) else seeds[:1]


def _uses_its_key(init: Callable[[Any], Any]) -> bool:
    program = jax.make_jaxpr(init)(jax.random.key(0)).jaxpr
    used = [variable for equation in program.eqns for variable in equation.invars] + program.outvars
    return any(variable in program.invars for variable in used)


def as_batches(caller: str, task: Task, steps: int, seeds: Sequence[int], hashed: bool = False) -> Batches:
    """The batches of a task, however they are given.

    Args:
      caller: the function that the user called, for the errors.
      task: what has the data.
      steps: of a run.
      seeds: those of the runs.
      hashed: whether loaded batches are hashed as they come.

    Raises:
      ValueError: there are too few of them, or they are of no known kind.
    """
    data = task.data
    if task.stacked:
        if task.batch_size is not None:
            raise bad_argument("Task", "batch_size", "left out, with `stacked`", task.batch_size)
        length = _length(data)
        if steps > length:
            raise bad_argument(caller, "steps", f"at most the {length} batches of the task", steps)
        return Batches(lambda start, count: np.int32(start), _of_step, given=data)
    if task.batch_size is not None:
        return _examples(data, task.batch_size, seeds)
    if inspect.isgeneratorfunction(data):
        return _loaded(Loader(caller, Calls(data), steps, hashed))
    if callable(data):
        return Batches(lambda start, count: np.int32(start), _Called(data))
    if isinstance(data, Iterator | list) or (isinstance(data, Iterable) and not is_tree_of_arrays(data)):
        return _loaded(Loader(caller, data, steps, hashed))
    if is_tree_of_arrays(data):
        words = "given, since the data are arrays: examples in a batch; or `stacked=True`, where a batch is one step"
        raise bad_argument("Task", "batch_size", words, None)
    raise bad_argument("Task", "data", KINDS, data)


def _loaded(loader: Loader) -> Batches:
    like = jax.tree.map(lambda x: np.broadcast_to(x, (loader.size, *x.shape)), loader.example)
    return Batches(loader.chunk, _of_chunk, loader.size, once=True, like=like, digest=loader.digest)


def check_repeatable(caller: str, task: Task) -> None:
    """For what goes through the data more than once."""
    if isinstance(task.data, Iterator):
        words = f"something that {caller} can go through again, such as a list or a generator function"
        raise bad_argument("Task", "data", words, task.data)


def _length(tree: Any) -> int:
    count = examples_in(tree)
    if not is_tree_of_arrays(tree) or not count:
        raise bad_argument("Task", "data", f"{KINDS}; arrays have one length", tree)
    return count


def _examples(examples: Any, batch_size: int, seeds: Sequence[int]) -> Batches:
    """Every epoch all of them in a new order, which is another one for each seed and the same for every run."""
    count = _length(examples)
    if batch_size > count:
        raise bad_argument("Task", "batch_size", f"a whole number from 1 to the {count} examples", batch_size)
    per_epoch = count // batch_size
    size = fitting(CHUNK, 4 * batch_size * len(seeds))

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
