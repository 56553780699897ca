"""Adam and its close variants."""

from lrjax.domains import Decay, DType, Momentum, NonNegative, Number
from lrjax.schedules.base import ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.adam import scale_by_adam, scale_by_adamax, scale_by_amsgrad
from lrjax.transforms.base import optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.decay import add_decayed_weights
from lrjax.transforms.extrapolation import scale_by_optimistic_gradient
from lrjax.transforms.learning_rate import scale_by_learning_rate
from lrjax.transforms.masking import Mask


@optimizer
def adam(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
):
    """Adam: moving averages of the gradient and of its square, both bias-corrected.

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
def nadam(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
):
    """NAdam: Adam with Nesterov momentum, `adam(..., nesterov=True)`.

    p ← p − η·(b1·μ/(1−b1ᵗ⁺¹) + (1−b1)·g/(1−b1ᵗ))/(√(ν̂ + eps_root) + eps)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.nadam(0.1, b1=0.0)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Dozat 2016, Incorporating Nesterov Momentum into Adam, algorithm 2.
    """
    return chain(scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=True), scale_by_learning_rate(learning_rate))


@optimizer
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: ScheduleLike = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
):
    """AdamW: Adam with decoupled weight decay, on the parameters where the mask is True if there is one.

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
def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: ScheduleLike = 1e-4,
    mask: Mask = None,
):
    """NAdamW: AdamW with Nesterov momentum, `adamw(..., nesterov=True)`.

    p ← p − η·(u + weight_decay·p), u as in `nadam`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.nadamw(0.1, b1=0.0, weight_decay=0.1), jnp.array([10.0])
    >>> tx.update(jnp.array([0.5]), tx.init(params), params)[0]
    Array([-0.2], dtype=float32)

    Source: Dozat 2016, Incorporating Nesterov Momentum into Adam, algorithm 2; Loshchilov & Hutter 2019,
    arXiv:1711.05101.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    """AMSGrad: Adam with the maximum of all second moments so far, so that step sizes never grow.

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


@optimizer
def adamax(learning_rate: ScalarOrSchedule, b1: Momentum = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8):
    """AdaMax: Adam with an exponentially weighted infinity norm in place of the second moment.

    ν ← max(b2·ν, |g| + eps); p ← p − η·μ̂/ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.adamax(0.1)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Kingma & Ba 2015, Adam, arXiv:1412.6980, algorithm 2.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@optimizer
def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: ScheduleLike = 1e-4,
    mask: Mask = None,
):
    """AdaMax with decoupled weight decay, on the parameters where the mask is True if there is one.

    p ← p − η·(μ̂/ν + weight_decay·p), moments as in `adamax`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adamaxw(0.1, weight_decay=0.1), jnp.array([10.0])
    >>> tx.update(jnp.array([0.5]), tx.init(params), params)[0]
    Array([-0.2], dtype=float32)

    Source: Kingma & Ba 2015, Adam, arXiv:1412.6980, algorithm 2; Loshchilov & Hutter 2019, arXiv:1711.05101.
    """
    return chain(
        scale_by_adamax(b1, b2, eps), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )


@optimizer
def optimistic_adam(
    learning_rate: ScalarOrSchedule,
    optimism: Number = 1.0,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    alpha: Number = 1.0,
    nesterov: bool = True,
):
    """Optimistic Adam, for games such as GANs: the last change of direction is added as a prediction of the next.

    p ← p − η·((alpha + optimism)·uₜ − optimism·uₜ₋₁), u as in `adam`

    `optimism` is in units of the learning rate, so it works with a schedule: 1, the default, is the default of Optax's
    `optimistic_adam`, and the beta of its `optimistic_adam_v2`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.optimistic_adam(0.1, b1=0.0)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([-0.1,  0.1], dtype=float32)

    Source: Daskalakis et al. 2018, Training GANs with Optimism, arXiv:1711.00141, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, optimism),
        scale_by_learning_rate(learning_rate),
    )
