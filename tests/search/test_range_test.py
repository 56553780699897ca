"""The range test: the run itself beside a loop, and each rule beside its words."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.search import range_test as module
from tests.search.test_sweep import STEPPED, X, Y, init, loss_fn, task_of

STEPS = 30


def falling(losses):
    """The longest falling subsequence that ends at each point, by trying all of them."""
    longest = [1] * len(losses)
    for size in range(2, len(losses) + 1):
        for chosen in itertools.combinations(range(len(losses)), size):
            if all(losses[a] > losses[b] for a, b in itertools.pairwise(chosen)):
                longest[chosen[-1]] = max(longest[chosen[-1]], size)
    return longest


@pytest.mark.parametrize("seed", range(5))
def test_valley(seed):
    losses = np.random.default_rng(seed).normal(size=10) - np.arange(10) / 3
    longest = falling(losses)
    end = longest.index(max(longest))
    start = end - longest[end]
    third = (end - start) / 3
    assert module._valley(np.arange(10.0), losses) == start + int(third) + int(third / 2)


def test_valley_of_a_rising_curve_is_its_first_point():
    assert module._valley(np.arange(5.0), np.arange(5.0)) == 0


def test_slide():
    slopes = np.concatenate([np.zeros(20), -0.1 * np.ones(20), 0.3 * np.ones(10)])
    rates = np.arange(50.0)
    # from the right: pairs (49, 34), (48, 33), ... differ until both are among the same slope
    gradient = np.gradient(np.cumsum(slopes))
    right = 49
    expected = rates[right - 15]
    while right - 15 >= 0 and abs(gradient[right] - gradient[right - 15]) > 0.005:
        expected = rates[right - 15]
        right -= 1
    assert module._slide(rates, np.cumsum(slopes)) == expected


def test_steep_and_minimum():
    rates = np.geomspace(1e-4, 1, 41)
    losses = -1 / (1 + np.exp(-8 * (np.log10(rates) + 2))) + 1e-3 * np.arange(41)
    assert module._steep(rates, losses) == pytest.approx(1e-2, rel=0.3)
    assert module._minimum(rates, losses) == rates[losses.argmin()] / 10


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
@pytest.mark.parametrize("library", ["lrjax value", "lrjax", "optax"])
def test_the_run_is_that_of_the_loop(library):
    optimizer = {"lrjax value": L.adam(0.5), "lrjax": L.adam, "optax": optax.adam}[library]
    found = L.range_test(task_of(), optimizer, low=1e-4, high=1.0, steps=STEPS)
    tx = optax.adam(lambda i: 1e-4 * 1e4 ** (i / STEPS))
    params = init(jax.random.key(0))
    state, losses = tx.init(params), []
    for t in range(STEPS):
        loss, grads = jax.value_and_grad(loss_fn)(params, jax.tree.map(lambda x, t=t: x[t], STEPPED))
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(found.losses[0], losses, rtol=1e-3)
    np.testing.assert_allclose(found.learning_rates, 1e-4 * 1e4 ** (np.arange(STEPS) / STEPS), rtol=1e-5)
    weights = 0.98 ** np.arange(STEPS)[::-1]
    assert found.smoothed[0, -1] == pytest.approx(np.average(losses, weights=weights), rel=1e-3)


def test_examples_and_seeds():
    found = L.range_test(task_of((X, Y), batch_size=16), L.sgd(0.1), low=1e-4, high=10.0, steps=100, seeds=3)
    assert found.losses.shape == (3, 100) and not np.array_equal(found.losses[0], found.losses[1])
    assert all(1e-4 < rate < 10 for rate in found.suggestions.values())


def test_another_range_compiles_nothing(compilations):
    run = lambda low: L.range_test(task_of(), L.adam(0.1), low=low, steps=STEPS)
    first = run(1e-4)
    compilations.clear()
    again = run(1e-4)
    assert "advance" not in " ".join(map(str, compilations))
    np.testing.assert_array_equal(first.losses, again.losses)


def test_it_stops_at_four_times_the_lowest_but_for_losses_below_zero_too():
    for offset in (0.0, -1000.0):
        loss = lambda w, x: jnp.sum((w - x) ** 2) + jnp.float32(offset)  # noqa: B023
        x = 1 + 0.1 * jax.random.normal(jax.random.key(0), (100, 2))
        found = L.range_test(L.Task(loss, jnp.zeros(2), x, stacked=True), L.sgd(0.1), low=1e-3, high=100.0)
        curve = found.smoothed[0][np.isfinite(found.smoothed[0])]
        assert 20 < len(curve) < 100
        before = curve[:-1]
        assert curve[-1] > before.min() + 3 * abs(before.min()) or not np.isfinite(found.losses[0, len(curve)])
        assert np.isfinite(list(found.suggestions.values())).all()


def test_nan_cuts_the_curve_and_the_rules_go_on():
    loss = lambda w, x: jnp.where(w > 1.0, jnp.nan, 1.0) * (w - x) ** 2 + 1.0
    task = L.Task(loss, jnp.zeros(()), 3 * jnp.ones(100), stacked=True)
    found = L.range_test(task, L.sgd(0.1), low=1e-5, high=10.0)
    known = np.isfinite(found.smoothed[0])
    assert known.any() and not known.all() and np.isfinite(found.suggestions["minimum"])
    dead = L.range_test(L.Task(lambda w, x: jnp.nan * w, jnp.zeros(()), jnp.ones(100), stacked=True), L.sgd(0.1))
    assert np.isnan(list(dead.suggestions.values())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "`low` must be a number > 0 and below `high`, got 0.0"),
        ({"low": 2.0, "high": 1.0}, "`low` must be"),
        ({"smoothing": 1.0}, "`smoothing` must be"),
        ({"stop_at": 1.0}, "`stop_at` must be"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        L.range_test(task_of(), L.sgd(0.1), steps=STEPS, **options)
    with pytest.raises(ValueError, match="`optimizer` must be"):
        L.range_test(task_of(), 0.1, steps=STEPS)


def test_picture():
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = L.range_test(task_of((X, Y), batch_size=16), L.sgd(0.1), seeds=2).plot()
    assert ax.get_xscale() == "log" and ax.get_legend() is not None
    plt.close("all")
