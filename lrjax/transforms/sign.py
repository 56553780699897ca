"""Methods that use the sign of the gradient."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from lrjax.domains import AtLeastOne, DType, Fraction, NonNegative, Positive
from lrjax.numerics import Array, ArrayTree
from lrjax.transforms.base import always, no_state, transformation
from lrjax.transforms.elementwise import Slot, elementwise, map_updates


class ScaleByLionState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g


class ScaleByRpropState(NamedTuple):
    step_sizes: ArrayTree  # like params, real: the size of each coordinate's next step
    prev_updates: ArrayTree  # like params: the last step, 0 where the sign had changed


@transformation(no_state, packable=always)
def scale_by_sign(updates: Any, state: Any, params: Any):
    """signSGD without the rate: the sign of every coordinate, 1, −1 or 0; g/|g| for complex g.

    u = sign(g)

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.scale_by_sign().update(jnp.array([-3.0, 0.0]), lrjax.EmptyState())[0]
    Array([-1.,  0.], dtype=float32)

    Source: Bernstein et al. 2018, signSGD, arXiv:1802.04434, algorithm 1.
    """
    return map_updates(jnp.sign, updates), state


@elementwise(ScaleByLionState, mu=Slot(dtype="mu_dtype"))
def scale_by_lion(
    t: Any,
    b1: Fraction = 0.9,
    b2: Fraction = 0.99,
    mu_dtype: DType | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Positive = 1.0,
):
    """Lion without the rate: the sign of an interpolation between momentum and gradient.

    c = b1·μ + (1−b1)·g; u = sign(c), tanh(smooth_beta·c) if `smooth`, c clipped to ±1 if `refined`; μ ← b2·μ + (1−b2)·g

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_lion()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    sign_functions = {
        "hard": jnp.sign,
        "smooth": lambda c: jnp.tanh(smooth_beta * c),
        "refined": lambda c: jnp.where(jnp.abs(c) < 1, c, jnp.sign(c)),
    }

    def leaf(g: Any, mu: Any) -> Any:
        return sign_functions[mode](b1 * mu + rest1 * g), b2 * mu + rest2 * g

    return leaf


@elementwise(ScaleByRpropState, step_sizes=Slot(start="learning_rate", real=True))
def scale_by_rprop(
    learning_rate: Positive,
    eta_minus: Fraction = 0.5,
    eta_plus: AtLeastOne = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
):
    """Rprop: a step size per coordinate that grows while the gradient keeps its sign, and shrinks when it changes.

    s = g·uₜ₋₁; δ ← δ·eta_plus if s > 0, δ·eta_minus if s < 0, within [min_step_size, max_step_size];
    u = δ·sign(g), 0 if s < 0; δ begins at `learning_rate`

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.scale_by_rprop(0.5), jnp.array([3.0, -3.0])
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(jnp.array([3.0, 3.0]), state)[0]
    (Array([ 0.5, -0.5], dtype=float32), Array([0.6, 0. ], dtype=float32))

    Source: Riedmiller & Braun 1993, A Direct Adaptive Method for Faster Backpropagation Learning, section III; the
    variant without weight backtracking: Igel & Hüsken 2000, Improving the Rprop Learning Algorithm (iRprop−).
    """

    def leaf(g: Any, step_size: Any, last: Any) -> Any:
        agreement = jnp.real(g * jnp.conj(last))
        factor = jnp.where(agreement > 0, eta_plus, eta_minus)
        step_size = jnp.where(agreement == 0, step_size, jnp.clip(step_size * factor, min_step_size, max_step_size))
        u = jnp.where(agreement < 0, 0, step_size * jnp.sign(g))
        return u, step_size, u

    return leaf
