"""Trains one run of a task: `train`."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lrjax.hyperparameters import batch_length
from lrjax.training.batches import known_steps
from lrjax.training.checkpoint import Checkpoint, fingerprint
from lrjax.training.continuation import check_start, continue_run, counted_from
from lrjax.training.divergence import control_from_first_losses
from lrjax.training.engine import Engine, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, warn_interrupted
from lrjax.training.kept_models import KeptModels
from lrjax.training.loop import train_to_end
from lrjax.training.progress import TrainStatus, progress_bar
from lrjax.training.result import Run, build_run, rates_by_name, rates_of_run
from lrjax.training.runs import Runs
from lrjax.training.task import Task
from lrjax.transforms.base import GradientTransformation, TransformationLike, as_transformation
from lrjax.transforms.guard import guard as watched
from lrjax.value import NotInDomain, bad_argument

Callback = Callable[[dict[str, Any]], None]


def train(
    task: Task,
    optimizer: TransformationLike,
    *,
    steps: int | None = None,
    seed: int | None = None,
    start: Run | None = None,
    eval_every: int | None = None,
    guard: bool = False,
    mesh: Mesh | None = None,
    checkpoint: str | PathLike[str] | None = None,
    on_step: Callback | None = None,
    on_eval: Callback | None = None,
    progress: bool = True,
) -> Run:
    """Trains a task once, in one compiled program; another rate or number of steps compiles nothing.

    Args:
      task: the model, loss and data.
      optimizer: a gradient transformation, lrjax's or Optax's.
      steps: updates, those of `start` included. Default: those of the task, or the number of batches, where that is
        known.
      seed: of the initial parameters, `init(jax.random.key(seed))`, the order of the examples and the keys of the loss.
        Default: 0, or that of `start`.
      start: a finished or interrupted run of this task, to go on with from its last step; it stays as it is. See below.
      eval_every: steps between two evaluations of the task's metrics, which are always evaluated after the last step.
      guard: whether to watch the run: where it goes wrong it goes back and on at a lower rate, see `lrjax.guard`;
        `Run.guard` is a report. For other settings give the optimizer inside of a `guard`.
      mesh: the device; default: the first. With the task's specs: the devices over which the run is sharded.
      checkpoint: a folder (extra: checkpoint), as for `sweep`: the same call resumes a run that was killed.
      on_step: called with a dict for each step, in order: "step", "loss", "learning_rate" and auxiliary scalars. The
        compiled program makes many steps in one call, so these calls come later, many at once.
      on_eval: called with a dict for each evaluation: "step", the updates made before it, and the metrics.
      progress: whether to show a bar, in a terminal or a notebook (needs rich; in a notebook ipywidgets too).

    With `start` the parameters, the model state, the state of the optimizer, the batches, the keys and the schedules go
    on where that run ended, so that 100 steps and a `start` to 200 are 200 steps, bit for bit. The result is the whole
    run, from its first step on; callbacks get the new steps.

    The optimizer may be another: with another rate or schedule, such as an `extend_schedule` or a `cooldown_schedule`,
    a clip, an average, a guard, or another method of the same moments. Its state is that of `migrate_state`: what is
    new begins anew, and what the optimizer of `start` kept needs a place. Moments, averages or a cut of the rate that
    would be lost are an error, which lists them. Numbers in the state of `inject_hyperparams` stay those of the state.
    AdaMax and ADOPT keep other moments than Adam under the same names, see `migrate_state`.

    The data and metrics may be others. An iterator goes on where it is: its next batch is that of the first new step.

    Raises:
      ValueError: an argument is invalid; the message says which, and what it takes.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda params, batch: jnp.mean((batch @ params - 1.0) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(2), jnp.eye(2), batch_size=2)
    >>> run = lrjax.train(task, lrjax.sgd(0.5), steps=20)
    >>> run.params.round(3), run.losses.shape
    (Array([1., 1.], dtype=float32), (20,))
    >>> cooldown = lrjax.cooldown_schedule(0.5, start=20, steps=5, shape="linear")
    >>> lrjax.train(task, lrjax.sgd(cooldown), steps=25, start=run).learning_rates[18:].round(3)
    array([0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=float32)
    """
    check_task("train", task)
    check_mesh("train", mesh)
    steps = run_length("train", task, steps, start)
    seed = check_start("train", start, None if seed is None else seed_list("train", [seed])[0], steps)
    begin = 0 if start is None else len(start.losses)
    optimizer = guarded("train", optimizer, guard)
    runs = single_run("train", optimizer, seed)
    hashed = checkpoint is not None
    every = eval_interval("train", eval_every)
    engine = Engine("train", task, runs, steps, eval_every=every, mesh=mesh, hashed=hashed, begin=begin)
    if start is not None:
        continue_run(engine, start)
    kept, steps_made = KeptModels(engine, "all", np.zeros(1, int)), steps
    with ExitStack() as stack:
        stack.enter_context(handling_signals())
        saver = None
        if checkpoint is not None:
            saver = stack.enter_context(closing(Checkpoint("train", checkpoint, fingerprint(engine))))
        show_bar = stack.enter_context(progress_bar(steps - begin, TrainStatus(engine), progress))
        call_back = _Callbacks(engine, on_step, on_eval)

        def show(run_indices: np.ndarray, begin: int, end: int) -> None:
            show_bar(run_indices, begin, end)
            call_back(begin, end)

        try:
            train_to_end(engine, kept, show, saver)
        except Interrupted:
            if (steps_made := int(engine.record.position[1])) == begin:
                raise
    if steps_made < steps:
        warn_interrupted("train", f"{steps_made:,} of {steps:,} steps were made.")
    carry = kept.carried[0] if steps_made == steps else engine.waves.carry_of(0)
    limit = control_from_first_losses(engine.record.losses[:1]).limit()[0]
    return build_run(engine, carry, 0, repr(optimizer), limit, steps_made)


class _Callbacks:
    """Calls the user's callbacks with the steps that were recorded."""

    def __init__(self, engine: Engine, on_step: Callback | None, on_eval: Callback | None):
        self._engine, self._on_step, self._on_eval = engine, on_step, on_eval

    def __call__(self, begin: int, end: int) -> None:
        record = self._engine.record
        rates = rates_by_name(rates_of_run(record, 0)) if self._on_step else {}
        for step in range(begin, min(end, int(record.steps_made[0]))):
            if self._on_step is not None:
                numbers = {name: float(x[step]) for name, x in rates.items()}
                numbers |= {name: float(x[0, step]) for name, x in record.aux.items()}
                self._on_step({"step": step, "loss": float(record.losses[0, step]), **numbers})
            if self._on_eval is not None and record.metrics and self._engine.is_evaluated(step + 1):
                metrics = {name: float(x[0, step]) for name, x in record.metrics.items()}
                self._on_eval({"step": step + 1, **metrics})


def as_is(x: Any) -> Any:
    return x


@dataclasses.dataclass(frozen=True)
class FixedOptimizer:
    """A function that returns the same optimizer for all hyperparameters."""

    optimizer: Any

    def __call__(self, x: Any) -> Any:
        return self.optimizer


def single_run(caller: str, optimizer: Any, seed: int) -> Runs:
    """Returns one run. The hyperparameters of a value are traced, so that others compile nothing."""
    if isinstance(optimizer, GradientTransformation) and jax.tree.leaves(optimizer):
        if (length := batch_length(optimizer)) is not None:
            raise bad_argument(caller, "optimizer", "one optimizer; `sweep` takes a batch", f"a batch of {length}")
        make_optimizer, hyperparams = as_is, jax.tree.map(as_hyperparam, optimizer)
    else:
        try:
            make_optimizer, hyperparams = FixedOptimizer(as_transformation(optimizer)), np.zeros(1, np.float32)
        except NotInDomain:
            raise bad_argument(caller, "optimizer", "an optimizer, lrjax's or Optax's", optimizer) from None
    return Runs(make_optimizer, hyperparams, [seed], np.zeros(1, np.int32), np.zeros(1, bool))


def as_hyperparam(x: Any) -> np.ndarray:
    """Returns [1]: a number in the dtype that formulas use."""
    return np.asarray(x, np.int32 if isinstance(x, int) else jnp.result_type(float))[None]


def guarded(caller: str, optimizer: Any, guard: Any) -> Any:
    """The optimizer, in a `guard` if it shall be."""
    if not isinstance(guard, bool):
        raise bad_argument(caller, "guard", "True or False", guard)
    if not guard or isinstance(optimizer, watched):
        return optimizer
    try:
        return watched(as_transformation(optimizer))
    except NotInDomain:
        return optimizer  # what is wrong with it is said where it is used


def check_task(caller: str, task: Any) -> None:
    if not isinstance(task, Task):
        raise bad_argument(caller, "task", "a lrjax.Task", task)


def run_length(caller: str, task: Task, steps: Any, start: Any = None) -> int:
    """Checks the argument `steps`, or returns its default."""
    if steps is None and (steps := known_steps(task)) is None:
        if isinstance(start, Run):
            raise bad_argument(caller, "steps", f"given, {counted_from(start)}", None)
        raise bad_argument(caller, "steps", "given, here or as `Task(..., steps=N)`: these data have no end", None)
    return positive_integer(caller, "steps", steps)


def eval_interval(caller: str, eval_every: Any) -> int | None:
    """Checks the argument `eval_every`."""
    return None if eval_every is None else positive_integer(caller, "eval_every", eval_every)


def positive_integer(caller: str, name: str, x: Any) -> int:
    if isinstance(x, bool) or not isinstance(x, (int, np.integer)) or not 1 <= x < 2**31:
        raise bad_argument(caller, name, "a whole number >= 1", x)
    return int(x)


def seed_list(caller: str, seeds: Any) -> tuple[int, ...]:
    """Returns the seeds 0 to `seeds` − 1, or those in the list `seeds`."""
    if not isinstance(seeds, (list, tuple, range, np.ndarray)):
        return tuple(range(positive_integer(caller, "seeds", seeds)))
    is_seed = lambda x: isinstance(x, (int, np.integer)) and not isinstance(x, bool) and 0 <= x < 2**31
    if not len(seeds) or not all(map(is_seed, seeds)) or len(set(map(int, seeds))) < len(seeds):
        raise bad_argument(caller, "seeds", "how many, or different whole numbers from 0 to 2³¹−1", seeds)
    return tuple(map(int, seeds))
