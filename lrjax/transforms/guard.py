"""A run that is watched: back to the last good parameters, with a lower rate, where it goes wrong."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lrjax.domains import Count, DType, OpenFraction, Positive, Size, Steps
from lrjax.numerics import ArrayTree, common_dtype, path_name, safe_increment, unboxed
from lrjax.transforms.apply import apply_updates
from lrjax.transforms.base import ScheduledState, Transformation, transformation, update_inner
from lrjax.transforms.elementwise import cast_like, is_none, map_updates
from lrjax.transforms.guard_log import logged, report_of
from lrjax.transforms.guard_state import GuardControl, GuardSnapshot, GuardState, fetched, guard_state, stored
from lrjax.transforms.judge import ACCEPTS, LEVEL, accepted, is_convicted, judged, restored, skipped, start_anew
from lrjax.transforms.learning_rate import InjectedRateState, LearningRateState
from lrjax.transforms.norms import global_norm
from lrjax.transforms.sharding import shard_like, vary_like

_SETTLE = 3  # corrections of the rounding of a return; the second is exact, see `_way_back`
_BACKOFF = 10  # doublings of the time until the rate is raised again
_LEAST_FACTOR = 1e-30  # of the rate, which float32 holds


def _way_back(good: Any, p: Any, u: Any) -> Any:
    """The update that brings a parameter back: good − p.

    p + (good − p) rounds, twice. But what is left after it is a difference that has no rounding error (for |p| >=
    |good| by Dekker 1971, Fast2Sum; else by Sterbenz 1974, the two being within a factor of 2), so the same once more
    arrives at `good` to the bit. It is bounded, since the difference of two large numbers may overflow: that takes one
    more.
    """
    if jnp.issubdtype(jnp.result_type(p), jnp.bool_):
        return jnp.zeros_like(u)  # a flag, which no update trains
    dtype = common_dtype(p, u)
    gap = jnp.asarray(good, dtype) - jnp.asarray(p, dtype)
    if jnp.issubdtype(u.dtype, jnp.floating):
        most = jnp.asarray(jnp.finfo(u.dtype).max, dtype)
        gap = jnp.clip(gap, -most, most)
    return gap.astype(u.dtype)


def _is_sum_finite(u: Any, p: Any) -> Any:
    if u is None or p is None or not jnp.issubdtype(jnp.result_type(p), jnp.inexact):
        return None
    return jnp.isfinite(apply_updates(p, u))


def _finite_sums(updates: Any, params: Any) -> Any:
    """Sets an update to 0 where its sum with the parameter isn't finite, since no later update could bring it back."""
    kept = jax.tree.map(_is_sum_finite, updates, params, is_leaf=is_none)
    zeroed = lambda u, k: u if k is None else jnp.where(k, u, jnp.zeros_like(u))
    return jax.tree.map(zeroed, updates, kept, is_leaf=is_none)


def _with_clock(old: Any, now: Any) -> Any:
    """A state of before whose schedules go on: they are a plan in time, so the run ends with the rate that it was
    planned to end with."""
    kinds = (LearningRateState, InjectedRateState, ScheduledState)
    is_clock = lambda x: isinstance(x, kinds)

    def one(a: Any, b: Any) -> Any:
        if not is_clock(a):
            return a
        if isinstance(a, ScheduledState):
            return a._replace(step=b.step, inner_state=_with_clock(a.inner_state, b.inner_state))
        return a._replace(step=b.step)

    return jax.tree.map(one, old, now, is_leaf=is_clock)


@transformation(guard_state, packable=lambda tx: tx.inner._packable(tx.inner))
def guard(
    updates: Any,
    state: Any,
    params: Any,
    inner: Transformation,
    threshold: Positive = 6.0,
    factor: OpenFraction = 0.5,
    *,
    patience: Count = 1,
    window: Size = 128,
    snapshot_every: Steps = 32,
    recovery: Steps | None = 64,
    max_retries: Count = 10,
    snapshot_dtype: DType | None = None,
    memory_kind: Literal["device", "pinned_host"] | None = None,
    **extra_args: Any,
):
    """Watches a run: where it goes wrong, it goes back to the last good parameters and on from there at a lower rate.

    Give the loss as the extra argument `value`: without it only the norm of the gradient is looked at, which misses
    most of what a rate that is too high does. A step is bad when loss or gradient isn't finite, when the loss is
    `threshold` standard deviations above its trend of the last `window` steps, or when the gradient's norm, by its
    logarithm, is as far above its mean.

    - After one bad step the batch may be at fault: its gradient counts as 0, so that `inner` goes on with its momentum.
    - After more than `patience` bad steps in a row the parameters are at fault; so they are when the mean loss of 16
      steps gives back three tenths of what was gained, or is above the one at the start, and when an update isn't
      finite. Parameters and the state of `inner` go back to the snapshot, except the step of a schedule, which goes on.
      The rate is multiplied by `factor`, at the n-th return to the same snapshot by `factor`ⁿ: so a rate that is a
      million times too high takes 6 of them. The batches are others than before.
    - With the extra argument `value_fn`, a function from parameters to the loss of the batch, as `lrjax.train` gives
      it, a batch whose loss is as bad at the snapshot is at fault itself, and no reason for a return.
    - At the snapshot itself a bad batch is always at fault; nothing moves. After 64 such steps that are finite the data
      have changed: their loss is the normal one from then on.
    - An update that isn't finite in a run that was good shows a broken state of `inner`: the first time that alone is
      replaced by the snapshot's. It is looked for 1, 2, 4, 8, … updates after a snapshot, and before the next.
    - After `recovery` good steps the rate is divided by `factor` again, up to what it was; each time that this led to a
      return it waits twice as long. It is never raised with `recovery=None`, and without the loss.
    - After `max_retries` returns to one snapshot it stays there, for good, and `guard_report(state).held` is True.

    A snapshot is taken every `snapshot_every` updates, of parameters whose own loss and gradient are good, after 16
    good steps at about the lowest mean loss so far; the first is the start. It takes the memory of the parameters and
    of the state of `inner`, in `snapshot_dtype` (then the way back is as exact as that), in `memory_kind`. Where the
    present parameters are in doubt, `lrjax.evaluation_params` returns those of the snapshot.

    The updates are those that bring the parameters back: the first to within rounding, the second, at the next step,
    exactly. So put `guard` outside of all else that changes updates, but inside of `MultiSteps`, of whose gradients a
    bad one would count as 0. An update never makes a parameter infinite or nan, and has no reverse-mode derivative.

    State: `GuardState`, of which `guard_report(state)` tells; `get_learning_rate` knows the factor. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.guard(lrjax.sgd(1e3)), jnp.array([3.0])
    >>> state = tx.init(params)
    >>> for _ in range(60):
    ...     loss, grads = jnp.sum(params**2), 2 * params
    ...     updates, state = tx.update(grads, state, params, value=loss)
    ...     params = lrjax.apply_updates(params, updates)
    >>> float(loss) < 1.0, lrjax.guard_report(state).returns
    (True, 4)
    """
    if params is None:
        raise ValueError("guard: `params` must be given to `update`, got None.")
    value = extra_args.get("value")
    like, control, saved = state.repaired, state.control, state.snapshot
    norm = vary_like(global_norm(updates).astype(control.rate_factor.dtype), like)
    loss = None if value is None else vary_like(jnp.asarray(value, norm.dtype), like)
    at_snapshot = state.since == 0
    reading: Any = judged(state.judge, threshold, loss, norm, at_snapshot & (control.retries > 0))

    good_params = lambda: jax.tree.map(fetched, saved.params, params)
    is_back = _if(
        state.settling > 0,
        lambda: _all([jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (good_params(), params)), strict=True)]),
        lambda: vary_like(jnp.array(True), like),
    )
    settle = (state.settling > 0) & ~is_back
    changed = reading.is_high & (state.bad >= ACCEPTS)
    bad = reading.is_bad & ~changed
    again = reading.is_wrong & (state.bad >= patience.whole)
    if value is None or not callable(value_fn := extra_args.get("value_fn")):
        convicted = again
    else:  # the loss of the same batch at the good parameters: where it is as bad there, the batch is at fault
        there = lambda: vary_like(jnp.asarray(value_fn(good_params()), norm.dtype), norm)
        by_loss = reading.is_wrong & ~(reading.loss <= reading.highest)  # not by a gradient that isn't finite
        asked = again & by_loss & ~at_snapshot & ~settle & ~control.held
        loss_there = _if(asked, there, lambda: jnp.full_like(norm, jnp.inf))
        convicted = again & (is_convicted(reading, loss_there) | ~by_loss)

    @jax.jit  # traced once, for the check and the step
    def advance(updates: Any, inner_state: Any) -> tuple[Any, Any]:
        u, inner_state = update_inner(inner, updates, inner_state, params, extra_args)
        return map_updates(lambda u: cast_like(control.rate_factor, u) * u, u), inner_state

    def is_failing() -> Any:
        kept = jax.tree.map(_is_sum_finite, advance(updates, state.inner_state)[0], params, is_leaf=is_none)
        return vary_like(~_all([jnp.all(k) for k in jax.tree.leaves(kept)]), like)

    at_fault = ~settle & ~control.held & ~at_snapshot & (reading.is_worse | convicted)
    may_step = ~(settle | control.held | at_fault | bad)
    due = may_step & reading.is_good & (state.since >= snapshot_every.whole)
    # Whether updates are finite is a pass over all arrays, so it is checked now and then, and before each snapshot.
    checked = may_step & ~at_snapshot & (due | (state.since & (state.since - 1) == 0))
    failing = _if(checked, is_failing, lambda: jnp.zeros_like(like))
    # In a run that was good this shows that the state of `inner` is broken, else that the rate is too high.
    broken = failing & (state.judge.recent >= LEVEL) & (control.retries == 0) & ~state.repaired
    due = due & ~failing
    back = at_fault | (failing & ~broken)
    step = may_step & ~back
    returning = back | settle | control.held

    judge = _selected(changed, start_anew(state.judge, reading), state.judge)
    judge = _selected(step, accepted(judge, reading, at_snapshot), judge)
    first = bad & ~back & ~at_snapshot & (state.bad == 0)
    judge = _selected(first, skipped(judge, reading), judge)
    judge = judge._replace(high_norms=jnp.where(reading.spike, judge.high_norms + 1, 0))

    # The first step after a return, or after steps that were skipped at the snapshot, begins with its state as it was.
    restores = returning | broken | (at_snapshot & ((state.settling > 0) | (state.bad > 0)))
    store = functools.partial(stored, snapshot_dtype, memory_kind)
    done = jax.eval_shape(advance, updates, state.inner_state)

    new = lambda _: GuardSnapshot(jax.tree.map(store, params), jax.tree.map(store, state.inner_state), judge)
    snapshot = _replaced(due, new, saved)

    def restore(arrays: Any) -> Any:
        way, inner_state = arrays
        good = jax.tree.map(fetched, snapshot.params, params)
        gap = lambda w, g, p: None if w is None else _way_back(g, p, w)
        back_to_good = lambda: jax.tree.map(gap, way, good, params, is_leaf=is_none)
        inner_state = _with_clock(jax.tree.map(fetched, snapshot.inner_state, inner_state), inner_state)
        return _if(returning, back_to_good, lambda: way), inner_state

    # The way back takes the place of the gradients, where it has their structure, so that it costs no memory traffic.
    in_place = jax.tree.structure(updates) == jax.tree.structure(done[0])
    way = updates if in_place else jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), done[0])
    way, inner_state = _replaced(restores, restore, (way, state.inner_state))
    # A bad step has a gradient of 0 for `inner`: keeping its state as it is would copy that at every step.
    grads = jax.tree.map(lambda g: jnp.where(step, g, jnp.zeros_like(g)), way if in_place else updates)
    stepped, inner_state = advance(grads, inner_state)
    moves = step | (first & ~returning)  # after one bad step the momentum goes on, after more of them nothing does
    move = lambda u, w: jnp.where(moves, u, jnp.where(returning, shard_like(w.astype(u.dtype), u), jnp.zeros_like(u)))
    new_updates = _finite_sums(jax.tree.map(move, stepped, way), params)

    raises = None if loss is None else recovery  # gradient norms alone can't tell that it is safe
    new_control, raised, gave_up = _controlled(control, back, step, due, factor, raises, max_retries)
    reset = lambda x: jnp.where(back, 0, x)
    since = jnp.where(due, 1, jnp.where(step, safe_increment(state.since), state.since))
    is_skipped = bad & ~returning
    kinds = (is_skipped & (state.bad == 0), back & ~gave_up, gave_up, raised, changed & step, broken)
    log = logged(state.log, kinds, state.step, new_control.rate_factor, loss, norm, is_skipped, back)
    return new_updates, GuardState(
        inner_state,
        snapshot,
        _selected(back, restored(saved.judge, judge), judge),
        new_control,
        safe_increment(state.step),
        reset(since),
        reset(jnp.where(is_skipped, state.bad + 1, jnp.where(settle, state.bad, 0))),
        jnp.where(back, _SETTLE, jnp.where(settle, state.settling - 1, 0)),
        (state.repaired | broken) & ~back & ~due,
        log,
    )


def _controlled(
    control: Any, back: Any, step: Any, due: Any, factor: Any, recovery: Any, max_retries: Any
) -> tuple[GuardControl, Any, Any]:
    """Returns what is done with the rate after this step, whether it was raised, whether the retries are used up."""
    retries = jnp.where(back, control.retries + 1, jnp.where(due, 0, control.retries))
    cut = jnp.maximum(control.rate_factor * factor ** retries.astype(factor.dtype), _LEAST_FACTOR)
    quiet = jnp.where(back, 0, jnp.where(step, safe_increment(control.quiet), control.quiet))
    if recovery is None:
        raised = jnp.zeros_like(back)
    else:
        wait = recovery.whole * 2**control.backoff
        raised = step & (control.rate_factor < 1) & (quiet >= wait)
    higher = jnp.where(raised, jnp.minimum(control.rate_factor / factor, 1), control.rate_factor)
    gave_up = back & (retries > max_retries.whole)
    again = back & control.raised & (control.backoff < _BACKOFF)
    return (
        GuardControl(
            jnp.where(back, cut, higher),
            jnp.where(raised, 0, quiet),
            jnp.where(back, False, control.raised | raised),
            jnp.where(again, control.backoff + 1, control.backoff),
            retries,
            control.held | gave_up,
        ),
        raised,
        gave_up,
    )


def _selected(condition: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _all(flags: Any) -> jax.Array:
    return functools.reduce(jnp.logical_and, flags, jnp.array(True))


def _if(condition: Any, do: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`cond` whose branches are sharded and vary as the first, and as the second where that varies more."""
    first, second = jax.eval_shape(do), jax.eval_shape(otherwise)
    return jax.lax.cond(
        condition,
        lambda: vary_like(do(), second),
        lambda: jax.tree.map(shard_like, otherwise(), first),
    )


def _replaced(condition: Any, new: Callable[[Any], Any], old: Any) -> Any:
    """Returns `new(old)` where the condition holds, else `old`.

    It is a loop of at most one pass, since XLA changes the arrays of a loop in place. A `cond` would copy them all
    where nothing changes, which is nearly every step.
    """
    old = vary_like(old, jax.eval_shape(new, old))

    def once(carry: Any) -> Any:
        return jnp.zeros_like(carry[0]), jax.tree.map(shard_like, new(carry[1]), carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], once, (condition, old))[1]


def guards_in(state: ArrayTree) -> dict[str, GuardState]:
    """The states of all guards, by their paths; of the outer one where one is inside of another."""
    is_guard = lambda x: isinstance(x, GuardState)
    paths = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_guard)
    return {path_name(path): x for path, x in paths if is_guard(x)}


def guard_report(state: ArrayTree) -> Any:
    """What `guard` did so far: a `GuardReport`; where several are side by side, a dict of them by their paths.

    Finds it in the state of any nesting.

    Raises:
      ValueError: there is no guard in `state`, or the states of several runs.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.guard(lrjax.adam(1e-3)), jnp.ones(1)
    >>> lrjax.guard_report(tx.init(params))
    GuardReport(rate_factor=1.0, skipped=0, returns=0, held=False, events=(), forgotten=0, without_loss=False)
    """
    found = guards_in(unboxed(state))
    if not found:
        raise ValueError("guard_report: `state` must hold the state of a `guard`, got one without.")
    if any(jnp.ndim(x.step) for x in found.values()):
        raise ValueError("guard_report: `state` must be of one run, got a batch; take one by `jax.tree.map`.")
    reports = {path: report_of(x.log, x.rate_factor, x.control.held) for path, x in found.items()}
    return next(iter(reports.values())) if len(reports) == 1 else reports
