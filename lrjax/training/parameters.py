"""Splits parameters into trained ones and others, and joins those of small models into one vector."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import Array, ArrayTree
from lrjax.transforms.base import GradientTransformation

MAX_JOINED_SIZE = 2**16  # parameters of a model


@partial(jax.tree_util.register_dataclass, data_fields=["vector"], meta_fields=["structure", "shapes"])
@dataclasses.dataclass(frozen=True)
class Joined:
    """A tree as one vector: fewer kernels to compile and to launch."""

    vector: Array
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def tree(self) -> ArrayTree:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        array = np if isinstance(self.vector, np.ndarray) else jnp  # NumPy's is split without compiling
        parts = array.split(self.vector, ends)
        return self.structure.unflatten([x.reshape(shape) for x, shape in zip(parts, self.shapes, strict=True)])


def is_joined(x: Any) -> bool:
    return isinstance(x, Joined)


def is_key(x: Any) -> bool:
    """Returns whether an array or a ShapeDtypeStruct has a typed key dtype, which NumPy doesn't know."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def is_trained(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def split(params: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
    """Returns (floating leaves, other leaves), each with None in place of the rest."""
    select = lambda trained: jax.tree.map(lambda x: x if is_trained(x) == trained else None, params)
    return select(True), select(False)


def merge(trained: Any, others: ArrayTree) -> ArrayTree:
    """Returns the parameters in the tree that the user gave."""
    if isinstance(trained, Joined):
        trained = trained.tree
    return jax.tree.map(lambda a, b: b if a is None else a, trained, others, is_leaf=lambda x: x is None)


def join_small(tx: GradientTransformation, trained: ArrayTree) -> ArrayTree | Joined:
    """Joins the parameters of a small model into one vector, where the optimizer is elementwise."""
    leaves, structure = jax.tree.flatten(trained)
    is_elementwise = len({jnp.result_type(x) for x in leaves}) == 1 and tx._packable(tx)
    if not is_elementwise or len(leaves) == 1 or sum(jnp.size(x) for x in leaves) > MAX_JOINED_SIZE:
        return trained
    array = np if all(isinstance(x, np.ndarray) for x in leaves) else jnp  # NumPy's are joined without compiling
    return Joined(array.concatenate([array.ravel(x) for x in leaves]), structure, tuple(map(jnp.shape, leaves)))
