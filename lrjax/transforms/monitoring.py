"""Measurements of the updates inside of a chain."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Decay, Domain, DType, NotInDomain
from lrjax.numerics import ArrayTree
from lrjax.transforms.base import as_transformation, transformation, update_inner
from lrjax.transforms.chain import Named
from lrjax.transforms.momentum import ema
from lrjax.transforms.sharding import vary_like
from lrjax.value import Value


class SnapshotState(NamedTuple):
    measurement: dict[str, ArrayTree]  # by name: what was measured at the last update


class MonitorState(NamedTuple):
    measurements: dict[str, ArrayTree]  # by name: what was measured at the last update, zeros before
    measure_states: tuple[ArrayTree, ...]


def _cast_state(new: Any, old: Any) -> Any:
    """Casts a new state to the dtypes of the old one."""
    return vary_like(jax.tree.map(lambda n, o: jnp.asarray(n).astype(o.dtype), new, old), old)


def _zeros_like_output(measure: Callable[..., Any], *args: Any) -> Any:
    """Returns zeros like `measure(*args)`, which is computed to get its sharding; a single zero if the parameters are a
    placeholder without leaves."""
    try:
        return jax.tree.map(jnp.zeros_like, measure(*args))
    except Exception:
        if jax.tree.leaves(args[0]):
            raise
        return jnp.zeros([])


@transformation(lambda params, tx: SnapshotState({tx.measure_name: _zeros_like_output(tx.measure, params)}))
def snapshot(updates: Any, state: Any, params: Any, measure_name: str, measure: Callable):
    """Stores `measure(updates)` in the state, by name; returns the updates unchanged.

    State: `SnapshotState(measurement)`, zeros before the first update.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.chain(lrjax.snapshot("norm", lrjax.global_norm), lrjax.clip(1.0)), jnp.array([3.0, 4.0])
    >>> tx.update(g, tx.init(g))[1][0].measurement
    {'norm': Array(5., dtype=float32)}
    """
    return updates, SnapshotState({measure_name: _cast_state(measure(updates), state.measurement[measure_name])})


def _measures(x: Any) -> Any:
    items = x.items() if isinstance(x, Mapping) else x
    measure = lambda m: as_transformation(m) if isinstance(m, Value) or not callable(m) else measured(m)
    try:
        return tuple(Named(str(name), measure(m)) for name, m in items)
    except (TypeError, ValueError):
        raise NotInDomain from None


@transformation(lambda params, tx: ())
def measured(updates: Any, state: Any, params: Any, measure: Callable):
    """Returns `measure(updates)` in place of the updates; used by `monitor`.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.measured(lrjax.global_norm).update(jnp.array([3.0, 4.0]), ())[0]
    Array(5., dtype=float32)
    """
    return measure(updates), state


Measures = Annotated[
    Mapping[str, Any],
    Domain("a dict from names to functions of the updates, or to transformations that measure them", _measures),
]


def _init_monitor(params: Any, tx: Any) -> MonitorState:
    states = tuple(m.init(params) for _, m in tx.measures)
    zeros = {
        name: _zeros_like_output(lambda g, s, m=m: update_inner(m, g, s, g, {})[0], params, state)
        for (name, m), state in zip(tx.measures, states, strict=True)
    }
    return MonitorState(zeros, states)


@transformation(_init_monitor)
def monitor(updates: Any, state: Any, params: Any, measures: Measures, **extra_args: Any):
    """Stores several measurements of the updates in the state; returns the updates unchanged.

    A measure is a function of the updates, or a transformation such as `measure_with_ema`.

    State: `MonitorState(measurements, measure_states)`, of the same structure from `init` on.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.monitor({"norm": lrjax.global_norm}), jnp.array([3.0, 4.0])
    >>> tx.init(g).measurements, tx.update(g, tx.init(g))[1].measurements
    ({'norm': Array(0., dtype=float32)}, {'norm': Array(5., dtype=float32)})
    """
    measurements, states = {}, []
    for (name, measure), old in zip(measures, state.measure_states, strict=True):
        value, new = update_inner(measure, updates, old, params, extra_args)
        measurements[name] = _cast_state(value, state.measurements[name])
        states.append(new)
    return updates, MonitorState(measurements, tuple(states))


def _numbers(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jnp.asarray(x, float) if not jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x, tree
    )


def _init_ema(params: Any, tx: Any) -> Any:  # `EmaState`
    like = _zeros_like_output(lambda p: _numbers(tx.measure(p)), params)
    return ema(tx.decay, tx.debias, tx.accumulator_dtype).init(like)


@transformation(_init_ema)
def measure_with_ema(
    updates: Any,
    state: Any,
    params: Any,
    measure: Callable,
    decay: Decay,
    debias: bool = True,
    accumulator_dtype: DType | None = None,
):
    """Exponential moving average of `measure(updates)`; a measure for `monitor`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.monitor({"norm": lrjax.measure_with_ema(lrjax.global_norm, 0.9)}), jnp.array([3.0, 4.0])
    >>> tx.update(g, tx.init(g))[1].measurements
    {'norm': Array(5., dtype=float32)}
    """
    average = ema(decay, debias, accumulator_dtype)
    return update_inner(average, _numbers(measure(updates)), state, None, {})
