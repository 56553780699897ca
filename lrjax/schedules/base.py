"""Schedules: values that map a step to a learning rate, with their operators and methods."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Concatenate, ParamSpec, Self, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lrjax.domains import (
    MAX_STEPS,
    Decay,
    Delay,
    Domain,
    NonNegative,
    Number,
    Positive,
    Rate,
    Requirement,
    Steps,
    is_function,
    known_domain,
    require,
)
from lrjax.numerics import RealLike, Time, as_time, fractions, lerp, where_time
from lrjax.report.svg import schedule_html
from lrjax.signatures import ValueClass
from lrjax.value import Value, as_arrays, may_compile, value_class

Arguments = ParamSpec("Arguments")


class Schedule(Value):
    """A schedule: a pure function from a step to a learning rate, as a value.

    Call it with a step or an array of steps: `schedule(jnp.arange(n))` is the curve. The result is float32 (float64
    under x64), of the shape of the step. A negative step counts as 0. Schedules add, subtract and multiply, with each
    other and with numbers, and have the methods `clip`, `delay`, `stretch`, `repeat` and `warmup`.
    """

    _formula: ClassVar[Callable[..., Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if not hasattr(cls, "_formula"):
            raise TypeError(
                f"{cls.__name__}: a schedule is made of its formula, not as a subclass. Decorate a function "
                "`(step, ...)` with `@lrjax.schedule`, or use a function of the step as it is."
            )
        return object.__new__(cls)

    def __call__(self, step: "ArrayLike | Time") -> jax.Array:
        if isinstance(step, Time):  # inside another schedule's formula
            return self._formula(step, **as_arrays(self))
        evaluate = _compiled(type(self)) if may_compile(self) else _evaluate
        return evaluate(self, _as_step(step))

    def __mul__(self, other: "ScheduleLike") -> "Schedule":
        return product_schedule(self, other)

    def __rmul__(self, other: "ScheduleLike") -> "Schedule":
        return product_schedule(other, self)

    def __add__(self, other: "ScheduleLike") -> "Schedule":
        return sum_schedule(self, other)

    def __radd__(self, other: "ScheduleLike") -> "Schedule":
        return sum_schedule(other, self)

    def __neg__(self) -> "Schedule":
        return self * -1.0

    def __sub__(self, other: "ScheduleLike") -> "Schedule":
        return self + other * -1.0  # type: ignore[operator]

    def __rsub__(self, other: "ScheduleLike") -> "Schedule":
        return -self + other

    def __truediv__(self, other: ArrayLike) -> "Schedule":
        return self * (1.0 / other)  # type: ignore[operator]

    def clip(self, low: ArrayLike | None = None, high: ArrayLike | None = None) -> "Schedule":
        """Clips the rate to [low, high]; None is no bound."""
        return clip_schedule(self, low, high)

    def delay(self, steps: ArrayLike) -> "Schedule":
        """Shifts the schedule to start `steps` later; its first rate until then."""
        return delay_schedule(self, steps)

    def stretch(self, factor: ArrayLike) -> "Schedule":
        """Stretches the schedule in time by `factor`."""
        return stretch_schedule(self, factor)

    def repeat(self, period: ArrayLike) -> "Schedule":
        """Restarts the schedule from its step 0 every `period` steps."""
        return repeat_schedule(self, period)

    def warmup(self, steps: ArrayLike, init_value: ArrayLike = 0.0) -> "Schedule":
        """Prepends a linear warmup from `init_value` to the first rate over `steps`; the schedule starts after it."""
        return warmup_schedule(self, steps, init_value)

    def _repr_html_(self) -> str:
        return schedule_html(self)

    def plot(self, steps: int, ax: Any = None) -> Any:
        """Plots the rates of the first `steps` steps with matplotlib (extra `plot`), and returns the axes."""
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError:
                raise ImportError("Schedule.plot needs matplotlib: pip install 'lrjax[plot]'.") from None
            _, ax = plt.subplots()
        shown = np.unique(np.linspace(0, steps, 2001).astype(np.int64)) if steps > 2000 else np.arange(steps + 1)
        ax.plot(shown, np.asarray(self(shown)))
        ax.set(xlabel="step", ylabel="learning rate")
        return ax


def _as_step(step: Any) -> Any:
    """Converts a step to a form in which `jit` neither wraps nor truncates it."""
    if type(step) is int:
        return min(max(step, 0), MAX_STEPS)
    if isinstance(step, jax.Array):
        if not (jnp.issubdtype(step.dtype, jnp.integer) or jnp.issubdtype(step.dtype, jnp.floating)):
            raise TypeError(f"`step` must be a number of steps, got {step!r}.")
        return step
    array = np.asarray(step)
    if array.dtype.kind in "iu":
        return np.clip(array, 0, MAX_STEPS).astype(np.int32)
    if isinstance(step, (str, bytes)) or not jnp.issubdtype(array.dtype, jnp.floating) or np.isnan(array).any():
        raise TypeError(f"`step` must be a number of steps, got {step!r}.")
    return array.astype(np.float64).clip(0, MAX_STEPS)


@overload
def schedule(formula: Callable[Concatenate[Any, Arguments], Any], /) -> ValueClass[Arguments, Schedule]: ...
@overload
def schedule(
    *requirements: Requirement,
) -> Callable[[Callable[Concatenate[Any, Arguments], Any]], ValueClass[Arguments, Schedule]]: ...
def schedule(*arguments: Any) -> Any:
    """Decorator: makes a schedule of a formula, a function of the step and the hyperparameters.

    Numbers enter the formula as float32 scalars, steps (the first argument, and hyperparameters annotated `Steps` or
    `Count`) as exact `Time`s that subtract and divide like numbers. No Python `if` may depend on a number.

    >>> from lrjax import schedule
    >>> from lrjax.domains import Rate, Steps
    >>> @schedule
    ... def halving_schedule(step, init_value: Rate, half_life: Steps):
    ...     return init_value * 0.5 ** (step / half_life)
    >>> halving_schedule(0.1, half_life=1000)
    halving_schedule(init_value=0.1, half_life=1000)
    >>> float(halving_schedule(0.1, half_life=1000)(2000))
    0.02500000037252903
    """
    if len(arguments) == 1 and not isinstance(arguments[0], Requirement):
        return _schedule_class(arguments[0], ())
    return lambda formula: _schedule_class(formula, arguments)


def _schedule_class(formula: Callable[..., Any], requirements: tuple[Requirement, ...]) -> type[Schedule]:
    return value_class(formula, Schedule, ("step",), requirements, _formula=staticmethod(formula))


def _evaluate(value: Schedule, step: jax.Array) -> jax.Array:
    time = as_time(step).clip()
    rate = jnp.asarray(value._formula(time, **as_arrays(value))).astype(jnp.result_type(float))
    if jnp.issubdtype(jnp.result_type(step), jnp.floating):  # NaN, rather than the rate at step 0
        rate = jnp.where(jnp.isnan(step), jnp.nan, rate)
    return jnp.broadcast_to(rate, jnp.shape(step))


@functools.cache
def _compiled(cls: type[Schedule]) -> Callable[[Schedule, jax.Array], jax.Array]:
    def evaluate(value: Schedule, step: jax.Array) -> jax.Array:
        return _evaluate(value, step)

    evaluate.__name__ = cls.__name__
    return jax.jit(evaluate, inline=True)


@schedule
def constant_schedule(step: Any, value: Rate):
    """Constant schedule: the same rate at every step.

    η(t) = value

    >>> import lrjax
    >>> lrjax.constant_schedule(0.1)([0, 10**9])
    Array([0.1, 0.1], dtype=float32)
    """
    return value


@schedule
def from_callable(step: Any, function: Callable):
    """A user-defined function from an int32 step to a number, as a schedule.

    η(t) = function(t)

    Wherever lrjax takes a schedule it takes such a function, and wraps it in this. Hash and equality are the function's
    own. Outside of `jit` the function runs as plain Python at every call, with one step at a time.

    >>> import lrjax
    >>> lrjax.from_callable(lambda step: 0.1 / (1 + step / 50))([0, 50, 150])
    Array([0.1  , 0.05 , 0.025], dtype=float32)
    """
    dtype = jnp.result_type(float)
    steps = jnp.asarray(step.whole if step.part is None else step.total)
    if steps.ndim == 0:
        return _returned(function(steps), dtype)
    if isinstance(steps, jax.core.Tracer):
        return jnp.vectorize(lambda t: _returned(function(t), dtype))(steps)
    return jnp.asarray([_returned(function(t), dtype) for t in steps.ravel()], dtype).reshape(steps.shape)


def _returned(x: Any, dtype: Any) -> jax.Array:
    try:
        return jnp.asarray(x, dtype)
    except (TypeError, ValueError):
        raise ValueError(f"from_callable: `function` must return a number, got {x!r}.") from None


@functools.cache
def or_schedule(domain: Domain) -> Domain:
    """Extends a domain of numbers by schedules."""

    def validate(x: Any) -> Any:
        if isinstance(x, Schedule):
            return x
        return from_callable(x) if callable(x) and is_function(x) else domain.validate(x)

    return dataclasses.replace(domain, description=f"{domain.description}, or a schedule", validate=validate)


def _own_schedule(number: Any) -> Domain:
    """Returns the domain of a number or schedule that the transformation evaluates itself."""
    return dataclasses.replace(or_schedule(known_domain(number)), schedulable=False)


ScheduleLike = Annotated[RealLike | Schedule | Callable[[Any], Any], _own_schedule(Number)]
RateOrSchedule = Annotated[RealLike | Schedule | Callable[[Any], Any], _own_schedule(NonNegative)]
DecayOrSchedule = Annotated[RealLike | Schedule | Callable[[Any], Any], _own_schedule(Decay)]


def as_schedule(x: Any) -> Schedule:
    """Converts a number or a function to a schedule; returns a schedule as it is."""
    if isinstance(x, Schedule):
        return x
    return from_callable(x) if is_function(x) else constant_schedule(x)


@schedule
def product_schedule(step: Any, left: ScheduleLike, right: ScheduleLike):
    """Product of two schedules, or of a schedule and a number: `left * right`.

    η(t) = left(t)·right(t)

    >>> import lrjax
    >>> wave, decay = lrjax.cyclic_schedule(0.5, 1.0, 10), lrjax.linear_schedule(0.1, 0.0, 100)
    >>> lrjax.product_schedule(wave, decay)([0, 10, 20, 100])
    Array([0.05, 0.09, 0.04, 0.  ], dtype=float32)
    >>> (decay * 0.5)([0, 50, 100])
    Array([0.05 , 0.025, 0.   ], dtype=float32)
    """
    return _evaluate_at(left, step) * _evaluate_at(right, step)


@schedule
def sum_schedule(step: Any, left: ScheduleLike, right: ScheduleLike):
    """Sum of two schedules, or of a schedule and a number: `left + right`.

    η(t) = left(t) + right(t)

    >>> import lrjax
    >>> short, long = lrjax.linear_schedule(0.05, 0.0, 20), lrjax.linear_schedule(0.05, 0.0, 100)
    >>> lrjax.sum_schedule(short, long)([0, 20, 100])
    Array([0.1 , 0.04, 0.  ], dtype=float32)
    >>> (long + 0.02)([0, 100])
    Array([0.07, 0.02], dtype=float32)
    """
    return _evaluate_at(left, step) + _evaluate_at(right, step)


def _evaluate_at(x: Any, step: Time) -> Any:
    return x(step) if callable(x) else x


@schedule(require("high", ">= `low`", lambda high, low: high is None or low is None or high >= low))
def clip_schedule(step: Any, schedule: ScheduleLike, low: Rate | None = None, high: Rate | None = None):
    """A schedule clipped to [low, high]: `schedule.clip(low, high)`; None is no bound.

    η(t) = min(max(schedule(t), low), high)

    >>> import lrjax
    >>> decay = lrjax.linear_schedule(0.1, 0.0, 100)
    >>> lrjax.clip_schedule(decay, low=0.02, high=0.08)([0, 50, 100])
    Array([0.08, 0.05, 0.02], dtype=float32)
    >>> decay.clip(0.02, 0.08)([0, 50, 100])
    Array([0.08, 0.05, 0.02], dtype=float32)
    """
    return jnp.clip(_evaluate_at(schedule, step), low, high)


@schedule
def delay_schedule(step: Any, schedule: ScheduleLike, steps: Delay):
    """A schedule shifted to start `steps` later: `schedule.delay(steps)`; its first rate until then.

    η(t) = schedule(max(t − steps, 0))

    >>> import lrjax
    >>> decay = lrjax.linear_schedule(0.1, 0.0, 70)
    >>> lrjax.delay_schedule(decay, steps=30)([0, 30, 65, 100])
    Array([0.1 , 0.1 , 0.05, 0.  ], dtype=float32)
    >>> decay.delay(30)([0, 30, 65, 100])
    Array([0.1 , 0.1 , 0.05, 0.  ], dtype=float32)
    """
    return _evaluate_at(schedule, (step - steps).clip())


@schedule
def stretch_schedule(step: Any, schedule: ScheduleLike, factor: Positive):
    """A schedule stretched in time by `factor`: `schedule.stretch(factor)`.

    η(t) = schedule(t / factor)

    Exact for an integer `factor`, to the precision of float32 for others.

    >>> import lrjax
    >>> decay = lrjax.rex_schedule(0.1, 50)
    >>> lrjax.stretch_schedule(decay, factor=2)([0, 50, 100])
    Array([0.1       , 0.06666667, 0.        ], dtype=float32)
    >>> decay.stretch(2)([0, 50, 100])
    Array([0.1       , 0.06666667, 0.        ], dtype=float32)
    """
    whole = (factor == jnp.floor(factor)) & (factor >= 1) & (factor < 2.0**31)
    period = jnp.where(whole, factor, 1)
    times, since = step.divmod(as_time(period))
    exact = Time(times.whole, since.total / period)
    return _evaluate_at(schedule, where_time(whole, exact, as_time(step.total / factor)))


@schedule
def repeat_schedule(step: Any, schedule: ScheduleLike, period: Steps):
    """A schedule that restarts every `period` steps, without end: `schedule.repeat(period)`.

    η(t) = schedule(t mod period)

    >>> import lrjax
    >>> decay = lrjax.linear_schedule(0.1, 0.0, 25)
    >>> lrjax.repeat_schedule(decay, period=25)([0, 20, 25, 45])
    Array([0.1 , 0.02, 0.1 , 0.02], dtype=float32)
    >>> decay.repeat(25)([0, 20, 25, 45])
    Array([0.1 , 0.02, 0.1 , 0.02], dtype=float32)
    """
    return _evaluate_at(schedule, step % period)


@schedule
def warmup_schedule(step: Any, schedule: ScheduleLike, steps: Delay, init_value: Rate = 0.0):
    """A schedule after a linear warmup from `init_value` to its first rate: `schedule.warmup(steps)`.

    η(t) = init·(w−t)/w + schedule(0)·t/w for t < w = `steps`, schedule(t − w) after

    >>> import lrjax
    >>> decay = lrjax.cosine_decay_schedule(0.1, 80)
    >>> lrjax.warmup_schedule(decay, steps=20)([0, 10, 20, 60, 100])
    Array([0.  , 0.05, 0.1 , 0.05, 0.  ], dtype=float32)
    >>> decay.warmup(20)([0, 10, 20, 60, 100])
    Array([0.  , 0.05, 0.1 , 0.05, 0.  ], dtype=float32)
    """
    done, left = fractions(step, steps)
    after = _evaluate_at(schedule, (step - steps).clip())
    first = _evaluate_at(schedule, Time(jnp.zeros((), jnp.int32)))
    return jnp.where(step >= steps, after, lerp(init_value, first, done, left))
