"""Bounds on the size of an update."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lrjax.domains import Positive
from lrjax.numerics import abs_sq
from lrjax.transforms.base import no_state, transformation
from lrjax.transforms.elementwise import cast, compute_dtype, map_updates


@transformation(no_state)
def clip(updates: Any, state: Any, params: Any, max_delta: Positive):
    """Every coordinate between −`max_delta` and `max_delta`.

    u = min(max(g, −max_delta), max_delta)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.clip(1.0).update(jnp.array([-3.0, 0.5]), lrjax.EmptyState())[0]
    Array([-1. ,  0.5], dtype=float32)
    """

    def leaf(g: jax.Array) -> jax.Array:
        bound = cast(max_delta, g)
        return jnp.clip(g, -bound, bound)

    return map_updates(leaf, updates), state


@transformation(no_state)
def clip_by_global_norm(updates: Any, state: Any, params: Any, max_norm: Positive):
    """Scales all updates alike so that their norm, as one vector, is at most `max_norm`.

    u = g·min(1, max_norm/‖g‖)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.clip_by_global_norm(1.0).update(jnp.array([3.0, 4.0]), lrjax.EmptyState())[0]
    Array([0.6, 0.8], dtype=float32)

    Source: Pascanu, Mikolov & Bengio 2013, On the difficulty of training RNNs, arXiv:1211.5063, algorithm 1.
    """
    norm = global_norm(updates)
    factor = jnp.where(norm < max_norm, 1, max_norm / norm)
    return map_updates(lambda g: cast(factor, g) * g, updates), state


def global_norm(updates: chex.ArrayTree) -> jax.Array:
    """The Euclidean norm of a tree as one vector, summed in float32 at least; 0 for an empty tree.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    Array(5., dtype=float32)
    """
    total = jnp.zeros([], jnp.result_type(float))
    for g in jax.tree.leaves(updates):
        total = total + jnp.sum(abs_sq(jnp.asarray(g).astype(compute_dtype(g)))).astype(total.dtype)
    return jnp.sqrt(total)
