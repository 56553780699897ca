"""Hyperparameters in the optimizer's state, where a training loop can change them and a checkpoint saves them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Domain, DType, NotInDomain, is_function
from lrjax.numerics import Array, ArrayTree, common_dtype, safe_increment
from lrjax.schedules.base import Schedule, from_callable
from lrjax.static import StaticArguments
from lrjax.transforms.base import GradientTransformation, as_transformation, transformation, update_inner
from lrjax.transforms.learning_rate import (
    InjectedRateState,
    InjectedRecordState,
    LearningRateState,
    RecordedRateState,
)
from lrjax.value import Value


class InjectStatefulHyperparamsState(NamedTuple):
    count: Array  # int32 (): updates so far
    hyperparams: dict[str, Array]  # (): the numbers of the last update; those without a schedule, of the next too
    hyperparams_states: dict[str, ArrayTree]  # states of the schedules
    inner_state: ArrayTree


InjectHyperparamsState = InjectStatefulHyperparamsState


class WrappedScheduleState(NamedTuple):
    count: Array  # int32 (): the step of the schedule at the next update


class StatefulSchedule:
    """Base class of schedules with a state, which may depend on the extra arguments of `update`.

    `init()` returns the state, `update(state, **extra_args)` the next one, and a call with `(state, **extra_args)` the
    number. `inject_hyperparams` takes any object with these three methods.
    """

    def init(self) -> Any:
        raise NotImplementedError

    def update(self, state: Any, **extra_args: Any) -> Any:
        raise NotImplementedError

    def __call__(self, state: Any, **extra_args: Any) -> Any:
        raise NotImplementedError


class WrappedSchedule(StatefulSchedule):
    """A function of the step as a stateful schedule, whose state is the step.

    >>> import lrjax
    >>> stateful = lrjax.WrappedSchedule(lrjax.linear_schedule(1.0, 0.0, 4))
    >>> stateful(stateful.update(stateful.init()))
    Array(0.75, dtype=float32)
    """

    def __init__(self, schedule_fn: Callable[[Any], Any]):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        return WrappedScheduleState(jnp.zeros([], jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        return WrappedScheduleState(safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        return self.schedule_fn(state.count)


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.number, np.ndarray, jax.Array)) and not isinstance(x, bool)


def _is_stateful(x: Any) -> bool:
    return callable(x) and hasattr(x, "init") and hasattr(x, "update")


def _domain(name: str, factory: Any) -> Domain | None:
    """Returns the domain of an argument, if the factory is an lrjax class."""
    return factory._domains.get(name) if isinstance(factory, type) and issubclass(factory, Value) else None


def _is_static(x: Any, parameter: inspect.Parameter, factory: Any) -> bool:
    """Returns whether an argument is static: by its domain in lrjax, else an integer where an int is expected."""
    if domain := _domain(parameter.name, factory):
        return domain.static
    return isinstance(x, (int, np.integer)) and (parameter.annotation in (int, "int") or type(parameter.default) is int)


class _Arguments(NamedTuple):
    """The arguments of a factory, by how they are injected."""

    numbers: dict[str, Any]
    schedules: dict[str, Schedule]
    trees: dict[str, Any]
    stateful: dict[str, Any]
    static: dict[str, Any]


def _classify(factory: Any, bound: inspect.BoundArguments, static: Sequence[str]) -> _Arguments:
    arguments = _Arguments({}, {}, {}, {}, {})
    for name, x in bound.arguments.items():
        domain, leaves = _domain(name, factory), jax.tree.leaves(x)
        if name in static or isinstance(x, (bool, str)) or _is_static(x, bound.signature.parameters[name], factory):
            arguments.static[name] = x
        elif _is_number(x):  # a number of steps of lrjax as int32, since float32 would round it
            arguments.numbers[name] = np.int32(x) if domain and domain.counts_steps and type(x) is int else x
        elif isinstance(x, Schedule):
            arguments.schedules[name] = x
        elif _is_stateful(x):
            arguments.stateful[name] = x
        elif is_function(x) and not isinstance(x, (type, Value)):
            arguments.schedules[name] = from_callable(x)
        elif isinstance(x, Value) or (leaves and domain and all(map(_is_number, leaves))):
            arguments.trees[name] = x
        else:
            arguments.static[name] = x
    return arguments


def _number_dtype(tx: Any, name: str, params: Any) -> Any:
    """Returns `hyperparam_dtype`, or the widest of float32 and the parameters' dtypes; an array keeps its own."""
    x = tx.numbers[name]
    if isinstance(x, (np.ndarray, np.generic, jax.Array)) and not getattr(x, "weak_type", False):
        return x.dtype
    return _schedule_dtype(tx, params)


def _schedule_dtype(tx: Any, params: Any) -> Any:
    floats = [p for p in jax.tree.leaves(params) if jnp.issubdtype(jnp.result_type(p), jnp.floating)]
    return jnp.dtype(tx.hyperparam_dtype or common_dtype(jnp.float32, *floats))


def _make_inner(tx: Any, hyperparams: dict[str, Any]) -> GradientTransformation:
    arguments = {**tx.static, **tx.trees, **hyperparams}
    bound = inspect.signature(tx.factory).bind_partial()
    bound.arguments.update({n: arguments[n] for n in bound.signature.parameters if n in arguments})
    return as_transformation(tx.factory(*bound.args, **bound.kwargs))


def _stateful(tx: Any) -> dict[str, Any]:
    return {name: WrappedSchedule(schedule) for name, schedule in tx.schedules.items()} | tx.stateful


def _scheduled_values(tx: Any, states: Any, params: Any, extra_args: Any) -> dict[str, Any]:
    dtype = _schedule_dtype(tx, params)
    numbers = {name: schedule(states[name], **extra_args) for name, schedule in _stateful(tx).items()}
    return {name: x if _is_strong(x) and name in tx.stateful else jnp.asarray(x, dtype) for name, x in numbers.items()}


def _is_strong(x: Any) -> bool:
    return isinstance(x, jax.Array) and not getattr(x, "weak_type", False)  # a random key has none


def _init_injected(params: Any, tx: Any) -> InjectStatefulHyperparamsState:
    states = {name: schedule.init() for name, schedule in _stateful(tx).items()}
    hyperparams = {name: _array(x, _number_dtype(tx, name, params)) for name, x in tx.numbers.items()}
    hyperparams |= _scheduled_values(tx, states, params, {})
    inner_state = _make_inner(tx, hyperparams).init(params)
    return InjectStatefulHyperparamsState(
        jnp.zeros([], jnp.int32), hyperparams, states, _swap_rate_state(inner_state, hyperparams, inward=False)
    )


def _array(x: Any, dtype: Any) -> jax.Array:
    return x if _is_strong(x) and x.dtype == dtype else jnp.asarray(x).astype(dtype)


def _swap_rate_state(state: Any, hyperparams: Any, inward: bool) -> Any:
    """Renames the `learning_rate` of the inner state if the hyperparameters have one, so that the name is unique."""
    if "learning_rate" not in hyperparams:
        return state
    other: Any = {LearningRateState: InjectedRateState, RecordedRateState: InjectedRecordState}
    if inward:
        other = {injected: own for own, injected in other.items()}
    renamed = lambda x: other[type(x)](*x) if type(x) in other else x
    return jax.tree.map(renamed, state, is_leaf=lambda x: type(x) in other)


def _factory(x: Any) -> Any:
    if not callable(x):
        raise NotInDomain
    return x


Factory = Annotated[Any, Domain("a function that makes a gradient transformation", _factory, static=True)]
Static = Annotated[Any, Domain("arguments", StaticArguments, static=True)]


@transformation(_init_injected)
def injected(
    updates: Any,
    state: Any,
    params: Any,
    factory: Factory,
    numbers: Any,
    schedules: Any,
    trees: Any,
    stateful: Static,
    static: Static,
    hyperparam_dtype: DType | None = None,
    **extra_args: Any,
):
    """The transformation that `inject_hyperparams(factory)(...)` makes; its arguments, by how they are injected.

    >>> import lrjax
    >>> lrjax.inject_hyperparams(lrjax.scale)(2.0) == lrjax.injected(lrjax.scale, {"step_size": 2.0}, {}, {}, {}, {})
    True
    """
    tx = injected(factory, numbers, schedules, trees, stateful, static, hyperparam_dtype)
    current, like = state.hyperparams, updates if params is None else params
    expected = sorted([*numbers, *schedules, *stateful])
    if sorted(current) != expected:
        raise ValueError(f"inject_hyperparams: `hyperparams` must have the names {expected}, got {sorted(current)}.")
    values = {name: _array(current[name], _number_dtype(tx, name, like)) for name in numbers}
    values |= _scheduled_values(tx, state.hyperparams_states, like, extra_args)
    inner, inner_state = _make_inner(tx, values), _swap_rate_state(state.inner_state, values, inward=True)
    updates, inner_state = update_inner(inner, updates, inner_state, params, extra_args)
    states = {n: s.update(state.hyperparams_states[n], **extra_args) for n, s in _stateful(tx).items()}
    return updates, InjectStatefulHyperparamsState(
        safe_increment(state.count), values, states, _swap_rate_state(inner_state, values, inward=False)
    )


def inject_hyperparams(
    inner_factory: Any, static_args: Sequence[str] | str = (), hyperparam_dtype: Any = None
) -> Callable[..., GradientTransformation]:
    """Wraps a factory so that its transformations keep their numbers in the state, by the names of its arguments.

    To change one for the next update, replace it in `state.hyperparams`; nothing is retraced, and an unknown name is an
    error. A number may be a schedule, a function of the step, or a `StatefulSchedule`; then `state.hyperparams` has its
    value at the last update. Numbers are float32, or wider if the parameters are, or of `hyperparam_dtype`; an array
    keeps its dtype.

    `inner_factory` is lrjax's, Optax's or user-defined. `static_args` are the names of arguments to pass unchanged:
    functions that aren't schedules, and numbers that determine shapes.

    In lrjax a number can follow a schedule without injection (`sgd(rate, momentum=schedule)`), and the rate can be
    changed without it: `with_hyperparams(tx, ...)`, or `scale` in the `LearningRateState`.

    State: `InjectStatefulHyperparamsState(count, hyperparams, hyperparams_states, inner_state)`.

    Raises:
      ValueError: `static_args` has a name that isn't an argument of `inner_factory`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.inject_hyperparams(lrjax.sgd)(learning_rate=0.5), jnp.ones(1)
    >>> state = tx.init(params)
    >>> state.hyperparams["learning_rate"] = 0.25
    >>> tx.update(params, state, params)[0]
    Array([-0.25], dtype=float32)
    """
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    signature = inspect.signature(inner_factory)
    if unknown := [name for name in static if name not in signature.parameters]:
        raise ValueError(
            f"inject_hyperparams: `static_args` must be of {list(signature.parameters)}, the arguments of "
            f"`inner_factory`, got {unknown}."
        )

    @functools.wraps(inner_factory, updated=())
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = _classify(inner_factory, bound, static)
        return injected(
            inner_factory,
            arguments.numbers,
            arguments.schedules,
            arguments.trees,
            arguments.stateful,
            arguments.static,
            hyperparam_dtype,
        )

    return make
