"""Models of flax and Equinox with BatchNorm and dropout, beside the loops that their own users write."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lrjax as L
from lrjax.tasks.digits import digits

pytestmark = pytest.mark.promotes  # others' models
STEPS, BATCH, RATE, SEED = 50, 16, 3e-3, 3
X, Y = jax.tree.map(lambda x: np.asarray(x[: STEPS * BATCH]), digits().data)
X = X.reshape(-1, 8, 8, 1)
STEPPED = X.reshape(STEPS, BATCH, 8, 8, 1), Y.reshape(STEPS, BATCH)  # one batch a step, so that both see the same
VALIDATION = X[:100], Y[:100]
KEY = jax.random.key(SEED)
step_key = lambda step: jax.random.fold_in(KEY, step)


def loss_fn(model, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def accuracy(model, batch):
    x, y = batch
    return (model(x).argmax(-1) == y).mean()


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3), use_bias=False)(x)))
        x = nn.Dropout(0.3, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(10)(x)


def linen_task(**fields):
    train, evaluate = {"train": True}, {"train": False}
    more = {"rngs": ("dropout",), "train_arguments": train, "eval_arguments": evaluate, "stacked": True}
    return L.Task.from_linen(LinenNet(), loss_fn, STEPPED, **{**more, **fields})


def linen_loop():
    module, tx = LinenNet(), optax.adam(RATE)
    variables = module.init(KEY, jnp.zeros((1, 8, 8, 1)), train=False)
    params, stats, state = variables["params"], variables["batch_stats"], tx.init(variables["params"])

    @jax.jit
    def step(params, stats, state, batch, key):
        def loss(params):
            rngs = {"dropout": jax.random.fold_in(key, 0)}
            apply = lambda x: module.apply({"params": params, "batch_stats": stats}, x, train=True, rngs=rngs,
                                           mutable=["batch_stats"])  # fmt: skip
            logits, new = apply(batch[0])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), new["batch_stats"]

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, value

    losses = []
    for i, batch in enumerate(zip(*STEPPED, strict=True)):
        params, stats, state, value = step(params, stats, state, batch, step_key(i))
        losses.append(value)
    return losses, module.apply({"params": params, "batch_stats": stats}, VALIDATION[0], train=False)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(1, 8, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.out = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def nnx_task(**fields):
    return L.Task.from_nnx(lambda rngs: NnxNet(rngs), loss_fn, STEPPED, **{"stacked": True, **fields})


def nnx_loop():
    model = NnxNet(nnx.Rngs(KEY))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        value, grads = nnx.value_and_grad(loss_fn)(model, batch)
        optimizer.update(model, grads)
        return value

    losses = [step(model, optimizer, batch) for batch in zip(*STEPPED, strict=True)]
    model.eval()
    return losses, model(VALIDATION[0])


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 8, 3, padding=1, use_bias=False, key=keys[0])
        self.norm = eqx.nn.BatchNorm(8, "b", mode="batch")
        self.dropout, self.out = eqx.nn.Dropout(0.3), eqx.nn.Linear(8, 10, key=keys[1])

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.conv(x.transpose(2, 0, 1)), state)
        return self.out(self.dropout(jax.nn.relu(x).mean((1, 2)), key=key)), state


def equinox_loss(model, state, batch, key):
    x, y = batch
    apply = jax.vmap(model, axis_name="b", in_axes=(0, None, 0), out_axes=(0, None))
    logits, state = apply(x, state, jax.random.split(key, len(x)))
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state


def equinox_predict(model, state, x):
    return jax.vmap(model, axis_name="b", in_axes=(0, None), out_axes=(0, None))(x, state)[0]


def equinox_accuracy(model, state, batch):
    return (equinox_predict(model, state, batch[0]).argmax(-1) == batch[1]).mean()


def equinox_task(**fields):
    more = {"takes_key": True, "has_state": True, "stacked": True}
    return L.Task.from_equinox(eqx.nn.make_with_state(EquinoxNet), equinox_loss, STEPPED, **{**more, **fields})


def equinox_loop():
    model, stats = eqx.nn.make_with_state(EquinoxNet)(KEY)
    tx = optax.adam(RATE)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, stats, state, batch, key):
        (value, stats), grads = eqx.filter_value_and_grad(equinox_loss, has_aux=True)(model, stats, batch, key)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), stats, state, value

    losses = []
    for i, batch in enumerate(zip(*STEPPED, strict=True)):
        model, stats, state, value = step(model, stats, state, batch, step_key(i))
        losses.append(value)
    return losses, equinox_predict(eqx.nn.inference_mode(model), stats, VALIDATION[0])


def linen_predict(model):
    return model(VALIDATION[0], train=False)


def nnx_predict(model):
    model.eval()
    return model(VALIDATION[0])


def equinox_predict_all(model):
    return equinox_predict(eqx.nn.inference_mode(model[0]), model[1], VALIDATION[0])


CASES = {
    "linen": (linen_task, linen_loop, linen_predict, accuracy),
    "nnx": (nnx_task, nnx_loop, nnx_predict, accuracy),
    "equinox": (equinox_task, equinox_loop, equinox_predict_all, equinox_accuracy),
}
each = pytest.mark.parametrize("name", CASES)


@pytest.mark.slow
@each
def test_trains_as_the_frameworks_own_loop(name, tmp_path):
    make, loop, predict, metric = CASES[name]
    task = make(metrics={"accuracy": (metric, "max")}, validation=VALIDATION)
    run = L.train(task, L.adam(RATE), seed=SEED, progress=False)
    losses, logits = loop()
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predict(run.model), logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run.final, np.mean(np.argmax(logits, 1) == VALIDATION[1]), atol=1e-6)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match="Run.model: no model is known"):
        _ = L.Run.load(tmp_path / "run").model
    np.testing.assert_allclose(predict(L.Run.load(tmp_path / "run", task).model), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@each
def test_is_searched_and_compared_like_any_task(name):
    make, _, predict, _ = CASES[name]
    task = make(validation=VALIDATION)
    found = L.tune(task, L.adam(1e-3), low=1e-4, high=1e-1, seeds=1, progress=False)
    assert found.metric == "validation loss" and 1e-4 <= found.learning_rate <= 1e-1, found.verdict
    result = L.sweep(task, L.adam(jnp.array([1e-3, 1e-2])), seeds=2, runs_per_device=2, progress=False)
    alone = L.train(task, L.adam(1e-2), seed=1, progress=False)
    np.testing.assert_allclose(result.losses[1, 1], alone.losses, rtol=1e-3, atol=1e-3)
    assert predict(result.run.model).shape == (100, 10)
    if name != "nnx":
        return
    table = L.compare(task, {"a": L.adam(1e-2), "b": L.sgd(0.1, momentum=0.9)}, seeds=1, progress=False)
    assert len(table.rows()) == 2
    assert np.isfinite(L.range_test(task, L.sgd(0.1), progress=False).losses).any()


@pytest.mark.slow
@each
def test_goes_on_from_a_checkpoint(name, tmp_path):
    task = CASES[name][0](validation=VALIDATION)
    run = L.train(task, L.adam(RATE), checkpoint=tmp_path / "run", progress=False)
    again = L.train(task, L.adam(RATE), checkpoint=tmp_path / "run", progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    np.testing.assert_array_equal(CASES[name][2](again.model), CASES[name][2](run.model))


@pytest.mark.slow
@pytest.mark.sampled(3)
@each
def test_evaluation_has_no_dropout_and_running_statistics(name):
    make, _, predict, metric = CASES[name]
    task = make(metrics={"accuracy": (metric, "max")}, validation=VALIDATION)
    run = L.train(task, L.sgd(0.0), steps=2, eval_every=1, progress=False)
    first = L.train(task, L.sgd(0.0), steps=1, progress=False)
    np.testing.assert_allclose(run.metrics["accuracy"][0], first.metrics["accuracy"][0])
    assert run.metrics["accuracy"][0] == np.mean(np.argmax(predict(first.model), 1) == VALIDATION[1])


@pytest.mark.slow
def test_training_goes_on_from_a_model_that_is_given():
    first = L.train(nnx_task(), L.adam(0.03), progress=False)
    model = first.model
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    task = L.Task.from_nnx(model, loss_fn, STEPPED, stacked=True)
    result = L.sweep(task, L.adam(jnp.array([1e-4, 1e-3])), seeds=2, keep="all", progress=False)
    assert (result.losses[:, :, 0] < 0.99 * first.losses[0]).all()
    assert result.losses[0, 0, 0] != result.losses[0, 1, 0]  # dropout differs from seed to seed
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Param))  # and the model stays
    variables = L.train(linen_task(), L.adam(RATE), progress=False).model.variables
    again = L.train(linen_task(variables=variables), L.sgd(0.0), steps=1, progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, variables["params"])
    pair = L.train(equinox_task(), L.adam(0.03), progress=False).model
    task = L.Task.from_equinox(pair, equinox_loss, STEPPED, stacked=True, takes_key=True, has_state=True)
    assert L.train(task, L.sgd(0.0), steps=1, progress=False).losses[0] < 0.99 * first.losses[0]


def test_shared_and_frozen_parameters_of_nnx():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(4, 4, rngs=rngs)
            self.b, self.frozen, self.none, self.count = self.a, nnx.BatchStat(jnp.ones(4)), None, 3

        def __call__(self, x):
            return self.b(self.a(x)) * self.frozen[...]

    loss = lambda model, x: jnp.mean((model(x) - 1.0) ** 2)
    task = L.Task.from_nnx(Tied, loss, np.eye(4, dtype=np.float32), batch_size=4)
    run = L.train(task, L.sgd(0.2), steps=60, progress=False)
    model = run.model
    assert model.a is model.b and model.none is None and model.count == 3
    assert run.losses[-1] < 0.1 * run.losses[0] and (model.frozen[...] == 1).all()
    assert len(jax.tree.leaves(run.params)) == 2


def test_a_module_may_be_called_twice_and_draw_other_numbers():
    class Noise(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls = self.variable("calls", "n", lambda: jnp.zeros((), jnp.int32))
            if not self.is_initializing():
                calls.value = calls.value + 1
            return nn.Dense(1)(x) + jax.random.normal(self.make_rng("noise"))

    def loss(model, x):
        first, second = model(x), model(x)
        return jnp.mean(first - second) ** 2, {"difference": jnp.mean(first - second)}

    data = np.ones((6, 2, 3), np.float32)
    task = L.Task.from_linen(Noise(), loss, data, stacked=True, rngs=("noise",), has_aux=True)
    run = L.train(task, L.sgd(0.0), progress=False)
    assert run.model_state["calls"]["n"] == 12 and len(np.unique(run.aux["difference"])) == 6


def test_a_plain_task_refuses_what_needs_its_framework_and_takes_trees_that_can_be_called():
    with pytest.raises(ValueError, match="Task.from_equinox"):
        L.Task(loss_fn, eqx.nn.MLP(2, 2, 2, 1, key=KEY), X, batch_size=2)
    linear = eqx.nn.Linear(2, 1, key=KEY)
    task = L.Task(lambda m, x: jnp.mean((jax.vmap(m)(x) - 1) ** 2), linear, np.eye(2, dtype=np.float32), batch_size=2)
    assert isinstance(L.train(task, L.sgd(0.5), steps=30, progress=False).params, eqx.nn.Linear)


BAD = {
    "module": (lambda: L.Task.from_linen(3, loss_fn, X, 4), "`module` must be a flax.linen.Module, got 3"),
    "variables": (lambda: linen_task(variables={}), "`variables` must be collections with"),
    "no batch": (lambda: L.Task.from_linen(LinenNet(), loss_fn, iter([X])), "`variables` must be given"),
    "nnx": (lambda: L.Task.from_nnx(3, loss_fn, X, 4), "`make_model` must be a function from nnx.Rngs"),
    "nnx function": (lambda: L.Task.from_nnx(lambda rngs: 3, loss_fn, X, 4), "that returns an nnx.Module"),
    "equinox": (lambda: L.Task.from_equinox(lambda key: 3, loss_fn, X, 4), "a model with arrays"),
    "state": (lambda: L.Task.from_equinox(EquinoxNet, equinox_loss, X, 4, has_state=True), "eqx.nn.make_with_state"),
    "flag": (lambda: L.Task.from_equinox(eqx.nn.make_with_state(EquinoxNet), equinox_loss, X, 4),
             "`has_state` must be True"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_model_is_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
