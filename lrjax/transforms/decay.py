"""Decay of the weights themselves."""

from collections.abc import Callable
from typing import Annotated, Any

import chex
import jax

from lrjax.domains import Domain, NonNegative
from lrjax.transforms.base import no_state, transformation
from lrjax.transforms.elementwise import cast, is_none, map_updates
from lrjax.value import Frozen, freeze

Mask = Annotated[
    chex.ArrayTree | Callable[[Any], Any] | None,
    Domain(
        "a tree of bools like the parameters (or a prefix of it), a function from them to one, or None",
        freeze,
        static=True,
    ),
]


@transformation(no_state)
def add_decayed_weights(updates: Any, state: Any, params: Any, weight_decay: NonNegative = 0.0, mask: Mask = None):
    """Adds the parameters, times `weight_decay`, to the updates; where there is a mask, only where it is True.

    u = g + weight_decay·p

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.add_decayed_weights(0.1)
    >>> tx.update(jnp.array([1.0]), lrjax.EmptyState(), jnp.array([5.0]))[0]
    Array([1.5], dtype=float32)

    Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
    """
    if params is None:
        raise ValueError("add_decayed_weights: `params` must be given to `update`, got None.")
    decayed = map_updates(lambda g, p: g + cast(weight_decay, p) * p, updates, params)
    if mask is None:
        return decayed, state
    flags = mask.tree if isinstance(mask, Frozen) else mask(params)
    choose = lambda flag, new, old: jax.tree.map(lambda n, o: n if flag else o, new, old, is_leaf=is_none)  # noqa: E731
    return jax.tree.map(choose, flags, decayed, updates), state
