"""Every public optimizer through one table."""

import inspect

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
def test_is_a_chain_whose_parts_can_be_read(name):
    tx = OPTIMIZERS[name](0.1)
    parts = tx.transforms
    assert isinstance(parts, tuple) and all(isinstance(part, L.GradientTransformation) for part in parts)
    params = {"w": jnp.ones(3)}
    updates, state = tx.update(params, tx.init(params), params)
    expected, chain_state = L.chain(*parts).update(params, L.chain(*parts).init(params), params)
    jax.tree.map(np.testing.assert_array_equal, (updates, state), (expected, chain_state))
