"""Periodic schedules: cyclical learning rates and warm restarts."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from lrjax.domains import MAX_STEPS, AtLeastOne, Count, Domain, NonNegative, NotInDomain, Rate, Steps, items_of, require
from lrjax.numerics import Time, as_time, clip_to_finite, cosine_weight, fractions, lerp, where_time
from lrjax.schedules.base import Schedule, schedule
from lrjax.schedules.warmup import warmup_cosine_decay_schedule


@schedule(
    require(
        "step_size_up",
        "at most 2³¹−1 together with `step_size_down`",
        lambda step_size_up, step_size_down: (
            step_size_up + (step_size_up if step_size_down is None else step_size_down) <= MAX_STEPS
        ),
    ),
)
def cyclic_schedule(
    step: Any,
    min_value: Rate,
    max_value: Rate,
    step_size_up: Steps,
    step_size_down: Steps | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: NonNegative = 1.0,
):
    """Cyclical learning rate: a triangle wave between `min_value` and `max_value`, without end.

    η(t) = min + (max − min)·s·scale; s rises from 0 to 1 over `step_size_up` and falls to 0 over `step_size_down`
    (None: the same); scale = 1 (triangular), 2^−(cycles done) (triangular2), gammaᵗ (exp_range)

    >>> import lrjax
    >>> lrjax.cyclic_schedule(0.01, 0.1, step_size_up=10, step_size_down=15)([0, 5, 10, 25, 35])
    Array([0.01 , 0.055, 0.1  , 0.01 , 0.1  ], dtype=float32)

    Source: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.
    """
    down = step_size_up if step_size_down is None else step_size_down
    cycles, since = step.divmod(step_size_up + down)
    rise, _ = fractions(since, step_size_up)
    _, fall = fractions(since - step_size_up, down)
    height = jnp.where(since >= step_size_up, fall, rise)
    if mode == "triangular2":
        height = height * 0.5 ** cycles.astype(height.dtype)
    elif mode == "exp_range":
        height = height * clip_to_finite(gamma**step.total)
    return clip_to_finite(min_value + (max_value - min_value) * height)


@schedule(
    require(
        "warmup_steps",
        "< `first_cycle_steps`, which include it",
        lambda warmup_steps, first_cycle_steps: warmup_steps < first_cycle_steps,
    ),
)
def cosine_restarts_schedule(
    step: Any,
    peak_value: Rate,
    first_cycle_steps: Steps,
    cycle_mult: AtLeastOne = 1.0,
    peak_decay: NonNegative = 1.0,
    end_value: Rate = 0.0,
    warmup_steps: Count = 0,
):
    """SGDR, cosine annealing with warm restarts: from `peak_value` to `end_value` in every cycle, without end.

    η = end + (peak·peak_decayⁱ − end)·½(1 + cos(π·(s−w)/(Tᵢ−w))), s = steps since restart i, Tᵢ = T₀·cycle_multⁱ,
    T₀ = `first_cycle_steps`, w = `warmup_steps`, a linear warmup from `end_value` in every cycle

    Restarts are exact up to 2³¹−1 for an integer `cycle_mult`; for others, beyond step 2²⁴, to the precision of
    float32.

    >>> import lrjax
    >>> lrjax.cosine_restarts_schedule(0.1, first_cycle_steps=20, cycle_mult=4)([0, 10, 20, 60, 100])
    Array([0.1 , 0.05, 0.1 , 0.05, 0.1 ], dtype=float32)

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5.
    """
    cycle, since, length = _cycle(step, first_cycle_steps, cycle_mult)
    peak = clip_to_finite(peak_value * clip_to_finite(peak_decay ** cycle.astype(peak_value.dtype)))
    peak = jnp.where(peak_value >= end_value, jnp.maximum(peak, end_value), jnp.minimum(peak, end_value))
    left = jnp.clip((length - since).total / (length - warmup_steps).total, 0, 1)
    warmup_done, warmup_left = fractions(since, warmup_steps)
    decayed = end_value + (peak - end_value) * cosine_weight(left)
    return jnp.where(since >= warmup_steps, decayed, lerp(end_value, peak, warmup_done, warmup_left))


def _cycle(step: Time, first: Time, mult: jax.Array) -> tuple[jax.Array, Time, Time]:
    """Returns the index i of the cycle at `step`, the steps since its start first·(multⁱ−1)/(mult−1), its length."""
    times, since = step.divmod(first)
    growth = jnp.where(mult == 1, 2, mult)
    start, length = _cycle_bounds(first, growth)
    # The logarithm may round across a restart, so compare with the start itself.
    i = jnp.floor(jnp.log1p(step / first * (growth - 1)) / jnp.log(growth)).astype(jnp.int32)
    i = jnp.where(step >= start(i), i, i - 1)
    i = jnp.where(step >= start(i + 1), i + 1, i)
    same = mult == 1
    return jnp.where(same, times.whole, i), where_time(same, since, step - start(i)), where_time(same, first, length(i))


def _cycle_bounds(first: Time, growth: jax.Array) -> tuple[Callable[[jax.Array], Time], Callable[[jax.Array], Time]]:
    """Returns functions for start and length of cycle i: exact in int32 for an integer growth >= 2. Then cycle 31, at
    step 2³¹−1, is the last that can start; cycle 32, with which the step is compared, never starts."""
    n = jnp.arange(33, dtype=jnp.int32)
    is_whole = (growth == jnp.floor(growth)) & (growth < 2.0**31)
    lengths = first.total * growth ** n.astype(growth.dtype)
    starts = jnp.concatenate([jnp.zeros(1, growth.dtype), jnp.cumsum(lengths)[:-1]])
    whole_lengths = first.whole * growth.astype(jnp.int32) ** n  # overflows past 2³¹, which the floats detect
    whole_starts = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(whole_lengths)[:-1]])
    power = lambda i: growth ** i.astype(growth.dtype)
    never = Time(jnp.asarray(MAX_STEPS, jnp.int32), jnp.ones((), growth.dtype))

    def exact_time(i: jax.Array, floats: jax.Array, wholes: jax.Array) -> Time:
        approximate, whole = jnp.take(floats, i, mode="clip"), jnp.take(wholes, i, mode="clip")
        return where_time((approximate < 3e9) & (whole >= 0), Time(whole), never)

    def length(i: jax.Array) -> Time:
        approximate = first.total * power(i)
        exact = where_time(is_whole, exact_time(i, lengths, whole_lengths), as_time(approximate))
        return where_time(approximate < 2.0**31, exact, Time(jnp.zeros_like(i), approximate))

    def start(i: jax.Array) -> Time:
        approximate = first.total * (power(i) - 1) / (growth - 1)
        return where_time(
            is_whole,
            exact_time(i, starts, whole_starts),
            where_time(approximate < 2.0**31, as_time(approximate), never),
        )

    return start, length


def _cosine_cycles(cycles: Any) -> tuple[Schedule, ...]:
    cycles = items_of(cycles)
    schedules = tuple(warmup_cosine_decay_schedule(**c) if isinstance(c, Mapping) else c for c in cycles)
    if not schedules or not all(isinstance(c, warmup_cosine_decay_schedule) for c in schedules):  # type: ignore[arg-type]
        raise NotInDomain
    return schedules


CosineCycles = Annotated[
    Iterable[Any],
    Domain("one or more dicts of arguments of warmup_cosine_decay_schedule", _cosine_cycles),
]


@schedule
def sgdr_schedule(step: Any, cosine_kwargs: CosineCycles):
    """SGDR as a list of cycles: linear warmups with cosine decays; constant after the last.

    η = `warmup_cosine_decay_schedule(**cosine_kwargs[i])`, which takes `decay_steps` steps

    For restarts without end: `cosine_restarts_schedule`.

    >>> import lrjax
    >>> cycle = dict(init_value=0.01, peak_value=0.1, warmup_steps=10, decay_steps=50)
    >>> lrjax.sgdr_schedule([cycle, cycle | dict(peak_value=0.05)])([0, 10, 30, 50, 60, 100])
    Array([0.01, 0.1 , 0.05, 0.01, 0.05, 0.  ], dtype=float32)

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5.
    """
    first, *_ = cosine_kwargs
    rate = first(step)
    for previous, cycle in pairwise(cosine_kwargs):
        step = step - as_time(previous.decay_steps)
        rate = jnp.where(step >= Time(0), cycle(step.clip()), rate)
    return rate
