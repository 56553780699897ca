"""Exact step arithmetic, and the few formulas on arrays that everything shares."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_MAX = 2**31 - 1


class Time:
    """A count of steps that is exact from 0 to 2³¹−1: a whole int32 number and a fraction of a step.

    float32 holds the whole numbers only up to 2²⁴, so steps are subtracted and divided as integers first; only the
    difference becomes a float. The fraction is not zero for a float step, and carries the derivative of a traced
    number of steps. Arithmetic with a number gives an ordinary array.
    """

    __slots__ = ("part", "whole")

    def __init__(self, whole: ArrayLike, part: Any = None):
        self.whole = whole
        self.part = part  # None: exactly zero

    @property
    def total(self) -> jax.Array:
        """The count as a float."""
        whole = jnp.asarray(self.whole).astype(jnp.result_type(float))
        return whole if self.part is None else whole + self.part

    def __jax_array__(self) -> jax.Array:
        return self.total

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Time):
            return self.total + other
        return Time(self.whole + other.whole, _combine(lax.add, self.part, other.part))

    def __sub__(self, other: Any) -> Any:
        if not isinstance(other, Time):
            return self.total - other
        return Time(self.whole - other.whole, _combine(lax.sub, self.part, other.part))

    def __truediv__(self, other: Any) -> jax.Array:
        return self.total / (other.total if isinstance(other, Time) else other)

    def __radd__(self, other: Any) -> jax.Array:
        return other + self.total

    def __rsub__(self, other: Any) -> jax.Array:
        return other - self.total

    def __mul__(self, other: Any) -> jax.Array:
        return self.total * (other.total if isinstance(other, Time) else other)

    def __rtruediv__(self, other: Any) -> jax.Array:
        return other / self.total

    def __pow__(self, other: Any) -> jax.Array:
        return self.total**other

    def __rpow__(self, other: Any) -> jax.Array:
        return other**self.total

    __rmul__ = __mul__

    def __ge__(self, other: "Time") -> jax.Array:
        difference = self - other
        if difference.part is None:
            return difference.whole >= 0
        return difference.total >= 0

    def __lt__(self, other: "Time") -> jax.Array:
        return ~(self >= other)

    def __mod__(self, period: "Time") -> "Time":
        """The time since the last multiple of a whole period; for self >= 0."""
        return self.divmod(period)[1]

    def divmod(self, period: "Time") -> tuple[jax.Array, "Time"]:
        """How many whole periods have passed, and the time since the last of them; for self >= 0."""
        whole = jnp.asarray(self.whole)
        times = lax.div(whole, jnp.broadcast_to(period.whole, whole.shape).astype(whole.dtype))
        rest = whole - times * period.whole
        correction = None if period.part is None else times.astype(jnp.result_type(float)) * period.part
        return times, Time(rest, _combine(lax.sub, self.part, correction))

    def clip(self, low: int = 0, high: "Time | None" = None) -> "Time":
        """The time, not before `low` and not after `high`."""
        raised = where(self >= Time(low), self, Time(low))
        return raised if high is None else where(raised >= high, high, raised)


def _combine(op: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if b is None:
        return a
    a = jnp.zeros_like(b) if a is None else jnp.asarray(a)
    return op(*jnp.broadcast_arrays(a, b))


def where(condition: jax.Array, a: Time, b: Time) -> Time:
    """Chooses between two times."""
    whole = jnp.where(condition, a.whole, b.whole)
    if a.part is None and b.part is None:
        return Time(whole)
    zero = jnp.zeros((), jnp.result_type(float))
    return Time(whole, jnp.where(condition, zero if a.part is None else a.part, zero if b.part is None else b.part))


def split(x: ArrayLike) -> Time:
    """A number of steps, of any integer or float dtype, as a `Time`; beyond 2³¹−1 it is 2³¹−1."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        if jnp.iinfo(x.dtype).max > _MAX:
            x = jnp.minimum(x, jnp.asarray(_MAX, x.dtype))
        return Time(x.astype(jnp.int32))
    x = jnp.clip(x.astype(jnp.result_type(float)), -(2.0**31), 2.0**31)
    whole = jnp.floor(x)
    # float32 rounds 2³¹−1 up to 2³¹, which int32 can't hold
    return Time(jnp.where(whole >= 2.0**31, _MAX, whole.astype(jnp.int32)), x - whole)


def fractions(elapsed: Time, length: Time) -> tuple[jax.Array, jax.Array]:
    """The done and the left part of a phase, which add up to 1, each to full relative accuracy.

    A phase of no steps is over as soon as it begins. The ends are exactly 0 and 1: a compiler may turn the division
    of an array by a number into a product with its rounded inverse.
    """
    elapsed = elapsed.clip(0, length)
    done, left, whole = elapsed.total, (length - elapsed).total, jnp.maximum(length.total, 1)
    over = left <= 0
    return jnp.where(over, 1, done / whole), jnp.where((done <= 0) & ~over, 1, left / whole)


def mix(a: jax.Array, b: jax.Array, done: jax.Array, left: jax.Array) -> jax.Array:
    """From `a` (all left) to `b` (all done), without cancellation at either end."""
    return a * left + b * done


def through(
    step: Time, boundaries: Sequence[Time], values: Sequence[jax.Array], bend: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """From values[0] at step 0 to values[i+1] at boundaries[i], along `bend`; constant after the last."""
    rate, start = values[0], Time(jnp.zeros((), jnp.int32))
    for end, a, b in zip(boundaries, values, values[1:], strict=False):
        done, left = fractions(step - start, end - start)
        rate = jnp.where(step >= start, mix(a, b, bend(done), bend(left)), rate)
        start = end
    return rate


def straight(x: jax.Array) -> jax.Array:
    return x


def cosine_weight(fraction: jax.Array) -> jax.Array:
    """½(1 − cos(π·fraction)): as sin² near 0, where it keeps its digits, and exactly ½ half way."""
    near = jnp.sin(0.5 * jnp.pi * fraction) ** 2
    return jnp.where(fraction < 0.25, near, 0.5 + 0.5 * jnp.sin(jnp.pi * (fraction - 0.5)))


def power_fractions(done: jax.Array, left: jax.Array, exponent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 − leftᵖ and leftᵖ, each to full relative accuracy; with no slope from the end on."""
    ended = left <= 0
    base = jnp.where(ended, 1, left)
    log = jnp.where(done < 0.5, jnp.log1p(-jnp.where(done < 0.5, done, 0)), jnp.log(base))
    return jnp.where(ended, 1, -jnp.expm1(exponent * log)), jnp.where(ended, 0, base**exponent)


def bias_correction(decay: jax.Array, t: jax.Array) -> jax.Array:
    """1 − decayᵗ, which keeps its digits where decay nears 1."""
    return -jnp.expm1(t * jnp.log(decay))


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|², real for complex x."""
    return jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def common_dtype(*arrays: Any) -> Any:
    """The dtype that arrays or dtypes widen to; asked for openly, so also where JAX is told not to promote."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def narrowed(x: jax.Array, dtype: Any) -> jax.Array:
    """`x` in the dtype of the parameter or state that it goes into; never without its imaginary part."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"`updates` must be real where the parameters are, got {x.dtype}.")
    return x.astype(dtype)


def safe_increment(count: jax.Array) -> jax.Array:
    """count + 1, which stays at 2³¹−1 once there."""
    return jnp.where(count < _MAX, count + 1, _MAX)
