"""Gradient descent and its variants."""

from typing import Literal

from lrjax.domains import DType, NonNegative, Number
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.base import identity, optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.extrapolation import scale_by_optimistic_gradient, scale_by_polyak
from lrjax.transforms.learning_rate import scale_by_learning_rate
from lrjax.transforms.momentum import trace
from lrjax.transforms.noise import Key, add_noise


@optimizer
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: Number | None = None,
    nesterov: bool = False,
    accumulator_dtype: DType | None = None,
):
    """Stochastic gradient descent, with optional momentum or Nesterov momentum.

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


@optimizer
def noisy_sgd(learning_rate: ScalarOrSchedule, eta: NonNegative = 0.01, gamma: Number = 0.55, key: Key = 0):
    """Gradient descent with Gaussian noise whose variance decays.

    p ← p − η·(g + 𝒩(0, eta/tᵞ)), γ = gamma

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.noisy_sgd(0.1, eta=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([-0.2], dtype=float32)

    Source: Neelakantan et al. 2015, Adding Gradient Noise Improves Learning for Very Deep Networks, arXiv:1511.06807.
    """
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))


@optimizer
def optimistic_gradient_descent(learning_rate: ScalarOrSchedule, alpha: Number = 1.0, beta: Number = 1.0):
    """Optimistic gradient descent, for games: the gradient's last change is added as a prediction of the next.

    p ← p − η·((alpha + beta)·g − beta·gₜ₋₁)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.optimistic_gradient_descent(0.1)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([-0.2], dtype=float32)

    Source: Mokhtari, Ozdaglar & Pattathil 2019, A Unified Analysis of Extra-gradient and Optimistic Gradient Methods,
    arXiv:1901.08511, eq. 3.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@optimizer
def polyak_sgd(
    max_learning_rate: NonNegative = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: Number = 0.0,
    eps: NonNegative = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
):
    """Gradient descent with the stochastic Polyak step size, (value − f_min)/‖g‖².

    p ← p − scaling·min((value − f_min)/(‖g‖² + eps), max_learning_rate)·g

    `scaling` multiplies the step (in Optax it also enters ‖g‖, so there it divides).

    Needs: `value`, the loss, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.polyak_sgd(), jnp.array([3.0, 4.0])
    >>> tx.update(2 * params, tx.init(params), params, value=jnp.sum(params**2))[0]
    Array([-1.5, -2. ], dtype=float32)

    Source: Loizou et al. 2021, Stochastic Polyak Step-size for SGD, arXiv:2002.10542, eq. 2.
    """
    return chain(scale_by_polyak(f_min, max_learning_rate, eps, variant), scale_by_learning_rate(scaling))
