"""Extrapolation from previous gradients, the Polyak step size, and dual averaging."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import NonNegative, Number
from lrjax.numerics import Array, ArrayTree, abs_sq, cast_to, safe_increment
from lrjax.schedules.base import RateOrSchedule
from lrjax.transforms.base import always, transformation
from lrjax.transforms.elementwise import Slot, cast_like, elementwise, is_none, map_updates, zeros_like
from lrjax.transforms.learning_rate import LearningRateState
from lrjax.transforms.norms import global_norm
from lrjax.transforms.sharding import vary_as_all, vary_like


class ScaleByOptimisticGradientState(NamedTuple):
    is_initial_step: Array  # bool ()
    previous_gradient: ArrayTree  # like params: the last gradient


class MadgradState(NamedTuple):
    count: Array  # int32 (): updates so far
    grad_sum_sq: ArrayTree  # like params, real: Σ λ·|g|²
    s: ArrayTree  # like params: Σ λ·g
    x0: ArrayTree  # the initial parameters


def _init_optimistic(params: Any, tx: Any) -> ScaleByOptimisticGradientState:
    return ScaleByOptimisticGradientState(jnp.array(True), jax.tree.map(zeros_like, params))


@transformation(_init_optimistic, packable=always)
def scale_by_optimistic_gradient(updates: Any, state: Any, params: Any, alpha: Number = 1.0, beta: Number = 1.0):
    """Optimistic gradient: adds the gradient's last change, as a prediction of the next gradient.

    u = (alpha + beta)·g − beta·gₜ₋₁, alpha·g at the first update

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.scale_by_optimistic_gradient(), jnp.array([1.0])
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(3 * g, state)[0]
    (Array([1.], dtype=float32), Array([5.], dtype=float32))

    Source: Mokhtari, Ozdaglar & Pattathil 2019, A Unified Analysis of Extra-gradient and Optimistic Gradient Methods,
    arXiv:1901.08511, eq. 3.
    """
    keep = lambda g, p: p if g is None or p is None else cast_to(g, p.dtype)
    kept = jax.tree.map(keep, updates, state.previous_gradient, is_leaf=is_none)

    def extrapolate(g: Any, previous: Any) -> Any:
        change = jnp.where(state.is_initial_step, 0, g - previous)
        return cast_like(alpha, g) * g + cast_like(beta, g) * change

    u = map_updates(extrapolate, updates, state.previous_gradient)
    return u, ScaleByOptimisticGradientState(jnp.array(False), kept)


def _init_polyak(params: Any, tx: Any) -> LearningRateState:
    one = jnp.ones([], jnp.result_type(float))
    return LearningRateState(jnp.zeros([], jnp.int32), one, vary_as_all(jnp.zeros_like(one), params), one * 0)


@transformation(_init_polyak, packable=always)
def scale_by_polyak(
    updates: Any,
    state: Any,
    params: Any,
    f_min: Number = 0.0,
    max_learning_rate: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
    **extra_args: Any,
):
    """Stochastic Polyak step size: the step to `f_min` on the linearized loss.

    γ = min((value − f_min)/(‖g‖² + eps), max_learning_rate), with max(value − f_min, 0) in `sps+`; u = γ·g, 0 where g
    is 0

    State: `LearningRateState`; `get_learning_rate` reads γ. Needs: `value`, the loss, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_polyak(), jnp.array([3.0, 4.0])
    >>> tx.update(2 * params, tx.init(params), params, value=jnp.sum(params**2))[0]
    Array([1.5, 2. ], dtype=float32)

    Source: Loizou et al. 2021, Stochastic Polyak Step-size for SGD, arXiv:2002.10542, eq. 2; `sps+`: Garrigos, Gower &
    Schaipp 2023, Function Value Learning, arXiv:2307.14528, section 5.
    """
    if "value" not in extra_args:
        raise ValueError(
            "scale_by_polyak: `value`, the loss, must be given to `update`. Optax's chain and wrappers pass it only "
            "to instances of their own class: give them `lrjax.to_optax(tx)`."
        )
    square = global_norm(updates) ** 2
    gap = jnp.asarray(extra_args["value"]).astype(square.dtype) - f_min
    gap = jnp.maximum(gap, 0) if variant == "sps+" else gap
    is_zero = square <= 0
    step = state.scale * jnp.where(
        is_zero, 0, jnp.minimum(gap / jnp.where(is_zero, 1, square + eps), max_learning_rate)
    )
    u = map_updates(lambda g: cast_like(step, g) * g, updates)
    step = vary_like(step, state.learning_rate)
    return u, LearningRateState(safe_increment(state.step), state.scale, step, state.constant)


@elementwise(MadgradState, needs_params=True, grad_sum_sq=Slot(real=True), x0=Slot(copies=True))
def scale_by_madgrad(t: Any, learning_rate: RateOrSchedule, momentum: Number = 0.9, eps: NonNegative = 1e-6):
    """MADGRAD, with the rate: dual averaging with the cube root of the weighted sum of squared gradients.

    λ = (η + eps)·√t; s ← s + λ·g; ν ← ν + λ·|g|²; z = x₀ − s/(∛ν + eps); u = (1 − momentum)·(z − p)

    Needs: `params`. The rate is included: don't add `scale_by_learning_rate`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_madgrad(1.0, momentum=0.0, eps=0.0), jnp.array([1.0])
    >>> tx.update(jnp.array([8.0]), tx.init(params), params)[0]
    Array([-2.], dtype=float32)

    Source: Defazio & Jelassi 2021, Adaptivity without Compromise (MADGRAD), arXiv:2101.11075, algorithm 1.
    """
    weight, rest = jnp.add(learning_rate, eps) * jnp.sqrt(t), 1 - momentum

    def leaf(g: Any, p: Any, squares: Any, s: Any, x0: Any) -> Any:
        squares = squares + weight * abs_sq(g)
        s = s + weight * g
        # before any nonzero gradient s is 0; ∛0 has no derivative, and eps = 0 would give 0/0
        z = x0 - s / (jnp.cbrt(jnp.where(squares > 0, squares, 1)) + eps)
        return rest * (z - p), squares, s, x0

    return leaf
