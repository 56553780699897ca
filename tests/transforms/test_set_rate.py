"""The rate of a running optimizer changed in its state: in every nesting, eager and jitted, as read and as applied."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lrjax as L
from tests.transforms.test_read_rate import PARAMS, B, Halved, W, cutting

SCHEDULE = L.linear_schedule(1.0, 0.0, 8)
LABELS = {"w": "x", "b": "y"}
GRADS = {"w": jnp.ones(3), "b": jnp.ones(2)}


def factor_of(number):
    """Multiplies the updates by a number that its state tells as a factor of the rate."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda u: u * number, updates), state

    return L.GradientTransformation(lambda params: Halved(jnp.float32(-np.log2(number))), update)


def applied(tx, state, params=PARAMS):
    """The rate of each parameter that the next update applies to gradients of 1."""
    updates, state = tx.update(GRADS, state, params)
    return {name: -float(u[0]) for name, u in updates.items()}, state


# what is applied is the rate of sgd in all of them
CONSTANT = {
    "alone": lambda tx: tx,
    "chain": lambda tx: L.chain(L.clip(2.0), tx),
    "named_chain": lambda tx: L.named_chain(("clip", L.clip(2.0)), ("rate", tx)),
    "two rates": lambda tx: L.chain(tx, L.scale_by_learning_rate(0.3, flip_sign=False)),
    "a factor": lambda tx: L.chain(factor_of(0.25), tx),
    "partition": lambda tx: L.partition({"x": tx, "y": tx}, LABELS),
    "masked": lambda tx: L.chain(L.masked(tx, W), L.masked(tx, B)),
    "masks, and a rate for all": lambda tx: L.chain(
        L.masked(L.scale_by_learning_rate(0.7, flip_sign=False), W), L.chain(tx)
    ),
    "MultiSteps": lambda tx: L.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: L.apply_if_finite(L.chain(tx)),
    "conditionally_mask": lambda tx: L.conditionally_mask(tx, lambda step: step >= 0),
    "injected": lambda tx: L.inject_hyperparams(L.sgd)(tx.learning_rate),
    "by Optax": lambda tx: optax.inject_hyperparams(L.sgd)(
        tx.learning_rate if isinstance(tx.learning_rate, float) else optax.linear_schedule(1.0, 0.0, 8)
    ),
    "flatten": lambda tx: L.flatten(tx),
    "packed": lambda tx: L.packed(tx),
    "a wrapper with a copy": lambda tx: cutting(tx),
    "Optax's chain": lambda tx: optax.chain(optax.clip(2.0), tx),
    "Optax's MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "Optax's partition": lambda tx: optax.partition({"x": tx, "y": tx}, LABELS),
    "Optax's apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "Optax's plateau": lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau()),
}
UPDATE_ARGS = {"Optax's plateau": {"value": jnp.float32(1.0)}}


def stepped(name, tx, state):
    updates, state = tx.update(GRADS, state, PARAMS, **UPDATE_ARGS.get(name, {}))
    return {name: -float(u[0]) for name, u in updates.items()}, state


@pytest.mark.sampled(9)
@pytest.mark.promotes
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("name", CONSTANT)
def test_the_rate_that_is_set_is_applied_and_read(name, jitted):
    run = jax.jit if jitted else lambda f: f
    tx = CONSTANT[name](L.sgd(0.1))
    _, state = stepped(name, tx, tx.init(PARAMS))
    for rate in (0.037, 0.0, 0.5):
        state = run(L.set_learning_rate)(state, rate)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
        cuts = 0.5 if name == "a wrapper with a copy" else 1.0  # at each update
        for read in jax.tree.leaves(L.get_learning_rate(state)):
            np.testing.assert_allclose(read, rate, rtol=3e-7)
        got, state = stepped(name, tx, state)
        np.testing.assert_allclose(list(got.values()), rate * cuts, rtol=3e-7)


@pytest.mark.sampled(11)
@pytest.mark.promotes
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("rate", [0.1, SCHEDULE], ids=["constant", "scheduled"])
@pytest.mark.parametrize("name", CONSTANT)
def test_a_factor_multiplies_every_rate_once(name, rate, jitted):
    run = jax.jit if jitted else lambda f: f
    tx = CONSTANT[name](L.sgd(rate))
    _, state = stepped(name, tx, tx.init(PARAMS))
    scaled = run(L.scale_learning_rate)(run(L.scale_learning_rate)(state, 0.25), 2.0)
    before, after = jax.tree.leaves(L.get_learning_rate(state)), jax.tree.leaves(L.get_learning_rate(scaled))
    np.testing.assert_allclose(after, 0.5 * np.array(before), rtol=1e-6)
    for _ in range(2):
        plain, state = stepped(name, tx, state)
        half, scaled = stepped(name, tx, scaled)
        np.testing.assert_allclose(list(half.values()), 0.5 * np.array(list(plain.values())), rtol=1e-6)


def test_groups_are_changed_by_their_keys():
    tx = L.chain(L.partition({"x": L.sgd(0.1), "y": L.adam(0.2)}, LABELS), L.scale_by_schedule(0.5))
    state = tx.init(PARAMS)
    read = lambda state: jax.tree.map(float, L.get_learning_rate(state))
    scaled = L.scale_learning_rate(state, {"y": 0.5})
    assert read(scaled) == pytest.approx({"x": 0.05, "y": 0.05})
    assert read(L.set_learning_rate(scaled, {"x": 0.3})) == pytest.approx({"x": 0.3, "y": 0.05})
    masks = L.chain(L.masked(L.sgd(0.1), W), L.masked(L.sgd(0.2), B), L.scale_by_schedule(0.5))
    state = masks.init(PARAMS)
    assert read(L.scale_learning_rate(state, {"": 0.5})) == pytest.approx({"0": 0.05, "1": 0.1, "": 0.25})
    assert read(L.scale_learning_rate(state, {"": 0.5, "1": 2.0})) == pytest.approx({"0": 0.05, "1": 0.2, "": 0.25})
    assert read(L.set_learning_rate(state, {"": 0.25, "0": 0.3})) == pytest.approx({"0": 0.3, "1": 0.1, "": 0.25})
    changed = L.set_learning_rate(state, {"0": 0.3, "1": 0.4})
    assert applied(masks, changed)[0] == pytest.approx({"w": 0.3, "b": 0.4})
    for change in (L.scale_learning_rate, L.set_learning_rate):
        with pytest.raises(ValueError, match=r"or a dict of these with keys of \['0', '1', ''\], got"):
            change(state, {"2": 0.1})


def test_a_factor_multiplies_the_rate_of_each_parameter():
    tx = L.sgd(L.by_path({"w": 0.1, "b": SCHEDULE}))
    state = L.scale_learning_rate(tx.init(PARAMS), 0.5)
    assert jax.tree.map(float, L.get_learning_rate(state)) == pytest.approx({"w": 0.05, "b": 0.5})
    assert applied(tx, state)[0] == pytest.approx({"w": 0.05, "b": 0.5})


def test_what_is_set_is_the_rate_to_the_last_place():
    rng = np.random.default_rng(0)
    bases, rates = (np.exp(rng.uniform(-12, 3, 20000)).astype(np.float32) for _ in range(2))
    state = jax.vmap(lambda base: L.sgd(base).init(jnp.ones(1)))(bases)
    set_ = jax.jit(jax.vmap(L.set_learning_rate))(state, rates)
    update = lambda base, state: L.sgd(base).update(jnp.ones(1), state)
    got = -np.asarray(jax.jit(jax.vmap(update))(bases, set_)[0])[:, 0]
    np.testing.assert_array_equal(got, L.get_learning_rate(set_))
    assert np.max(np.abs(got - rates) / np.spacing(rates)) <= 1
    assert np.mean(got == rates) > 0.8


NOT_CONSTANT = {
    "a schedule": L.adam(SCHEDULE),
    "one of two": L.chain(L.sgd(0.1), L.scale_by_schedule(SCHEDULE)),
    "of one group": L.partition({"x": L.sgd(0.1), "y": L.sgd(SCHEDULE)}, LABELS),
    "a tree": L.sgd({"w": 0.1, "b": 0.2}),
    "from the method": L.scale_by_polyak(),
    "zero": L.sgd(0.0),
    "injected": L.inject_hyperparams(L.sgd)(SCHEDULE),
    "Optax's, injected": optax.inject_hyperparams(optax.sgd)(lambda t: 0.1),
}


@pytest.mark.promotes
@pytest.mark.parametrize("tx", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_a_rate_that_is_no_constant_is_not_set(tx):
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="set_learning_rate: .* follows a schedule, .* `scale_learning_rate"):
        L.set_learning_rate(state, 0.1)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="follows a schedule, .* `scale_learning_rate"):
        jax.block_until_ready(jax.jit(L.set_learning_rate)(state, 0.1))


def test_the_rate_inside_of_a_formula_and_of_optaxs_schedule_are_refused():
    for tx in (L.madgrad(0.1), L.inject_hyperparams(L.madgrad)(0.1)):
        for change in (L.scale_learning_rate, L.set_learning_rate):
            with pytest.raises(ValueError, match="stands inside of its formula, .* `with_hyperparams"):
                change(tx.init(PARAMS), 0.5)
    with pytest.raises(ValueError, match="a schedule in `hyperparams_states`"):
        L.scale_learning_rate(optax.inject_hyperparams(optax.sgd)(lambda t: 0.1).init(PARAMS), 0.5)


@pytest.mark.parametrize("bad", [-1.0, "fast", None, np.nan, {"w": 0.1}, jnp.inf])
def test_a_bad_number_is_named(bad):
    state = L.sgd(0.1).init(PARAMS)
    with pytest.raises(ValueError, match="set_learning_rate: `rate` must be a finite number >= 0, got"):
        L.set_learning_rate(state, bad)
    if not isinstance(bad, float) or np.isnan(bad):
        with pytest.raises(ValueError, match="scale_learning_rate: `factor` must be a finite number, got"):
            L.scale_learning_rate(state, bad)
    with pytest.raises(ValueError, match="scale_learning_rate: `state` must hold the state of an lrjax learning rate"):
        L.scale_learning_rate(optax.adam(0.1).init(PARAMS), 0.5)


@pytest.mark.promotes
def test_optaxs_own_optimizer_injected_is_changed_exactly():
    tx = optax.inject_hyperparams(optax.adam)(0.1)
    state = L.set_learning_rate(tx.init(PARAMS), 0.037)
    assert state.hyperparams["learning_rate"] == np.float32(0.037)
    assert L.scale_learning_rate(state, 2.0).hyperparams["learning_rate"] == 2 * np.float32(0.037)


def test_nothing_compiles_anew_and_a_scan_may_change_it(count_traces):
    tx = L.adam(SCHEDULE)
    counted, traces = count_traces(tx.update)
    step = jax.jit(counted)
    _, state = step(GRADS, tx.init(PARAMS))
    for factor in (0.5, 0.25):
        _, state = step(GRADS, L.scale_learning_rate(state, factor))
    assert traces == [1]

    def body(state, i):
        state = jax.lax.cond(i == 2, lambda s: L.set_learning_rate(s, 0.01), lambda s: s, state)
        _, state = L.sgd(0.1).update(GRADS, state)
        return state, L.get_learning_rate(state)

    rates = jax.lax.scan(body, L.sgd(0.1).init(PARAMS), jnp.arange(4))[1]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_a_copy_beside_the_state_keeps_the_change():
    tx = cutting(L.chain(L.sgd(SCHEDULE)))
    scaled = L.scale_learning_rate(tx.init(PARAMS), 0.5)
    back = scaled._replace(inner_state=scaled.snapshot)
    assert float(L.get_learning_rate(back)) == 0.5
    set_ = L.set_learning_rate(cutting(L.chain(L.sgd(0.1))).init(PARAMS), 0.5)
    assert float(L.get_learning_rate(set_._replace(inner_state=set_.snapshot))) == 0.5


def test_lookahead_that_resets_keeps_the_change():
    tx, params = L.lookahead(L.sgd(0.5), 2, 0.5, reset_state=True), L.LookaheadParams.init_synced(PARAMS)
    state = L.scale_learning_rate(tx.init(params), 0.5)
    for _ in range(3):
        updates, state = tx.update(GRADS, state, params)
        params = L.apply_updates(params, updates)
    assert float(L.get_learning_rate(state)) == 0.25


def test_a_checkpoint_carries_it_and_the_rate_stays_the_codes():
    tx = L.adam(0.1)
    state = L.scale_learning_rate(tx.init(PARAMS), 0.5)
    back = flax.serialization.from_state_dict(tx.init(PARAMS), flax.serialization.to_state_dict(state))
    assert L.get_learning_rate(back) == L.get_learning_rate(state)
    _, other = L.adam(0.4).update(GRADS, back, PARAMS)
    assert float(L.get_learning_rate(other)) == pytest.approx(0.2)
    assert float(L.get_learning_rate(L.set_learning_rate(other, 0.3))) == pytest.approx(0.3)


def test_states_of_frameworks_are_changed_whole():
    model = nn.Dense(1)
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), jnp.ones((1, 2))), tx=L.sgd(0.5)
    )
    changed = jax.jit(L.set_learning_rate)(state, 0.25)
    assert isinstance(changed, TrainState) and float(L.get_learning_rate(changed)) == 0.25
    jax.tree.map(np.testing.assert_array_equal, changed.params, state.params)
    linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(linear, L.chain(L.clip(1.0), L.sgd(0.5)), wrt=nnx.Param)
    optimizer.opt_state = L.scale_learning_rate(optimizer.opt_state, 0.5)
    before = np.array(linear.kernel[...])
    optimizer.update(linear, jax.tree.map(jnp.ones_like, nnx.state(linear, nnx.Param)))
    np.testing.assert_allclose(before - np.array(linear.kernel[...]), 0.25, rtol=1e-6)
    assert float(L.get_learning_rate(L.set_learning_rate(optimizer, 0.125))) == 0.125
