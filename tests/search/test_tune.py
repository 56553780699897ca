"""Tune beside the full grid; its budget; what it says when there is no good answer."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.search.tune import GRID, Search
from tests.search.test_sweep import X, Y, init, loss_fn

OPTIONS = {"batch_size": 16, "progress": False}
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
    grid = L.sweep(loss_fn, init, (X, Y), optimizer, learning_rates=RATES, steps=150, seeds=3, **OPTIONS)
    found = L.tune(loss_fn, init, (X, Y), optimizer, steps=150, **OPTIONS)
    regret = grid.loss[np.argmin(abs(RATES - found.learning_rate))] / grid.loss.min()
    assert 1 / 3 < found.learning_rate / grid.best_learning_rate < 3 or regret < 1.05
    assert found.steps_spent <= 0.25 * found.grid_steps == 0.25 * grid.losses.size
    assert found.low <= found.learning_rate <= found.high and found.verdict.startswith("Found")
    known = ~np.isnan(found.losses)
    np.testing.assert_allclose(found.losses[known], grid.losses[known], rtol=1e-4)  # whole runs, cut short


def test_a_value_keeps_the_shape_of_its_schedule():
    by_function = L.tune(loss_fn, init, (X, Y), OPTIMIZERS["adam, cosine"], steps=150, **OPTIONS)
    by_value = L.tune(loss_fn, init, (X, Y), L.adam(L.cosine_decay_schedule(0.3, 150)), steps=150, **OPTIONS)
    assert by_value.learning_rate == by_function.learning_rate
    by_number = L.tune(loss_fn, init, (X, Y), L.adam(0.3), steps=50, **OPTIONS)
    assert by_number.learning_rate == L.tune(loss_fn, init, (X, Y), L.adam, steps=50, **OPTIONS).learning_rate


@pytest.mark.promotes  # Optax does
def test_optax_and_an_evaluation():
    options = {"steps": 50, "eval_fn": loss_fn, "eval_batch": (X, Y), **OPTIONS}
    theirs = L.tune(loss_fn, init, (X, Y), optax.adam, **options)
    assert theirs.learning_rate == L.tune(loss_fn, init, (X, Y), L.adam, **options).learning_rate


def test_another_range_compiles_nothing(compilations):
    run = lambda low: L.tune(loss_fn, init, (X, Y), L.rmsprop, low=low, steps=50, **OPTIONS)
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


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("budget", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("best", [0, 3, 12, 21, 24])
def test_the_search_keeps_its_budget_and_finds_the_valley(best, budget, seeds):
    losses = parabola(best, 0.002)
    search = Search(lambda rates, seed, begin, end: (losses[rates, seed, begin:end], None), 200, seeds, budget)
    search.search()
    assert (~np.isnan(search.losses)).sum() <= search.total
    done = search.finished()
    found = done[np.argmin(search.score[done, 0])]
    assert abs(int(found) - best) <= (1 if budget > 0.1 else 4)


def test_a_rate_is_judged_by_its_end():
    """Low rates are ahead early, and behind at the end."""
    losses = np.broadcast_to(1 + 0.02 * np.abs(np.arange(GRID) - 11)[:, None, None], (GRID, 3, 100)).copy()
    losses[:, :, -20:] = 0.5 + 0.02 * np.abs(np.arange(GRID) - 14)[:, None, None]
    search = Search(lambda rates, seed, begin, end: (losses[rates, seed, begin:end], None), 100, 3, 0.25)
    search.search()
    done = search.finished()
    assert done[np.argmin(search.score[done, 0])] == 14


VERDICTS = {
    "flat": (lambda p, b: 0.0 * loss_fn(p, b) + 1.0, {}, "flat"),
    "nan": (lambda p, b: jnp.nan * loss_fn(p, b), {}, "not finite at the first step"),
    "diverged": (loss_fn, {"low": 1e3, "high": 1e6}, "Everything diverged: try rates below 1e+03"),
    "edge": (loss_fn, {"low": 1e-7, "high": 1e-4}, "0.0001, is at the edge of the range: widen it"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name):
    loss, options, words = VERDICTS[name]
    found = L.tune(loss, init, (X, Y), L.sgd(0.1), steps=40, **options, **OPTIONS)
    assert words in found.verdict
    assert np.isnan(found.learning_rate) == (name in ("nan", "diverged"))
    assert len(found.rows()) == GRID


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "`low` must be a number > 0 and below `high`, got 0.0"),
        ({"budget": 2.0}, "`budget` must be a number from 0.05 to 1, got 2.0"),
        ({"seeds": 0}, "`seeds` must be a whole number >= 1, got 0"),
        ({"batch_size": 10**6}, "^tune: `batch_size` must be a whole number from 1 to the"),
        ({"optimizer": 3}, "`optimizer` must be a value with a `learning_rate`"),
        ({"optimizer": L.clip(1.0)}, "`optimizer` must be a value with one `learning_rate`"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    arguments = {"optimizer": L.adam, "steps": 20, **OPTIONS, **options}
    with pytest.raises(ValueError, match=message):
        L.tune(loss_fn, init, (X, Y), **arguments)


def test_an_iterator_that_ends_is_refused_and_a_list_is_gone_through_again():
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(25)]
    with pytest.raises(ValueError, match="gone through again"):
        L.tune(loss_fn, init, iter(batches), L.adam, steps=25, progress=False)
    arrays = tuple(np.stack(x) for x in zip(*batches, strict=True))
    of_list = L.tune(loss_fn, init, batches, L.adam, steps=25, progress=False)
    assert of_list.learning_rate == L.tune(loss_fn, init, arrays, L.adam, steps=25, progress=False).learning_rate


def test_pictures():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = L.tune(loss_fn, init, (X, Y), L.adam, steps=50, **OPTIONS)
    assert found.plot().get_xscale() == "log"
    html = found._repr_html_()
    assert found.verdict in html and html.count("font-weight") == 1 and html.count("<tr") == GRID + 1
    nothing = L.tune(lambda p, b: jnp.nan * loss_fn(p, b), init, (X, Y), L.adam, steps=20, **OPTIONS)
    nothing.plot()
    assert "font-weight" not in nothing._repr_html_()
    plt.close("all")
