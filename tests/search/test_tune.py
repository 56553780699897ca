"""Tune beside the full grid; its budget; what it says when there is no good answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.search.halving import GRID, Halving
from lrjax.training.engine import Engine
from tests.search.test_sweep import X, Y, init, loss_fn

FIELDS = {"loss_fn": loss_fn, "init": init, "data": (X, Y), "batch_size": 16}
TASK = L.Task(**FIELDS)
RATES = np.geomspace(1e-7, 10, GRID)
OPTIMIZERS = {
    "sgd, momentum": lambda rate: L.sgd(rate, momentum=0.9),
    "adam, cosine": lambda rate: L.adam(L.cosine_decay_schedule(rate, 150)),
    "lion": L.lion,
    "adagrad, wsd": lambda rate: L.adagrad(L.warmup_stable_decay_schedule(0.0, rate, 15, 105, 30)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finds_what_the_full_grid_finds_for_a_quarter_of_it(name):
    optimizer = OPTIMIZERS[name]
    grid = L.sweep(TASK, optimizer, learning_rates=RATES, steps=150, seeds=3, progress=False)
    found = L.tune(TASK, optimizer, steps=150, progress=False)
    regret = grid.mean[np.argmin(abs(RATES - found.learning_rate))] / grid.mean.min()
    assert 1 / 3 < found.learning_rate / grid.best_learning_rate < 3 or regret < 1.05
    assert found.steps_spent <= 0.25 * found.grid_steps == 0.25 * grid.losses.size
    assert found.low <= found.learning_rate <= found.high and found.verdict.startswith("Found")
    known = ~np.isnan(found.losses)
    np.testing.assert_allclose(found.losses[known], grid.losses[known], rtol=1e-4)  # whole runs, cut short


@pytest.mark.slow
def test_a_value_keeps_the_shape_of_its_schedule():
    by_function = L.tune(TASK, OPTIMIZERS["adam, cosine"], steps=150, progress=False)
    by_value = L.tune(TASK, L.adam(L.cosine_decay_schedule(0.3, 150)), steps=150, progress=False)
    assert by_value.learning_rate == by_function.learning_rate
    by_number = L.tune(TASK, L.adam(0.3), steps=50, progress=False)
    assert by_number.learning_rate == L.tune(TASK, L.adam, steps=50, progress=False).learning_rate


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
def test_optax_and_an_evaluation():
    task = L.Task(**FIELDS, metrics=(loss_fn, "min"), validation=(X, Y))
    theirs = L.tune(task, optax.adam, steps=50, progress=False)
    assert theirs.learning_rate == L.tune(task, L.adam, steps=50, progress=False).learning_rate
    assert theirs.metric == "loss_fn" and theirs.run.metrics["loss_fn"][-1] == theirs.final[
        theirs.learning_rates == theirs.learning_rate].min()  # fmt: skip


def test_another_range_compiles_nothing(compilations):
    run = lambda low: L.tune(TASK, L.rmsprop, low=low, steps=50, progress=False)
    run(1e-7)
    assert sum("advance" in str(name) for name in compilations) == 1
    compilations.clear()
    run(1e-6)
    assert not any("advance" in str(name) for name in compilations)


def parabola(best, noise=0.0, slow=1.0):
    """Losses [rates, seeds, steps] of runs that approach their own level; above the edge they diverge."""
    rng, steps = np.random.default_rng(0), 200
    distance = np.arange(GRID)[:, None, None] - best
    level = 0.01 * distance**2
    at = np.exp(-slow * 0.05 * np.arange(1, steps + 1) * 2.0 ** (0.5 * np.minimum(distance, 0)))
    losses = level + (1 - level) * at + noise * rng.normal(size=(GRID, 5, steps))
    losses[min(best + 5, GRID) :, :, 3:] = np.nan
    return losses


def recorded(losses):
    """An engine that knows the losses already; a run whose loss is nan has parameters that are not finite."""
    return lambda rates, seed, begin, end: (
        losses[rates, seed, begin:end],
        None,
        ~np.isnan(losses[rates, seed, end - 1]),
    )


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("budget", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("best", [0, 3, 12, 21, 24])
def test_the_search_keeps_its_budget_and_finds_the_valley(best, budget, seeds):
    losses = parabola(best, 0.002)
    search = Halving(recorded(losses), 200, seeds, budget * GRID * seeds * 200)
    search.search()
    assert search.cost <= search.budget_steps and search.cost == (~np.isnan(search.losses)).sum()
    done = search.finished()
    found = done[np.argmin(search.score[done, 0])]
    assert abs(int(found) - best) <= (1 if budget > 0.1 else 4)


def test_a_rate_is_judged_by_its_end():
    """Low rates are ahead early, and behind at the end."""
    losses = np.broadcast_to(1 + 0.02 * np.abs(np.arange(GRID) - 11)[:, None, None], (GRID, 3, 100)).copy()
    losses[:, :, -20:] = 0.5 + 0.02 * np.abs(np.arange(GRID) - 14)[:, None, None]
    search = Halving(recorded(losses), 100, 3, 0.25 * GRID * 3 * 100)
    search.search()
    done = search.finished()
    assert done[np.argmin(search.score[done, 0])] == 14


VERDICTS = {
    "flat": ({"loss_fn": lambda p, b: 0.0 * loss_fn(p, b) + 1.0}, {}, "Cannot tell: "),
    "nan": ({"loss_fn": lambda p, b: jnp.nan * loss_fn(p, b)}, {}, "not finite on some batches at any rate"),
    "diverged": ({}, {"low": 1e10, "high": 1e20}, "Everything diverged: try rates below 1e+10"),
    "edge": ({}, {"low": 1e-4, "high": 1e-2}, "0.01, is at the edge of the range: widen it"),
    "ascent": ({"loss_fn": lambda p, b: -loss_fn(p, b)}, {"optimizer": lambda r: L.chain(L.sgd(r), L.scale(-1.0))},
               "Nothing was learned"),
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name):
    fields, options, words = VERDICTS[name]
    found = L.tune(
        L.Task(**{**FIELDS, **fields}), **{"optimizer": L.sgd(0.1), "steps": 40, "progress": False, **options}
    )
    assert words in found.verdict
    assert np.isnan(found.learning_rate) == (name != "edge") == (found.run is None)
    assert len(found.rows()) == GRID


def test_a_budget_that_is_too_small_says_which_would_do():
    run = lambda **options: L.tune(TASK, L.adam(0.1), progress=False, **options)
    found = run(steps=4)
    assert found.verdict.startswith("Found") and found.steps_spent <= 0.25 * found.grid_steps
    words = "Cannot tell: the budget has 20 steps, and a search needs 28: a budget of 0.33 would do."
    found = run(steps=4, seeds=1)
    assert found.verdict == words and found.steps_spent == 0 and np.isnan(found.final).all()
    assert "the budget has" not in run(steps=4, seeds=1, budget=0.33).verdict
    assert "10 steps, and a search needs 25: more steps or seeds" in run(steps=1, seeds=1, budget=0.5).verdict
    assert run(steps=1, budget=0.42).verdict == "Cannot tell: after 1 step the loss is the same at all rates."


def test_the_search_goes_further_out_where_a_short_run_misleads():
    """After a tenth of the run, and after a third, the best rate is far below the one that is the best at the end."""
    distance = lambda best: 0.02 * np.abs(np.arange(GRID) - best)[:, None, None]
    for early, late in ((6, 16), (20, 10)):
        losses = np.broadcast_to(1 + distance(early), (GRID, 3, 100)).copy()
        losses[:, :, -20:] = 0.5 + distance(late)
        search = Halving(recorded(losses), 100, 3, 0.25 * GRID * 3 * 100)
        search.search()
        done = search.finished()
        assert abs(int(search.best(done)) - late) <= 1 and search.cost <= search.budget_steps
        # with less it says that it doesn't know
        search = Halving(recorded(losses), 100, 1, 0.15 * GRID * 3 * 100)
        search.search()
        best, done = search.best(search.finished()), search.finished()
        ends = search.scores().open_ends(best)
        assert abs(best - late) <= 1 or ends == (best == done[0], best == done[-1]) != (False, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "`low` must be a number > 0 and below `high`, got 0.0"),
        ({"budget": 2.0}, "`budget` must be a number from 0.05 to 1, got 2.0"),
        ({"high": np.inf}, "`high` must be a finite number > 0, got inf"),
        ({"high": 1e300}, "`high` must be a number that float32 can hold, got 1e.300"),
        ({"high": "a"}, "`high` must be a finite number > 0, got 'a'"),
        ({"seeds": 0}, "`seeds` must be a whole number >= 1, got 0"),
        ({"optimizer": 3}, "`optimizer` must be a value with a `learning_rate`"),
        ({"optimizer": L.clip(1.0)}, "`optimizer` must be a value with one `learning_rate`"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    arguments = {"optimizer": L.adam, "steps": 20, "progress": False, **options}
    with pytest.raises(ValueError, match=message):
        L.tune(TASK, **arguments)


def test_an_iterator_that_ends_is_refused_and_a_list_is_gone_through_again():
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(25)]
    tuned = lambda data, **fields: L.tune(L.Task(loss_fn, init, data, **fields), L.adam, steps=25, progress=False)
    with pytest.raises(ValueError, match="something that tune can go through again"):
        tuned(iter(batches))
    arrays = tuple(np.stack(x) for x in zip(*batches, strict=True))
    assert tuned(batches).learning_rate == tuned(arrays, stacked=True).learning_rate


def test_pictures():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = L.tune(TASK, L.adam, steps=50, progress=False)
    assert found.plot().get_xscale() == "log"
    html = found._repr_html_()
    assert found.verdict in html and html.count("font-weight") == 1 and html.count("<tr") == GRID + 1
    nan = L.Task(**{**FIELDS, "loss_fn": lambda p, b: jnp.nan * loss_fn(p, b)})
    nothing = L.tune(nan, L.adam, steps=20, progress=False)
    nothing.plot()
    assert "font-weight" not in nothing._repr_html_()
    plt.close("all")


@pytest.mark.slow
def test_devices_train_fewer_runs_once_rates_are_given_up(monkeypatch):
    """As on an accelerator, where all rates are one wave: fewer of them continue on a device, with the same results."""
    dispatch, dispatched = Engine._dispatch, []

    def noted(engine, wave, active, *rest):
        dispatched.append((engine.program.runs_per_device, int(active[engine.waves.run_indices(wave)].sum())))
        return dispatch(engine, wave, active, *rest)

    run = lambda: L.tune(TASK, L.adam(0.1), steps=300, progress=False)
    expected = run()
    monkeypatch.setattr(Engine, "_dispatch", noted)
    monkeypatch.setattr("lrjax.training.engine._default_runs_per_device", lambda mesh: None)
    for worth in (True, False):
        seconds = property(lambda engine, worth=worth: -1.0 if worth else np.inf, lambda engine, measured: None)
        monkeypatch.setattr(Engine, "_compile_seconds", seconds, raising=False)
        dispatched.clear()
        found = run()
        most = [count for count, _ in dispatched]
        assert most[0] == 25 and (most[-1] < 9 if worth else most[-1] == 25)
        assert most == sorted(most, reverse=True)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
        assert found.learning_rate == expected.learning_rate and found.steps_spent == expected.steps_spent
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3), found.run.params, expected.run.params)


@pytest.mark.slow
@pytest.mark.parametrize("vectorized", [3, 7])
def test_as_many_waves_are_kept_at_most_as_are_counted_in_the_memory(monkeypatch, vectorized):
    dispatch, most = Engine._dispatch, []

    def noted(engine, wave, *rest):
        most.append((len({*engine.waves.carried, wave}), engine._max_waves))
        return dispatch(engine, wave, *rest)

    monkeypatch.setattr("lrjax.training.engine._default_runs_per_device", lambda mesh: vectorized)
    monkeypatch.setattr(Engine, "_dispatch", noted)
    L.tune(TASK, L.adam(0.1), steps=30, progress=False)
    assert max(most)[0] > 2 and all(carried <= counted for carried, counted in most)


def test_what_is_given_up_is_forgotten(monkeypatch, one_at_a_time):
    """Of 25 rates few states are kept at the same time, and what is returned was trained with the rate that it says."""
    dispatch, most = Engine._dispatch, []

    def noted(engine, *rest):
        most.append(len(engine.waves.carried))
        return dispatch(engine, *rest)

    monkeypatch.setattr(Engine, "_dispatch", noted)
    found = L.tune(TASK, L.adam(0.1), steps=300, progress=False, mesh=jax.make_mesh((1,), ("x",)))
    assert 9 <= max(most) < 16 and most[-1] <= 9
    again = L.train(TASK, L.adam(found.learning_rate), steps=300, seed=found.run.seed, progress=False)
    np.testing.assert_allclose(again.losses, found.run.losses, rtol=1e-5)
    assert found.steps_spent <= 0.25 * found.grid_steps
