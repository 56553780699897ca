"""Every public optimizer through one table."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from tests.problems import parabola, rosenbrock

OPTIMIZERS = {
    name: thing
    for name, thing in vars(L).items()
    if isinstance(thing, type)
    and issubclass(thing, L.GradientTransformation)
    and "learning_rate" in inspect.signature(thing).parameters
    and not name.startswith("scale_by")
}
# rates for a parabola and for Rosenbrock's valley
RATES = {"sgd": (0.1, 1e-3), "adagrad": (1.0, 0.5), "rmsprop": (0.02, 2e-3)}
each = pytest.mark.parametrize("name", OPTIMIZERS)


def final(tx, loss, start, steps):
    def step(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(loss)(x), state, x)
        return (L.apply_updates(x, updates), state), None

    return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps)[0])(start)


def test_the_table_is_not_empty():
    assert set(OPTIMIZERS) >= {"sgd", "adagrad", "rmsprop", "adam", "adamw", "amsgrad"}


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finds_the_bottom_of_a_parabola(name, dtype):
    tx = OPTIMIZERS[name](L.cosine_decay_schedule(RATES.get(name, (0.1,))[0], 600))
    x, state = final(tx, parabola, jnp.zeros(4, dtype), 600)
    assert x.dtype == dtype and L.get_learning_rate(state).dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(x, float), 3.0, rtol=0.03)


@each
def test_goes_down_rosenbrocks_valley(name):
    start = jnp.array([-1.0, 1.0])
    x, _ = final(OPTIMIZERS[name](RATES.get(name, (0, 0.02))[1]), rosenbrock, start, 4000)
    assert rosenbrock(x) < 0.05 * rosenbrock(start)


@each
def test_a_batch_of_rates_is_one_program(name):
    rates = jnp.array([0.01, 0.02, 0.05])
    run = lambda tx: final(tx, parabola, jnp.zeros(2), 20)[0]
    mapped = jax.vmap(run)(L.batched(OPTIMIZERS[name](rates)))
    alone = [run(OPTIMIZERS[name](float(rate))) for rate in rates]
    np.testing.assert_allclose(mapped, alone, rtol=1e-4)


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eager_jitted_scanned_and_mapped_updates_agree(name, dtype):
    start = {"w": jnp.linspace(-1, 1, 6).astype(dtype), "b": jnp.ones((), dtype)}

    def step(tx, carry):
        x, state = carry
        updates, state = tx.update(x, state, x)  # the gradient of ½|x|²
        return L.apply_updates(x, updates), state

    def loop(step, tx):
        carry = (start, tx.init(start))
        for _ in range(5):
            carry = step(tx, carry)
        return carry

    tx = OPTIMIZERS[name](0.1)
    scan = jax.jit(lambda tx: jax.lax.scan(lambda c, _: (step(tx, c), None), (start, tx.init(start)), length=5)[0])
    eager, jitted, scanned = loop(step, tx), loop(jax.jit(step), tx), scan(tx)
    mapped = jax.jit(jax.vmap(scan))(L.batched(OPTIMIZERS[name](np.array([0.2, 0.1]))))
    rtol = 1e-5 if dtype == "float32" else 0.02  # XLA may fuse, and round to bfloat16, elsewhere
    chex.assert_trees_all_equal_shapes_and_dtypes((start, tx.init(start)), eager, jitted, scanned)
    for other in (jitted, scanned, jax.tree.map(lambda x: x[1], mapped)):
        chex.assert_trees_all_close(other, eager, rtol=rtol, atol=1e-7)


@each
def test_is_a_chain_whose_parts_can_be_read(name):
    tx = OPTIMIZERS[name](0.1)
    parts = tx.transforms
    assert isinstance(parts, tuple) and all(isinstance(part, L.GradientTransformation) for part in parts)
    params = {"w": jnp.ones(3)}
    updates, state = tx.update(params, tx.init(params), params)
    expected, chain_state = L.chain(*parts).update(params, L.chain(*parts).init(params), params)
    jax.tree.map(np.testing.assert_array_equal, (updates, state), (expected, chain_state))
