"""What the runs of an engine came to, beside their controls."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.search.judge import data_words, first_not_finite
from lrjax.training.divergence import ABOVE, Control, diverged, final_loss
from lrjax.training.engine import Engine
from lrjax.training.loop import show_controls
from lrjax.training.program import Carry

_PARTS = 8  # of a validation set, to estimate how far its metric is a matter of its examples
_STUDENT = 1.2  # by which two standard errors that come from so few parts are too small
_FAR = 10.0  # standard errors, of numbers as large as the metric itself, above which it isn't estimated


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


class SamplingError:
    """How far what training took off the metric that decides comes from the examples that happen to be in the
    validation set: all seeds and rates are measured on the same ones, so no number of seeds takes it away."""

    def __init__(self, engine: Engine):
        task = self.task = engine.task
        self.engine, self.measured = engine, {}
        metric, as_arguments = next(iter(task.metrics.values()), None), lambda x: x if task.has_state else (x,)
        self._measure = jax.jit(
            lambda found, parts: jax.lax.map(lambda part: metric.function(*as_arguments(found), part), parts)
        )

    def of_fall(self, final: np.ndarray, carried: Callable[[int], tuple[int, Carry] | None]) -> np.ndarray:
        """[seeds]: the standard error, to the best of `final` [rates, seeds]; 0 where it doesn't matter, since the fall
        is far above the noise of any metric of so many examples, or can't be known. It comes from eight parts of the
        set: from the difference of a trained model to its start in each, or from the start alone, where no trained one
        was kept.

        Args:
          carried: of a rate a run that was kept, and what it carried.
        """
        seeds, mean = final.shape[1], final.mean(axis=1)
        nothing, finite = np.zeros(seeds), np.isfinite(mean)
        if not self.task.validation_batches or not self.task.metrics or not finite.any():
            return nothing
        start = self.task.score(start_metric(self.engine))[:seeds]
        if not np.isfinite(start).all():
            return nothing
        best = int(np.argmin(np.where(finite, mean, np.inf)))
        examples = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), self.task.validation_batches[0])
        count = len(jax.tree.leaves(examples)[0])
        size = max(abs(start.mean()), abs(mean[best]))
        each = count // min(_PARTS, max(count // 2, 1))
        if count < 4 or start.mean() - mean[best] > _FAR / np.sqrt(count) * size:
            return nothing
        parts = jax.tree.map(lambda x: x[: count // each * each].reshape(-1, each, *x.shape[1:]), examples)
        run, carry = carried(best) or (None, None)
        seed = 0 if run is None else int(self.engine.runs.seed_index[run])
        try:
            values = self._of_start(seed, parts) * np.sqrt(2)
            if carry is not None:
                values = self._of_run(run, carry, parts) - self._of_start(seed, parts)
        except (TypeError, ValueError):  # a metric that takes no other number of examples
            return nothing
        return np.full(seeds, _STUDENT * np.sqrt(seeds) * values.std(ddof=1) / np.sqrt(len(values)))

    def _of_start(self, seed: int, parts: Any) -> np.ndarray:
        init = self.task.init
        make = lambda: jax.jit(init)(jax.random.key(self.engine.runs.seeds[seed])) if is_function(init) else init
        return self._once(("start", seed), make, parts)

    def _of_run(self, run: int | None, carry: Carry, parts: Any) -> np.ndarray:
        carry = self.engine.on_devices(carry)
        return self._once(
            run, lambda: (carry.params, carry.model_state) if self.task.has_state else carry.params, parts
        )

    def _once(self, key: Any, make: Callable[[], Any], parts: Any) -> np.ndarray:
        if key not in self.measured:
            self.measured[key] = np.asarray(self._measure(make(), parts), float)
        return self.measured[key]


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
