"""What a task may hold: keys, a model state, auxiliary numbers, metrics, leaves that aren't trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.search.test_sweep import LIST, RATES, STEPPED, STEPS, X, Y, init, loss_fn, task_of


def test_every_step_has_a_key_of_its_own_that_anyone_can_make_again():
    loss = lambda w, x, key: jnp.sum(w * 0) + jax.random.uniform(key)
    task = L.Task(loss, jnp.zeros(()), np.ones(20, np.float32), stacked=True, takes_key=True)
    result = L.sweep(task, L.sgd(jnp.array([0.1, 0.2])), seeds=[3, 5], progress=False)
    keys = [[jax.random.fold_in(jax.random.key(seed), t) for t in range(20)] for seed in (3, 5)]
    expected = np.array([[jax.random.uniform(key) for key in row] for row in keys])
    np.testing.assert_allclose(result.losses, np.stack([expected, expected]), rtol=1e-6)
    assert len(np.unique(expected)) == 40
    np.testing.assert_allclose(L.train(task, L.sgd(0.1), seed=5, progress=False).losses, expected[1], rtol=1e-6)


def batch_norm_init(key):
    return init(key), {"mean": jnp.zeros(8), "count": jnp.int32(0)}


def batch_norm_loss(params, state, batch):
    """A running mean that training keeps and evaluation uses."""
    x, y = batch
    hidden = x @ params["w"]
    mean = hidden.mean(axis=0)
    new = {"mean": 0.9 * state["mean"] + 0.1 * mean, "count": state["count"] + 1}
    return jnp.mean((jnp.tanh(hidden - mean[None]) @ params["v"] - y) ** 2), new


def batch_norm_metric(params, state, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"] - state["mean"][None]) @ params["v"] - y) ** 2)


STATEFUL = L.Task(batch_norm_loss, batch_norm_init, STEPPED, stacked=True, has_state=True,
                  metrics={"evaluated": (batch_norm_metric, "min")}, validation=(X, Y))  # fmt: skip


def by_hand(rate, seed):
    params, state = batch_norm_init(jax.random.key(seed))
    tx = optax.adam(rate)
    opt_state, losses = tx.init(params), []
    for batch in LIST:
        (loss, state), grads = jax.value_and_grad(batch_norm_loss, has_aux=True)(params, state, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return np.array(losses), params, state, batch_norm_metric(params, state, (X, Y))


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.promotes  # Optax does
@pytest.mark.parametrize("vectorized", [1, 4])
def test_a_model_state_is_carried_and_evaluated(vectorized):
    result = L.sweep(STATEFUL, L.adam(RATES), seeds=2, keep="all", runs_per_device=vectorized, progress=False)
    for i, rate in enumerate(RATES):
        for seed in range(2):
            losses, params, state, metric = by_hand(rate, seed)
            np.testing.assert_allclose(result.losses[i, seed], losses, rtol=1e-3)
            run = result.runs[i][seed]
            np.testing.assert_allclose(run.params["w"], params["w"], rtol=1e-2, atol=1e-3)
            np.testing.assert_allclose(run.model_state["mean"], state["mean"], rtol=1e-2, atol=1e-3)
            assert run.model_state["count"] == STEPS and run.model_state["count"].dtype == jnp.int32
            np.testing.assert_allclose(run.metrics["evaluated"][-1], metric, rtol=1e-2)
    alone = L.train(STATEFUL, L.adam(RATES[0]), seed=1, progress=False)
    np.testing.assert_allclose(alone.losses, result.losses[0, 1], rtol=1e-4)


def test_state_and_auxiliary_numbers_together():
    def loss(params, state, batch, key):
        value, new = batch_norm_loss(params, state, batch)
        return value, (new, {"noise": jax.random.normal(key), "deep": {"count": new["count"]}})

    fields = {"has_state": True, "has_aux": True, "takes_key": True, "stacked": True}
    run = L.train(L.Task(loss, batch_norm_init, STEPPED, **fields), L.sgd(0.1), progress=False)
    np.testing.assert_array_equal(run.aux["deep/count"], np.arange(1, STEPS + 1))
    assert run.rows()[3]["noise"] == run.aux["noise"][3] and len(np.unique(run.aux["noise"])) == STEPS


@pytest.mark.sampled(4)
@pytest.mark.parametrize("vectorized", [1, 3])
@pytest.mark.parametrize("given", ["tree", "function"])
def test_leaves_that_are_not_floating_are_carried_untouched(vectorized, given):
    start = {**init(jax.random.key(0)), "index": jnp.arange(3), "flag": jnp.array(True), "none": None,
             "key": jax.random.key(7)}  # fmt: skip

    def loss(params, batch):
        x, y = batch
        assert params["index"].dtype == jnp.int32 and params["none"] is None
        noise = 1e-3 * jax.random.normal(params["key"])
        return jnp.where(params["flag"], loss_fn(params, batch), 0.0) + params["index"][1].astype(jnp.float32) + noise

    task = task_of(loss_fn=loss, init=start if given == "tree" else lambda key: start)
    result = L.sweep(task, L.adamw(RATES), runs_per_device=vectorized, progress=False)
    plain = L.sweep(task_of(init=init(jax.random.key(0))), L.adamw(RATES), runs_per_device=vectorized, progress=False)
    np.testing.assert_allclose(
        result.losses - result.losses[:, :, :1], plain.losses - plain.losses[:, :, :1], atol=1e-4
    )
    params = result.run.params
    assert params["none"] is None and params["flag"] and (params["index"] == jnp.arange(3)).all()
    assert (jax.random.key_data(params["key"]) == jax.random.key_data(start["key"])).all()
    np.testing.assert_allclose(params["w"], plain.run.params["w"], rtol=1e-4)


@pytest.mark.slow
def test_metrics_are_means_over_all_examples_in_batches():
    share = lambda params, batch: jnp.mean(batch[0])
    metrics = {"first": (share, "max"), "second": (loss_fn, "min")}
    for size in (None, 7, 60, 1000):
        task = task_of(metrics=metrics, validation=(X, Y), validation_batch_size=size)
        run = L.train(task, L.sgd(0.1), eval_every=8, progress=False)
        np.testing.assert_array_equal(run.evaluated_at, [8, 16, 24, 30])
        np.testing.assert_allclose(run.metrics["first"], X.mean(), rtol=1e-4)
        np.testing.assert_allclose(run.metrics["second"][-1], loss_fn(run.params, (X, Y)), rtol=1e-5)
    listed = task_of(metrics=metrics, validation=[(X[:7], Y[:7]), (X[7:14], Y[7:14]), (X[14:], Y[14:])])
    np.testing.assert_allclose(L.train(listed, L.sgd(0.1), progress=False).metrics["first"], X.mean(), rtol=1e-4)
    of_params = task_of(metrics={"size": (lambda params: jnp.sum(params["w"]), "max")})
    run = L.train(of_params, L.sgd(0.1), progress=False)
    np.testing.assert_allclose(run.final, run.params["w"].sum(), rtol=1e-5)


def test_the_default_metric_is_the_loss_on_the_validation_set():
    run = L.train(task_of(validation=(X, Y)), L.sgd(0.1), progress=False)
    np.testing.assert_allclose(run.metrics["validation loss"], [loss_fn(run.params, (X, Y))], rtol=1e-5)


BAD = {
    "loss_fn": ({"loss_fn": 3}, "`loss_fn` must be a function"),
    "init": ({"init": None}, "`init` must be a function from a key to parameters, or a tree"),
    "data": ({"data": None, "stacked": False}, "`data` must be arrays of examples"),
    "batch_size": ({"batch_size": "a"}, "`batch_size` must be a whole number >= 1, got 'a'"),
    "flag": ({"takes_key": 1}, "`takes_key` must be True or False, got 1"),
    "metric without a direction": ({"metrics": loss_fn}, '`metrics` must be (function, "min" or "max")'),
    "direction": ({"metrics": (loss_fn, "lower")}, '`metrics` must be (function, "min" or "max")'),
    "state": ({"has_state": True, "init": {"w": X}}, "`init` must be a pair (params, model_state)"),
    "training loss": ({"takes_key": True, "validation": (X, Y)}, "`metrics` must be"),
    "validation": ({"validation": 3}, "`validation` must be arrays of examples"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_field_is_named(name):
    fields, message = BAD[name]
    with pytest.raises(ValueError) as error:
        task_of(**fields)
    assert f"Task: {message}" in str(error.value)


WRONG = {
    "a vector": ({"loss_fn": lambda p, b: p["w"].sum(axis=0)}, "a function that returns a scalar loss"),
    "a pair": ({"loss_fn": lambda p, b: (loss_fn(p, b), 1.0)}, "say `has_aux` or `has_state`"),
    "no pair": ({"has_aux": True}, "returns (loss, aux), with has_aux"),
    "aux": ({"loss_fn": lambda p, b: (loss_fn(p, b), {"a": X}), "has_aux": True}, "auxiliary numbers are scalars"),
    "state": ({"loss_fn": lambda p, s, b: (loss_fn(p, b), {}), "init": lambda k: (init(k), jnp.zeros(2)),
               "has_state": True}, "whose new model state is a tree as the old one"),
    "start": ({"loss_fn": lambda p, s, b: (loss_fn(p, b), s), "has_state": True}, "returns (params, model_state)"),
    "metric": ({"metrics": (lambda p, b: b[0], "min"), "validation": (X, Y)}, "functions that return a scalar"),
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRONG)
def test_what_a_function_gives_is_checked(name):
    fields, message = WRONG[name]
    with pytest.raises(ValueError) as error:
        L.train(task_of(**fields), L.sgd(0.1), progress=False)
    assert message in str(error.value)
