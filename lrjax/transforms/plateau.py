"""Transformations that reduce the rate when the loss no longer falls."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Count, Decay, Fraction, NonNegative, OpenFraction, Size, Steps
from lrjax.numerics import Array, safe_increment
from lrjax.transforms.base import always, transformation
from lrjax.transforms.elementwise import cast_like, map_updates

# dlib's constants. A test reads all stored losses, so at most 200 tests are made in `patience` steps. A reduction drops
# the oldest 400 + patience/10 losses, so that the next reduction waits for as many new ones.
_TESTS, _DROPPED = 200, 400


class ReduceLROnPlateauState(NamedTuple):
    scale: Array  # float32 (): multiplies the updates
    best_value: Array  # float32 (): the best value so far; infinite at first
    plateau_count: Array  # int32 (): values that were no better, in a row
    cooldown_count: Array  # int32 (): values until the end of the cooldown
    count: Array  # int32 (): values in `avg_value`
    avg_value: Array  # float32 (): mean of the values since the last comparison
    reductions: Array  # int32 (): how often the scale was reduced
    total_notfinite: Array  # int32 (): values that were ignored

    @property
    def rate_factor(self) -> Array:
        """The factor of the rate, which `get_learning_rate` reads."""
        return self.scale


class ReduceOnStallState(NamedTuple):
    scale: Array  # float32 (): multiplies the updates
    losses: Array  # float32 (patience,): a ring buffer of the latest values
    position: Array  # int32 (): where the next value goes
    size: Array  # int32 (): the values in the buffer that count
    since_test: Array  # int32 (): values since the last test
    steps_without_progress: Array  # int32 (): the result of the last test, 0 after a reduction
    reductions: Array  # int32 (): how often the scale was reduced
    total_notfinite: Array  # int32 (): values that were ignored

    @property
    def rate_factor(self) -> Array:
        """The factor of the rate, which `get_learning_rate` reads."""
        return self.scale


def _value(name: str, extra_args: dict[str, Any]) -> jax.Array | None:
    """Returns the argument `value` of `update` as a float scalar; None if it is None."""
    if "value" not in extra_args:
        raise ValueError(
            f"{name}: `value`, the loss or a metric, must be given to `update`, or None at a step that has none. "
            "Optax's chain and wrappers pass it only to instances of their own class: give them `lrjax.to_optax(tx)`."
        )
    if (value := extra_args["value"]) is None:
        return None
    if jnp.shape(value) != ():
        raise ValueError(f"{name}: `value` must be a scalar, got an array of shape {jnp.shape(value)}.")
    return jnp.asarray(value, jnp.result_type(float))


def _scaled(updates: Any, scale: Any) -> Any:
    return map_updates(lambda g: cast_like(scale, g) * g, updates)


def _start() -> dict[str, jax.Array]:
    """Returns the first values of the fields that both states have."""
    scale = jnp.ones([], jnp.result_type(float))
    return {"scale": scale, "reductions": jnp.zeros([], jnp.int32), "total_notfinite": jnp.zeros([], jnp.int32)}


def _next(state: Any, fires: Any, finite: Any, factor: Any, min_scale: Any) -> dict[str, jax.Array]:
    """Returns the next values of these fields. The scale never rises."""
    reduced = jnp.maximum(state.scale * factor, jnp.minimum(min_scale, state.scale))
    scale = jnp.where(fires, reduced, state.scale)
    return {
        "scale": scale,
        "reductions": jnp.where(scale < state.scale, safe_increment(state.reductions), state.reductions),
        "total_notfinite": jnp.where(finite, state.total_notfinite, safe_increment(state.total_notfinite)),
    }


def _init_plateau(params: Any, tx: Any) -> ReduceLROnPlateauState:
    float_dtype = jnp.result_type(float)
    return ReduceLROnPlateauState(
        best_value=jnp.full([], jnp.inf if tx.mode == "min" else -jnp.inf, float_dtype),
        plateau_count=jnp.zeros([], jnp.int32),
        cooldown_count=jnp.zeros([], jnp.int32),
        count=jnp.zeros([], jnp.int32),
        avg_value=jnp.zeros([], float_dtype),
        **_start(),
    )


@transformation(_init_plateau, packable=always)
def reduce_on_plateau(
    updates: Any,
    state: Any,
    params: Any,
    factor: OpenFraction = 0.1,
    patience: Count = 10,
    rtol: Fraction = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: Count = 0,
    accumulation_size: Steps = 1,
    min_scale: Fraction = 0.0,
    mode: Literal["min", "max"] = "min",
    **extra_args: Any,
):
    """Reduces the rate when more than `patience` values in a row were no better than the best one.

    v = mean of `accumulation_size` values; v is better if v < best − (rtol·|best| + atol), in mode "max" if
    v > best + (rtol·|best| + atol); after more than `patience` values that are not: scale ← max(factor·scale,
    min_scale), and the next `cooldown` values are not counted; u = scale·g

    `patience`, `cooldown` and the bounds are PyTorch's: with patience 0 the first value that is no better reduces.
    Optax reduces one value earlier. The margin is relative to |best|, so that a loss may be negative. For the loss of
    single batches choose a larger `accumulation_size`; for a metric that is not measured at every step give
    `value=None` at the others, which leaves the state as it is. Values that aren't finite are ignored and counted. The
    scale never rises.

    State: `ReduceLROnPlateauState`, float32 whatever the parameters are; `get_learning_rate` multiplies by its `scale`.
    Needs: `value`, a scalar, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.chain(lrjax.sgd(0.5), lrjax.reduce_on_plateau(factor=0.1, patience=1)), jnp.ones(1)
    >>> state = tx.init(g)
    >>> for loss in (2.0, 1.0, 1.0, 1.0):
    ...     updates, state = tx.update(g, state, g, value=loss)
    >>> updates, state[-1].scale
    (Array([-0.05], dtype=float32), Array(0.1, dtype=float32))

    Source: PyTorch, `torch.optim.lr_scheduler.ReduceLROnPlateau`; arguments and state of Optax,
    `optax.contrib.reduce_on_plateau`.
    """
    value = _value("reduce_on_plateau", extra_args)
    if value is not None:
        finite = jnp.isfinite(value)
        count = jnp.where(finite, state.count + 1, state.count)
        change = (value - state.avg_value) / (state.count + 1).astype(value.dtype)
        mean = jnp.where(finite, state.avg_value + change, state.avg_value)
        due = finite & (count >= accumulation_size.whole)
        sign = 1 if mode == "min" else -1
        margin = rtol * jnp.abs(jnp.where(jnp.isfinite(state.best_value), state.best_value, 0)) + atol
        better = sign * mean < sign * state.best_value - margin
        cooling = state.cooldown_count > 0
        bad = jnp.where(better | cooling, 0, safe_increment(state.plateau_count))
        fires = due & (bad > patience.whole)
        after = jnp.where(fires, cooldown.whole, jnp.maximum(state.cooldown_count - 1, 0))
        state = ReduceLROnPlateauState(
            best_value=jnp.where(due & better, mean, state.best_value),
            plateau_count=jnp.where(due, jnp.where(fires, 0, bad), state.plateau_count),
            cooldown_count=jnp.where(due, after, state.cooldown_count),
            count=jnp.where(due, 0, count),
            avg_value=jnp.where(due, 0, mean),
            **_next(state, fires, finite, factor, min_scale),
        )
    return _scaled(updates, state.scale), state


def running_slopes(values: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (n, slope, its standard error) of the line through the first 1, 2, … kept values, at x = 0, 1, ….

    Least squares: slope = Sxy/Sxx, se = √(SSR/(n−2)/Sxx), Sxx = (n³−n)/12. The n-th value, with its distance d from
    the mean of those before it, adds d²·(n−1)/n to Syy and d·(n−1)/2 to Sxy: in float32 nothing cancels, as it would in
    sums of squares.
    """
    kept = keep.astype(values.dtype)
    n, total = jnp.cumsum(kept), jnp.cumsum(kept * values)
    before = n - kept
    mean = jnp.roll(total, 1).at[0].set(0) / jnp.maximum(before, 1)
    distance = kept * (values - mean)
    syy = jnp.cumsum(distance**2 * before / jnp.maximum(n, 1))
    sxy, sxx = jnp.cumsum(distance * before / 2), n * (n**2 - 1) / 12
    slope = sxy / jnp.maximum(sxx, 0.5)
    residual = jnp.maximum(syy - sxy * slope, 0)
    return n, slope, jnp.sqrt(residual / jnp.maximum(n - 2, 1) / jnp.maximum(sxx, 0.5))


def _quantile_index(size: jax.Array, quantile_discard: jax.Array) -> jax.Array:
    """Returns round((size − 1)·(1 − quantile_discard)), halves rounded up."""
    return jnp.floor((size - 1).astype(quantile_discard.dtype) * (1 - quantile_discard) + 0.5).astype(jnp.int32)


def count_steps_without_decrease(
    losses: jax.Array, size: jax.Array, probability_of_decrease: jax.Array, quantile_discard: jax.Array
) -> jax.Array:
    """Returns for how many steps the losses, newest first, show no decrease: from all losses, and without the largest.

    The count is the last j where the line through the newest j losses falls with a probability Φ(slope/se), seen
    backwards, below `probability_of_decrease`. Only the first `size` losses count.
    """
    steps = jnp.arange(1, losses.shape[0] + 1, dtype=jnp.int32)
    valid = steps <= size
    in_order = jnp.sort(jnp.where(valid, losses, jnp.inf))
    center, upper = in_order[(size - 1) // 2], in_order[_quantile_index(size, quantile_discard)]
    # the statistics don't depend on origin and unit: take those in which squares neither overflow nor vanish
    unit = upper / 2 - center / 2
    y = jnp.clip((losses / 2 - center / 2) / jnp.where(unit > 0, unit, 1), -1e12, 1e12)

    def count(keep: jax.Array) -> jax.Array:
        n, slope, error = running_slopes(y, keep)
        z = slope / jnp.where(error > 0, error, jnp.finfo(y.dtype).tiny)  # of equal losses 0: the probability is 0.5
        flat = valid & (n > 2) & (jax.scipy.stats.norm.cdf(z) < probability_of_decrease)
        return jnp.max(jnp.where(flat, steps, 0))

    return jax.vmap(count)(jnp.stack([valid, valid & (losses <= upper)]))


def _init_stall(params: Any, tx: Any) -> ReduceOnStallState:
    float_dtype = jnp.result_type(float)
    return ReduceOnStallState(
        losses=jnp.zeros([tx.patience], float_dtype),
        position=jnp.zeros([], jnp.int32),
        size=jnp.zeros([], jnp.int32),
        since_test=jnp.zeros([], jnp.int32),
        steps_without_progress=jnp.zeros([], jnp.int32),
        **_start(),
    )


@transformation(_init_stall, packable=always)
def reduce_on_stall(
    updates: Any,
    state: Any,
    params: Any,
    factor: OpenFraction = 0.1,
    patience: Size = 2000,
    probability_of_decrease: OpenFraction = 0.51,
    quantile_discard: Decay = 0.1,
    min_scale: Fraction = 0.0,
    mode: Literal["min", "max"] = "min",
    **extra_args: Any,
):
    """Reduces the rate when the noisy losses of the last `patience` steps show no decrease: a statistical test instead
    of a comparison with the best value, for the loss of single batches.

    P = Φ(slope/se), the probability that the loss still falls, where slope and se are those of the least-squares line
    through the newest j losses, seen backwards, se = √(SSR/(j−2)·12/(j³−j)); the steps without progress are the last j
    with P < probability_of_decrease, and again without the losses above the upper `quantile_discard` quantile, so that
    a few bad batches don't count; where both are `patience`: scale ← max(factor·scale, min_scale), and the
    400 + patience/10 oldest losses are dropped; u = scale·g

    `mode="max"` is for values that ought to rise. `value=None` leaves the state as it is. Values that aren't finite are
    ignored and counted. The scale never rises.

    The line is exact least squares. dlib's recursion starts from a prior that pulls the line to 0: its counts are the
    same unless the losses are some thousand times their noise.

    Cost: a step stores one number. A test sorts the losses and sums over them, O(patience·log patience); one is made in
    patience//200 + 1 steps, so that is some 200 losses a step. Under `vmap` it is computed at every step.

    State: `ReduceOnStallState`, with a ring buffer of `patience` losses; `get_learning_rate` multiplies by its `scale`.
    Needs: `value`, a scalar, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.chain(lrjax.sgd(0.5), lrjax.reduce_on_stall(factor=0.1, patience=5)), jnp.ones(1)
    >>> state = tx.init(g)
    >>> for loss in (1.0, 1.2, 0.9, 1.0, 1.1):
    ...     updates, state = tx.update(g, state, g, value=loss)
    >>> updates, state[-1].scale
    (Array([-0.05], dtype=float32), Array(0.1, dtype=float32))

    Source: dlib, Davis E. King, `dnn_trainer` and `count_steps_without_decrease_robust`; explained in King 2018,
    Automatic Learning Rate Scheduling That Really Works, blog.dlib.net.
    """
    value = _value("reduce_on_stall", extra_args)
    if value is not None:
        finite = jnp.isfinite(value)
        stored = jnp.where(finite, value if mode == "min" else -value, state.losses[state.position])
        losses = state.losses.at[state.position].set(stored)
        position = jnp.where(finite, (state.position + 1) % patience, state.position)
        size = jnp.where(finite, jnp.minimum(state.size + 1, patience), state.size)
        since = jnp.where(finite, state.since_test + 1, state.since_test)
        due = finite & (since > patience // _TESTS)

        def test() -> jax.Array:
            newest_first = losses[(position - 1 - jnp.arange(patience, dtype=jnp.int32)) % patience]
            return count_steps_without_decrease(newest_first, size, probability_of_decrease, quantile_discard)

        plain, robust = jax.lax.cond(due, test, lambda: jnp.full(2, state.steps_without_progress))
        fires = due & (plain >= patience) & (robust >= patience)
        without_progress = jnp.where(plain >= patience, robust, plain)
        state = ReduceOnStallState(
            losses=losses,
            position=position,
            size=jnp.where(fires, jnp.maximum(size - _DROPPED - patience // 10, 0), size),
            since_test=jnp.where(due, 0, since),
            steps_without_progress=jnp.where(fires, 0, without_progress),
            **_next(state, fires, finite, factor, min_scale),
        )
    return _scaled(updates, state.scale), state
