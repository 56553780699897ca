"""What the runs of an engine came to, beside their controls."""

import numpy as np

from lrjax.search.judge import data_words, first_not_finite
from lrjax.training.divergence import ABOVE, Control, diverged, final_loss
from lrjax.training.engine import Engine
from lrjax.training.loop import show_controls


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
