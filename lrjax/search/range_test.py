"""The range test: one run whose rate climbs from very low to very high, and what people read off its curve."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lrjax.hyperparameters import with_hyperparams
from lrjax.schedules.base import Schedule
from lrjax.schedules.decay import exponential_decay
from lrjax.search.pictures import plot_range
from lrjax.search.sweep import sweep
from lrjax.value import Value, bad_argument


def _valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Half-way along the longest falling subsequence of the losses, as if that were without gaps."""
    length = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        length[i] += max(length[:i][losses[:i] > losses[i]], default=0)
    end = int(length.argmax())
    start = end - int(length[end]) if end else 0
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def _slide(rates: np.ndarray, losses: np.ndarray, width: int = 15, threshold: float = 0.005) -> float:
    """From the right, the first rate at which the slopes of two points `width` apart are nearly the same."""
    slope = np.gradient(losses)
    left = np.arange(len(losses) - 1 - width, -1, -1)
    flat = np.flatnonzero(np.abs(slope[left + width] - slope[left]) <= threshold)
    # the one before the first flat pair; where every pair is steep, the last
    return float(rates[left[max(flat[0] - 1, 0) if len(flat) else -1]])


def _steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Where the loss falls fastest over the logarithm of the rate."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))])


def _minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate of the lowest loss."""
    return float(rates[np.argmin(losses)] / 10)


RULES = {"valley": _valley, "slide": _slide, "steep": _steep, "minimum": _minimum}
FEWEST = 16  # points that a rule needs


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """What `range_test` saw, as NumPy arrays; rules that had too few points say nan.

    >>> import jax.numpy as jnp, lrjax
    >>> found = lrjax.range_test(lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(2), jnp.ones((100, 2)), lrjax.sgd(0.1))
    >>> sorted(found.suggestions)
    ['minimum', 'slide', 'steep', 'valley']
    """

    learning_rates: np.ndarray  # [steps]
    losses: np.ndarray  # [seeds, steps]: of each batch; nan after one was not finite
    smoothed: np.ndarray  # [seeds, steps]: their moving average; nan from where the test stops
    by_seed: dict[str, np.ndarray]  # by rule: the suggestion of each seed

    @property
    def suggestions(self) -> dict[str, float]:
        """By rule: the median over the seeds."""
        medians = {}
        for rule, rates in self.by_seed.items():
            known = rates[np.isfinite(rates)]
            medians[rule] = float(np.median(known)) if len(known) else float("nan")
        return medians

    def plot(self, ax: Any = None) -> Any:
        """The smoothed loss of every seed over the rate, with the suggestions, in matplotlib (extra: plot)."""
        return plot_range(self, ax)


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """Makes the one optimizer of the test; equal ones share what is compiled."""

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
    loss_fn: Callable[..., Any],
    init: Any,
    batches: Any,
    optimizer: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    seeds: int = 1,
    batch_size: int | None = None,
    has_aux: bool = False,
    smoothing: float = 0.98,
    stop_at: float = 4.0,
    progress: bool = False,
) -> RangeTest:
    """Trains while the rate climbs, η(t) = low·(high/low)^(t/steps), and reads rates off the curve of the losses.

    The rules are fastai's: *valley*, its default; *slide*; *steep*; *minimum*, a tenth of the rate of the lowest loss.
    They often disagree, and are often far from the best rate: the weights of all the rates before are carried along,
    and a few steps say little about a long run. Look at more seeds than one, and ask `sweep`. Nothing of it stays
    behind: the parameters that go in are as they were.

    Args:
      loss_fn: (params, batch) -> loss; negative ones are fine. With `has_aux` (loss, anything).
      init: a tree of parameters or key -> params, as for `sweep`.
      batches: as for `sweep`.
      optimizer: a value with a hyperparameter `learning_rate`, whose rate is replaced; or a function from a schedule to
        a transformation, lrjax's or Optax's.
      low: the first rate.
      high: the rate after the last step.
      steps: of the test.
      seeds: tests, each with an order of the examples and, where `init` is a function, a start of its own.
      batch_size: of `batches` that are examples.
      has_aux: whether `loss_fn` returns more than the loss.
      smoothing: of the moving average, which is debiased.
      stop_at: the curve ends where the average is this many times the lowest one, in size, above 0 or below.
      progress: a bar, as for `sweep`.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> found = lrjax.range_test(loss_fn, jnp.zeros(()), jnp.ones((100, 4)), lrjax.sgd(0.1), low=1e-4)
    >>> 0.01 < found.suggestions["minimum"] < 1.0
    True

    Source: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3; the rules
    are those of fastai's `lr_find`.
    """
    for name, number, holds, words in (
        ("low", low, lambda x: 0 < x < high, "a number > 0 and below `high`"),
        ("smoothing", smoothing, lambda x: 0 <= x < 1, "a number in [0, 1)"),
        ("stop_at", stop_at, lambda x: x > 1, "a number > 1"),
    ):
        if not (isinstance(number, (int, float)) and holds(number)):
            raise bad_argument("range_test", name, words, number)
    if not callable(optimizer) and not isinstance(optimizer, Value):
        raise bad_argument("range_test", "optimizer", "a value with a `learning_rate`, or a function", optimizer)
    ramp = _Ramp(optimizer, float(low), float(high), steps)
    # one setting, which has the ramp inside
    result = sweep(
        loss_fn,
        init,
        batches,
        ramp,
        learning_rates=[high],
        steps=steps,
        seeds=seeds,
        batch_size=batch_size,
        has_aux=has_aux,
        diverged_above=1e30,
        progress=progress,
    )
    rates, losses = np.asarray(ramp.schedule(np.arange(steps)), np.float64), result.losses[0]
    curves, read = zip(*(_read(rates, _debiased(one, smoothing), stop_at) for one in losses), strict=True)
    return RangeTest(rates, losses, np.stack(curves), {rule: np.array([r[rule] for r in read]) for rule in RULES})


def _debiased(losses: np.ndarray, decay: float) -> np.ndarray:
    """The moving average; nan from the first loss that isn't finite."""
    averages, average = np.empty(len(losses)), 0.0
    for t, loss in enumerate(losses.astype(np.float64), start=1):
        average = decay * average + (1 - decay) * loss
        averages[t - 1] = average / (1 - decay**t)
    return averages


def _recorded(average: np.ndarray, stop_at: float) -> int:
    """How many points the test sees: the last is the first one that is too far above the lowest before it."""
    lowest = np.fmin.accumulate(average)
    with np.errstate(invalid="ignore"):
        too_high = np.flatnonzero(average > lowest + (stop_at - 1) * np.abs(lowest))  # nan is not
    return int(too_high[0]) + 1 if len(too_high) else len(average)


def _read(rates: np.ndarray, average: np.ndarray, stop_at: float) -> tuple[np.ndarray, dict[str, float]]:
    """(the curve as far as it goes, then nan; the suggestions): without the first tenth, the last five points, nan."""
    steps, recorded = len(average), _recorded(average, stop_at)
    finite = int(np.argmin(np.isfinite([*average, np.nan])))
    part = slice(steps // 10, min(recorded - 5, finite))
    enough = part.stop - part.start >= FEWEST
    read = {name: rule(rates[part], average[part]) if enough else np.nan for name, rule in RULES.items()}
    return np.where(np.arange(steps) < min(recorded, finite), average, np.nan), read
