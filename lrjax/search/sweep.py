"""Many runs of one task as one compiled program."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lrjax.search.judge import data_words, first_not_finite
from lrjax.search.result import SweepResult
from lrjax.search.settings import Settings, settings_of
from lrjax.training.batches import depends_on_seed
from lrjax.training.checkpoint import Checkpoint, identity
from lrjax.training.divergence import ABOVE, Control, diverged, final_loss
from lrjax.training.engine import Engine, Runs, check_mesh
from lrjax.training.kept import Keep, Kept
from lrjax.training.loop import train_controls, train_to_end
from lrjax.training.progress import SweepWords, bar
from lrjax.training.task import Task
from lrjax.training.train import check_task, interval, made_run, run_length, seed_list, whole_number
from lrjax.value import bad_argument

SAME_SEEDS = "Neither the start nor the data depend on the seed, so one run was made of each setting."


def sweep(
    task: Task,
    optimizer: Any,
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

    Beside the runs a control of each seed goes through the first batches without an update, so that what the data do by
    themselves isn't taken for what a rate did.

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
    seed_numbers = given if depends_on_seed(task) else given[:1]
    settings = settings_of(optimizer, learning_rates, steps)
    runs, setting_of = _runs(settings, seed_numbers)
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
    kept = Kept(engine, keep, setting_of, lambda run_indices: _scores(engine, run_indices, above))
    with ExitStack() as stack:
        saved = None
        if checkpoint is not None:
            names = {"learning_rates": settings.learning_rates.tolist(), **identity(engine)}
            saved = stack.enter_context(closing(Checkpoint("sweep", checkpoint, names)))
        words = SweepWords(engine, settings.learning_rates[setting_of])
        show = stack.enter_context(bar(int((setting_of >= 0).sum()) * steps, words, progress))
        train_to_end(engine, kept, show, saved)
    return _result(engine, kept, settings, above, () if seed_numbers == given else (SAME_SEEDS,))


def positive_number(caller: str, name: str, x: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float, np.number)) or not 0 < x < float("inf"):
        raise bad_argument(caller, name, "a finite number > 0", x)
    if x > np.finfo(np.float32).max:
        raise bad_argument(caller, name, "a number that float32 can hold", x)
    return float(x)


def _runs(settings: Settings, seeds: tuple[int, ...]) -> tuple[Runs, np.ndarray]:
    """(every setting with every seed, then the control of each seed; the setting of each, −1 for a control)."""
    count, controls = len(settings.learning_rates), len(seeds)
    numbers = jax.tree.map(lambda x: np.concatenate([x.repeat(controls, axis=0), x[:1].repeat(controls, axis=0)]),
                           settings.tree)  # fmt: skip
    setting_of = np.append(np.arange(count).repeat(controls), np.full(controls, -1))
    seed_index = np.tile(np.arange(controls, dtype=np.int32), count + 1)
    return Runs(settings.make, numbers, seeds, seed_index, setting_of < 0), setting_of


def control_of(engine: Engine) -> Control:
    """Of each seed, as many steps as are known."""
    controls = engine.runs.is_control
    return Control(engine.record.losses[controls][:, : engine.record.made[controls].min(initial=engine.steps)])


def _scores(engine: Engine, run_indices: np.ndarray, above: float) -> np.ndarray:
    """Of whole runs, lower is better; inf where they diverged."""
    record, task = engine.record, engine.task
    limit = control_of(engine).limit(above)[engine.runs.seed_index[run_indices]]
    losses = record.losses[run_indices]
    lost = diverged(losses, record.finite[run_indices], limit)
    score = final_loss(losses) if not task.metrics else task.score(next(iter(record.metrics.values()))[run_indices, -1])
    return np.where(lost | ~np.isfinite(score), np.inf, score)


def failure_of(engine: Engine, run_indices: np.ndarray) -> str | None:
    """What is wrong with the data, in words, if some batch has no finite loss without training either. `run_indices`
    are runs at the lowest rate, with which it is hardly the rate that did it."""
    record, seed_index = engine.record, engine.runs.seed_index[run_indices]
    first = [first_not_finite(record.losses[run, : record.made[run]]) for run in run_indices]
    last = max((step for step in first if step is not None), default=None)
    if last is None:
        return None
    if last >= record.made[engine.runs.is_control].min():
        train_controls(engine, last + 1)
    control = control_of(engine)
    shared = [(step, seed) for step, seed in zip(first, seed_index, strict=True)
              if step is not None and not np.isfinite(control.losses[seed, step])]  # fmt: skip
    return data_words(engine.runs.seeds[min(shared)[1]], min(shared)[0]) if shared else None


def _result(engine: Engine, kept: Kept, settings: Settings, above: float, notes: tuple[str, ...]) -> SweepResult:
    record, seeds, steps = engine.record, len(engine.runs.seeds), engine.steps
    count = len(settings.learning_rates)
    shape, whole = (count, seeds), slice(0, count * seeds)
    lowest = int(np.argmin(np.nan_to_num(settings.learning_rates, nan=np.inf))) * seeds
    failure = failure_of(engine, np.arange(lowest, lowest + seeds))
    control = control_of(engine)
    limit = np.tile(control.limit(above), count)
    at = engine.evaluated_at
    metrics = {name: x[whole][:, at - 1].reshape(*shape, -1) for name, x in record.metrics.items()}
    controls = np.flatnonzero(engine.runs.is_control)
    first = next(iter(record.metrics.values()), np.full((engine.count, steps), np.nan))[controls]
    start = [x[np.isfinite(x)][-1] if np.isfinite(x).any() else np.nan for x in first]
    made = lambda run: made_run(engine, kept.carried[run], run, settings.words(run // seeds), float(limit[run]))
    scores = _scores(engine, np.arange(count * seeds), above).reshape(shape)
    best = None
    if kept.carried and np.isfinite(scores.mean(axis=1)).any():
        setting = int(np.argmin(scores.mean(axis=1)))
        best = setting * seeds + int(np.argmin(scores[setting]))
    is_all = kept.keep == "all"
    return SweepResult(
        settings.learning_rates,
        settings.settings,
        record.losses[whole].reshape(*shape, steps),
        metrics,
        at if metrics else at[:0],
        {name: metric.mode for name, metric in engine.task.metrics.items()},
        diverged(record.losses[whole], record.finite[whole], limit).reshape(shape),
        control.losses,
        np.array(start),
        failure,
        notes,
        None if best is None else made(best),
        [[made(i * seeds + j) for j in range(seeds)] for i in range(count)] if is_all else None,
    )
