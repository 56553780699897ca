"""Methods that use the sign of the gradient."""

from typing import Literal

from lrjax.domains import AtLeastOne, DType, Fraction, NonNegative, Positive
from lrjax.schedules.base import ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.base import optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.decay import add_decayed_weights
from lrjax.transforms.learning_rate import scale, scale_by_learning_rate
from lrjax.transforms.masking import Mask
from lrjax.transforms.sign import scale_by_lion, scale_by_rprop, scale_by_sign


@optimizer
def sign_sgd(learning_rate: ScalarOrSchedule):
    """signSGD: gradient descent by the sign of the gradient, with equal steps in all coordinates.

    p ← p − η·sign(g)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.sign_sgd(0.1)
    >>> tx.update(jnp.array([3.0, -0.5]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Bernstein et al. 2018, signSGD, arXiv:1802.04434, algorithm 1.
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@optimizer
def lion(
    learning_rate: ScalarOrSchedule,
    b1: Fraction = 0.9,
    b2: Fraction = 0.99,
    mu_dtype: DType | None = None,
    weight_decay: ScheduleLike = 1e-3,
    mask: Mask = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Positive = 1.0,
):
    """Lion: the sign of interpolated momentum, with decoupled weight decay; use a tenth of Adam's learning rate.

    p ← p − η·(u + weight_decay·p), u as in `scale_by_lion`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.lion(0.1), jnp.zeros(2)
    >>> tx.update(jnp.array([3.0, -0.5]), tx.init(params), params)[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, algorithm 2.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype, mode=mode, smooth_beta=smooth_beta),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def rprop(
    learning_rate: Positive,
    eta_minus: Fraction = 0.5,
    eta_plus: AtLeastOne = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
):
    """Rprop, for full batches: a step size per coordinate that grows while the gradient keeps its sign.

    p ← p − δ·sign(g), δ as in `scale_by_rprop`, at first `learning_rate`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.rprop(0.5)
    >>> tx.update(jnp.array([3.0, -3.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.5,  0.5], dtype=float32)

    Source: Riedmiller & Braun 1993, A Direct Adaptive Method for Faster Backpropagation Learning; Igel & Hüsken 2000,
    Improving the Rprop Learning Algorithm (iRprop−).
    """
    return chain(scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0))
