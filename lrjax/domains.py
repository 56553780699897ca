"""Types of arguments that say what is allowed: the range, the unit, the check, and the conversions.

``init_value: Rate`` is a `RealLike` to a type checker; at run time it carries a `Domain`, which validates
the argument when a value is made, and gives the text of the error message and of the argument's line in the docs.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import LargeCount, RealLike, as_time

MAX_STEPS = 2**31 - 1  # the largest int32: the largest step that is counted


class NotInDomain(ValueError):
    """Raised by `Domain.accept`; the constructor raises an error that names the argument."""


@dataclasses.dataclass(frozen=True, repr=False)
class Domain:
    """The set of allowed values of an argument, and its conversions."""

    description: str  # completes "must be ..."
    validate: Callable[[Any], Any]  # returns the argument as it is stored, or raises NotInDomain
    as_array: Callable[[Any], Any] = lambda x: x  # returns the stored argument as a formula takes it
    static: bool = False  # part of the pytree's structure rather than a leaf
    counts_steps: bool = False
    rate: bool = False  # a learning rate, which scales with its schedule
    schedulable: bool = False  # a number that a transformation may take from a schedule
    rank: int = 0  # of an array that is one argument; an array of higher rank is a batch of them

    def __repr__(self) -> str:
        return self.description


def _number(holds: Callable[[Any], Any], steps: bool = False, rank: int = 0) -> Callable[[Any], Any]:
    """Returns a validator of real numbers, and of arrays of them, for which `holds` is true.

    It converts a concrete scalar array to a Python number, so that values stay hashable. It also checks the number
    rounded to float32, as a formula takes it: a decay of 1 - 1e-9 is 1 there. Numbers of steps are clipped to 2³¹−1.
    """

    def holds_everywhere(x: Any) -> bool:
        with np.errstate(over="ignore"):
            rounded = np.asarray(x) if steps else np.asarray(x).astype(jnp.result_type(float))
        return bool(np.all(np.isfinite(x)) and np.all(holds(x)) and np.all(np.isfinite(rounded) & holds(rounded)))

    def validate(x: Any) -> Any:
        if isinstance(x, LargeCount):
            return x
        if isinstance(x, jax.core.Tracer):
            if not (jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)):
                raise NotInDomain
            return x
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            x = x.item() if x.ndim == 0 else x
        if isinstance(x, (bool, complex)) or not isinstance(x, (int, float, np.ndarray, jax.Array)):
            raise NotInDomain
        if isinstance(x, (int, float)):
            if isinstance(x, int) and abs(x) >= 2**127 or not math.isfinite(x) or not holds_everywhere(x):
                raise NotInDomain
            if not steps:
                return x
            return min(int(x), MAX_STEPS) if x == int(x) else min(x, float(MAX_STEPS))
        if np.asarray(x).dtype.kind not in "iuf" and not jnp.issubdtype(x.dtype, jnp.floating):
            raise NotInDomain
        if x.ndim < rank or not holds_everywhere(np.asarray(x)):
            raise NotInDomain
        return x

    return validate


def as_scalar(x: Any) -> jax.Array:
    """Converts a number, constant or traced, to a strongly typed float32 (float64 under x64)."""
    if isinstance(x, LargeCount):
        return as_scalar(x.high) + as_scalar(x.low)
    return jnp.asarray(x, jnp.result_type(float))


def _map_numbers(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    is_number = lambda x: isinstance(x, (jax.Array, float, LargeCount))
    return lambda x: convert(x) if isinstance(x, (jax.Array, float)) else jax.tree.map(convert, x, is_leaf=is_number)


def _number_domain(description: str, holds: Callable[[Any], Any], rate: bool = False) -> Domain:
    return Domain(description, _number(holds), _map_numbers(as_scalar), rate=rate, schedulable=True)


def _steps_domain(description: str, least: int, integer: bool = True) -> Domain:
    """Returns the domain of a number of steps, which is clipped to 2³¹−1."""
    holds = (lambda x: (x >= least) & (x == np.floor(x))) if integer else (lambda x: x >= least)
    return Domain(description, _number(holds, steps=True), _map_numbers(as_time), counts_steps=True, schedulable=True)


Number = Annotated[RealLike, _number_domain("a finite number", lambda x: True)]
# of a schedule, which may be a term of a sum, so negative too
Rate = Annotated[RealLike, _number_domain("a finite number", lambda x: True, rate=True)]
NonNegative = Annotated[RealLike, _number_domain("a finite number >= 0", lambda x: x >= 0)]
Positive = Annotated[RealLike, _number_domain("a finite number > 0", lambda x: x > 0)]
Negative = Annotated[RealLike, _number_domain("a finite number < 0", lambda x: x < 0)]
Fraction = Annotated[RealLike, _number_domain("a number in [0, 1]", lambda x: (x >= 0) & (x <= 1))]
OpenFraction = Annotated[RealLike, _number_domain("a number in (0, 1)", lambda x: (x > 0) & (x < 1))]
Decay = Annotated[RealLike, _number_domain("a number in [0, 1)", lambda x: (x >= 0) & (x < 1))]
Momentum = Annotated[RealLike, _number_domain("a number in (-1, 1)", lambda x: (x > -1) & (x < 1))]
AtLeastOne = Annotated[RealLike, _number_domain("a finite number >= 1", lambda x: x >= 1)]
Steps = Annotated[RealLike, _steps_domain("a whole number of steps >= 1", 1)]
Count = Annotated[RealLike, _steps_domain("a whole number of steps >= 0", 0)]
Duration = Annotated[RealLike, _steps_domain("a number of steps >= 1", 1, integer=False)]
Delay = Annotated[RealLike, _steps_domain("a number of steps >= 0", 0, integer=False)]
Curve = Annotated[
    RealLike | Sequence[float],
    Domain(
        "an array of one or more finite numbers, one for each step",
        lambda x: _curve(x),
        as_scalar,
        rank=1,
    ),
]


def _curve(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        x = np.asarray(x, np.float32)
    x = _number(lambda v: True, rank=1)(x)
    if jnp.ndim(x) < 1 or jnp.shape(x)[-1] == 0:
        raise NotInDomain
    return x


def _accept_numbers(domain: Domain, increasing: bool = False) -> Callable[[Any], Any]:
    def validate(xs: Any) -> tuple[Any, ...]:
        accepted = tuple(domain.validate(x) for x in items_of(xs))
        if increasing and not _is_increasing(accepted):
            raise NotInDomain
        return accepted

    return validate


def items_of(xs: Any) -> tuple[Any, ...]:
    """Returns the items of a sequence; raises NotInDomain for what isn't one, such as an array without axes."""
    if isinstance(xs, (str, bytes, Mapping)) or not np.iterable(xs) or getattr(xs, "ndim", 1) == 0:
        raise NotInDomain
    return tuple(xs)


def _is_increasing(xs: Sequence[Any]) -> bool:
    numbers = [x for x in xs if isinstance(x, (int, float))]
    return all(a <= b for a, b in zip(numbers, numbers[1:], strict=False))


def domain_of(annotation: Any) -> Domain | None:
    """Returns the domain of an annotation: of `Annotated[..., domain]`, `bool`, `str`, `Literal`, `Callable`, or of one
    of these `| None`; None for any other."""
    if get_origin(annotation) is Annotated:
        return next((m for m in annotation.__metadata__ if isinstance(m, Domain)), None)
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        domain = domain_of(inner[0]) if len(inner) == 1 else None
        return domain and _or_none(domain)
    if get_origin(annotation) is Literal:
        return choice(*get_args(annotation))
    if annotation is bool:
        return Domain("True or False", _flag, static=True)
    if annotation is str:
        return Domain("a string", _instance(str), static=True)
    if annotation is Callable or get_origin(annotation) is Callable:
        return Domain("a function", _function, static=True)
    return None


def known_domain(annotation: Any) -> Domain:
    """Returns the domain of an annotation that has one."""
    domain = domain_of(annotation)
    assert domain is not None
    return domain


@functools.cache
def _or_none(domain: Domain) -> Domain:
    return dataclasses.replace(
        domain,
        description=f"{domain.description}, or None",
        validate=lambda x: None if x is None else domain.validate(x),
        as_array=lambda x: None if x is None else domain.as_array(x),
    )


def _flag(x: Any) -> bool:
    if not isinstance(x, (bool, np.bool_)):
        raise NotInDomain
    return bool(x)


def is_function(x: Any) -> bool:
    """Tells a function from a pytree that can be called, such as an Equinox module."""
    return callable(x) and not [leaf for leaf in jax.tree.leaves(x) if leaf is not x]


def _function(x: Any) -> Any:
    if not callable(x):
        raise NotInDomain
    return x


def _instance(kind: type) -> Callable[[Any], Any]:
    def validate(x: Any) -> Any:
        if not isinstance(x, kind):
            raise NotInDomain
        return x

    return validate


def choice(*options: str) -> Domain:
    def validate(x: Any) -> str:
        if not isinstance(x, str) or x not in options:
            raise NotInDomain
        return x

    return Domain("one of " + ", ".join(map(repr, options)), validate, static=True)


def _axes(x: Any) -> Any:
    axes = (x,) if isinstance(x, int) else x
    if x is not None and not (isinstance(axes, (tuple, list)) and all(type(axis) is int for axis in axes)):
        raise NotInDomain
    return None if x is None else tuple(axes)


def _size(x: Any) -> int:
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or x < 1:
        raise NotInDomain
    return int(x)


def _dtype(x: Any) -> str:
    # numpy takes None for float64, and an array for its own dtype
    if x is None or isinstance(x, (np.ndarray, np.generic, jax.Array)):
        raise NotInDomain
    try:
        dtype = jnp.dtype(x)
    except (TypeError, ValueError):
        raise NotInDomain from None
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.complexfloating)):
        raise NotInDomain
    return dtype.name


def _pairs(scale: Domain) -> Callable[[Any], Any]:
    """Returns a validator of `{boundary: scale, ...}` or `((boundary, scale), ...)`; stored as sorted pairs."""
    step = known_domain(Delay)

    def validate(x: Any) -> tuple[tuple[Any, Any], ...]:
        if x is None:
            return ()
        items = x.items() if isinstance(x, Mapping) else x
        try:
            pairs = tuple((step.validate(boundary), scale.validate(value)) for boundary, value in items)
        except (TypeError, ValueError):
            raise NotInDomain from None
        if all(isinstance(boundary, (int, float)) for boundary, _ in pairs):
            pairs = tuple(sorted(pairs, key=lambda pair: pair[0]))
        if not _is_increasing([boundary for boundary, _ in pairs]):
            raise NotInDomain
        return pairs

    return validate


_NUMBER, _DELAY = known_domain(Number), known_domain(Delay)
Rates = Annotated[
    Sequence[RealLike], Domain("a sequence of finite numbers", _accept_numbers(_NUMBER), _NUMBER.as_array)
]
Boundaries = Annotated[
    Sequence[RealLike],
    Domain(
        "a sequence of numbers of steps >= 0, none smaller than the one before it",
        _accept_numbers(_DELAY, increasing=True),
        _DELAY.as_array,
        counts_steps=True,
    ),
]
BoundariesAndScales = Annotated[
    Mapping[Any, RealLike] | Sequence[tuple[RealLike, RealLike]] | None,
    Domain(
        "a dict from steps (>= 0) to finite scales",
        _pairs(_NUMBER),
        lambda pairs: tuple((as_time(boundary), as_scalar(scale)) for boundary, scale in pairs),
    ),
]
DType = Annotated[Any, Domain("a floating dtype", _dtype, static=True)]
Axes = Annotated[int | tuple[int, ...] | None, Domain("an axis, some axes, or None", lambda x: _axes(x), static=True)]
Size = Annotated[int, Domain("a whole number >= 1", _size, static=True)]


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A condition on several arguments; the parameters of `holds` have their names."""

    argument: str
    description: str
    holds: Callable[..., bool]
    structural: bool  # about structure only, such as lengths


def require(argument: str, description: str, holds: Callable[..., bool], structural: bool = False) -> Requirement:
    """Makes a condition on `argument` that depends on other arguments; checked where all of them are Python numbers, or
    always if it is `structural`."""
    return Requirement(argument, description, holds, structural)
