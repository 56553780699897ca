"""The state of `guard`: its snapshot, and what it does with the rate."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.numerics import Array, ArrayTree
from lrjax.transforms.guard_log import GuardLog, no_log
from lrjax.transforms.judge import Judge, is_doubtful, unjudged
from lrjax.transforms.sharding import vary_as_all


class GuardSnapshot(NamedTuple):
    params: ArrayTree
    inner_state: ArrayTree
    judge: Judge


class GuardControl(NamedTuple):
    """What the guard does with the rate."""

    rate_factor: Array  # float32 (): multiplies the updates; 1 unless the rate was cut
    quiet: Array  # int32 (): good steps since the last change of the rate
    raised: Array  # bool (): whether the last change of the rate was up
    backoff: Array  # int32 (): how often the rate was cut again after it was raised
    retries: Array  # int32 (): returns to this snapshot
    held: Array  # bool (): whether the retries are used up: the parameters stay those of the snapshot


class GuardState(NamedTuple):
    inner_state: ArrayTree
    snapshot: GuardSnapshot  # the last good one
    judge: Judge
    control: GuardControl
    step: Array  # int32 (): calls so far
    since: Array  # int32 (): updates since the snapshot, or the return to it; at 0 the parameters are its own
    bad: Array  # int32 (): bad steps in a row
    settling: Array  # int32 (): corrections of a return that are left
    repaired: Array  # bool (): whether the state of `inner` was replaced since the snapshot
    log: GuardLog

    @property
    def rate_factor(self) -> Array:
        return self.control.rate_factor

    def evaluation_params(self, params: ArrayTree) -> Any:
        """Returns those of the snapshot where the guard doubts the present ones: after a bad step, from a return to the
        next snapshot, and where the last losses are higher than they were."""
        state: Any = self
        doubted = (state.bad > 0) | (state.control.retries > 0) | state.control.held | is_doubtful(state.judge)
        return jax.tree.map(lambda good, p: jnp.where(doubted, fetched(good, p), p), self.snapshot.params, params)


def guard_state(params: Any, tx: Any) -> GuardState:
    inner_state, zero = tx.inner.init(params), vary_as_all(jnp.zeros([], jnp.int32), params)
    number, flag = zero.astype(jnp.result_type(float)), zero > 0
    judge = unjudged(tx.window, number)
    store = functools.partial(stored, tx.snapshot_dtype, tx.memory_kind)
    snapshot = GuardSnapshot(
        jax.tree.map(lambda p: store(jnp.copy(p)), params),
        jax.tree.map(lambda x: store(jnp.copy(x)), inner_state),
        jax.tree.map(jnp.copy, judge),
    )
    # in arrays of their own each, so that a state may be donated
    new, no = (lambda: jnp.copy(zero)), (lambda: jnp.copy(flag))
    control = GuardControl(number + 1, new(), no(), new(), new(), no())
    return GuardState(inner_state, snapshot, judge, control, new(), new(), new(), new(), no(), no_log(zero))


def stored(dtype: Any, memory_kind: Any, x: Any) -> Any:
    """Returns an array as the snapshot keeps it; a scalar, which takes no memory, as it is."""
    if not jnp.ndim(x):
        return x
    if dtype is not None and jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(dtype)
    return x if memory_kind is None else moved_to(x, memory_kind)


def moved_to(x: Any, memory_kind: str) -> Any:
    if isinstance(x, jax.core.Tracer):
        space = jax.memory.Space.Device if memory_kind == "device" else jax.memory.Space.Host
        return jax.device_put(x, space)
    return jax.device_put(x, x.sharding.with_memory_kind(memory_kind))


def fetched(x: Any, like: Any) -> Any:
    """Returns an array of the snapshot in the dtype and the memory of the one that it was taken of."""
    if jnp.ndim(x) and jax.typeof(x).memory_space != jax.typeof(like).memory_space:
        x = moved_to(x, "device")
    return x if x.dtype == like.dtype else x.astype(like.dtype)
