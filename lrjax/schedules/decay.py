"""Decays: schedules from one rate to another."""

from typing import Any

import jax.numpy as jnp

from lrjax.domains import Curve, Delay, Duration, Negative, NonNegative, Number, Positive, Rate, Steps, require
from lrjax.numerics import Time, clip_to_finite, cosine_weight, fractions, lerp, power_fractions
from lrjax.schedules.base import schedule


@schedule
def linear_schedule(
    step: Any, init_value: Rate, end_value: Rate, transition_steps: Duration, transition_begin: Delay = 0
):
    """Linear decay or warmup from `init_value` to `end_value`; constant before and after.

    η(t) = init·(T−t)/T + end·t/T, t counted from `transition_begin`, T = `transition_steps`

    >>> import lrjax
    >>> lrjax.linear_schedule(0.1, 0.0, transition_steps=100)([0, 25, 50, 75, 100, 101])
    Array([0.1  , 0.075, 0.05 , 0.025, 0.   , 0.   ], dtype=float32)
    """
    done, left = fractions(step - transition_begin, transition_steps)
    return lerp(init_value, end_value, done, left)


@schedule
def polynomial_schedule(
    step: Any,
    init_value: Rate,
    end_value: Rate,
    power: NonNegative,
    transition_steps: Duration,
    transition_begin: Delay = 0,
    cycle: bool = False,
):
    """Polynomial decay from `init_value` to `end_value`; constant before and after.

    η(t) = end + (init − end)·((T−t)/T)^power, t counted from `transition_begin`, T = `transition_steps`

    With `cycle` it has no end: T is the next multiple of `transition_steps`, so the rate jumps up after each of them.

    >>> import lrjax
    >>> lrjax.polynomial_schedule(0.1, 0.0, power=2, transition_steps=100)([0, 50, 100])
    Array([0.1  , 0.025, 0.   ], dtype=float32)
    >>> lrjax.polynomial_schedule(1.0, 0.0, power=1, transition_steps=4, cycle=True)([0, 4, 5, 8])
    Array([1.   , 0.   , 0.375, 0.   ], dtype=float32)

    Source: Keras `PolynomialDecay` for `cycle`.
    """
    elapsed = (step - transition_begin).clip()
    if cycle:
        since = elapsed % transition_steps
        remaining = jnp.where(since.total > 0, (transition_steps - since).total, 0.0)
        end = jnp.where(elapsed.total > 0, elapsed.total + remaining, transition_steps.total)
        done, left = elapsed.total / end, jnp.where(elapsed.total > 0, remaining / end, 1.0)
    else:
        done, left = fractions(elapsed, transition_steps)
    return lerp(init_value, end_value, *power_fractions(done, left, power))


def is_reachable(end_value: float | None, start: float, decay_rate: float) -> bool:
    """Returns whether an exponential decay, or growth, from `start` reaches `end_value`."""
    rises = (decay_rate > 1) == (start >= 0)
    return end_value is None or (end_value >= start if rises else end_value <= start)


@schedule(
    require(
        "end_value",
        "a rate that the decay from `init_value` with this `decay_rate` reaches",
        lambda end_value, init_value, decay_rate: is_reachable(end_value, init_value, decay_rate),
    )
)
def exponential_decay(
    step: Any,
    init_value: Rate,
    transition_steps: Duration,
    decay_rate: NonNegative,
    transition_begin: Delay = 0,
    staircase: bool = False,
    end_value: Rate | None = None,
):
    """Exponential decay by `decay_rate` every `transition_steps`; in steps with `staircase`.

    η(t) = init·decay_rate^(t/T), bounded by `end_value`, t counted from `transition_begin`, T = `transition_steps`

    A `decay_rate` above 1 makes it grow, up to the largest float.

    >>> import lrjax
    >>> lrjax.exponential_decay(0.1, transition_steps=30, decay_rate=0.5)([0, 30, 60, 90])
    Array([0.1   , 0.05  , 0.025 , 0.0125], dtype=float32)
    >>> lrjax.exponential_decay(1.0, 10, 0.25, staircase=True)([0, 9, 10])
    Array([1.  , 1.  , 0.25], dtype=float32)
    """
    return exponential(step - transition_begin, init_value, transition_steps, decay_rate, staircase, end_value)


def exponential(step: Time, init_value: Any, length: Time, decay_rate: Any, staircase: bool, end_value: Any) -> Any:
    """Returns init·decay_rate^(t/T), always finite, bounded by `end_value`."""
    elapsed = step.clip()
    periods = elapsed.divmod(length)[0].astype(init_value.dtype) if staircase else elapsed / length
    rate = clip_to_finite(init_value * clip_to_finite(decay_rate**periods))  # 0·∞ would be nan
    if end_value is None:
        return rate
    rises = (decay_rate > 1) == (init_value >= 0)
    return jnp.where(rises, jnp.minimum(rate, end_value), jnp.maximum(rate, end_value))


@schedule
def step_decay(step: Any, init_value: Rate, step_size: Steps, decay_rate: NonNegative):
    """Step decay: multiplied by `decay_rate` every `step_size` steps.

    η(t) = init·decay_rate^⌊t/step_size⌋

    >>> import lrjax
    >>> lrjax.step_decay(0.1, step_size=30, decay_rate=0.5)([0, 29, 30, 60])
    Array([0.1  , 0.1  , 0.05 , 0.025], dtype=float32)

    Source: He et al. 2016, Deep Residual Learning, arXiv:1512.03385; PyTorch `StepLR`.
    """
    return exponential(step, init_value, step_size, decay_rate, staircase=True, end_value=None)


@schedule
def cosine_decay_schedule(
    step: Any, init_value: Rate, decay_steps: Duration, alpha: Number = 0.0, exponent: NonNegative = 1.0
):
    """Cosine decay from `init_value` to `alpha`·`init_value` at `decay_steps`; constant after.

    η(t) = init·(α + (1−α)·(½(1 + cos(π·t/T)))^exponent), T = `decay_steps`

    `alpha` is a fraction of `init_value`, not a rate: above 1 the rate rises.

    >>> import lrjax
    >>> lrjax.cosine_decay_schedule(0.1, decay_steps=100)([0, 50, 100, 101])
    Array([0.1 , 0.05, 0.  , 0.  ], dtype=float32)

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5, one cycle.
    """
    done, left = fractions(step, decay_steps)
    return init_value * (alpha + (1 - alpha) * power_fractions(cosine_weight(done), cosine_weight(left), exponent)[1])


@schedule
def inverse_time_decay(
    step: Any, init_value: Rate, transition_steps: Duration, decay_rate: NonNegative, staircase: bool = False
):
    """Inverse time decay: divided by 1 + `decay_rate`·t/`transition_steps`, without end.

    η(t) = init / (1 + decay_rate·t/T), T = `transition_steps`; with `staircase` ⌊t/T⌋ for t/T

    >>> import lrjax
    >>> lrjax.inverse_time_decay(0.1, transition_steps=30, decay_rate=1.0)([0, 30, 90])
    Array([0.1  , 0.05 , 0.025], dtype=float32)

    Source: Robbins & Monro 1951; Keras `InverseTimeDecay`.
    """
    periods = step.divmod(transition_steps)[0].astype(init_value.dtype) if staircase else step / transition_steps
    return init_value / (1 + decay_rate * periods)


@schedule
def inverse_sqrt_schedule(
    step: Any, peak_value: Rate, warmup_steps: Delay = 0, timescale: Duration | None = None, init_value: Rate = 0.0
):
    """Inverse square root decay after a linear warmup over `warmup_steps`, without end.

    η(t) = peak·√(s / (t − w + s)) for t ≥ w = `warmup_steps`, s = `timescale`

    `timescale` None is `warmup_steps`, or 10,000 without a warmup.

    >>> import lrjax
    >>> lrjax.inverse_sqrt_schedule(0.1, warmup_steps=20)([0, 10, 20, 80])
    Array([0.  , 0.05, 0.1 , 0.05], dtype=float32)

    Source: Raffel et al. 2020, T5, arXiv:1910.10683; the timescale as in Zhai et al. 2022,
    Scaling Vision Transformers, arXiv:2106.04560.
    """
    done, left = fractions(step, warmup_steps)
    if timescale is None:
        scale = jnp.where(warmup_steps.total > 0, warmup_steps.total, 10_000.0)
    else:
        scale = timescale.total
    decayed = peak_value * jnp.sqrt(scale / ((step - warmup_steps).clip().total + scale))
    return jnp.where(step >= warmup_steps, decayed, lerp(init_value, peak_value, done, left))


@schedule
def noam_schedule(step: Any, model_size: Positive, warmup_steps: Duration = 4000, factor: Rate = 1.0):
    """Noam schedule of the Transformer: linear warmup over `warmup_steps`, then inverse square root decay, without end.

    η(t) = factor·d^−½·min(n^−½, n·w^−3/2), n = t + 1, d = `model_size`, w = `warmup_steps`

    >>> import lrjax
    >>> schedule = lrjax.noam_schedule(512, warmup_steps=20)
    >>> [round(float(schedule(t)), 4) for t in (0, 9, 19, 79)]
    [0.0005, 0.0049, 0.0099, 0.0049]

    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, eq. 3.
    """
    n, w = step.total + 1, warmup_steps.total
    return factor / jnp.sqrt(model_size) * jnp.minimum(1 / jnp.sqrt(n), n / w / jnp.sqrt(w))


@schedule
def power_schedule(
    step: Any,
    max_value: Rate,
    batch_size: Positive,
    tokens_per_step: Positive,
    warmup_steps: Delay = 0,
    a: Positive = 4.6,
    b: Negative = -0.51,
):
    """Power scheduler: a power law in the tokens seen, for any run length and batch size, at most `max_value`.

    η(t) = min(max, batch_size·a·nᵇ), n = `tokens_per_step`·t; before w = `warmup_steps` a linear warmup, η(w)·t/w

    `batch_size` counts sequences, for which `a` was fitted. Add a final decay to the run:
    `join_schedules([power, decay], [boundary])`.

    >>> import lrjax
    >>> schedule = lrjax.power_schedule(0.02, batch_size=128, tokens_per_step=2**24, warmup_steps=10)
    >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 34, 100)]
    [0.0, 0.01, 0.02, 0.02, 0.0116]

    Source: Shen et al. 2024, Power Scheduler, arXiv:2408.13359.
    """
    done, _ = fractions(step, warmup_steps)
    after_warmup = jnp.maximum(step.total, warmup_steps.total)
    tokens = tokens_per_step * jnp.maximum(after_warmup, jnp.finfo(a.dtype).tiny ** 0.5)
    return done * jnp.minimum(max_value, batch_size * a * tokens**b)


@schedule
def rex_schedule(step: Any, init_value: Rate, transition_steps: Duration, end_value: Rate = 0.0):
    """REX, reflected exponential decay: slow at first, to `end_value` at `transition_steps`; constant after.

    η(t) = end + (init − end)·(1−p)/(1 − p/2), p = t/T, T = `transition_steps`

    >>> import lrjax
    >>> lrjax.rex_schedule(0.1, transition_steps=100)([0, 50, 100])
    Array([0.1       , 0.06666667, 0.        ], dtype=float32)

    Source: Chen et al. 2022, REX, arXiv:2107.04197.
    """
    _, left = fractions(step, transition_steps)
    return end_value + (init_value - end_value) * 2 * left / (1 + left)


@schedule(require("lower", "< `upper`", lambda lower, upper: lower < upper))
def tanh_decay(
    step: Any,
    init_value: Rate,
    decay_steps: Duration,
    end_value: Rate = 0.0,
    lower: Number = -7.0,
    upper: Number = 3.0,
):
    """Hyperbolic-tangent decay from `init_value`; `end_value` from `decay_steps` on.

    η(t) = end + (init − end)·½(1 − tanh(lower·(1−p) + upper·p)), p = t/T, T = `decay_steps`

    >>> import lrjax
    >>> schedule = lrjax.tanh_decay(0.1, decay_steps=100)
    >>> [round(float(schedule(t)), 4) for t in (0, 50, 70, 90, 100)]
    [0.1, 0.0982, 0.05, 0.0018, 0.0]

    Source: Hsueh et al. 2019, Stochastic Gradient Descent with Hyperbolic-Tangent Decay, arXiv:1806.01593.
    """
    done, left = fractions(step, decay_steps)
    weight = 1 / (1 + jnp.exp(2 * (lower * left + upper * done)))
    return jnp.where(left > 0, end_value + (init_value - end_value) * weight, end_value)


@schedule
def tabulated_schedule(step: Any, values: Curve):
    """Table lookup: the rates of an array, one per step; the last one after its end.

    η(t) = values[min(t, n−1)]

    `tabulated_schedule(schedule(jnp.arange(n)))` has the first n rates of any schedule as data, so runs with different
    schedules can share one compiled program.

    >>> import lrjax
    >>> lrjax.tabulated_schedule([0.1, 0.08, 0.09, 0.05, 0.06, 0.02])([0, 1, 2, 5, 6])
    Array([0.1 , 0.08, 0.09, 0.02, 0.02], dtype=float32)
    """
    return jnp.take(values, step.whole, mode="clip")
