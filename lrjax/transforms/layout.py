"""Transformations on concatenated or stacked arrays, so that there are fewer of them."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lrjax.domains import Domain, NotInDomain
from lrjax.numerics import Array, ArrayTree
from lrjax.transforms.averaging import evaluation_params
from lrjax.transforms.base import (
    Transformation,
    always,
    as_transformation,
    assert_trees_match,
    transformation,
    update_inner,
)
from lrjax.transforms.elementwise import fill_none, group_small_arrays, inexact_dtype, is_none
from lrjax.transforms.sharding import replicated, shard_like


def _ravel(tree: Any) -> Any:
    """Returns the tree as one vector, and the function that restores the tree and its shardings."""
    flat, unravel = ravel_pytree(
        jax.tree.map(lambda x: replicated(jnp.asarray(x, inexact_dtype(jnp.result_type(x)))), tree)
    )
    return flat, lambda vector: jax.tree.map(shard_like, unravel(vector), tree)


@transformation(lambda params, tx: tx.inner.init(_ravel(params)[0]), packable=always)
def flatten(updates: Any, state: Any, params: Any, inner: Transformation, **extra_args: Any):
    """Applies `inner` to all parameters concatenated into one vector.

    So per-array operations act on the whole tree: one norm, one trust ratio. State: that of `inner`, for one vector. To
    save time with many small arrays, see `packed`. A missing gradient counts as zeros. The arrays of an explicit mesh
    are gathered.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.flatten(lrjax.trace(0.9))
    >>> tx.init({"a": jnp.zeros(2), "b": jnp.zeros((1, 2))})
    TraceState(trace=Array([0., 0., 0., 0.], dtype=float32))
    """
    if params is not None:
        assert_trees_match("flatten", updates=updates, params=params)
    flat, unravel = _ravel(updates if params is None else fill_none(updates, params))
    flat, state = update_inner(inner, flat, state, None if params is None else _ravel(params)[0], extra_args)
    return jax.tree.map(lambda g, u: None if g is None else u, updates, unravel(flat), is_leaf=is_none), state


class Packed(NamedTuple):
    """The arrays of a tree, with small ones of the same shape, dtype and sharding stacked."""

    arrays: tuple[Array, ...]  # for a tree without leaves, such as a placeholder, the tree itself


class PackedState(NamedTuple):
    inner_state: ArrayTree  # state of `inner`, of `Packed` trees; `unpack_state` makes them like params

    def evaluation_params(self, params: ArrayTree) -> Any:
        """Returns those of the inner state, see `lrjax.evaluation_params`."""
        given = _pack(params, group_small_arrays(jax.tree.leaves(params)))
        found = evaluation_params(self.inner_state, given)
        return params if found is given else _unpack(found, params)


def _packable(tx: Any) -> Any:
    tx = as_transformation(tx)
    if not tx._packable(tx):
        raise NotInDomain
    return tx


Packable = Annotated[
    Any,
    Domain("a transformation without masks, and without rates or norms of single arrays", _packable),
]


def _pack(tree: Any, layout: list[list[int]]) -> Packed:
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return Packed(tree)
    groups = ([leaves[i] for i in group] for group in layout)
    return Packed(tuple(jnp.stack(group) if len(group) > 1 else jnp.asarray(group[0]) for group in groups))


def _unpack(packed: Packed, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    if not leaves:
        return like
    for group, array in zip(group_small_arrays(leaves), packed.arrays, strict=True):
        for i, part in zip(group, jnp.unstack(array) if len(group) > 1 else [array], strict=True):
            leaves[i] = part
    return structure.unflatten(leaves)


def _is_packed(x: Any) -> bool:
    return isinstance(x, Packed)


@transformation(
    lambda params, tx: PackedState(tx.inner.init(_pack(params, group_small_arrays(jax.tree.leaves(params))))),
)
def packed(updates: Any, state: Any, params: Any, inner: Packable, **extra_args: Any):
    """Applies `inner` with small arrays of the same shape stacked, for trees of hundreds of them.

    The updates are the same, up to rounding; with a thousand arrays compiling and running take several times less time.
    Large arrays aren't stacked. The moments are stacked too; `unpack_state(state, params)` and
    `pack_state(tx, state, params)` convert them, so checkpoints are interchangeable.

    State: `PackedState(inner_state)`.

    Raises:
      ValueError: `inner` has a mask, or rates or norms of single arrays; or `updates` lack an array of `params`, or
        have it in another dtype.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.packed(lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.adamw(1e-3)))
    >>> params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    >>> tx.init(params).inner_state[1][0].mu
    Packed(arrays=(Array([[0., 0., 0.],
           [0., 0., 0.]], dtype=float32),))
    """
    like = updates if params is None else params
    assert_trees_match("packed", updates=updates, params=like)
    updates = jax.tree.map(lambda u, p: None if p is None else u, updates, like, is_leaf=is_none)
    leaves = jax.tree.leaves(updates)
    if len(leaves) != len(jax.tree.leaves(like)):
        raise ValueError("packed: `updates` must have an array for every parameter, got None for some.")
    layout = group_small_arrays(jax.tree.leaves(like))
    if any(jnp.result_type(u) != jnp.result_type(p) for u, p in zip(leaves, jax.tree.leaves(like), strict=True)):
        raise ValueError("packed: `updates` must have the dtypes of `params`.")
    stacked, inner_state = update_inner(
        inner,
        _pack(updates, layout),
        state.inner_state,
        None if params is None else _pack(params, layout),
        extra_args,
    )
    return jax.tree.structure(updates).unflatten(jax.tree.leaves(_unpack(stacked, like))), PackedState(inner_state)


def unpack_state(state: PackedState, params: ArrayTree) -> ArrayTree:
    """Converts a state of `packed(inner)` to the state of `inner` alone, with moments like `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    >>> lrjax.unpack_state(lrjax.packed(lrjax.trace(0.9)).init(params), params)
    TraceState(trace={'a': Array([0., 0.], dtype=float32), 'b': Array([0., 0.], dtype=float32)})
    """
    return jax.tree.map(lambda x: _unpack(x, params) if _is_packed(x) else x, state.inner_state, is_leaf=_is_packed)


def pack_state(tx: Any, state: ArrayTree, params: ArrayTree) -> PackedState:
    """Converts a state of `inner` alone to the state of `tx`, which is `packed(inner)`.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.packed(lrjax.trace(0.9)), {"a": jnp.ones(2), "b": jnp.ones(2)}
    >>> lrjax.pack_state(tx, tx.inner.init(params), params)
    PackedState(inner_state=TraceState(trace=Packed(arrays=(Array([[0., 0.],
           [0., 0.]], dtype=float32),))))
    """
    layout, like = group_small_arrays(jax.tree.leaves(params)), jax.eval_shape(tx.init, params).inner_state
    return PackedState(
        jax.tree.map(lambda p, x: _pack(x, layout) if _is_packed(p) else x, like, state, is_leaf=_is_packed)
    )
