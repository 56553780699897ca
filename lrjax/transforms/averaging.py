"""Averages of the parameters over the steps, and the parameters to evaluate with."""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.domains import Count, Decay, NonNegative, Steps
from lrjax.numerics import Array, ArrayTree, safe_increment, unboxed
from lrjax.transforms.base import always, assert_trees_match, transformation
from lrjax.transforms.elementwise import cast_like, compute_dtype
from lrjax.transforms.masking import MaskedNode


class AveragedParamsState(NamedTuple):
    """A running average x̄ ← x̄ + w·(x − x̄) of the parameters."""

    count: Array  # int32 (): updates so far
    weight: Array  # float32 (): w of the parameters after the last update, which the next update takes in
    average: ArrayTree  # like params, in float32 or wider: of all parameters before these

    def evaluation_params(self, params: ArrayTree) -> Any:
        """Returns the average with `params`, those after the last update, in their dtypes."""
        weight = jnp.asarray(self.weight)

        def leaf(average: Any, p: Any) -> Any:
            if _is_masked(average) or not jnp.issubdtype(jnp.result_type(p), jnp.inexact):
                return p
            return _update_average(jnp.asarray(average), jnp.asarray(p), weight).astype(jnp.result_type(p))

        return map_like_params(leaf, self.average, params)


def _is_masked(x: Any) -> bool:
    return x is None or isinstance(x, MaskedNode) or type(x).__name__ == "MaskedNode"  # ours or Optax's


def map_like_params(leaf: Any, tree: ArrayTree, params: ArrayTree) -> Any:
    """Maps `leaf(x, p)` over a tree of a state and the parameters that it was made for; `x` is None, or a `MaskedNode`,
    where the tree leaves parameters out. Trees of other classes, as flax's nnx has them, match by leaf.

    Raises:
      ValueError: they don't match.
    """
    try:
        return jax.tree.map(leaf, tree, params, is_leaf=_is_masked)
    except ValueError:
        leaves, (own, structure) = jax.tree.leaves(tree), jax.tree.flatten(params)
        if list(map(jnp.shape, leaves)) != list(map(jnp.shape, own)):
            raise ValueError(
                "evaluation_params: `params` must be the parameters of `state`, got "
                f"{structure} for {jax.tree.structure(tree)}. (What averages stands outside of `flatten`.)"
            ) from None
        return structure.unflatten(map(leaf, leaves, own))


def _update_average(average: jax.Array, p: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the average with one more array; exactly that array if its weight is 1, or if it isn't floating."""
    if not jnp.issubdtype(p.dtype, jnp.inexact):
        return p
    p = p.astype(average.dtype)
    return jnp.where(weight >= 1, p, average + cast_like(weight, average) * (p - average))


def _init_average(params: Any, tx: Any) -> AveragedParamsState:
    wide = lambda p: compute_dtype(p.dtype) if jnp.issubdtype(p.dtype, jnp.inexact) else p.dtype
    average = jax.tree.map(lambda p: jnp.zeros_like(p, wide(jnp.asarray(p))), params)
    return AveragedParamsState(jnp.zeros([], jnp.int32), jnp.ones([], jnp.result_type(float)), average)


def _next_state(name: str, state: AveragedParamsState, params: Any, weight: Any) -> AveragedParamsState:
    """Returns the state with the present parameters in the average; `weight` is that of the next ones."""
    if params is None:
        raise ValueError(f"{name}: `params` must be given to `update`, got None.")
    assert_trees_match(name, params=params, **{"state.average": state.average})
    take = lambda p, average: average if p is None else _update_average(average, jnp.asarray(p), state.weight)
    average = jax.tree.map(take, params, state.average, is_leaf=lambda x: x is None)
    return AveragedParamsState(safe_increment(state.count), weight.astype(state.weight.dtype), average)


@transformation(_init_average, packable=always)
def ema_params(
    updates: Any, state: Any, params: Any, decay: Decay = 0.999, *, debias: bool = True, warmup: bool = False
):
    """Keeps an exponential moving average of the parameters, to evaluate with; leaves the updates as they are.

    x̄ ← x̄ + w·(x − x̄), with w = (1−decay)/(1 − decayᵗ) for the parameters after update t: `optax.ema` of them, without
    its bias. Without `debias`, w = 1−decay, and the average begins at the parameters of the start. With `warmup`, step
    t has the decay min(decay, (1+t)/(10+t)).

    `lrjax.evaluation_params(state, params)` returns the average. It may stand anywhere in a chain, and inside of masks
    and wrappers, but not in `flatten`.

    State: `AveragedParamsState(count, weight, average)`, in float32 whatever the parameters are. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.chain(lrjax.sgd(1.0), lrjax.ema_params(0.5)), jnp.array([3.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = lrjax.apply_updates(params, updates)
    >>> lrjax.evaluation_params(state, params)  # (½·2 + 1·1)/1½
    Array([1.3333333], dtype=float32)

    Source: Polyak & Juditsky 1992; the bias as in Kingma & Ba 2015, Adam, arXiv:1412.6980, section 3; the warmup of
    TensorFlow's `ExponentialMovingAverage`.
    """
    t = safe_increment(state.count).astype(state.weight.dtype)  # of the next parameters
    now = jnp.minimum(decay, (1 + t) / (10 + t)) if warmup else decay
    weight = 1 - now
    if debias:  # 1/Σ: the sum of the weights 1, decay, decay², …; the parameters of the start have none
        weight = jnp.where(state.count == 0, 1, state.weight / (state.weight + now))
    return updates, _next_state("ema_params", state, params, weight)


@transformation(_init_average, packable=always)
def average_params(updates: Any, state: Any, params: Any, begin_step: Count = 0):
    """Keeps the mean of all parameters after update `begin_step`, to evaluate with; leaves the updates as they are.

    x̄ = (1/n)·Σ xₜ, t > begin_step; the parameters themselves up to there

    State: `AveragedParamsState(count, weight, average)`, in float32 whatever the parameters are. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.chain(lrjax.sgd(1.0), lrjax.average_params(begin_step=1)), jnp.array([3.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = lrjax.apply_updates(params, updates)
    >>> lrjax.evaluation_params(state, params)  # (1 + 0)/2
    Array([0.5], dtype=float32)

    Source: Ruppert 1988; Polyak & Juditsky 1992; of a tail: Rakhlin et al. 2012, Making Gradient Descent Optimal for
    Strongly Convex Stochastic Optimization, arXiv:1109.5647, section 5.
    """
    number = jnp.maximum(safe_increment(state.count) - begin_step.whole, 1)
    return updates, _next_state("average_params", state, params, 1 / number.astype(state.weight.dtype))


@transformation(_init_average, packable=always)
def polynomial_average_params(updates: Any, state: Any, params: Any, gamma: NonNegative = 8.0):
    """Keeps an average of the parameters in which later ones weigh more, to evaluate with; leaves the updates as they
    are.

    x̄ ← x̄ + (γ+1)/(γ+t)·(xₜ − x̄), t = 1, 2, …: the weights grow like t^γ; γ = 0 is the mean

    State: `AveragedParamsState(count, weight, average)`, in float32 whatever the parameters are. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.chain(lrjax.sgd(1.0), lrjax.polynomial_average_params(gamma=1.0)), jnp.array([3.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = lrjax.apply_updates(params, updates)
    >>> lrjax.evaluation_params(state, params)  # (1·2 + 2·1)/3
    Array([1.3333333], dtype=float32)

    Source: Shamir & Zhang 2013, Stochastic Gradient Descent for Non-smooth Optimization, arXiv:1212.1824, section 4;
    γ = 8 with DoG: Ivgi, Hinder & Carmon 2023, arXiv:2302.12022.
    """
    t = safe_increment(state.count).astype(state.weight.dtype)
    return updates, _next_state("polynomial_average_params", state, params, (gamma + 1) / (gamma + t))


@transformation(_init_average, packable=always)
def swa_params(updates: Any, state: Any, params: Any, cycle_steps: Steps, begin_step: Count = 0):
    """Keeps the mean of the parameters at the ends of the cycles of a rate, to evaluate with; leaves the updates as
    they are.

    x̄ = (1/n)·Σ xₜ over the multiples t > begin_step of `cycle_steps`; the parameters themselves up to the first

    A cycle ends where its rate is lowest: for `cyclic_schedule`, after `step_size_up + step_size_down` steps. The
    statistics of batch norm are no parameters: they stay those of the last step, and have to be gathered anew.

    State: `AveragedParamsState(count, weight, average)`, in float32 whatever the parameters are. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.chain(lrjax.sgd(1.0), lrjax.swa_params(cycle_steps=2)), jnp.array([5.0])
    >>> state = tx.init(params)
    >>> for _ in range(5):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = lrjax.apply_updates(params, updates)
    >>> lrjax.evaluation_params(state, params)  # (3 + 1)/2
    Array([2.], dtype=float32)

    Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, arXiv:1803.05407,
    algorithm 1.
    """
    t, cycle, dtype = safe_increment(state.count), cycle_steps.whole, state.weight.dtype
    number = t // cycle - begin_step.whole // cycle  # of the ends of cycles since then
    weight = jnp.where(t % cycle == 0, 1 / jnp.maximum(number, 1).astype(dtype), 0)
    return updates, _next_state("swa_params", state, params, jnp.where(number < 1, 1, weight))


def evaluation_params(state: ArrayTree, params: ArrayTree) -> Any:
    """Returns the parameters to evaluate with: an average where the optimizer keeps one, else `params` themselves.

    Finds in any nesting of chains and wrappers, and in what holds such a state (a flax `TrainState`, an
    `nnx.Optimizer`), every state with a method `evaluation_params(params)`: the averages of this module, and
    `lookahead`, whose slow parameters these are. An average of a masked part, or of a group of `partition`, takes the
    place of that part. The outermost state decides on what is inside of it.

    Args:
      state: of the optimizer, after an update.
      params: those after that update; with `lookahead`, its `LookaheadParams`. With a flax `nnx.Optimizer` as `state`,
        its model, whatever else is in it (BatchNorm, Dropout): then a model is returned, in the same mode.

    Raises:
      ValueError: two states average the same parameters, or they are of other parameters.

    >>> import jax.numpy as jnp, lrjax
    >>> params = jnp.ones(2)
    >>> lrjax.evaluation_params(lrjax.adam(0.1).init(params), params) is params
    True
    """
    found = [unboxed(part) for part in _find_averages(state)]
    if not found:
        return params
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(params, nnx.Module):
        graph, trained, others = nnx.split(params, getattr(state, "wrt", nnx.Param), ...)
        # copied, so that the two models share no Variable
        return nnx.merge(graph, evaluation_params(found, trained), others, copy=True)
    if jax.tree.structure(arrays := unboxed(params)) != (boxes := jax.tree.structure(params)):
        return boxes.unflatten(jax.tree.leaves(evaluation_params(found, arrays)))
    if len(found) == 1:
        return found[0].evaluation_params(params)
    leaves, structure = jax.tree.flatten(params)
    changed: dict[int, Any] = {}
    for part in found:
        for i, (old, new) in enumerate(
            zip(leaves, structure.flatten_up_to(part.evaluation_params(params)), strict=True)
        ):
            if new is not old and i in changed:
                raise ValueError(
                    "evaluation_params: `state` must average each parameter once, got several averages; give one part "
                    "of it."
                )
            if new is not old:
                changed[i] = new
    return structure.unflatten([changed.get(i, leaf) for i, leaf in enumerate(leaves)])


def _find_averages(node: Any) -> Iterator[Any]:
    """Yields the outermost states with a method `evaluation_params`, without those in copies beside an inner state."""
    if _has_evaluation_params(node):
        yield node
        return
    children = [(key, x) for (key,), x in jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)]
    in_use = [x for key, x in children if getattr(key, "name", None) == "inner_state"]
    for child in in_use or [x for _, x in children]:
        if any(map(_has_evaluation_params, jax.tree.leaves(child, is_leaf=_has_evaluation_params))):
            yield from _find_averages(child)


def _has_evaluation_params(x: Any) -> bool:
    return hasattr(type(x), "evaluation_params")
