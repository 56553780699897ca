"""One run: beside the loop that everybody writes, the rates that were applied, callbacks, files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.search.test_sweep import LIST, STEPPED, STEPS, X, Y, init, loss_fn, swept, task_of

SCHEDULE = L.warmup_cosine_decay_schedule(0.0, 0.1, 5, STEPS)
TASK = task_of(metrics={"all": (loss_fn, "min"), "none": (lambda p, b: -loss_fn(p, b), "max")}, validation=(X, Y))


def train(optimizer, task=TASK, **options):
    return L.train(task, optimizer, progress=False, **options)


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
@pytest.mark.parametrize("library", [L, optax])
def test_agrees_with_the_loop(library):
    schedule = library.warmup_cosine_decay_schedule(0.0, 0.1, 5, STEPS)
    run = train(library.adamw(schedule), eval_every=10)
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, STEPS))
    params, losses, metrics = init(jax.random.key(0)), [], []
    state = tx.init(params)
    for t, batch in enumerate(LIST, start=1):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
        metrics += [loss_fn(params, (X, Y))] * (t % 10 == 0)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(run.metrics["all"], metrics, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), run.params, params)
    assert run.final == run.metrics["all"][-1] and not run.diverged
    if library is L:
        np.testing.assert_allclose(run.learning_rates, SCHEDULE(np.arange(STEPS)), rtol=1e-6)
        assert jax.tree.structure(run.opt_state) == jax.tree.structure(L.adamw(SCHEDULE).init(params))
    else:
        assert run.learning_rates is None


def test_another_rate_and_another_length_compile_nothing(compilations):
    task = task_of((X, Y), batch_size=16)
    train(L.adam(0.1), task, steps=20)
    compilations.clear()
    train(L.adam(0.2, b1=0.8), task, steps=30, seed=3)
    assert not [name for name in compilations if "advance" in str(name) or "start" in str(name)]


def test_it_is_the_run_of_a_sweep():
    run = train(L.adam(0.03), seed=2)
    result = L.sweep(TASK, L.adam(jnp.array([0.03, 0.1])), seeds=[2], progress=False)
    np.testing.assert_allclose(run.losses, result.losses[0, 0], rtol=1e-5)
    assert result.run.optimizer.startswith("adam(learning_rate=0.1") and result.run.seed == 2
    np.testing.assert_allclose(result.run.losses, result.losses[1, 0], rtol=1e-6)


@pytest.mark.slow
def test_the_rates_that_were_applied_are_read_from_the_state():
    grouped = L.adam({"w": 0.1, "v": L.linear_schedule(0.2, 0.0, STEPS)})
    assert train(grouped).learning_rates is not None
    parts = L.partition({"a": L.sgd(0.1), "b": L.sgd(SCHEDULE)}, {"w": "a", "v": "b"})
    rates = train(parts).learning_rates
    np.testing.assert_allclose(rates["a"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(rates["b"], SCHEDULE(np.arange(STEPS)), rtol=1e-6)
    assert train(parts).rows()[0].keys() >= {"learning_rate/a", "learning_rate/b", "loss", "step", "all"}


def test_callbacks_get_rows_in_order():
    steps, evaluations = [], []
    run = train(L.adam(SCHEDULE), eval_every=7, on_step=steps.append, on_eval=evaluations.append)
    assert [row["step"] for row in steps] == list(range(STEPS))
    rows = run.rows()
    assert all(row[name] == rows[i][name] for i, row in enumerate(steps) for name in ("loss", "learning_rate"))
    assert [row["step"] for row in evaluations] == [7, 14, 21, 28, 30] == run.evaluated_at.tolist()
    assert [row["all"] for row in evaluations] == run.metrics["all"].tolist()


def test_steps_to():
    run = train(L.adam(0.1), eval_every=1)
    level = float(run.metrics["all"][11])
    assert run.steps_to("all", level) <= 12 and run.steps_to("none", -level) == run.steps_to("all", level)
    assert run.steps_to("all", -1.0) is None and run.steps_to("loss", run.losses[0]) == 0
    with pytest.raises(ValueError, match="`metric` must be one of"):
        run.steps_to("accuracy", 1.0)
    level *= 1.0001  # vectorized, the same run has other last digits
    many = L.sweep(TASK, L.adam(jnp.array([0.1, 1e-9])), eval_every=1, progress=False).steps_to("all", level)
    assert many[0, 0] == run.steps_to("all", level) and np.isnan(many[1, 0])


def test_saved_and_loaded(tmp_path):
    task = task_of(init={**init(jax.random.key(0)), "key": jax.random.key(3)})
    run = train(L.adam(SCHEDULE), task)
    run.save(tmp_path / "run")
    loaded = L.Run.load(tmp_path / "run")
    assert loaded.rows() == run.rows() and loaded.optimizer == run.optimizer
    np.testing.assert_array_equal(loaded.params["w"], run.params["w"])
    assert jax.tree.structure(loaded.opt_state) == jax.tree.structure(run.opt_state)
    assert (jax.random.key_data(loaded.params["key"]) == jax.random.key_data(jax.random.key(3))).all()


def test_a_run_that_diverged_and_one_that_came_back():
    run = train(L.sgd(1e30))
    assert run.diverged and np.isnan(run.losses[-1])
    spiking = L.piecewise_values_schedule([0.1, 60.0, 0.1], [8, 9])
    quadratic = L.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(2), np.ones((60, 2), np.float32), stacked=True)
    run = train(L.sgd(spiking), quadratic)
    assert run.losses.max() > 100 * run.losses[0] and run.losses[-1] < 0.05 and not run.diverged


@pytest.mark.slow
def test_the_bases_of_second_order_methods_are_given():
    for tx in (L.sophia(0.01, update_interval=2), L.polyak_sgd()):
        assert np.isfinite(train(tx).losses).all()


def test_pictures():
    plt = pytest.importorskip("matplotlib.pyplot")
    run = train(L.adam(SCHEDULE), eval_every=5)
    assert run.plot().get_xlabel() == "step" and "adam" in run._repr_html_()
    L.train(task_of(), L.sgd(0.1), progress=False).plot()
    plt.close("all")


BAD = {
    "a rate": ({"optimizer": 0.1}, "`optimizer` must be an optimizer"),
    "a batch": ({"optimizer": L.adam(np.array([0.1, 0.2]))}, "`sweep` takes a batch, got 'a batch of 2'"),
    "seed": ({"seed": -1}, "`seeds` must be"),
    "steps": ({"steps": 0}, "`steps` must be a whole number >= 1, got 0"),
    "eval_every": ({"eval_every": 1.5}, "`eval_every` must be a whole number >= 1, got 1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        L.train(**{"task": TASK, "optimizer": L.sgd(0.1), **options})


@pytest.mark.parametrize("data", ["stacked", "examples", "function", "list"])
def test_no_batch_is_forgotten(data):
    """The losses are those of the batches, in their order."""
    numbers = np.arange(1, 31, dtype=np.float32)
    loss = {"init": jnp.zeros(()), "loss_fn": lambda w, x: jnp.mean(x) + 0 * w}
    given = {
        "stacked": {"data": numbers[:, None], "stacked": True},
        "examples": {"data": numbers, "batch_size": 30},
        "function": {"data": lambda step: step.astype(jnp.float32)[None] + 1, "steps": 30},
        "list": {"data": list(numbers[:, None])},
    }[data]
    run = L.train(L.Task(**{**loss, **given}), L.sgd(0.1), steps=30, progress=False)
    np.testing.assert_allclose(run.losses, 15.5 if data == "examples" else numbers, rtol=1e-6)


def test_swept_and_trained_tasks_are_the_same_value():
    assert swept(L.adam(np.array([0.1]))).run.task == "task" == task_of(STEPPED).name
