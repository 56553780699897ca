"""What the runs of an engine came to, beside their controls."""

from collections.abc import Callable
from functools import cached_property
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
    """How far the metric that decides comes from the examples that happen to be in the validation set: all seeds and
    rates are measured on the same ones, so no number of seeds takes it away. It shows in eight parts of the set.

    Args:
      engine: what trained the runs.
      kept: of a rate a run whose model was kept, and what it carried; None where there is none.
    """

    def __init__(self, engine: Engine, kept: Callable[[int], tuple[int, Carry] | None]):
        task = self.task = engine.task
        self.engine, self.kept, self.measured = engine, kept, {}
        functions = [metric.function for metric in task.metrics.values()]  # the first one decides
        as_arguments = lambda x: x if task.has_state else (x,)
        self._measure = jax.jit(
            lambda found, parts: jax.lax.map(lambda part: functions[0](*as_arguments(found), part), parts)
        )

    def of_fall(self, final: np.ndarray) -> np.ndarray:
        """[seeds]: the standard error of what training took off, to the best of `final` [rates, seeds]; 0 where it
        doesn't matter, since the fall is far above the noise of any metric of so many examples, or can't be known. It
        comes from the differences of a trained model to its start, or from the start alone, where none was kept."""
        seeds, mean = final.shape[1], final.mean(axis=1)
        if not self.task.metrics or self._parts is None or not np.isfinite(mean).any():
            return np.zeros(seeds)
        start, best = self.task.score(start_metric(self.engine))[:seeds].mean(), _best(mean)
        each = jax.tree.leaves(self._parts)[0].shape[:2]
        far = _FAR / np.sqrt(np.prod(each)) * max(abs(start), abs(mean[best]))
        if not start - mean[best] <= far:
            return np.zeros(seeds)
        kept = self.kept(best)
        begun = self._of_start(0 if kept is None else int(self.engine.runs.seed_index[kept[0]]))
        difference = np.sqrt(2) * begun if kept is None else self._of_run(*kept) - begun
        return np.full(seeds, np.sqrt(seeds) * _error(difference))

    def between(self, final: np.ndarray) -> np.ndarray:
        """[rates]: the standard error of the difference to the best; 0 where it isn't known."""
        mean, error = final.mean(axis=1), np.zeros(len(final))
        if not self.task.metrics or self._parts is None or not np.isfinite(mean).any():
            return error
        kept = {rate: self.kept(rate) for rate in np.flatnonzero(np.isfinite(mean)).tolist()}
        values = {rate: self._of_run(*one) for rate, one in kept.items() if one is not None}
        for rate, of_rate in values.items():
            error[rate] = _error(of_rate - values[_best(mean)])
        return error

    @cached_property
    def _parts(self) -> Any:
        """[parts, examples, ...]: of the validation set; None where there are too few."""
        if not self.task.validation_batches:
            return None
        examples = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), self.task.validation_batches[0])
        count = len(jax.tree.leaves(examples)[0])
        each = max(count // _PARTS, 2)
        split = lambda x: x[: count // each * each].reshape(-1, each, *x.shape[1:])
        return jax.tree.map(split, examples) if count // each > 1 else None

    def _of_start(self, seed: int) -> np.ndarray:
        init = self.task.init
        make = lambda: jax.jit(init)(jax.random.key(self.engine.runs.seeds[seed])) if is_function(init) else init
        return self._once(("start", seed), make)

    def _of_run(self, run: int, carry: Carry) -> np.ndarray:
        def make() -> Any:
            placed = self.engine.on_devices(carry)
            return (placed.params, placed.model_state) if self.task.has_state else placed.params

        return self._once(run, make)

    def _once(self, key: Any, make: Callable[[], Any]) -> np.ndarray:
        """[parts]: the metric in each; 0 where it takes no other number of examples than the whole set has."""
        if key not in self.measured:
            try:
                self.measured[key] = np.asarray(self._measure(make(), self._parts), float)
            except (TypeError, ValueError):
                self.measured[key] = np.zeros(2)
        return self.measured[key]


def _best(mean: np.ndarray) -> int:
    return int(np.argmin(np.where(np.isfinite(mean), mean, np.inf)))


def _error(parts: np.ndarray) -> float:
    """The standard error of their mean."""
    return float(_STUDENT * parts.std(ddof=1) / np.sqrt(len(parts)))


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
