"""Second moments with sublinear memory."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Decay, Delay, Fraction, NonNegative, Size
from lrjax.numerics import Array, ArrayTree, Time, abs_sq, cast_to, safe_increment
from lrjax.transforms.base import assert_trees_match, transformation
from lrjax.transforms.elementwise import compute_dtype, inexact_dtype, is_none, real_dtype, zeros_like


class FactoredState(NamedTuple):
    count: Array  # int32 (): updates so far
    v_row: ArrayTree  # for each parameter: its mean of |g|² over the longest axis, or (1,)
    v_col: ArrayTree  # for each parameter: its mean of |g|² over the second longest axis, or (1,)
    v: ArrayTree  # for each parameter: its |g|² where it isn't factored, or (1,)


class ScaleBySM3State(NamedTuple):
    mu: ArrayTree  # for each parameter: a list of vectors, one for each axis
    nu: ArrayTree  # like params: moving average of the update


def _unzip_trees(outputs: list[tuple[Any, ...]], treedef: Any, n: int) -> list[Any]:
    leaves_by_tree = zip(*outputs, strict=True) if outputs else [()] * n
    return [treedef.unflatten(leaves) for leaves in leaves_by_tree]


def _factored_axes(shape: tuple[int, ...], factored: bool, min_size: int) -> tuple[int, int] | None:
    """Returns the second longest and the longest axis, or None where one is shorter than `min_size`."""
    if not factored or len(shape) < 2:
        return None
    *_, second, longest = np.argsort(shape, kind="stable")
    return None if shape[second] < min_size else (int(second), int(longest))


def _array(p: Any) -> Any:
    return p if isinstance(p, jax.ShapeDtypeStruct) else jnp.asarray(p)


def _reduced(reduce: Any, p: Any, axes: tuple[int, ...]) -> Any:
    """Reduces an array over axes, and keeps the sharding of the others; of an abstract array only the shape."""
    if not isinstance(p, jax.ShapeDtypeStruct):
        return reduce(p, axis=axes)
    return jax.ShapeDtypeStruct(tuple(n for i, n in enumerate(p.shape) if i not in axes), p.dtype)


def _init_factored(params: Any, tx: Any) -> FactoredState:
    def start(p: Any) -> tuple[Any, Any, Any]:
        p = _array(p)
        dtype = real_dtype(p.dtype)
        unused = lambda: jnp.zeros(1, dtype)  # a new array each time, so that the state can be donated
        axes = _factored_axes(p.shape, tx.factored, tx.min_dim_size_to_factor)
        if axes is None:
            return unused(), unused(), jnp.zeros_like(p, dtype)
        without = lambda axis: jnp.zeros_like(_reduced(jnp.sum, p, (axis,)), dtype)
        return without(axes[1]), without(axes[0]), unused()

    leaves, treedef = jax.tree.flatten(params)
    return FactoredState(jnp.zeros([], jnp.int32), *_unzip_trees([start(p) for p in leaves], treedef, 3))


@transformation(_init_factored)
def scale_by_factored_rms(
    updates: Any,
    state: Any,
    params: Any,
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: Delay = 0,
    min_dim_size_to_factor: Size = 128,
    epsilon: NonNegative = 1e-30,
):
    """Adafactor's scaling: divides by the root of a second moment factored into row and column means.

    β = 1 − tᵖ with p = −decay_rate, t = 1 at `step_offset`; R ← β·R + (1−β)·mean over columns of |g|² + epsilon,
    C likewise over rows; u = g/√(R·C/mean(R)). An array without two axes of `min_dim_size_to_factor` isn't factored.

    State: `FactoredState(count, v_row, v_col, v)`, of the dtype of the parameters.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> tx.update(g, tx.init(g), g)[0].round(5)
    Array([[1., 1.],
           [1., 1.]], dtype=float32)

    Source: Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, algorithm 4 and section 7.2.
    """
    if params is not None:
        assert_trees_match("scale_by_factored_rms", updates=updates, params=params)
    elapsed = (Time(state.count) - step_offset).clip(0, None).total
    decay = 1 - (elapsed + 1) ** -decay_rate

    def update_leaf(g: Any, v_row: Any, v_col: Any, v: Any) -> Any:
        if g is None or v is None:
            return None, v_row, v_col, v
        wide = jnp.asarray(g).astype(compute_dtype(jnp.result_type(g)))
        real = real_dtype(wide.dtype)
        old, new = decay.astype(real), (1 - decay).astype(real)
        square = abs_sq(wide) + epsilon.astype(real)
        axes = _factored_axes(wide.shape, factored, min_dim_size_to_factor)
        dtype = inexact_dtype(jnp.result_type(g))
        if axes is None:
            moment = old * v.astype(real) + new * square
            return (wide * jax.lax.rsqrt(moment)).astype(dtype), v_row, v_col, cast_to(moment, v.dtype)
        short, long = axes
        row = old * v_row.astype(real) + new * jnp.mean(square, axis=long)
        col = old * v_col.astype(real) + new * jnp.mean(square, axis=short)
        mean = jnp.mean(row, axis=short - 1 if short > long else short, keepdims=True)
        row_factor = jnp.expand_dims(jax.lax.rsqrt(row / mean), long)
        u = wide * row_factor * jnp.expand_dims(jax.lax.rsqrt(col), short)
        return u.astype(dtype), cast_to(row, v_row.dtype), cast_to(col, v_col.dtype), v

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    slots = (treedef.flatten_up_to(slot) for slot in state[1:])
    outputs = [update_leaf(*inputs) for inputs in zip(leaves, *slots, strict=True)]
    u, *new_slots = _unzip_trees(outputs, treedef, 4)
    return u, FactoredState(safe_increment(state.count), *new_slots)


def _init_sm3(params: Any, tx: Any) -> ScaleBySM3State:
    def cover(p: Any) -> list[jax.Array]:
        p = _array(p)
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            raise TypeError(f"scale_by_sm3: `params` must be real, got {p.dtype}.")
        if p.ndim == 0:
            return [zeros_like(p)]
        others = lambda axis: tuple(i for i in range(p.ndim) if i != axis)
        if not p.size:
            return [jnp.zeros(n, inexact_dtype(jnp.result_type(p))) for n in p.shape]
        return [zeros_like(_reduced(jnp.max, p, others(axis))) for axis in range(p.ndim)]

    return ScaleBySM3State(jax.tree.map(cover, params), jax.tree.map(zeros_like, params))


@transformation(_init_sm3)
def scale_by_sm3(updates: Any, state: Any, params: Any, b1: Decay = 0.9, b2: Fraction = 1.0, eps: NonNegative = 1e-8):
    """SM3 without the rate: AdaGrad with one accumulator vector for each axis of an array.

    s = b2·min over axes of their vectors + (1−b2)·g² (g² itself if b2 = 1); u = g/√(s + eps), 0 where s is 0;
    each axis' vector ← max of s over the other axes; μ ← b1·μ + (1−b1)·u

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_sm3(b1=0.0, eps=0.0)
    >>> tx.update(jnp.array([[2.0, -4.0]]), tx.init(jnp.zeros((1, 2))))[0]
    Array([[ 1., -1.]], dtype=float32)

    Source: Anil et al. 2019, Memory-Efficient Adaptive Optimization, arXiv:1901.11150, algorithm SM3-II.
    """
    assert_trees_match("scale_by_sm3", updates=updates, **{"state.nu": state.nu})
    gain = jnp.where(b2 < 1, 1 - b2, 1)

    def update_leaf(g: Any, cover: Any, mu: Any) -> Any:
        if g is None or mu is None:
            return None, cover, mu
        wide = jnp.asarray(g).astype(compute_dtype(jnp.result_type(g)))
        if not wide.size:
            return mu, cover, mu
        number = lambda x: x.astype(wide.dtype)
        vectors, listed = jax.tree.flatten(cover)  # a list, which flax's nnx turns into a dict by position
        along = lambda v, axis: number(v).reshape([-1 if i == axis else 1 for i in range(wide.ndim)])
        least = functools.reduce(jnp.minimum, [along(v, axis) for axis, v in enumerate(vectors)])
        s = number(gain) * wide**2 + number(b2) * least
        u = wide * jnp.where(s > 0, jax.lax.rsqrt(jnp.where(s > 0, s, 1) + number(eps)), 0)
        mu_new = number(b1) * number(mu) + number(1 - b1) * u
        others = lambda axis: tuple(i for i in range(wide.ndim) if i != axis)
        maxima = [jnp.max(s, axis=others(axis)).astype(v.dtype) for axis, v in enumerate(vectors)]
        return mu_new.astype(inexact_dtype(jnp.result_type(g))), listed.unflatten(maxima), mu_new.astype(mu.dtype)

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    slots = (treedef.flatten_up_to(slot) for slot in state)
    outputs = [update_leaf(*inputs) for inputs in zip(leaves, *slots, strict=True)]
    u, mu, nu = _unzip_trees(outputs, treedef, 3)
    return u, ScaleBySM3State(mu, nu)
