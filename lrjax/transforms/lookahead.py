"""Lookahead, and averages of parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Number, Steps
from lrjax.numerics import Array, ArrayTree, cast_to
from lrjax.transforms.base import Transformation, assert_trees_match, transformation, update_inner
from lrjax.transforms.elementwise import cast_like, compute_dtype, inexact_dtype, is_none
from lrjax.transforms.learning_rate import copy_rate_scales


class LookaheadParams(NamedTuple):
    """Two copies of the parameters: gradients are taken at `fast`; `slow` is the model to evaluate.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.LookaheadParams.init_synced(jnp.ones(1))
    LookaheadParams(fast=Array([1.], dtype=float32), slow=Array([1.], dtype=float32))
    """

    fast: Any
    slow: Any

    @classmethod
    def init_synced(cls, params: Any) -> "LookaheadParams":
        """Sets both to `params`, in separate buffers, so that they can be donated."""
        return cls(fast=params, slow=jax.tree.map(jnp.copy, params))


class LookaheadState(NamedTuple):
    fast_state: ArrayTree  # state of `fast_optimizer`
    steps_since_sync: Array  # int32 ()

    def evaluation_params(self, params: Any) -> Any:
        """Returns the slow parameters, see `lrjax.evaluation_params`."""
        _fast_params(params)  # raises an error for other parameters
        return params.slow


def _fast_params(params: Any) -> Any:
    if not jax.tree.leaves(params):  # no parameters, or a placeholder for them
        return getattr(params, "fast", params)
    if not (hasattr(params, "fast") and hasattr(params, "slow")):
        raise ValueError(
            f"lookahead: `params` must be LookaheadParams, got {type(params).__name__}. "
            "Create them with `LookaheadParams.init_synced(params)`."
        )
    return params.fast


@transformation(
    lambda params, tx: LookaheadState(tx.fast_optimizer.init(_fast_params(params)), jnp.zeros([], jnp.int32))
)
def lookahead(
    updates: Any,
    state: Any,
    params: Any,
    fast_optimizer: Transformation,
    sync_period: Steps,
    slow_step_size: Number,
    reset_state: bool = False,
    **extra_args: Any,
):
    """Lookahead: every `sync_period` updates, slow parameters move towards the fast ones, which are reset to them.

    fast ← fast + u; at every k-th update slow ← slow + slow_step_size·(fast − slow), fast ← slow

    `params` and the returned updates are `LookaheadParams`; the gradients are taken at `params.fast`. Gradients may be
    `LookaheadParams` too, of a loss that takes them; the fast ones count. `reset_state` resets the fast optimizer's
    state at each synchronisation. `evaluation_params(state, params)` returns the slow parameters.

    State: `LookaheadState(fast_state, steps_since_sync)`. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.lookahead(lrjax.sgd(1.0), sync_period=1, slow_step_size=0.5)
    >>> params = lrjax.LookaheadParams.init_synced(jnp.array([4.0]))
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(params), params)
    >>> lrjax.apply_updates(params, updates)
    LookaheadParams(fast=Array([3.], dtype=float32), slow=Array([3.], dtype=float32))

    Source: Zhang et al. 2019, Lookahead Optimizer, arXiv:1907.08610, algorithm 1.
    """
    if params is None:
        raise ValueError("lookahead: `params` must be given to `update`, got None.")
    optimizer, fast, slow = fast_optimizer, _fast_params(params), getattr(params, "slow", params)
    updates = updates.fast if isinstance(updates, LookaheadParams) else updates
    assert_trees_match("lookahead", updates=updates, **{"params.fast": fast})
    updates, fast_state = update_inner(optimizer, updates, state.fast_state, fast, extra_args)
    sync = state.steps_since_sync >= sync_period.whole - 1

    def update_leaf(u: Any, f: Any, s: Any) -> tuple[Any, Any]:
        if u is None or f is None:
            return None, None
        dtype = compute_dtype(jnp.result_type(u))
        wide_u, gap = u.astype(dtype), f.astype(dtype) + u.astype(dtype) - s.astype(dtype)
        part = cast_like(slow_step_size, gap)
        u_fast = jnp.where(sync, wide_u - (1 - part) * gap, wide_u)
        target = inexact_dtype(jnp.result_type(u))
        return cast_to(u_fast, target), cast_to(jnp.where(sync, part * gap, 0), target)

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    pairs = [
        update_leaf(*inputs)
        for inputs in zip(leaves, treedef.flatten_up_to(fast), treedef.flatten_up_to(slow), strict=True)
    ]
    new = LookaheadParams(*(treedef.unflatten([pair[i] for pair in pairs]) for i in (0, 1)))
    if reset_state:
        reset = lambda current, initial: jnp.where(sync, initial, current)
        fast_state = jax.tree.map(reset, fast_state, copy_rate_scales(fast_state, optimizer.init(fast)))
    return new, LookaheadState(fast_state, jnp.where(sync, 0, state.steps_since_sync + 1))


def incremental_update(new_tensors: Any, old_tensors: Any, step_size: Any) -> Any:
    """Interpolates from the old to the new parameters: step_size·new + (1 − step_size)·old, in the dtype of the old.

    With a constant `step_size` this is an exponential moving average (Polyak & Juditsky 1992).

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.incremental_update(jnp.array([1.0]), jnp.array([0.0]), 0.25)
    Array([0.25], dtype=float32)
    """

    def mean(new: Any, old: Any) -> Any:
        if new is None:
            return None
        wide = compute_dtype(jnp.result_type(old))
        part = jnp.asarray(step_size).astype(jnp.finfo(wide).dtype)
        return cast_to(part * jnp.asarray(new).astype(wide) + (1 - part) * jnp.asarray(old).astype(wide), old.dtype)

    return jax.tree.map(mean, new_tensors, old_tensors, is_leaf=is_none)


def periodic_update(new_tensors: Any, old_tensors: Any, steps: Any, update_period: Any) -> Any:
    """Returns the new parameters at every multiple of `update_period`, the old ones otherwise.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.periodic_update(jnp.array([1.0]), jnp.array([0.0]), steps=10, update_period=5)
    Array([1.], dtype=float32)
    """
    due = jnp.asarray(steps) % update_period == 0
    return jax.tree.map(lambda new, old: jnp.where(due, jnp.asarray(new, old.dtype), old), new_tensors, old_tensors)
