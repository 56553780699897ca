"""Gradient clipping, and norms."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from lrjax.domains import Axes, NonNegative
from lrjax.numerics import ArrayTree, abs_sq
from lrjax.transforms.base import always, assert_trees_match, no_state, transformation
from lrjax.transforms.elementwise import cast_like, clip_real, compute_dtype, group_small_arrays, map_updates


@transformation(no_state, packable=always)
def clip(updates: Any, state: Any, params: Any, max_delta: NonNegative):
    """Gradient clipping by value: every coordinate to [−`max_delta`, `max_delta`].

    u = min(max(g, −max_delta), max_delta)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.clip(1.0).update(jnp.array([-3.0, 0.5]), lrjax.EmptyState())[0]
    Array([-1. ,  0.5], dtype=float32)
    """

    def leaf(g: jax.Array) -> jax.Array:
        bound = cast_like(max_delta, g)
        return clip_real("clip", g, -bound, bound)

    return map_updates(leaf, updates), state


@transformation(no_state, packable=always)
def clip_by_global_norm(updates: Any, state: Any, params: Any, max_norm: NonNegative):
    """Gradient clipping by global norm: scales all updates so that their joint norm is at most `max_norm`.

    u = g·min(1, max_norm/‖g‖)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.clip_by_global_norm(1.0).update(jnp.array([3.0, 4.0]), lrjax.EmptyState())[0]
    Array([0.6, 0.8], dtype=float32)

    Source: Pascanu, Mikolov & Bengio 2013, On the difficulty of training RNNs, arXiv:1211.5063, algorithm 1.
    """
    norm = global_norm(updates)
    factor = jnp.where(norm <= max_norm, 1, max_norm / norm)
    return map_updates(lambda g: cast_like(factor, g) * g, updates), state


@transformation(no_state)
def clip_by_block_rms(updates: Any, state: Any, params: Any, threshold: NonNegative):
    """Gradient clipping by RMS: scales each array's update so that its root mean square is at most `threshold`.

    u = g/max(1, rms(g)/threshold)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.clip_by_block_rms(1.0).update(jnp.array([2.0, -2.0]), lrjax.EmptyState())[0]
    Array([ 1., -1.], dtype=float32)

    Source: Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, section 6.
    """

    def leaf(g: jax.Array) -> jax.Array:
        rms = jnp.sqrt(jnp.sum(abs_sq(g)) / max(g.size, 1))
        within = rms <= cast_like(threshold, g)
        return g * jnp.where(within, 1, cast_like(threshold, g) / jnp.where(within, 1, rms))

    return map_updates(leaf, updates), state


@transformation(no_state)
def adaptive_grad_clip(
    updates: Any, state: Any, params: Any, clipping: NonNegative, eps: NonNegative = 1e-3, axis: Axes = None
):
    """Adaptive gradient clipping (AGC): bounds the norm of each unit's update by `clipping` times its parameters' norm.

    u = g·min(1, clipping·max(‖p‖, eps)/‖g‖) for every unit

    A unit is what is left when the axes of `axis` are reduced; by default a whole vector, a column of a matrix or of a
    stack of them (axis 0), a filter of a convolution (all axes but the last).

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adaptive_grad_clip(0.5), jnp.array([6.0, 8.0])
    >>> tx.update(jnp.array([30.0, 40.0]), lrjax.EmptyState(), params)[0]
    Array([3., 4.], dtype=float32)

    Source: Brock et al. 2021, High-Performance Large-Scale Image Recognition Without Normalization, arXiv:2102.06171,
    eq. 3.
    """
    if params is None:
        raise ValueError("adaptive_grad_clip: `params` must be given to `update`, got None.")
    assert_trees_match("adaptive_grad_clip", updates=updates, params=params)

    def leaf(g: jax.Array, p: jax.Array) -> jax.Array:
        max_norm, norm = (
            cast_like(clipping, g) * jnp.maximum(_unit_norms(p, axis), cast_like(eps, g)),
            _unit_norms(g, axis),
        )
        return g * jnp.where(norm < max_norm, 1, max_norm / jnp.maximum(norm, 1e-6))

    return map_updates(leaf, updates, params), state


def unitwise_norm(x: Any, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Returns the norm of each unit of an array, broadcast to the shape of the array.

    A unit is what is left when the axes of `axis` are reduced; by default as in `adaptive_grad_clip`.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.unitwise_norm(jnp.array([[3.0, 0.0], [4.0, 1.0]]))
    Array([[5., 1.],
           [5., 1.]], dtype=float32)

    Source: Brock et al. 2021, High-Performance Large-Scale Image Recognition Without Normalization, arXiv:2102.06171,
    section 4.1.
    """
    return jnp.broadcast_to(_unit_norms(jnp.asarray(x), axis), jnp.shape(x))


def _unit_norms(x: jax.Array, axis: Any) -> jax.Array:
    """Returns one norm per unit; the reduced axes have length 1."""
    if axis is not None and not all(-x.ndim <= a < x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))):
        raise ValueError(f"unitwise_norm: `axis` must be of the axes of every array, got {axis} for shape {x.shape}.")
    return jnp.sqrt(jnp.sum(abs_sq(x), axis=_unit_axes(x) if axis is None else axis, keepdims=True))


def _unit_axes(x: jax.Array) -> tuple[int, ...]:
    if x.squeeze().ndim <= 1:
        return tuple(range(x.ndim))
    if x.ndim > 5:
        raise ValueError(f"unitwise_norm: `axis` must be given for arrays of more than 5 axes, got {x.shape}.")
    return (0,) if x.ndim <= 3 else tuple(range(x.ndim - 1))


def _check_examples(name: str, grads: Any) -> None:
    sizes = {jnp.shape(g)[0] if jnp.ndim(g) else None for g in jax.tree.leaves(grads)}
    if len(sizes) != 1 or None in sizes:
        shapes = jax.tree.map(jnp.shape, grads)
        raise ValueError(f"{name}: `grads` must have one first axis, that of the examples, got shapes {shapes}.")


def per_example_global_norm_clip(grads: ArrayTree, l2_norm_clip: Any) -> tuple[Any, jax.Array]:
    """Per-example clipping: sums the gradients, each clipped to `l2_norm_clip`; also returns how many were clipped.

    Every array of `grads` has the examples as its first axis.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.per_example_global_norm_clip(jnp.array([[3.0, 4.0], [0.0, 1.0]]), 1.0)
    (Array([0.6, 1.8], dtype=float32), Array(1, dtype=int32))

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv:1607.00133, algorithm 1.
    """
    _check_examples("per_example_global_norm_clip", grads)
    norms = jax.vmap(global_norm)(grads)
    factors = jnp.where(
        norms > 0, jnp.minimum(jnp.asarray(l2_norm_clip, norms.dtype) / jnp.where(norms > 0, norms, 1), 1), 1
    )
    total = map_updates(lambda g: jnp.tensordot(factors.astype(g.real.dtype), g, axes=1), grads)
    return total, jnp.sum(factors < 1, dtype=jnp.int32)


def per_example_layer_norm_clip(grads: ArrayTree, global_l2_norm_clip: Any, uniform: bool = True) -> tuple[Any, Any]:
    """Per-example clipping of each array separately, to a share of the norm; see `per_example_global_norm_clip`.

    The share of an array is √(1/arrays), or if not `uniform` √(its size/total size). Returns a tree of the sums, and a
    tree of the numbers of clipped examples.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.per_example_layer_norm_clip([jnp.array([[0.0, 3.0, 4.0], [4.0, 0.0, 3.0]])], 1.25)
    ([Array([1.  , 0.75, 1.75], dtype=float32)], [Array(2, dtype=int32)])

    Source: McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, arXiv:1710.06963, section 3.
    """
    _check_examples("per_example_layer_norm_clip", grads)
    leaves, treedef = jax.tree.flatten(grads)
    sizes = [g[0].size for g in leaves]
    shares = [1 / len(leaves) if uniform else size / max(sum(sizes), 1) for size in sizes]
    pairs = [
        per_example_global_norm_clip(g, global_l2_norm_clip * share**0.5)
        for g, share in zip(leaves, shares, strict=True)
    ]
    return treedef.unflatten([s for s, _ in pairs]), treedef.unflatten([n for _, n in pairs])


def global_norm(updates: ArrayTree) -> jax.Array:
    """Returns the Euclidean norm of a tree as one vector, summed in at least float32; 0 for an empty tree.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    Array(5., dtype=float32)
    """
    leaves, total = jax.tree.leaves(updates), jnp.zeros([], jnp.result_type(float))
    for group in group_small_arrays(leaves):
        squares = (abs_sq(jnp.asarray(leaves[i]).astype(compute_dtype(jnp.result_type(leaves[i])))) for i in group)
        total = total + jnp.sum(functools.reduce(operator.add, squares)).astype(total.dtype)
    return jnp.sqrt(total)
