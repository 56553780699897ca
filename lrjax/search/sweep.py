"""Many runs of one task as one compiled program."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lrjax.search.outcome import SamplingError, control_of, failure_of, limits, lost, scores, start_metric
from lrjax.search.result import SweepResult
from lrjax.search.settings import Settings, notes_of, settings_of
from lrjax.training.batches import distinct_seeds
from lrjax.training.checkpoint import Checkpoint, identity
from lrjax.training.divergence import ABOVE
from lrjax.training.engine import Engine, check_mesh, with_controls
from lrjax.training.interrupt import Interrupted, handling_signals, note_interrupted
from lrjax.training.kept import Keep, Kept
from lrjax.training.loop import train_to_end
from lrjax.training.progress import SweepWords, bar
from lrjax.training.task import Task
from lrjax.training.train import Run, check_task, interval, made_run, run_length, seed_list, whole_number
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
    diverged_above: float = ABOVE,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> SweepResult:
    """Trains one task with many settings and several seeds, compiled once.

    Another sweep of the same shape, with other numbers, compiles nothing. The runs are spread over all devices of all
    processes. On a CPU with several cores start the process with as many devices as it has cores, before JAX does
    anything: `jax.config.update("jax_num_cpu_devices", cores)`.

    Beside the runs a control of each seed sees the first and the last batches without an update, so that what the data
    do by themselves isn't taken for what a rate did.

    Args:
      task: what is trained.
      optimizer: a value with arrays as hyperparameters, which are zipped (for their product see `grid`), a schedule's
        included; or a function from a rate to a transformation, lrjax's or Optax's, with `learning_rates`.
      learning_rates: the rates, [runs]; a value gets them in place of its own, and a schedule keeps its shape.
      steps: updates of each run. Default: those of the task, or as many as there are batches, where that is known.
      seeds: how many runs of each setting, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics; they are evaluated after the last step always.
      keep: which trained models to return: the "best", "all", or None.
      mesh: the devices; default: all.
      runs_per_device: runs that a device vectorises; others wait for their turn. Default: on a CPU 1, which compiles
        fastest and suits models of every size (with 8 at once, long sweeps of some small models take two thirds of the
        time, and those of wide layers more); elsewhere as many as its memory holds.
      stop_when_diverged: whether a run whose parameters are not finite costs no more time, where runs come one after
        the other.
      diverged_above: a run has diverged when its parameters are not finite, or its loss ends above that of the control
        by this multiple of its size and spread over the batches. One that rises and comes back has not.
      checkpoint: a folder (extra: checkpoint), where the sweep is saved about every second, unless saving would take
        more than a tenth of the time. The same call goes on where another was stopped or killed, and gives bit for bit
        the same; an iterator has to begin anew. A folder that holds another sweep, or one of other data, is refused.
      progress: a bar with steps/s, the best rate and the number of diverged runs, in a terminal or a notebook
        (with rich; in a notebook with ipywidgets too).

    Raises:
      ValueError: an argument is not of these; the message says which and what it takes.

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
    runs, setting_of = with_controls(settings.make, settings.tree, seed_numbers, np.arange(len(seed_numbers)))
    engine = Engine(
        "sweep",
        task,
        runs,
        steps,
        eval_every=interval("sweep", eval_every),
        mesh=mesh,
        vectorized=None if runs_per_device is None else whole_number("sweep", "runs_per_device", runs_per_device),
        stop=stop_when_diverged,
        hashed=checkpoint is not None,
    )
    kept = Kept(engine, keep, setting_of, lambda run_indices: scores(engine, run_indices, above))
    with ExitStack() as stack:
        stack.enter_context(handling_signals())
        saved = None
        if checkpoint is not None:
            names = {"learning_rates": settings.learning_rates.tolist(), **identity(engine)}
            saved = stack.enter_context(closing(Checkpoint("sweep", checkpoint, names)))
        words = SweepWords(engine, settings.learning_rates[setting_of])
        show = stack.enter_context(bar(int((setting_of >= 0).sum()) * steps, words, progress))
        try:
            train_to_end(engine, kept, show, saved)
        except Interrupted:
            if not kept.settings_finished.any():
                raise
    notes = (*notes_of(settings.make), *(() if seed_numbers == given else (SAME_SEEDS,)))
    return _result(engine, kept, settings, above, notes)


def positive_number(caller: str, name: str, x: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float, np.number)) or not 0 < x < float("inf"):
        raise bad_argument(caller, name, "a finite number > 0", x)
    if x > float(np.finfo(np.float32).max):
        raise bad_argument(caller, name, "a number that float32 can hold", x)
    return float(x)


def _result(engine: Engine, kept: Kept, settings: Settings, above: float, notes: tuple[str, ...]) -> SweepResult:
    record, seeds, finished = engine.record, len(engine.runs.seeds), kept.settings_finished
    if not finished.all():
        words = f"{finished.sum()} of {len(finished)} settings were trained to the end, and are here."
        notes, settings = (*notes, note_interrupted("sweep", words)), settings.of(finished)
    runs = np.flatnonzero(finished)[:, None] * seeds + np.arange(seeds)
    shape, whole = runs.shape, runs.ravel()
    ascending = np.argsort(settings.learning_rates, kind="stable")
    failure = failure_of(engine, runs[ascending].ravel())
    limit, at = limits(engine, whole, above).reshape(shape), engine.evaluated_at
    metrics = {name: x[whole][:, at - 1].reshape(*shape, -1) for name, x in record.metrics.items()}

    def made(i: int, j: int) -> Run:
        return made_run(engine, kept.carried[int(runs[i, j])], int(runs[i, j]), settings.words(i), float(limit[i, j]))

    carried = lambda setting: ((int(i), kept.carried[int(i)]) for i in runs[setting] if int(i) in kept.carried)
    score, best = scores(engine, whole, above).reshape(shape), None
    if kept.carried and np.isfinite(score.mean(axis=1)).any():
        setting = int(np.argmin(score.mean(axis=1)))
        best = made(setting, int(np.argmin(score[setting])))
    return SweepResult(
        settings.learning_rates,
        settings.settings,
        record.losses[whole].reshape(*shape, engine.steps),
        metrics,
        at if metrics else at[:0],
        {name: metric.mode for name, metric in engine.task.metrics.items()},
        lost(engine, whole, above).reshape(shape),
        control_of(engine).losses,
        start_metric(engine),
        SamplingError(engine, lambda setting: next(carried(setting), None)).of_fall(score),
        failure,
        notes,
        best,
        [[made(i, j) for j in range(seeds)] for i in range(len(runs))] if kept.keep == "all" else None,
    )
