"""lrjax inside other people's code, and theirs inside ours."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lrjax as L

pytestmark = pytest.mark.promotes
PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
Y = jnp.sum(X, axis=1, keepdims=True)
SCHEDULE = L.linear_schedule(0.1, 0.0, 10)


def after(tx, n, params=PARAMS):
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(n):
        _, state = update(params, state, params)
    return state


WRAPPED = {
    "ours": lambda tx: tx,
    "chain": lambda tx: L.chain(L.clip(1.0), tx),
    "named_chain": lambda tx: L.named_chain(("clip", L.clip(1.0)), ("tx", L.chain(tx))),
    "optax.chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": False}),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject": lambda tx: optax.inject_hyperparams(lambda: tx)(),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "extra args": optax.with_extra_args_support,
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_rate_is_read_through_every_wrapper(wrap):
    scheduled, constant = wrap(L.adam(SCHEDULE)), wrap(L.adam(0.1))
    assert L.get_learning_rate(scheduled.init(PARAMS)) == np.float32(0.1)  # before: the first one's
    assert L.get_learning_rate(after(scheduled, 1)) == np.float32(0.1)
    assert L.get_learning_rate(after(scheduled, 3)) == SCHEDULE(2)
    assert L.get_learning_rate(after(constant, 3)) == np.float32(0.1)


def test_groups_have_their_own_rates():
    tx = optax.partition({"x": L.adam(SCHEDULE), "y": L.sgd(0.5)}, {"a": "x", "b": "y"})
    assert L.get_learning_rate(after(tx, 3)) == {"x": SCHEDULE(2), "y": 0.5}
    both = optax.chain(tx, L.scale_by_schedule(lambda t: 0.5))
    assert L.get_learning_rate(after(both, 3)) == {"x": SCHEDULE(2) * 0.5, "y": 0.25}


def test_rates_of_one_chain_multiply():
    rate = L.get_learning_rate(after(L.chain(L.sgd(0.5), L.scale_by_schedule(SCHEDULE)), 2))
    np.testing.assert_allclose(rate, 0.5 * 0.09, rtol=1e-6)


def test_a_state_without_a_rate_says_so():
    with pytest.raises(ValueError, match="get_learning_rate: `state` must hold"):
        L.get_learning_rate(optax.adam(0.1).init(PARAMS))


def test_optaxs_own_tools_find_the_rate():
    state = after(L.chain(L.clip(1.0), L.adam(SCHEDULE)), 3)
    assert optax.tree_utils.tree_get(state, "learning_rate") == SCHEDULE(2)
    assert jax.tree.structure(optax.tree_utils.tree_get(state, "mu")) == jax.tree.structure(PARAMS)


def test_a_scale_in_the_state_multiplies_the_rate_without_a_retrace(count_traces):
    tx = L.sgd(SCHEDULE)
    counted, traces = count_traces(tx.update)
    step = jax.jit(counted)
    state = tx.init(PARAMS)
    _, state = step(PARAMS, state)
    updates, state = step(PARAMS, optax.tree_utils.tree_set(state, scale=jnp.float32(0.5)))
    assert traces == [1]
    np.testing.assert_allclose(L.get_learning_rate(state), 0.5 * SCHEDULE(1))
    np.testing.assert_allclose(updates["a"], -0.5 * SCHEDULE(1))


def test_constant_and_scheduled_rates_have_one_state():
    constant, scheduled = L.adam(0.1).init(PARAMS), L.adam(SCHEDULE).init(PARAMS)
    assert jax.tree.structure(constant) == jax.tree.structure(scheduled)
    # so a checkpoint of one goes on with the other, at the rate of the code
    _, state = L.adam(0.5).update(PARAMS, after(L.adam(SCHEDULE), 3))
    assert L.get_learning_rate(state) == 0.5


def test_optax_chain_takes_ours_and_ours_takes_optax():
    expected, _ = optax.adam(0.1).update(PARAMS, optax.adam(0.1).init(PARAMS))
    for tx in (
        optax.chain(L.scale_by_adam(), optax.scale(-0.1)),
        L.chain(optax.scale_by_adam(), L.scale(-0.1)),
        L.chain(L.chain(optax.adam(0.1))),
        L.to_optax(L.adam(0.1)),
    ):
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
        assert jax.tree.map(jnp.shape, optax.apply_updates(PARAMS, updates)) == jax.tree.map(jnp.shape, PARAMS)


def test_extra_arguments_reach_those_who_take_them():
    for tx in (
        L.chain(L.clip(10.0), optax.polyak_sgd()),
        optax.chain(optax.clip(10.0), L.to_optax(L.chain(optax.polyak_sgd()))),
    ):
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(2.5))
        np.testing.assert_allclose(updates["a"], -0.5, rtol=1e-6)  # value / ‖g‖²


def test_reduce_on_plateau_sees_the_loss_and_scales_ours():
    tx = L.chain(L.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=2))
    state = tx.init(PARAMS)
    factors = []
    for _ in range(4):  # a loss that stays
        updates, state = tx.update(PARAMS, state, PARAMS, value=jnp.float32(1.0))
        factors.append(float(updates["a"][0]))
    assert factors == [-0.5, -0.5, -0.25, -0.25]


def test_inject_hyperparams_takes_ours():
    tx = optax.inject_hyperparams(L.adam)(learning_rate=0.1)
    updates, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-5)
    assert state.hyperparams["learning_rate"] == np.float32(0.1)


def test_flax_train_state_trains_and_compiles_once(count_traces):
    model = nn.Dense(1)
    counted, traces = count_traces(
        lambda s: s.apply_gradients(grads=jax.grad(lambda p: jnp.mean((s.apply_fn(p, X) - Y) ** 2))(s.params))
    )
    step, losses, apply = jax.jit(counted), [], model.apply
    params = model.init(jax.random.key(0), X)
    for _ in range(2):  # an equal optimizer made anew
        state = TrainState.create(apply_fn=apply, params=params, tx=L.adam(L.cosine_decay_schedule(0.1, 100)))
        for _ in range(30):
            losses.append(float(jnp.mean((apply(state.params, X) - Y) ** 2)))
            state = step(state)
    assert losses[-1] < 0.3 * losses[0] and traces == [1]
    assert L.get_learning_rate(state.opt_state) == L.cosine_decay_schedule(0.1, 100)(29)


def test_nnx_optimizer_trains():
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, L.chain(L.clip_by_global_norm(1.0), L.adam(SCHEDULE)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(10)]
    assert losses[-1] < losses[0]
    rate = L.get_learning_rate(optimizer.opt_state)
    assert isinstance(rate, jax.Array) and rate == SCHEDULE(9)


@pytest.mark.parametrize("filtered", [True, False])
def test_equinox_trains(filtered):
    model = eqx.nn.MLP(4, 1, 8, 1, key=jax.random.key(0))
    tx = L.adamw(0.05, weight_decay=1e-4) if filtered else L.adam(0.05)
    state = tx.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        params = eqx.filter(model, eqx.is_array) if filtered else model
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(40):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("tx", [L.sgd(0.1, momentum=0.9), L.adamw(SCHEDULE), L.amsgrad(0.1)], ids=repr)
def test_parameters_and_state_may_be_donated(tx):
    @jax.jit
    def plain(params, state):
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        return L.apply_updates(params, updates), state

    donating = jax.jit(plain, donate_argnums=(0, 1))
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    a, b = (PARAMS, tx.init(PARAMS)), (copy(PARAMS), tx.init(PARAMS))
    for _ in range(3):
        a, b = plain(*a), donating(*b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_sharded_parameters_give_a_sharded_state():
    program = """
    import inspect, jax, jax.numpy as jnp, lrjax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    def check(name, tx, shard, **extra):
        put = lambda *shape: jax.device_put(jnp.ones(shape), shard)
        params = {"w": put(16, 8), "b": put(16), "c": put(16), "e": put(256, 128)}
        state = tx.init(params)
        update = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
        updates, new = update(params, state, params)
        for leaf in jax.tree.leaves((state, new, updates)):
            if leaf.shape and leaf.shape[0] in (16, 256):
                assert leaf.sharding.is_equivalent_to(shard, leaf.ndim), (name, leaf.shape, leaf.sharding)
        text = update.lower(params, state, params).compile().as_text()
        assert name == "muon" or "all-gather" not in text, name

    square = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
    # every one by its types: tests/transforms/sharded.py
    COMPILED = "sgd adam adafactor lamb lars muon sm3 clip packed MultiSteps sophia".split()
    made = {name: make(0.1) for name, make in vars(lrjax).items()
            if getattr(make, "__module__", "").startswith("lrjax.optimizers")
            and "learning_rate" in inspect.signature(make).parameters}
    made["clip"] = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.adamw(lrjax.cosine_decay_schedule(0.1, 10)))
    made["packed"], made["MultiSteps"] = lrjax.packed(made["clip"]), lrjax.MultiSteps(made["adam"], 4)
    mesh = lambda kind: jax.make_mesh((8,), ("d",), axis_types=(kind,))
    shards = {kind: NamedSharding(mesh(kind), P("d")) for kind in (AxisType.Explicit, AxisType.Auto)}
    for name, tx in made.items():
        for kind, shard in shards.items():
            if name not in (COMPILED if kind == AxisType.Explicit else ("adam", "clip", "muon")):
                continue
            check(name, tx, shard, **({"obj_fn": square} if name == "sophia" else {}))
    print("sharded", len(jax.devices()), len(made))
    """
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=os.environ | environment
    )
    assert done.stdout.strip() == "sharded 8 35", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tx", [L.sm3(0.1), L.adafactor(0.1), L.MultiSteps(L.sm3(0.1), 2)], ids=repr)
def test_nnx_keeps_the_state_of_every_step(tx):
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param).to_pure_dict())
    optimizer, state = nnx.Optimizer(model, tx, wrt=nnx.Param), tx.init(params)
    loss = lambda p: jnp.mean((X @ p["kernel"] + p["bias"] - Y) ** 2)
    for _ in range(4):
        optimizer.update(model, nnx.grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model))
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = L.apply_updates(params, updates)
    np.testing.assert_allclose(model.kernel[...], params["kernel"], rtol=1e-5)
