"""Layer-wise scaling: updates in proportion to the norm of their parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import NonNegative
from lrjax.numerics import Array, abs_sq
from lrjax.schedules.base import RateOrSchedule
from lrjax.transforms.base import EmptyState
from lrjax.transforms.elementwise import elementwise


def norm(x: jax.Array, min_norm: Any = 0.0) -> jax.Array:
    """Returns the Euclidean norm of an array, at least `min_norm`; its gradient is 0 where the norm is less."""
    square = jnp.sum(abs_sq(x))
    is_larger = square > min_norm**2
    return jnp.where(is_larger, jnp.sqrt(jnp.where(is_larger, square, 1)), min_norm)


def root_mean_square(x: jax.Array, min_value: Any = 0.0) -> jax.Array:
    return jnp.maximum(norm(x) * max(x.size, 1) ** -0.5, min_value)


@elementwise(EmptyState, needs_params=True, packable=False)
def scale_by_trust_ratio(min_norm: NonNegative = 0.0, trust_coefficient: NonNegative = 1.0, eps: NonNegative = 0.0):
    """Layer-wise trust ratio of LARS and LAMB: scales each update to a norm in proportion to its parameters' norm.

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
        nonzero = (p_norm > 0) & (g_norm > 0)
        return (jnp.where(nonzero, trust_coefficient * p_norm / (jnp.where(nonzero, g_norm, 1) + eps), 1) * g,)

    return leaf


@elementwise(EmptyState, needs_params=True, packable=False)
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3):
    """Multiplies each array's update by the norm of its parameters, at least `min_scale`.

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
    """Multiplies each array's update by the root mean square of its parameters, at least `min_scale`.

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
    """Fromage's rescaling: divides the updated parameters by √(1 + η²), so that their norm doesn't grow.

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
