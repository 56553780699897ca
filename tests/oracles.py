"""Every schedule again, from its formula: scalar Python in float64, with Python's own whole numbers.

Each oracle takes the step and the arguments of the schedule of the same name. Near an end the formula is in the form
that float64 evaluates well; none of it calls lrjax.
"""

import math


def sin2(fraction):
    """½(1 − cos(π·fraction))."""
    return math.sin(math.pi * fraction / 2) ** 2


def share(t, T):
    """(done, left) of a phase of T steps; one of no steps is over when it begins."""
    if T == 0:
        return 1.0, 0.0
    t = min(max(t, 0), T)
    return t / T, (T - t) / T


def line(t, a, b, T):
    done, left = share(t, T)
    return a * left + b * done


def warmed(t, init, peak, w, after):
    return line(t, init, peak, w) if t < w else after()


def constant_schedule(t, value):
    return value


def linear_schedule(t, init_value, end_value, transition_steps, transition_begin=0):
    return line(t - transition_begin, init_value, end_value, transition_steps)


def polynomial_schedule(t, init_value, end_value, power, transition_steps, transition_begin=0, cycle=False):
    t, T = max(t - transition_begin, 0), transition_steps
    if cycle:
        T = T * max(1, -(-t // T))
    done, left = share(t, T)
    rise = 1.0 if left == 0 else -math.expm1(power * (math.log1p(-done) if done < 0.5 else math.log(left)))
    return init_value * left**power + end_value * rise


def exponential_decay(t, init_value, transition_steps, decay_rate, transition_begin=0, staircase=False, end_value=None):
    t = max(t - transition_begin, 0)
    periods = t // transition_steps if staircase else t / transition_steps
    exponent = periods * math.log(decay_rate) + (math.log(init_value) if init_value else -math.inf)
    rate = 3.4028234663852886e38 if exponent > 88.7 else math.exp(exponent)
    if end_value is None:
        return rate
    return min(rate, end_value) if decay_rate > 1 else max(rate, end_value)


def step_decay(t, init_value, step_size, decay_rate):
    return exponential_decay(t, init_value, step_size, decay_rate, staircase=True)


def cosine_decay_schedule(t, init_value, decay_steps, alpha=0.0, exponent=1.0):
    _, left = share(t, decay_steps)
    return init_value * (alpha + (1 - alpha) * sin2(left) ** exponent)


def inverse_time_decay(t, init_value, transition_steps, decay_rate, staircase=False):
    periods = t // transition_steps if staircase else t / transition_steps
    return init_value / (1 + decay_rate * periods)


def inverse_sqrt_schedule(t, peak_value, warmup_steps=0, timescale=None, init_value=0.0):
    w, s = warmup_steps, timescale or warmup_steps or 10_000
    return warmed(t, init_value, peak_value, w, lambda: peak_value * math.sqrt(s / (t - w + s)))


def noam_schedule(t, model_size, warmup_steps=4000, factor=1.0):
    n = t + 1
    return factor * model_size**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)


def power_schedule(t, max_value, batch_size, tokens_per_step, warmup_steps=0, a=4.6, b=-0.51):
    def eta(t):
        return max_value if t == 0 else min(max_value, batch_size * a * (tokens_per_step * t) ** b)

    return eta(warmup_steps) * t / warmup_steps if t < warmup_steps else eta(t)


def rex_schedule(t, init_value, transition_steps, end_value=0.0):
    p, left = share(t, transition_steps)
    return end_value + (init_value - end_value) * left / (1 - p / 2)


def tanh_decay(t, init_value, decay_steps, end_value=0.0, lower=-7.0, upper=3.0):
    p, left = share(t, decay_steps)
    if left == 0:
        return end_value
    x = lower * left + upper * p
    return end_value + (init_value - end_value) / (1 + math.exp(2 * x))  # ½(1 − tanh x)


def tabulated_schedule(t, values):
    return values[min(t, len(values) - 1)]


def piecewise_constant_schedule(t, init_value, boundaries_and_scales=None):
    return init_value * math.prod(s for b, s in dict(boundaries_and_scales or {}).items() if t >= b)


def piecewise_values_schedule(t, values, boundaries):
    return values[sum(t >= b for b in boundaries)]


def through(t, boundaries, values, bend):
    start = 0
    for end, a, b in zip(boundaries, values, values[1:], strict=False):
        if t < end:
            done, left = share(t - start, end - start)
            return a * bend(left) + b * bend(done)
        start = end
    return values[-1]


def piecewise_interpolate_schedule(t, interpolate_type, init_value, boundaries_and_scales=None):
    boundaries, values = [], [init_value]
    for b, s in sorted(dict(boundaries_and_scales or {}).items()):
        boundaries.append(b)
        values.append(values[-1] * s)
    return through(t, boundaries, values, sin2 if interpolate_type == "cosine" else lambda x: x)


def cut(part, T, least, most):
    return min(max(math.floor(part * T * (1 + 3e-7)), least), most)


def linear_onecycle_schedule(
    t, transition_steps, peak_value, pct_start=0.3, pct_final=0.85, div_factor=25.0, final_div_factor=1e4
):
    T, low = transition_steps, peak_value / div_factor
    peak = cut(pct_start, T, 1, T - 2)
    down = cut(pct_final, T, peak + 1, T - 1)
    return through(t, [peak, down, T], [low, peak_value, low, low / final_div_factor], lambda x: x)


def cosine_onecycle_schedule(t, transition_steps, peak_value, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    T, low = transition_steps, peak_value / div_factor
    return through(t, [cut(pct_start, T, 1, T - 1), T], [low, peak_value, low / final_div_factor], sin2)


def three_phase_onecycle_schedule(
    t, transition_steps, peak_value, pct_start=0.3, div_factor=25.0, final_div_factor=1e4, anneal="cosine"
):
    T, low = transition_steps, peak_value / div_factor
    peak = cut(pct_start, T, 1, (T - 1) // 2)
    values = [low, peak_value, low, low / final_div_factor]
    return through(t, [peak, 2 * peak, T], values, sin2 if anneal == "cosine" else lambda x: x)


def onecycle_momentum_schedule(
    t, transition_steps, max_value=0.95, min_value=0.85, pct_start=0.3, anneal="cosine", three_phase=False
):
    T, bend = transition_steps, sin2 if anneal == "cosine" else lambda x: x
    if three_phase:
        low = cut(pct_start, T, 1, (T - 1) // 2)
        return through(t, [low, 2 * low, T], [max_value, min_value, max_value, max_value], bend)
    return through(t, [cut(pct_start, T, 1, T - 1), T], [max_value, min_value, max_value], bend)


def warmup_constant_schedule(t, init_value, peak_value, warmup_steps):
    return warmed(t, init_value, peak_value, warmup_steps, lambda: peak_value)


def warmup_cosine_decay_schedule(t, init_value, peak_value, warmup_steps, decay_steps, end_value=0.0, exponent=1.0):
    def after():
        _, left = share(t - warmup_steps, decay_steps - warmup_steps)
        return end_value + (peak_value - end_value) * sin2(left) ** exponent

    return warmed(t, init_value, peak_value, warmup_steps, after)


def warmup_linear_decay_schedule(t, init_value, peak_value, warmup_steps, decay_steps, end_value=0.0):
    w = warmup_steps
    return warmed(t, init_value, peak_value, w, lambda: line(t - w, peak_value, end_value, decay_steps - w))


def warmup_exponential_decay_schedule(
    t, init_value, peak_value, warmup_steps, transition_steps, decay_rate, transition_begin=0, staircase=False,
    end_value=None,
):  # fmt: skip
    def after():
        since = t - warmup_steps - transition_begin
        return exponential_decay(since, peak_value, transition_steps, decay_rate, 0, staircase, end_value)

    return warmed(t, init_value, peak_value, warmup_steps, after)


def warmup_stable_decay_schedule(
    t, init_value, peak_value, warmup_steps, stable_steps, decay_steps, end_value=0.0, cooldown="1-sqrt"
):
    def after():
        p, left = share(t - warmup_steps - stable_steps, decay_steps)
        if t < warmup_steps + stable_steps:
            p, left = 0.0, 1.0
        weight = {"linear": left, "cosine": sin2(left), "1-sqrt": left / (1 + p**0.5), "1-square": left * (1 + p)}
        return end_value + (peak_value - end_value) * weight[cooldown]

    return warmed(t, init_value, peak_value, warmup_steps, after)


def cyclic_schedule(t, min_value, max_value, step_size_up, step_size_down=None, mode="triangular", gamma=1.0):
    up, down = step_size_up, step_size_down or step_size_up
    cycle, since = divmod(t, up + down)
    height = since / up if since <= up else (up + down - since) / down
    scale = {"triangular": 1.0, "triangular2": 2.0 ** -min(cycle, 1000), "exp_range": math.exp(t * math.log(gamma))}
    return min_value + (max_value - min_value) * height * scale[mode]


def cosine_restarts_schedule(
    t, peak_value, first_cycle_steps, cycle_mult=1.0, peak_decay=1.0, end_value=0.0, warmup_steps=0
):
    i, start, length = 0, 0, first_cycle_steps
    if cycle_mult == 1:
        i, since = divmod(t, first_cycle_steps)
    else:
        while t >= start + length:
            i, start, length = i + 1, start + length, length * cycle_mult
        since = t - start
    peak = max(peak_value * peak_decay**i, end_value)
    if since < warmup_steps:
        return line(since, end_value, peak, warmup_steps)
    return end_value + (peak - end_value) * sin2((length - since) / (length - warmup_steps))


def sgdr_schedule(t, cosine_kwargs):
    for kwargs in cosine_kwargs[:-1]:
        if t < kwargs["decay_steps"]:
            return warmup_cosine_decay_schedule(t, **kwargs)
        t -= kwargs["decay_steps"]
    return warmup_cosine_decay_schedule(t, **cosine_kwargs[-1])
