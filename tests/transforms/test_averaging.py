"""Averages of the parameters: against formulas in NumPy's float64, in every nesting, and in real runs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lrjax as L

STEPS = 23
RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(STEPS, 3)).astype(np.float32)
RATE = 0.5
PATH = 1 - RATE * np.cumsum(GRADS.astype(np.float64), axis=0)  # the parameters after each update


def walked(tx, params=None, steps=STEPS, jitted=True):
    """(state, params) after some updates."""
    params = jnp.ones(3) if params is None else params
    update = jax.jit(tx.update) if jitted else tx.update
    state = tx.init(params)
    for g in GRADS[:steps]:
        grads = jax.tree.map(lambda p, g=g: jnp.asarray(g, p.dtype), params)
        updates, state = update(grads, state, params)
        params = L.apply_updates(params, updates)
    return state, params


def ema(path, decay):
    weights = decay ** np.arange(len(path))[::-1]
    return weights @ path / weights.sum()


def ema_from_start(path, decays):
    average = np.ones(3)
    for x, decay in zip(path, decays, strict=True):
        average = decay * average + (1 - decay) * x
    return average


def polynomial(path, gamma):
    average = np.zeros(3)
    for t, x in enumerate(path, 1):
        average = (1 - (gamma + 1) / (gamma + t)) * average + (gamma + 1) / (gamma + t) * x
    return average


def warmed(path):
    average, total = np.zeros(3), 0.0
    for t, x in enumerate(path, 1):
        decay = min(0.9, (1 + t) / (10 + t))
        average, total = decay * average + x, decay * total + 1
    return average / total


FORMULAS = {
    "ema": (L.ema_params(0.9), lambda path: ema(path, 0.9)),
    "slow ema": (L.ema_params(0.9999), lambda path: ema(path, 0.9999)),
    "biased ema": (L.ema_params(0.9, debias=False), lambda path: ema_from_start(path, [0.9] * len(path))),
    "warmed up ema": (L.ema_params(0.9, warmup=True), warmed),
    "warmed up, biased ema": (
        L.ema_params(0.4, debias=False, warmup=True),
        lambda path: ema_from_start(path, [min(0.4, (1 + t) / (10 + t)) for t in range(1, len(path) + 1)]),
    ),
    "mean": (L.average_params(), lambda path: path.mean(axis=0)),
    "tail": (L.average_params(begin_step=10), lambda path: path[10:].mean(axis=0) if len(path) > 10 else path[-1]),
    "polynomial": (L.polynomial_average_params(), lambda path: polynomial(path, 8)),
    "polynomial of degree 0": (L.polynomial_average_params(0.0), lambda path: path.mean(axis=0)),
    "cycles": (L.swa_params(5), lambda path: path[4::5].mean(axis=0) if len(path) > 4 else path[-1]),
    "late cycles": (
        L.swa_params(5, begin_step=10),
        lambda path: path[14::5].mean(axis=0) if len(path) > 14 else path[-1],
    ),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10, 11, 15, STEPS])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_average_is_its_formula(name, steps):
    tx, formula = FORMULAS[name]
    state, params = walked(L.chain(L.sgd(RATE), tx), steps=steps)
    np.testing.assert_allclose(L.evaluation_params(state, params), formula(PATH[:steps]), rtol=2e-6, atol=1e-6)


@pytest.mark.promotes
def test_the_exponential_average_is_optaxs_of_the_parameters():
    theirs = optax.ema(0.97)
    state = theirs.init(jnp.ones(3))
    for x in PATH.astype(np.float32):
        expected, state = theirs.update(jnp.asarray(x), state)
    np.testing.assert_allclose(
        L.evaluation_params(*walked(L.chain(L.sgd(RATE), L.ema_params(0.97)))), expected, rtol=1e-5
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_before_an_update_they_are_the_parameters(name):
    tx, params = L.chain(L.sgd(RATE), FORMULAS[name][0]), {"w": jnp.full(2, 0.1), "n": jnp.arange(3)}
    for found in (L.evaluation_params, jax.jit(L.evaluation_params)):
        jax.tree.map(np.testing.assert_array_equal, found(tx.init(params), params), params)


def test_without_an_average_they_are_the_parameters_themselves():
    for tx in (L.adam(0.1), L.packed(L.adam(0.1)), L.MultiSteps(L.sgd(0.1), 2), optax.adam(0.1), L.chain()):
        params = {"w": jnp.ones(2)}
        assert L.evaluation_params(tx.init(params), params) is params


def test_narrow_parameters_are_averaged_in_float32():
    params = jnp.ones(3, jnp.bfloat16)
    tx = L.chain(L.sgd(2.0**-7), L.ema_params(0.999))
    state, grads = tx.init(params), jnp.array([1.0, -1.0, 0.5], jnp.bfloat16)
    path = []
    for i in range(200):
        updates, state = tx.update(grads * (-1) ** i, state, params)
        params = L.apply_updates(params, updates)
        path.append(np.asarray(params, np.float64))
    assert state[1].average.dtype == jnp.float32 and L.evaluation_params(state, params).dtype == jnp.bfloat16
    expected = ema(np.array(path[:-1]), 0.999)
    np.testing.assert_allclose(state[1].average, ema(np.array(path[:-1]), 0.999), rtol=1e-6)
    assert not np.array_equal(expected, np.asarray(jnp.asarray(expected, jnp.bfloat16), np.float64))


TREE = {"w": jnp.ones(3), "b": jnp.ones(3)}
AVERAGE = L.chain(L.sgd(RATE), L.ema_params(0.9))
EMA = ema(PATH, 0.9)
W = {"w": True, "b": False}
LABELS = {"w": "x", "b": "y"}
NESTED = {
    "before the rate": L.chain(L.ema_params(0.9), L.sgd(RATE)),
    "named_chain": L.named_chain(("a", AVERAGE), ("b", L.identity())),
    "partition": L.partition({"x": AVERAGE, "y": AVERAGE}, LABELS),
    "MultiSteps": L.MultiSteps(AVERAGE, 1),
    "apply_if_finite": L.apply_if_finite(AVERAGE),
    "conditionally_transform": L.conditionally_transform(AVERAGE, lambda step: step >= 0),
    "injected": L.chain(L.inject_hyperparams(L.ema_params)(0.9), L.sgd(RATE)),
    "packed": L.packed(AVERAGE),
    "Optax's chain": optax.chain(L.sgd(RATE), L.ema_params(0.9), optax.clip(100.0)),
    "Optax's MultiSteps": optax.MultiSteps(AVERAGE, 1),
    "Optax's partition": optax.partition({"x": AVERAGE, "y": AVERAGE}, LABELS),
    "Optax's apply_if_finite": optax.apply_if_finite(AVERAGE, 2),
}


@pytest.mark.sampled(3)
@pytest.mark.promotes
@pytest.mark.parametrize("name", NESTED)
def test_it_is_found_in_every_nesting(name):
    state, params = walked(NESTED[name], TREE)
    for found in (L.evaluation_params(state, params), jax.jit(L.evaluation_params)(state, params)):
        for x in found.values():
            np.testing.assert_allclose(x, EMA, rtol=2e-6)


@pytest.mark.promotes
@pytest.mark.parametrize("library", [L, optax], ids=["lrjax", "optax"])
def test_an_average_of_a_part_takes_the_place_of_that_part(library):
    masked = library.chain(L.sgd(RATE), library.masked(L.ema_params(0.9), W))
    parted = library.partition({"x": AVERAGE, "y": L.chain(L.sgd(RATE), L.average_params())}, LABELS)
    state, params = walked(masked, TREE)
    found = L.evaluation_params(state, params)
    np.testing.assert_allclose(found["w"], EMA, rtol=2e-6)
    assert found["b"] is params["b"]
    found = L.evaluation_params(*walked(parted, TREE))
    np.testing.assert_allclose(found["w"], EMA, rtol=2e-6)
    np.testing.assert_allclose(found["b"], PATH.mean(axis=0), rtol=2e-6)


def test_accumulation_averages_once_for_each_update():
    state, params = walked(L.MultiSteps(L.chain(L.sgd(RATE), L.average_params()), 4), steps=22)
    after = 1 - RATE * np.cumsum(GRADS[:20].reshape(5, 4, 3).mean(axis=1, dtype=np.float64), axis=0)
    np.testing.assert_allclose(L.evaluation_params(state, params), after.mean(axis=0), rtol=2e-6)


def test_lookaheads_are_the_slow_parameters():
    tx = L.chain(L.clip(100.0), L.lookahead(AVERAGE, 5, 0.5))
    params = L.LookaheadParams.init_synced(TREE)
    state = tx.init(params)
    for g in GRADS[:7]:
        updates, state = tx.update({"w": jnp.asarray(g), "b": jnp.asarray(g)}, state, params)
        params = L.apply_updates(params, updates)
    assert L.evaluation_params(state, params) is params.slow
    with pytest.raises(ValueError, match="`params` must be LookaheadParams"):
        L.evaluation_params(state, params.fast)


def test_two_averages_of_the_same_and_other_parameters_are_refused():
    tx = L.chain(L.sgd(RATE), L.ema_params(0.9), L.average_params())
    with pytest.raises(ValueError, match="must average each parameter once"):
        L.evaluation_params(tx.init(TREE), TREE)
    for state in (AVERAGE.init({"w": jnp.ones(3)}), L.flatten(AVERAGE).init(TREE)):
        with pytest.raises(ValueError, match="`params` must be the parameters of `state`"):
            L.evaluation_params(state, TREE)
    with pytest.raises(ValueError, match="ema_params: `params` must be given to `update`, got None"):
        AVERAGE.update(TREE, AVERAGE.init(TREE))


def test_models_of_flax():
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), jnp.ones((1, 2)))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=L.chain(L.sgd(0.5), L.average_params()))
    for _ in range(2):
        state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))
    found = L.evaluation_params(state, state.params)
    jax.tree.map(lambda x, p: np.testing.assert_allclose(x, p - 0.75, rtol=1e-5, atol=1e-6), found, params)
    linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    start = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(linear, nnx.Param)))
    optimizer = nnx.Optimizer(linear, L.chain(L.sgd(0.5), L.average_params()), wrt=nnx.Param)
    for _ in range(2):
        optimizer.update(linear, jax.tree.map(jnp.ones_like, nnx.state(linear, nnx.Param)))
    averaged = L.evaluation_params(optimizer, nnx.state(linear, nnx.Param))
    jax.tree.map(
        lambda x, p: np.testing.assert_allclose(x, p - 0.75, rtol=1e-5, atol=1e-6), nnx.to_pure_dict(averaged), start
    )


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(2, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.dropout, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        self.shared = self.last

    def __call__(self, x):
        return self.shared(self.dropout(self.norm(self.first(x))))


@pytest.mark.parametrize("wrt", [nnx.Param, nnx.PathContains("last")], ids=["all", "a part"])
@pytest.mark.parametrize("tx", [L.chain(L.sgd(0.5), L.average_params()), L.guard(L.sgd(0.5)), L.sgd(0.5)], ids=repr)
def test_models_of_nnx_come_back_as_models(tx, wrt):
    """With variables that are no parameters: statistics of BatchNorm, and keys of Dropout."""
    model, x = Normed(nnx.Rngs(0)), jnp.array([[1.0, 2.0], [3.0, -1.0]])
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)
    for loss in (jnp.float32(1), jnp.float32(jnp.nan)):
        model(x)
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, wrt)), value=loss)
    model.eval()
    averaged = L.evaluation_params(optimizer, model)
    expected = L.evaluation_params(optimizer, nnx.state(model, wrt))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(averaged, wrt), expected)
    others = lambda model: jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    before = others(model)
    jax.tree.map(np.testing.assert_array_equal, others(averaged), before)
    assert averaged.shared is averaged.last and np.isfinite(averaged(x)).all()
    if type(tx) is type(L.sgd(0.5)):
        assert averaged is model
        return
    averaged.train()
    averaged(x)  # changes its own statistics
    jax.tree.map(np.testing.assert_array_equal, others(model), before)
    assert not np.array_equal(averaged.norm.mean[...], model.norm.mean[...])
    jitted = nnx.jit(lambda optimizer, model: L.evaluation_params(optimizer, model)(x))(optimizer, model)
    np.testing.assert_allclose(jitted, L.evaluation_params(optimizer, model)(x), rtol=1e-5)


def test_a_guards_parameters_in_nnx_are_those_without():
    tx, linear = L.guard(L.sgd(0.5)), nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer, plain = nnx.Optimizer(linear, tx, wrt=nnx.Param), nnx.to_pure_dict(nnx.state(linear, nnx.Param))
    state = tx.init(plain)
    for loss in (jnp.float32(1), jnp.float32(jnp.nan)):
        optimizer.update(linear, jax.tree.map(jnp.ones_like, nnx.state(linear, nnx.Param)), value=loss)
        updates, state = tx.update(jax.tree.map(jnp.ones_like, plain), state, plain, value=loss)
        plain = L.apply_updates(plain, updates)
    found = nnx.to_pure_dict(L.evaluation_params(optimizer, nnx.state(linear, nnx.Param)))
    jax.tree.map(np.testing.assert_array_equal, found, L.evaluation_params(state, plain))


def test_a_batch_of_decays_and_a_scan():
    decays = jnp.array([0.5, 0.9, 0.99])

    def run(decay):
        tx = L.chain(L.sgd(RATE), L.ema_params(decay))

        def body(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            return (L.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(body, (jnp.ones(3), tx.init(jnp.ones(3))), GRADS)
        return L.evaluation_params(state, params)

    np.testing.assert_allclose(jax.vmap(run)(decays), [ema(PATH, d) for d in np.asarray(decays, np.float64)], rtol=5e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: L.ema_params(1.0), r"ema_params: `decay` must be a number in \[0, 1\)"),
        (lambda: L.ema_params(0.9, debias="yes"), "ema_params: `debias` must be"),
        (lambda: L.average_params(-1), "average_params: `begin_step` must be a whole number of steps >= 0"),
        (
            lambda: L.polynomial_average_params(np.nan),
            "polynomial_average_params: `gamma` must be a finite number >= 0",
        ),
        (lambda: L.swa_params(0), "swa_params: `cycle_steps` must be a whole number of steps >= 1"),
    ],
)
def test_a_bad_number_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
