"""Adaptive methods: a step size for every coordinate."""

from collections.abc import Callable

from lrjax.domains import Decay, DType, Momentum, NonNegative, Number, Positive, Steps
from lrjax.schedules.base import DecayOrSchedule, RateOrSchedule, ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.adam import (
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_belief,
    scale_by_radam,
    scale_by_yogi,
)
from lrjax.transforms.base import Transformation, identity, optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.curvature import hutchinson_estimator_diag_hessian, scale_by_sophia
from lrjax.transforms.decay import add_decayed_weights
from lrjax.transforms.extrapolation import scale_by_madgrad
from lrjax.transforms.learning_rate import record_learning_rate, scale_by_learning_rate
from lrjax.transforms.masking import Mask
from lrjax.transforms.momentum import trace
from lrjax.transforms.second_moment import scale_by_adadelta, scale_by_rms, scale_by_rss, scale_by_stddev

_HUTCHINSON = hutchinson_estimator_diag_hessian()


@optimizer
def adagrad(learning_rate: ScalarOrSchedule, initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    """AdaGrad: gradients divided by the root of the sum of all squared gradients so far.

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
    momentum: Number | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
):
    """RMSProp: gradients divided by the root of a moving average of their squares, or of their variance if `centered`.

    ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν + eps); p ← p − η·u; with `momentum` m ← u + momentum·m, p ← p − η·m

    As in Optax the rate is applied before the momentum: m sums η·u.

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
def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: Decay = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: ScheduleLike = 0.0,
    weight_decay_mask: Mask = None,
):
    """AdaDelta: gradients scaled by the RMS of past updates over the RMS of past gradients.

    p ← p − η·u, u as in `scale_by_adadelta` of g + weight_decay·p

    Without a rate η = 1, as in the paper (in Optax the loss rises then).

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adadelta(rho=0.0, eps=1.0), jnp.array([0.0])
    >>> tx.update(jnp.array([3.0**0.5]), tx.init(params), params)[0]
    Array([-0.8660254], dtype=float32)

    Source: Zeiler 2012, ADADELTA, arXiv:1212.5701, algorithm 1.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )


@optimizer
def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    """AdaBelief: Adam with the variance of the gradient around its average in place of the second moment.

    p ← p − η·μ̂/(√ν̂ + eps), moments as in `scale_by_belief`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.adabelief(0.1, b1=0.5)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.2,  0.2], dtype=float32)

    Source: Zhuang et al. 2020, AdaBelief, arXiv:2010.07468, algorithm 2.
    """
    return chain(scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov), scale_by_learning_rate(learning_rate))


@optimizer
def yogi(learning_rate: ScalarOrSchedule, b1: Momentum = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-3):
    """Yogi: Adam with an additive update of the second moment, which then grows slowly.

    p ← p − η·μ̂/(√ν̂ + eps), moments as in `scale_by_yogi`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.yogi(0.1, eps=0.0)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0].round(3)
    Array([-0.1,  0.1], dtype=float32)

    Source: Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization, NeurIPS, algorithm 2.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


@optimizer
def radam(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Number = 5.0,
    *,
    nesterov: bool = False,
):
    """RAdam, rectified Adam: momentum alone while the variance of the second moment is large, as an automatic warmup.

    p ← p − η·u, u as in `scale_by_radam`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.radam(0.1)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.05,  0.4 ], dtype=float32)

    Source: Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265, algorithm 2.
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov), scale_by_learning_rate(learning_rate)
    )


@optimizer
def adan(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: ScheduleLike = 0.0,
    mask: Mask = None,
):
    """Adan: Adam with Nesterov momentum, from averages of the gradient and of its change.

    p ← p − η·(u + weight_decay·p), u as in `scale_by_adan`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adan(0.1, eps_root=0.0), jnp.zeros(2)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(params), params)[0].round(6)
    Array([-0.1,  0.1], dtype=float32)

    Source: Xie et al. 2022, Adan, arXiv:2208.06677, algorithm 1.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def adopt(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable | None = None,
):
    """ADOPT: Adam whose second moment excludes the current gradient, so that it converges for every b2.

    p ← p − η·u, u as in `scale_by_adopt`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.adopt(0.1)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0., -0.], dtype=float32)

    Source: Taniguchi et al. 2024, ADOPT, arXiv:2411.02853, algorithms 1 and 2.
    """
    options = {"nesterov": nesterov, "use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return chain(scale_by_adopt(b1, b2, eps, mu_dtype, **options), scale_by_learning_rate(learning_rate))


@optimizer
def ademamix(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    b3: DecayOrSchedule = 0.9999,
    alpha: ScheduleLike = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: ScheduleLike = 0.0,
    mask: Mask = None,
):
    """AdEMAMix: AdamW with a second, much slower average of the gradient.

    p ← p − η·(u + weight_decay·p), u as in `scale_by_ademamix`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.ademamix(0.1, b3=0.5, alpha=2.0), jnp.zeros(2)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(params), params)[0]
    Array([-0.2,  0.2], dtype=float32)

    Source: Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer, arXiv:2409.03137, algorithm 1.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def sophia(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.965,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: ScheduleLike = 1e-4,
    weight_decay_mask: Mask = None,
    gamma: Positive = 0.01,
    clip_threshold: NonNegative | None = 1.0,
    update_interval: Steps = 10,
    hessian_diagonal_fn: Transformation = _HUTCHINSON,
    mu_dtype: DType | None = None,
):
    """Sophia: momentum over an estimate of the Hessian's diagonal, clipped to ±`clip_threshold`.

    p ← p − η·(u + weight_decay·p), u as in `scale_by_sophia`

    Needs: `params`, and `obj_fn`, the loss as a function of the parameters, as an argument of `update`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.sophia(0.1, weight_decay=0.0), jnp.array([1.0])
    >>> tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p**2))[0]
    Array([-0.1], dtype=float32)

    Source: Liu et al. 2023, Sophia, arXiv:2305.14342, algorithm 3.
    """
    return chain(
        scale_by_sophia(b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def madgrad(
    learning_rate: RateOrSchedule,
    momentum: Number = 0.9,
    weight_decay: ScheduleLike = 0.0,
    eps: NonNegative = 1e-6,
):
    """MADGRAD: momentumized, adaptive dual averaging, with the cube root of the sum of squared gradients.

    z = x₀ − s/(∛ν + eps); p ← momentum·p + (1 − momentum)·z, sums as in `scale_by_madgrad` of g + weight_decay·p

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.madgrad(1.0, momentum=0.0, eps=0.0), jnp.array([1.0])
    >>> tx.update(jnp.array([8.0]), tx.init(params), params)[0]
    Array([-2.], dtype=float32)

    Source: Defazio & Jelassi 2021, Adaptivity without Compromise (MADGRAD), arXiv:2101.11075, algorithm 1.
    """
    return chain(
        add_decayed_weights(weight_decay),
        scale_by_madgrad(learning_rate, momentum, eps),
        record_learning_rate(learning_rate),
    )
