"""Schedules made of schedules: one after the other, products, sums, and changes of time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax.numpy as jnp

from lrjax.domains import Boundaries, Delay, Domain, NotInDomain, Positive, Rate, Steps, is_function, require
from lrjax.numerics import Time, fractions, mix, split, where
from lrjax.schedules.base import Schedule, ScheduleLike, as_schedule, schedule


def _schedules(items: Any) -> tuple[Schedule, ...]:
    if not isinstance(items, Iterable) or isinstance(items, (str, Schedule)):
        raise NotInDomain
    items = tuple(items)
    if not items or not all(isinstance(s, Schedule) or is_function(s) for s in items):
        raise NotInDomain
    return tuple(map(as_schedule, items))


Schedules = Annotated[
    Sequence[Schedule | Callable[[Any], Any]], Domain("one or more schedules, in a sequence", _schedules)
]


@schedule(
    require(
        "boundaries",
        "one fewer than `schedules`",
        lambda boundaries, schedules: len(boundaries) == len(schedules) - 1,
        structural=True,
    )
)
def join_schedules(step: Any, schedules: Schedules, boundaries: Boundaries):
    """One schedule after the other; each begins with its own step 0 at its boundary.

    η(t) = schedules[i](t − boundaries[i−1]), i = #{boundary ≤ t}

    >>> import lrjax
    >>> warmup, decay = lrjax.linear_schedule(0.0, 1.0, 2), lrjax.linear_schedule(1.0, 0.0, 4)
    >>> lrjax.join_schedules([warmup, decay], [2])([0, 1, 2, 4, 6])
    Array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)
    """
    rate = schedules[0](step)
    for boundary, following in zip(boundaries, schedules[1:], strict=True):
        rate = jnp.where(step >= boundary, following((step - boundary).clip()), rate)
    return rate


@schedule
def product_schedule(step: Any, left: ScheduleLike, right: ScheduleLike):
    """`left * right`: two rates, or a rate and a number, multiplied at every step.

    η(t) = left(t)·right(t)

    >>> import lrjax
    >>> (lrjax.linear_schedule(1.0, 0.0, 4) * 0.5)([0, 2, 4])
    Array([0.5 , 0.25, 0.  ], dtype=float32)
    """
    return _at(left, step) * _at(right, step)


@schedule
def sum_schedule(step: Any, left: ScheduleLike, right: ScheduleLike):
    """`left + right`: two rates, or a rate and a number, added at every step.

    η(t) = left(t) + right(t)

    >>> import lrjax
    >>> (lrjax.linear_schedule(1.0, 0.0, 4) + 0.5)([0, 2, 4])
    Array([1.5, 1. , 0.5], dtype=float32)
    """
    return _at(left, step) + _at(right, step)


def _at(x: Any, step: Time) -> Any:
    return x(step) if callable(x) else x


@schedule(require("high", ">= `low`", lambda high, low: high is None or low is None or high >= low))
def clip_schedule(step: Any, schedule: ScheduleLike, low: Rate | None = None, high: Rate | None = None):
    """`schedule.clip(low, high)`: the rate, but not below `low` and not above `high` (None: no such bound).

    η(t) = min(max(schedule(t), low), high)

    >>> import lrjax
    >>> lrjax.linear_schedule(1.0, 0.0, 4).clip(0.25, 0.75)([0, 2, 4])
    Array([0.75, 0.5 , 0.25], dtype=float32)
    """
    return jnp.clip(_at(schedule, step), low, high)


@schedule
def delay_schedule(step: Any, schedule: ScheduleLike, steps: Delay):
    """`schedule.delay(steps)`: the same, `steps` later; until then its first rate.

    η(t) = schedule(max(t − steps, 0))

    >>> import lrjax
    >>> lrjax.linear_schedule(1.0, 0.0, 4).delay(10)([0, 10, 12, 14])
    Array([1. , 1. , 0.5, 0. ], dtype=float32)
    """
    return _at(schedule, (step - steps).clip())


@schedule
def stretch_schedule(step: Any, schedule: ScheduleLike, factor: Positive):
    """`schedule.stretch(factor)`: the same, `factor` times as long.

    η(t) = schedule(t / factor)

    A factor is exact where it is a whole number, and as exact as float32 elsewhere.

    >>> import lrjax
    >>> lrjax.linear_schedule(1.0, 0.0, 4).stretch(2)([0, 4, 5, 8])
    Array([1.   , 0.5  , 0.375, 0.   ], dtype=float32)
    """
    whole = (factor == jnp.floor(factor)) & (factor >= 1) & (factor < 2.0**31)
    period = jnp.where(whole, factor, 1)
    times, since = step.divmod(split(period))
    exact = Time(times.whole, since.total / period)
    return _at(schedule, where(whole, exact, split(step.total / factor)))


@schedule
def repeat_schedule(step: Any, schedule: ScheduleLike, period: Steps):
    """`schedule.repeat(period)`: begins anew every `period` steps, for ever.

    η(t) = schedule(t mod period)

    >>> import lrjax
    >>> lrjax.linear_schedule(1.0, 0.0, 4).repeat(4)([0, 2, 3, 4, 6])
    Array([1.  , 0.5 , 0.25, 1.  , 0.5 ], dtype=float32)
    """
    return _at(schedule, step % period)


@schedule
def warmup_schedule(step: Any, schedule: ScheduleLike, steps: Delay, init_value: Rate = 0.0):
    """`schedule.warmup(steps)`: a line from `init_value` to the schedule's first rate, then the schedule from there.

    η(t) = init·(w−t)/w + schedule(0)·t/w for t < w = `steps`, schedule(t − w) after

    >>> import lrjax
    >>> lrjax.linear_schedule(1.0, 0.0, 4).warmup(2)([0, 1, 2, 4, 6])
    Array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)
    """
    done, left = fractions(step, steps)
    after = _at(schedule, (step - steps).clip())
    first = _at(schedule, Time(jnp.zeros((), jnp.int32)))
    return jnp.where(step >= steps, after, mix(init_value, first, done, left))
