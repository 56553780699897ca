"""Weight decay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.numerics import Array, safe_increment
from lrjax.schedules.base import Schedule, ScheduleLike
from lrjax.transforms.base import EmptyState, assert_trees_match, transformation
from lrjax.transforms.elementwise import cast_like, is_none, map_updates
from lrjax.transforms.masking import Mask, map_mask, resolve_mask


class WeightDecaySchedule(NamedTuple):
    """The state of `add_decayed_weights` with a schedule."""

    count: Array  # int32 (): updates so far


def _init_decay(params: Any, tx: Any) -> Any:
    return WeightDecaySchedule(jnp.zeros([], jnp.int32)) if isinstance(tx.weight_decay, Schedule) else EmptyState()


@transformation(_init_decay, packable=lambda tx: tx.mask is None)
def add_decayed_weights(updates: Any, state: Any, params: Any, weight_decay: ScheduleLike = 0.0, mask: Mask = None):
    """Decoupled weight decay: adds `weight_decay`·p to the updates, where the mask is True if there is one.

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
    assert_trees_match("add_decayed_weights", updates=updates, params=params)
    if isinstance(weight_decay, Schedule):
        weight_decay, state = weight_decay(state.count), WeightDecaySchedule(safe_increment(state.count))
    decayed = map_updates(lambda g, p: g + cast_like(weight_decay, p) * p, updates, params)
    if mask is None:
        return decayed, state
    choose = lambda flag, new, old: jax.tree.map(lambda n, o: n if flag else o, new, old, is_leaf=is_none)
    return map_mask("add_decayed_weights", choose, resolve_mask(mask, params), decayed, updates), state
