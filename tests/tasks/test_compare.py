"""What `compare` says of the techniques on real data."""

from itertools import islice

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
            assert r["test_metric"] > 0.9 and r["diverged"] == 0, r


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
    for indices in islice(lrjax.compare._batches(len(task.train[0]), task.batch_size, 2), 30):
        batch = indices[1]
        loss, grads = jax.value_and_grad(task.loss_fn)(params, jax.tree.map(lambda x, b=batch: x[b], task.train))
        updates, state = tx.update(grads, state, params)
        params = lrjax.apply_updates(params, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, result.losses[i, 1, :30], rtol=1e-3)


@pytest.fixture(scope="module")
def small():
    """A run whose last chunk is shorter than the others: the result, the traces of the loss, the progress."""
    task, traced, seen = TASKS["diabetes"](), [], []
    counting = task._replace(loss_fn=lambda p, b: traced.append(b[0].shape) or task.loss_fn(p, b))
    return compare(counting, steps=83, seeds=2, progress=lambda *at: seen.append(at)), traced, seen


def test_a_family_is_one_program(small):
    result, traced, _ = small
    # once in each family's step, and once for the losses of all the models on all the training examples
    assert len(traced) == len({t.family for t in result.techniques}) + 1 == 5


def test_progress_reaches_its_total(small):
    done, totals = zip(*small[2], strict=True)
    assert set(totals) == {4 * 83} and done[-1] == 4 * 83 and list(done) == sorted(set(done)) and len(done) > 100


def test_every_step_is_made_and_the_last_is_evaluated(small):
    result, _, _ = small
    assert result.losses.shape == (17, 2, 83) and result.metric.shape == (17, 2, len(result.evaluated_at))
    assert result.evaluated_at[-1] == 83 and (np.diff(result.evaluated_at) > 0).all()
    i = next(i for i, t in enumerate(result.techniques) if t.name == "Adam")
    assert np.isfinite(result.losses[i]).all() and (result.losses[i] > 0).all()


def test_every_technique_of_the_mission_is_there():
    names = {t.name for t in techniques(TASKS["digits"](), 400)}
    for word in ("too low", "well chosen", "too high", "step", "exponential", "polynomial", "inverse-time", "cyclic"):
        assert any(word in name for name in names), word
    adaptive = {t.name for t in techniques(TASKS["digits"](), 400) if t.group == ADAPTIVE}
    assert adaptive == {"AdaGrad", "RMSprop", "RMSprop, momentum", "Adam, no momentum", "Adam"}


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 97, 1000])
def test_techniques_fit_any_number_of_steps(steps):
    for technique in techniques(TASKS["digits"](), steps):
        assert np.isfinite(np.asarray(technique.schedule(np.arange(steps)))).all()


def test_an_epoch_shows_every_example_once():
    batches = np.stack(list(islice(lrjax.compare._batches(examples=22, batch_size=5, seeds=2), 8)), axis=1)
    assert batches.shape == (2, 8, 5)
    for seed in batches:
        for epoch in (seed[:4], seed[4:]):
            assert len(set(epoch.ravel())) == 20 and set(epoch.ravel()) <= set(range(22))
    assert not np.array_equal(batches[0], batches[1]) and not np.array_equal(batches[0, :4], batches[0, 4:])


@pytest.mark.parametrize("name", TASKS)
def test_the_training_examples_are_standardised_and_the_test_examples_by_the_same_numbers(name):
    task = TASKS[name]()
    x, x_test = task.train[0], task.test[0]
    spread = x.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(spread[spread > 0], 1, atol=1e-4)
    assert x.dtype == x_test.dtype == np.float32 and np.isfinite(x_test).all()
    assert np.abs(x_test.mean(axis=0)).max() > 1e-3  # not by their own
    rows = {row.tobytes() for row in x}
    assert len(x) + len(x_test) == {"digits": 1797, "diabetes": 442}[name] and not rows & {r.tobytes() for r in x_test}
