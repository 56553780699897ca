"""The rate, read out of any nesting: products along a chain, dicts side by side."""

from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.optim
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lrjax as L

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(2)}
W, B = {"w": True, "b": False}, {"w": False, "b": True}
SCHEDULE = L.linear_schedule(1.0, 0.0, 4)


def rates(tx, steps=0, params=PARAMS, **extra):
    state = tx.init(params)
    for _ in range(steps):
        _, state = jax.jit(lambda g, s: tx.update(g, s, g, **extra))(params, state)
    return jax.tree.map(float, L.get_learning_rate(state))


def close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    np.testing.assert_allclose(jax.tree.leaves(got), jax.tree.leaves(expected), rtol=1e-6)


ONE_CHAIN = {
    "two rates": (lambda: L.chain(L.sgd(0.5), L.scale_by_learning_rate(0.1)), 0.05),
    "named": (lambda: L.named_chain(("a", L.sgd(0.5)), ("b", L.scale_by_schedule(SCHEDULE))), 0.5),
    "nested": (lambda: L.chain(L.chain(L.sgd(0.5)), L.chain(L.clip(1.0), L.chain(L.sgd(0.1)))), 0.05),
    "masked alone": (lambda: L.chain(L.masked(L.sgd(0.1), W)), 0.1),
    "masked without a rate": (lambda: L.chain(L.masked(L.trace(0.9), W), L.sgd(0.1)), 0.1),
    "injected": (lambda: L.chain(L.inject_hyperparams(L.sgd)(0.5), L.scale_by_schedule(SCHEDULE)), 0.5),
    "MultiSteps": (lambda: L.MultiSteps(L.sgd(0.5), 2), 0.5),
    "lookahead in Optax": (lambda: optax.apply_if_finite(L.chain(L.sgd(0.5), L.sgd(0.5)), 2), 0.25),
    "Optax's chain": (lambda: optax.chain(L.sgd(0.5), optax.clip(1.0), L.sgd(0.5)), 0.25),
}
SIDE_BY_SIDE = {
    "two masks": (lambda m: m.chain(m.masked(L.sgd(0.1), W), m.masked(L.sgd(0.2), B)), {"0": 0.1, "1": 0.2}),
    "two masks, one rate for both": (
        lambda m: m.chain(m.masked(L.sgd(0.1), W), m.masked(L.sgd(0.2), B), L.scale_by_schedule(lambda t: 0.5)),
        {"0": 0.05, "1": 0.1, "": 0.5},
    ),
    "one mask and a rate for all": (lambda m: m.chain(m.masked(L.sgd(0.1), W), L.sgd(0.5)), {"0": 0.05, "": 0.5}),
    "masks in chains": (
        lambda m: m.chain(m.chain(m.clip(1.0), m.masked(L.sgd(0.1), W)), m.chain(m.masked(L.sgd(0.2), B))),
        {"0/1": 0.1, "1/0": 0.2},
    ),
    "partition": (
        lambda m: m.partition({"x": L.sgd(0.1), "y": L.adam(0.2)}, {"w": "x", "b": "y"}),
        {"x": 0.1, "y": 0.2},
    ),
    "partition in a chain": (
        lambda m: m.chain(m.partition({"x": L.sgd(0.1), "y": L.adam(0.2)}, {"w": "x", "b": "y"}), L.sgd(0.5)),
        {"x": 0.05, "y": 0.1},
    ),
    "partition in a partition": (
        lambda m: (
            m.partition(
                {"x": m.partition({1: L.sgd(0.1), 2: L.sgd(0.2)}, {"w": 1, "b": 2}), "y": L.sgd(0.5)},
                {"w": "x", "b": "x"},
            )
            if m is optax
            else m.partition(
                {"x": m.partition({1: L.sgd(0.1), 2: L.sgd(0.2)}, lambda p: {"w": 1, "b": 2}), "y": L.sgd(0.5)},
                lambda p: {"w": "x", "b": "x"},
            )
        ),
        {("x", 1): 0.1, ("x", 2): 0.2, ("y",): 0.5},
    ),
}


@pytest.mark.parametrize(("make", "expected"), ONE_CHAIN.values(), ids=ONE_CHAIN)
def test_rates_multiply_along_a_chain(make, expected):
    close(rates(make()), expected)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("library", [L, optax], ids=["lrjax", "optax"])
@pytest.mark.parametrize(("make", "expected"), SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)
def test_rates_side_by_side_are_a_dict(make, expected, library):
    if "x" in expected and library is optax and ("x", 1) in expected:
        pytest.skip("Optax's own partition refuses a label that no parameter has")
    close(rates(make(library)), expected)
    close(rates(make(library), 1), expected)


def test_two_optimizers_of_one_method_are_side_by_side():
    tx = optax.contrib.sam(L.adam(0.2), optax.chain(optax.contrib.normalize(), L.sgd(0.05)), sync_period=2)
    close(rates(tx), {"opt_state": 0.2, "adv_state": 0.05})


@pytest.mark.promotes
@pytest.mark.parametrize("library", [L, optax], ids=["lrjax", "optax"])
def test_the_injected_rate_of_optaxs_own_optimizer(library):
    tx = L.chain(
        library.inject_hyperparams(optax.adam)(optax.linear_schedule(1.0, 0.0, 4)), L.scale_by_schedule(lambda t: 0.5)
    )
    close(rates(tx, 3), 0.25)


def test_what_the_masks_apply_is_what_is_read():
    tx = L.chain(L.masked(L.sgd(0.1), W), L.masked(L.sgd(0.2), B), L.scale_by_schedule(lambda t: 0.5))
    updates, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    read = L.get_learning_rate(state)
    np.testing.assert_allclose(updates["w"], -read["0"] * PARAMS["w"], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -read["1"] * PARAMS["b"], rtol=1e-6)


def test_the_step_of_the_rate_reads_as_a_count():
    _, state = L.sgd(0.1).update(PARAMS, L.sgd(0.1).init(PARAMS))
    assert state[1].step == state[1].count == 1


@pytest.mark.promotes
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip(1.0), tx),
        lambda tx: optax.named_chain(("tx", tx)),
        lambda tx: optax.masked(tx, {"w": True, "b": True}),
        lambda tx: optax.apply_if_finite(tx, 2),
        lambda tx: optax.MultiSteps(tx, 1),
        lambda tx: optax.flatten(tx),
        lambda tx: optax.partition({"a": tx}, {"w": "a", "b": "a"}),
        lambda tx: optax.transforms.conditionally_mask(tx, lambda step: step >= 0),
    ],
)
def test_what_optaxs_wrappers_drop_is_told_and_handed_on_by_to_optax(wrap):
    extra = {"value": jnp.float32(1.0)}
    with pytest.raises(ValueError, match=r"`value`, the loss, .* `lrjax.to_optax\(tx\)`"):
        rates(wrap(L.polyak_sgd()), 1, **extra)
    assert jax.tree.leaves(rates(wrap(L.to_optax(L.polyak_sgd())), 1, **extra))[0] > 0


class Halved(NamedTuple):
    """A state that multiplies the rate."""

    exponent: Any

    @property
    def rate_factor(self):
        return 0.5**self.exponent


def halving():
    """Halves the updates at the first step, quarters them at the second, and so on."""

    def update(updates, state, params=None):
        state = Halved(state.exponent + 1)
        return jax.tree.map(lambda u: u * state.rate_factor, updates), state

    return L.GradientTransformation(lambda params: Halved(jnp.float32(0.0)), update)


class Wrapped(NamedTuple):
    """The state of a wrapper that cuts the rate, and keeps a copy of the inner state to go back to."""

    inner_state: Any
    snapshot: Any
    rate_factor: Any


def cutting(inner):
    def update(updates, state, params=None):
        updates, inner_state = inner.update(updates, state.inner_state, params)
        factor = state.rate_factor * 0.5
        return jax.tree.map(lambda u: u * factor, updates), Wrapped(inner_state, state.snapshot, factor)

    return L.GradientTransformation(lambda p: Wrapped(inner.init(p), inner.init(p), jnp.float32(1.0)), update)


FACTORS = {
    "in a chain": (lambda: L.chain(L.sgd(0.5), halving(), halving()), 0.5 / 16),
    "before the rate": (lambda: L.named_chain(("a", halving()), ("b", L.sgd(SCHEDULE))), 0.75 / 4),
    "a wrapper with a copy": (lambda: cutting(L.chain(halving(), L.sgd(0.5))), 0.5 / 16),
    "of a partition": (
        lambda: L.chain(L.partition({"x": L.sgd(0.1), "y": L.sgd(0.2)}, {"w": "x", "b": "y"}), halving()),
        {"x": 0.025, "y": 0.05},
    ),
    "in a partition": (
        lambda: L.chain(L.partition({"x": halving(), "y": L.identity()}, {"w": "x", "b": "y"}), L.sgd(0.5)),
        {"x": 0.125, "y": 0.5},
    ),
    "masked": (lambda: L.chain(L.masked(halving(), W), L.sgd(0.5)), {"0": 0.125, "": 0.5}),
    "a wrapper of a partition": (
        lambda: cutting(L.partition({"x": L.sgd(0.1), "y": L.chain(L.sgd(0.2), halving())}, {"w": "x", "b": "y"})),
        {"x": 0.025, "y": 0.2 / 16},
    ),
    "MultiSteps": (lambda: L.MultiSteps(L.chain(L.sgd(0.5), halving()), 1), 0.125),
    "finite": (lambda: L.apply_if_finite(cutting(L.sgd(0.5))), 0.125),
    "Optax's wrappers": (lambda: optax.apply_if_finite(optax.chain(L.sgd(0.5), halving()), 2), 0.125),
    "injected": (lambda: L.chain(L.inject_hyperparams(L.sgd)(0.5), halving()), 0.125),
    "Optax's own, injected": (lambda: L.chain(optax.inject_hyperparams(optax.sgd)(0.5), halving()), 0.125),
}


@pytest.mark.sampled(3)
@pytest.mark.promotes
@pytest.mark.parametrize(("make", "expected"), FACTORS.values(), ids=FACTORS)
def test_factors_of_the_rate_multiply_it(make, expected):
    close(rates(make(), 2), expected)


def test_a_factor_alone_is_no_rate():
    with pytest.raises(ValueError, match="get_learning_rate: `state` must hold"):
        L.get_learning_rate(L.chain(halving(), L.clip(1.0)).init(PARAMS))


@pytest.mark.promotes
def test_the_scale_of_optaxs_plateau_is_a_factor():
    tx = L.chain(L.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=2))
    state, applied, read = tx.init(PARAMS), [], []
    for _ in range(5):
        updates, state = tx.update(PARAMS, state, PARAMS, value=jnp.float32(1.0))
        applied.append(-float(updates["w"][0]))
        read.append(float(L.get_learning_rate(state)))
    assert applied == read and set(read) == {0.5, 0.25, 0.125}


def test_states_of_frameworks_are_taken_whole():
    tx = L.chain(L.clip(1.0), L.adam(SCHEDULE), halving())
    model = nn.Dense(1)
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), jnp.ones((1, 2))), tx=tx)
    for _ in range(2):
        state = state.apply_gradients(grads=state.params)
    assert float(L.get_learning_rate(state)) == 0.75 / 4
    linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(linear, L.chain(L.clip(1.0), L.adam(SCHEDULE)), wrt=nnx.Param)
    optimizer.update(linear, nnx.state(linear, nnx.Param))
    assert float(L.get_learning_rate(optimizer)) == 1.0
    mlp = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    pair = (mlp, tx.init(eqx.filter(mlp, eqx.is_array)))
    assert float(L.get_learning_rate(pair)) == float(L.get_learning_rate({"model": mlp, "opt": pair[1]})) == 1.0
    svi = numpyro.optim.optax_to_numpyro(tx)
    svi_state = svi.update(PARAMS, svi.init(PARAMS), value=jnp.float32(1.0))
    assert float(L.get_learning_rate(svi_state)) == 0.5
