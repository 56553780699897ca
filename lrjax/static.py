"""Static hyperparameters, part of the structure of a value: trees, masks, and arguments of any type."""

from typing import Any

import jax
import jax.core
import numpy as np

from lrjax.domains import NotInDomain, is_function


class HashableTree:
    """A pytree that is hashed and compared by its structure and leaves, as a static hyperparameter has to be."""

    def __init__(self, tree: Any):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._key = (structure, tuple(leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashableTree) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return repr(self.tree)


class StaticArguments(dict):
    """Static arguments of any type, by name; compared by identity where `==` gives no bool."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StaticArguments) or list(self) != list(other):
            return False
        return all(x is other[name] or _equal_or_false(x, other[name]) for name, x in self.items())

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))


def _equal_or_false(x: Any, y: Any) -> bool:
    try:
        return type(x) is type(y) and bool(x == y)
    except Exception:  # arrays, and others whose `==` gives no bool
        return False


def _is_bool(x: Any) -> bool:
    is_array = isinstance(x, (np.ndarray, jax.Array)) and not isinstance(x, jax.core.Tracer)
    return isinstance(x, (bool, np.bool_)) or (is_array and x.shape == () and x.dtype == bool)


def as_mask(x: Any) -> Any:
    """Makes a tree of bools hashable; returns a function as it is."""
    if x is None or isinstance(x, HashableTree) or is_function(x):
        return x
    if not all(map(_is_bool, jax.tree.leaves(x))):
        raise NotInDomain
    return HashableTree(jax.tree.map(bool, x))
