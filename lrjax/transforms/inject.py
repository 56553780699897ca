"""Hyperparameters in the state, where a training loop can change them and a checkpoint keeps them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lrjax.domains import DType
from lrjax.numerics import safe_increment
from lrjax.transforms.accumulate import Names
from lrjax.transforms.base import GradientTransformation, Transformation, transformation


class InjectHyperparamsState(NamedTuple):
    count: chex.Array  # int32 (): updates so far
    hyperparams: dict[str, chex.Array]  # float32 (): the numbers that the next update uses
    inner_state: chex.ArrayTree


def _numbers(inner: Any, static: Sequence[str]) -> tuple[list[str], list[Any], Any]:
    """Names, leaves and structure of a value; a name is '' where the number isn't to be in the state."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(inner)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    kept = ["" if name in static or name.split(".")[0] in static else name for name in names]
    return kept, [leaf for _, leaf in leaves], structure


def _as_array(x: Any, dtype: Any) -> jax.Array:
    exact = isinstance(x, int)  # a count of steps that a float32 would round
    return jnp.asarray(x, jnp.int32 if exact else dtype or jnp.result_type(float))


def _init_injected(params: Any, tx: Any) -> InjectHyperparamsState:
    names, leaves, _ = _numbers(tx.inner, tx.static_args)
    hyperparams = {n: _as_array(x, tx.hyperparam_dtype) for n, x in zip(names, leaves, strict=True) if n}
    return InjectHyperparamsState(jnp.zeros([], jnp.int32), hyperparams, tx.inner.init(params))


@transformation(_init_injected)
def injected(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    static_args: Names = (),
    hyperparam_dtype: DType | None = None,
    **extra_args: Any,
):
    """Does what `inner` does, with the numbers that are in the state: what `inject_hyperparams(...)` makes.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.injected(lrjax.scale(2.0)).init(jnp.ones(1)).hyperparams
    {'step_size': Array(2., dtype=float32)}
    """
    names, leaves, structure = _numbers(inner, static_args)
    expected, given = [name for name in names if name], state.hyperparams
    if set(given) != set(expected):
        raise ValueError(f"inject_hyperparams: `hyperparams` must have the names {expected}, got {sorted(given)}.")
    now = structure.unflatten([given[name] if name else leaf for name, leaf in zip(names, leaves, strict=True)])
    updates, inner_state = now._update(now, updates, state.inner_state, params, extra_args)
    kept = {
        name: jnp.asarray(given[name]).astype(_as_array(x, hyperparam_dtype).dtype)
        for name, x in zip(names, leaves, strict=True)
        if name
    }
    return updates, InjectHyperparamsState(safe_increment(state.count), kept, inner_state)


def inject_hyperparams(
    inner_factory: Any, static_args: Sequence[str] | str = (), hyperparam_dtype: Any = None
) -> Callable[..., GradientTransformation]:
    """Makes a function that makes transformations with all their numbers in the state.

    The numbers are those of the value itself, at any depth, by their names: 'b1', 'learning_rate', and those of a
    schedule too, 'learning_rate.init_value'. They are float32 whatever the parameters are. To change one for the next
    update, replace it in `state.hyperparams`; no retrace, and a name that isn't there is an error. To change the rate
    alone no injection is needed: `with_hyperparams(tx, ...)`, or `scale` in the `LearningRateState`.

    `static_args` are names that stay out of the state. Also takes a value: `inject_hyperparams(tx)()`.

    State: `InjectHyperparamsState(count, hyperparams, inner_state)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.inject_hyperparams(lrjax.sgd)(learning_rate=0.5), jnp.ones(1)
    >>> state = tx.init(params)
    >>> state = state._replace(hyperparams={**state.hyperparams, "learning_rate": 0.25})
    >>> tx.update(params, state, params)[0]
    Array([-0.25], dtype=float32)
    """
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)

    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        inner = inner_factory if isinstance(inner_factory, GradientTransformation) else inner_factory(*args, **kwargs)
        if not isinstance(inner, GradientTransformation) or not jax.tree.leaves(inner):
            raise ValueError(
                "inject_hyperparams: `inner_factory` must make an lrjax transformation that has numbers, "
                f"got {type(inner).__name__}. Optax's own have optax.inject_hyperparams."
            )
        return injected(inner, static, hyperparam_dtype)

    return make
