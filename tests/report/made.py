"""Made-up results of every kind, with what is said of them and their pages."""

import dataclasses

import numpy as np

import lrjax
from lrjax.report.compare_page import compare_findings, compare_page
from lrjax.report.find_page import find_findings, find_page
from lrjax.report.findings import Setup
from lrjax.report.sweep_page import sweep_findings, sweep_page
from lrjax.report.train_page import train_findings, train_page
from lrjax.report.tune_page import tune_findings, tune_page
from lrjax.search.compare import GIVEN_GROUP
from lrjax.search.comparison import Comparison, Entry
from lrjax.search.coordinate_check import CoordinateCheck
from lrjax.search.range_test import RULES, RangeTest
from lrjax.search.result import SweepResult
from lrjax.search.techniques import FAMILIES, techniques
from lrjax.search.tune import TuneResult
from lrjax.training.result import Run

STEPS = 40
RATES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
SETUP = Setup(
    "<b>task</b>.py",
    "adam",
    STEPS,
    3,
    "training loss, the mean of the last tenth",
    "lrjax sweep '<b>task</b>.py'",
)
NAN = float("nan")


def sweep_result(final=(2.0, 1.0, 0.1, 0.8, NAN), start=2.5, seeds=3, metric=None, evaluations=4):
    """Losses that fall from `start` to `final`; nan diverged. `metric` is (name, mode, final values)."""
    final, settings = np.array(final), len(final)
    fall = np.linspace(0, 1, STEPS) ** 0.5
    losses = start + (final - start)[:, None, None] * fall * np.ones((1, seeds, 1))
    losses = losses * (1 + 0.01 * np.arange(seeds)[:, None])
    losses[:, :, 0] = start
    metrics, modes, start_metric, at = {}, {}, np.full(seeds, NAN), np.zeros(0, int)
    if metric is not None:
        name, mode, values = metric
        at, start_metric = np.arange(1, evaluations + 1) * (STEPS // evaluations), np.full(seeds, 0.1)
        share = at / STEPS
        curves = 0.1 + (np.array(values) - 0.1)[:, None, None] * share * np.ones((1, seeds, 1))
        metrics, modes = {name: curves + 0.001 * np.arange(seeds)[:, None]}, {name: mode}
    lost = np.isnan(final)[:, None] & np.ones(seeds, bool)
    rates = RATES[:settings]
    control = np.full((seeds, STEPS), NAN)
    control[:, :20] = start * (1 + 0.01 * np.sin(np.arange(20)))
    return SweepResult(
        rates,
        {"learning_rate": rates},
        losses,
        metrics,
        at,
        modes,
        lost,
        control,
        start_metric,
        0 * start_metric,
        None,
        ("A note.",),
    )


def tune_result(metric=None, mode="min"):
    losses, final = np.full((5, 3, STEPS), NAN), np.full((5, 3), NAN)
    losses[0, 0, :4], losses[1, 0, :14] = 2.4, np.linspace(2.4, 1.0, 14)
    losses[2], losses[3, 0] = np.linspace(2.4, 0.1, STEPS), np.linspace(2.4, 0.3, STEPS)
    losses[4, 0, :3] = [2.4, 9.0, 90.0]
    final[2], final[3, 0], final[4, 0] = [0.1, 0.11, 0.12], 0.3, np.inf
    diverged = np.zeros((5, 3), bool)
    diverged[4, 0] = True
    if mode == "max":
        final = 1 - final
    verdict = "Found: 0.01; none of the others does as well."
    start = 2.4 if metric is None else 0.1
    return TuneResult(
        1e-2, 1e-2, 1e-2, verdict, RATES, losses, final, diverged, metric, mode, start, 181, 600, ("A note.",), None
    )


def nothing_tuned():
    losses, final = np.full((5, 3, STEPS), NAN), np.full((5, 3), NAN)
    losses[:, 0, 0], final[:, 0] = 2.4, np.inf
    diverged = np.arange(3) * np.ones((5, 1)) == 0
    words = "Everything diverged: try rates below 0.0001."
    return TuneResult(NAN, NAN, NAN, words, RATES, losses, final, diverged, None, "min", 2.4, 5, 600, (), None)


def range_result(known=True):
    rates = np.geomspace(1e-6, 1, STEPS)
    losses = 2 - np.exp(-((np.log10(rates) + 2) ** 2)) + np.array([[0.0], [0.1], [0.2]])
    smoothed = np.where(np.arange(STEPS) < 35, losses, NAN)
    at = np.array([1e-3, 2e-3, NAN]) if known else np.full(3, NAN)
    return RangeTest(rates, losses, smoothed, {rule: at * (k + 1) for k, rule in enumerate(RULES)})


def comparison(entries, metric="accuracy", mode="max", steps=80, seeds=3, **fields):
    """The first learns, the second gets infinite half-way, the others stay."""
    rng, count = np.random.default_rng(0), len(entries)
    losses = rng.uniform(1, 2, (count, seeds, steps))
    losses[0] *= np.linspace(1, 0.01, steps)
    if count > 1:
        losses[1, :, steps // 2 :] = NAN
    evaluated_at = np.arange(1, 41) * (steps // 40)
    values = rng.uniform(0.1, 0.5, (count, seeds, 40))
    values[0, :, 20:] = 0.95
    lost = np.zeros((count, seeds), bool)
    lost[1:2] = True
    rates = np.full((count, steps), NAN)
    for i, entry in enumerate(entries):
        if isinstance(schedule := getattr(entry.optimizer, "learning_rate", None), lrjax.Schedule):
            rates[i] = np.asarray(schedule(np.arange(steps)))
    control = np.full((seeds, 20), 1.5) * (1 + 0.01 * np.sin(np.arange(20)))
    has = metric is not None
    given = {
        "task": "made",
        "description": "Made of numbers",
        "entries": tuple(entries),
        "learning_rates": rates,
        "losses": losses,
        "metrics": {metric: values} if has else {},
        "evaluated_at": evaluated_at if has else evaluated_at[:0],
        "modes": {metric: mode} if has else {},
        "diverged": lost,
        "control": control,
        "start_metric": np.full(seeds, 0.1 if has else NAN),
        "target": 0.9 if has else 0.5,
        "how": "The rates were made up.",
        "notes": ("A note.",),
        "run": None,
        "runs": None,
    }
    return Comparison(**{**given, **fields})


def all_techniques():
    return [Entry(t.group, t.name, t.optimizer(t.shape(0.1))) for t in techniques(80)]


def own_entries(count):
    adam = lambda k: FAMILIES["Adam"](lrjax.constant_schedule(1e-3 * (k + 1)))
    return [Entry(GIVEN_GROUP, f"mine {k}", adam(k)) for k in range(count)]


def run_result(metrics=None, rates="one", steps=STEPS, **fields):
    at = np.arange(1, 11) * (steps // 10)
    metrics = {"accuracy": ("max", np.linspace(0.1, 0.96, 10))} if metrics is None else metrics
    falling = np.linspace(0.1, 0.0, steps)
    given = {
        "params": None,
        "model_state": None,
        "opt_state": None,
        "losses": np.linspace(2.3, 0.2, steps),
        "learning_rates": {"one": falling, "none": None, "groups": {"body": falling, "head": 10 * falling}}[rates],
        "metrics": {name: x for name, (_, x) in metrics.items()},
        "evaluated_at": at if metrics else at[:0],
        "aux": {},
        "seed": 3,
        "diverged": False,
        "modes": {name: mode for name, (mode, _) in metrics.items()},
        "task": "made",
        "optimizer": "sgd(learning_rate=<0.1>)",
    }
    return Run(**{**given, **fields})


ACCURACY = ("accuracy", "max", (0.2, 0.5, 0.95, 0.9, 0.1))
AGAIN = "lrjax tune '<b>task</b>.py'"


def both(findings, page, result, *more, setup=SETUP):
    found = findings(setup, result, *more)
    return found, page(found, result)


def of_sweep(*arguments, **options):
    result = sweep_result(*arguments, **options)
    return both(sweep_findings, sweep_page, result, setup=dataclasses.replace(SETUP, seeds=result.diverged.shape[1]))


def of_tune(result):
    return both(tune_findings, tune_page, result, 0.25)


def of_find(*arguments):
    return both(find_findings, find_page, range_result(*arguments), AGAIN)


def of_comparison(entries, **fields):
    result = comparison(entries, **fields)
    return both(compare_findings, compare_page, result, setup=dataclasses.replace(SETUP, steps=80))


def of_run(**fields):
    return both(train_findings, train_page, run_result(**fields))


TWO = {"R²": ("max", np.linspace(-4, 0.3, 10)), "error": ("min", np.geomspace(3, 1e-3, 10))}


def coordinate_result():
    widths = np.array([32, 64, 128, 256])
    powers = np.array([0.0, 1.0, -1.0])
    sizes = widths[None, :, None] ** powers[:, None, None] * np.array([0.9, 1.0, 1.1])
    no_update, diverged = np.zeros((1, 4, 3)), np.full((1, 4, 3), NAN)
    names = ("<i>embed", "hidden/w", "out", "frozen", "lost")
    return CoordinateCheck(widths, names, np.concatenate([sizes, no_update, diverged]), steps=5)
