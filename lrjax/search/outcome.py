"""What the runs of an engine came to, beside their controls."""

from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.search.judge import data_words, first_not_finite
from lrjax.training.divergence import ABOVE, Control, diverged, final_loss
from lrjax.training.engine import Engine
from lrjax.training.loop import show_controls

_PARTS = 8  # of a validation set, to estimate how far its metric is a matter of its examples


def control_of(engine: Engine) -> Control:
    """Of each seed."""
    return Control(engine.record.losses[engine.runs.is_control])


def limits(engine: Engine, run_indices: np.ndarray, above: float = ABOVE) -> np.ndarray:
    """[runs]: the loss above which a run that ends there has diverged."""
    return control_of(engine).limit(above)[engine.runs.seed_index[run_indices]]


def lost(engine: Engine, run_indices: np.ndarray, above: float = ABOVE) -> np.ndarray:
    """bool [runs]: whether runs at their end have diverged."""
    record = engine.record
    return diverged(record.losses[run_indices], record.finite[run_indices], limits(engine, run_indices, above))


def scores(engine: Engine, run_indices: np.ndarray, above: float = ABOVE) -> np.ndarray:
    """[runs]: of runs at their end, by the metric that decides or the loss: lower is better, inf where one diverged."""
    record, task = engine.record, engine.task
    if task.metrics:
        score = task.score(next(iter(record.metrics.values()))[run_indices, -1])
    else:
        score = final_loss(record.losses[run_indices])
    return np.where(lost(engine, run_indices, above) | ~np.isfinite(score), np.inf, score)


def start_metric(engine: Engine) -> np.ndarray:
    """[seeds]: the metric that decides, without training; nan where there is none."""
    controls = np.flatnonzero(engine.runs.is_control)
    if not engine.task.metrics:
        return np.full(len(controls), np.nan)
    evaluated = next(iter(engine.record.metrics.values()))[controls]
    return np.array([x[np.isfinite(x)][-1] if np.isfinite(x).any() else np.nan for x in evaluated])


def start_error(engine: Engine, final: np.ndarray) -> np.ndarray:
    """[seeds]: the standard error of what training took off the metric that decides, as far as it comes from the
    examples that happen to be in the validation set: all seeds and rates are measured on the same ones, so no number of
    seeds takes it away. It is estimated from eight parts of the set, and only where the fall, to the best of `final`
    [rates, seeds], isn't far above the spread over the seeds anyway; 0 elsewhere."""
    task, seeds = engine.task, final.shape[1]
    nothing = np.zeros(seeds)
    if not task.validation_batches:
        return nothing
    start, mean = task.score(start_metric(engine))[:seeds], final.mean(axis=1)
    finite = np.isfinite(mean)
    if not finite.any() or not np.isfinite(start).all():
        return nothing
    spread = start.std() + final[int(np.argmin(np.where(finite, mean, np.inf)))].std()
    if seeds > 1 and start.mean() - mean[finite].min() > 6 * spread:
        return nothing
    examples = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), task.validation_batches[0])
    count = len(jax.tree.leaves(examples)[0])
    parts = min(_PARTS, count // 2)
    if parts < 2:
        return nothing
    each = count // parts
    split = jax.tree.map(lambda x: x[: parts * each].reshape(parts, each, *x.shape[1:]), examples)
    metric = next(iter(task.metrics.values())).function

    @jax.jit
    def measure(given: Any, split: Any) -> jax.Array:
        found = task.init(jax.random.key(given)) if is_function(task.init) else given
        return jax.lax.map(lambda batch: metric(*(found if task.has_state else (found,)), batch), split)

    given = engine.runs.seeds[:seeds] if is_function(task.init) else [task.init] * seeds
    values = np.stack([np.asarray(measure(one, split), float) for one in given])
    return np.sqrt(2 * seeds) * values.std(axis=1, ddof=1) / np.sqrt(parts)


def failure_of(engine: Engine, run_indices: np.ndarray) -> str | None:
    """What is wrong with the data, in words, if some batch has no finite loss without training either.

    A loss that is not finite is the data's doing where the control of the seed has none at that step. Asked are the
    steps at which this first happened to two runs of a seed, or to the run at the lowest rate, the first of each seed
    in `run_indices`.
    """
    record, seed_of = engine.record, engine.runs.seed_index
    asked: set[tuple[int, int]] = set()
    for seed in np.unique(seed_of[run_indices]):
        of_seed = run_indices[seed_of[run_indices] == seed]
        first = [first_not_finite(record.losses[run, : record.made[run]]) for run in of_seed]
        steps = [step for step in first if step is not None]
        asked |= {(step, int(seed)) for step in steps if steps.count(step) > 1 or step == first[0]}
    controls = np.flatnonzero(engine.runs.is_control)
    shared = []
    for step, seed in sorted(asked):
        if not engine.source.once:  # there they went along
            show_controls(engine, step, step + 1)
        if not np.isfinite(record.losses[controls[seed], step]):
            shared.append((step, seed))
    return data_words(engine.runs.seeds[shared[0][1]], shared[0][0]) if shared else None
