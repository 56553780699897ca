"""Gradient descent."""

from lrjax.domains import Decay, DType
from lrjax.schedules.base import ScalarOrSchedule
from lrjax.transforms.base import chain, identity, optimizer
from lrjax.transforms.learning_rate import scale_by_learning_rate
from lrjax.transforms.momentum import trace


@optimizer
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: Decay | None = None,
    nesterov: bool = False,
    accumulator_dtype: DType | None = None,
):
    """Gradient descent, with `momentum` along a decaying sum of the gradients.

    m ← g + momentum·m; p ← p − η·m, or p − η·(g + momentum·m) with `nesterov`; p − η·g without momentum

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.sgd(0.1)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([-0.2], dtype=float32)

    Source: Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013.
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )
