"""Where a search is asked what it can't know, or what isn't the rate's doing: it says so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.search.judge import Scores, signed_rank
from lrjax.search.verdict import verdict
from lrjax.training.divergence import Control, diverged
from tests.search.test_sweep import init, loss_fn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 4)).astype(np.float32)
Y = (np.tanh(X @ np.ones((4, 1))) + 0.3 * RNG.standard_t(3, size=(256, 1))).astype(np.float32)
RATES = np.array([0.0, 1e-12, 1e-3, 0.03], np.float32)


def noisy(batch_size, **fields):
    return L.Task(**{"loss_fn": loss_fn, "init": init, "data": (X, Y), "batch_size": batch_size, **fields})


def tune(task, optimizer=L.adam, **options):
    return L.tune(task, optimizer, progress=False, **{"steps": 100, **options})


@pytest.fixture(scope="module")
def trained():
    return L.train(noisy(32), L.adam(L.linear_schedule(0.03, 0.0, 2000)), steps=2000, progress=False).params


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("fine_tuning", [False, True])
def test_what_hardly_moves_has_not_diverged(batch_size, fine_tuning, trained):
    task = noisy(batch_size, **({"init": trained} if fine_tuning else {}))
    result = L.sweep(task, L.adam(RATES), steps=200, seeds=4, progress=False)
    assert not result.diverged.any()
    found = tune(task, steps=150)
    assert "diverged" not in found.verdict and not found.diverged[:8].any()


@pytest.mark.parametrize("offset", [-1000.0, "zero"])
def test_losses_that_start_at_zero_or_below(offset):
    start = init(jax.random.key(0))
    first = loss_fn(start, (X[:1], Y[:1])) if offset == "zero" else -offset
    task = noisy(8, init=start, loss_fn=lambda p, b: loss_fn(p, b) - first)
    result = L.sweep(task, L.adam(RATES), steps=100, seeds=2, progress=False)
    assert not result.diverged.any() and result.best == 3


def test_data_that_grow_harder_are_not_the_rates_doing():
    scale = np.where(np.arange(200) < 100, 1.0, 30.0).astype(np.float32)
    batches = X[:200, None, 0] * scale[:, None]
    task = L.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), batches, stacked=True)
    result = L.sweep(task, L.adam(RATES), progress=False)
    assert not result.diverged.any() and result.losses[1, 0, 100:].mean() > 100 * result.losses[1, 0, :100].mean()
    assert "diverged" not in tune(task, steps=200).verdict


def test_a_start_at_the_optimum_has_no_rate_to_blame():
    task = L.Task(lambda w, x: jnp.mean((w * x) ** 2), jnp.zeros(()), X[:, 0], batch_size=8)
    result = L.sweep(task, L.sgd(np.array([1e-6, 0.1])), steps=50, progress=False)
    assert not result.diverged.any() and "Cannot tell" in result.verdict
    assert "Cannot tell" in tune(task).verdict


def test_a_spike_that_comes_back_has_not_diverged():
    """The rate rises far above what is stable, for some steps, in every run."""
    spike = lambda rate: L.sgd(L.piecewise_values_schedule([rate, 80.0, rate], [40, 42]))
    task = L.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), 3 + X[:, 0], batch_size=8)
    rates = np.array([1e-4, 0.1, 0.3])
    result = L.sweep(task, spike, learning_rates=rates, steps=400, seeds=8, progress=False)
    assert result.losses[1].max() > 1000 * result.start
    assert not result.diverged[1:].any() and result.best_learning_rate in (0.1, 0.3)


def test_losses_stay_real_where_runs_are_not_stopped():
    task = L.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), 3 + X[:, 0], batch_size=8)
    result = L.sweep(task, L.sgd(np.array([0.1, 1.05])), steps=100, stop_when_diverged=False, progress=False)
    assert result.diverged[:, 0].tolist() == [False, True] and np.isfinite(result.losses).all()


BROKEN = X.copy()
BROKEN[77, 2] = np.nan


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda tx: tx, L.apply_if_finite], ids=["alone", "apply_if_finite"])
def test_one_example_that_is_nan_is_not_the_rates_doing(wrap):
    task = noisy(16, data=(BROKEN, Y))
    optimizer = lambda rate: wrap(L.adam(rate))
    for found in (
        tune(task, optimizer),
        L.sweep(task, optimizer, learning_rates=RATES[1:], steps=100, seeds=2, progress=False),
    ):
        assert "not finite on some batches at any rate, also without training: batch " in found.verdict
        assert "try rates below" not in found.verdict
    epochs = [np.random.default_rng((seed, 0)).permutation(256).reshape(16, 16) for seed in range(3)]
    batches = [int(np.flatnonzero((epoch == 77).any(axis=1))[0]) for epoch in epochs]
    assert any(f"batch {batch:,} of seed {seed}" in tune(task, optimizer).verdict for seed, batch in enumerate(batches))
    if wrap is L.apply_if_finite:
        assert found.best_learning_rate == pytest.approx(0.03) and not found.diverged.any()


def test_a_rate_that_breaks_the_numbers_is_blamed():
    found = tune(noisy(16), L.sgd, low=1e8, high=1e12)
    assert found.verdict == "Everything diverged: try rates below 1e+08."


def test_a_metric_that_is_nan():
    nan = noisy(16, metrics={"quality": (lambda p, b: jnp.log(-loss_fn(p, b)), "max")}, validation=(X, Y))
    for found in (tune(nan), L.sweep(nan, L.adam(RATES[1:]), steps=50, progress=False)):
        assert found.verdict.startswith("quality is not finite at any rate, also without training")


def test_random_labels_teach_nothing():
    def batch(step):
        a, b = jax.random.split(jax.random.key(step))
        return jax.random.normal(a, (8, 4)), jax.random.normal(b, (8, 1))

    found = tune(L.Task(loss_fn, lambda key: {**init(key), "v": jnp.zeros((8, 1))}, batch), steps=200)
    assert found.verdict.startswith("Nothing was learned") and np.isnan(found.learning_rate) and found.run is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_labels_are_no_accuracy_either(seed):
    """The training loss falls, as the network learns the labels by heart; on other examples nothing is better."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(400, 8)).astype(np.float32), rng.integers(0, 10, 400).astype(np.int32)
    logits = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
    loss = lambda p, b: -jnp.mean(jnp.sum(jax.nn.one_hot(b[1], 10) * jax.nn.log_softmax(logits(p, b[0])), axis=1))
    accuracy = lambda p, b: jnp.mean((logits(p, b[0]).argmax(axis=1) == b[1]).astype(jnp.float32))

    def start(key):
        a, b = jax.random.split(key)
        return {"w": jax.random.normal(a, (8, 16)) / 3, "v": jax.random.normal(b, (16, 10)) / 4}

    fields = {"batch_size": 32, "metrics": {"accuracy": (accuracy, "max")}, "validation": (x[300:], y[300:])}
    found = tune(L.Task(loss, start, (x[:300], y[:300]), **fields), steps=200)
    assert found.verdict.startswith(("Nothing was learned", "Cannot tell")) and np.isnan(found.learning_rate)
    teacher = np.argmax(x @ rng.normal(size=(8, 10)), axis=1).astype(np.int32)
    fields["validation"] = x[300:], teacher[300:]
    assert tune(L.Task(loss, start, (x[:300], teacher[:300]), **fields), steps=200).verdict.startswith("Found")


def test_an_ascent_is_not_an_edge():
    found = tune(noisy(32), lambda rate: L.chain(L.adam(rate), L.scale(-1.0)))
    assert found.verdict.startswith("Nothing was learned")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MultiSteps", "zero at first"])
def test_where_no_update_falls_into_the_first_look_it_looks_longer(kind):
    steps = 300
    if kind == "MultiSteps":
        optimizer = lambda rate: L.MultiSteps(L.adam(rate), 32)
    else:
        optimizer = lambda rate: L.adam(L.join_schedules([L.constant_schedule(0.0), L.constant_schedule(rate)], [60]))
    found = tune(noisy(32), optimizer, steps=steps)
    grid = L.sweep(noisy(32), optimizer, learning_rates=found.learning_rates, steps=steps, seeds=3, progress=False)
    near = np.argmin(np.abs(np.log(found.learning_rates / found.learning_rate)))
    assert 1 / 3 <= found.learning_rate / grid.best_learning_rate <= 3 or grid.mean[near] <= 1.05 * grid.mean.min()


def test_a_rate_that_is_never_used_is_no_answer():
    optimizer = lambda rate: L.MultiSteps(L.adam(rate), 1000)
    assert tune(noisy(32), optimizer).verdict.startswith("Cannot tell")
    result = L.sweep(noisy(32), optimizer, learning_rates=RATES[1:], steps=50, progress=False)
    assert result.verdict.startswith("Cannot tell")


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [init(jax.random.key(0)), lambda key: init(jax.random.key(0))], ids=["tree", "constant"]
)
def test_seeds_that_are_one_run_are_run_once(start):
    task = L.Task(loss_fn, start, lambda step: (X[:16], Y[:16]))
    for found in (
        L.sweep(task, L.adam(RATES), steps=20, seeds=3, progress=False),
        tune(task, steps=40),
        L.compare(task, {"a": L.sgd(0.1)}, steps=20, seeds=3, progress=False),
    ):
        assert found.losses.shape[1] == 1 and "Neither the start nor the data depend on the seed" in found.notes[0]


def test_seeds_that_disagree():
    final = np.array([[0.9, 0.9], [0.1, 0.9], [0.5, 0.8], [0.9, 0.1]])
    scores = Scores(final, np.ones(2), np.zeros(2), np.zeros((4, 2)), np.zeros(4, bool))
    assert scores.disagree(1).tolist() == [1, 3]
    assert Scores(final[:2], np.ones(2), np.zeros(2), np.zeros((2, 2)), np.zeros(2, bool)).disagree(1) is None


def test_a_band_bridges_nothing_and_stays_away_from_the_edge():
    def scores(*final, unsafe=()):
        final = np.array(final)[:, None]
        return Scores(final, np.ones(1), np.zeros(1), np.zeros(final.shape), np.isin(np.arange(len(final)), unsafe))

    gap = scores(0.5, 0.1, 0.69, 0.1001, 0.3)
    assert gap.band(1) == (1, 1) and gap.band(3) == (3, 3)
    wide = 0.5, 0.105, 0.1, 0.108, 0.3
    assert scores(*wide).band(2) == (1, 3) and scores(*wide, unsafe=[4]).band(2) == (1, 2)
    rates = np.geomspace(0.01, 0.2, 5)
    assert scores(*wide).careful_best(rates) == scores(*wide, unsafe=[4]).careful_best(rates) == 2
    assert scores(*wide, unsafe=[3]).careful_best(rates) == 1


@pytest.fixture
def beside_instability():
    """Adam on digits that are learned by heart: three seeds do best at a rate at which eight others end at 0.0215."""
    final = [[0.0251, 0.0285, 0.0250], [0.0079, 0.0066, 0.0059], [0.0011, 0.0064, 0.0018], [0.36, np.nan, np.nan]]
    return np.array(final), np.array([0.00464, 0.01, 0.0215, 0.0464])


def scores_of(final, unsafe=()):
    seeds = final.shape[1]
    error, unsafe = np.zeros(final.shape), np.isin(np.arange(len(final)), unsafe)
    return Scores(final, np.full(seeds, 3.0), np.zeros(seeds), error, unsafe)


def test_a_lower_rate_is_taken_below_one_that_does_badly(beside_instability):
    final, rates = beside_instability
    assert scores_of(final).careful_best(rates) == 1
    assert verdict(rates, scores_of(final), np.zeros((4, 3), bool), None, None, (0, 3), True).best == 1
    final[3, 0] = 0.01  # nothing to fear
    assert scores_of(final).careful_best(rates) == 2
    final[3] = np.nan  # given up, as far as it went without harm
    assert scores_of(final).careful_best(rates) == 2
    assert scores_of(final, unsafe=[3]).careful_best(rates) == 1
    # what is two rates higher counts too, but less
    final[3] = 0.001, 0.006, 0.003
    further = np.append(final, np.full((1, 3), np.inf), axis=0)
    expected = scores_of(further, unsafe=[4]).expected(np.append(rates, 0.1))
    chance = (rates[2] / rates[3]) ** 5.5
    nearest = final[3].mean() + (rates[3] / 0.1) ** 5.5 * (3 - final[3].mean())
    assert expected[2] == pytest.approx(final[2].mean() + chance * (nearest - final[2].mean()))
    assert np.isnan(expected[4])
    final = 10.0 ** np.array([[-3], [-6], [-9], [-12], [0]])  # no more than one rate is gone down
    assert scores_of(final).careful_best(np.append(rates, 0.1)) == 2


def test_seeds_that_become_unstable_at_different_rates():
    """On average over other seeds the rate that is taken does better than the one with the lowest mean of three."""
    rates, rng = np.geomspace(1e-3, 1, 10), np.random.default_rng(0)

    def losses(seeds):
        edge = 0.3 * np.exp(0.2 * rng.normal(size=seeds))
        return np.where(rates[:, None] < edge, 3e-4 / rates[:, None], 1.0)

    truth = losses(10_000).mean(axis=1)
    tried = [losses(3) for _ in range(200)]
    taken = truth[[scores_of(final).careful_best(rates) for final in tried]]
    lowest = truth[[final.mean(axis=1).argmin() for final in tried]]
    assert taken.mean() < 1.5 * truth.min() < 0.15 * lowest.mean()


def test_as_good_is_up_to_the_noise_and_a_fifth():
    differences = [[0, 0, 0], [0.03, 0.03, 0.03], [0.04, 0.04, 0.04], [-0.06, 0.1, 0.08], [-0.1, 0.22, 0.12]]
    final = np.array([0.3, 0.4, 0.35]) + differences
    assert scores_of(final).as_good(0).tolist() == [True, True, False, True, False]


def test_seeds_that_end_far_apart_are_named(beside_instability):
    final, rates = beside_instability
    words = lambda final: verdict(rates, scores_of(final), np.zeros((4, 3), bool), None, None, (0, 3), True).words
    assert "Unsure" not in words(final)
    final[1] = 5e-8, 8e-4, 1e-7
    assert words(final).endswith(" Unsure: its seeds end from 5e-08 to 0.0008; another may end higher.")
    final[1] = 0.0, 1e-9, 1e-8  # rounding
    assert "Unsure" not in words(final)


def test_the_rule_of_divergence():
    control = Control(np.array([[1.0, 3.0, 2.0, 2.0, np.nan]]))
    assert control.mean == [2.0] and control.limit() == pytest.approx([2 + 10 * (2 + 1.4826 * 0.5)])
    later = np.full((1, 1000), np.nan)
    later[:, :48], later[:, 952:] = 1.0, 100.0  # the data change, and between nothing is known
    assert Control(later).limit() == [1100.0] and Control(later).mean == [100.0] and Control(later).error == [0.0]
    losses = np.full((4, 100), 2.0)
    losses[1, 20:60], losses[2, 85:], losses[3, -3:] = 1e6, 1e6, np.nan
    finite = np.array([True, True, True, True])
    assert diverged(losses, finite, control.limit().repeat(4)).tolist() == [False, False, True, False]
    assert diverged(losses[:1], np.array([False]), control.limit()).tolist() == [True]
    nothing = Control(np.zeros((1, 5))).limit()
    assert not diverged(np.full((1, 20), 5.0), finite[:1], nothing).any()


def test_a_few_large_losses_hide_no_fall():
    """Of 20 batches, in the mean over the seeds, or with one seed alone."""
    rng = np.random.default_rng(0)
    fall = rng.exponential(size=(3, 20)) ** 4
    assert fall.mean() < 3 * fall.std() / np.sqrt(60) and signed_rank(fall) > 2.5 and signed_rank(-fall) < -2.5
    assert signed_rank(np.zeros((3, 20))) == signed_rank(np.full((1, 5), np.nan)) == 0
    assert abs(signed_rank(np.repeat(rng.normal(size=(1, 20)), 100, axis=0))) < 2.5  # seeds that saw the same batches
    control = Control(np.full((1, 20), 3.0))
    assert control.fall(np.full((4, 1, 20), 1.0)).tolist() == np.full((4, 1, 2), 2.0).tolist()


def words_of(final, unsafe=(), metric=None, diverged=(), start=3.0):
    """Of one seed; nan for what was given up."""
    final = np.array(final)[:, None]
    scores = dataclasses.replace(scores_of(final, unsafe), start=np.array([start]))
    lost = np.isin(np.arange(len(final)), diverged)[:, None]
    rates = 10.0 ** np.arange(len(final))
    return verdict(rates, scores, lost, None, metric, (0, len(final) - 1), True).words


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("final", "options", "words"),
    [
        ([NAN, 2.0, 1.0, 2.0, NAN], {}, "Found: 100; none of the others does as well."),
        ([NAN, 2.0, 1.0, NAN, NAN], {}, "The best of those that went to the end is 100, the highest of them: higher "
         "rates may do better."),
        ([NAN, NAN, 1.0, 2.0, NAN], {}, "The best of those that went to the end is 100, the lowest of them: lower "
         "rates may do better."),
        ([NAN, NAN, 1.0, NAN, NAN], {}, "The best of those that went to the end is 100, the only one: other rates may "
         "do better."),
        ([NAN, 2.0, 1.0, NAN, 1.001, 2.0], {}, "Found: 100; 1e+04 does as well."),
        ([3.0, 3.0, 3.5, NAN], {}, "Nothing was learned: the loss ends at 3 at the best rate, 1, and is 3 without "
         "training."),
        ([3.1, 3.5, NAN, NAN], {}, "Nothing was learned: the loss ends at 3.1 at the best rate, 1, and is 3 without "
         "training. Lower rates may learn."),
        ([3.0, 3.01, NAN, NAN], {}, "Cannot tell: nothing was learned from 1 to 10, and higher rates were not trained "
         "to the end; the loss ends at 3 at the best rate, 1, and is 3 without training."),
        ([NAN, NAN, 3.1, 9.0], {"metric": "error"}, "Cannot tell: nothing was learned from 100 to 1e+03, and lower "
         "rates were not trained to the end; the error ends at 3.1 at the best rate, 100, and is 3 without training."),
        ([NAN, 1.0, 1.0, NAN], {"metric": "error"}, "Any of the rates from 10 to 100 will do: they end at the same "
         "error."),
        ([3.0, 3.0, 3.0], {}, "Cannot tell the rates apart: all of them end at the same loss."),
        ([INF, INF, NAN], {"diverged": [0, 1]}, "Everything diverged: try rates below 1."),
        ([INF, INF, NAN], {"diverged": [0, 1], "metric": "error"}, "Everything diverged: try rates below 1."),
        ([NAN, INF, INF], {"diverged": [1, 2]}, "All that went to the end diverged, from 10 to 100: lower rates may "
         "not."),
        ([INF, INF, NAN], {"metric": "error"}, "error is not finite after training at any rate: no rate can be "
         "recommended."),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_said(final, options, words):
    assert words_of(final, **options) == words


def test_what_may_be_noise_is_not_called_nothing():
    scores = dataclasses.replace(scores_of(np.array([[2.0], [1.0], [4.0]])), start_error=np.array([1.4]))
    words = verdict(np.array([0.1, 1.0, 10.0]), scores, np.zeros((3, 1), bool), None, None, (0, 2)).words
    assert words == (
        "Cannot tell whether anything was learned: the loss ends at 1 at the best rate, 1, and is 3 without training. "
        "That may be noise."
    )
