"""Learning rates for groups of parameters: a tree of rates, or rules on the parameters' paths."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Concatenate, ParamSpec

import jax
import numpy as np

from lrjax.domains import Domain, NotInDomain, is_function, known_domain
from lrjax.numerics import ArrayTree, Nested, RealLike, path_name
from lrjax.schedules.base import RateOrSchedule, Schedule
from lrjax.signatures import ValueClass
from lrjax.value import Value, value_class

Arguments = ParamSpec("Arguments")

_RATE = known_domain(RateOrSchedule)


def is_rate(x: Any) -> bool:
    """Returns whether `x` is one rate, a number or a schedule, rather than a tree of rates."""
    return isinstance(x, (Schedule, int, float, np.generic, np.ndarray, jax.Array)) or (
        is_function(x) and not isinstance(x, by_path)
    )


def _rules(x: Any) -> Any:
    if not isinstance(x, Mapping):
        return _rule_function(x)
    try:
        for pattern in x:
            re.compile(pattern)
    except (re.error, TypeError):
        raise NotInDomain from None
    return OrderedDict((pattern, _number_or_schedule(rate)) for pattern, rate in x.items())


def _rule_function(x: Any) -> Any:
    if isinstance(x, _Rule):
        return x
    if not is_function(x):
        raise NotInDomain
    return _Rule(x)


class _Rule:
    """A function from a path to a rate, registered as a static pytree node."""

    def __init__(self, function: Callable[[str], Any]):
        self.function = function

    def __call__(self, path: str) -> Any:
        return self.function(path)

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rule) and self.function == other.function

    def __hash__(self) -> int:
        return hash(self.function)


jax.tree_util.register_static(_Rule)


def _number_or_schedule(x: Any) -> Any:
    x = _RATE.validate(x)
    return float(x) if type(x) is int else x


def _rate_as_array(x: Any) -> Any:
    return jax.tree.map(lambda r: r if isinstance(r, Schedule) else _RATE.as_array(r), x, is_leaf=is_rate)


Rules = Annotated[
    Mapping[str, Any] | Callable[[str], Any],
    Domain("a dict from regular expressions to rates, or a function from a path to a rate", _rules, _rate_as_array),
]


class PathRule(Value):
    """A function from the path of a parameter to its rate, as a value."""

    _formula: ClassVar[Callable[..., Any]]

    def __repr__(self) -> str:  # a plain dict, as in the call
        arguments = {n: dict(x) if isinstance(x, OrderedDict) else x for n, x in vars(self).items()}
        return f"{type(self).__name__}({', '.join(f'{n}={x!r}' for n, x in arguments.items())})"

    def __call__(self, path: str) -> Any:
        return self._formula(path, **vars(self))


def _path_rule(formula: Callable[Concatenate[str, Arguments], Any]) -> ValueClass[Arguments, PathRule]:
    return value_class(formula, PathRule, ("path",), _formula=staticmethod(formula))


@_path_rule
def by_path(path: str, rates: Rules):
    """Learning rate by the path of each parameter, such as 'encoder/layers/0/kernel'.

    `rates` is a dict from regular expressions to numbers or schedules, of which the first that is found in the path
    applies; or a function from the path to the rate. Can be given in place of any learning rate.

    Raises:
      ValueError: no expression is found in a path; the message names it.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.sgd(lrjax.by_path({"bias$": 0.2, "head": 1e-3, "": 1e-4}))
    >>> params = {"body": {"bias": jnp.ones(2), "kernel": jnp.ones(2)}, "head": jnp.ones(2)}
    >>> lrjax.get_learning_rate(tx.init(params))["body"]
    {'bias': Array(0.2, dtype=float32), 'kernel': Array(0.0001, dtype=float32)}
    """
    if isinstance(rates, _Rule):
        return _RATE.validate(rates(path))
    for pattern, rate in rates.items():
        if re.search(pattern, path):
            return rate
    raise ValueError(f"by_path: `rates` must have a rate for every parameter, got none for {path!r}.")


def _learning_rate(x: Any) -> Any:
    if isinstance(x, by_path) or is_rate(x):
        return x if isinstance(x, by_path) else _RATE.validate(x)
    if x is None or not jax.tree.leaves(x, is_leaf=is_rate) or isinstance(x, (str, bytes)):
        raise NotInDomain
    return jax.tree.map(_number_or_schedule, x, is_leaf=is_rate)


ScalarOrSchedule = Annotated[
    RealLike | Schedule | Callable[[Any], Any] | Nested,
    Domain(
        f"{_RATE.description}, or a tree of these like the parameters (or a prefix of it), or by_path(...)",
        _learning_rate,
        _rate_as_array,
    ),
]


def rates_like(params: Any, rates: Any) -> Any:
    """Returns a tree like `params` with the rate of each parameter, a number or a schedule."""
    if isinstance(rates, by_path):
        rate_of = lambda path, _: rates(path_name(path))
        return jax.tree_util.tree_map_with_path(rate_of, params)
    try:
        return jax.tree.map(lambda rate, subtree: jax.tree.map(lambda _: rate, subtree), rates, params, is_leaf=is_rate)
    except ValueError as error:
        raise ValueError(
            f"scale_by_learning_rate: `learning_rate` must be a tree like the parameters, or a prefix of it. {error}"
        ) from None


_FIRST_LAYER = re.compile("embed|stem|patch|token|wte|wpe|pos", re.IGNORECASE)


def layerwise_learning_rates(
    params: ArrayTree, base: Any, decay: Any, layer_of: Callable[[str], int | None] | None = None
) -> Any:
    """Layer-wise learning rate decay: rates that fall from the last layer to the first, as a tree like `params`.

    ηₗ = base·decayᴸ⁻ˡ for layer l of 0 … L

    `base` is a rate or a schedule. A parameter's layer is 1 + the first integer in its path ('layers/3/kernel',
    'block_3/w'); without one it is layer 0 if the path names embeddings, a stem, patches, tokens or positions, else
    layer L, the head. `layer_of(path)` overrides this; its None means L.

    Raises:
      ValueError: `decay` is not in (0, 1], or `base` is no rate.

    >>> import jax.numpy as jnp, lrjax
    >>> params = {"embed": jnp.ones(2), "layers": [jnp.ones(2), jnp.ones(2)], "head": jnp.ones(2)}
    >>> lrjax.layerwise_learning_rates(params, 1.0, 0.5)
    {'embed': 0.125, 'head': 1.0, 'layers': [0.25, 0.5]}

    Source: Clark et al. 2020, ELECTRA, arXiv:2003.10555, section 3.1 and appendix A; Howard & Ruder 2018, ULMFiT,
    arXiv:1801.06146, section 3.2.
    """
    if not (isinstance(decay, (int, float)) and 0 < decay <= 1):
        raise ValueError(f"layerwise_learning_rates: `decay` must be a number in (0, 1], got {decay!r}.")
    try:
        rate = _number_or_schedule(base)
    except NotInDomain:
        raise ValueError(f"layerwise_learning_rates: `base` must be {_RATE.description}, got {base!r}.") from None
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    layers = [(layer_of or _layer)(path_name(path)) for path, _ in paths]
    numbered = [layer for layer in layers if layer is not None]
    last = max(numbered, default=0) + (1 if None in layers else 0)
    return structure.unflatten([rate * float(decay) ** (last - (last if k is None else k)) for k in layers])


def _layer(path: str) -> int | None:
    number = re.search(r"\d+", path)
    if number:
        return 1 + int(number[0])
    return 0 if _FIRST_LAYER.search(path) else None
