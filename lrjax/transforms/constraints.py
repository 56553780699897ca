"""Transformations with little or no state: functions of the updates, constraints, centering, removal of nans."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import NonNegative, Number
from lrjax.numerics import ArrayTree
from lrjax.transforms.base import always, assert_trees_match, no_state, transformation
from lrjax.transforms.elementwise import cast_like, is_none, map_updates, traced_once
from lrjax.transforms.norms import global_norm


class ZeroNansState(NamedTuple):
    found_nan: ArrayTree  # for each parameter, bool (): whether its last update had a nan


@transformation(no_state)
def stateless(updates: Any, state: Any, params: Any, f: Callable):
    """Makes a transformation of a function of the updates and the parameters.

    u = f(updates, params)

    >>> import jax, jax.numpy as jnp, lrjax
    >>> tx = lrjax.stateless(lambda updates, params: jax.tree.map(lambda g: g + g, updates))
    >>> tx.update(jnp.ones(1), lrjax.EmptyState())[0]
    Array([2.], dtype=float32)
    """
    return f(updates, params), state


@transformation(no_state)
def stateless_with_tree_map(updates: Any, state: Any, params: Any, f: Callable):
    """Makes a transformation of a function of one update and its parameter, mapped over the tree.

    u = f(g, p) for every array, with p = None if no parameters are given

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.stateless_with_tree_map(lambda g, p: g + g).update({"w": jnp.ones(1)}, lrjax.EmptyState())[0]
    {'w': Array([2.], dtype=float32)}
    """
    if params is None:
        return jax.tree.map(lambda g: f(g, None), updates), state
    return jax.tree.map(lambda g, p: None if g is None else f(g, p), updates, params, is_leaf=is_none), state


@transformation(no_state, packable=always)
def keep_params_nonnegative(updates: Any, state: Any, params: Any):
    """Projects the updated parameters to be nonnegative; place it last in a chain.

    u = g, −p where p + g < 0

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.keep_params_nonnegative(), jnp.array([1.0, 1.0])
    >>> tx.update(jnp.array([-3.0, 3.0]), lrjax.EmptyState(), params)[0]
    Array([-1.,  3.], dtype=float32)
    """
    if params is None:
        raise ValueError("keep_params_nonnegative: `params` must be given to `update`, got None.")
    assert_trees_match("keep_params_nonnegative", updates=updates, params=params)
    return map_updates(lambda g, p: jnp.where(p + g < 0, -p, g), updates, params), state


@transformation(lambda params, tx: ZeroNansState(jax.tree.map(lambda p: jnp.zeros_like(p, bool, ()), params)))
def zero_nans(updates: Any, state: Any, params: Any):
    """Replaces nans in the updates by zeros.

    State: `ZeroNansState(found_nan)`, which parameters had a nan in the last update.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.zero_nans(), jnp.array([jnp.nan, 1.0])
    >>> tx.update(g, tx.init(g))[0]
    Array([0., 1.], dtype=float32)
    """
    has_nan = lambda g, old: None if old is None else old & False if g is None else jnp.any(jnp.isnan(g))
    found = jax.tree.map(has_nan, updates, state.found_nan, is_leaf=is_none)
    zeroed = jax.tree.map(traced_once(lambda g: jnp.where(jnp.isnan(g), jnp.zeros_like(g), g)), updates)
    return zeroed, ZeroNansState(found)


@transformation(no_state)
def centralize(updates: Any, state: Any, params: Any):
    """Gradient centralization: subtracts the mean of every slice along the first axis; not from vectors and scalars.

    u = g − mean(g) over all axes but the first

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.centralize().update(jnp.array([[1.0, 3.0], [2.0, 2.0]]), lrjax.EmptyState())[0]
    Array([[-1.,  1.],
           [ 0.,  0.]], dtype=float32)

    Source: Yong et al. 2020, Gradient Centralization, arXiv:2004.01461, eq. 1 (there the first axis is the output).
    """

    def leaf(g: jax.Array) -> jax.Array:
        return g - jnp.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim > 1 else g

    return map_updates(leaf, updates), state


@transformation(no_state, packable=always)
def normalize_by_update_norm(
    updates: Any, state: Any, params: Any, scale_factor: Number = 1.0, eps: NonNegative = 1e-6
):
    """Normalizes the updates by their global norm.

    u = scale_factor·g/(‖g‖ + eps), 0 where the norm and eps are 0

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.normalize_by_update_norm(eps=0.0).update(jnp.array([3.0, 4.0]), lrjax.EmptyState())[0]
    Array([0.6, 0.8], dtype=float32)
    """
    norm = global_norm(updates) + eps
    factor = jnp.where(norm > 0, scale_factor / jnp.where(norm > 0, norm, 1), 0)
    return map_updates(lambda g: cast_like(factor, g) * g, updates), state
