"""Migration of states that an older version of lrjax saved."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import ArrayTree
from lrjax.transforms.base import as_transformation
from lrjax.transforms.learning_rate import InjectedRateState, LearningRateState
from lrjax.transforms.masking import PartitionState
from lrjax.value import bad_argument

# The version of the optimizers' state structures. Increase it when one changes, with an entry in `_UPGRADES`.
# 1: lrjax 0.1. 2: lrjax 0.2. 3: a LearningRateState has the constant rate.
state_version = 3

_SHOWN = 5  # differences in an error


def migrate_state(state: ArrayTree, tx: Any, params: ArrayTree, version: int) -> Any:
    """Returns a saved state of `tx` in the structure that `tx.init(params)` has now, with the numbers that were saved.

    `version` is the `lrjax.state_version` of the package that saved it: save it with the state. lrjax 0.1 had none; its
    states are of version 1. `params` may be abstract; the result can be given to `tx.update`.

    The state may be as `init` and `update` return it, or of dicts and lists, as `orbax` restores without a template, or
    of dicts, as `flax.serialization.to_state_dict` returns. A state in the current structure is returned unchanged.

    Raises:
      ValueError: the state is newer than this package, or doesn't fit `tx` and `params`; the message says where.

    >>> import jax.numpy as jnp, lrjax
    >>> plain = [{"count": jnp.int32(7), "scale": jnp.float32(1.0), "learning_rate": jnp.float32(0.1)}]
    >>> tx = lrjax.chain(lrjax.scale_by_learning_rate(0.1))
    >>> lrjax.migrate_state(plain, tx, jnp.ones(3), version=1)[0].step
    Array(7, dtype=int32)
    """
    if type(version) is not int or not 1 <= version <= state_version:
        expected = f"a whole number from 1 to {state_version}, the state_version of this lrjax"
        raise bad_argument("migrate_state", "version", expected, version)
    differences: list[str] = []
    like = jax.eval_shape(as_transformation(tx).init, params)
    migrated = _fill(like, state, version, (), differences)
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(
            "migrate_state: `state` must be one of `tx` for these `params`: "
            + "; ".join(differences[:_SHOWN])
            + f"{more}."
        )
    return migrated


def _fill(like: Any, old: Any, version: int, path: tuple[Any, ...], differences: list[str]) -> Any:
    """Returns `like` with the arrays of `old`; appends to `differences` where they don't match."""
    if isinstance(like, jax.ShapeDtypeStruct):
        return _same_array(like, old, path, differences)
    if not jax.tree.leaves(like):  # a node without arrays may be saved in other forms, or not at all
        _note_extra({"": old}, path, differences)
        return like
    children, structure = _one_level(like)
    saved = _children(old)
    for saved_version in range(version, state_version):
        saved = _UPGRADES[saved_version](like, saved)
    new_children = []
    for key, child in children:
        name, where = _name(key), (*path, key)
        if name not in saved and jax.tree.leaves(child):
            differences.append(f"{_path_name(where)} is missing")
        new_children.append(_fill(child, saved[name], version, where, differences) if name in saved else child)
    _note_extra({n: x for n, x in saved.items() if n not in {_name(k) for k, _ in children}}, path, differences)
    return structure.unflatten(new_children)


def _same_array(like: jax.ShapeDtypeStruct, old: Any, path: tuple[Any, ...], differences: list[str]) -> Any:
    if not isinstance(old, (jax.Array, np.ndarray, np.generic)):
        differences.append(f"{_path_name(path)} must be an array, got {type(old).__name__}")
    elif (old.shape, old.dtype) != (like.shape, like.dtype):
        expected = f"{like.dtype}{list(like.shape)}, got {old.dtype}{list(old.shape)}"
        differences.append(f"{_path_name(path)} must be {expected}")
    else:
        return old if isinstance(old, jax.Array) else jnp.asarray(old)
    return like


def _note_extra(saved: Mapping[str, Any], path: tuple[Any, ...], differences: list[str]) -> None:
    for name, x in saved.items():
        if jax.tree.leaves(x):
            keys = (*path, jax.tree_util.GetAttrKey(name)) if name else path
            differences.append(f"{_path_name(keys)} is saved, but has no place now")


def _one_level(tree: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Returns the children of a node with their keys, and the node's structure."""
    children, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    return [(path[0], child) for path, child in children], structure


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(name): x for name, x in node.items()}
    if node is None or jax.tree_util.all_leaves([node]):
        return {}
    return {_name(key): x for key, x in _one_level(node)[0]}


def _name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _path_name(path: tuple[Any, ...]) -> str:
    return f"`{jax.tree_util.keystr(path, simple=True, separator='/')}`" if path else "the state"


def _upgrade_from_1(like: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Upgrades the children of a node from lrjax 0.1; `like` is the node in the new structure."""
    if isinstance(like, (LearningRateState, InjectedRateState)):
        names = {"count": "step"} | ({"learning_rate": "rate"} if isinstance(like, InjectedRateState) else {})
        return {names.get(name, name): x for name, x in saved.items()}
    if isinstance(like, PartitionState) and list(saved) == ["0"]:  # muon was a chain with one member
        return _children(saved["0"])
    return saved


def _upgrade_from_2(like: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Upgrades the children of a node from lrjax 0.2: without the constant rate, which the next update sets."""
    if isinstance(like, (LearningRateState, InjectedRateState)):
        return {**saved, "constant": jnp.zeros(like.constant.shape, like.constant.dtype)}
    return saved


# By version: the function that upgrades the children of a node to the next version.
_UPGRADES: dict[int, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    1: _upgrade_from_1,
    2: _upgrade_from_2,
}
