"""Models as people write them, on real data: trained as by the frameworks' own loops, tuned and compared."""

from functools import partial

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import lrjax as L
from tests.interop import real_models as models

pytestmark = [pytest.mark.promotes, pytest.mark.usefixtures("quick_compilation")]
STEPS, RATE, SEED = 50, 3e-3, 5
KEY = jax.random.key(SEED)


def keyed_batches(task):
    """Those of the first steps, each with its key: every epoch has another order of the examples."""
    count, size, found = len(task.data[0]), task.batch_size, []
    for epoch in range(2):
        order = np.random.default_rng((SEED, epoch)).permutation(count)
        found += list(order[: count // size * size].reshape(-1, size))
    batches = [jax.tree.map(lambda x, chosen=chosen: x[chosen], task.data) for chosen in found[:STEPS]]
    return [(batch, jax.random.fold_in(KEY, step)) for step, batch in enumerate(batches)]


def linen_loop(module, task, x):
    stats, tx = module.init(KEY, x[:1], train=False), optax.adam(RATE)
    params = stats.pop("params")
    state = tx.init(params)

    @jax.jit
    def step(params, stats, state, batch, key):
        def loss_fn(params):
            rngs = {"dropout": jax.random.fold_in(key, 0)}
            variables = {"params": params, **stats}
            logits, new = module.apply(variables, batch[0], train=True, rngs=rngs, mutable=["batch_stats"])
            return models.cross_entropy(logits, batch[1]), new

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, loss

    losses = []
    for batch, key in keyed_batches(task):
        params, stats, state, loss = step(params, stats, state, batch, key)
        losses.append(loss)
    return losses, module.apply({"params": params, **stats}, x, train=False)


def nnx_loop(make, task, x):
    model = make(nnx.Rngs(KEY))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        loss, grads = nnx.value_and_grad(models.loss_fn)(model, batch)
        optimizer.update(model, grads)
        return loss

    model.train()
    losses = [step(model, optimizer, batch) for batch, _ in keyed_batches(task)]
    model.eval()
    return losses, model(x)


def equinox_loop(make, loss_fn, predict, task, x):
    (model, stats), tx = make(KEY), optax.adam(RATE)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, stats, state, batch, key):
        (loss, stats), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, stats, batch, key)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), stats, state, loss

    losses = []
    for batch, key in keyed_batches(task):
        model, stats, state, loss = step(model, stats, state, batch, key)
        losses.append(loss)
    return losses, predict(eqx.nn.inference_mode(model), stats, x)


def linen_predict(model, x):
    return model(x, train=False)


def nnx_predict(model, x):
    model.eval()
    return model(x)


def equinox_cnn_predict(pair, x):
    return models.equinox_cnn_logits(eqx.nn.inference_mode(pair[0]), pair[1], x)


def equinox_transformer_predict(model, x):
    return jax.vmap(eqx.nn.inference_mode(model))(x)


def equinox_transformer_loop(task, x):
    """A model without state, as one with the state None."""
    make = lambda key: (models.EquinoxTransformer(key), None)
    loss_fn = lambda model, state, batch, key: (models.equinox_transformer_loss(model, batch, key), state)
    return equinox_loop(make, loss_fn, lambda model, state, x: jax.vmap(model)(x), task, x)


def equinox_cnn_loop(task, x):
    make = eqx.nn.make_with_state(models.EquinoxCNN)
    return equinox_loop(make, models.equinox_cnn_loss, models.equinox_cnn_logits, task, x)


LOOPS = {
    "linen_cnn": (partial(linen_loop, models.LinenCNN()), linen_predict),
    "linen_transformer": (partial(linen_loop, models.LinenTransformer()), linen_predict),
    "nnx_cnn": (partial(nnx_loop, models.NnxCNN), nnx_predict),
    "nnx_transformer": (partial(nnx_loop, models.NnxTransformer), nnx_predict),
    "equinox_cnn": (equinox_cnn_loop, equinox_cnn_predict),
    "equinox_transformer": (equinox_transformer_loop, equinox_transformer_predict),
}
each = pytest.mark.parametrize("name", LOOPS)


@pytest.mark.slow
@each
def test_trains_as_the_frameworks_own_loop_and_gives_its_model(name):
    (loop, predict), task = LOOPS[name], getattr(models, name)()
    x, labels = task.validation
    run = L.train(task, L.adam(RATE), steps=STEPS, seed=SEED, progress=False)
    losses, logits = loop(task, x)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(predict(run.model, x), logits, rtol=1e-3, atol=1e-3)
    expected = np.mean(logits.argmax(-1) == labels) if "cnn" in name else models.cross_entropy(logits, labels)
    np.testing.assert_allclose(run.final, expected, rtol=1e-5)


@pytest.mark.slow
@each
def test_is_tuned_trained_and_compared(name):
    task, steps = getattr(models, name)(), 40
    found = L.tune(task, L.adam(L.cosine_decay_schedule(1.0, steps)), steps=steps, low=1e-5, seeds=1, progress=False)
    assert found.verdict.startswith(("Found", "The best of those")), found.verdict  # a quarter of 25 runs is short
    assert 1e-4 < found.learning_rate < 0.3
    schedule = L.cosine_decay_schedule(found.learning_rate, steps)
    run = L.train(task, L.adam(schedule), steps=steps, eval_every=10, progress=False)
    np.testing.assert_allclose(run.final, found.run.final, rtol=1e-3)
    own = {"Adam": L.adam(schedule), "SGD": L.sgd(0.1, momentum=0.9)}
    table = L.compare(task, own, steps=steps, seeds=1, progress=False)
    for final in (run.final, *table.final.ravel()):
        assert final > 3 * found.start if found.mode == "max" else final < 0.8 * found.start


@pytest.mark.slow
def test_a_trained_model_learns_new_classes_in_small_batches():
    (x, labels), steps = models.DIGITS, 60
    few = models.nnx_cnn(data=(x[labels < 5], labels[labels < 5]))
    model = L.train(few, L.adam(0.01), steps=steps, progress=False).model
    task = models.nnx_cnn(model, batch_size=8)
    found = L.tune(task, L.adam(L.cosine_decay_schedule(1.0, steps)), steps=steps, low=1e-5, progress=False)
    assert found.verdict.startswith("Found") and found.start > 0.4, found.verdict
    schedule = L.cosine_decay_schedule(found.learning_rate, steps)
    assert L.train(task, L.adam(schedule), steps=steps, seed=9, progress=False).final > found.start + 0.2
