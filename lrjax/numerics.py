"""Exact arithmetic of steps, and formulas on arrays that several modules share."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

Array = jax.Array | np.ndarray | np.bool_ | np.number
RealLike = jax.Array | np.ndarray | np.integer | np.floating | float  # an `ArrayLike` without bools and complex numbers
Nested = list[Any] | tuple[Any, ...] | Mapping[Any, Any]  # a pytree of anything; a string isn't one
ArrayTree = Array | Iterable["ArrayTree"] | Mapping[Any, "ArrayTree"]

_MAX = 2**31 - 1


class Time:
    """A number of steps, exact from 0 to 2³¹−1: an int32 integer part and a float fractional part.

    float32 holds integers exactly only up to 2²⁴, so steps are compared, added, subtracted and divided as integers
    first; only a fractional result becomes a float. The fractional part is nonzero for a float step, and carries the
    derivative of a traced number of steps.

    In a formula it behaves as a number: it has every operator, exact with other times and with integers, and `jnp`
    functions take it as the float `total`.
    """

    __slots__ = ("part", "whole")
    __array_ufunc__ = None  # so that NumPy scalars defer to the operators of this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, whole: ArrayLike, part: Any = None):
        self.whole = whole
        self.part = part  # None: exactly zero

    @property
    def total(self) -> jax.Array:
        """The number of steps as a float."""
        whole = jnp.asarray(self.whole).astype(jnp.result_type(float))
        return whole if self.part is None else whole + self.part

    shape = property(lambda self: jnp.shape(self.whole))
    ndim = property(lambda self: jnp.ndim(self.whole))
    dtype = property(lambda self: jnp.result_type(float))

    def astype(self, dtype: Any) -> jax.Array:
        return jnp.asarray(self.whole if jnp.issubdtype(dtype, jnp.integer) else self.total).astype(dtype)

    def __jax_array__(self) -> jax.Array:
        return self.total

    def __repr__(self) -> str:
        return f"Time({self.whole!r}, {self.part!r})"

    def __add__(self, other: Any) -> Any:
        time = _as_exact_time(other)
        if time is None:
            return self.total + other
        whole = self.whole + time.whole
        overflows = (jnp.asarray(self.whole) > 0) & (jnp.asarray(time.whole) > 0) & (whole < 0)
        return Time(jnp.where(overflows, _MAX, whole), _combine(lax.add, self.part, time.part))

    def __sub__(self, other: Any) -> Any:
        time = _as_exact_time(other)
        if time is None:
            return self.total - other
        return Time(self.whole - time.whole, _combine(lax.sub, self.part, time.part))

    def __rsub__(self, other: Any) -> Any:
        time = _as_exact_time(other)
        return other - self.total if time is None else time - self

    def __neg__(self) -> "Time":
        return Time(-self.whole, None if self.part is None else -self.part)  # type: ignore[operator]

    def __pos__(self) -> "Time":
        return self

    def __abs__(self) -> "Time":
        return where_time(self >= 0, self, -self)

    def __mul__(self, other: Any) -> jax.Array:
        return self.total * _float(other)

    def __truediv__(self, other: Any) -> jax.Array:
        return self.total / _float(other)

    def __rtruediv__(self, other: Any) -> jax.Array:
        return _float(other) / self.total

    def __pow__(self, other: Any) -> jax.Array:
        return self.total ** _float(other)

    def __rpow__(self, other: Any) -> jax.Array:
        return other**self.total

    def __divmod__(self, other: Any) -> Any:
        time = _as_exact_time(other)
        return divmod(self.total, other) if time is None else self.divmod(time)

    def __floordiv__(self, other: Any) -> Any:
        return divmod(self, other)[0]

    def __mod__(self, other: Any) -> Any:
        return divmod(self, other)[1]

    def __rdivmod__(self, other: Any) -> Any:
        time = _as_exact_time(other)
        return divmod(other, self.total) if time is None else time.divmod(self)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.__rdivmod__(other)[0]

    def __rmod__(self, other: Any) -> Any:
        return self.__rdivmod__(other)[1]

    def __eq__(self, other: Any) -> Any:
        return self._compare(operator.eq, other)

    def __ne__(self, other: Any) -> Any:
        return self._compare(operator.ne, other)

    def __lt__(self, other: Any) -> Any:
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> Any:
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> Any:
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> Any:
        return self._compare(operator.ge, other)

    __radd__, __rmul__ = __add__, __mul__

    def _compare(self, compare: Callable[[Any, Any], Any], other: Any) -> Any:
        time = _as_exact_time(other)
        if time is not None:
            difference = self - time
            return compare(jnp.asarray(difference.whole if difference.part is None else difference.total), 0)
        return compare(self.total, other) if hasattr(other, "dtype") or isinstance(other, float) else NotImplemented

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __int__(self) -> int:
        return int(self.whole)  # type: ignore[arg-type]

    def __float__(self) -> float:
        return float(self.total)

    def divmod(self, period: "Time") -> tuple["Time", "Time"]:
        """Returns the number of complete periods and the remainder; exact for an integer period."""
        whole, length = jnp.broadcast_arrays(jnp.asarray(self.whole), jnp.asarray(period.whole))
        times = whole // length
        rest = Time(whole - times * length, self.part)
        if period.part is None:
            return Time(times), rest
        fractional = period.part != 0
        quotient = jnp.where(fractional, jnp.floor(self.total / period.total), times.astype(jnp.result_type(float)))
        # an integer period with a derivative: its part is 0, and its tangent counts once for each period
        exact = Time(rest.whole, _combine(lax.sub, rest.part, times.astype(quotient.dtype) * period.part))
        since = as_time(self.total - quotient * period.total)
        return where_time(fractional, as_time(quotient), Time(times)), where_time(fractional, since, exact)

    def clip(self, low: Any = 0, high: Any = None) -> "Time":
        """Returns the time clipped to [low, high]; None is no bound."""
        lower, upper = _as_exact_time(low), _as_exact_time(high)
        raised = where_time(self >= lower, self, lower)
        return raised if upper is None else where_time(raised >= upper, upper, raised)


jax.tree_util.register_pytree_node(Time, lambda time: ((time.whole, time.part), None), lambda _, xs: Time(*xs))


def _as_exact_time(x: Any) -> Any:
    """Converts a time or an integer to a `Time`; returns None for anything else."""
    if isinstance(x, Time):
        return x
    if isinstance(x, (float, np.floating)) and float(x).is_integer():
        x = int(x)
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer, np.ndarray, jax.Array)):
        return None
    if isinstance(x, (int, np.integer)):
        return Time(np.int32(min(max(int(x), -_MAX), _MAX)))
    return as_time(x) if jnp.issubdtype(x.dtype, jnp.integer) else None


def _float(x: Any) -> Any:
    return x.total if isinstance(x, Time) else float(x) if isinstance(x, int) else x


def _combine(op: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if b is None:
        return a
    a = jnp.zeros_like(b) if a is None else jnp.asarray(a)
    return op(*jnp.broadcast_arrays(a, b))


def where_time(condition: jax.Array, a: Time, b: Time) -> Time:
    """`jnp.where` for two times."""
    whole = jnp.where(condition, a.whole, b.whole)
    if a.part is None and b.part is None:
        return Time(whole)
    zero = jnp.zeros((), jnp.result_type(float))
    return Time(whole, jnp.where(condition, zero if a.part is None else a.part, zero if b.part is None else b.part))


def as_time(x: Any) -> Time:
    """Converts a number of steps of any integer or float dtype to a `Time`, clipped to ±(2³¹−1)."""
    if isinstance(x, LargeCount):
        return as_time(x.high) + as_time(x.low)
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        info = jnp.iinfo(x.dtype)
        if info.max > _MAX:
            x = jnp.clip(x, max(info.min, -_MAX), _MAX)
        return Time(x.astype(jnp.int32))
    x = jnp.clip(x.astype(jnp.result_type(float)), -(2.0**31), 2.0**31)
    whole = jnp.floor(x)
    # float32 rounds 2³¹−1 up to 2³¹, which int32 can't hold
    return Time(jnp.where(whole >= 2.0**31, _MAX, whole.astype(jnp.int32)), x - whole)


class LargeCount(NamedTuple):
    """An integer above 2²⁴ as the sum of two that float32 holds exactly, which can be batched and differentiated."""

    high: Any
    low: Any

    @staticmethod
    def from_int(x: int) -> "LargeCount":
        return LargeCount(float(x // 4096 * 4096), float(x % 4096))


def fractions(elapsed: Time, length: Time) -> tuple[jax.Array, jax.Array]:
    """Returns the elapsed and the remaining fraction of a phase, each to full relative accuracy; their sum is 1.

    A phase of 0 steps is over when it begins. Both ends are set to exactly 0 and 1, since a compiler may replace the
    division of an array by a number by a product with its rounded inverse.
    """
    elapsed = elapsed.clip(0, length)
    done, left, whole = elapsed.total, (length - elapsed).total, jnp.maximum(length.total, 1)
    over = left <= 0
    return jnp.where(over, 1, done / whole), jnp.where((done <= 0) & ~over, 1, left / whole)


def lerp(a: jax.Array, b: jax.Array, done: jax.Array, left: jax.Array) -> jax.Array:
    """Interpolates linearly from `a` (done = 0) to `b` (done = 1), without cancellation at either end."""
    return a * left + b * done


def interpolate(
    step: Time, boundaries: Sequence[Time], values: Sequence[jax.Array], weight: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Interpolates from values[0] at step 0 to values[i+1] at boundaries[i]; constant after the last.

    `weight` maps the elapsed fraction of an interval to the weight of its end value.
    """
    rate, start = values[0], Time(jnp.zeros((), jnp.int32))
    for end, a, b in zip(boundaries, values, values[1:], strict=False):
        done, left = fractions(step - start, end - start)
        rate = jnp.where(step >= start, lerp(a, b, weight(done), weight(left)), rate)
        start = end
    return rate


def linear_weight(fraction: jax.Array) -> jax.Array:
    return fraction


def cosine_weight(fraction: jax.Array) -> jax.Array:
    """Returns ½(1 − cos(π·fraction)), computed as sin² near 0 to avoid cancellation; exactly ½ at ½."""
    near = jnp.sin(0.5 * jnp.pi * fraction) ** 2
    return jnp.where(fraction < 0.25, near, 0.5 + 0.5 * jnp.sin(jnp.pi * (fraction - 0.5)))


def power_fractions(done: jax.Array, left: jax.Array, exponent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns 1 − leftᵖ and leftᵖ, each to full relative accuracy; the derivative is 0 from the end on, 0⁰ is 1."""
    base = jnp.where(left <= 0, 1, left)
    ended = (left <= 0) & (exponent > 0)
    log = jnp.where(done < 0.5, jnp.log1p(-jnp.where(done < 0.5, done, 0)), jnp.log(base))
    return jnp.where(ended, 1, -jnp.expm1(exponent * log)), jnp.where(ended, 0, base**exponent)


def bias_correction(decay: jax.Array, t: jax.Array) -> jax.Array:
    """Returns 1 − decayᵗ without cancellation near decay = 1, with a finite derivative at decay = 0."""
    near_one = decay > 0.5
    return jnp.where(near_one, -jnp.expm1(t * jnp.log(jnp.where(near_one, decay, 1))), 1 - decay**t)


def abs_sq(x: jax.Array) -> jax.Array:
    """Returns |x|², real for complex x."""
    return jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def common_dtype(*arrays: Any) -> Any:
    """Returns the dtype to which arrays or dtypes promote, also where JAX's implicit promotion is turned off."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def cast_to(x: jax.Array, dtype: Any) -> jax.Array:
    """Casts `x` to the dtype of a parameter or state; raises TypeError rather than drop an imaginary part."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"`updates` must be real where the parameters are, got {x.dtype}.")
    return x.astype(dtype)


def path_name(path: Any) -> str:
    """Returns the path of a leaf, as `jax.tree_util.tree_leaves_with_path` gives it, as text: "layers/0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def unboxed(tree: Any) -> Any:
    """Returns the tree with arrays in place of the Variables in which flax's nnx keeps them, pytrees themselves."""
    is_box = lambda x: hasattr(type(x), "__jax_array__") and not jax.tree_util.all_leaves([x])
    content = lambda box: jax.tree.leaves(box, is_leaf=lambda x: x is not box)[0]
    return jax.tree.map(lambda x: content(x) if is_box(x) else x, tree, is_leaf=is_box)


def clip_to_finite(x: jax.Array) -> jax.Array:
    """Returns x, with the largest float of its sign for an infinity; what grows without an end stays finite so."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)


def safe_increment(count: jax.Array) -> jax.Array:
    """Returns count + 1, or 2³¹−1 where that overflows.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.safe_increment(jnp.int32(2**31 - 1))
    Array(2147483647, dtype=int32)
    """
    return jnp.where(count < _MAX, count + 1, _MAX)
