"""The one place where a rate meets an array: u ← −η·u, with η kept in the state."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lrjax.domains import Number
from lrjax.numerics import safe_increment
from lrjax.schedules.base import Schedule, ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule, is_rate, rates_like
from lrjax.transforms.base import always, no_state, transformation
from lrjax.transforms.elementwise import cast, map_updates


class LearningRateState(NamedTuple):
    """The rate, in one structure for constant and scheduled rates."""

    count: chex.Array  # int32 (): updates so far, the step that the schedule sees next
    scale: chex.Array  # float32 (): η = scale·schedule(count); 1 unless somebody sets it
    learning_rate: chex.ArrayTree  # float32 (), or one for each parameter: η of the last update; at first, of the next


@transformation(no_state, always)
def scale(updates: Any, state: Any, params: Any, step_size: Number):
    """Multiplies the updates by a number.

    u = step_size·g

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.scale(-0.5).update(jnp.array([1.0, 2.0]), lrjax.EmptyState())[0]
    Array([-0.5, -1. ], dtype=float32)
    """
    return map_updates(lambda g: cast(step_size, g) * g, updates), state


def _rate_at(rate: Any, count: Any) -> Any:
    return rate(count) if isinstance(rate, Schedule) else rate


def _start(rate: Any, params: Any) -> LearningRateState:
    at_zero = lambda r: jnp.asarray(_rate_at(r, 0), jnp.result_type(float))
    rates = rate if is_rate(rate) else rates_like(params, rate)
    return LearningRateState(
        count=jnp.zeros([], jnp.int32),
        scale=jnp.ones([], jnp.result_type(float)),
        learning_rate=jax.tree.map(at_zero, rates, is_leaf=is_rate),
    )


def _scale_by_rate(updates: Any, state: LearningRateState, params: Any, rate: Any, sign: int) -> Any:
    if not isinstance(state, LearningRateState):
        raise ValueError(
            f"scale_by_learning_rate: `state` must be a LearningRateState, got {type(state).__name__}. "
            "Create it with `init(params)`."
        )
    now = lambda r: state.scale * _rate_at(r, state.count)
    if is_rate(rate):
        rates = now(rate)
        factor = rates * sign
        updates = map_updates(lambda u: cast(factor, u) * u, updates, dtypes=params)
    else:
        rates = jax.tree.map(now, rates_like(updates if params is None else params, rate), is_leaf=is_rate)
        updates = map_updates(lambda u, r: cast(sign * r, u) * u, updates, rates, dtypes=params)
    return updates, LearningRateState(safe_increment(state.count), state.scale, rates)


@transformation(lambda params, tx: _start(tx.learning_rate, params), lambda tx: is_rate(tx.learning_rate))
def scale_by_learning_rate(
    updates: Any, state: Any, params: Any, learning_rate: ScalarOrSchedule, *, flip_sign: bool = True
):
    """Multiplies the updates by −η, which makes a descent of them; by η without `flip_sign`.

    u = −η(t)·g, in float32, then in the dtype of the parameter

    A tree of rates like the parameters, or a prefix of it (`{"encoder": 1e-4, "head": 1e-3}`), and `by_path(...)` give
    each parameter its own.

    State: `LearningRateState(count, scale, learning_rate)`; `get_learning_rate(state)` reads it. A `scale` set there
    multiplies η from the next update on, without a recompilation.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_learning_rate(lrjax.linear_schedule(1.0, 0.0, 4))
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))
    >>> updates, lrjax.get_learning_rate(state)
    (Array([-2.], dtype=float32), Array(1., dtype=float32))
    """
    return _scale_by_rate(updates, state, params, learning_rate, -1 if flip_sign else 1)


@transformation(lambda params, tx: _start(tx.step_size_fn, params), always)
def scale_by_schedule(updates: Any, state: Any, params: Any, step_size_fn: ScheduleLike):
    """Multiplies the updates by a schedule, without a change of sign.

    u = η(t)·g

    State: as `scale_by_learning_rate`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_schedule(lrjax.linear_schedule(1.0, 0.0, 4))
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)
    """
    return _scale_by_rate(updates, state, params, step_size_fn, 1)


@transformation(lambda params, tx: _start(tx.learning_rate, params), always)
def record_learning_rate(updates: Any, state: Any, params: Any, learning_rate: ScheduleLike):
    """Keeps the rate in the state, for `get_learning_rate`, where something else in the chain applies it.

    State: `LearningRateState`, whose `scale` has no effect here.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.record_learning_rate(0.1)
    >>> lrjax.get_learning_rate(tx.init(jnp.ones(1)))
    Array(0.1, dtype=float32)
    """
    rate = jnp.asarray(_rate_at(learning_rate, state.count), state.learning_rate.dtype)
    return updates, LearningRateState(safe_increment(state.count), state.scale, rate)


def get_learning_rate(state: chex.ArrayTree) -> Any:
    """The rate that the last update applied; before the first update, the rate that the first will apply.

    Finds it in the state of any nesting of chains and wrappers, ours or Optax's. Two rates in one chain multiply, as
    they did in the update. Where several groups of parameters have their own optimizer (`optax.partition`), it is a
    dict from the label of a group to its rate; where each parameter has its own rate, a tree of them.

    Raises:
      ValueError: there is no rate in `state`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.adam(lrjax.linear_schedule(1.0, 0.0, 4)))
    >>> lrjax.get_learning_rate(tx.init(jnp.zeros(3)))
    Array(1., dtype=float32)
    """
    found: dict[tuple[Any, ...], Any] = {}
    nodes = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda x: isinstance(x, LearningRateState))
    for path, node in nodes:
        if isinstance(node, LearningRateState):
            group = _group(path)
            # flax's nnx keeps every number of a state in a box of its own, which is a pytree itself.
            rate = jax.tree.map(jnp.asarray, node.learning_rate, is_leaf=lambda x: hasattr(x, "__jax_array__"))
            found[group] = _product(found[group], rate) if group in found else rate
    if not found:
        raise ValueError(
            "get_learning_rate: `state` must hold the state of an lrjax learning rate, got "
            f"{jax.tree.structure(state)}. Optax's own optimizers don't keep their rate."
        )
    if len(found) == 1:
        return next(iter(found.values()))
    # A rate outside of all groups applies to each of them.
    common = found.pop((), None)
    return {
        group[0] if len(group) == 1 else group: rate if common is None else _product(rate, common)
        for group, rate in found.items()
    }


def _product(a: Any, b: Any) -> Any:
    """Of two rates, each of which may be a tree."""
    if jax.tree.structure(a) == jax.tree.structure(b):
        return jax.tree.map(jnp.multiply, a, b)
    tree, factor = (b, a) if isinstance(a, jax.Array) else (a, b)
    return jax.tree.map(lambda x: x * factor, tree)


def _group(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The labels of the groups on the way to a state: the keys that follow `inner_states`."""
    labels = []
    for key, following in zip(path, path[1:], strict=False):
        if getattr(key, "name", None) == "inner_states":
            labels.append(getattr(following, "key", following))
    return tuple(labels)
