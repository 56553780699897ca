"""Reads the learning rate from a state."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from lrjax.numerics import ArrayTree
from lrjax.transforms.learning_rate import InjectedRateState, LearningRateState
from lrjax.transforms.masking import MaskedState

_Group = tuple[Any, ...]


def get_learning_rate(state: ArrayTree) -> Any:
    """Returns the rate that the last update applied; before the first update, the rate of the first.

    Finds it in the state of any nesting of lrjax's or Optax's chains and wrappers. Two rates in one chain are
    multiplied, as in the update. Rates of different groups of parameters are a dict: by the label of `partition`, by
    the path to a `masked` state (with '' for the parameters outside of all masks, if a rate applies to them), by the
    name of the state's field where a method has two optimizers; by tuples of these where groups are nested. If each
    parameter has its own rate, it is a tree of rates.

    Raises:
      ValueError: `state` has no rate.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.adam(lrjax.linear_schedule(1.0, 0.0, 4)))
    >>> lrjax.get_learning_rate(tx.init(jnp.zeros(3)))
    Array(1., dtype=float32)
    """
    found: dict[_Group, Any] = {}
    masks: set[_Group] = set()
    for group, rate in _rates(state, (), (), masks):
        found[group] = _product(found[group], rate) if group in found else rate
    if not _holds_rate(state):
        raise ValueError(
            "get_learning_rate: `state` must hold the state of an lrjax learning rate, got "
            f"{jax.tree.structure(state)}. Optax's own optimizers don't keep their rate."
        )
    rates = {}
    for group, rate in found.items():
        nested_groups = [g for g in found if g != group and g[: len(group)] == group]
        if nested_groups and not any(g in masks for g in nested_groups):
            continue  # every parameter of this group is in a nested group
        for outer in (group[:n] for n in range(len(group))):
            rate = _product(rate, found[outer]) if outer in found else rate
        rates[group] = rate
    if len(rates) == 1:
        return next(iter(rates.values()))
    nested = any(len(group) > 1 for group in rates)  # keys of one type, as a pytree's must be
    return {group if nested else group[0] if group else "": rate for group, rate in rates.items()}


def _rates(node: Any, path: tuple[Any, ...], group: _Group, masks: set[_Group]) -> Iterator[tuple[_Group, Any]]:
    """Yields every rate with the group of parameters that it applies to, the labels on the path to the rate."""
    if isinstance(node, (LearningRateState, InjectedRateState)):
        # flax's nnx wraps every number of a state in an object that is a pytree itself.
        yield group, jax.tree.map(jnp.asarray, node[2], is_leaf=lambda x: hasattr(x, "__jax_array__"))
        return
    if _is_rate_state(node):  # Optax's own optimizer, injected
        yield group, jnp.asarray(node.hyperparams["learning_rate"])
        return
    if isinstance(node, MaskedState) or type(node).__name__ == "MaskedState":  # lrjax's or Optax's
        if not (len(path) > 1 and getattr(path[-2], "name", None) == "inner_states"):
            group = (*group, keystr(path, simple=True, separator="/"))
            masks.add(group)
    if hasattr(node, "rate_factor"):
        yield group, node.rate_factor
        return
    children = [(key, child) for (key,), child in tree_leaves_with_path(node, is_leaf=lambda x: x is not node)]
    with_rates = [(key, child) for key, child in children if _holds(child, _multiplies)]
    is_sequence = type(node) in (tuple, list, dict) and not (path and getattr(path[-1], "name", None) == "inner_states")
    for key, child in with_rates:
        same_group = is_sequence or (len(with_rates) == 1 and type(node) is not dict)
        label = getattr(key, "name", getattr(key, "key", key))
        yield from _rates(child, (*path, key), group if same_group else (*group, label), masks)


def _is_rate_state(x: Any) -> bool:
    if isinstance(x, (LearningRateState, InjectedRateState)):
        return True
    injected = "learning_rate" in (getattr(x, "hyperparams", None) or ())
    return injected and not _holds_rate(x.inner_state)


def _multiplies(x: Any) -> bool:
    """Whether it is a state that has a rate, or says what multiplies one."""
    return _is_rate_state(x) or hasattr(x, "rate_factor")


def _holds_rate(node: Any) -> bool:
    return _holds(node, _is_rate_state)


def _holds(node: Any, is_it: Callable[[Any], bool]) -> bool:
    return any(map(is_it, jax.tree.leaves(node, is_leaf=is_it)))


def _product(a: Any, b: Any) -> Any:
    """Returns the product of two rates, each of which may be a tree."""
    if jax.tree.structure(a) == jax.tree.structure(b):
        return jax.tree.map(jnp.multiply, a, b)
    tree, factor = (b, a) if isinstance(a, jax.Array) else (a, b)
    return jax.tree.map(lambda x: x * factor, tree)
