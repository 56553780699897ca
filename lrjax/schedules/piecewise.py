"""Piecewise schedules: boundaries with scales or rates."""

from typing import Any, Literal

import jax.numpy as jnp

from lrjax.domains import Boundaries, BoundariesAndScales, Rate, Rates, require
from lrjax.numerics import cosine_weight, interpolate, linear_weight
from lrjax.schedules.base import schedule


@schedule
def piecewise_constant_schedule(step: Any, init_value: Rate, boundaries_and_scales: BoundariesAndScales = None):
    """Piecewise constant: `init_value`, multiplied by a scale at every boundary, cumulatively.

    η(t) = init·∏{scale : boundary ≤ t}

    For rates instead of scales: `piecewise_values_schedule`.

    >>> import lrjax
    >>> lrjax.piecewise_constant_schedule(0.1, {30: 0.5, 60: 0.5})([0, 29, 30, 60])
    Array([0.1  , 0.1  , 0.05 , 0.025], dtype=float32)
    """
    rate = init_value
    for boundary, scale in boundaries_and_scales or ():
        rate = rate * jnp.where(step >= boundary, scale, 1)
    return rate


@schedule(
    require(
        "values",
        "one more than `boundaries`",
        lambda values, boundaries: len(values) == len(boundaries) + 1,
        structural=True,
    )
)
def piecewise_values_schedule(step: Any, values: Rates, boundaries: Boundaries):
    """Piecewise constant, by rates: `values[0]` before the first boundary, `values[i]` from `boundaries[i−1]` on.

    η(t) = values[#{boundary ≤ t}]

    >>> import lrjax
    >>> lrjax.piecewise_values_schedule([0.1, 0.03, 0.01], boundaries=[40, 80])([0, 39, 40, 80])
    Array([0.1 , 0.1 , 0.03, 0.01], dtype=float32)

    Source: Keras `PiecewiseConstantDecay`, which changes the rate one step later.
    """
    rate = values[0]
    for boundary, value in zip(boundaries, values[1:], strict=True):
        rate = jnp.where(step >= boundary, value, rate)
    return rate


@schedule
def piecewise_interpolate_schedule(
    step: Any,
    interpolate_type: Literal["linear", "cosine"],
    init_value: Rate,
    boundaries_and_scales: BoundariesAndScales = None,
):
    """Piecewise linear or cosine interpolation, multiplied by a scale at every boundary; constant after the last.

    η(boundary) = init·∏{scales so far}, between boundaries linear, or ½(1 + cos) between the two rates

    >>> import lrjax
    >>> lrjax.piecewise_interpolate_schedule("cosine", 0.025, {30: 4.0, 100: 0.0})([0, 15, 30, 65, 100])
    Array([0.025 , 0.0625, 0.1   , 0.05  , 0.    ], dtype=float32)
    """
    values = [init_value]
    for _, scale in boundaries_and_scales or ():
        values.append(values[-1] * scale)
    weight = cosine_weight if interpolate_type == "cosine" else linear_weight
    return interpolate(step, [boundary for boundary, _ in boundaries_and_scales or ()], values, weight)
