"""Second moments: every coordinate divided by the RMS of its past gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Decay, DType, NonNegative, Number
from lrjax.numerics import Array, ArrayTree, abs_sq
from lrjax.numerics import bias_correction as correction
from lrjax.transforms.elementwise import Slot, elementwise


class ScaleByRssState(NamedTuple):
    sum_of_squares: ArrayTree  # like params, real: Σ|g|²


class ScaleByRmsState(NamedTuple):
    count: Array  # int32 (): updates so far
    nu: ArrayTree  # like params, real: moving average of |g|²


class ScaleByAdaDeltaState(NamedTuple):
    e_g: ArrayTree  # like params, real: moving average of |g|²
    e_x: ArrayTree  # like params, real: moving average of |u|²


class ScaleByNovogradState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: Σ b1ᵏ·(normalised g + decayed p)
    nu: ArrayTree  # for each parameter, float (): moving average of ‖g‖²


class ScaleByRStdDevState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    nu: ArrayTree  # like params, real: moving average of |g|²


@elementwise(ScaleByRssState, sum_of_squares=Slot(start="initial_accumulator_value", real=True))
def scale_by_rss(initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    """AdaGrad without the rate: divides by the root of the sum of all squared gradients.

    s ← s + |g|²; u = g/√(s + eps), 0 where s is 0

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_rss(initial_accumulator_value=5.0, eps=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([0.6666667], dtype=float32)

    Source: Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods (AdaGrad), JMLR 12, fig. 1.
    """

    def leaf(g: Any, s: Any) -> Any:
        s = s + abs_sq(g)
        return g * jax.lax.rsqrt(jnp.where(s > 0, s + eps, jnp.inf)), s  # 1/√∞ is 0, and so is its derivative

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
    """RMSProp without the rate: divides by the root of a moving average of the squared gradients.

    ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν + eps), or g/(√ν + eps) without `eps_in_sqrt`;
    with `bias_correction` ν/(1 − decayᵗ) for ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_rms(decay=0.75, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)

    Source: Tieleman & Hinton 2012, RMSProp, Coursera lecture 6e.
    """
    rest, scale = 1 - decay, debias(decay, t, bias_correction)

    def leaf(g: Any, nu: Any) -> Any:
        nu = decay * nu + rest * abs_sq(g)
        return divide_by_root(g, scale * nu, eps, eps_in_sqrt), nu

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
    """Centered RMSProp without the rate: divides by the root of a moving variance of the gradients.

    μ ← decay·μ + (1−decay)·g; ν ← decay·ν + (1−decay)·|g|²; u = g/√(ν − |μ|² + eps), or g/(√(ν − |μ|²) + eps)
    without `eps_in_sqrt`; with `bias_correction` μ/(1 − decayᵗ) and ν/(1 − decayᵗ) for μ and ν

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_stddev(decay=0.5, eps=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)

    Source: Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850, eq. 38–41.
    """
    rest, scale = 1 - decay, debias(decay, t, bias_correction)

    def leaf(g: Any, mu: Any, nu: Any) -> Any:
        mu = decay * mu + rest * g
        nu = decay * nu + rest * abs_sq(g)
        variance = jnp.maximum(scale * nu - abs_sq(scale * mu), 0)  # rounding may make it negative
        return divide_by_root(g, variance, eps, eps_in_sqrt), mu, nu

    return leaf


@elementwise(ScaleByAdaDeltaState, e_g=Slot(real=True), e_x=Slot(real=True))
def scale_by_adadelta(rho: Decay = 0.9, eps: NonNegative = 1e-6):
    """AdaDelta without the rate: scales gradients by the RMS of past updates over the RMS of past gradients.

    e_g ← rho·e_g + (1−rho)·|g|²; u = √(e_x + eps)/√(e_g + eps)·g; e_x ← rho·e_x + (1−rho)·|u|²

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_adadelta(rho=0.0, eps=1.0)
    >>> tx.update(jnp.array([3.0**0.5]), tx.init(jnp.array([0.0])))[0]
    Array([0.8660254], dtype=float32)

    Source: Zeiler 2012, ADADELTA, arXiv:1212.5701, algorithm 1.
    """
    rest = 1 - rho

    def leaf(g: Any, e_g: Any, e_x: Any) -> Any:
        e_g = rho * e_g + rest * abs_sq(g)
        u = jnp.sqrt((e_x + eps) / (e_g + eps)) * g
        return u, e_g, rho * e_x + rest * abs_sq(u)

    return leaf


@elementwise(
    ScaleByNovogradState,
    needs_params=True,
    packable=False,
    mu=Slot(dtype="mu_dtype"),
    nu=Slot(real=True, scalar=True),
)
def scale_by_novograd(
    t: Any,
    b1: Number = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: Number = 0.0,
    mu_dtype: DType | None = None,
):
    """NovoGrad without the rate: momentum of layer-wise normalized gradients, with weight decay.

    ν ← b2·ν + (1−b2)·‖g‖², ‖g‖² at the first update; μ ← b1·μ + g/(√(ν + eps_root) + eps) + weight_decay·p; u = μ

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.scale_by_novograd(), jnp.zeros(2)
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([0.6, 0.8], dtype=float32)

    Source: Ginsburg et al. 2019, Stochastic Gradient Methods with Layer-wise Adaptive Moments, arXiv:1905.11286,
    algorithm 1.
    """
    keep = jnp.where(t > 1, b2, 0)

    def leaf(g: Any, p: Any, mu: Any, nu: Any) -> Any:
        nu = keep * nu + (1 - keep) * jnp.sum(abs_sq(g))
        mu = b1 * mu + g * (1 / (jnp.sqrt(nu + eps_root) + eps)) + weight_decay * p
        return mu, mu, nu

    return leaf


def debias(decay: Any, t: Any, debias: bool) -> Any:
    return 1 / correction(decay, t) if debias else 1


def divide_by_root(g: Any, nu: Any, eps: Any, eps_in_sqrt: bool) -> Any:
    return g * jax.lax.rsqrt(nu + eps) if eps_in_sqrt else g / (jnp.sqrt(nu) + eps)
