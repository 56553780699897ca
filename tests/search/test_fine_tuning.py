"""Training that goes on from a trained model, in small batches: what `tune` finds there, and what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.tasks.base import mlp
from lrjax.tasks.digits import digits

STEPS = 200
COSINE = L.adam(L.cosine_decay_schedule(1.0, STEPS))
TASK = digits()
(X, Y), (X_TEST, Y_TEST) = TASK.data, TASK.validation
SOME, OTHERS = (X[:600], Y[:600]), (X[600:1100], Y[600:1100])
VALIDATION = X_TEST[:300], Y_TEST[:300]
FEW = Y[:600] < 5


def cross_entropy(params, batch):
    log_p = jax.nn.log_softmax(mlp(params, batch[0]))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(batch[1], 10) * log_p, axis=1))


def accuracy(params, batch):
    return jnp.mean((mlp(params, batch[0]).argmax(axis=1) == batch[1]).astype(jnp.float32))


JUDGED = {
    "loss": {},
    "validation loss": {"validation": VALIDATION},
    "accuracy": {"validation": VALIDATION, "metrics": {"accuracy": (accuracy, "max")}},
}


def task_of(start, data, batch_size, judged="accuracy"):
    return L.Task(cross_entropy, start, data, batch_size, **JUDGED[judged])


def trained(data, steps):
    optimizer = L.adam(L.cosine_decay_schedule(3e-3, steps))
    return L.train(task_of(TASK.init, data, 64), optimizer, steps=steps, progress=False).params


def tune(task, optimizer=COSINE, **options):
    return L.tune(task, optimizer, steps=STEPS, progress=False, **options)


@pytest.fixture(scope="module")
def starts():
    """By name: of all classes but little trained, of half of the classes, and nearly at the optimum."""
    return {
        "early": trained(SOME, 100),
        "five classes": trained((X[:600][FEW], Y[:600][FEW]), 600),
        "converged": trained(SOME, 1500),
    }


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch_size", [4, 8])
@pytest.mark.parametrize(("start", "data", "gain"), [("early", SOME, 0.0), ("five classes", OTHERS, 0.2)])
def test_the_rate_that_is_found_takes_nothing_away(start, data, gain, batch_size, starts):
    task = task_of(starts[start], data, batch_size)
    found = tune(task)
    assert found.verdict.startswith("Found"), found.verdict
    assert found.start == pytest.approx(float(accuracy(starts[start], VALIDATION)))
    optimizer = L.adam(L.cosine_decay_schedule(found.learning_rate, STEPS))
    for seed in range(3, 6):  # others than those of the search
        assert L.train(task, optimizer, steps=STEPS, seed=seed, progress=False).final >= found.start + gain


@pytest.mark.sampled(12)
@pytest.mark.parametrize("optimizer", [COSINE, L.sgd(0.1)], ids=["adam", "sgd"])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("judged", ["validation loss", "accuracy"])
def test_a_start_at_the_optimum_has_no_best_rate(judged, batch_size, optimizer, starts):
    found = tune(task_of(starts["converged"], SOME, batch_size, judged), optimizer)
    assert found.verdict.startswith(("Nothing was learned", "Cannot tell")) and np.isnan(found.learning_rate)


def test_a_range_above_all_that_is_stable(starts):
    found = tune(task_of(starts["converged"], SOME, 4, "loss"), L.adam, low=0.5)
    assert found.verdict == "Everything diverged: try rates below 0.5."


def final_at(task, rate):
    """The mean of what decides, over other seeds than those of the search."""
    result = L.sweep(task, COSINE, learning_rates=[rate], steps=STEPS, seeds=range(100, 105), progress=False)
    return float(result.mean[0])


@pytest.mark.slow
@pytest.mark.parametrize("judged", ["loss", "validation loss"])
def test_a_rate_that_does_better_later_is_not_said_to_do_worse(judged, starts):
    """After a tenth of the run a high rate has done harm; at the end it is the best."""
    task = task_of(starts["early"], SOME, 8, judged)
    found = tune(task)
    if found.verdict.startswith("Found"):
        assert final_at(task, found.learning_rate) < 1.1 * final_at(task, 0.01), found.verdict


@pytest.mark.slow
def test_what_a_higher_rate_learns_is_not_called_nothing(starts):
    task = task_of(starts["early"], OTHERS, 8)
    assert final_at(task, 0.00464) > accuracy(starts["early"], VALIDATION) + 0.03
    assert not tune(task).verdict.startswith("Nothing was learned")


def test_a_loss_that_falls_to_a_thousandth_has_fallen(starts):
    task = task_of(starts["converged"], (OTHERS[0][:40], OTHERS[1][:40]), 1, "loss")
    result = L.sweep(task, COSINE, learning_rates=np.geomspace(1e-4, 0.1, 7), steps=STEPS, seeds=3, progress=False)
    assert final_at(task, 0.01) < 0.02 * result.start
    assert not result.verdict.startswith("Nothing was learned"), result.verdict


@pytest.mark.parametrize("keep", ["best", None])
def test_one_example_more_is_no_gain(keep):
    """Of 300 examples 150 are right at any w, and one more where w ends between 0.4 and 0.7."""
    examples = np.repeat([0.0, 1.0, 2.0], [1, 150, 149]).astype(np.float32)
    right = lambda w, x: jnp.mean(jnp.where(x == 0, (w > 0.4) & (w < 0.7), x == 1).astype(jnp.float32))
    loss = lambda w, x: jnp.mean((w - x) ** 2)
    data = np.random.default_rng(0).normal(1.0, 0.1, 100).astype(np.float32)
    task = L.Task(loss, jnp.zeros(()), data, 4, metrics={"accuracy": (right, "max")}, validation=examples)
    rates = np.geomspace(1e-4, 0.1, 10)
    grid = L.sweep(task, L.sgd, learning_rates=rates, steps=STEPS, seeds=3, keep=keep, progress=False)
    assert grid.mean.max() > grid.start
    for found in (tune(task, L.sgd), grid):
        assert not found.verdict.startswith("Found"), found.verdict


def test_a_metric_of_runs_that_diverged_is_not_called_not_finite(starts):
    found = tune(task_of(starts["converged"], SOME, 4, "validation loss"), L.adam, low=0.5)
    assert found.verdict == "Everything diverged: try rates below 0.5."


def test_rates_that_break_the_model_are_not_said_to_end_at_the_same_accuracy(starts):
    task = task_of(starts["converged"], SOME, 8)
    assert final_at(task, 10.0) < 0.3
    assert "all of them end at the same" not in tune(task).verdict
