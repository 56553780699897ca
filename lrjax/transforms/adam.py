"""The scaling of Adam, and of methods derived from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lrjax.domains import Decay, DType, Momentum, NonNegative, Number
from lrjax.numerics import Array, ArrayTree, abs_sq
from lrjax.numerics import bias_correction as correction
from lrjax.schedules.base import DecayOrSchedule, ScheduleLike
from lrjax.transforms.elementwise import Slot, clip_real, elementwise
from lrjax.transforms.second_moment import debias


class ScaleByAdamState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    nu: ArrayTree  # like params, real: moving average of |g|²


class ScaleByBeliefState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    nu: ArrayTree  # like params, real: moving average of |g − μ|²


class ScaleByAdanState(NamedTuple):
    m: ArrayTree  # like params: moving average of g
    v: ArrayTree  # like params: moving average of the change of g
    n: ArrayTree  # like params, real: moving average of the squared look-ahead gradient
    g: ArrayTree  # like params: the last gradient
    t: Array  # int32 (): updates so far


class ScaleByAdemamixState(NamedTuple):
    count: Array  # int32 (): updates so far
    count_m2: Array  # int32 (): updates so far
    m1: ArrayTree  # like params: fast moving average of g
    m2: ArrayTree  # like params: slow moving average of g
    nu: ArrayTree  # like params, real: moving average of |g|²


class ScaleByAmsgradState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    nu: ArrayTree  # like params, real: moving average of |g|²
    nu_max: ArrayTree  # like params, real: the largest ν̂ so far


@elementwise(ScaleByAdamState, mu=Slot(dtype="mu_dtype"), nu=Slot(real=True))
def scale_by_adam(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
):
    """Adam without the rate: bias-corrected moving averages of the gradient and of its square.

    μ ← b1·μ + (1−b1)·g; ν ← b2·ν + (1−b2)·|g|²; u = μ̂/(√(ν̂ + eps_root) + eps), μ̂ = μ/(1−b1ᵗ), ν̂ = ν/(1−b2ᵗ);
    with `nesterov` μ̂ = b1·μ/(1−b1ᵗ⁺¹) + (1−b1)·g/(1−b1ᵗ)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_adam()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Kingma & Ba 2015, Adam, arXiv:1412.6980, algorithm 1; `nesterov`: Dozat 2016, Incorporating Nesterov
    Momentum into Adam, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = 1 / correction(b1, t), 1 / correction(b2, t)
    if nesterov:
        scale_mu, scale_g = b1 / correction(b1, t + 1), rest1 * scale_mu

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = b1 * mu + rest1 * g
        nu = b2 * nu + rest2 * abs_sq(g)
        mu_hat = scale_mu * mu + scale_g * g if nesterov else scale_mu * mu
        return mu_hat / (jnp.sqrt(scale_nu * nu + eps_root) + eps), mu, nu

    return leaf


@elementwise(ScaleByAmsgradState, mu=Slot(dtype="mu_dtype"), nu=Slot(real=True), nu_max=Slot(real=True))
def scale_by_amsgrad(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    """AMSGrad without the rate: Adam with the maximum of all second moments so far, so that step sizes never grow.

    μ, ν as Adam's; ν_max ← max(ν_max, ν̂); u = μ̂/(√(ν_max + eps_root) + eps)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_amsgrad()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, arXiv:1904.09237, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = debias(b1, t, bias_correction_mu), debias(b2, t, bias_correction_nu)

    def leaf(g: Any, mu: Any, nu: Any, nu_max: Any) -> Any:
        mu = b1 * mu + rest1 * g
        nu = b2 * nu + rest2 * abs_sq(g)
        nu_max = jnp.maximum(nu_max, scale_nu * nu)
        return scale_mu * mu / (jnp.sqrt(nu_max + eps_root) + eps), mu, nu, nu_max

    return leaf


@elementwise(ScaleByBeliefState, nu=Slot(real=True))
def scale_by_belief(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    """AdaBelief without the rate: Adam with the variance of the gradient around its average as second moment.

    μ as Adam's; ν ← b2·ν + (1−b2)·|g − μ|² + eps_root; u = μ̂/(√ν̂ + eps), `nesterov` as in `scale_by_adam`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_belief(b1=0.5)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 2., -2.], dtype=float32)

    Source: Zhuang et al. 2020, AdaBelief, arXiv:2010.07468, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = 1 / correction(b1, t), 1 / correction(b2, t)
    if nesterov:
        scale_mu, scale_g = b1 / correction(b1, t + 1), rest1 * scale_mu

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = b1 * mu + rest1 * g
        nu = b2 * nu + rest2 * abs_sq(g - mu) + eps_root
        mu_hat = scale_mu * mu + scale_g * g if nesterov else scale_mu * mu
        return mu_hat / (jnp.sqrt(scale_nu * nu) + eps), mu, nu

    return leaf


@elementwise(
    ScaleByAdamState, mu=Slot(start="initial_accumulator_value"), nu=Slot(start="initial_accumulator_value", real=True)
)
def scale_by_yogi(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 1e-6,
):
    """Yogi without the rate: Adam with a second moment that changes by at most (1−b2)·|g|² per update.

    μ as Adam's; ν ← ν − (1−b2)·sign(ν − |g|²)·|g|²; u = μ̂/(√(ν̂ + eps_root) + eps)

    As in Optax both moments begin at `initial_accumulator_value`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_yogi(eps=0.0, initial_accumulator_value=0.0)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization, NeurIPS, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = 1 / correction(b1, t), 1 / correction(b2, t)

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = b1 * mu + rest1 * g
        square = abs_sq(g)
        nu = nu - rest2 * jnp.sign(nu - square) * square
        return scale_mu * mu / (jnp.sqrt(scale_nu * nu + eps_root) + eps), mu, nu

    return leaf


@elementwise(ScaleByAdamState, nu=Slot(real=True))
def scale_by_adamax(t: Any, b1: Momentum = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8):
    """AdaMax without the rate: Adam with an exponentially weighted infinity norm as second moment.

    μ as Adam's; ν ← max(b2·ν, |g| + eps); u = μ̂/ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_adamax()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Kingma & Ba 2015, Adam, arXiv:1412.6980, algorithm 2.
    """
    rest, scale = 1 - b1, 1 / correction(b1, t)

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = b1 * mu + rest * g
        nu = jnp.maximum(b2 * nu, jnp.abs(g) + eps)
        return scale * mu / nu, mu, nu

    return leaf


@elementwise(ScaleByAdamState, nu=Slot(real=True))
def scale_by_radam(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Number = 5.0,
    *,
    nesterov: bool = False,
):
    """RAdam without the rate: Adam, rectified while the variance of its second moment is large.

    ρ∞ = 2/(1−b2) − 1; ρ = ρ∞ − 2t·b2ᵗ/(1−b2ᵗ); u = r·μ̂/(√(ν̂ + eps_root) + eps) where ρ ≥ threshold, μ̂ before,
    r² = (ρ−4)(ρ−2)ρ∞/((ρ∞−4)(ρ∞−2)ρ); `nesterov` as in `scale_by_adam`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_radam()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 0.5, -4. ], dtype=float32)

    Source: Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = 1 / correction(b1, t), 1 / correction(b2, t)
    if nesterov:
        scale_mu, scale_g = b1 / correction(b1, t + 1), rest1 * scale_mu
    # With x = −½·log b2 and L(y) = coth y − 1/y, ρ is t + L(x) − t·L(x·t), which avoids its cancellation.
    x = -0.5 * jnp.log(jnp.maximum(b2, jnp.finfo(b2.dtype).tiny))
    rho, rho_inf = t + _langevin(x) - t * _langevin(x * t), (1 + b2) / rest2
    adapts = (rho >= threshold) & (rho > 4)
    rho = jnp.where(adapts, rho, rho_inf)
    r = jnp.sqrt(jnp.where(adapts, (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho), 1))

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = b1 * mu + rest1 * g
        nu = b2 * nu + rest2 * abs_sq(g)
        mu_hat = scale_mu * mu + scale_g * g if nesterov else scale_mu * mu
        return jnp.where(adapts, r * mu_hat / (jnp.sqrt(scale_nu * nu + eps_root) + eps), mu_hat), mu, nu

    return leaf


def _langevin(y: Any) -> Any:
    """Returns coth y − 1/y, by its series for small y, where the two terms cancel."""
    near = y < 0.5
    far, s = jnp.where(near, 1, y), jnp.where(near, y, 0) ** 2
    series = y * (1 / 3 + s * (-1 / 45 + s * (2 / 945 + s * (-1 / 4725 + s * 2 / 93555))))
    return jnp.where(near, series, 1 / jnp.tanh(far) - 1 / far)


@elementwise(ScaleByAdanState, n=Slot(real=True))
def scale_by_adan(
    t: Any,
    b1: Momentum = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
):
    """Adan without the rate: moving averages of the gradient and of its change, over the look-ahead gradient's RMS.

    d = g − gₜ₋₁, 0 at the first update; m ← b1·m + (1−b1)·g; v ← b2·v + (1−b2)·d;
    n ← b3·n + (1−b3)·|g + (1−b2)·d|²; u = (m̂ + (1−b2)·v̂)/(√(n̂ + eps_root) + eps)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_adan()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0].round(6)
    Array([ 1., -1.], dtype=float32)

    Source: Xie et al. 2022, Adan, arXiv:2208.06677, algorithm 1 (whose βᵢ are 1 − bᵢ).
    """
    rest1, rest2, rest3 = 1 - b1, 1 - b2, jnp.subtract(1, b3)
    scale_m, scale_v, scale_n = 1 / correction(b1, t), rest2 / correction(b2, t), 1 / correction(b3, t)

    def leaf(g: Any, m: Any, v: Any, n: Any, last: Any) -> Any:
        change = jnp.where(t > 1, g - last, 0)
        m = b1 * m + rest1 * g
        v = b2 * v + rest2 * change
        n = b3 * n + rest3 * abs_sq(g + rest2 * change)
        return (scale_m * m + scale_v * v) / (jnp.sqrt(scale_n * n + eps_root) + eps), m, v, n, g

    return leaf


@elementwise(ScaleByAdemamixState, m1=Slot(dtype="mu_dtype"), m2=Slot(dtype="mu_dtype"), nu=Slot(real=True))
def scale_by_ademamix(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    b3: DecayOrSchedule = 0.9999,
    alpha: ScheduleLike = 6.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
):
    """AdEMAMix without the rate: Adam with a second, much slower average of the gradient.

    m₁ ← b1·m₁ + (1−b1)·g; m₂ ← b3·m₂ + (1−b3)·g; ν as Adam's; u = (m̂₁ + alpha·m₂)/(√(ν̂ + eps_root) + eps)

    The paper increases `alpha` from 0 and `b3` from `b1` over the run; give schedules for that.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_ademamix(b3=0.5, alpha=2.0)
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 2., -2.], dtype=float32)

    Source: Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer, arXiv:2409.03137, algorithm 1.
    """
    rest1, rest2, rest3 = 1 - b1, 1 - b2, jnp.subtract(1, b3)
    scale_m1, scale_nu = 1 / correction(b1, t), 1 / correction(b2, t)

    def leaf(g: Any, m1: Any, m2: Any, nu: Any) -> Any:
        m1 = b1 * m1 + rest1 * g
        m2 = b3 * m2 + rest3 * g
        nu = b2 * nu + rest2 * abs_sq(g)
        return (scale_m1 * m1 + alpha * m2) / (jnp.sqrt(scale_nu * nu + eps_root) + eps), m1, m2, nu

    return leaf


@elementwise(ScaleByAdamState, mu=Slot(dtype="mu_dtype"), nu=Slot(real=True))
def scale_by_adopt(
    t: Any,
    b1: Momentum = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable | None = None,
):
    """ADOPT without the rate: a moving average of gradients, each divided by the root of the previous second moment.

    u₁ = 0, ν ← |g|²; then c = g/max(√ν, eps), within ±`clip_value_fn(t−1)` (default: (t−1)^¼);
    μ ← b1·μ + (1−b1)·c; ν ← b2·ν + (1−b2)·|g|²; u = μ, or b1·μ + (1−b1)·c with `nesterov`

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.scale_by_adopt(b1=0.5), jnp.array([0.5, -4.0])
    >>> updates, state = tx.update(g, tx.init(jnp.zeros(2)))
    >>> updates, tx.update(g, state)[0]
    (Array([0., 0.], dtype=float32), Array([ 0.5, -0.5], dtype=float32))

    Source: Taniguchi et al. 2024, ADOPT, arXiv:2411.02853, algorithms 1 and 2.
    """
    b1, b2 = jnp.where(t > 1, b1, 1), jnp.where(t > 1, b2, 0)
    rest1, rest2 = 1 - b1, 1 - b2
    bound = (t - 1) ** 0.25 if clip_value_fn is None else jnp.asarray(clip_value_fn(t - 1), t.dtype)

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        c = g / jnp.maximum(jnp.sqrt(nu), eps)
        if use_clipping:
            c = clip_real("scale_by_adopt", c, -bound, bound)
        mu = b1 * mu + rest1 * c
        nu = b2 * nu + rest2 * abs_sq(g)
        return (b1 * mu + rest1 * c if nesterov else mu), mu, nu

    return leaf
