"""Trains many runs of one task in one compiled program: `sweep`."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lrjax.search.outcome import (
    SamplingError,
    control_of,
    data_failure,
    diverged_runs,
    divergence_limits,
    final_scores,
    start_metric,
)
from lrjax.search.result import SweepResult
from lrjax.search.settings import Settings, notes_of, settings_of
from lrjax.training.batches import distinct_seeds
from lrjax.training.checkpoint import Checkpoint, fingerprint
from lrjax.training.divergence import DIVERGED_ABOVE
from lrjax.training.engine import Engine, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, warn_interrupted
from lrjax.training.kept_models import Keep, KeptModels
from lrjax.training.loop import train_to_end
from lrjax.training.progress import SweepStatus, progress_bar
from lrjax.training.result import Run, build_run
from lrjax.training.runs import with_controls
from lrjax.training.task import Task
from lrjax.training.train import check_task, eval_interval, positive_integer, run_length, seed_list
from lrjax.transforms.base import TransformationLike
from lrjax.value import bad_argument

SAME_SEEDS = "Neither the start nor the data depend on the seed, so one run was made of each setting."


def sweep(
    task: Task,
    optimizer: TransformationLike | Callable[..., Any],
    *,
    learning_rates: Sequence[float] | np.ndarray | jax.Array | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 1,
    eval_every: int | None = None,
    keep: Keep = "best",
    mesh: Mesh | None = None,
    runs_per_device: int | None = None,
    stop_when_diverged: bool = True,
    diverged_above: float = DIVERGED_ABOVE,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> SweepResult:
    """Trains one task with many settings and several seeds, compiled once.

    Another sweep of the same shape, with other numbers, compiles nothing. The runs are distributed over all devices of
    all processes. On a CPU with several cores make each core a device, before JAX does anything:
    `jax.config.update("jax_num_cpu_devices", cores)`.

    For each seed a control run sees the first and the last batches without an update, so that changes of the loss that
    come from the data aren't attributed to a rate.

    Args:
      task: the model, loss and data.
      optimizer: a value with arrays as hyperparameters, also of its schedule, which are zipped (for their product see
        `grid`); or, with `learning_rates`, a function from a rate to a transformation, lrjax's or Optax's.
      learning_rates: the rates, [settings]; they replace that of a value, and scale its schedule.
      steps: updates of each run. Default: those of the task, or the number of batches, where that is known.
      seeds: how many runs of each setting, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics, which are always evaluated after the last step.
      keep: which trained models to return: the "best", "all", or None.
      mesh: the devices; default: all.
      runs_per_device: runs that a device vectorises; others are trained after them. Default: on a CPU 1, which compiles
        fastest and suits models of every size (with 8 at once, long sweeps of some small models take two thirds of the
        time, and those of wide layers more); elsewhere as many as its memory holds.
      stop_when_diverged: whether a run stops when its parameters are not finite; vectorised runs stop together.
      diverged_above: a run has diverged when its parameters are not finite, or its final loss is above that of the
        control by this multiple of its size and spread over the batches. One that rises and comes back has not.
      checkpoint: a folder (extra: checkpoint), where the sweep is saved about every second, unless saving would take
        more than a tenth of the time. The same call resumes a sweep that was stopped or killed, with bitwise the same
        result; an iterator must start from its first batch. A folder of another sweep, or of other data, is refused.
      progress: whether to show a bar with steps/s, the best rate and the number of diverged runs, in a terminal or a
        notebook (needs rich; in a notebook ipywidgets too).

    Raises:
      ValueError: an argument is invalid; the message says which, and what it takes.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((20, 2)), stacked=True)
    >>> result = lrjax.sweep(task, lrjax.sgd(jnp.array([0.01, 0.4, 1.5])))
    >>> result.best_learning_rate, result.diverged[:, 0]
    (0.4, array([False, False,  True]))
    >>> result.run.params
    Array([1., 1.], dtype=float32)
    """
    check_task("sweep", task)
    check_mesh("sweep", mesh)
    steps = run_length("sweep", task, steps)
    if keep not in ("best", "all", None):
        raise bad_argument("sweep", "keep", '"best", "all" or None', keep)
    above = positive_number("sweep", "diverged_above", diverged_above)
    given = seed_list("sweep", seeds)
    seed_numbers = distinct_seeds(task, given)
    settings = settings_of(optimizer, learning_rates, steps)
    all_seeds = np.arange(len(seed_numbers))
    runs, setting_of = with_controls(settings.make_optimizer, settings.hyperparams, seed_numbers, all_seeds)
    engine = Engine(
        "sweep",
        task,
        runs,
        steps,
        eval_every=eval_interval("sweep", eval_every),
        mesh=mesh,
        runs_per_device=None
        if runs_per_device is None
        else positive_integer("sweep", "runs_per_device", runs_per_device),
        stop_diverged=stop_when_diverged,
        hashed=checkpoint is not None,
    )
    kept = KeptModels(engine, keep, setting_of, lambda run_indices: final_scores(engine, run_indices, above))
    with ExitStack() as stack:
        stack.enter_context(handling_signals())
        saver = None
        if checkpoint is not None:
            names = {"learning_rates": settings.learning_rates.tolist(), **fingerprint(engine)}
            saver = stack.enter_context(closing(Checkpoint("sweep", checkpoint, names)))
        status = SweepStatus(engine, settings.learning_rates[setting_of])
        show = stack.enter_context(progress_bar(int((setting_of >= 0).sum()) * steps, status, progress))
        try:
            train_to_end(engine, kept, show, saver)
        except Interrupted:
            if not kept.settings_finished.any():
                raise
    notes = (*notes_of(settings.make_optimizer), *(() if seed_numbers == given else (SAME_SEEDS,)))
    return _result(engine, kept, settings, above, notes)


def positive_number(caller: str, name: str, x: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float, np.number)) or not 0 < x < float("inf"):
        raise bad_argument(caller, name, "a finite number > 0", x)
    if x > float(np.finfo(np.float32).max):
        raise bad_argument(caller, name, "a number that float32 can hold", x)
    return float(x)


def _result(engine: Engine, kept: KeptModels, settings: Settings, above: float, notes: tuple[str, ...]) -> SweepResult:
    record, seeds, finished = engine.record, len(engine.runs.seeds), kept.settings_finished
    if not finished.all():
        words = f"{finished.sum()} of {len(finished)} settings were trained to the end, and are here."
        notes, settings = (*notes, warn_interrupted("sweep", words)), settings.select(finished)
    runs = np.flatnonzero(finished)[:, None] * seeds + np.arange(seeds)  # [settings, seeds]
    shape, run_indices = runs.shape, runs.ravel()
    ascending = np.argsort(settings.learning_rates, kind="stable")
    failure = data_failure(engine, runs[ascending].ravel())
    limit, at = divergence_limits(engine, run_indices, above).reshape(shape), engine.evaluated_at
    metrics = {name: x[run_indices][:, at - 1].reshape(*shape, -1) for name, x in record.metrics.items()}

    def run_of(i: int, j: int) -> Run:
        run, optimizer = int(runs[i, j]), settings.optimizer_repr(i)
        return build_run(engine, kept.carried[run], run, optimizer, float(limit[i, j]))

    carried = lambda setting: ((int(i), kept.carried[int(i)]) for i in runs[setting] if int(i) in kept.carried)
    score, best = final_scores(engine, run_indices, above).reshape(shape), None
    if kept.carried and np.isfinite(score.mean(axis=1)).any():
        setting = int(np.argmin(score.mean(axis=1)))
        best = run_of(setting, int(np.argmin(score[setting])))
    return SweepResult(
        settings.learning_rates,
        settings.varied,
        record.losses[run_indices].reshape(*shape, engine.steps),
        metrics,
        at if metrics else at[:0],
        {name: metric.mode for name, metric in engine.task.metrics.items()},
        diverged_runs(engine, run_indices, above).reshape(shape),
        control_of(engine).losses,
        start_metric(engine),
        SamplingError(engine, lambda setting: next(carried(setting), None)).fall_error(score),
        failure,
        notes,
        best,
        [[run_of(i, j) for j in range(seeds)] for i in range(len(runs))] if kept.keep == "all" else None,
    )
