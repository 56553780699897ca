"""Adds the updates to the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from lrjax.numerics import ArrayTree, cast_to, common_dtype
from lrjax.transforms.base import assert_trees_match, holds_arrays_only


@jax.jit  # traced once for all arrays of one shape and dtype
def _add(u: Any, p: Any) -> Any:
    if jnp.result_type(u) == jax.dtypes.float0:  # the dtype of `jax.grad`'s gradient of an integer
        return p
    dtype = common_dtype(p, u)
    if jnp.issubdtype(dtype, jnp.inexact) and not jnp.issubdtype(jnp.result_type(p), jnp.inexact):
        raise TypeError(
            f"apply_updates: `params` must be floating or complex where `updates` are, got {jnp.result_type(p)}."
        )
    return cast_to(jnp.asarray(p, dtype) + jnp.asarray(u, dtype), jnp.result_type(p))


@jax.jit
def _apply(params: Any, updates: Any) -> Any:
    add_leaf = lambda u, p: p if u is None or p is None else _add(u, p)
    return jax.tree.map(add_leaf, updates, params, is_leaf=lambda x: x is None)


def apply_updates(params: ArrayTree, updates: ArrayTree) -> Any:
    """Returns `params + updates`, leaf by leaf, in the dtype of the parameters; one compiled call.

    A leaf of `updates` that is None, or has the dtype `float0`, leaves its parameter unchanged. Integer and bool
    parameters take integer and bool updates.

    Raises:
      ValueError: the trees or their shapes differ (Optax broadcasts).
      TypeError: a parameter is an integer where its update is floating (Optax truncates), or real where it is complex.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.apply_updates({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.5, -0.5])})
    {'w': Array([1.5, 1.5], dtype=float32)}
    """
    assert_trees_match("apply_updates", updates=updates, params=params)
    run = _apply if holds_arrays_only(params) else _apply.__wrapped__
    return run(params, updates)
