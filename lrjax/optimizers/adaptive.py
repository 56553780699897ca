"""Adaptive methods: a step size of its own for every coordinate."""

from lrjax.domains import Decay, DType, NonNegative
from lrjax.schedules.base import ScalarOrSchedule
from lrjax.transforms.base import chain, identity, optimizer
from lrjax.transforms.decay import Mask, add_decayed_weights
from lrjax.transforms.learning_rate import scale_by_learning_rate
from lrjax.transforms.momentum import trace
from lrjax.transforms.second_moment import (
    scale_by_adam,
    scale_by_amsgrad,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
)


@optimizer
def adagrad(learning_rate: ScalarOrSchedule, initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    """Steps divided by the root of all squared gradients so far: coordinates that rarely move take larger steps.

    s ← s + |g|²; p ← p − η·g/√(s + eps)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.adagrad(0.3, initial_accumulator_value=5.0, eps=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0].round(6)
    Array([-0.2], dtype=float32)

    Source: Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods, JMLR 12, fig. 1.
    """
    return chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate))


@optimizer
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Decay | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
):
    """Steps divided by the root of a moving average of the squared gradients, or, `centered`, of their variance.

    ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν + eps); p ← p − η·u; with `momentum` m ← u + momentum·m, p ← p − η·m

    As in Optax the rate comes before the momentum: m sums η·u.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.rmsprop(0.1, decay=0.75, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
    Array([-0.2], dtype=float32)

    Source: Tieleman & Hinton 2012, RMSProp, Coursera lecture 6e; `centered`: Graves 2013, arXiv:1308.0850.
    """
    scaling = scale_by_stddev if centered else scale_by_rms
    return chain(
        scaling(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


@optimizer
def adam(
    learning_rate: ScalarOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
):
    """A moving average of the gradient over the root of one of its square, both corrected for their start at zero.

    p ← p − η·μ̂/(√(ν̂ + eps_root) + eps), moments as in `scale_by_adam`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.adam(0.1)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Kingma & Ba 2015, Adam, arXiv:1412.6980, algorithm 1; `nesterov`: Dozat 2016.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov), scale_by_learning_rate(learning_rate)
    )


@optimizer
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
):
    """Adam with weight decay that doesn't pass through the moments; where there is a mask, only where it is True.

    p ← p − η·(μ̂/(√(ν̂ + eps_root) + eps) + weight_decay·p), moments as in `scale_by_adam`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adamw(0.1, weight_decay=0.1), jnp.array([10.0])
    >>> tx.update(jnp.array([0.5]), tx.init(params), params)[0]
    Array([-0.2], dtype=float32)

    Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    """Adam with the largest second moment so far, so that no coordinate's step size grows.

    p ← p − η·μ̂/(√(max ν̂ + eps_root) + eps), moments as in `scale_by_amsgrad`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.amsgrad(0.1)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, arXiv:1904.09237, algorithm 2.
    """
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        scale_by_learning_rate(learning_rate),
    )
