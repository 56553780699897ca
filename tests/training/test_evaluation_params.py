"""Metrics, and the model of a run, are those of the parameters to evaluate with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lrjax as L
from lrjax.tasks.digits import digits

RATE = 0.3


def noisy_task(**options):
    """A regression with noise, whose parameters jump about the solution under a constant rate."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(512, 4)).astype(np.float32), rng.normal(size=512).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + noise

    def loss(params, batch):
        x, y = batch
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    start = {"w": jnp.zeros(4), "b": jnp.zeros(()), "frozen": jnp.arange(2)}
    return L.Task(
        loss, start, (x[:256], y[:256]), batch_size=8, metrics={"loss": (loss, "min")},
        validation=(x[256:], y[256:]), **options,
    )  # fmt: skip


def test_metrics_are_those_of_the_average_and_a_run_has_it():
    task = noisy_task()
    run = L.train(task, L.chain(L.sgd(RATE), L.ema_params(0.95)), steps=200)
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), task.validation_batches[0])
    loss = lambda params: float(task.loss_fn(params, batch))
    assert run.metrics["loss"][-1] == pytest.approx(loss(run.evaluation_params), rel=1e-5)
    assert loss(run.evaluation_params) < 0.9 * loss(run.params)
    assert jax.tree.structure(run.evaluation_params) == jax.tree.structure(run.params)
    plain = L.train(task, L.sgd(RATE), steps=200)
    assert plain.evaluation_params is plain.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain.params, run.params)


def test_a_loaded_run_has_it_too(tmp_path):
    run = L.train(noisy_task(), L.chain(L.sgd(RATE), L.average_params(10)), steps=30)
    run.save(tmp_path / "run")
    back = L.Run.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, back.evaluation_params, run.evaluation_params)


def test_a_sweep_evaluates_with_it():
    task, rates = noisy_task(), jnp.array([0.05, 0.3])
    tx = lambda rate: L.chain(L.sgd(rate), L.average_params(50))
    result = L.sweep(task, tx(rates), steps=100, seeds=2)
    for i, rate in enumerate(rates):
        for seed in range(2):
            alone = L.train(task, tx(float(rate)), steps=100, seed=seed)
            np.testing.assert_allclose(result.metrics["loss"][i, seed, -1], alone.metrics["loss"][-1], rtol=1e-4)
    table = L.compare(task, {"plain": L.sgd(RATE), "averaged": tx(RATE)}, steps=100, seeds=2)
    found = {
        name: np.mean(x[:, -1]) for name, x in zip((e.name for e in table.entries), table.metrics["loss"], strict=True)
    }
    assert found["averaged"] < found["plain"]


def test_lookahead_is_evaluated_at_its_slow_parameters():
    seen = []

    def loss(params, batch):
        return jnp.mean((params.fast - batch) ** 2)

    def metric(params, batch):
        seen.append(type(params))
        return jnp.mean(params.fast) + 0 * jnp.mean(batch)

    task = L.Task(
        loss, L.LookaheadParams.init_synced(jnp.zeros(())), jnp.ones(64), batch_size=4, metrics={"m": (metric, "max")},
        validation=jnp.ones(4),
    )  # fmt: skip
    run = L.train(task, L.lookahead(L.sgd(0.25), 4, 0.5), steps=6)
    assert set(seen) == {L.LookaheadParams}
    np.testing.assert_allclose(run.metrics["m"][-1], run.params.slow)
    assert run.params.slow != run.params.fast and run.evaluation_params is run.params.slow


def test_the_model_of_a_run_has_it():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    loss = lambda model, batch: jnp.mean((model(batch) - 1.0) ** 2)
    task = L.Task.from_nnx(lambda rngs: nnx.Linear(3, 1, rngs=rngs), loss, x, batch_size=8)
    run = L.train(task, L.chain(L.sgd(0.3), L.ema_params(0.9)), steps=20)
    kernel = np.array(run.model.kernel[...])
    np.testing.assert_array_equal(kernel, jax.tree.leaves(nnx.to_pure_dict(run.evaluation_params)["kernel"])[0])
    assert not np.array_equal(kernel, jax.tree.leaves(nnx.to_pure_dict(run.params)["kernel"])[0])


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    task, tx = noisy_task(), L.chain(L.sgd(RATE), L.ema_params(0.9))
    whole = L.train(task, tx, steps=60, eval_every=20, checkpoint=tmp_path / "a")
    again = L.train(task, tx, steps=60, eval_every=20, checkpoint=tmp_path / "a")
    fresh = L.train(task, tx, steps=60, eval_every=20)
    for run in (again, fresh):
        np.testing.assert_array_equal(run.metrics["loss"], whole.metrics["loss"])
        jax.tree.map(np.testing.assert_array_equal, run.evaluation_params, whole.evaluation_params)


CYCLIC = L.cyclic_schedule(2e-3, 2e-2, step_size_up=10)  # of 20 steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "average"),
    [
        (0.01, L.ema_params(0.98)),
        (0.01, L.average_params(200)),
        (0.01, L.polynomial_average_params(8.0)),
        (CYCLIC, L.swa_params(20, begin_step=200)),
    ],
    ids=["ema", "tail", "polynomial", "swa"],
)
def test_digits_with_small_batches_and_a_rate_that_stays_are_learned_better(rate, average):
    task = digits()
    task = dataclasses.replace(task, batch_size=4, metrics={"loss": (task.loss_fn, "min")})
    losses = [
        np.mean([L.train(task, tx, steps=400, seed=seed).final for seed in range(4)])
        for tx in (L.adam(rate), L.chain(L.adam(rate), average))
    ]
    assert losses[1] < 0.7 * losses[0], losses  # of the validation set
