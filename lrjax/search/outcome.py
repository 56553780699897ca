"""Evaluates the runs of an engine: their scores, whether they diverged, and sampling errors."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.search.judge import data_failure_message, first_not_finite
from lrjax.training.divergence import DIVERGED_ABOVE, Control, diverged, final_loss
from lrjax.training.engine import Engine
from lrjax.training.loop import run_controls
from lrjax.training.program import Carry

_PARTS = 8  # into which a validation set is split, to estimate the sampling error of its metric
_STUDENT = 1.2  # Student's t over a normal deviate: corrects standard errors that come from so few parts
_FAR = 10.0  # a fall of more standard errors than this, if examples vary as much as the metric's size, is not examined


def control_of(engine: Engine) -> Control:
    """Returns the control of each seed."""
    return Control(engine.record.losses[engine.runs.is_control])


def divergence_limits(engine: Engine, run_indices: np.ndarray, above: float = DIVERGED_ABOVE) -> np.ndarray:
    """Returns [runs]: the final loss above which a run has diverged."""
    return control_of(engine).limit(above)[engine.runs.seed_index[run_indices]]


def diverged_runs(engine: Engine, run_indices: np.ndarray, above: float = DIVERGED_ABOVE) -> np.ndarray:
    """Returns bool [runs]: whether finished runs have diverged."""
    record = engine.record
    return diverged(
        record.losses[run_indices], record.finite[run_indices], divergence_limits(engine, run_indices, above)
    )


def final_scores(engine: Engine, run_indices: np.ndarray, above: float = DIVERGED_ABOVE) -> np.ndarray:
    """Returns [runs]: the scores of finished runs, by the deciding metric or the loss: lower is better, inf where a run
    diverged."""
    record, task = engine.record, engine.task
    if task.metrics:
        score = task.score(next(iter(record.metrics.values()))[run_indices, -1])
    else:
        score = final_loss(record.losses[run_indices])
    return np.where(diverged_runs(engine, run_indices, above) | ~np.isfinite(score), np.inf, score)


def start_metric(engine: Engine) -> np.ndarray:
    """Returns [seeds]: the deciding metric without training; nan where there is none."""
    controls = np.flatnonzero(engine.runs.is_control)
    if not engine.task.metrics:
        return np.full(len(controls), np.nan)
    evaluated = next(iter(engine.record.metrics.values()))[controls]
    return np.array([x[np.isfinite(x)][-1] if np.isfinite(x).any() else np.nan for x in evaluated])


class SamplingError:
    """Estimates the sampling error of the deciding metric: the part that comes from the choice of validation examples.
    All seeds and rates are evaluated on the same examples, so more seeds don't reduce it; it is estimated from eight
    parts of the validation set.

    Args:
      engine: trained the runs.
      kept_run: returns a kept run at a rate and its carry; None where none was kept.
    """

    def __init__(self, engine: Engine, kept_run: Callable[[int], tuple[int, Carry] | None]):
        task = self.task = engine.task
        self.engine, self.kept_run, self.measured = engine, kept_run, {}
        functions = [metric.function for metric in task.metrics.values()]  # the first one decides
        as_arguments = lambda x: x if task.has_state else (x,)
        self._measure = jax.jit(
            lambda model, parts: jax.lax.map(lambda part: functions[0](*as_arguments(model), part), parts)
        )

    def fall_error(self, final: np.ndarray) -> np.ndarray:
        """Returns [seeds]: the standard error of the fall of the metric in training, at the best of `final` [rates,
        seeds]. Estimates it from the difference between a trained model and its start, or from the start alone, where
        no model was kept. Returns 0 where it can't be estimated or the fall is far above any such error."""
        seeds, mean = final.shape[1], final.mean(axis=1)
        if not self.task.metrics or self._parts is None or not np.isfinite(mean).any():
            return np.zeros(seeds)
        start, best = self.task.score(start_metric(self.engine))[:seeds].mean(), _best(mean)
        each = jax.tree.leaves(self._parts)[0].shape[:2]
        far = _FAR / np.sqrt(np.prod(each)) * max(abs(start), abs(mean[best]))
        if not start - mean[best] <= far:
            return np.zeros(seeds)
        kept = self.kept_run(best)
        untrained = self._at_start(0 if kept is None else int(self.engine.runs.seed_index[kept[0]]))
        difference = np.sqrt(2) * untrained if kept is None else self._at_end(*kept) - untrained
        return np.full(seeds, np.sqrt(seeds) * _standard_error(difference))

    def difference_errors(self, final: np.ndarray) -> np.ndarray:
        """Returns [rates]: the standard error of the difference to the best; 0 where it isn't known."""
        mean, error = final.mean(axis=1), np.zeros(len(final))
        if not self.task.metrics or self._parts is None or not np.isfinite(mean).any():
            return error
        runs = {rate: self.kept_run(rate) for rate in np.flatnonzero(np.isfinite(mean)).tolist()}
        values = {rate: self._at_end(*run) for rate, run in runs.items() if run is not None}
        for rate, at_rate in values.items():
            error[rate] = _standard_error(at_rate - values[_best(mean)])
        return error

    @cached_property
    def _parts(self) -> Any:
        """[parts, examples, ...]: the validation set; None where it has too few examples."""
        if not self.task.validation_batches:
            return None
        examples = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), self.task.validation_batches[0])
        count = len(jax.tree.leaves(examples)[0])
        each = max(count // _PARTS, 2)
        split = lambda x: x[: count // each * each].reshape(-1, each, *x.shape[1:])
        return jax.tree.map(split, examples) if count // each > 1 else None

    def _at_start(self, seed_index: int) -> np.ndarray:
        init, seed = self.task.init, self.engine.runs.seeds[seed_index]
        make = lambda: jax.jit(init)(jax.random.key(seed)) if is_function(init) else init
        return self._cached(("start", seed_index), make)

    def _at_end(self, run: int, carry: Carry) -> np.ndarray:
        def make() -> Any:
            trained = self.engine.to_devices(carry)
            params = trained.evaluation_params
            return (params, trained.model_state) if self.task.has_state else params

        return self._cached(run, make)

    def _cached(self, key: Any, make_model: Callable[[], Any]) -> np.ndarray:
        """Returns [parts]: the metric on each part; zeros where it fails for a part of the validation set."""
        if key not in self.measured:
            try:
                self.measured[key] = np.asarray(self._measure(make_model(), self._parts), float)
            except (TypeError, ValueError):
                self.measured[key] = np.zeros(2)
        return self.measured[key]


def _best(mean: np.ndarray) -> int:
    return int(np.argmin(np.where(np.isfinite(mean), mean, np.inf)))


def _standard_error(parts: np.ndarray) -> float:
    """Returns the standard error of the mean of the parts."""
    return float(_STUDENT * parts.std(ddof=1) / np.sqrt(len(parts)))


def data_failure(engine: Engine, run_indices: np.ndarray) -> str | None:
    """Describes what is wrong with the data, if the loss of some batch is not finite without training either; else
    returns None.

    Evaluates the control of a seed at the steps at which the loss of two of its runs first was not finite, or that of
    its run at the lowest rate, the first of each seed in `run_indices`.
    """
    record, seed_of = engine.record, engine.runs.seed_index
    suspects: set[tuple[int, int]] = set()  # (step, seed)
    for seed in np.unique(seed_of[run_indices]):
        of_seed = run_indices[seed_of[run_indices] == seed]
        first = [first_not_finite(record.losses[run, : record.steps_made[run]]) for run in of_seed]
        steps = [step for step in first if step is not None]
        suspects |= {(step, int(seed)) for step in steps if steps.count(step) > 1 or step == first[0]}
    controls = np.flatnonzero(engine.runs.is_control)
    failures = []
    for step, seed in sorted(suspects):
        if not engine.source.load_once:  # else controls were evaluated at all steps
            run_controls(engine, step, step + 1)
        if not np.isfinite(record.losses[controls[seed], step]):
            failures.append((step, seed))
    return data_failure_message(engine.runs.seeds[failures[0][1]], failures[0][0]) if failures else None
