"""Transformations of a subset of the parameters, and of several groups of parameters."""

from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Domain, NotInDomain, is_function
from lrjax.numerics import Array, ArrayTree, Nested
from lrjax.static import HashableTree, as_mask
from lrjax.transforms.base import (
    Transformation,
    always,
    as_transformation,
    assert_trees_match,
    no_state,
    optimizer,
    transformation,
    update_inner,
)
from lrjax.transforms.chain import Named
from lrjax.transforms.elementwise import is_none
from lrjax.transforms.sharding import shard_like

Mask = Annotated[
    bool | Array | Nested | Callable[[Any], Any] | None,
    Domain(
        "a tree of bools like the parameters (or a prefix of it), a function from them to one, or None",
        as_mask,
        static=True,
    ),
]


def _one_mask(x: Any) -> Any:
    if x is None:  # for weight decay None is every parameter, for `freeze` it would be none
        raise NotInDomain
    return as_mask(x)


RequiredMask = Annotated[
    bool | Array | Nested | Callable[[Any], Any],
    Domain(
        "a tree of bools like the parameters (or a prefix of it), or a function from them to one",
        _one_mask,
        static=True,
    ),
]


def resolve_mask(mask: Any, params: Any) -> Any:
    """Returns the tree of bools of a mask; `params` if it has no leaves (a placeholder of optax.tree_map_params)."""
    if not jax.tree.leaves(params):
        return params
    if isinstance(mask, HashableTree):
        return mask.tree
    try:
        return as_mask(mask(params)).tree
    except (NotInDomain, AttributeError):
        raise ValueError(f"masked: `mask` must return a tree of bools, got {mask(params)!r}.") from None


class MaskedNode(NamedTuple):
    """Placeholder for a parameter that is masked out; a pytree without leaves.

    >>> import lrjax
    >>> lrjax.MaskedNode()
    MaskedNode()
    """


class MaskedState(NamedTuple):
    inner_state: ArrayTree  # state of `inner`, of the parameters where the mask is True


class PartitionState(NamedTuple):
    inner_states: dict[Hashable, MaskedState]  # by label


def _drop_missing_params(name: str, updates: Any, params: Any) -> Any:
    """Returns the updates, with None where the parameter is None."""
    if params is None:
        return updates
    try:
        return jax.tree.map(lambda p, u: None if p is None else u, params, updates, is_leaf=is_none)
    except ValueError:
        assert_trees_match(name, updates=updates, params=params)
        raise


def map_mask(name: str, choose: Callable[..., Any], mask: Any, *trees: Any) -> Any:
    """Maps `choose(flag, *subtrees)` over a mask; the error of a mask of another structure names it."""
    try:
        return jax.tree.map(choose, mask, *trees)
    except ValueError as error:
        raise ValueError(f"{name}: `mask` must be a tree like the parameters, or a prefix of it. {error}") from None


def _apply_mask(tree: Any, mask: Any) -> Any:
    return map_mask("masked", lambda flag, subtree: subtree if flag else MaskedNode(), mask, tree)


def _masked_update(inner: Any, mask: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
    inner_params = None if params is None else _apply_mask(params, mask)
    new, inner_state = update_inner(inner, _apply_mask(updates, mask), state.inner_state, inner_params, extra_args)
    choose = lambda flag, n, old: n if flag else old
    return jax.tree.map(choose, mask, new, updates), MaskedState(inner_state)


def _mask_extra_args(extra_args: Any, updates: Any, mask: Any, enabled: bool) -> Any:
    """Masks the extra arguments that are trees like the updates, if `enabled`."""
    is_like_updates = lambda x: enabled and jax.tree.structure(x) == jax.tree.structure(updates)
    return {k: _apply_mask(x, mask) if is_like_updates(x) else x for k, x in extra_args.items()}


@transformation(lambda params, tx: MaskedState(tx.inner.init(_apply_mask(params, resolve_mask(tx.mask, params)))))
def masked(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    mask: RequiredMask,
    *,
    mask_compatible_extra_args: bool = False,
    **extra_args: Any,
):
    """Applies `inner` where the mask is True, and returns the other updates unchanged.

    An unchanged update is the gradient itself; to keep parameters constant, use `freeze`. With
    `mask_compatible_extra_args`, extra arguments that are trees like the updates are masked too.

    State: `MaskedState(inner_state)`, without state for the other parameters.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.masked(lrjax.scale(-1.0), {"w": True, "b": False}), {"w": jnp.ones(1), "b": jnp.ones(1)}
    >>> tx.update(g, tx.init(g))[0]
    {'b': Array([1.], dtype=float32), 'w': Array([-1.], dtype=float32)}
    """
    updates = _drop_missing_params("masked", updates, params)
    mask = resolve_mask(mask, updates if params is None else params)
    extra_args = _mask_extra_args(extra_args, updates, mask, mask_compatible_extra_args)
    return _masked_update(inner, mask, updates, state, params, extra_args)


def _by_label(x: Any) -> Any:
    items = x.items() if isinstance(x, Mapping) else x
    try:
        named = tuple(Named(label, as_transformation(tx)) for label, tx in items)
    except (TypeError, ValueError):
        raise NotInDomain from None
    labels = [label for label, _ in named]
    if len(set(labels)) < len(labels) or len({type(label) for label in labels}) > 1:
        raise NotInDomain
    return named


def _labels(x: Any) -> Any:
    if is_function(x) or isinstance(x, HashableTree):
        return x
    if x is None or not jax.tree.leaves(x) or any(not isinstance(leaf, Hashable) for leaf in jax.tree.leaves(x)):
        raise NotInDomain
    return HashableTree(x)


ByLabel = Annotated[
    Mapping[Any, Any], Domain("a dict from labels, all of one type, to gradient transformations", _by_label)
]
Labels = Annotated[
    Any,
    Domain("a tree of labels like the parameters (or a prefix of it), or a function to one", _labels, static=True),
]


def _masks_by_label(tx_labels: Any, params: Any, known: list[Any]) -> dict[Any, Any]:
    """Returns the mask of each label."""
    if not jax.tree.leaves(params):
        return dict.fromkeys(known, params)
    labels = tx_labels.tree if isinstance(tx_labels, HashableTree) else tx_labels(params)
    found = jax.tree.leaves(labels)
    if unknown := [label for label in dict.fromkeys(found) if label not in known]:
        raise ValueError(f"partition: `param_labels` must be of {known}, got {unknown}.")
    return {label: jax.tree.map(lambda x, label=label: x == label, labels) for label in known}


def _init_partition(params: Any, tx: Any) -> PartitionState:
    groups = _masks_by_label(tx.param_labels, params, [label for label, _ in tx.transforms])
    return PartitionState({k: MaskedState(t.init(_apply_mask(params, groups[k]))) for k, t in tx.transforms})


@transformation(_init_partition)
def partition(
    updates: Any,
    state: Any,
    params: Any,
    transforms: ByLabel,
    param_labels: Labels,
    *,
    mask_compatible_extra_args: bool = False,
    **extra_args: Any,
):
    """Applies a different transformation to each group of parameters.

    `param_labels` gives the group of each parameter: a tree of labels like the parameters, or a prefix of it, or a
    function from the parameters to one.

    State: `PartitionState(inner_states)`, by label; `get_learning_rate` reads all the rates.

    Raises:
      ValueError: a label has no transformation.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.partition({"body": lrjax.adam(1e-4), "head": lrjax.sgd(0.1)}, {"b": "body", "h": "head"})
    >>> lrjax.get_learning_rate(tx.init({"b": jnp.ones(3), "h": jnp.ones(3)}))
    {'body': Array(0.0001, dtype=float32), 'head': Array(0.1, dtype=float32)}
    """
    new_states = {}
    updates = _drop_missing_params("partition", updates, params)
    groups = _masks_by_label(param_labels, updates if params is None else params, [label for label, _ in transforms])
    all_updates = updates
    for label, inner in transforms:
        label_args = _mask_extra_args(extra_args, all_updates, groups[label], mask_compatible_extra_args)
        updates, new_states[label] = _masked_update(
            inner, groups[label], updates, state.inner_states[label], params, label_args
        )
    return updates, PartitionState(new_states)


multi_transform = partition


@transformation(no_state, packable=always)
def set_to_zero(updates: Any, state: Any, params: Any):
    """Replaces the updates by zeros, so that the parameters stay constant.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.set_to_zero().update(jnp.ones(2), lrjax.EmptyState())[0]
    Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(lambda u: shard_like(jnp.zeros_like(u), u), updates), state


@optimizer
def freeze(mask: RequiredMask):
    """Freezes the parameters where the mask is True; returns the other updates unchanged.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.freeze({"w": True, "b": False}), {"w": jnp.ones(1), "b": jnp.ones(1)}
    >>> tx.update(g, tx.init(g))[0]
    {'b': Array([1.], dtype=float32), 'w': Array([0.], dtype=float32)}
    """
    return masked(set_to_zero(), mask)


@optimizer
def selective_transform(optimizer: Transformation, *, freeze_mask: RequiredMask):
    """Applies `optimizer` with the parameters where the mask is True frozen, without state for them.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.selective_transform(lrjax.sgd(0.5), freeze_mask={"w": True, "b": False})
    >>> g = {"w": jnp.ones(1), "b": jnp.ones(1)}
    >>> tx.update(g, tx.init(g), g)[0]
    {'b': Array([-0.5], dtype=float32), 'w': Array([0.], dtype=float32)}
    """
    label = lambda flag: "freeze" if flag else "train"
    labels = lambda params: jax.tree.map(label, resolve_mask(freeze_mask, params))
    return partition({"train": optimizer, "freeze": set_to_zero()}, labels)
