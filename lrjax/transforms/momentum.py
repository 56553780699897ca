"""Momentum: running sums and averages of the gradient."""

from typing import Any, NamedTuple

from lrjax.domains import DType, Momentum, Number
from lrjax.numerics import Array, ArrayTree, bias_correction
from lrjax.transforms.elementwise import Slot, elementwise


class TraceState(NamedTuple):
    trace: ArrayTree  # like params: Σ decayᵏ·g


class EmaState(NamedTuple):
    count: Array  # int32 (): updates so far
    ema: ArrayTree  # like params: moving average of g


@elementwise(TraceState, trace=Slot(dtype="accumulator_dtype"))
def trace(decay: Number, nesterov: bool = False, accumulator_dtype: DType | None = None):
    """Momentum: an exponentially decaying sum of the gradients; Nesterov momentum with `nesterov`.

    m ← g + decay·m; u = m, or g + decay·m with `nesterov`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.trace(0.5)
    >>> tx.update(jnp.array([2.0]), lrjax.TraceState(jnp.array([4.0])))[0]
    Array([4.], dtype=float32)

    Source: Polyak 1964; Sutskever et al. 2013, On the importance of initialization and momentum, eq. 1–4.
    """

    def leaf(g: Any, m: Any) -> Any:
        m = g + decay * m
        return (g + decay * m if nesterov else m), m

    return leaf


@elementwise(EmaState, ema=Slot(dtype="accumulator_dtype"))
def ema(t: Any, decay: Momentum, debias: bool = True, accumulator_dtype: DType | None = None):
    """Exponential moving average of the gradients, bias-corrected if `debias`.

    m ← decay·m + (1−decay)·g; u = m/(1 − decayᵗ), or m

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.ema(0.9)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)
    """
    rest, scale = 1 - decay, 1 / bias_correction(decay, t) if debias else 1

    def leaf(g: Any, m: Any) -> Any:
        m = decay * m + rest * g
        return scale * m, m

    return leaf
