"""Many runs of one model as one compiled program."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lrjax.schedules.base import Schedule
from lrjax.schedules.groups import is_rate
from lrjax.search.batches import as_batches
from lrjax.search.checkpoint import Checkpoint, identity
from lrjax.search.progress import bar
from lrjax.search.result import SweepResult
from lrjax.search.runs import Runs, programmed
from lrjax.search.train import train
from lrjax.transforms.base import GradientTransformation
from lrjax.value import Value, bad_argument, batched, hyperparameter_names, with_hyperparams


def grid(value: Any, **hyperparams: Any) -> Any:
    """The product of several hyperparameters, as a batch for `sweep`.

    Args:
      value: an optimizer or a schedule.
      **hyperparams: sequences of numbers, by name, at whatever depth of a chain the name stands.

    Raises:
      ValueError: a name isn't in `value`, or is there more than once.

    >>> import lrjax
    >>> lrjax.grid(lrjax.sgd(0.1), learning_rate=[0.1, 0.2], momentum=[0.0, 0.9]).momentum
    array([0. , 0.9, 0. , 0.9])
    """
    axes = np.meshgrid(*map(np.asarray, hyperparams.values()), indexing="ij")
    return with_hyperparams(value, **{name: axis.ravel() for name, axis in zip(hyperparams, axes, strict=True)})


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """The runs of a sweep: their numbers [runs, ...], how to make an optimizer of them, and what to call them."""

    tree: Any
    make: Callable[[Any], Any]
    settings: dict[str, np.ndarray]
    learning_rates: np.ndarray


def _itself(x: Any) -> Any:
    return x


def _numbers(optimizer: Any, learning_rates: Any, steps: int) -> _Numbers:
    if learning_rates is not None:
        rates = _rates(learning_rates)
        if not isinstance(optimizer, Value):
            if not callable(optimizer):
                raise bad_argument(
                    "sweep", "optimizer", "a function from a rate to an optimizer, or a value", optimizer
                )
            return _Numbers(rates.astype(np.float32), optimizer, {"learning_rate": rates}, rates)
        optimizer = with_hyperparams(optimizer, learning_rate=rates)
    if not isinstance(optimizer, GradientTransformation):
        words = "an lrjax optimizer, or with `learning_rates` a function from a rate to any optimizer"
        raise bad_argument("sweep", "optimizer", words, optimizer)
    many = any(np.ndim(x) for x in jax.tree.leaves(optimizer))
    value = batched(optimizer) if many else jax.tree.map(lambda x: np.asarray(x)[None], optimizer)
    tree = jax.tree.map(lambda x: np.asarray(x, np.int32 if isinstance(x, int) else jnp.result_type(float)), value)
    paths = jax.tree_util.tree_leaves_with_path(optimizer)
    varied = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in paths if np.ndim(x)}
    return _Numbers(tree, _itself, varied, _peaks(value, steps))


def _rates(learning_rates: Any) -> np.ndarray:
    rates = np.asarray(learning_rates)
    if (
        rates.ndim != 1
        or not len(rates)
        or rates.dtype.kind not in "iuf"
        or not np.all(np.isfinite(rates) & (rates >= 0))
    ):
        raise bad_argument("sweep", "learning_rates", "a sequence of finite numbers >= 0", learning_rates)
    return rates.astype(np.float64)


def _peaks(value: Any, steps: int) -> np.ndarray:
    """[runs]: the highest rate of each, of a batched value; nan where it has none."""
    runs = len(jax.tree.leaves(value)[0])
    rate = rate_of(value)
    if rate is None:
        return np.full(runs, np.nan)
    highest = np.zeros(runs)
    for one in jax.tree.leaves(rate, is_leaf=is_rate):
        curve = jax.vmap(lambda s: jnp.max(s(jnp.arange(steps))))(one) if isinstance(one, Schedule) else one
        highest = np.maximum(highest, np.asarray(curve, np.float64))
    return _as_written(highest)


def _as_written(x: np.ndarray) -> np.ndarray:
    """In float64, the float32 number nearest to 0.4 as 0.4."""
    return np.array([float(str(np.float32(v))) if np.float32(v) == v else v for v in x])


def rate_of(x: Any) -> Any:
    """The first `learning_rate` in a value; None where it has none."""
    if isinstance(x, Value):
        fields = vars(x)
        if "learning_rate" in fields:
            return fields["learning_rate"]
        return next((r for n in hyperparameter_names(x) if (r := rate_of(fields[n])) is not None), None)
    if isinstance(x, tuple):
        return next((r for item in x if (r := rate_of(item)) is not None), None)
    return None


def whole_number(of: str, name: str, x: Any) -> int:
    if isinstance(x, bool) or not isinstance(x, (int, np.integer)) or x < 1:
        raise bad_argument(of, name, "a whole number >= 1", x)
    return int(x)


def seeds_of(of: str, seeds: Any) -> tuple[int, ...]:
    """`seeds` of them from 0 on, or those that are listed."""
    if not isinstance(seeds, (Sequence, np.ndarray)):
        return tuple(range(whole_number(of, "seeds", seeds)))
    is_seed = lambda x: isinstance(x, (int, np.integer)) and not isinstance(x, bool) and 0 <= x < 2**31
    if not len(seeds) or not all(map(is_seed, seeds)) or len(set(map(int, seeds))) < len(seeds):
        raise bad_argument(of, "seeds", "how many, or different whole numbers from 0 to 2³¹−1", seeds)
    return tuple(map(int, seeds))


def sweep(
    loss_fn: Callable[..., Any],
    init: Any,
    batches: Any,
    optimizer: Any,
    *,
    learning_rates: Sequence[float] | np.ndarray | jax.Array | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 1,
    batch_size: int | None = None,
    eval_fn: Callable[..., Any] | None = None,
    eval_batch: Any = None,
    has_aux: bool = False,
    mesh: Mesh | None = None,
    runs_per_device: int | None = None,
    stop_when_diverged: bool = True,
    diverged_above: float = 10.0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> SweepResult:
    """Trains one model with many settings and several seeds, compiled once.

    Another sweep of the same shape, with other numbers, compiles nothing. The runs are spread over all devices of all
    processes. On a CPU with several cores start the process with as many devices as it has cores, before JAX does
    anything: `jax.config.update("jax_num_cpu_devices", cores)`.

    Args:
      loss_fn: (params, batch) -> loss, a scalar; with `has_aux` (loss, anything).
      init: a tree of parameters, from which all runs start, or key -> params: then each seed has a start of its own.
      batches: arrays with a leading step axis; or arrays of examples, with `batch_size`: shuffled, each epoch and each
        seed in another order, the same for every run; or a function from the step to a batch, which is compiled; or an
        iterable: each batch is loaded once and feeds every run, and what can be gone through again is, at its end.
      optimizer: a value with arrays as hyperparameters, which are zipped (for their product see `grid`), a schedule's
        included; or a function from a rate to a transformation, lrjax's or Optax's, with `learning_rates`.
      learning_rates: the rates, [runs].
      steps: updates of each run. Default: as many as there are batches, where that is known.
      seeds: how many runs of each setting, or a list of seeds. Seed s starts from `init(jax.random.key(s))`.
      batch_size: of `batches` that are examples.
      eval_fn: (params, eval_batch) -> a loss, lower is better, after the last step; of params alone without a batch.
      eval_batch: for `eval_fn`.
      has_aux: whether `loss_fn` returns more than the loss.
      mesh: the devices; default: all.
      runs_per_device: runs that a device vectorises; others wait for their turn. Default: on a CPU 1, as a run alone
        uses its caches best and ends when it diverged; elsewhere as many as its memory holds.
      stop_when_diverged: a run that diverged costs no more time, where runs come one after the other.
      diverged_above: a run has diverged when its loss is not finite, or has risen by this multiple of its first loss.
      checkpoint: a folder (extra: checkpoint), where the sweep is saved after every chunk of at most 128 steps, unless
        saving would take more than a tenth of the time. The same call goes on where another was stopped or killed, and
        gives bit for bit the same; an iterator has to begin anew. A folder that holds another sweep is refused.
      progress: a bar with steps/s, the best rate and the number of diverged runs, in a terminal or a notebook.

    Raises:
      ValueError: an argument is not of these; the message says which and what it takes.

    >>> import jax.numpy as jnp, lrjax
    >>> result = lrjax.sweep(
    ...     lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((20, 2)), lrjax.sgd(jnp.array([0.01, 0.4, 1.5]))
    ... )
    >>> result.best_learning_rate, result.diverged[:, 0]
    (0.4, array([False, False,  True]))
    """
    seed_list = seeds_of("sweep", seeds)
    source = as_batches(batches, batch_size, steps, seed_list)
    if steps is None and source.steps is None:
        raise bad_argument("sweep", "steps", "given, for such `batches`", None)
    steps = whole_number("sweep", "steps", source.steps if steps is None else steps)
    numbers = _numbers(optimizer, learning_rates, steps)
    settings = len(numbers.learning_rates)
    program = programmed(
        loss_fn=loss_fn,
        make=numbers.make,
        at=source.at,
        init=init if callable(init) else None,
        eval_fn=eval_fn,
        has_aux=has_aux,
        chunk=source.size,
        together=None if runs_per_device is None else whole_number("sweep", "runs_per_device", runs_per_device),
        diverged_above=float(diverged_above),
        stop=stop_when_diverged,
        mesh=mesh,
        runs=settings * len(seed_list),
    )
    tree = jax.tree.map(lambda x: x.repeat(len(seed_list), axis=0), numbers.tree)
    seed_of = np.tile(np.arange(len(seed_list), dtype=np.int32), settings)
    runs = Runs(program, source, steps, tree, init, seed_list, seed_of, to_fit=runs_per_device is None)
    with ExitStack() as stack:
        saved = None
        if checkpoint is not None:
            names = {
                "learning_rates": numbers.learning_rates.tolist(),
                "seeds": list(seed_list),
                "batch_size": batch_size,
            }
            saved = stack.enter_context(closing(Checkpoint(checkpoint, names | identity(runs, eval_batch))))
        show = stack.enter_context(bar(runs.count * steps, numbers.learning_rates.repeat(len(seed_list)), progress))
        record = train(runs, eval_batch, show, saved)
    shape = (settings, len(seed_list))
    return SweepResult(
        numbers.learning_rates,
        numbers.settings,
        record.losses.reshape(*shape, steps),
        None if eval_fn is None else record.eval.reshape(shape),
        record.diverged.reshape(shape),
    )
