"""Transformations that are applied under a condition."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Count
from lrjax.numerics import Array, ArrayTree, safe_increment
from lrjax.transforms.base import Transformation, transformation, update_inner
from lrjax.transforms.elementwise import fill_none
from lrjax.transforms.sharding import shard_like, vary_as_all, vary_like


class ConditionallyTransformState(NamedTuple):
    inner_state: ArrayTree
    step: Array  # int32 (): updates so far


class ConditionallyMaskState(NamedTuple):
    step: Array  # int32 (): updates so far
    inner_state: ArrayTree


class ApplyIfFiniteState(NamedTuple):
    notfinite_count: Array  # int32 (): consecutive updates that weren't finite, up to the last
    last_finite: Array  # bool (): whether the last update was finite
    total_notfinite: Array  # int32 (): all updates that weren't finite
    inner_state: ArrayTree


def update_if(condition: Any, update: Callable[[], tuple[Any, Any]], otherwise: Any, state: Any) -> tuple[Any, Any]:
    """Returns (updates, state) of `update()` if the condition holds, else `otherwise`, in the same dtypes, and `state`.

    Only one of them is computed, except under `vmap`. `otherwise=None` means zero updates. Both get the sharding of the
    result of `update()`, as the branches of a `cond` must have the same.
    """
    result = jax.eval_shape(update)
    if otherwise is None:
        skipped = jax.tree.map(jnp.zeros_like, result[0])
    else:
        skipped = jax.tree.map(lambda x, s: jnp.asarray(x).astype(s.dtype), fill_none(otherwise, result[0]), result[0])
    unchanged = (skipped, state)
    return jax.lax.cond(
        condition, lambda: vary_like(update(), unchanged), lambda: jax.tree.map(shard_like, unchanged, result)
    )


def _call_predicate(should: Callable[..., Any], name: str, step: Any, extra_args: Any, forward: bool) -> Any:
    answer = jnp.asarray(should(step, **(extra_args if forward else {})))
    if answer.shape != () or answer.dtype != jnp.bool_:
        raise ValueError(f"{name}: `should_transform_fn` must return one bool, got {answer.dtype}{answer.shape}.")
    return answer


@transformation(lambda params, tx: ConditionallyTransformState(tx.inner.init(params), jnp.zeros([], jnp.int32)))
def conditionally_transform(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    should_transform_fn: Callable,
    forward_extra_args: bool = False,
    **extra_args: Any,
):
    """Applies `inner` at steps where `should_transform_fn(step)` is True; returns the updates unchanged at others.

    With `forward_extra_args` the function gets the extra arguments of `update` too.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.conditionally_transform(lrjax.scale(2.0), lambda step: step >= 1), jnp.ones(1)
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(g, state)[0]
    (Array([1.], dtype=float32), Array([2.], dtype=float32))
    """
    due = _call_predicate(should_transform_fn, "conditionally_transform", state.step, extra_args, forward_extra_args)
    update = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(due, update, updates, state.inner_state)
    return updates, ConditionallyTransformState(inner_state, safe_increment(state.step))


@transformation(lambda params, tx: ConditionallyMaskState(jnp.zeros([], jnp.int32), tx.inner.init(params)))
def conditionally_mask(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    should_transform_fn: Callable,
    forward_extra_args: bool = False,
    **extra_args: Any,
):
    """Applies `inner` at steps where `should_transform_fn(step)` is True; returns zero updates at others.

    With `forward_extra_args` the function gets the extra arguments of `update` too.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.conditionally_mask(lrjax.scale(2.0), lambda step: step >= 1), jnp.ones(1)
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(g, state)[0]
    (Array([0.], dtype=float32), Array([2.], dtype=float32))
    """
    due = _call_predicate(should_transform_fn, "conditionally_mask", state.step, extra_args, forward_extra_args)
    update = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(due, update, None, state.inner_state)
    return updates, ConditionallyMaskState(safe_increment(state.step), inner_state)


def all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([True, *(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree))]))


def _init_apply_if_finite(params: Any, tx: Any) -> ApplyIfFiniteState:
    zero = vary_as_all(jnp.zeros([], jnp.int32), params)
    return ApplyIfFiniteState(zero, zero == 0, jnp.zeros_like(zero), tx.inner.init(params))


@transformation(_init_apply_if_finite)
def apply_if_finite(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    max_consecutive_errors: Count | None = None,
    **extra_args: Any,
):
    """Skips updates with a nan or an infinity: returns zero updates and keeps the state of `inner`.

    As in Optax, after more than `max_consecutive_errors` in a row it applies them, so that the run visibly fails; with
    None, the default, never.

    State: `ApplyIfFiniteState(notfinite_count, last_finite, total_notfinite, inner_state)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.apply_if_finite(lrjax.sgd(0.5), 3), jnp.ones(1)
    >>> updates, state = tx.update(jnp.array([jnp.nan]), tx.init(params), params)
    >>> updates, int(state.total_notfinite)
    (Array([0.], dtype=float32), 1)
    """
    finite = vary_like(all_finite(updates), state.last_finite)
    in_a_row = jnp.where(finite, 0, safe_increment(state.notfinite_count))
    gives_up = False if max_consecutive_errors is None else in_a_row > max_consecutive_errors.whole
    update = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(finite | gives_up, update, None, state.inner_state)
    total = jnp.where(finite, state.total_notfinite, safe_increment(state.total_notfinite))
    return updates, ApplyIfFiniteState(in_a_row, finite, total, inner_state)
