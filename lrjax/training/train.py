"""Trains one run of a task: `train`."""

import dataclasses
import pickle
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
from lrjax.training.divergence import control_from_first_losses, diverged, final_loss
from lrjax.training.engine import Engine, Runs, check_mesh
from lrjax.training.files import write_file
from lrjax.training.interrupt import Interrupted, handling_signals, warn_interrupted
from lrjax.training.kept_models import KeptModels
from lrjax.training.loop import train_to_end
from lrjax.training.parameters import is_key
from lrjax.training.program import Carry
from lrjax.training.progress import TrainStatus, progress_bar
from lrjax.training.record import Record, first_reached
from lrjax.training.task import Task
from lrjax.transforms.averaging import evaluation_params
from lrjax.transforms.base import GradientTransformation, TransformationLike, as_transformation
from lrjax.transforms.guard import guard as watched
from lrjax.transforms.guard import guard_report, guards_in
from lrjax.transforms.guard_log import GuardReport
from lrjax.value import NotInDomain, bad_argument

Callback = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """The result of a run: the record as NumPy arrays, and the trained parameters and states.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(8), batch_size=4)
    >>> run = lrjax.train(task, lrjax.sgd(lrjax.linear_schedule(0.5, 0.0, 4)), steps=4)
    >>> run.learning_rates, float(run.params)
    (array([0.5  , 0.375, 0.25 , 0.125], dtype=float32), 1.0)
    """

    params: Any  # after the last step; `evaluation_params` may be others
    model_state: Any  # None where the task has none
    opt_state: Any
    losses: np.ndarray  # [steps]: before each update; nan from where the parameters are not finite
    learning_rates: Any  # [steps]: of each update; a dict of these by group of parameters; None where unknown
    metrics: dict[str, np.ndarray]  # by name: [evaluations]; empty where it was interrupted before the first
    evaluated_at: np.ndarray  # [evaluations]: updates made before each
    aux: dict[str, np.ndarray]  # by name: [steps]
    seed: int
    diverged: bool  # by the rule of `sweep`
    modes: dict[str, str]  # of the metrics: "min" or "max"
    task: str  # its name
    optimizer: str  # its repr
    interrupted: bool = False  # whether a signal stopped it before its last step
    as_model: Callable[[Any, Any], Any] | None = None  # of the task

    @property
    def model(self) -> Any:
        """The trained model, an instance of the class of its framework, with the `evaluation_params`.

        Raises:
          ValueError: the task has no `as_model`, or the run was loaded without its task.
        """
        if self.as_model is None:
            raise ValueError("Run.model: no model is known, use `params`; tasks made by `Task.from_nnx` and the like "
                             "have one. A saved run needs its task: Run.load(path, task).")  # fmt: skip
        return self.as_model(self.evaluation_params, self.model_state)

    @property
    def evaluation_params(self) -> Any:
        """The parameters to evaluate with, which the metrics were measured with: an average where the optimizer keeps
        one (`ema_params`), the slow ones of `lookahead`, else `params`; see `lrjax.evaluation_params`."""
        return evaluation_params(self.opt_state, self.params)

    @property
    def final(self) -> float:
        """The first metric after the last step, or without metrics the mean loss over the last tenth of the steps."""
        if self.metrics:
            return float(next(iter(self.metrics.values()))[-1])
        return float(final_loss(self.losses[None])[0])

    def steps_to(self, metric: str, value: float) -> int | None:
        """Returns the updates made when the metric first was as good as `value`; None where it never was. The metric
        may be "loss", the loss of a batch.

        Raises:
          ValueError: there is no such metric.
        """
        if metric == "loss":
            values, at, mode = self.losses, np.arange(len(self.losses)), "min"
        elif metric in self.metrics:
            values, at, mode = self.metrics[metric], self.evaluated_at, self.modes[metric]
        else:
            raise bad_argument("Run.steps_to", "metric", f"one of {['loss', *self.metrics]}", metric)
        reached = first_reached(values, at, value, mode)
        return int(reached) if np.isfinite(reached) else None

    @property
    def guard(self) -> GuardReport | None:
        """What `guard` did; None where the optimizer has none, or several."""
        return guard_report(self.opt_state) if len(guards_in(self.opt_state)) == 1 else None

    def __repr__(self) -> str:
        steps = f"{len(self.losses)} steps{', interrupted' if self.interrupted else ''}"
        return f"Run({self.task}, {self.optimizer}, seed {self.seed}, {steps}: ends at {self.final:.4g})"

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each step, for `pandas.DataFrame` and loggers: loss, rate, auxiliary scalars, and the
        metrics after it, None where they were not evaluated."""
        at = {int(step) - 1: i for i, step in enumerate(self.evaluated_at)}
        rates = _rates_by_name(self.learning_rates)
        rows = []
        for step in range(len(self.losses)):
            row: dict[str, Any] = {"step": step, "loss": float(self.losses[step])}
            row |= {name: float(x[step]) for name, x in {**rates, **self.aux}.items()}
            row |= {name: float(x[at[step]]) if step in at else None for name, x in self.metrics.items()}
            rows.append(row)
        return rows

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a pickle file, since parameters and states may be of any class."""
        write_file(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns the bytes that `save` writes."""
        fields = {name: x for name, x in vars(self).items() if name != "as_model"}  # not every function pickles
        return pickle.dumps(jax.tree.map(_as_saved, fields))

    @classmethod
    def load(cls, path: str | PathLike[str], task: Task | None = None) -> "Run":
        """Reads what `save` wrote; `model` needs the task. A pickle can run code: read only files that you trust."""
        with open(path, "rb") as file:
            fields = pickle.load(file)
        as_model = None if task is None else task.as_model
        return cls(**jax.tree.map(_as_loaded, fields, is_leaf=lambda x: isinstance(x, _SavedKey)), as_model=as_model)

    def plot(self, ax: Any = None) -> Any:
        """Plots the smoothed loss, the metrics and the rate over the steps with matplotlib (extra: plot). Returns the
        axes."""
        from lrjax.report.plots import plot_run

        return plot_run(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import run_html

        return run_html(self)


@dataclasses.dataclass(frozen=True)
class _SavedKey:
    data: np.ndarray


def _as_saved(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return _SavedKey(np.asarray(jax.random.key_data(x))) if is_key(x) else np.asarray(x)
    return x


def _as_loaded(x: Any) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(x.data)) if isinstance(x, _SavedKey) else x


def _rates_by_name(rates: Any) -> dict[str, np.ndarray]:
    if rates is None:
        return {}
    if isinstance(rates, dict):
        return {f"learning_rate/{group}": x for group, x in rates.items()}
    return {"learning_rate": rates}


def train(
    task: Task,
    optimizer: TransformationLike,
    *,
    steps: int | None = None,
    seed: int = 0,
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
      steps: updates. Default: those of the task, or the number of batches, where that is known.
      seed: of the initial parameters, `init(jax.random.key(seed))`, the order of the examples and the keys of the loss.
      eval_every: steps between two evaluations of the task's metrics, which are always evaluated after the last step.
      guard: whether to watch the run: where it goes wrong it goes back and on at a lower rate, see `lrjax.guard`;
        `Run.guard` is a report. For other settings give the optimizer inside of a `guard`.
      mesh: the device; default: the first. With the task's specs: the devices over which the run is sharded.
      checkpoint: a folder (extra: checkpoint), as for `sweep`: the same call resumes a run that was killed.
      on_step: called with a dict for each step, in order: "step", "loss", "learning_rate" and auxiliary scalars. The
        compiled program makes many steps in one call, so these calls come later, many at once.
      on_eval: called with a dict for each evaluation: "step", the updates made before it, and the metrics.
      progress: whether to show a bar, in a terminal or a notebook (needs rich; in a notebook ipywidgets too).

    Raises:
      ValueError: an argument is invalid; the message says which, and what it takes.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda params, batch: jnp.mean((batch @ params - 1.0) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(2), jnp.eye(2), batch_size=2)
    >>> run = lrjax.train(task, lrjax.sgd(0.5), steps=20)
    >>> run.params.round(3), run.losses.shape
    (Array([1., 1.], dtype=float32), (20,))
    """
    check_task("train", task)
    check_mesh("train", mesh)
    steps = run_length("train", task, steps)
    seed = seed_list("train", [seed])[0]
    optimizer = guarded("train", optimizer, guard)
    runs = single_run("train", optimizer, seed)
    hashed = checkpoint is not None
    every = eval_interval("train", eval_every)
    engine = Engine("train", task, runs, steps, eval_every=every, mesh=mesh, hashed=hashed)
    kept, steps_made = KeptModels(engine, "all", np.zeros(1, int)), steps
    with ExitStack() as stack:
        stack.enter_context(handling_signals())
        saver = None
        if checkpoint is not None:
            saver = stack.enter_context(closing(Checkpoint("train", checkpoint, fingerprint(engine))))
        show_bar = stack.enter_context(progress_bar(steps, TrainStatus(engine), progress))
        call_back = _Callbacks(engine, on_step, on_eval)

        def show(run_indices: np.ndarray, begin: int, end: int) -> None:
            show_bar(run_indices, begin, end)
            call_back(begin, end)

        try:
            train_to_end(engine, kept, show, saver)
        except Interrupted:
            if not (steps_made := int(engine.record.position[1])):
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
        rates = _rates_by_name(_rates_of_run(record, 0)) if self._on_step else {}
        for step in range(begin, min(end, int(record.steps_made[0]))):
            if self._on_step is not None:
                numbers = {name: float(x[step]) for name, x in rates.items()}
                numbers |= {name: float(x[0, step]) for name, x in record.aux.items()}
                self._on_step({"step": step, "loss": float(record.losses[0, step]), **numbers})
            if self._on_eval is not None and record.metrics and self._engine.is_evaluated(step + 1):
                metrics = {name: float(x[0, step]) for name, x in record.metrics.items()}
                self._on_eval({"step": step + 1, **metrics})


def build_run(
    engine: Engine, carry: Carry, run: int, optimizer: str, limit: float, steps_made: int | None = None
) -> Run:
    """Builds the result of a run of an engine, at its end, or where it was interrupted after `steps_made`."""
    record, steps = engine.record, engine.steps if steps_made is None else steps_made
    at = engine.evaluated_at[engine.evaluated_at <= steps]
    carry = engine.to_devices(carry)
    return Run(
        params=carry.params,
        model_state=carry.model_state,
        opt_state=carry.opt_state,
        losses=record.losses[run, :steps].copy(),
        learning_rates=_rates_of_run(record, run, steps),
        metrics={name: x[run, at - 1] for name, x in record.metrics.items() if len(at)},
        evaluated_at=at if record.metrics else at[:0],
        aux={name: x[run, :steps].copy() for name, x in record.aux.items()},
        seed=int(engine.runs.seeds[engine.runs.seed_index[run]]),
        diverged=bool(diverged(record.losses[[run], :steps], record.finite[[run]], np.array([limit]))[0]),
        modes={name: metric.mode for name, metric in engine.program.metrics},
        task=engine.task.name,
        optimizer=optimizer,
        interrupted=steps < engine.steps,
        as_model=engine.task.as_model,
    )


def _rates_of_run(record: Record, run: int, steps: int | None = None) -> Any:
    rates = {name: x[run, :steps].copy() for name, x in record.learning_rates.items()}
    if not rates:
        return None
    return rates[""] if set(rates) == {""} else rates


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


def run_length(caller: str, task: Task, steps: Any) -> int:
    """Checks the argument `steps`, or returns its default."""
    if steps is None and (steps := known_steps(task)) is None:
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
