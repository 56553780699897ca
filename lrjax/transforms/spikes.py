"""Steps skipped, and gradients clipped, by what losses and norms have been lately."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Count, Decay, NonNegative, Positive, Size
from lrjax.numerics import Array, ArrayTree, safe_increment
from lrjax.transforms.base import Transformation, transformation, update_inner
from lrjax.transforms.conditional import update_if
from lrjax.transforms.elementwise import cast_like, is_none, map_updates
from lrjax.transforms.norms import global_norm
from lrjax.transforms.sharding import vary_as_all, vary_like


class SkipSpikesState(NamedTuple):
    losses: Array  # float32 [window]: the last ones, the newest at the end
    norms: Array  # float32 [window]: of the gradients
    count: Array  # int32 (): how many of them are known
    skipped: Array  # int32 (): steps that were skipped, in all
    last_skipped: Array  # bool (): whether the last one was
    inner_state: ArrayTree


class ClipByZscoreState(NamedTuple):
    count: Array  # int32 (): finite norms so far
    mean: Array  # float32 (): of the norms
    var: Array  # float32 ()


class ClipByHistoryState(NamedTuple):
    count: Array  # int32 (): updates so far
    norms: ArrayTree  # float32 () for each array: what its norm has been lately


def appended(recent: Any, x: Any) -> jax.Array:
    """The last values with one more at the end, without the first."""
    return jnp.concatenate([recent[1:], x[None]])


def mean_and_std(recent: Any, known: Any) -> tuple[jax.Array, jax.Array]:
    """Of the values that are known, the last ones; unbiased, as PyTorch's `std`, and 0 for less than two."""
    weight = jnp.arange(len(recent), dtype=known.dtype) >= len(recent) - known
    count = known.astype(recent.dtype)
    mean = jnp.sum(jnp.where(weight, recent, 0)) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(weight, jnp.square(recent - mean), 0))
    return mean, jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def _no_losses(params: Any, tx: Any) -> SkipSpikesState:
    zero = vary_as_all(jnp.zeros([], jnp.int32), params)
    recent = vary_as_all(jnp.zeros(tx.window, jnp.result_type(float)), params)
    return SkipSpikesState(recent, jnp.zeros_like(recent), zero, jnp.zeros_like(zero), zero > 0, tx.inner.init(params))


@transformation(_no_losses)
def skip_spikes(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    window: Size = 128,
    threshold: Positive = 6.0,
    **extra_args: Any,
):
    """Skips a step whose loss, or gradient, is far above what it has been lately: zero updates, `inner` stays.

    skip where L − mean > threshold·std, or the same of ‖g‖, of the last `window` steps, half of which must be known

    The loss is the extra argument `value`; without it only the norm is looked at. Values of skipped steps count as
    history, so a level that stays high is soon the normal one. One that isn't finite is skipped always, and is no
    history.

    State: `SkipSpikesState(losses, norms, count, skipped, last_skipped, inner_state)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.skip_spikes(lrjax.sgd(1.0), window=4), jnp.zeros(1)
    >>> state = tx.init(params)
    >>> for g in (1.0, 1.1, 100.0):
    ...     updates, state = tx.update(jnp.array([g]), state, params)
    >>> updates, int(state.skipped)
    (Array([0.], dtype=float32), 1)

    Source: OLMo et al. 2024, 2 OLMo 2 Furious, arXiv:2501.00656, section 3.4.1; the `SkipStepOptimizer` of OLMo-core.
    """
    dtype, value = state.norms.dtype, extra_args.get("value")
    norm = vary_like(global_norm(updates).astype(dtype), state.last_skipped)
    loss = jnp.zeros_like(norm) if value is None else vary_like(jnp.asarray(value, dtype), state.last_skipped)

    def is_high(recent: Any, x: Any) -> jax.Array:
        mean, std = mean_and_std(recent, state.count)
        return x - mean > threshold * std

    finite, enough = jnp.isfinite(norm) & jnp.isfinite(loss), state.count >= max(window // 2, 2)
    skip = ~finite | (enough & (is_high(state.losses, loss) | is_high(state.norms, norm)))
    do = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(~skip, do, None, state.inner_state)
    keep = lambda new, old: jnp.where(finite, new, old)
    return updates, SkipSpikesState(
        keep(appended(state.losses, loss), state.losses),
        keep(appended(state.norms, norm), state.norms),
        keep(jnp.minimum(state.count + 1, window), state.count),
        jnp.where(skip, safe_increment(state.skipped), state.skipped),
        skip,
        inner_state,
    )


def _no_norms(params: Any, tx: Any) -> ClipByZscoreState:
    zero = vary_as_all(jnp.zeros([], jnp.result_type(float)), params)
    return ClipByZscoreState(zero.astype(jnp.int32), zero, jnp.zeros_like(zero))


@transformation(_no_norms)
def clip_by_zscore(
    updates: Any,
    state: Any,
    params: Any,
    threshold: Positive = 2.5,
    decay: Decay = 0.97,
    warmup: Count = 25,
    max_norm: NonNegative | None = 1.0,
    eps: NonNegative = 1e-6,
):
    """Scales updates down whose norm is far above its moving average, the farther the more; and to `max_norm` always.

    z = (n − μ)/(σ + eps); where z > threshold, n̂ = μ + threshold²·σ/z

    μ ← decay·μ + (1 − decay)·n̂, σ² ← decay·σ² + (1 − decay)·(n̂ − μ)²

    They begin as mean and variance of the first `warmup` norms, where only `max_norm` clips. An update that isn't
    finite goes on as it is, and is no history.

    State: `ClipByZscoreState(count, mean, var)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.clip_by_zscore(warmup=2, max_norm=None)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 1.2, 50.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> float(updates[0]) < 1.2
    True

    Source: Kumar et al. 2025, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, arXiv:2504.02507, algorithm 1.
    """
    norm = vary_like(global_norm(updates).astype(state.mean.dtype), state.mean)
    n, known = state.count.astype(norm.dtype) + 1, state.count >= warmup.whole
    z = (norm - state.mean) / (jnp.sqrt(state.var) + eps)
    clipped = jnp.where(
        known & (z > threshold), state.mean + threshold**2 * jnp.sqrt(state.var) / jnp.maximum(z, threshold), norm
    )
    mean = decay * state.mean + (1 - decay) * clipped
    var = decay * state.var + (1 - decay) * jnp.square(clipped - mean)
    first_mean = state.mean + (norm - state.mean) / n  # Welford's
    first_var = state.var + ((norm - state.mean) * (norm - first_mean) - state.var) / n
    finite = jnp.isfinite(norm)
    keep = lambda late, early, old: jnp.where(finite, jnp.where(known, late, early), old)
    most = clipped if max_norm is None else jnp.minimum(clipped, max_norm)
    factor = jnp.where(finite & (norm > most), most / norm, 1)
    return map_updates(lambda g: cast_like(factor, g) * g, updates), ClipByZscoreState(
        jnp.where(finite, safe_increment(state.count), state.count),
        keep(mean, first_mean, state.mean),
        keep(var, first_var, state.var),
    )


def _no_history(params: Any, tx: Any) -> ClipByHistoryState:
    count = vary_as_all(jnp.zeros([], jnp.int32), params)
    return ClipByHistoryState(
        count, jax.tree.map(lambda p: vary_as_all(jnp.zeros([], jnp.result_type(float)), params), params)
    )


@transformation(_no_history)
def clip_by_history(
    updates: Any,
    state: Any,
    params: Any,
    ratio: Positive = 1.05,
    decay: Decay = 0.98,
    warmup: Count = 100,
    max_norm: NonNegative = 1.0,
):
    """Scales each array's update so that its norm is at most `ratio` times what it has been lately.

    ĝ = g·min(1, ratio·γ/‖g‖), γ ← decay·γ + (1 − decay)·‖ĝ‖

    Before the update `warmup`, and in the first one, all are scaled alike to a norm of at most `max_norm`, and γ is the
    least norm of the array so far. An update that isn't finite goes on as it is, and is no history.

    State: `ClipByHistoryState(count, norms)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.clip_by_history(warmup=1), {"a": jnp.array([0.5]), "b": jnp.array([0.2])}
    >>> _, state = tx.update(g, tx.init(g))
    >>> tx.update({"a": jnp.array([5.0]), "b": jnp.array([0.2])}, state)[0]
    {'a': Array([0.525], dtype=float32), 'b': Array([0.2], dtype=float32)}

    Source: Wang et al. 2025, AdaGC: Improving Training Stability for Large Language Model Pretraining,
    arXiv:2502.11034, algorithm 1.
    """
    total = vary_like(global_norm(updates), state.count)
    finite, late = jnp.isfinite(total), state.count + 1 >= jnp.maximum(warmup.whole, 2)
    together = jnp.where(total > max_norm, max_norm / total, 1)

    def one(g: Any, gamma: Any) -> tuple[Any, Any]:
        if g is None or gamma is None:
            return g, gamma
        norm = vary_like(global_norm(g).astype(gamma.dtype), gamma)
        alone = jnp.where(norm > ratio * gamma, ratio * gamma / norm, 1)
        factor = jnp.where(finite, jnp.where(late, alone, together.astype(gamma.dtype)), 1)
        clipped = factor * norm
        early = jnp.where(state.count == 0, clipped, jnp.minimum(gamma, clipped))
        new = jnp.where(late, decay * gamma + (1 - decay) * clipped, early)
        return map_updates(lambda g: cast_like(factor, g) * g, g), jnp.where(finite, new, gamma)

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    pairs = [one(*row) for row in zip(leaves, treedef.flatten_up_to(state.norms), strict=True)]
    out, norms = (treedef.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
    return out, ClipByHistoryState(jnp.where(finite, safe_increment(state.count), state.count), norms)
