"""Hyperparameters in the state, and numbers that follow schedules."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.tree_utils import tree_get, tree_set

import lrjax as L

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
SCHEDULE = L.linear_schedule(0.5, 0.1, 4)
THEIRS = optax.linear_schedule(0.5, 0.1, 4)


def path(tx, steps=5, params=PARAMS, step=None):
    """Parameters and state after some updates on the gradient of ½‖p‖²."""
    state, update = tx.init(params), step or jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(params, state, params)
        params = L.apply_updates(params, updates)
    return params, state


# inject_hyperparams


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", [L.adam, L.adafactor, L.adopt, L.lion, L.lars, L.muon, L.fromage, L.rprop])
def test_every_number_of_any_optimizer_can_be_injected(make):
    params = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    tx = L.inject_hyperparams(make)(learning_rate=0.1)
    state = tx.init(params)
    dtypes = {name: jnp.int32 if name == "decay_offset" else jnp.float32 for name in state.hyperparams}
    assert {name: h.dtype for name, h in state.hyperparams.items()} == dtypes and "learning_rate" in dtypes
    expected, _ = make(0.1).update(params, make(0.1).init(params), params)
    updates, new_state = tx.update(params, state, params)
    chex.assert_trees_all_equal(updates, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.sampled(8)
@pytest.mark.promotes
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scale", {"step_size": THEIRS}),
        ("scale", {"step_size": lambda t: 1.0 / (t + 1)}),
        ("trace", {"decay": THEIRS, "nesterov": True}),
        ("scale_by_adam", {"b1": THEIRS, "b2": 0.9}),
        ("sgd", {"learning_rate": THEIRS, "momentum": lambda t: 0.9}),
        ("adamw", {"learning_rate": 0.1, "weight_decay": THEIRS}),
    ],
)
def test_injection_is_optaxs(name, arguments, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    (ours, state), (theirs, their_state) = (
        path(m.inject_hyperparams(getattr(m, name))(**arguments), params=params) for m in (L, optax)
    )
    if dtype == jnp.float32:  # Optax keeps the numbers in bfloat16 where parameters are, and b2 = 0.999 is 1 there
        chex.assert_trees_all_close(ours, theirs, rtol=1e-5)
        chex.assert_trees_all_close(state.hyperparams, their_state.hyperparams, rtol=1e-6)
    assert state._fields == their_state._fields and set(state.hyperparams) == set(their_state.hyperparams)
    assert set(state.hyperparams_states) == set(their_state.hyperparams_states)
    assert all(h.dtype == jnp.float32 for h in state.hyperparams.values())


@pytest.mark.promotes
def test_foreign_factories_are_injected():
    ours, theirs = (path(m.inject_hyperparams(optax.adam)(THEIRS, b1=0.8)) for m in (L, optax))
    chex.assert_trees_all_close(ours[0], theirs[0], rtol=1e-6)
    assert tree_get(ours[1], "b1") == np.float32(0.8)

    def factory(learning_rate, mask, size: int = 2):
        return L.masked(L.sgd(learning_rate * size), mask)

    mask = {"w": True, "b": False}
    tx = L.inject_hyperparams(factory)(0.25, mask)
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate"}  # a whole number by default decides on shapes
    np.testing.assert_array_equal(tx.update(PARAMS, state)[0]["w"], -0.5 * PARAMS["w"])


def test_what_is_structure_stays_out_of_the_state():
    mask = lambda params: {"w": True, "b": False}
    model = eqx.filter(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)), eqx.is_array)
    for tx, params in [
        (L.inject_hyperparams(L.adamw)(0.1, mask=mask), PARAMS),
        (L.inject_hyperparams(L.adamw)(0.1, mask=jax.tree.map(lambda _: True, model)), model),
        (L.inject_hyperparams(L.adamw, static_args="mask")(0.1, mask=mask, nesterov=True), PARAMS),
    ]:
        state = tx.init(params)
        assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"}
        updates, _ = jax.jit(tx.update)(params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
    rates = L.inject_hyperparams(L.sgd)({"w": 0.5, "b": L.linear_schedule(0.25, 0.0, 2)})
    np.testing.assert_array_equal(rates.update(PARAMS, rates.init(PARAMS))[0]["b"], -0.25 * PARAMS["b"])


def test_numbers_are_replaced_in_the_state(count_traces):
    tx = L.inject_hyperparams(L.sgd)(0.5, momentum=0.0)
    counted, traces = count_traces(lambda g, s: tx.update(g, s, g))
    update, state = jax.jit(counted), tx.init(PARAMS)
    for rate in (jnp.float32(0.25), jnp.float32(0.125)):
        state.hyperparams["learning_rate"] = rate
        updates, state = update(PARAMS, state)
        np.testing.assert_array_equal(updates["w"], -rate * PARAMS["w"])
    assert traces == [1]
    state.hyperparams["learning_rate"] = 1  # whole, and weak
    updates, state = update(PARAMS, state)
    np.testing.assert_array_equal(updates["w"], -PARAMS["w"])
    assert state.hyperparams["learning_rate"].dtype == jnp.float32
    with pytest.raises(ValueError, match="`hyperparams` must have the names .*'momentum'.*got .*learning_rte"):
        tx.update(PARAMS, state._replace(hyperparams={"learning_rte": 1.0}))
    static = L.inject_hyperparams(L.adam, static_args=("b1", "learning_rate"))(L.linear_schedule(1.0, 0.0, 9))
    assert set(static.init(PARAMS).hyperparams) == {"b2", "eps", "eps_root"}
    with pytest.raises(ValueError, match=r"`static_args` must be of \['learning_rate', .* got \['lr'\]"):
        L.inject_hyperparams(L.adam, static_args="lr")


class Sum(L.StatefulSchedule):
    def init(self):
        return jnp.zeros(())

    def update(self, state, **extra_args):
        return state + extra_args["addend"]

    def __call__(self, state, **extra_args):
        return 1 + state


def test_a_stateful_schedule_sees_the_extra_arguments():
    tx = L.inject_hyperparams(L.scale)(Sum())
    state = tx.init(PARAMS)
    for expected in (1.0, 1.5, 2.0):
        updates, state = jax.jit(tx.update)(PARAMS, state, addend=jnp.float32(0.5))
        np.testing.assert_array_equal(updates["b"], expected * PARAMS["b"])
        assert state.hyperparams["step_size"] == expected
    assert state.hyperparams_states["step_size"] == 1.5


def test_optaxs_recipes_find_one_number():
    state = L.inject_hyperparams(L.adam)(0.1).init(PARAMS)
    assert tree_get(state, "learning_rate") == np.float32(0.1)
    assert tree_get(L.adam(0.1).init(PARAMS), "count") == 0
    assert tree_get(L.adam(SCHEDULE).init(PARAMS), "count") == 0
    scheduled = L.inject_hyperparams(L.adam)(SCHEDULE)
    _, state = path(scheduled, 3)
    assert state.hyperparams["learning_rate"] == SCHEDULE(2) == L.get_learning_rate(state)
    is_array = lambda path, x: isinstance(x, jax.Array)
    assert tree_get(state, "learning_rate", filtering=is_array) == SCHEDULE(2)
    tx = L.inject_hyperparams(L.sgd)(0.1)
    changed = tree_set(tx.init(PARAMS), learning_rate=jnp.float32(0.5))
    np.testing.assert_array_equal(tx.update(PARAMS, changed)[0]["b"], -0.5 * PARAMS["b"])


def test_the_rate_of_an_injected_optimizer_is_the_one_it_applied():
    half = lambda learning_rate: L.chain(L.sgd(learning_rate), L.scale_by_schedule(lambda t: 0.5))
    tx = L.inject_hyperparams(half)(0.2)
    assert L.get_learning_rate(path(tx, 2)[1]) == np.float32(0.1)


def test_injected_optimizers_are_values():
    make = L.inject_hyperparams(L.adam)
    assert make(0.1) == make(0.1) and hash(make(0.1)) == hash(make(0.1)) and make(0.1) != make(0.2)
    traces = []

    @jax.jit
    def update(tx, params):
        traces.append(1)
        return tx.update(params, tx.init(params), params)

    update(make(0.1), PARAMS), update(make(0.2), PARAMS)
    assert len(traces) == 1


# Schedules in place of numbers


def constant_like(x):
    return L.constant_schedule(x)


NUMBERS = {
    "sgd": lambda f: L.sgd(0.1, momentum=f(0.9)),
    "adam": lambda f: L.adam(0.1, b1=f(0.8), b2=f(0.9), eps=f(1e-3)),
    "adamw": lambda f: L.adamw(0.1, b1=f(0.8), weight_decay=f(0.1)),
    "nadamw": lambda f: L.nadamw(0.1, b1=f(0.8), weight_decay=f(0.1)),
    "rmsprop": lambda f: L.rmsprop(0.1, decay=f(0.8), momentum=f(0.5), initial_scale=f(0.5)),
    "adagrad": lambda f: L.adagrad(0.1, initial_accumulator_value=f(0.5)),
    "lion": lambda f: L.lion(0.1, b1=f(0.8), b2=f(0.9)),
    "ademamix": lambda f: L.ademamix(0.1, b1=f(0.8), alpha=f(2.0), b3=f(0.99)),
    "lars": lambda f: L.lars(0.1, trust_coefficient=f(0.1), momentum=f(0.5)),
    "clip": lambda f: L.chain(L.clip_by_global_norm(f(0.5)), L.clip(f(0.2)), L.sgd(0.1)),
    "lookahead every": lambda f: L.apply_every(f(2)),
    "noise": lambda f: L.noisy_sgd(0.1, eta=f(0.1)),
    "muon": lambda f: L.muon(0.1, beta=f(0.8), adam_b1=f(0.7)),
    "adafactor": lambda f: L.adafactor(0.1, decay_rate=f(0.7), clipping_threshold=f(0.5)),
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_takes_a_schedule(name):
    make = NUMBERS[name]
    params = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(2)}
    (constant, _), (scheduled, state) = (path(make(f), params=params) for f in (lambda x: x, constant_like))
    rtol = 5e-5 if name == "muon" else 1e-6  # its polynomial makes roundings larger
    chex.assert_trees_all_close(scheduled, constant, rtol=rtol)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, make(constant_like).init(params))
    eager, eager_state = path(make(constant_like), params=params, step=make(constant_like).update)
    chex.assert_trees_all_close((eager, eager_state), (scheduled, state), rtol=rtol)
    carry = (params, make(constant_like).init(params))

    def step(carry, _):
        updates, state = make(constant_like).update(carry[0], carry[1], carry[0])
        return (L.apply_updates(carry[0], updates), state), None

    chex.assert_trees_all_close(jax.lax.scan(step, carry, length=5)[0], (scheduled, state), rtol=max(rtol, 1e-5))


@pytest.mark.promotes
def test_scheduled_momentum_is_optaxs_injected_one():
    theirs, _ = path(optax.inject_hyperparams(optax.sgd)(0.1, momentum=THEIRS, nesterov=True))
    for schedule in (SCHEDULE, THEIRS):
        ours, state = path(L.sgd(0.1, momentum=schedule, nesterov=True))
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
        assert tree_get(state, "decay") == SCHEDULE(4)


def test_a_one_cycle_has_its_momentum_beside_it():
    rate, momentum = L.cosine_onecycle_schedule(10, 0.1), L.onecycle_momentum_schedule(10)
    tx = L.sgd(rate, momentum=momentum)
    _, state = path(tx, 4)
    assert tree_get(state, "decay") == momentum(3) == np.float32(0.85)
    assert L.get_learning_rate(state) == rate(3) == np.float32(0.1)
    runs = jax.vmap(lambda tx: path(tx, 3)[1])(
        L.batched(L.sgd(rate, momentum=L.onecycle_momentum_schedule(10, max_value=np.array([0.95, 0.9]))))
    )
    np.testing.assert_allclose(tree_get(runs, "decay").shape, (2,))


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_the_momentum_of_a_one_cycle_is_pytorchs(anneal, three_phase):
    # torch.optim.lr_scheduler.OneCycleLR, with phases that end at whole multiples
    T, cut, high, low = 100, 30, 0.95, 0.85
    ends = [0, cut, 2 * cut, T] if three_phase else [0, cut, T]
    values = [high, low, high, high] if three_phase else [high, low, high]
    bend = (lambda p: (1 - np.cos(np.pi * p)) / 2) if anneal == "cosine" else (lambda p: p)

    def at(t):
        for begin, end, a, b in zip(ends, ends[1:], values, values[1:], strict=False):
            if t <= end:
                return a + (b - a) * bend((t - begin) / (end - begin))
        return values[-1]

    schedule = L.onecycle_momentum_schedule(T, high, low, cut / T, anneal, three_phase)
    steps = np.arange(T + 20)
    np.testing.assert_allclose(schedule(steps), [at(t) for t in steps], rtol=1e-6)


def test_a_bad_number_is_still_named():
    with pytest.raises(ValueError, match=r"adam: `b2` must be a number in \[0, 1\), or a schedule, got 1.5"):
        L.adam(0.1, b2=1.5)
    with pytest.raises(ValueError, match=r"adam: `b2` must be"):
        L.adam(0.1, b2="0.9")
