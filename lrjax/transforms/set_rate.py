"""Changes the learning rate of a running optimizer in its state."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrjax.domains import NonNegative, NotInDomain, Number, known_domain
from lrjax.numerics import ArrayTree, unboxed
from lrjax.transforms.learning_rate import (
    InjectedRateState,
    InjectedRecordState,
    LearningRateState,
    RecordedRateState,
)
from lrjax.transforms.read_rate import Found, Group, Path, all_found, by_label, number_of, rates_by_group
from lrjax.value import bad_argument

_Change = Callable[[jax.Array], jax.Array]

_OURS = (LearningRateState, InjectedRateState)

_NOT_CONSTANT = (
    "set_learning_rate: `state` must be one whose rate is a single constant number > 0: here it is 0, follows a "
    "schedule, differs between parameters, or comes from the method. `scale_learning_rate(state, factor)` multiplies "
    "any rate. (A state that an older lrjax saved knows its rate after one update.)"
)


def scale_learning_rate(state: ArrayTree, factor: Any) -> Any:
    """Returns the state with the rate multiplied by a factor, from the next update on.

    It multiplies whatever the rate is, a constant or a schedule, now and later: calls add up, and a checkpoint carries
    it. Nothing is compiled anew; inside of `jit` the factor may be traced. Reaches every nesting that
    `get_learning_rate` reads, and `get_learning_rate` tells the rate times the factor at once.

    Args:
      state: of an optimizer, or what holds it, such as a flax `TrainState`.
      factor: a number, for all rates; or, where `get_learning_rate(state)` is a dict by group of parameters, a dict of
        numbers with some of its keys: the other groups keep their rate.

    Raises:
      ValueError: there is no rate, `factor` is not of these, or the rate stands inside of a formula (`madgrad`) or is
        overwritten by a schedule of Optax at each update.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adam(lrjax.linear_schedule(1.0, 0.0, 4)), jnp.ones(2)
    >>> state = lrjax.scale_learning_rate(tx.init(params), 0.5)
    >>> for _ in range(2):
    ...     _, state = tx.update(params, state, params)
    >>> lrjax.get_learning_rate(state)  # ½ · ¾
    Array(0.375, dtype=float32)
    """
    caller = "scale_learning_rate"
    everything, groups = list(all_found(state)), rates_by_group(state, caller)
    chosen = _by_group(caller, "factor", factor, groups)
    changes: dict[Path, _Change] = {}
    if isinstance(chosen, dict):
        for group in groups:
            outer = [group[:n] for n in reversed(range(len(group))) if group[:n] in groups]
            around = chosen.get(outer[0]) if outer else None  # multiplies this group's rate too
            if group in chosen or around is not None:
                own, around = chosen.get(group, 1.0), 1.0 if around is None else around
                node = _own_rate(caller, groups[group], group)
                _scale(changes, node, everything, own / jnp.where(around == 0, 1, around))
    else:
        rates = [x for x in everything if x.is_rate and not x.is_copy]
        firsts: dict[Group, Found] = {}
        for x in rates:
            firsts.setdefault(x.group, x)
        for group, node in firsts.items():
            if not any(group[:n] in firsts for n in range(len(group))):
                _scale(changes, node, everything, chosen)
    return _changed(state, changes)


def set_learning_rate(state: ArrayTree, rate: Any) -> Any:
    """Returns the state with another rate, where it is a constant, from the next update on.

    The optimizer keeps its own rate; the state's `scale` becomes the quotient. So what is applied is `rate` to within
    one unit in the last place of float32, and other factors multiply it in turn when they change. A rate that follows
    a schedule is multiplied instead, by `scale_learning_rate`.

    Args:
      state: of an optimizer, or what holds it, such as a flax `TrainState`.
      rate: a number >= 0, for all; or a dict of numbers with some of the keys of `get_learning_rate(state)`.

    Raises:
      ValueError: there is no rate, it is no constant or 0, or `rate` is not of these. Inside of `jit`, where only the
        values tell a schedule from a constant, that is a `JaxRuntimeError` with the same words when the program runs.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.sgd(0.5), jnp.ones(1)
    >>> state = lrjax.set_learning_rate(tx.init(params), 0.25)
    >>> tx.update(params, state, params)[0], lrjax.get_learning_rate(state)
    (Array([-0.25], dtype=float32), Array(0.25, dtype=float32))
    """
    caller = "set_learning_rate"
    everything, groups = list(all_found(state)), rates_by_group(state, caller)
    chosen = _by_group(caller, "rate", rate, groups)
    changes: dict[Path, _Change] = {}
    now: dict[Path, Any] = {}  # the numbers of the nodes that have changed
    for group in sorted(groups, key=len):
        outer_changes = any(x.path in now for x in groups[group] if x.group != group)
        if isinstance(chosen, dict) and group not in chosen and not outer_changes:
            continue
        if not isinstance(chosen, dict) and not any(x.is_rate and x.group == group for x in groups[group]):
            continue
        node, applied = _own_rate(caller, groups[group], group), [x for x in groups[group] if x.node is not None]
        before = {x.path: number_of(x) for x in applied}
        if any(x.scheduled for x in applied) or not jax.tree_util.all_leaves(list(before.values())):
            raise ValueError(_NOT_CONSTANT)
        target = chosen.get(group, _product(before.values())) if isinstance(chosen, dict) else chosen
        others = [now.get(path, x) for path, x in before.items() if path != node.path]
        constants = [_constant_of(x) for x in applied if isinstance(x.node, _OURS)]
        now[node.path] = _set(changes, node, everything, target, others, constants)
    return _changed(state, changes)


def _by_group(caller: str, name: str, given: Any, groups: dict[Group, Any]) -> Any:
    """Returns the given number, or a dict of numbers by group."""
    domain = known_domain(NonNegative if name == "rate" else Number)
    labels = by_label({group: group for group in groups})
    try:
        if not isinstance(given, Mapping):
            return jnp.asarray(domain.validate(given), jnp.result_type(float))
        if len(groups) > 1 and given and set(given) <= set(labels):
            return {labels[k]: jnp.asarray(domain.validate(x), jnp.result_type(float)) for k, x in given.items()}
    except NotInDomain:
        pass
    words = f"{domain.description}"
    if len(groups) > 1:
        words += f", or a dict of these with keys of {list(labels)}"
    raise bad_argument(caller, name, words, given)


def _own_rate(caller: str, applied: list[Found], group: Group) -> Found:
    own = [x for x in applied if x.is_rate and x.group == group]
    if not own:
        raise ValueError(f"{caller}: the parameters of {group} have no rate of their own; give one number for all.")
    return own[0]


def _check_changeable(caller: str, node: Found) -> None:
    if isinstance(node.node, (RecordedRateState, InjectedRecordState)):
        raise ValueError(
            f"{caller}: the rate of this optimizer stands inside of its formula, and its state only records it. "
            "`with_hyperparams(tx, learning_rate=...)` makes an optimizer with another one for the same state; "
            "an injected one is in `hyperparams`."
        )


def _scale(changes: dict[Path, _Change], found: Found, everything: list[Found], factor: Any) -> None:
    _check_changeable("scale_learning_rate", found)
    times = lambda x: x * jnp.asarray(factor).astype(x.dtype)
    if isinstance(found.node, _OURS):
        for x in (found, *_copies(found, everything)):
            changes[(*x.path, _field("scale"))] = times
            changes[(*x.path, _field(x.node._fields[2]))] = times
    elif found.scheduled:
        raise ValueError(
            "scale_learning_rate: the rate of an optimizer of Optax's follows a schedule in `hyperparams_states`, "
            "which overwrites it at each update. With lrjax's optimizer of the same name it can be scaled."
        )
    else:
        for x in (found, *_copies(found, everything)):
            changes[(*x.path, _field("hyperparams"), jax.tree_util.DictKey("learning_rate"))] = times


def _set(
    changes: dict[Path, _Change], found: Found, everything: list[Found], target: Any, others: list[Any], constants: Any
) -> Any:
    """Adds the changes after which the product of the node's number and the others is `target`; returns that number."""
    _check_changeable("set_learning_rate", found)
    rest = _product(others)
    own = target if not others else target / jnp.where(rest == 0, 1, rest)
    to = lambda value: lambda x: jnp.broadcast_to(value, x.shape).astype(x.dtype)
    if not isinstance(found.node, _OURS):
        own = _checked(own, constants)
        for x in (found, *_copies(found, everything)):
            changes[(*x.path, _field("hyperparams"), jax.tree_util.DictKey("learning_rate"))] = to(own)
        return own
    constant = _constant_of(found)
    scale = _checked(_nearest_quotient(own, constant), constants)
    for x in (found, *_copies(found, everything)):
        changes[(*x.path, _field("scale"))] = to(scale)
        changes[(*x.path, _field(x.node._fields[2]))] = to(scale * constant)
    return scale * constant


def _nearest_quotient(rate: Any, constant: Any) -> jax.Array:
    """Returns the number whose rounded product with the constant is nearest to the rate."""
    quotient = rate / constant
    tried = jnp.stack([quotient, jnp.nextafter(quotient, 0.0), jnp.nextafter(quotient, jnp.inf)])
    best = jnp.argmin(jnp.abs(tried * constant - rate), axis=0)
    return jnp.take_along_axis(tried, best[None], axis=0)[0]


def _constant_of(found: Found) -> Any:
    return jax.tree.map(jnp.asarray, unboxed(found.node.constant))


def _checked(x: Any, constants: Any) -> jax.Array:
    """Returns `x`, or raises an error where a rate is no constant; in a trace, when the compiled program runs."""
    if not constants:
        return x
    bad = jnp.any(jnp.stack([jnp.any(c == 0) for c in constants]))
    if not isinstance(bad, jax.core.Tracer):
        if bad:
            raise ValueError(_NOT_CONSTANT)
        return x
    like = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    refuse = lambda bad, x: jax.pure_callback(_refuse, like, bad, x, vmap_method="broadcast_all")
    return jax.lax.cond(bad, refuse, lambda bad, x: x, bad, x)


def _refuse(bad: Any, x: Any) -> Any:
    if jnp.any(bad):
        raise ValueError(_NOT_CONSTANT)
    return x


def _product(numbers: Iterable[Any]) -> Any:
    return math.prod(numbers, start=jnp.ones([], jnp.result_type(float)))


def _field(name: str) -> Any:
    return jax.tree_util.GetAttrKey(name)


def _copies(found: Found, everything: list[Found]) -> list[Found]:
    """Returns the same node in the copies that a wrapper keeps beside its inner state, such as a snapshot."""
    path = found.path
    inside = [i for i, key in enumerate(path) if getattr(key, "name", None) == "inner_state"]
    is_same = lambda x: any(x.path[:i] == path[:i] and x.path[len(x.path) - len(path) + i + 1 :] == path[i + 1 :]
                            for i in inside)  # fmt: skip
    return [x for x in everything if x.is_copy and type(x.node) is type(found.node) and is_same(x)]


def _changed(state: Any, changes: dict[Path, _Change]) -> Any:
    """Returns the state with the arrays changed whose path begins with one of those in `changes`."""

    def one(path: Path, x: Any) -> Any:
        for n in range(len(path) + 1):
            if path[:n] in changes:
                return changes[path[:n]](x)
        return x

    return jax.tree_util.tree_map_with_path(one, state)
