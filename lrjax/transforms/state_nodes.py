"""What a state consists of: its arrays by the transformation that keeps them, whatever stands around it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]
Key = tuple[str, Path]  # of an array in its node: the field, and the path in it, such as that of a parameter

# States of the learning rate, whose position in the schedule and scale are the same thing: ours, and Optax's.
RATE_KINDS = ("LearningRateState", "RecordedRateState", "InjectedRateState", "InjectedRecordState")
_RATE_FIELDS = {"count": "step", "rate": "learning_rate"}  # as lrjax 0.1, Optax or `inject_hyperparams` call them
_ALIASES = {**dict.fromkeys((*RATE_KINDS, "ScaleByScheduleState"), "rate"), "ScaleByAmsgradState": "ScaleByAdamState"}
# fields that only one of lrjax and Optax, of two versions, or of two kinds with one alias has
_OPTIONAL = {"constant", "skip_state", "acc_extra_args", "nu_max"}
_WRAPPERS = {"inner_state", "inner_states", "inner_opt_state", "opt_state"}


class Leaf(NamedTuple):
    path: Path  # in the whole state
    x: Any

    @property
    def name(self) -> str:
        return "/".join(self.path)


class Node:
    """The arrays of one transformation's state."""

    def __init__(self, path: Path, kind: str | None, is_copy: bool):
        self.path = path
        self.kind = kind  # of its class; None in a state that was saved as dicts
        self.is_copy = is_copy  # kept beside the inner state of a wrapper, such as a snapshot to restore
        self.leaves: dict[Key, Leaf] = {}

    @property
    def fields(self) -> set[str]:
        return {field for field, _ in self.leaves}

    @property
    def is_rate(self) -> bool:
        if self.kind is not None:
            return _ALIASES.get(self.kind) == "rate"
        return {_RATE_FIELDS.get(f, f) for f in self.fields} - _OPTIONAL == {"step", "scale", "learning_rate"}

    def by_key(self) -> dict[Key, Leaf]:
        """The arrays by their names in every form of this kind of state."""
        if not self.is_rate:
            return self.leaves
        return {(_RATE_FIELDS.get(field, field), rest): leaf for (field, rest), leaf in self.leaves.items()}

    def like_parameters(self) -> dict[Key, Leaf]:
        """The arrays that belong to parameters, or to other things with names."""
        if self.is_rate:  # one for each parameter or one for all: it is the rate either way
            return {}
        return {key: leaf for key, leaf in self.leaves.items() if key[1] or jnp.shape(leaf.x)}

    def is_like(self, other: "Node") -> bool:
        """Whether both are states of the same method: by class, or by the fields where one was saved as dicts."""
        if self.is_rate or other.is_rate:
            return self.is_rate and other.is_rate
        if self.kind is not None and other.kind is not None:
            return _ALIASES.get(self.kind, self.kind) == _ALIASES.get(other.kind, other.kind)
        return self.fields - _OPTIONAL == other.fields - _OPTIONAL

    def needs(self, field: str) -> bool:
        """Whether the state makes no sense without this field."""
        return not self.is_rate and field not in _OPTIONAL

    def labels(self, structural: set[str]) -> Path:
        """The names on the path that the user has chosen, such as the labels of groups."""
        return tuple(name for name in self.path if not name.isdigit() and name not in structural)


class _Found(NamedTuple):
    path: tuple[Any, ...]
    x: Any
    owner: int | None  # the length of the path to the state that has the array
    kind: str | None


def read_nodes(like: Any, saved: Any, params: Any) -> tuple[list[Node], list[Node], set[str]]:
    """Returns the nodes of a new state and of a saved one, and the names that are not chosen by the user.

    The new state is of its classes; the saved one too, or of dicts and lists, as checkpoints restore it.
    """
    of_params = _node_types(params)
    new, old = (list(_flatten(tree, of_params)) for tree in (like, saved))
    tails = {names(f.path[f.owner + 1 :]) for f in (*new, *old) if f.owner is not None}
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        tails |= {names(path)[i:] for i in range(len(path))}
    structural = {
        key.name
        for f in (*new, *old)
        if f.owner is not None
        for key in f.path[: f.owner + 1]
        if isinstance(key, jax.tree_util.GetAttrKey)
    }
    return _nodes(new, tails), _nodes(old, tails), structural | _WRAPPERS


def names(path: tuple[Any, ...]) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _node_types(tree: Any) -> set[type]:
    if jax.tree_util.all_leaves([tree]):
        return set()
    children = jax.tree.leaves(tree, is_leaf=lambda x: x is not tree)
    return {type(tree)}.union(*map(_node_types, children))


def _flatten(
    node: Any, of_params: set[type], path: tuple[Any, ...] = (), owner: int | None = None, kind: str | None = None
) -> Iterator[_Found]:
    """Yields the arrays of a tree in its order, each with the innermost state that has it."""
    if node is not None and jax.tree_util.all_leaves([node]):
        if not isinstance(node, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
            where = "/".join(names(path)) or "the state"
            raise ValueError(f"migrate_state: `state` must have arrays, got {type(node).__name__} at `{where}`.")
        yield _Found(path, node, owner, kind)
        return
    cls = type(node)
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and cls not in of_params and cls.__name__ != "Packed":
        owner, kind = len(path), cls.__name__
    for (key,), child in jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node):
        yield from _flatten(child, of_params, (*path, key), owner, kind)


def _nodes(found: list[_Found], tails: set[Path]) -> list[Node]:
    paths = [names(f.path) for f in found]
    around = {path[:i] for path in paths for i, name in enumerate(path) if name == "inner_state"}
    nodes: dict[Any, Node] = {}
    for f, path in zip(found, paths, strict=True):
        owner = _owner_of_plain(path, tails) if f.owner is None else f.owner
        field, rest = (path[owner], path[owner + 1 :]) if path else ("", ())
        if (path[:owner], f.kind) not in nodes:
            is_copy = any(path[:i] in around and path[i] != "inner_state" for i in range(owner))
            nodes[path[:owner], f.kind] = Node(path[:owner], f.kind, is_copy)
        nodes[path[:owner], f.kind].leaves[field, rest] = Leaf(path, f.x)
    return list(nodes.values())


def _owner_of_plain(path: Path, tails: set[Path]) -> int:
    """Returns the length of the path to the state, where classes don't tell: before the field before a known rest."""
    known = [i for i in range(len(path)) if path[i + 1 :] in tails] or [len(path) - 1]
    fields = [i for i in known if not path[i].isdigit()]  # a position in a chain is no field
    return (fields or known)[0]
