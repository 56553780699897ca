"""Gradient accumulation: one update from several gradients."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Domain, DType, NotInDomain, Steps, items_of, known_domain
from lrjax.numerics import Array, ArrayTree, RealLike, abs_sq, safe_increment
from lrjax.schedules.base import Schedule, from_callable
from lrjax.transforms.base import Transformation, always, assert_trees_match, transformation, update_inner
from lrjax.transforms.conditional import update_if
from lrjax.transforms.elementwise import (
    cast_like,
    compute_dtype,
    fill_none,
    inexact_dtype,
    map_updates,
    without_integers,
    zeros_like,
)
from lrjax.transforms.sharding import vary_as_all


class MultiStepsState(NamedTuple):
    mini_step: Array  # int32 (): gradients since the last update
    gradient_step: Array  # int32 (): updates so far
    inner_opt_state: ArrayTree
    acc_grads: ArrayTree  # like params: mean, or sum, of the gradients since the last update
    skip_state: ArrayTree = ()  # the second result of `should_skip_update_fn`
    acc_extra_args: dict[str, Array] = {}  # float32 (): means of the `averaged_args` since the last update


class ApplyEvery(NamedTuple):
    """The state of `apply_every`."""

    count: Array  # int32 (): updates so far, modulo k
    grad_acc: ArrayTree  # like params: sum of the updates since the last one applied


def skip_not_finite(updates: Any, gradient_step: Any, params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `MultiSteps`: skips gradients with a nan or an infinity.

    >>> import jax.numpy as jnp, lrjax
    >>> bool(lrjax.skip_not_finite({"w": jnp.array([1.0, jnp.inf])}, 0, None)[0])
    True
    """
    counts = [jnp.sum(~jnp.isfinite(g), dtype=jnp.int32) for g in jax.tree.leaves(updates)]
    not_finite = sum(counts, jnp.zeros([], jnp.int32))
    return not_finite > 0, {"should_skip": not_finite > 0, "num_not_finite": not_finite}


def skip_large_updates(
    updates: Any, gradient_step: Any, params: Any, max_squared_norm: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `MultiSteps`, with `functools.partial(..., max_squared_norm=...)`: skips gradients of larger norm, or nan.

    >>> import jax.numpy as jnp, lrjax
    >>> bool(lrjax.skip_large_updates(jnp.array([3.0, 4.0]), 0, None, max_squared_norm=24.0)[0])
    True
    """
    squares = [jnp.sum(abs_sq(g.astype(compute_dtype(g.dtype)))) for g in map(jnp.asarray, jax.tree.leaves(updates))]
    norm_squared = sum(squares, jnp.zeros([], jnp.result_type(float)))
    skip = ~(norm_squared < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": norm_squared}


_STEPS = known_domain(Steps)


def _period(x: Any) -> Any:
    if isinstance(x, Schedule):
        return x
    return from_callable(x) if callable(x) else _STEPS.validate(x)


Period = Annotated[
    RealLike | Callable[[Any], Any],
    Domain(
        f"{_STEPS.description}, or a function from the updates so far to one",
        _period,
        lambda x: x if isinstance(x, Schedule) else _STEPS.as_array(x),
        counts_steps=True,
    ),
]


def _names(x: Any) -> tuple[str, ...]:
    names = items_of(x)
    if not all(isinstance(name, str) for name in names):
        raise NotInDomain
    return names


Names = Annotated[Any, Domain("a sequence of names of arguments", _names, static=True)]


def _never(updates: Any, gradient_step: Any, params: Any) -> tuple[jax.Array, Any]:
    return jnp.array(False), ()


def _init_multi_steps(params: Any, tx: Any) -> MultiStepsState:
    zero, no_updates = jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)
    if (
        tx.should_skip_update_fn is not None
    ):  # then the counters depend on the gradients, and vary along their mesh axes
        zero = vary_as_all(zero, params)
    skip = tx.should_skip_update_fn or _never
    return MultiStepsState(
        mini_step=zero,
        gradient_step=jnp.zeros_like(zero),
        inner_opt_state=tx.opt.init(params),
        acc_grads=jax.tree.map(lambda p: zeros_like(p, tx.accumulator_dtype), params),
        skip_state=skip(no_updates, zero, params)[1],
        acc_extra_args={n: vary_as_all(jnp.zeros([], jnp.result_type(float)), params) for n in tx.averaged_args},
    )


def _has_updated(self: Any, state: MultiStepsState) -> jax.Array:
    """Returns whether the last call of `update` applied an update."""
    return (state.mini_step == 0) & (state.gradient_step > 0)


@transformation(
    _init_multi_steps,
    has_updated=_has_updated,
    inner_opt=property(lambda self: self.opt),
    gradient_transformation=lambda self: self,
)
def MultiSteps(
    updates: Any,
    state: Any,
    params: Any,
    opt: Transformation,
    every_k_schedule: Period,
    use_grad_mean: bool = True,
    should_skip_update_fn: Callable | None = None,
    accumulator_dtype: DType = "float32",
    *,
    averaged_args: Names = ("value",),
    **extra_args: Any,
):
    """Gradient accumulation: applies `opt` to the mean, or sum, of k gradients; the updates between are zero.

    `every_k_schedule` is k, or a function from the updates so far to it. `should_skip_update_fn(updates, gradient_step,
    params)` returns whether to ignore a gradient, and a pytree to keep in the state: `skip_not_finite`,
    `skip_large_updates`. The extra arguments named in `averaged_args`, such as the loss, are passed to `opt` as their
    means over the k calls; others as in the last call. With `averaged_args=()` this holds for the loss too, which may
    then be None in some calls.

    State: `MultiStepsState`; `tx.has_updated(state)` says whether the last call applied an update. `opt` is computed
    only then.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.MultiSteps(lrjax.sgd(1.0), every_k_schedule=2), jnp.zeros(1)
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> updates, tx.update(jnp.array([3.0]), state, params)[0]
    (Array([0.], dtype=float32), Array([-2.], dtype=float32))
    """
    if isinstance(every_k_schedule, Schedule):
        k = jnp.maximum(jnp.round(every_k_schedule(state.gradient_step)).astype(jnp.int32), 1)
    else:
        k = every_k_schedule.whole
    skip, skip_state = (should_skip_update_fn or _never)(updates, state.gradient_step, params)
    if jnp.shape(skip) != () or jnp.result_type(skip) != jnp.bool_:
        raise ValueError(f"MultiSteps: `should_skip_update_fn` must return one bool first, got {skip!r}.")
    assert_trees_match("MultiSteps", updates=updates, **{"state.acc_grads": state.acc_grads})
    for name in state.acc_extra_args:
        if name in extra_args and extra_args[name] is None:
            raise ValueError(
                f"MultiSteps: `{name}` must be a number in every call, since its mean is passed to `opt`, got None. "
                "With `averaged_args=()` the last call's is passed, which may be None."
            )
    weight = 1 / (state.mini_step.astype(jnp.result_type(float)) + 1)  # of the new gradient in the running mean

    def accumulate(g: Any, acc: Any) -> Any:
        return acc + cast_like(weight, acc) * (g - acc) if use_grad_mean else acc + g

    acc_grads = map_updates(accumulate, fill_none(updates, state.acc_grads), state.acc_grads, dtypes=state.acc_grads)
    means = {
        name: mean + weight * (jnp.asarray(extra_args[name], mean.dtype) - mean)
        for name, mean in state.acc_extra_args.items()
        if name in extra_args
    }
    grads = jax.tree.map(lambda acc, g: acc.astype(inexact_dtype(g.dtype)), acc_grads, fill_none(updates, acc_grads))
    update = lambda: update_inner(opt, grads, state.inner_opt_state, params, {**extra_args, **means})
    due = ~skip & (state.mini_step >= k - 1)
    new_updates, inner_state = update_if(due, update, None, state.inner_opt_state)
    keep = lambda new, old: jnp.where(skip, old, jnp.where(due, jnp.zeros_like(new), new))
    return without_integers(new_updates, updates, params), MultiStepsState(
        mini_step=jnp.where(skip, state.mini_step, jnp.where(due, 0, state.mini_step + 1)),
        gradient_step=jnp.where(due, safe_increment(state.gradient_step), state.gradient_step),
        inner_opt_state=inner_state,
        acc_grads=jax.tree.map(keep, acc_grads, state.acc_grads),
        skip_state=jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), skip_state, state.skip_state),
        acc_extra_args={n: keep(means.get(n, old), old) for n, old in state.acc_extra_args.items()},
    )


@transformation(
    lambda params, tx: ApplyEvery(jnp.zeros([], jnp.int32), jax.tree.map(zeros_like, params)), packable=always
)
def apply_every(updates: Any, state: Any, params: Any, k: Steps = 1):
    """Passes on the sum of every k updates, and zeros between.

    Transformations before it in a chain still get every gradient; to accumulate gradients, use `MultiSteps`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.apply_every(2), jnp.ones(1)
    >>> updates, state = tx.update(g, tx.init(g))
    >>> updates, tx.update(g, state)[0]
    (Array([0.], dtype=float32), Array([2.], dtype=float32))
    """
    assert_trees_match("apply_every", updates=updates, **{"state.grad_acc": state.grad_acc})
    first, last = state.count == 0, state.count >= k.whole - 1
    add = lambda g, acc: jnp.where(first, g, acc + g)
    grad_acc = map_updates(add, fill_none(updates, state.grad_acc), state.grad_acc, dtypes=state.grad_acc)
    new = jax.tree.map(lambda acc: jnp.where(last, acc, jnp.zeros_like(acc)), grad_acc)
    return without_integers(new, updates, params), ApplyEvery(jnp.where(last, 0, state.count + 1), grad_acc)
