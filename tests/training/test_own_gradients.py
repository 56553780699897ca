"""Losses that bring their own gradients, beside the loops that would train them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L

pytestmark = pytest.mark.promotes  # Optax's loops

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 16, 4)).astype(np.float32)
Y = np.sin(X.sum(2))
DATA = (X, Y)
START = {"w": jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32), "v": jnp.zeros(8), "index": jnp.arange(3)}
VALIDATION = (X[0], Y[0])


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def trained(params):
    return {name: x for name, x in params.items() if name != "index"}


def loop(tx, gradients):
    params, losses = trained(START), []
    state = tx.init(params)
    for batch in zip(*DATA, strict=True):
        value, grads = gradients(params, batch)
        updates, state = tx.update(grads, state, params)
        params, losses = optax.apply_updates(params, updates), [*losses, value]
    return losses, params


def task_of(value_and_grad_fn, **fields):
    fields = {"validation": VALIDATION, "stacked": True, **fields}
    return L.Task(loss_fn, START, DATA, value_and_grad_fn=value_and_grad_fn, **fields)


def agrees(run, losses, params):
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    assert (run.params["index"] == jnp.arange(3)).all()
    for name, x in params.items():
        np.testing.assert_allclose(run.params[name], x, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_gradients_of_a_scaled_loss():
    def scaled(params, batch):
        value, grads = jax.value_and_grad(lambda p: 1024.0 * loss_fn(p, batch), allow_int=True)(params)
        return value / 1024.0, jax.tree.map(lambda g: g if g.dtype == jax.dtypes.float0 else g / 1024.0, grads)

    run = L.train(task_of(scaled), L.adam(0.02), progress=False)
    agrees(run, *loop(optax.adam(0.02), jax.value_and_grad(loss_fn)))
    np.testing.assert_allclose(run.final, loss_fn(run.params, VALIDATION), rtol=1e-5)
    swept = L.sweep(task_of(scaled), L.adam(jnp.array([0.01, 0.02])), runs_per_device=2, progress=False)
    np.testing.assert_allclose(swept.losses[1, 0], run.losses, rtol=1e-4)


@pytest.mark.slow
def test_gradients_of_single_examples():
    def per_example(params, batch):
        one = lambda x, y: jax.value_and_grad(lambda p: loss_fn({**params, **p}, (x[None], y[None])))(trained(params))
        values, grads = jax.vmap(one)(*batch)
        return jnp.mean(values), {**grads, "index": None}

    def clipped_mean(grads, params=None):
        return jax.tree.map(lambda x: x / 16, L.per_example_global_norm_clip(jax.tree.leaves(grads), 0.5)[0])

    per_leaf = lambda grads, params=None: jax.tree.unflatten(jax.tree.structure(grads), clipped_mean(grads))
    run = L.train(task_of(per_example), L.chain(L.stateless(per_leaf), L.sgd(0.1)), progress=False)

    def clipped(params, batch):
        value, grads = per_example(params, batch)
        return value, trained(grads)

    clip = optax.contrib.differentially_private_aggregate(0.5, 0.0, key=0)  # without noise: it only clips, and averages
    agrees(run, *loop(optax.chain(clip, optax.sgd(0.1)), clipped))


@pytest.mark.slow
def test_two_optimizers_of_a_game(tmp_path):
    """A generator's scale and a discriminator's threshold, each with its own loss."""

    def generator(g, d, x):
        return jnp.mean(jax.nn.softplus(-(g * x - d)))

    def discriminator(d, g, x):
        return jnp.mean(jax.nn.softplus(-(x - d)) + jax.nn.softplus(g * x - d))

    def value_and_grad(params, x, key):
        x = x + 0.1 * jax.random.normal(key, x.shape)
        loss, g = jax.value_and_grad(generator)(params["g"], params["d"], x)
        other, d = jax.value_and_grad(discriminator)(params["d"], params["g"], x)
        return (loss, {"discriminator": other}), {"g": g, "d": d}

    start, data = {"g": jnp.array(0.1), "d": jnp.array(0.5)}, X[..., 0]
    task = L.Task(None, start, data, stacked=True, takes_key=True, has_aux=True, value_and_grad_fn=value_and_grad)
    ours = L.partition({"g": L.adam(0.05), "d": L.sgd(0.1)}, {"g": "g", "d": "d"})
    run = L.train(task, ours, checkpoint=tmp_path, progress=False)
    assert L.train(task, ours, checkpoint=tmp_path, progress=False).params == run.params
    tx = optax.partition({"g": optax.adam(0.05), "d": optax.sgd(0.1)}, {"g": "g", "d": "d"})
    params, state = start, tx.init(start)
    for i, x in enumerate(data):
        (_, aux), grads = value_and_grad(params, jnp.asarray(x), jax.random.fold_in(jax.random.key(0), i))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose([run.params[n] for n in "gd"], [params[n] for n in "gd"], rtol=1e-4)
    np.testing.assert_allclose(run.aux["discriminator"][-1], aux["discriminator"], rtol=1e-4)


WRONG = {
    "no pair": (
        lambda p, b: loss_fn(p, b),
        "`value_and_grad_fn` must be a function that returns (what the loss returns",
    ),
    "loss": (lambda p, b: (p["v"], p), "`value_and_grad_fn` must be a function that returns a scalar loss"),
    "tree": (lambda p, b: (loss_fn(p, b), {"w": p["w"]}), "whose gradients are a tree as the parameters"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_it_gives_is_checked(name):
    function, message = WRONG[name]
    with pytest.raises(ValueError) as error:
        L.train(task_of(function), L.sgd(0.1), progress=False)
    assert message in str(error.value)


def test_one_of_both_is_needed():
    with pytest.raises(ValueError, match="Task: `loss_fn` must be a function"):
        L.Task(None, START, DATA, stacked=True)
    with pytest.raises(
        ValueError, match="`value_and_grad_fn` must be a function as jax.value_and_grad makes it, got 3"
    ):
        task_of(3)
    with pytest.raises(ValueError, match="`metrics` must be given"):
        L.Task(None, START, DATA, stacked=True, validation=VALIDATION, value_and_grad_fn=loss_fn)
