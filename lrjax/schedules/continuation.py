"""Schedules that change the plan of a run while it goes on: another length, or a cooldown from where it is."""

from typing import Any

import jax.numpy as jnp

from lrjax.domains import Delay, Duration, Rate, require
from lrjax.numerics import as_time, fractions, where_time
from lrjax.schedules.base import ScheduleLike, as_schedule, schedule
from lrjax.schedules.warmup import Cooldown, cooldown_weight


@schedule(
    require("at", "<= `total`", lambda at, total: at <= total),
    require("new_total", "> `at`", lambda new_total, at: new_total > at),
)
def extend_schedule(step: Any, schedule: ScheduleLike, at: Delay, total: Duration, new_total: Duration):
    """A schedule planned for `total` steps, changed at step `at` to end at `new_total`, later or earlier.

    η(t) = schedule(t) for t < a = `at`, schedule(a + (t−a)·(T−a)/(T′−a)) up to T′ = `new_total`, schedule(t − T′ + T)
    after

    The steps already done keep their rates, and what is left of the curve is stretched over what is left of the run,
    without a jump. So the result is not what a plan for `new_total` steps from the start would have been, which had
    higher rates before `at`. At `at = total` no curve is left: the last rate is kept, and where that is 0 nothing more
    is learned. Then warm up again, `join_schedules([schedule, warmup_cosine_decay_schedule(...)], [total])` (Ibrahim et
    al. 2024, arXiv:2403.08763), or go back to a checkpoint from before the decay.

    The optimizer's state stays as it is: go on with an optimizer of the new schedule.

    >>> import lrjax
    >>> decay = lrjax.linear_schedule(0.1, 0.0, 60)
    >>> lrjax.extend_schedule(decay, at=30, total=60, new_total=100)([0, 15, 30, 65, 100])
    Array([0.1  , 0.075, 0.05 , 0.025, 0.   ], dtype=float32)
    """
    rate = as_schedule(schedule)
    new_length = (new_total - at).total
    pace = (total - at).total / new_length
    since, until = (step - at).clip(), (new_total - step).clip()
    # counted from the nearer end, so that the steps that remain are exact to full relative accuracy
    late = since.total > 0.5 * new_length
    stretched = where_time(late, total - as_time(until.total * pace), at + as_time(since.total * pace))
    after = total + (step - new_total).clip()
    return rate(where_time(step <= at, step, where_time(step >= new_total, after, stretched)))


@schedule
def cooldown_schedule(
    step: Any, schedule: ScheduleLike, start: Delay, steps: Delay, end_value: Rate = 0.0, shape: Cooldown = "1-sqrt"
):
    """A schedule left at step `start` for a cooldown to `end_value` over `steps`; constant after.

    η(t) = schedule(t) for t < `start`, then end + (schedule(start) − end)·f(p), p = (t − start)/`steps`;
    f(p) = 1−p (linear), ½(1 + cos πp) (cosine), 1−√p (1-sqrt), 1−p² (1-square)

    From a checkpoint of a warmup–stable–decay run, or of any other, it gives a finished model of `start + steps` steps,
    while the run itself goes on (Hägele et al. 2024, arXiv:2405.18392, section 3).

    >>> import lrjax
    >>> stable = lrjax.warmup_constant_schedule(0.0, 0.1, warmup_steps=15)
    >>> lrjax.cooldown_schedule(stable, start=64, steps=36)([0, 15, 64, 73, 100])
    Array([0.  , 0.1 , 0.1 , 0.05, 0.  ], dtype=float32)
    """
    rate = as_schedule(schedule)
    done, left = fractions(step - start, steps)
    cooled = end_value + (rate(start) - end_value) * cooldown_weight(done, left, shape)
    return jnp.where(step >= start, cooled, rate(step))
