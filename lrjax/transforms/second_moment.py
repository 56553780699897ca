"""Second moments: every coordinate divided by a running size of its own gradient."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from lrjax.domains import Decay, DType, NonNegative
from lrjax.numerics import abs_sq
from lrjax.numerics import bias_correction as correction
from lrjax.transforms.elementwise import Slot, elementwise


class ScaleByRssState(NamedTuple):
    sum_of_squares: chex.ArrayTree  # like params, real: Σ|g|²


class ScaleByRmsState(NamedTuple):
    count: chex.Array  # int32 (): updates so far
    nu: chex.ArrayTree  # like params, real: moving average of |g|²


class ScaleByRStdDevState(NamedTuple):
    count: chex.Array  # int32 (): updates so far
    mu: chex.ArrayTree  # like params: moving average of g
    nu: chex.ArrayTree  # like params, real: moving average of |g|²


class ScaleByAdamState(NamedTuple):
    count: chex.Array  # int32 (): updates so far
    mu: chex.ArrayTree  # like params: moving average of g
    nu: chex.ArrayTree  # like params, real: moving average of |g|²


class ScaleByAmsgradState(NamedTuple):
    count: chex.Array  # int32 (): updates so far
    mu: chex.ArrayTree  # like params: moving average of g
    nu: chex.ArrayTree  # like params, real: moving average of |g|²
    nu_max: chex.ArrayTree  # like params, real: the largest ν̂ so far


@elementwise(ScaleByRssState, sum_of_squares=Slot(start="initial_accumulator_value", real=True))
def scale_by_rss(initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    """Divides by the root of the sum of all squared gradients.

    s ← s + |g|²; u = g/√(s + eps), 0 where s is 0

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_rss(initial_accumulator_value=5.0, eps=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([0.6666667], dtype=float32)

    Source: Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods (AdaGrad), JMLR 12, fig. 1.
    """

    def leaf(g: Any, s: Any) -> Any:
        s = s + abs_sq(g)
        return jnp.where(s > 0, g / jnp.sqrt(jnp.where(s > 0, s, 1) + eps), 0), s

    return leaf


@elementwise(ScaleByRmsState, nu=Slot(start="initial_scale", real=True))
def scale_by_rms(
    t: Any,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    """Divides by the root of a moving average of the squared gradients.

    ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν + eps), or g/(√ν + eps) without `eps_in_sqrt`;
    with `bias_correction` ν/(1 − decayᵗ) for ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_rms(decay=0.75, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)

    Source: Tieleman & Hinton 2012, RMSProp, Coursera lecture 6e.
    """
    rest, scale = 1 - decay, _debias(decay, t, bias_correction)

    def leaf(g: Any, nu: Any) -> Any:
        nu = decay * nu + rest * abs_sq(g)
        return g / _root(scale * nu, eps, eps_in_sqrt), nu

    return leaf


@elementwise(ScaleByRStdDevState, nu=Slot(start="initial_scale", real=True))
def scale_by_stddev(
    t: Any,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
):
    """Divides by the root of a moving variance of the gradients: `scale_by_rms`, centered.

    μ ← decay·μ + (1−decay)·g; ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν − |μ|² + eps), or g/(√(ν − |μ|²) + eps)
    without `eps_in_sqrt`; with `bias_correction` μ/(1 − decayᵗ) and ν/(1 − decayᵗ) for μ and ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_stddev(decay=0.5, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)

    Source: Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850, eq. 38–41.
    """
    rest, scale = 1 - decay, _debias(decay, t, bias_correction)

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = decay * mu + rest * g
        nu = decay * nu + rest * abs_sq(g)
        variance = jnp.maximum(scale * nu - abs_sq(scale * mu), 0)  # rounding may make it negative
        return g / _root(variance, eps, eps_in_sqrt), mu, nu

    return leaf


@elementwise(ScaleByAdamState, mu=Slot(dtype="mu_dtype"), nu=Slot(real=True))
def scale_by_adam(
    t: Any,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
):
    """Adam's direction: a moving average of the gradient over the root of one of its square, both without bias.

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
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    """Adam's direction with the largest second moment so far, so that no coordinate's step size grows.

    μ, ν as Adam's; ν_max ← max(ν_max, ν̂); u = μ̂/(√(ν_max + eps_root) + eps)

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_amsgrad()
    >>> tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)

    Source: Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, arXiv:1904.09237, algorithm 2.
    """
    rest1, rest2 = 1 - b1, 1 - b2
    scale_mu, scale_nu = _debias(b1, t, bias_correction_mu), _debias(b2, t, bias_correction_nu)

    def leaf(g: Any, mu: Any, nu: Any, nu_max: Any) -> Any:
        mu = b1 * mu + rest1 * g
        nu = b2 * nu + rest2 * abs_sq(g)
        nu_max = jnp.maximum(nu_max, scale_nu * nu)
        return scale_mu * mu / (jnp.sqrt(nu_max + eps_root) + eps), mu, nu, nu_max

    return leaf


def _debias(decay: Any, t: Any, debias: bool) -> Any:
    return 1 / correction(decay, t) if debias else 1


def _root(nu: Any, eps: Any, eps_in_sqrt: bool) -> Any:
    return jnp.sqrt(nu + eps) if eps_in_sqrt else jnp.sqrt(nu) + eps
