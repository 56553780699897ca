"""Every public optimizer through one table."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from tests.everything import extra_args
from tests.problems import parabola, rosenbrock
from tests.transforms.cases import CASES

OPTIMIZERS = {
    name: thing
    for name, thing in vars(L).items()
    if getattr(thing, "__module__", "").startswith("lrjax.optimizers")
    and "learning_rate" in inspect.signature(thing).parameters
}
each = pytest.mark.parametrize("name", OPTIMIZERS)


def final(name, tx, loss, start, steps):
    def step(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(loss)(x), state, x, **extra_args(name, loss))
        return (L.apply_updates(x, updates), state), None

    return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps)[0])(start)


def test_optimizers_are_found():
    assert {"sgd", "adam", "adafactor", "lion", "muon"} <= set(OPTIMIZERS)


@pytest.mark.sampled(16)
@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finds_the_bottom_of_a_parabola(name, dtype):
    rate = CASES[name].rates[0]
    tx = OPTIMIZERS[name](rate if name == "rprop" else L.cosine_decay_schedule(rate, 600))
    x, state = final(name, tx, parabola, jnp.ones((2, 2), dtype), 600)
    assert x.dtype == dtype
    np.testing.assert_allclose(np.asarray(x, float), 3.0, rtol=0.03)
    if name != "rprop":
        rates = jax.tree.leaves(L.get_learning_rate(state))
        assert all(r.dtype == jnp.float32 and 0 < r < 1e-3 * rate for r in rates)


@pytest.mark.sampled(4)
@each
def test_goes_down_rosenbrocks_valley(name):
    start = jnp.array([-1.0, 1.0])
    x, _ = final(name, OPTIMIZERS[name](CASES[name].rates[1]), rosenbrock, start, 4000)
    assert rosenbrock(x) < 0.05 * rosenbrock(start)


@pytest.mark.sampled(4)
@each
def test_a_schedule_lowers_the_loss_from_the_first_steps(name):
    if name == "rprop":
        pytest.skip("its rate is where the step sizes begin")
    start, (rate, _) = jnp.ones((2, 2)), CASES[name].rates
    x, _ = final(name, OPTIMIZERS[name](L.warmup_cosine_decay_schedule(0.0, rate, 5, 60)), parabola, start, 60)
    assert parabola(x) < 0.99 * parabola(start)


@pytest.mark.sampled(24)
@each
def test_a_batch_of_rates_is_one_program(name):
    rates = jnp.array([0.01, 0.02, 0.05])
    run = lambda tx: final(name, tx, parabola, jnp.ones(2), 20)[0]
    mapped = jax.vmap(run)(L.batched(OPTIMIZERS[name](rates)))
    alone = [run(OPTIMIZERS[name](float(rate))) for rate in rates]
    np.testing.assert_allclose(mapped, alone, rtol=1e-4)


# those whose state is made in different ways; that all keep bfloat16 is tested below
NARROW = ("adam", "adafactor", "sm3", "muon", "lion", "lamb", "rprop", "madgrad")


@pytest.mark.sampled(40)
@pytest.mark.parametrize(("name", "dtype"), [(n, "float32") for n in OPTIMIZERS] + [(n, "bfloat16") for n in NARROW])
def test_eager_jitted_scanned_and_mapped_updates_agree(name, dtype):
    start = {"w": jnp.linspace(-1, 1, 6).astype(dtype), "b": jnp.ones((), dtype)}

    def step(tx, carry):
        x, state = carry
        half_square = lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)) / 2
        updates, state = tx.update(x, state, x, **extra_args(name, half_square))  # whose gradient is x
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


@pytest.mark.sampled(16)
@each
def test_is_a_chain_whose_parts_can_be_read(name):
    tx = OPTIMIZERS[name](0.1)
    parts = tx.transforms
    assert isinstance(parts, tuple) and all(isinstance(part, L.GradientTransformation) for part in parts)
    params = {"w": jnp.ones(3)}
    extra = extra_args(name, lambda p: jnp.sum(p["w"] ** 2) / 2)
    updates, state = tx.update(params, tx.init(params), params, **extra)
    chain = L.chain(*parts) if len(parts) > 1 else parts[0]
    expected, chain_state = chain.update(params, chain.init(params), params, **extra)
    jax.tree.map(np.testing.assert_array_equal, (updates, state), (expected, chain_state))


def nothing_but_zeros_and_nones(name):
    yield {}
    yield {"a": None, "b": {}}
    yield jnp.ones(())


@pytest.mark.sampled(24)
@each
def test_empty_trees_scalars_and_missing_gradients(name):
    tx = OPTIMIZERS[name](0.1)
    for params in nothing_but_zeros_and_nones(name):
        square = lambda p: sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)), jnp.zeros(()))
        updates, state = tx.update(params, tx.init(params), params, **extra_args(name, square))
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    if CASES[name].needs == "obj_fn":
        return  # its estimate has an array for every parameter
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    updates, state = tx.update({"a": None, "b": jnp.ones((2, 2))}, tx.init(params), params)
    assert updates["a"] is None and updates["b"].shape == (2, 2)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))


@pytest.mark.sampled(96)
@each
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("gradients", ["float32", "bfloat16"])
def test_state_and_parameters_keep_their_dtypes(name, dtype, gradients):
    params = {"w": jnp.ones((3, 2), dtype), "b": jnp.ones(2, dtype)}
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.5, dtype=gradients), params)
    tx = OPTIMIZERS[name](0.1)
    square = lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))
    updates, state = tx.update(grads, tx.init(params), params, **extra_args(name, square))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    assert all(np.isfinite(np.asarray(u, float)).all() for u in jax.tree.leaves(updates))
    chex.assert_trees_all_equal_shapes_and_dtypes(L.apply_updates(params, updates), params)


COMPLEX = [name for name in OPTIMIZERS if not CASES[name].real]


@pytest.mark.sampled(4)
@pytest.mark.promotes  # a real rate times a complex gradient
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_parameters_go_down_too(name):
    rate = min(CASES[name].rates[0], 1.0)
    tx = OPTIMIZERS[name](rate)

    def step(carry, _):
        z, state = carry
        updates, state = tx.update(2 * (z - (1 + 2j)), state, z)
        return (L.apply_updates(z, updates), state), None

    start = jnp.array([[0.5 + 0.1j, -1.0 + 1j]], jnp.complex64)
    (z, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=100)
    loss = lambda z: float(jnp.sum(jnp.abs(z - (1 + 2j)) ** 2))
    assert z.dtype == jnp.complex64 and loss(z) < 0.9 * loss(start)
