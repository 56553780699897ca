"""What `compare` says of the techniques on real data, and of anybody's optimizers on anybody's task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.search.techniques import ADAPTIVE, REFERENCE, techniques
from lrjax.tasks.diabetes import diabetes
from lrjax.tasks.digits import digits
from tests.search.test_sweep import X, Y, loss_fn, task_of

STEPS = 120


@pytest.fixture(scope="module")
def result():
    return L.compare(digits(), steps=STEPS, seeds=2, progress=False)


def row(result, name):
    return next(r for r in result.rows() if r["technique"] == name)


@pytest.mark.slow
def test_too_low_barely_moves_and_too_high_does_not_learn(result):
    low, right, high = (row(result, name) for name in ("fixed, too low", REFERENCE, "fixed, too high"))
    assert low["train_loss"] > 5 * right["train_loss"] and not low["diverged"]
    assert (high["accuracy"] or 0) < 0.5 and (high["diverged"] or high["train_loss"] > 5 * right["train_loss"])
    assert right["accuracy"] > 0.9 and right["steps_to_target"] < STEPS


@pytest.mark.slow
def test_every_other_technique_learns_at_the_rate_that_was_found(result):
    for r in result.rows():
        if not r["technique"].startswith("fixed, too"):
            assert r["accuracy"] > 0.9 and r["diverged"] == 0, r
    assert "found for this task" in result.how and result.run.metrics["accuracy"][-1] > 0.93


@pytest.mark.slow
def test_the_curve_of_a_run_is_that_of_its_schedule(result):
    steps = np.arange(STEPS)
    for entry, rates in zip(result.entries, result.learning_rates, strict=True):
        np.testing.assert_allclose(rates, np.asarray(entry.optimizer.learning_rate(steps)), rtol=1e-5, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["warmup cosine decay", "AdaGrad", "fixed, no momentum"])
def test_a_run_is_the_same_as_trained_alone(result, name):
    i, entry = next((i, e) for i, e in enumerate(result.entries) if e.name == name)
    alone = L.train(digits(), entry.optimizer, steps=STEPS, seed=1, progress=False)
    np.testing.assert_allclose(alone.losses, result.losses[i, 1], rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(alone.losses[:20], result.losses[i, 1, :20], rtol=1e-3)


@pytest.mark.slow
def test_techniques_of_one_optimizer_are_one_program(compilations, one_at_a_time):
    task = diabetes()
    L.compare(task, steps=40, seeds=2, progress=False)
    programs = [name for name in compilations if "(advance)" in str(name)]
    assert len(programs) == 4  # SGD, AdaGrad, RMSprop, Adam: searched and trained


def test_every_technique_of_the_mission_is_there():
    names = {t.name for t in techniques(400)}
    words = "too low,well chosen,too high,no momentum,step,exponential,polynomial,inverse time,cyclic,restarts,warmup"
    for word in words.split(","):
        assert any(word in name for name in names), word
    adaptive = {t.name for t in techniques(400) if t.group == ADAPTIVE}
    assert adaptive == {"AdaGrad", "RMSprop", "RMSprop, momentum", "Adam, no momentum", "Adam"}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 97, 1000])
def test_techniques_fit_any_number_of_steps(steps):
    for technique in techniques(steps):
        assert np.isfinite(np.asarray(technique.shape(0.1)(np.arange(steps)))).all()


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
def test_optimizers_of_any_kinds():
    named = {
        "adam": L.adam(0.03),
        "cosine": L.adam(L.cosine_decay_schedule(0.03, 30)),
        "chain": L.chain(L.clip_by_global_norm(1.0), L.sgd(0.1)),
        "groups": L.adam({"w": 0.1, "v": 0.01}),
        "optax": optax.adam(0.03),
        "mine": L.sgd(lambda step: 0.1 / (1 + step)),
        "wild": L.sgd(1e20),
    }
    task = task_of((X, Y), batch_size=16, metrics={"all": (loss_fn, "min")}, validation=(X, Y))
    table = L.compare(task, named, steps=30, seeds=2, keep="all", progress=False)
    assert [row["technique"] for row in table.rows()] == list(named)
    np.testing.assert_allclose(table.losses[0], table.losses[4], rtol=1e-3)
    assert table.diverged.sum(axis=1).tolist() == [0, 0, 0, 0, 0, 0, 2]
    for i, (name, optimizer) in enumerate(named.items()):
        for seed in range(2):
            alone = L.train(task, optimizer, steps=30, seed=seed, progress=False)
            np.testing.assert_allclose(alone.losses, table.losses[i, seed], rtol=1e-3)
            assert table.runs[name][seed].diverged == (name == "wild")
    assert table.run.final == table.final.min() or table.best == table.entries[table.final.mean(axis=1).argmin()].name
    assert np.isnan(table.learning_rates[4]).all() and row(table, "optax")["peak_rate"] is None
    assert "<table>" in table._repr_html_()


def test_the_target():
    task = task_of((X, Y), batch_size=16)
    table = L.compare(task, {"a": L.adam(0.03), "slow": L.adam(1e-6)}, steps=200, progress=False)
    start, best = np.nanmean(table.control), table.final.mean(axis=1).min()
    assert table.target == pytest.approx(start + 0.9 * (best - start), rel=0.05)
    assert np.isfinite(table.steps_to_target[0]).all() and np.isinf(table.steps_to_target[1]).all()
    given = L.compare(task, {"a": L.adam(0.03)}, steps=200, target=1e9, progress=False)
    assert (given.steps_to_target < 10).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizers": {}}, "`optimizers` must be a dict of optimizers"),
        ({"optimizers": [L.adam(0.1)]}, "`optimizers` must be a dict of optimizers"),
        ({"optimizers": {"a": 3}}, "`optimizers` must be a dict of optimizers"),
        ({"seeds": 0}, "`seeds` must be"),
        ({"task": loss_fn}, "`task` must be a lrjax.Task"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        L.compare(**{"task": task_of(), "optimizers": {"a": L.adam(0.1)}, **options})


def test_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    table = L.compare(task_of(), {"a": L.adam(0.03), "b": L.sgd(jnp.float32(0.1))}, seeds=2, progress=False)
    assert len(table.plot().lines) == 2
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("make", [digits, diabetes])
def test_the_training_examples_are_standardised_and_the_others_by_the_same_numbers(make):
    task = make()
    x, x_test = task.data[0], task.validation[0]
    spread = x.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(spread[spread > 0], 1, atol=1e-4)
    assert x.dtype == x_test.dtype == np.float32 and np.isfinite(x_test).all()
    assert np.abs(x_test.mean(axis=0)).max() > 1e-3  # not by their own
    rows = {row.tobytes() for row in x}
    assert len(x) + len(x_test) == {"digits": 1797, "diabetes": 442}[task.name]
    assert not rows & {row.tobytes() for row in x_test}
    assert jax.tree.leaves(task.init(jax.random.key(0)))
