"""Parameters as the engine carries them: what is trained apart from what isn't, small models as one vector."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import Array, ArrayTree
from lrjax.transforms.base import GradientTransformation

SMALL = 2**16  # numbers of a model


@partial(jax.tree_util.register_dataclass, data_fields=["numbers"], meta_fields=["structure", "shapes"])
@dataclasses.dataclass(frozen=True)
class Joined:
    """A tree as one vector: fewer kernels to compile and to start."""

    numbers: Array
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def tree(self) -> ArrayTree:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        array = np if isinstance(self.numbers, np.ndarray) else jnp  # NumPy's is split without compiling
        parts = array.split(self.numbers, ends)
        return self.structure.unflatten([x.reshape(shape) for x, shape in zip(parts, self.shapes, strict=True)])


def is_joined(x: Any) -> bool:
    return isinstance(x, Joined)


def is_key(x: Any) -> bool:
    """Whether an array, or what describes one, is a typed key, which has no numbers of its own."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def is_trained(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def split(params: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
    """(floating leaves, the others), each with None in place of the other ones."""
    part = lambda wanted: jax.tree.map(lambda x: x if is_trained(x) == wanted else None, params)
    return part(True), part(False)


def merge(trained: Any, others: ArrayTree) -> ArrayTree:
    """The parameters as the user gave them."""
    if isinstance(trained, Joined):
        trained = trained.tree
    return jax.tree.map(lambda a, b: b if a is None else a, trained, others, is_leaf=lambda x: x is None)


def arrange(tx: GradientTransformation, trained: ArrayTree) -> ArrayTree | Joined:
    """Joins a small model for an optimizer that treats all numbers alike."""
    leaves, structure = jax.tree.flatten(trained)
    alike = len({jnp.result_type(x) for x in leaves}) == 1 and tx._per_number(tx)
    if not alike or len(leaves) == 1 or sum(jnp.size(x) for x in leaves) > SMALL:
        return trained
    array = np if all(isinstance(x, np.ndarray) for x in leaves) else jnp  # NumPy's are joined without compiling
    return Joined(array.concatenate([array.ravel(x) for x in leaves]), structure, tuple(map(jnp.shape, leaves)))
