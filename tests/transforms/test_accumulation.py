"""Schedules count the updates of the optimizer, whatever the number of gradients in each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests import oracles

WARMUP_COSINE = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 4, "decay_steps": 16, "end_value": 0.001}
UPDATES = 18  # past the end
RATES = [oracles.warmup_cosine_decay_schedule(t, **WARMUP_COSINE) for t in range(UPDATES)]
PARAMS = {"w": np.linspace(0.5, 1.0, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
GROWING = [1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
ACCUMULATIONS = {
    "1": (1, [1] * UPDATES),
    "4": (4, [4] * UPDATES),
    "a schedule": (L.piecewise_values_schedule([1, 2, 4], [4, 8]), GROWING),
    "a function": (lambda n: jnp.where(n < 4, 1, jnp.where(n < 8, 2, 4)), GROWING),
}


def optimizer(m):
    schedule = m.warmup_cosine_decay_schedule(**WARMUP_COSINE)
    return m.chain(m.clip_by_global_norm(1.0), m.adamw(schedule, weight_decay=0.1))


def gradient(params, i):
    """In NumPy, of a convex loss with other data at each step."""
    return {name: (p + np.sin(np.float32(i + p.size))).astype(np.float32) for name, p in params.items()}


def accumulated_by_hand(counts):
    """Parameters after each update of Optax's optimizer with the mean of so many gradients."""
    tx, params, i, after = optimizer(optax), PARAMS, 0, []
    state = tx.init(params)
    for k in counts:
        grads = [gradient(params, i + j) for j in range(k)]
        mean = jax.tree.map(lambda *gs: np.mean(np.stack(gs).astype(np.float64), axis=0).astype(np.float32), *grads)
        updates, state = tx.update(mean, state, params)
        params, i = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates), i + k
        after.append(params)
    return after


@pytest.mark.promotes
@pytest.mark.parametrize("name", ACCUMULATIONS)
def test_a_warmup_cosine_run_has_the_same_rates_with_any_accumulation(name):
    every_k, counts = ACCUMULATIONS[name]
    tx = L.MultiSteps(optimizer(L), every_k)

    @jax.jit
    def step(params, state, i):
        grads = {name: p + jnp.sin((i + p.size).astype(jnp.float32)) for name, p in params.items()}
        updates, state = tx.update(grads, state, params)
        return L.apply_updates(params, updates), state

    params, state, rates, expected = PARAMS, tx.init(PARAMS), [], accumulated_by_hand(counts)
    ends = set(np.cumsum(counts).tolist())
    for i in range(sum(counts)):
        before, rate_before = params, L.get_learning_rate(state)
        params, state = step(params, state, jnp.int32(i))
        assert bool(tx.has_updated(state)) == (i + 1 in ends)
        if i + 1 in ends:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected[len(rates)])
            rates.append(float(L.get_learning_rate(state)))
        else:
            jax.tree.map(np.testing.assert_array_equal, params, before)
            assert float(L.get_learning_rate(state)) == float(rate_before)
    np.testing.assert_allclose(rates, RATES, rtol=1e-5, atol=1e-9)
    assert int(state.gradient_step) == UPDATES


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) - y) ** 2)


@pytest.fixture(scope="module")
def whole_batches():
    """A run of `train` with a batch of 32 at each of 18 updates."""
    x = np.random.default_rng(0).normal(size=(UPDATES, 32, 4)).astype(np.float32)
    y = np.sin(x.sum(axis=-1, keepdims=True)).repeat(2, axis=-1)
    init = {"w": jnp.zeros((4, 2))}
    task = L.Task(loss_fn, init, (x, y), stacked=True)
    return x, y, init, L.train(task, optimizer(L), steps=UPDATES, progress=False)


@pytest.mark.parametrize("name", ["4", "a schedule", "a function"])
def test_train_with_parts_of_batches_is_train_with_whole_ones(whole_batches, name):
    x, y, init, whole = whole_batches
    every_k, counts = ACCUMULATIONS[name]
    parts = lambda array: [part for batch, k in zip(array, counts, strict=True) for part in np.split(batch, k)]
    # batches of several sizes can't be stacked: the rows are repeated, which changes no mean
    same_size = lambda array: np.stack([part.repeat(32 // len(part), axis=0) for part in parts(array)])
    task = L.Task(loss_fn, init, (same_size(x), same_size(y)), stacked=True)
    run = L.train(task, L.MultiSteps(optimizer(L), every_k), steps=sum(counts), progress=False)
    ends = np.cumsum(counts) - 1
    np.testing.assert_allclose(run.learning_rates[ends], RATES, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(run.learning_rates[ends], whole.learning_rates)
    np.testing.assert_allclose(run.params["w"], whole.params["w"], atol=2e-5)
    losses = [np.mean(part) for part in np.split(run.losses, ends[:-1] + 1)]
    np.testing.assert_allclose(losses, whole.losses, rtol=1e-4)
    assert int(run.opt_state.gradient_step) == UPDATES
