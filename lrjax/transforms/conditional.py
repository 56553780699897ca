"""Transformations that act only when they should."""

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
    notfinite_count: Array  # int32 (): updates that weren't finite, since the last that was
    last_finite: Array  # bool (): whether the last update was finite
    total_notfinite: Array  # int32 (): updates that weren't finite, in all
    inner_state: ArrayTree


def update_if(condition: Any, do: Callable[[], tuple[Any, Any]], otherwise: Any, state: Any) -> tuple[Any, Any]:
    """(updates, state) of `do()` where the condition holds, else `otherwise`, in the same dtypes, and the old state.

    Only the chosen one is computed, but under `vmap`. Without updates to pass on, `otherwise=None`, they are zero.
    Both are sharded as what `do` returns, as the branches of a `cond` must be.
    """
    done = jax.eval_shape(do)
    if otherwise is None:
        passed = jax.tree.map(jnp.zeros_like, done[0])
    else:
        passed = jax.tree.map(lambda x, s: jnp.asarray(x).astype(s.dtype), fill_none(otherwise, done[0]), done[0])
    kept = (passed, state)
    return jax.lax.cond(condition, lambda: vary_like(do(), kept), lambda: jax.tree.map(shard_like, kept, done))


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
    """Does what `inner` does at the steps where `should_transform_fn(step)` is True; passes the updates on at others.

    With `forward_extra_args` the function gets those of `update` too.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.conditionally_transform(lrjax.scale(2.0), lambda step: step >= 1), jnp.ones(1)
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(g, state)[0]
    (Array([1.], dtype=float32), Array([2.], dtype=float32))
    """
    due = _call_predicate(should_transform_fn, "conditionally_transform", state.step, extra_args, forward_extra_args)
    do = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(due, do, updates, state.inner_state)
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
    """Does what `inner` does at the steps where `should_transform_fn(step)` is True; at others the updates are zero.

    With `forward_extra_args` the function gets those of `update` too.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.conditionally_mask(lrjax.scale(2.0), lambda step: step >= 1), jnp.ones(1)
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(g, state)[0]
    (Array([0.], dtype=float32), Array([2.], dtype=float32))
    """
    due = _call_predicate(should_transform_fn, "conditionally_mask", state.step, extra_args, forward_extra_args)
    do = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(due, do, None, state.inner_state)
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
    """Skips updates that hold a nan or an infinity: zero updates, and the state of `inner` stays.

    As in Optax it gives up after more than `max_consecutive_errors` of them in a row and lets them through, which ends
    the run; None, the default, never gives up.

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
    do = lambda: update_inner(inner, updates, state.inner_state, params, extra_args)
    updates, inner_state = update_if(finite | gives_up, do, None, state.inner_state)
    total = jnp.where(finite, state.total_notfinite, safe_increment(state.total_notfinite))
    return updates, ApplyIfFiniteState(in_a_row, finite, total, inner_state)
