"""Updates in proportion to the arrays that they change."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import NonNegative
from lrjax.numerics import Array, abs_sq
from lrjax.schedules.base import RateOrSchedule
from lrjax.transforms.base import EmptyState
from lrjax.transforms.elementwise import elementwise


def norm(x: jax.Array, least: Any = 0.0) -> jax.Array:
    """The Euclidean norm of an array, at least `least`; its gradient is 0 where the norm is less."""
    square = jnp.sum(abs_sq(x))
    enough = square > least**2
    return jnp.where(enough, jnp.sqrt(jnp.where(enough, square, 1)), least)


def root_mean_square(x: jax.Array, least: Any = 0.0) -> jax.Array:
    return jnp.maximum(norm(x) * max(x.size, 1) ** -0.5, least)


@elementwise(EmptyState, needs_params=True, packable=False)
def scale_by_trust_ratio(min_norm: NonNegative = 0.0, trust_coefficient: NonNegative = 1.0, eps: NonNegative = 0.0):
    """Each array's update with a norm in proportion to that of its parameters.

    u = trust_coefficient·‖p‖/(‖g‖ + eps)·g, g where one of the norms is 0; a norm counts as at least `min_norm`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_trust_ratio(), jnp.array([6.0, 8.0])
    >>> tx.update(jnp.array([0.3, 0.4]), lrjax.EmptyState(), params)[0]
    Array([6., 8.], dtype=float32)

    Source: You et al. 2020, Large Batch Optimization for Deep Learning (LAMB), arXiv:1904.00962, algorithm 2, with the
    identity for φ.
    """

    def leaf(g: Any, p: Any) -> Any:
        p_norm, g_norm = norm(p, min_norm), norm(g, min_norm)
        known = (p_norm > 0) & (g_norm > 0)
        return (jnp.where(known, trust_coefficient * p_norm / (jnp.where(known, g_norm, 1) + eps), 1) * g,)

    return leaf


@elementwise(EmptyState, needs_params=True, packable=False)
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3):
    """Each array's update times the norm of its parameters, at least `min_scale`.

    u = max(‖p‖, min_scale)·g

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_param_block_norm(), jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([1.0, 2.0]), lrjax.EmptyState(), params)[0]
    Array([ 5., 10.], dtype=float32)
    """
    return lambda g, p: (norm(p, min_scale) * g,)


@elementwise(EmptyState, needs_params=True, packable=False)
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3):
    """Each array's update times the root mean square of its parameters, at least `min_scale`.

    u = max(rms(p), min_scale)·g

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_param_block_rms(), jnp.array([2.0, 2.0])
    >>> tx.update(jnp.array([1.0, 2.0]), lrjax.EmptyState(), params)[0].round(5)
    Array([2., 4.], dtype=float32)

    Source: Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, section 8 and algorithm 4.
    """
    return lambda g, p: (root_mean_square(p, min_scale) * g,)


class ContractState(NamedTuple):
    count: Array  # int32 (): updates so far


@elementwise(ContractState, needs_params=True)
def contract(t: Any, learning_rate: RateOrSchedule):
    """Draws the parameters after the update towards 0, by as much as a step across them had lengthened them.

    u = (p + g)/√(1 + η²) − p

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.contract(0.75), jnp.array([10.0])
    >>> tx.update(jnp.array([5.0]), tx.init(params), params)[0]
    Array([2.], dtype=float32)

    Source: Bernstein et al. 2020, On the distance between two neural networks and the stability of learning (Fromage),
    arXiv:2002.03432, algorithm 1.
    """
    square = jnp.square(learning_rate)
    length = jnp.sqrt(1 + square)
    keep, lose = 1 / length, square / (length * (1 + length))
    return lambda g, p: (keep * g - lose * p,)
