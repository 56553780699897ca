"""Second-order methods with an estimate of the Hessian's diagonal."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Decay, DType, Momentum, NonNegative, Positive, Steps
from lrjax.numerics import Array, ArrayTree, bias_correction, cast_to, safe_increment
from lrjax.transforms.base import Transformation, transformation, update_inner
from lrjax.transforms.elementwise import cast_like, clip_real, is_none, map_updates, zeros_like
from lrjax.transforms.noise import Key, random_key
from lrjax.transforms.sharding import vary_like


class HutchinsonState(NamedTuple):
    key: Array  # uint32 (2,): random key of the next signs


class SophiaState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    nu: ArrayTree  # like params: moving average of the Hessian's diagonal
    hessian_fn_state: ArrayTree  # state of the estimator


@transformation(lambda params, tx: HutchinsonState(random_key(tx.random_seed)))
def hutchinson_estimator_diag_hessian(updates: Any, state: Any, params: Any, random_seed: Key = 0, **extra_args: Any):
    """Hutchinson's estimator of the Hessian's diagonal: r ⊙ H·r with random signs r.

    Needs: `params`, and `obj_fn`, the loss as a function of the parameters, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.hutchinson_estimator_diag_hessian(), jnp.array([1.0, 2.0])
    >>> tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p**2 * jnp.array([1.0, 3.0])))[0]
    Array([2., 6.], dtype=float32)

    Source: Liu et al. 2023, Sophia, arXiv:2305.14342, algorithm 1.
    """
    if params is None or "obj_fn" not in extra_args:
        raise ValueError("hutchinson_estimator_diag_hessian: `params` and `obj_fn` must be given to `update`.")
    key, subkey = jax.random.split(state.key)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(subkey, max(len(leaves), 1))
    trained = {i: p for i, p in enumerate(leaves) if jnp.issubdtype(jnp.result_type(p), jnp.inexact)}
    signs = {i: jax.random.rademacher(keys[i], jnp.shape(p), jnp.result_type(p)) for i, p in trained.items()}
    signs = vary_like(signs, trained)
    full_tree = lambda some, default: treedef.unflatten([some.get(i, default(p)) for i, p in enumerate(leaves)])
    loss = lambda some: extra_args["obj_fn"](full_tree(some, lambda p: p))
    product = jax.jvp(jax.grad(loss), (trained,), (signs,))[1]
    diagonal = jax.tree.map(jnp.multiply, product, signs)
    return full_tree(diagonal, lambda p: None), HutchinsonState(key)


def _init_sophia(params: Any, tx: Any) -> SophiaState:
    mu = jax.tree.map(lambda p: zeros_like(p, tx.mu_dtype), params)
    nu = jax.tree.map(zeros_like, params)
    return SophiaState(jnp.zeros([], jnp.int32), mu, nu, tx.hessian_diagonal_fn.init(params))


_HUTCHINSON = hutchinson_estimator_diag_hessian()


@transformation(_init_sophia)
def scale_by_sophia(
    updates: Any,
    state: Any,
    params: Any,
    b1: Momentum = 0.965,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: Positive = 0.01,
    clip_threshold: NonNegative | None = 1.0,
    update_interval: Steps = 10,
    hessian_diagonal_fn: Transformation = _HUTCHINSON,
    mu_dtype: DType | None = None,
    **extra_args: Any,
):
    """Sophia without the rate: a moving average of the gradient over one of the Hessian's diagonal, clipped.

    μ ← b1·μ + (1−b1)·g; u = μ̂/max(gamma·h, eps), clipped to ±`clip_threshold`;
    every `update_interval` updates, from the first on, h ← b2·h + (1−b2)·ĥ with an estimate ĥ

    As in Optax the update uses h of the previous update.

    Needs: `params`, and `obj_fn` as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_sophia(), jnp.array([1.0])
    >>> tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p**2))[0]
    Array([1.], dtype=float32)

    Source: Liu et al. 2023, Sophia, arXiv:2305.14342, algorithm 3.
    """
    if params is None:
        raise ValueError("scale_by_sophia: `params` must be given to `update`, got None.")
    count = safe_increment(state.count)
    scale = 1 / bias_correction(b1, count.astype(b1.dtype))
    mean = lambda g, m: cast_like(b1, m) * m + cast_like(1 - b1, m) * g
    mu = jax.tree.map(lambda g, m: m if g is None or m is None else g, updates, state.mu, is_leaf=is_none)
    mu = map_updates(mean, mu, state.mu, dtypes=state.mu)

    def direction(g: Any, m: Any, h: Any) -> Any:
        m = cast_like(b1, g) * m + cast_like(1 - b1, g) * g
        u = cast_like(scale, g) * m / jnp.maximum(cast_like(gamma, g) * h, cast_like(eps, g))
        bound = None if clip_threshold is None else cast_like(clip_threshold, g)
        return u if bound is None else clip_real("scale_by_sophia", u, -bound, bound)

    u = map_updates(direction, updates, state.mu, state.nu)

    def estimate(inner: Any, nu: Any) -> Any:
        estimator = hessian_diagonal_fn
        diagonal, inner = update_inner(estimator, updates, inner, params, extra_args)
        average = lambda d, h: cast_to(cast_like(b2, h) * h + cast_like(1 - b2, h) * d.astype(h.dtype), h.dtype)
        keep = lambda d, h: h if d is None or h is None else average(d, h)
        return inner, jax.tree.map(keep, diagonal, nu, is_leaf=is_none)

    due = state.count % update_interval.whole == 0
    inner, nu = jax.lax.cond(due, estimate, lambda *same: same, state.hessian_fn_state, state.nu)
    return u, SophiaState(count, mu, nu, inner)
