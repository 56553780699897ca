"""Schedules with a warmup: warmup and decay, warmup–stable–decay, and one-cycle."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from lrjax.domains import Delay, Duration, Fraction, NonNegative, Positive, Rate, Steps, require
from lrjax.numerics import Time, cosine_weight, fractions, interpolate, lerp, linear_weight, power_fractions
from lrjax.schedules.base import schedule
from lrjax.schedules.decay import exponential, is_reachable

_WARMUP_WITHIN_DECAY = require(
    "warmup_steps",
    "< `decay_steps`, which include the warmup",
    lambda warmup_steps, decay_steps: warmup_steps < decay_steps,
)


def _with_warmup(step: Time, init_value: Any, peak_value: Any, warmup_steps: Time, after: jax.Array) -> jax.Array:
    """Returns a linear warmup from `init_value` to `peak_value` over `warmup_steps`, then the rate `after`."""
    done, left = fractions(step, warmup_steps)
    return jnp.where(step >= warmup_steps, after, lerp(init_value, peak_value, done, left))


@schedule
def warmup_constant_schedule(step: Any, init_value: Rate, peak_value: Rate, warmup_steps: Delay):
    """Linear warmup from `init_value` to `peak_value` over `warmup_steps`; constant after.

    η(t) = init·(w−t)/w + peak·t/w for t < w = `warmup_steps`, peak after

    >>> import lrjax
    >>> lrjax.warmup_constant_schedule(0.0, 0.1, warmup_steps=40)([0, 10, 40, 100])
    Array([0.   , 0.025, 0.1  , 0.1  ], dtype=float32)

    Source: Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677, section 2.2.
    """
    return _with_warmup(step, init_value, peak_value, warmup_steps, peak_value)


@schedule(_WARMUP_WITHIN_DECAY)
def warmup_cosine_decay_schedule(
    step: Any,
    init_value: Rate,
    peak_value: Rate,
    warmup_steps: Delay,
    decay_steps: Duration,
    end_value: Rate = 0.0,
    exponent: NonNegative = 1.0,
):
    """Linear warmup to `peak_value`, then cosine decay to `end_value` at `decay_steps`; constant after.

    η(t) = end + (peak − end)·(½(1 + cos(π·(t−w)/(T−w))))^exponent for t ≥ w = `warmup_steps`, T = `decay_steps`

    `decay_steps` include the warmup, as in Optax.

    >>> import lrjax
    >>> lrjax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=100)([0, 10, 20, 60, 100])
    Array([0.  , 0.05, 0.1 , 0.05, 0.  ], dtype=float32)

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5; the warmup Goyal et al. 2017, arXiv:1706.02677.
    """
    done, left = fractions(step - warmup_steps, decay_steps - warmup_steps)
    weights = power_fractions(cosine_weight(done), cosine_weight(left), exponent)
    return _with_warmup(step, init_value, peak_value, warmup_steps, lerp(peak_value, end_value, *weights))


@schedule(_WARMUP_WITHIN_DECAY)
def warmup_linear_decay_schedule(
    step: Any, init_value: Rate, peak_value: Rate, warmup_steps: Delay, decay_steps: Duration, end_value: Rate = 0.0
):
    """Linear warmup to `peak_value`, then linear decay to `end_value` at `decay_steps`; constant after.

    η(t) = end + (peak − end)·(T−t)/(T−w) for t ≥ w = `warmup_steps`, T = `decay_steps`

    `decay_steps` include the warmup, as in `warmup_cosine_decay_schedule`.

    >>> import lrjax
    >>> lrjax.warmup_linear_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=100)([0, 10, 20, 60, 100])
    Array([0.  , 0.05, 0.1 , 0.05, 0.  ], dtype=float32)

    Source: Bergsma et al. 2025, Straight to Zero, arXiv:2502.15938; Devlin et al. 2019, BERT, arXiv:1810.04805.
    """
    done, left = fractions(step - warmup_steps, decay_steps - warmup_steps)
    return _with_warmup(step, init_value, peak_value, warmup_steps, lerp(peak_value, end_value, done, left))


@schedule(
    require(
        "end_value",
        "a rate that the decay from `peak_value` with this `decay_rate` reaches",
        lambda end_value, peak_value, decay_rate: is_reachable(end_value, peak_value, decay_rate),
    )
)
def warmup_exponential_decay_schedule(
    step: Any,
    init_value: Rate,
    peak_value: Rate,
    warmup_steps: Delay,
    transition_steps: Duration,
    decay_rate: NonNegative,
    transition_begin: Delay = 0,
    staircase: bool = False,
    end_value: Rate | None = None,
):
    """Linear warmup to `peak_value`, then exponential decay by `decay_rate` every `transition_steps`.

    η(t) = peak·decay_rate^((t−w−b)/T) for t ≥ w + b, w = `warmup_steps`, b = `transition_begin`

    The decay begins `transition_begin` steps after the warmup, is bounded by `end_value`, and goes in steps with
    `staircase`.

    >>> import lrjax
    >>> schedule = lrjax.warmup_exponential_decay_schedule(0.0, 0.1, 20, transition_steps=30, decay_rate=0.5)
    >>> schedule([0, 10, 20, 50, 80])
    Array([0.   , 0.05 , 0.1  , 0.05 , 0.025], dtype=float32)
    """
    since = step - warmup_steps - transition_begin
    decayed = exponential(since, peak_value, transition_steps, decay_rate, staircase, end_value)
    return _with_warmup(step, init_value, peak_value, warmup_steps, decayed)


Cooldown = Literal["linear", "cosine", "1-sqrt", "1-square"]


def cooldown_weight(done: jax.Array, left: jax.Array, shape: Cooldown) -> jax.Array:
    """Returns the weight of the rate before a cooldown, from 1 at its begin to 0 at its end."""
    return {
        "linear": lambda: left,
        "cosine": lambda: cosine_weight(left),
        "1-sqrt": lambda: left / (1 + jnp.sqrt(jnp.where(done > 0, done, 0))),
        "1-square": lambda: left * (1 + done),
    }[shape]()


@schedule
def warmup_stable_decay_schedule(
    step: Any,
    init_value: Rate,
    peak_value: Rate,
    warmup_steps: Delay,
    stable_steps: Delay,
    decay_steps: Delay,
    end_value: Rate = 0.0,
    cooldown: Cooldown = "1-sqrt",
):
    """Warmup–stable–decay (WSD, trapezoid): linear warmup, `peak_value`, cooldown to `end_value`; constant after.

    η(t) = end + (peak − end)·f(p), p = the elapsed fraction of the last `decay_steps`;
    f(p) = 1−p (linear), ½(1 + cos πp) (cosine), 1−√p (1-sqrt), 1−p² (1-square)

    The phases don't overlap: the run has `warmup_steps + stable_steps + decay_steps` steps.

    >>> import lrjax
    >>> schedule = lrjax.warmup_stable_decay_schedule(0.0, 0.1, 15, stable_steps=49, decay_steps=36)
    >>> schedule([0, 15, 64, 73, 100])
    Array([0.  , 0.1 , 0.1 , 0.05, 0.  ], dtype=float32)

    Source: Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4; 1-sqrt: Hägele et al. 2024, arXiv:2405.18392,
    section 3.
    """
    done, left = fractions(step - warmup_steps - stable_steps, decay_steps)
    # a cooldown of 0 steps is over when it begins
    weight = jnp.where(step - warmup_steps >= stable_steps, cooldown_weight(done, left, cooldown), 1)
    return _with_warmup(step, init_value, peak_value, warmup_steps, end_value + (peak_value - end_value) * weight)


def _phase_end(part: jax.Array, steps: Time, least: jax.Array | int, most: jax.Array | int) -> Time:
    """Returns ⌊part·steps⌋, clipped to [least, most]. The 3e-7 compensates the rounding of `part` to float32."""
    end = jnp.floor(part * steps.total * (1 + 3e-7)).astype(jnp.int32)
    return Time(jnp.clip(end, least, most))


@schedule(
    require("transition_steps", ">= 3, one for each phase", lambda transition_steps: transition_steps >= 3),
    require("pct_start", "< `pct_final`", lambda pct_start, pct_final: pct_start < pct_final),
)
def linear_onecycle_schedule(
    step: Any,
    transition_steps: Steps,
    peak_value: Rate,
    pct_start: Fraction = 0.3,
    pct_final: Fraction = 0.85,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
):
    """One-cycle policy, linear: up to `peak_value`, down to the initial rate, then down to nearly 0; constant after.

    η = init at 0, peak at ⌊`pct_start`·T⌋, init at ⌊`pct_final`·T⌋, init/`final_div_factor` at T = `transition_steps`;
    init = peak/`div_factor`

    Every phase has at least one step, so the peak is always reached.

    >>> import lrjax
    >>> lrjax.linear_onecycle_schedule(100, peak_value=0.1)([0, 15, 30, 85])
    Array([0.004, 0.052, 0.1  , 0.004], dtype=float32)

    Source: Smith & Topin 2018, Super-Convergence, arXiv:1708.07120.
    """
    peak = _phase_end(pct_start, transition_steps, 1, transition_steps.whole - 2)
    down = _phase_end(pct_final, transition_steps, peak.whole + 1, transition_steps.whole - 1)
    low = peak_value / div_factor
    return interpolate(
        step, [peak, down, transition_steps], [low, peak_value, low, low / final_div_factor], linear_weight
    )


@schedule(require("transition_steps", ">= 2, one for each phase", lambda transition_steps: transition_steps >= 2))
def cosine_onecycle_schedule(
    step: Any,
    transition_steps: Steps,
    peak_value: Rate,
    pct_start: Fraction = 0.3,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
):
    """One-cycle policy, cosine: up to `peak_value`, then down to nearly 0; constant after.

    η = init at 0, peak at ⌊`pct_start`·T⌋, init/`final_div_factor` at T = `transition_steps`; init = peak/`div_factor`

    Every phase has at least one step, so the peak is always reached.

    >>> import lrjax
    >>> lrjax.cosine_onecycle_schedule(100, peak_value=0.1)([0, 15, 30])
    Array([0.004, 0.052, 0.1  ], dtype=float32)

    Source: Smith & Topin 2018, Super-Convergence, arXiv:1708.07120; the cosine from fastai.
    """
    peak = _phase_end(pct_start, transition_steps, 1, transition_steps.whole - 1)
    low = peak_value / div_factor
    return interpolate(step, [peak, transition_steps], [low, peak_value, low / final_div_factor], cosine_weight)


@schedule(
    require("transition_steps", ">= 3, one for each phase", lambda transition_steps: transition_steps >= 3),
    require("pct_start", "<= 0.5, since two phases have this length", lambda pct_start: pct_start <= 0.5),
)
def three_phase_onecycle_schedule(
    step: Any,
    transition_steps: Steps,
    peak_value: Rate,
    pct_start: Fraction = 0.3,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
    anneal: Literal["cosine", "linear"] = "cosine",
):
    """One-cycle policy, three phases: up to `peak_value`, symmetrically down, then down to nearly 0; constant after.

    η = init at 0, peak at s = ⌊`pct_start`·T⌋, init at 2s, init/`final_div_factor` at T = `transition_steps`;
    init = peak/`div_factor`

    >>> import lrjax
    >>> lrjax.three_phase_onecycle_schedule(100, peak_value=0.1)([0, 15, 30, 60])
    Array([0.004, 0.052, 0.1  , 0.004], dtype=float32)

    Source: Smith & Topin 2018, Super-Convergence, arXiv:1708.07120; PyTorch `OneCycleLR(three_phase=True)`, which
    counts the last step of a phase as the first of the next.
    """
    peak = _phase_end(pct_start, transition_steps, 1, (transition_steps.whole - 1) // 2)
    low = peak_value / div_factor
    weight = cosine_weight if anneal == "cosine" else linear_weight
    values = [low, peak_value, low, low / final_div_factor]
    return interpolate(step, [peak, peak + peak, transition_steps], values, weight)


@schedule(require("transition_steps", ">= 3, one for each phase", lambda transition_steps: transition_steps >= 3))
def onecycle_momentum_schedule(
    step: Any,
    transition_steps: Steps,
    max_value: Rate = 0.95,
    min_value: Rate = 0.85,
    pct_start: Fraction = 0.3,
    anneal: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
):
    """Momentum for the one-cycle policy: down to `min_value` while the rate rises, then up again; constant after.

    momentum = max at 0, min at s = ⌊`pct_start`·T⌋, max at T = `transition_steps`, or at 2s with `three_phase`

    Use it with `cosine_onecycle_schedule` or `three_phase_onecycle_schedule` of the same steps and `pct_start`.

    >>> import lrjax
    >>> rate, momentum = lrjax.cosine_onecycle_schedule(100, 0.1), lrjax.onecycle_momentum_schedule(100)
    >>> tx = lrjax.sgd(rate, momentum=momentum, nesterov=True)
    >>> momentum([0, 30, 100])
    Array([0.95, 0.85, 0.95], dtype=float32)

    Source: Smith & Topin 2018, Super-Convergence, arXiv:1708.07120; defaults as fastai and PyTorch `OneCycleLR`.
    """
    weight = cosine_weight if anneal == "cosine" else linear_weight
    low = _phase_end(pct_start, transition_steps, 1, (transition_steps.whole - 1) // (2 if three_phase else 1))
    boundaries = [low, low + low, transition_steps] if three_phase else [low, transition_steps]
    return interpolate(step, boundaries, [max_value, min_value] + [max_value] * (len(boundaries) - 1), weight)
