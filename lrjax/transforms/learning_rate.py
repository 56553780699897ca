"""Application of the learning rate: u ← −η·u, with η kept in the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Number
from lrjax.numerics import Array, ArrayTree, safe_increment
from lrjax.schedules.base import RateOrSchedule, Schedule, ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule, is_rate, rates_like
from lrjax.transforms.base import always, assert_trees_match, no_state, transformation
from lrjax.transforms.elementwise import cast_like, map_updates


class LearningRateState(NamedTuple):
    """The learning rate, in the same structure for constant and scheduled rates.

    The field with the number of updates isn't called `count`, so that a search for that name finds the moments' count.
    """

    step: Array  # int32 (): updates so far, the step of the schedule at the next update
    scale: Array  # float32 (): η = scale·schedule(step); 1 unless set by the user
    learning_rate: ArrayTree  # float32 (), or one for each parameter: η of the last update; initially, of the first
    constant: Array = np.float32(0)  # float32 (): the rate before `scale` where it is a constant, else 0

    @property
    def count(self) -> Array:
        return self.step


class RecordedRateState(LearningRateState):
    """The learning rate that another transformation applies: `scale` has no effect."""


class InjectedRateState(NamedTuple):
    """`LearningRateState` inside of `inject_hyperparams`, whose `hyperparams` already have a `learning_rate`."""

    step: Array
    scale: Array
    rate: ArrayTree
    constant: Array = np.float32(0)


class InjectedRecordState(InjectedRateState):
    """`RecordedRateState` inside of `inject_hyperparams`."""


def copy_rate_scales(old: ArrayTree, new: ArrayTree) -> Any:
    """Returns the new state of an optimizer with the scales of the learning rate in the old one, which the user set."""
    kinds = (LearningRateState, InjectedRateState)
    keep = lambda n, o: n._replace(scale=o.scale) if isinstance(n, kinds) else n
    return jax.tree.map(keep, new, old, is_leaf=lambda x: isinstance(x, kinds))


@transformation(no_state, packable=always)
def scale(updates: Any, state: Any, params: Any, step_size: Number):
    """Multiplies the updates by a number.

    u = step_size·g

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.scale(-0.5).update(jnp.array([1.0, 2.0]), lrjax.EmptyState())[0]
    Array([-0.5, -1. ], dtype=float32)
    """
    return map_updates(lambda g: cast_like(step_size, g) * g, updates), state


def _rate_at(rate: Any, count: Any) -> Any:
    return rate(count) if isinstance(rate, Schedule) else rate


def _constant(rate: Any) -> jax.Array:
    """Returns the rate if it is one number, else 0; as a copy, so that both state and optimizer may be donated."""
    is_number = is_rate(rate) and not isinstance(rate, Schedule)
    return jnp.copy(jnp.asarray(rate if is_number else 0.0, jnp.result_type(float)))


def rate_of_last_update(tx: Any, step: Any) -> jax.Array | None:
    """Returns the rate that an update of this transformation has left in its state at a step, with a scale of 1; None
    if it doesn't apply one rate."""
    rate = getattr(tx, "learning_rate", getattr(tx, "step_size_fn", None))
    if not isinstance(tx, (scale_by_learning_rate, scale_by_schedule)) or not is_rate(rate):
        return None
    return jnp.asarray(_rate_at(rate, jnp.maximum(step, 1) - 1), jnp.result_type(float))


def _init_rate(rate: Any, params: Any) -> LearningRateState:
    at_zero = lambda r: jnp.asarray(_rate_at(r, 0), jnp.result_type(float))
    if jax.tree.leaves(params):
        rates = rate if is_rate(rate) else rates_like(params, rate)
    else:  # a placeholder, as of optax.tree_map_params: the rates aren't parameters
        rates = rate if is_rate(rate) else 0.0
    return LearningRateState(
        step=jnp.zeros([], jnp.int32),
        scale=jnp.ones([], jnp.result_type(float)),
        learning_rate=jax.tree.map(at_zero, rates, is_leaf=is_rate),
        constant=_constant(rate),
    )


def _scale_by_rate(updates: Any, state: LearningRateState, params: Any, rate: Any, sign: int) -> Any:
    if not isinstance(state, LearningRateState):
        raise ValueError(
            f"scale_by_learning_rate: `state` must be a LearningRateState, got {type(state).__name__}. "
            "Create it with `init(params)`; of a saved state, Optax's or another optimizer's, "
            "`lrjax.migrate_state(state, tx, params).state` makes one."
        )
    if params is not None:
        assert_trees_match("scale_by_learning_rate", updates=updates, params=params)
    scaled_rate = lambda r: state.scale * _rate_at(r, state.step)
    if not is_rate(rate) and not jax.tree.leaves(updates):
        rates = state.learning_rate
    elif is_rate(rate):
        rates = scaled_rate(rate)
        factor = rates * sign
        updates = map_updates(lambda u: cast_like(factor, u) * u, updates, dtypes=params)
    else:
        rates = jax.tree.map(scaled_rate, rates_like(updates if params is None else params, rate), is_leaf=is_rate)
        updates = map_updates(lambda u, r: cast_like(sign * r, u) * u, updates, rates, dtypes=params)
    return updates, LearningRateState(safe_increment(state.step), state.scale, rates, _constant(rate))


@transformation(lambda params, tx: _init_rate(tx.learning_rate, params), packable=lambda tx: is_rate(tx.learning_rate))
def scale_by_learning_rate(
    updates: Any, state: Any, params: Any, learning_rate: ScalarOrSchedule, *, flip_sign: bool = True
):
    """Multiplies the updates by −η, for descent; by η without `flip_sign`.

    u = −η(t)·g, computed in float32, then cast to the dtype of the parameter

    A tree of rates like the parameters, or a prefix of it (`{"encoder": 1e-4, "head": 1e-3}`), and `by_path(...)` give
    each parameter its own rate.

    State: `LearningRateState(step, scale, learning_rate, constant)`; `get_learning_rate(state)` reads it.
    `scale_learning_rate(state, factor)` and `set_learning_rate(state, rate)` change its `scale`, which multiplies η
    from the next update on, without recompilation.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_learning_rate(lrjax.linear_schedule(1.0, 0.0, 4))
    >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))
    >>> updates, lrjax.get_learning_rate(state)
    (Array([-2.], dtype=float32), Array(1., dtype=float32))
    """
    return _scale_by_rate(updates, state, params, learning_rate, -1 if flip_sign else 1)


@transformation(lambda params, tx: _init_rate(tx.step_size_fn, params), packable=always)
def scale_by_schedule(updates: Any, state: Any, params: Any, step_size_fn: ScheduleLike):
    """Multiplies the updates by a schedule, without changing their sign.

    u = η(t)·g

    State: as `scale_by_learning_rate`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.scale_by_schedule(lrjax.linear_schedule(1.0, 0.0, 4))
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.array([0.0])))[0]
    Array([2.], dtype=float32)
    """
    return _scale_by_rate(updates, state, params, step_size_fn, 1)


@transformation(lambda params, tx: RecordedRateState(*_init_rate(tx.learning_rate, params)), packable=always)
def record_learning_rate(updates: Any, state: Any, params: Any, learning_rate: RateOrSchedule):
    """Records the rate in the state, for `get_learning_rate`, where another transformation applies it.

    State: a `LearningRateState` whose `scale` has no effect; `scale_learning_rate` raises an error.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.record_learning_rate(0.1)
    >>> lrjax.get_learning_rate(tx.init(jnp.ones(1)))
    Array(0.1, dtype=float32)
    """
    rate = jnp.asarray(_rate_at(learning_rate, state.step), state.learning_rate.dtype)
    return updates, RecordedRateState(safe_increment(state.step), state.scale, rate, _constant(learning_rate))
