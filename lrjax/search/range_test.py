"""The range test: one run whose rate increases from very low to very high, and the rules that read rates off it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lrjax.hyperparameters import with_hyperparams
from lrjax.schedules.base import Schedule
from lrjax.schedules.decay import exponential_decay
from lrjax.search.sweep import positive_number
from lrjax.training.batches import known_steps
from lrjax.training.engine import Engine, check_mesh
from lrjax.training.kept_models import KeptModels
from lrjax.training.loop import train_to_end
from lrjax.training.progress import TrainStatus, progress_bar
from lrjax.training.runs import Runs
from lrjax.training.task import Task
from lrjax.training.train import check_task, run_length, seed_list
from lrjax.transforms.base import TransformationLike
from lrjax.value import Value, bad_argument


def _valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns a rate half-way along the longest falling subsequence of the losses, treated as if it had no gaps."""
    length = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        length[i] += max(length[:i][losses[:i] > losses[i]], default=0)
    end = int(length.argmax())
    start = end - int(length[end]) if end else 0
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def _slide(rates: np.ndarray, losses: np.ndarray, width: int = 15, threshold: float = 0.005) -> float:
    """Returns the first rate from the right at which the slopes of two points `width` apart are nearly equal."""
    slope = np.gradient(losses)
    left = np.arange(len(losses) - 1 - width, -1, -1)
    flat = np.flatnonzero(np.abs(slope[left + width] - slope[left]) <= threshold)
    # the one before the first flat pair; where every pair is steep, the last
    return float(rates[left[max(flat[0] - 1, 0) if len(flat) else -1]])


def _steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate at which the loss falls fastest over the logarithm of the rate."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))])


def _minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns a tenth of the rate of the lowest loss."""
    return float(rates[np.argmin(losses)] / 10)


RULES = {"valley": _valley, "slide": _slide, "steep": _steep, "minimum": _minimum}
MIN_POINTS = 16  # that a rule needs


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """The result of `range_test`, as NumPy arrays; the suggestion of a rule that had too few points is nan.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((100, 2)), stacked=True)
    >>> found = lrjax.range_test(task, lrjax.sgd(0.1))
    >>> sorted(found.suggestions)
    ['minimum', 'slide', 'steep', 'valley']
    """

    learning_rates: np.ndarray  # [steps]
    losses: np.ndarray  # [seeds, steps]: of each batch; nan from where the parameters are not finite
    smoothed: np.ndarray  # [seeds, steps]: their moving average; nan from where the curve ends
    by_seed: dict[str, np.ndarray]  # by rule: the suggestion of each seed

    @property
    def suggestions(self) -> dict[str, float]:
        """By rule: the median over the seeds."""
        medians = {}
        for rule, rates in self.by_seed.items():
            finite = rates[np.isfinite(rates)]
            medians[rule] = float(np.median(finite)) if len(finite) else float("nan")
        return medians

    def __repr__(self) -> str:
        return f"RangeTest({self.losses.shape[0]} seeds, {self.losses.shape[1]} steps: {self.suggestions})"

    def plot(self, ax: Any = None) -> Any:
        """Plots the smoothed loss of every seed over the rate, and the suggestions, with matplotlib (extra: plot)."""
        from lrjax.report.plots import plot_range

        return plot_range(self, ax)


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """Makes the optimizer of the test. Compares by value: equal ones share compiled programs."""

    optimizer: Any
    low: float
    high: float
    steps: int

    @property
    def schedule(self) -> Schedule:
        return exponential_decay(self.low, self.steps, self.high / self.low)

    def __call__(self, rate: Any) -> Any:
        if isinstance(self.optimizer, Value):
            return with_hyperparams(self.optimizer, learning_rate=self.schedule)
        return self.optimizer(self.schedule)


def range_test(
    task: Task,
    optimizer: TransformationLike | Callable[..., Any],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int | None = None,
    seeds: int | Sequence[int] = 1,
    mesh: Mesh | None = None,
    smoothing: float = 0.98,
    stop_at: float = 4.0,
    progress: bool = True,
) -> RangeTest:
    """Trains while the rate increases, η(t) = low·(high/low)^(t/steps), and reads rates off the curve of the losses.

    The rules are fastai's: *valley*, its default; *slide*; *steep*; *minimum*, a tenth of the rate of the lowest loss.
    They often disagree, and are often far from the best rate: the parameters depend on all the rates before, and a few
    steps say little about a long run. Use several seeds, and check with `sweep`. The task's parameters are not changed.

    Args:
      task: the model, loss and data.
      optimizer: a value with a hyperparameter `learning_rate`, which is replaced; or a function from a schedule to a
        transformation, lrjax's or Optax's.
      low: the first rate.
      high: the rate after the last step.
      steps: of the test. Default: 100, or fewer if there are fewer batches.
      seeds: how many tests, or a list of seeds; see `Task`.
      mesh: the devices; default: all.
      smoothing: the decay of the moving average, which is debiased.
      stop_at: the curve ends where the average is this many times the lowest one; for a negative one, as far above it.
      progress: whether to show a bar, as for `sweep`.

    Raises:
      ValueError: an argument is invalid.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(()), jnp.ones((100, 4)), stacked=True)
    >>> found = lrjax.range_test(task, lrjax.sgd(0.1), low=1e-4)
    >>> 0.01 < found.suggestions["minimum"] < 1.0
    True

    Source: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3; the rules
    are those of fastai's `lr_find`.
    """
    check_task("range_test", task)
    check_mesh("range_test", mesh)
    high = positive_number("range_test", "high", high)
    for name, number, holds, words in (
        ("low", low, lambda x: 0 < x < high, "a number > 0 and below `high`"),
        ("smoothing", smoothing, lambda x: 0 <= x < 1, "a number in [0, 1)"),
        ("stop_at", stop_at, lambda x: x > 1, "a number > 1"),
    ):
        if not (isinstance(number, (int, float)) and holds(number)):
            raise bad_argument("range_test", name, words, number)
    if not callable(optimizer) and not isinstance(optimizer, Value):
        raise bad_argument("range_test", "optimizer", "a value with a `learning_rate`, or a function", optimizer)
    known = known_steps(dataclasses.replace(task, steps=None))
    steps = run_length("range_test", task, min(100, known or 100) if steps is None else steps)
    seed_numbers = seed_list("range_test", seeds)
    ramp, count = _Ramp(optimizer, float(low), float(high), steps), len(seed_numbers)
    runs = Runs(ramp, np.zeros(count, np.float32), seed_numbers, np.arange(count), np.zeros(count, bool))
    engine = Engine("range_test", dataclasses.replace(task, metrics=None, validation=None), runs, steps, mesh=mesh)
    with progress_bar(count * steps, TrainStatus(engine), progress) as show:
        train_to_end(engine, KeptModels(engine, None, np.arange(count)), show)
    rates, losses = np.asarray(ramp.schedule(np.arange(steps)), np.float64), engine.record.losses
    averages = [_moving_average(one, smoothing) for one in losses]
    curves, suggested = zip(*(_apply_rules(rates, average, stop_at) for average in averages), strict=True)
    return RangeTest(rates, losses, np.stack(curves), {rule: np.array([s[rule] for s in suggested]) for rule in RULES})


def _moving_average(losses: np.ndarray, decay: float) -> np.ndarray:
    """Returns the debiased moving average; nan from the first loss that isn't finite."""
    averages, average = np.empty(len(losses)), 0.0
    for t, loss in enumerate(losses.astype(np.float64), start=1):
        average = decay * average + (1 - decay) * loss
        averages[t - 1] = average / (1 - decay**t)
    return averages


def _curve_length(average: np.ndarray, stop_at: float) -> int:
    """Returns the number of points up to the first one that is too far above the lowest before it, included."""
    lowest = np.fmin.accumulate(average)
    with np.errstate(invalid="ignore"):  # nan is not too high
        too_high = np.flatnonzero(average > lowest + (stop_at - 1) * np.abs(lowest))
    return int(too_high[0]) + 1 if len(too_high) else len(average)


def _apply_rules(rates: np.ndarray, average: np.ndarray, stop_at: float) -> tuple[np.ndarray, dict[str, float]]:
    """Returns (the curve up to its end, then nan; the suggestions). The rules get the curve without its first tenth and
    its last five points, as fastai's do."""
    steps, length = len(average), _curve_length(average, stop_at)
    finite = int(np.argmin(np.isfinite([*average, np.nan])))
    part = slice(steps // 10, min(length - 5, finite))
    is_enough = part.stop - part.start >= MIN_POINTS
    suggested = {name: rule(rates[part], average[part]) if is_enough else np.nan for name, rule in RULES.items()}
    return np.where(np.arange(steps) < min(length, finite), average, np.nan), suggested
