"""The optimizers that are long to write twice: beside Optax over 100 steps, in float32 and in float64, and where Optax
is wrong beside their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import lrjax as L
from tests.optimizers.test_against_oracles import run
from tests.problems import gradients, nested_params

RATE = 0.1
FACTORED = {"min_dim_size_to_factor": 3}
CASES = [
    ("adabelief", {}),
    ("adabelief", {"nesterov": True}),
    ("adadelta", {"weight_decay": 0.1}),
    ("adafactor", FACTORED),
    ("adafactor", {**FACTORED, "momentum": 0.9, "weight_decay_rate": 0.01}),
    ("adafactor", {"factored": False, "multiply_by_parameter_scale": False, "clipping_threshold": None}),
    ("adamax", {}),
    ("adamaxw", {"weight_decay": 0.1}),
    ("adan", {"weight_decay": 0.1}),
    ("ademamix", {"weight_decay": 0.1}),
    ("adopt", {}),
    ("adopt", {"nesterov": True, "use_clipping": False}),
    ("fromage", {}),
    ("lamb", {"weight_decay": 0.1}),
    ("lars", {"weight_decay": 0.1}),
    ("lars", {"nesterov": True, "trust_coefficient": 0.1}),
    ("lion", {}),
    ("madgrad", {"weight_decay": 0.1}),
    ("muon", {"weight_decay": 0.1}),
    ("muon", {"ns_coeffs": "dion", "consistent_rms": 0.2}),
    ("muon", {"preconditioning": "aol"}),
    ("muon", {"preconditioning": "schatten", "adaptive": True}),
    ("muon", {"preconditioning": "spectral", "nesterov": False}),
    ("nadam", {}),
    ("nadamw", {"weight_decay": 0.1}),
    ("noisy_sgd", {"key": 3}),
    ("novograd", {"weight_decay": 0.1}),
    ("optimistic_gradient_descent", {"alpha": 0.7, "beta": 0.5}),
    ("radam", {"nesterov": True, "b2": 0.99}),
    ("radam", {}),
    ("sign_sgd", {}),
    ("sm3", {}),
    ("yogi", {}),
]
IDS = [f"{name}-{'-'.join(kwargs)}" for name, kwargs in CASES]
each = pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)
# what Optax computes with fewer digits than it has: a decay in float32, and a difference of large numbers in radam
ROUNDS = {"adafactor": 1e-6, "madgrad": 1e-6, "radam": 1e-9}


def theirs(name):
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def error(name, kwargs, dtype):
    params = nested_params(dtype)
    if name == "sm3":  # Optax's fails on scalars
        del params["scale"]
    (got, _), _ = run(getattr(L, name)(RATE, **kwargs), params, gradients(params))
    (expected, _), _ = run(theirs(name)(RATE, **kwargs), params, gradients(params))
    trees = zip(*map(jax.tree.leaves, (got, expected, params)), strict=True)
    return max(np.max(np.abs(a - b)) / np.max(np.abs(b - p)) for a, b, p in (map(np.asarray, row) for row in trees))


@pytest.mark.sampled(32)
@pytest.mark.promotes
@each
def test_agrees_with_optax(name, kwargs):
    assert error(name, kwargs, "float32") <= (1e-3 if (name, kwargs) == ("radam", {}) else 2e-5)


@pytest.mark.sampled(32)
@pytest.mark.promotes
@each
def test_agrees_with_optax_in_float64(name, kwargs, x64):
    assert error(name, kwargs, "float64") <= ROUNDS.get(name, 1e-10)


def path(tx, params, grads):
    """The parameters after every update."""
    state, seen = tx.init(params), []
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = L.apply_updates(params, updates)
        seen.append(np.asarray(params))
    return np.stack(seen)


def test_rprop_moves_by_the_present_sign(x64):
    # Optax applies the step of the update before, so it is always one late
    grads = np.random.default_rng(0).normal(size=(100, 5))
    p, delta, last, expected = np.ones(5), np.full(5, 0.1), np.zeros(5), []
    for g in grads:
        agreement = g * last
        delta = np.clip(delta * np.where(agreement > 0, 1.2, np.where(agreement < 0, 0.5, 1)), 1e-6, 50)
        last = np.where(agreement < 0, 0, delta * np.sign(g))
        p = p - last
        expected.append(p)
    np.testing.assert_allclose(path(L.rprop(0.1), jnp.ones(5), grads), expected, rtol=1e-12)


def test_radams_rectification_keeps_its_digits():
    # ρ in float64 as the paper writes it; in float32 its terms cancel to 3e-4
    b2, g = float(np.float32(0.999)), 2.0
    tx = L.scale_by_radam(b1=0.0, b2=0.999, eps=0.0)
    state = tx.init(jnp.ones(()))
    for t in range(1, 200):
        u, state = tx.update(jnp.float32(g), state)
        inf = 2 / (1 - b2) - 1
        rho = inf - 2 * t * b2**t / (1 - b2**t)
        r = np.sqrt((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho)) if rho >= 5 else g
        np.testing.assert_allclose(u, r, rtol=1e-5)


def test_adadelta_goes_down_by_default():
    p = path(L.adadelta(eps=1e-2), jnp.ones(3), [jnp.ones(3)] * 5)  # Optax goes up
    assert np.all(np.diff(p, axis=0) < 0)


@pytest.mark.parametrize("name", ["adadelta", "adafactor"])
def test_no_rate_is_a_rate_of_one(name):
    make, grads = getattr(L, name), [jnp.linspace(-1, 1, 4)] * 3
    np.testing.assert_array_equal(path(make(), jnp.ones(4), grads), path(make(1.0), jnp.ones(4), grads))


def test_adafactor_before_its_offset_is_finite():
    p = path(L.adafactor(0.1, decay_offset=10), jnp.ones(4), [jnp.ones(4)] * 20)  # Optax: nan
    assert np.isfinite(p).all()


def test_polyaks_step_reaches_the_bottom_of_a_line():
    tx, params = L.polyak_sgd(max_learning_rate=100.0, scaling=0.5, f_min=1.0), jnp.array([3.0, 4.0])
    updates, state = tx.update(jnp.array([0.6, 0.8]), tx.init(params), params, value=jnp.float32(5.0))
    np.testing.assert_allclose(updates, [-0.5 * 4 * 0.6, -0.5 * 4 * 0.8], rtol=1e-6)
    assert float(L.get_learning_rate(state)) == pytest.approx(0.5 * 4)
    higher, _ = tx.update(jnp.array([0.6, 0.8]), tx.init(params), params, value=jnp.float32(0.0))
    assert higher[0] > 0  # below f_min: back up, but in sps+
    plus = L.polyak_sgd(f_min=1.0, variant="sps+")
    assert plus.update(params, plus.init(params), params, value=jnp.float32(0.0))[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="`value`"):
        tx.update(params, tx.init(params), params)


@pytest.mark.promotes
def test_sophia_agrees_with_optax():
    scales = jnp.array([1.0, 3.0, 0.5])
    loss = lambda p: jnp.sum(scales * p**4)
    finals = []
    for module in (L, optax.contrib):
        tx, params = module.sophia(0.1, update_interval=3), jnp.array([1.0, -2.0, 0.5])

        def step(carry, _, tx=tx):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state, p, obj_fn=loss)
            return (p + updates, state), None

        finals.append(jax.lax.scan(step, (params, tx.init(params)), length=100)[0][0])
    np.testing.assert_allclose(*finals, rtol=1e-5, atol=1e-6)


def test_muons_updates_are_nearly_orthogonal():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 5)), jnp.float32)
    numbers = L.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    tx = L.scale_by_muon(weight_dimension_numbers=numbers, ns_coeffs="dion")
    u, _ = tx.update(g, tx.init(g))
    values = np.linalg.svd(np.asarray(u), compute_uv=False)
    assert np.all((values > 0.7) & (values < 1.3))


def test_muon_takes_matrices_where_it_is_told():
    params = {"conv": jnp.ones((3, 4, 5)), "kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}
    numbers = lambda p: {"conv": L.MuonDimensionNumbers((0, 1), 2), "kernel": None, "bias": None}
    tx = L.muon(0.1, muon_weight_dimension_numbers=numbers)
    states = tx.init(params).inner_states
    assert isinstance(states["muon"].inner_state[0].mu["kernel"], L.MaskedNode)
    assert states["adam"].inner_state[0].nu["kernel"].shape == (4, 5)
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    with pytest.raises(ValueError, match="`ns_coeffs` must be one triple, or one for each of 9"):
        L.muon(0.1, ns_coeffs="dion", ns_steps=9).init(params)


def test_optimistic_adam_is_optaxs_second_version():
    theirs, ours = optax.optimistic_adam_v2(RATE, alpha=0.7, beta=0.5), L.optimistic_adam(RATE, 0.5, alpha=0.7)
    params = jnp.ones(4)
    grads = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        expected = path(theirs, params, grads)
    np.testing.assert_allclose(path(ours, params, grads), expected, rtol=1e-5, atol=2e-5)
