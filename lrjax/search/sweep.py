"""Many runs of one model as one compiled program."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lrjax.search.batches import as_batches
from lrjax.search.checkpoint import Checkpoint, identity
from lrjax.search.progress import bar
from lrjax.search.result import SweepResult
from lrjax.search.runs import Runs, programmed
from lrjax.search.settings import seeds_of, settings_of, whole_number
from lrjax.search.train import train
from lrjax.value import bad_argument


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
      learning_rates: the rates, [runs]; a value gets them in place of its own, and a schedule keeps its shape.
      steps: updates of each run. Default: as many as there are batches, where that is known.
      seeds: how many runs of each setting, or a list of seeds. Seed s starts from `init(jax.random.key(s))`.
      batch_size: of `batches` that are examples.
      eval_fn: (params, eval_batch) -> a loss, lower is better, after the last step; of params alone without a batch.
      eval_batch: for `eval_fn`.
      has_aux: whether `loss_fn` returns more than the loss.
      mesh: the devices; default: all.
      runs_per_device: runs that a device vectorises; others wait for their turn. Default: on a CPU 1, which compiles
        fastest, ends a run when it diverged and suits models of every size (with 8 at once, long sweeps of some small
        models take two thirds of the time, and those of wide layers more); elsewhere as many as its memory holds.
      stop_when_diverged: a run that diverged costs no more time, where runs come one after the other.
      diverged_above: a run has diverged when its loss is not finite, or has risen by this multiple of its first loss.
      checkpoint: a folder (extra: checkpoint), where the sweep is saved about every second, unless saving would take
        more than a tenth of the time. The same call goes on where another was stopped or killed, and gives bit for bit
        the same; an iterator has to begin anew. A folder that holds another sweep is refused.
      progress: a bar with steps/s, the best rate and the number of diverged runs, in a terminal or a notebook
        (with rich; in a notebook with ipywidgets too).

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
    source = as_batches("sweep", batches, batch_size, steps, seed_list)
    if steps is None and source.steps is None:
        raise bad_argument("sweep", "steps", "given, for such `batches`", None)
    steps = whole_number("sweep", "steps", source.steps if steps is None else steps)
    numbers = settings_of(optimizer, learning_rates, steps)
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
    runs = Runs(program, source, steps, tree, init, seed_list, seed_of, eval_batch, to_fit=runs_per_device is None)
    with ExitStack() as stack:
        saved = None
        if checkpoint is not None:
            names = {
                "learning_rates": numbers.learning_rates.tolist(),
                "seeds": list(seed_list),
                "batch_size": batch_size,
            }
            saved = stack.enter_context(closing(Checkpoint(checkpoint, names | identity(runs))))
        show = stack.enter_context(bar(runs.count * steps, numbers.learning_rates.repeat(len(seed_list)), progress))
        record = train(runs, show, saved)
    shape = (settings, len(seed_list))
    return SweepResult(
        numbers.learning_rates,
        numbers.settings,
        record.losses.reshape(*shape, steps),
        None if eval_fn is None else record.eval.reshape(shape),
        record.diverged.reshape(shape),
    )
