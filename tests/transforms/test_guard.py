"""A guard brings a run back: to the bit, at a lower rate, and no further than it must."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L

RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(4000, 6)), jnp.float32)
TRUE = jnp.arange(1.0, 7.0)
TARGETS = INPUTS @ TRUE + 0.5 * jnp.asarray(RNG.normal(size=4000), jnp.float32)
PARAMS = {"w": jnp.zeros(6), "b": jnp.zeros(())}
BATCH = 32


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def batch_at(step):
    at = jnp.arange(BATCH) + BATCH * (step % (4000 // BATCH))
    return INPUTS[at], TARGETS[at]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def states_of(tx, fault, steps, with_fn, params=PARAMS):
    """(the last parameters, the last state, of each step its parameters, loss and state) of a run with a fault."""

    def step(carry, i):
        params, state = carry
        x, y = batch_at(i)
        x, y, change, harm = fault(i, x, y)
        loss, grads = jax.value_and_grad(loss_fn)(params, (x, y))
        state = harm(state)
        extra = {"value_fn": lambda p: loss_fn(p, (x, y))} if with_fn else {}
        updates, new_state = tx.update(jax.tree.map(change, grads), state, params, value=loss, **extra)
        return (L.apply_updates(params, updates), new_state), (params, loss, state)

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))


def same(x):
    return x


def clean(i, x, y):
    return x, y, same, same


def with_nan_in_adam(i, state):
    poison = lambda m: jnp.where(i == 200, m.at[0].set(jnp.nan), m) if m.ndim else m
    adam = state.inner_state[0]
    return state._replace(inner_state=(adam._replace(mu=jax.tree.map(poison, adam.mu)), *state.inner_state[1:]))


FAULTS = {
    "nan batch": lambda i, x, y: (jnp.where(i == 200, jnp.nan, x), y, same, same),
    "inf gradient": lambda i, x, y: (x, y, lambda g: jnp.where(i == 200, jnp.inf, g), same),
    "spike of 100": lambda i, x, y: (x, y, lambda g: jnp.where(i == 200, 100 * g, g), same),
    "corrupted every 50": lambda i, x, y: (jnp.where(i % 50 == 49, 100 * x, x), y, same, same),
    "flipped for 20": lambda i, x, y: (x, jnp.where((i >= 200) & (i < 220), -y, y), same, same),
    "nan in the state": lambda i, x, y: (x, y, same, lambda state: with_nan_in_adam(i, state)),
}
ADAM = L.guard(L.adam(0.1))


def final(params):
    return float(loss_fn(params, (INPUTS, TARGETS)))


@pytest.mark.sampled(12)
@pytest.mark.parametrize("with_fn", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_at_most_a_twentieth_of_the_loss(fault, with_fn):
    (expected, _), _ = states_of(ADAM, clean, 500, with_fn)
    (params, state), _ = states_of(ADAM, FAULTS[fault], 500, with_fn)
    report = L.guard_report(state)
    assert final(params) <= 1.05 * final(expected) < 0.4
    assert not report.held and (report.returns == 0 or fault == "flipped for 20")
    kinds = {event.kind for event in report.events}
    assert kinds & ({"repaired the state"} if fault == "nan in the state" else {"skipped", "went back"})


@pytest.mark.parametrize("with_fn", [False, True])
def test_a_healthy_run_is_left_alone(with_fn):
    (params, state), (_, losses, _) = states_of(ADAM, clean, 500, with_fn)
    alone, _ = states_of(L.adam(0.1), clean, 500, with_fn)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), params, alone)
    assert L.guard_report(state) == L.GuardReport(1.0, 0, 0, False, ())


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 1e3, 1e12])
def test_whatever_the_rate_the_run_ends_below_its_start(rate):
    for tx in (L.sgd(rate), L.sgd(rate, momentum=0.9), L.adam(rate), L.lion(rate)):
        (params, state), _ = states_of(L.guard(tx), clean, 500, True)
        assert final(params) < final(PARAMS), tx
        assert np.isfinite(jax.tree.leaves(jax.tree.map(np.sum, params))).all()


def wild(dtype, seed):
    """Numbers of every size and sign that a dtype holds, down to where the last bit is no subnormal number: those are
    flushed to zero by processors."""
    rng, info = np.random.default_rng(seed), jnp.finfo(dtype)
    exponents = rng.uniform(float(np.log2(float(info.tiny))) + info.nmant + 2, float(np.log2(float(info.max))), 4000)
    return jnp.asarray(np.sign(rng.normal(size=4000)) * rng.uniform(0.5, 1, 4000) * 2**exponents, dtype)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("apply", [L.apply_updates, optax.apply_updates], ids=["lrjax", "optax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("compiled", [True, False])
def test_updates_bring_parameters_back_to_the_bit(dtype, apply, compiled):
    good, bad = {"w": wild(dtype, 0)}, {"w": wild(dtype, 1)}
    tx, grads = L.guard(L.sgd(0.1)), {"w": jnp.ones(4000, dtype)}

    def step(params, state, loss):
        updates, state = tx.update(grads, state, params, value=loss)
        return apply(params, updates), state

    step = jax.jit(step) if compiled else step
    state = tx.init(good)
    _, state = step(good, state, jnp.float32(1))
    params, reached = bad, []
    for _ in range(5):
        params, state = step(params, state, jnp.float32(jnp.nan))
        reached.append(bool(jnp.all(params["w"] == good["w"])))
    assert L.guard_report(state).returns == 1
    assert reached[-1] and reached.index(True) <= 4, reached


def test_the_inner_state_comes_back_and_the_schedule_goes_on():
    tx = L.guard(L.adam(L.linear_schedule(0.1, 0.0, 500)))
    fault = lambda i, x, y: (x, jnp.where((i >= 200) & (i < 220), -y, y), same, same)
    _, (params, _, states) = states_of(tx, fault, 230, False)
    at = next(e.step for e in L.guard_report(jax.tree.map(lambda x: x[-1], states)).events if e.kind == "went back")
    before, after = (jax.tree.map(lambda x, k=k: x[k], states) for k in (at, at + 1))
    # with the way back the inner optimizer is given a gradient of 0, and with the first step again the state as it was
    stored, zero = before.snapshot.inner_state, jax.tree.map(jnp.zeros_like, PARAMS)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        after.inner_state[0],
        L.scale_by_adam().update(zero, stored[0])[1],
    )
    assert int(after.inner_state[-1].step) == int(before.inner_state[-1].step) + 1 == at + 1
    again = at + 1 + int(np.argmax(np.asarray(states.since)[at + 1 :] > 0))
    x, y, _, _ = fault(again - 1, *batch_at(again - 1))
    grads = jax.grad(loss_fn)(jax.tree.map(lambda p: p[again - 1], params), (x, y))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        jax.tree.map(lambda x: x[again], states).inner_state[0],
        L.scale_by_adam().update(grads, stored[0])[1],
    )
    taken = np.flatnonzero((np.asarray(params["w"]) == np.asarray(before.snapshot.params["w"])).all(axis=1))
    for mine, then in ((before.snapshot.params, params), (before.snapshot.inner_state[0], states.inner_state[0])):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[taken[0]]), mine, then)
    back = np.asarray(params["w"])[at + 1 : at + 4]
    assert (back == np.asarray(before.snapshot.params["w"])).all(axis=1).any()


def test_snapshots_are_of_states_that_are_good_and_were_for_some_steps():
    spikes = jnp.array([100, 103, 130, 131, 132, 133, 134, 180])
    fault = lambda i, x, y: (x, jnp.where(jnp.any(i == spikes), -30 * y, y), same, same)
    _, (params, losses, states) = states_of(ADAM, fault, 300, False)
    stored, own = np.asarray(states.snapshot.params["w"]), np.asarray(params["w"])
    changes = np.flatnonzero((stored[1:] != stored[:-1]).any(axis=1))
    assert 4 <= len(changes) <= 10
    for step in changes:  # taken in this step, of its parameters
        np.testing.assert_array_equal(stored[step + 1], own[step])
        assert step not in spikes and losses[step] < 2 * np.median(losses[max(step - 16, 0) : step + 1])


def uphill(i, x, y):
    """The gradient's sign is wrong, so no rate is low enough."""
    return x, y, lambda g: -g, same


def test_when_the_retries_are_used_up_the_last_good_parameters_are_held():
    tx = L.guard(L.sgd(10.0), max_retries=2, factor=0.9)
    (params, state), (_, losses, _) = states_of(tx, uphill, 200, True)
    report = L.guard_report(state)
    assert report.held and report.returns == 3 and report.events[-1].kind == "gave up"
    assert "retries used up" in str(report)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


@pytest.mark.slow
def test_after_a_quiet_period_the_rate_is_what_it_was():
    tx = L.guard(L.adam(0.1), recovery=20)
    fault = lambda i, x, y: (x, jnp.where((i >= 100) & (i < 103), -30 * y, y), same, same)
    _, (_, _, states) = states_of(tx, fault, 200, False)
    factors = np.asarray(states.rate_factor)
    assert factors[99] == 1 and factors[104] == 0.5 and factors[-1] == 1
    never = L.guard(L.adam(0.1), recovery=None)
    assert states_of(never, fault, 200, False)[0][1].rate_factor == 0.5


def test_nan_from_the_first_step_leaves_the_parameters_and_then_goes_on():
    fault = lambda i, x, y: (jnp.where(i < 50, jnp.nan, x), y, same, same)
    (params, state), (all_params, _, _) = states_of(ADAM, fault, 300, False)
    np.testing.assert_array_equal(all_params["w"][:51], 0)
    report = L.guard_report(state)
    assert report.skipped == 50 and report.returns == 0 and report.rate_factor == 1 and final(params) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-100.0, -37.0, 0.0])
def test_losses_may_be_negative_or_zero(shift):
    """The same run, whatever constant is added to its loss, as far as that has no history."""

    def run(tx):
        params, state, losses = jnp.ones(3) * 5, tx.init(jnp.ones(3)), []
        for _ in range(120):
            loss, grads = jax.value_and_grad(lambda p: jnp.sum(p**2) + shift)(params)
            updates, state = tx.update(grads, state, params, value=loss)
            params = L.apply_updates(params, updates)
            losses.append(float(loss))
        return losses, L.guard_report(state)

    losses, report = run(L.guard(L.sgd(0.1)))
    assert report.returns == report.skipped == 0 and losses[-1] < shift + 1e-3
    losses, report = run(L.guard(L.sgd(1.02)))
    assert report.returns > 0 and losses[-1] < losses[0]


def test_gradients_alone_are_enough_where_they_explode():
    tx, params = L.guard(L.sgd(100.0)), jnp.ones(4)
    state = tx.init(params)
    for _ in range(200):
        updates, state = tx.update(2 * params, state, params)
        params = L.apply_updates(params, updates)
    report = L.guard_report(state)
    assert report.returns > 0 and float(jnp.max(jnp.abs(params))) < 1
    assert report.without_loss and "No loss was given" in str(report) and "at gradient norm" in str(report)
    assert not any(event.kind == "raised the rate" for event in report.events)


@pytest.mark.slow
def test_data_that_have_changed_for_good_are_the_normal_ones_after_a_while():
    fault = lambda i, x, y: (x, jnp.where(i >= 300, -y, y), same, same)
    for with_fn in (False, True):
        (params, state), (_, losses, _) = states_of(ADAM, fault, 800, with_fn)
        report = L.guard_report(state)
        assert not report.held and "took a new level" in [e.kind for e in report.events]
        np.testing.assert_allclose(params["w"], -TRUE, atol=0.3)


@pytest.mark.slow
def test_eager_compiled_scanned_and_batched_runs_are_the_same():
    fault = FAULTS["flipped for 20"]
    (scanned, state), _ = states_of(ADAM, fault, 260, True)
    two = jax.tree.map(lambda p: jnp.stack([p, p + 1]), PARAMS)
    (batched, _), _ = jax.vmap(lambda p: states_of(ADAM, fault, 260, True, p))(two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=2e-4, atol=1e-4), batched, scanned)
    ends = []
    for update in (ADAM.update, jax.jit(ADAM.update, donate_argnums=1)):
        params, own = PARAMS, ADAM.init(PARAMS)
        for i in range(190, 230):
            x, y, _, _ = fault(i, *batch_at(i))
            loss, grads = jax.value_and_grad(loss_fn)(params, (x, y))
            updates, own = update(grads, own, params, value=loss)
            params = L.apply_updates(params, updates)
        ends.append(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *ends)


@pytest.mark.slow
def test_the_snapshot_is_all_the_memory_and_may_be_narrow_or_on_the_host():
    params = {"w": jnp.ones((100, 100))}
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    inner = L.adam(0.1)
    plain, state = size(inner.init(params)), L.guard(inner).init(params)
    assert size(state) - plain < size(params) + plain + 4000
    narrow = L.guard(inner, snapshot_dtype="bfloat16")
    assert size(narrow.init(params)) - plain < (size(params) + plain) / 2 + 4000
    host = L.guard(inner, memory_kind="pinned_host")
    state = host.init(params)
    assert state.snapshot.params["w"].sharding.memory_kind == "pinned_host"
    for tx in (narrow, host):
        state, here = tx.init(params), params
        for loss in (1.0, jnp.nan, jnp.nan, 1.0, 1.0):
            updates, state = jax.jit(tx.update)(params, state, here, value=jnp.float32(loss))
            here = L.apply_updates(here, updates)
        assert L.guard_report(state).returns == 1
    assert state.snapshot.params["w"].sharding.memory_kind == "pinned_host"


@pytest.mark.slow
def test_it_works_inside_and_around_other_transformations():
    params = {"a": jnp.ones(3), "b": {"c": jnp.ones(2), "d": None}}
    around = {
        "chain": L.chain(L.clip_by_global_norm(1.0), L.guard(L.adam(0.1))),
        "MultiSteps": L.MultiSteps(L.guard(L.adam(0.1)), 2),
        "of MultiSteps": L.guard(L.MultiSteps(L.adam(0.1), 2)),
        "partition": L.partition({"x": L.guard(L.adam(0.1)), "y": L.sgd(0.1)}, {"a": "x", "b": "y"}),
        "masked": L.masked(L.guard(L.adam(0.1)), {"a": True, "b": False}),
        "Optax's": L.guard(optax.adam(0.1)),
    }
    for name, tx in around.items():
        state, here = tx.init(params), params
        for loss in (1.0, 0.9, jnp.nan, jnp.nan, 0.9, jnp.nan, jnp.nan, 0.8, 0.8):
            with jax.numpy_dtype_promotion("standard") if name == "Optax's" else contextlib.nullcontext():
                updates, state = tx.update(here, state, here, value=jnp.float32(loss))
            here = L.apply_updates(here, updates)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(here)), name
        assert L.guard_report(state).skipped >= 1, name
        doubled = optax.tree_map_params(tx, lambda x: 2 * x, state)
        assert jax.tree.structure(doubled) == jax.tree.structure(state), name
    two = L.partition({"x": L.guard(L.adam(0.1)), "y": L.guard(L.sgd(0.1))}, {"a": "x", "b": "y"})
    assert len(L.guard_report(two.init(params))) == 2


def test_what_a_guard_refuses():
    tx = L.guard(L.sgd(0.1))
    with pytest.raises(ValueError, match="guard: `params` must be given to `update`, got None"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="guard_report: `state` must hold the state of a `guard`"):
        L.guard_report(L.adam(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="guard_report: `state` must be of one run"):
        L.guard_report(jax.vmap(tx.init)(jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)))
    with pytest.raises(ValueError, match="guard: `factor` must be a number in"):
        L.guard(L.sgd(0.1), factor=1.0)


def test_a_rate_that_no_retry_brings_down_is_held_at_the_start():
    (params, state), _ = states_of(L.guard(L.sgd(1e30)), clean, 100, True)
    assert L.guard_report(state).held
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_a_healthy_step_copies_no_array():
    """A copy of all arrays at every step would be most of the guard's time, and memory for them."""
    tx, width = L.guard(L.adam(1e-3)), 200
    params = [jnp.zeros((width, width))] * 3

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state, x):
        def step(carry, _):
            params, state = carry
            net = lambda params: jnp.mean(functools.reduce(lambda x, w: jnp.tanh(x @ w), params, x) ** 2)
            loss, grads = jax.value_and_grad(net)(params)
            updates, state = tx.update(grads, state, params, value=loss)
            return (L.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, state), None, length=10)

    text = run.lower(params, tx.init(params), jnp.ones((8, width))).compile().as_text()
    copies = {}
    for computation in re.split(r"\n\n", text):
        name = "step" if " dot(" in computation else "elsewhere"
        copies[name] = copies.get(name, 0) + len(re.findall(rf"= f32\[{width},{width}\]\S* copy\(", computation))
    assert copies["step"] == 0 < copies["elsewhere"]


def test_the_report_of_a_framework_s_optimizer():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, L.guard(L.adam(0.1)), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)), value=jnp.float32(1))
    assert L.guard_report(optimizer) == L.guard_report(optimizer.opt_state) == L.GuardReport(1.0, 0, 0, False, ())
