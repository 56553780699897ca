"""Reads the learning rate from a state."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import tree_leaves_with_path

from lrjax.numerics import ArrayTree, path_name, unboxed
from lrjax.transforms.learning_rate import InjectedRateState, LearningRateState
from lrjax.transforms.masking import MaskedState

Group = tuple[Any, ...]
Path = tuple[Any, ...]


class Found(NamedTuple):
    """A node of a state that has a rate or a factor of the rate."""

    group: Group  # of parameters: the labels on the path to the node
    path: Path  # to the node, in the whole state
    node: Any  # None in a group without a rate or factor of its own
    is_rate: bool
    is_copy: bool  # not in use: in a copy beside the inner state, such as a snapshot to restore
    scheduled: bool  # whether `inject_hyperparams` computes the number with a schedule


def get_learning_rate(state: ArrayTree) -> Any:
    """Returns the rate that the last update applied; before the first update, the rate of the first.

    Finds it in the state of any nesting of lrjax's or Optax's chains and wrappers, and in whatever holds such a state:
    a flax `TrainState`, an `nnx.Optimizer`, the state of an SVI. The rate is the whole factor: the schedule, times the
    scale set by `scale_learning_rate`, times every `rate_factor`, such as that of `reduce_on_plateau`. Two rates in one
    chain are multiplied, as in the update. Rates of different groups of parameters are a dict: by the label of
    `partition`, by the path to a `masked` state (with '' for the parameters outside of all masks, if a rate applies to
    them), by the name of the state's field where a method has two optimizers; by tuples of these where groups are
    nested. If each parameter has its own rate, it is a tree of rates.

    The state of a custom transformation that multiplies the updates by a factor may have a property `rate_factor`.

    Raises:
      ValueError: `state` has no rate.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.adam(lrjax.linear_schedule(1.0, 0.0, 4)))
    >>> lrjax.get_learning_rate(tx.init(jnp.zeros(3)))
    Array(1., dtype=float32)
    """
    rates = {group: product_of(found, group) for group, found in rates_by_group(state, "get_learning_rate").items()}
    return by_label(rates)


def rates_by_group(state: Any, caller: str) -> dict[Group, list[Found]]:
    """Returns the nodes that multiply the updates of each group of parameters, outermost groups first.

    Raises:
      ValueError: `state` has no rate.
    """
    everything = list(all_found(state))
    found = [x for x in everything if not x.is_copy]
    if not any(x.is_rate for x in found):
        raise ValueError(
            f"{caller}: `state` must hold the state of an lrjax learning rate, got "
            f"{jax.tree.structure(state)}. Optax's own optimizers don't keep their rate."
        )
    groups = list(dict.fromkeys(x.group for x in found))
    masks = {x.group[:n] for x in found for n in range(1, len(x.group) + 1) if isinstance(x.group[n - 1], Mask)}
    chosen = {}
    for group in groups:
        inside = [g for g in groups if g != group and g[: len(group)] == group]
        if inside and not any(g in masks for g in inside):
            continue  # every parameter of this group is in one inside of it
        applied = [x for n in range(len(group) + 1) for x in found if x.group == group[:n]]
        if any(x.is_rate for x in applied):
            chosen[group] = applied
    return chosen


def product_of(applied: list[Found], group: Group) -> Any:
    """Returns the rate of a group: the product of its own numbers, then of those of the groups around it."""
    own, outer = [x for x in applied if x.group == group], [x for x in applied if x.group != group]
    numbers = [number_of(x) for x in (*own, *outer) if x.node is not None]
    product = numbers[0]
    for number in numbers[1:]:
        product = _product(product, number)
    return product


def by_label(by_group: dict[Group, Any]) -> Any:
    """Returns the only value, or a dict with the keys that `get_learning_rate` uses."""
    if len(by_group) == 1:
        return next(iter(by_group.values()))
    nested = any(len(group) > 1 for group in by_group)  # keys of one type, as a pytree's must be
    plain = lambda label: label.name if isinstance(label, Mask) else label
    names = {group: tuple(map(plain, group)) for group in by_group}
    return {names[g] if nested else names[g][0] if g else "": x for g, x in by_group.items()}


class Mask(NamedTuple):
    """The label of a `masked` state, which applies to some of the parameters only."""

    name: str  # its path


def all_found(
    node: Any, path: Path = (), group: Group = (), copy: bool = False, scheduled: bool = False
) -> Iterator[Found]:
    """Yields every rate and every factor, with the group of parameters that it applies to."""
    if _is_rate(node):
        yield Found(group, path, node, True, copy, scheduled or _is_scheduled(node))
        return
    if has_factor(node):
        yield Found(group, path, node, False, copy, scheduled)
    if isinstance(node, MaskedState) or type(node).__name__ == "MaskedState":  # ours or Optax's
        if not (len(path) > 1 and getattr(path[-2], "name", None) == "inner_states"):
            group = (*group, Mask(path_name(path)))
    children = [(key, child) for (key,), child in tree_leaves_with_path(node, is_leaf=lambda x: x is not node)]
    holders = [(key, child) for key, child in children if _holds(child)]
    in_use = [key for key, _ in holders if getattr(key, "name", None) == "inner_state"]
    parted = bool(path) and getattr(path[-1], "name", None) == "inner_states"
    in_a_row = type(node) in (tuple, list, dict) and not parted
    if parted:
        for key in (key for key, _ in children if key not in {held for held, _ in holders}):
            yield Found((*group, getattr(key, "key", key)), (*path, key), None, False, copy, scheduled)
    for key, child in holders:
        alone = in_a_row or in_use or (len(holders) == 1 and type(node) is not dict)
        label = getattr(key, "name", getattr(key, "key", key))
        is_copy = copy or bool(in_use and key not in in_use)
        follows = scheduled or _is_scheduled(node)
        yield from all_found(child, (*path, key), group if alone else (*group, label), is_copy, follows)


def number_of(found: Found) -> Any:
    """Returns the rate or the factor of a node."""
    node = found.node
    if not found.is_rate:
        number = node.rate_factor if hasattr(type(node), "rate_factor") else node.scale
    elif isinstance(node, (LearningRateState, InjectedRateState)):
        number = node[2]
    else:  # Optax's own optimizer, injected
        number = node.hyperparams["learning_rate"]
    return jax.tree.map(jnp.asarray, unboxed(number))


def has_factor(x: Any) -> bool:
    """Whether it is a state with a `rate_factor`, or that of Optax's `reduce_on_plateau`."""
    return hasattr(type(x), "rate_factor") or type(x).__name__ == "ReduceLROnPlateauState"


def _is_rate(x: Any) -> bool:
    if isinstance(x, (LearningRateState, InjectedRateState)):
        return True
    injected = "learning_rate" in (getattr(x, "hyperparams", None) or ())
    return injected and not _holds_rate(x.inner_state)


def _is_scheduled(x: Any) -> bool:
    """Whether it is the state of an `inject_hyperparams` whose rate follows a schedule."""
    return "learning_rate" in (getattr(x, "hyperparams_states", None) or ())


def _holds_rate(node: Any) -> bool:
    return any(map(_is_rate, jax.tree.leaves(node, is_leaf=_is_rate)))


def _holds(node: Any) -> bool:
    found = lambda x: has_factor(x) or _is_rate(x)
    return any(map(found, jax.tree.leaves(node, is_leaf=found)))


def _product(a: Any, b: Any) -> Any:
    """Returns the product of two rates, each of which may be a tree."""
    if jax.tree.structure(a) == jax.tree.structure(b):
        return jax.tree.map(jnp.multiply, a, b)
    tree, factor = (b, a) if isinstance(a, jax.Array) else (a, b)
    return jax.tree.map(lambda x: x * factor, tree)
