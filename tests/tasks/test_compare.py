"""What `compare` says of the techniques on real data."""

import jax
import numpy as np
import pytest

import lrjax.compare
from lrjax.compare import ADAPTIVE, TASKS, compare, techniques


@pytest.fixture(scope="module")
def result():
    return compare(TASKS["digits"](), steps=120, seeds=2)


def row(result, name):
    return next(r for r in result.rows() if r["technique"] == name)


@pytest.mark.slow
def test_too_low_barely_moves_and_too_high_does_not_learn(result):
    low, right, high = (row(result, f"fixed, {n}") for n in ("too low", "well chosen", "too high"))
    assert low["train_loss"] > 5 * right["train_loss"] and not low["diverged"]
    assert high["diverged"] == 2 and high["test_metric"] < 0.3
    assert right["test_metric"] > 0.9 and right["steps_to_target"] < 120


@pytest.mark.slow
def test_every_other_technique_learns(result):
    for r in result.rows():
        if not r["technique"].startswith("fixed, too"):
            assert r["test_metric"] > 0.85 and r["diverged"] == 0, r


@pytest.mark.slow
def test_the_curve_of_a_run_is_that_of_its_schedule(result):
    for technique, rates in zip(result.techniques, result.rates, strict=True):
        np.testing.assert_array_equal(rates, np.asarray(technique.schedule(np.arange(120))))


@pytest.mark.slow
def test_a_run_is_the_same_as_trained_alone(result):
    task, name = TASKS["digits"](), "cosine with warmup"
    i, technique = next((i, t) for i, t in enumerate(result.techniques) if t.name == name)
    tx, params = technique.optimizer(technique.schedule), task.init(jax.random.split(jax.random.key(0), 2)[1])
    state, losses = tx.init(params), []
    for batch in lrjax.compare._batches(len(task.train[0]), task.batch_size, 2, 120)[1]:
        loss, grads = jax.value_and_grad(task.loss_fn)(params, jax.tree.map(lambda x, b=batch: x[b], task.train))
        updates, state = tx.update(grads, state, params)
        params = lrjax.apply_updates(params, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(losses[:30], result.losses[i, 1, :30], rtol=1e-3)


def test_a_family_is_one_program(monkeypatch):
    task = TASKS["diabetes"]()
    traced = []
    counting = task._replace(loss_fn=lambda p, b: traced.append(b[0].shape) or task.loss_fn(p, b))
    compare(counting, steps=80, seeds=2)
    families = {t.family for t in techniques(task, 80)}
    # once for the batches inside the scan, once for all the training examples
    assert len(traced) == 2 * len(families) and len(families) == 4


def test_every_technique_of_the_mission_is_there():
    names = {t.name for t in techniques(TASKS["digits"](), 400)}
    for word in ("too low", "well chosen", "too high", "step", "exponential", "polynomial", "inverse-time", "cyclic"):
        assert any(word in name for name in names), word
    adaptive = {t.name for t in techniques(TASKS["digits"](), 400) if t.group == ADAPTIVE}
    assert adaptive == {"AdaGrad", "RMSprop", "RMSprop, momentum", "Adam, no momentum", "Adam"}


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 97, 1000])
def test_techniques_and_chunks_fit_any_number_of_steps(steps):
    for technique in techniques(TASKS["digits"](), steps):
        assert np.isfinite(np.asarray(technique.schedule(np.arange(steps)))).all()
    assert steps % lrjax.compare._chunk(steps) == 0


def test_an_epoch_shows_every_example_once():
    batches = lrjax.compare._batches(examples=20, batch_size=5, seeds=2, steps=8)
    assert batches.shape == (2, 8, 5)
    for seed in batches:
        for epoch in (seed[:4], seed[4:]):
            assert sorted(epoch.ravel()) == list(range(20))
    assert not np.array_equal(batches[0], batches[1])
