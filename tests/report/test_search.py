"""The pages of a search, and what they say."""

import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from lrjax.report.findings import RULES, Search, found, swept, tuned, went
from lrjax.report.search import find_page, loss_axis, rate_axis, sweep_page, tune_page
from lrjax.search.range_test import RangeTest
from lrjax.search.result import SweepResult
from lrjax.search.tune import TuneResult
from tests.pages import SVG, assert_needs_nothing, charts_of

RATES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
SEARCH = Search("<b>task</b>.py", "adam", 40, 3, False, "lrjax sweep '<b>task</b>.py'", "'<b>task</b>.py'")


def made_sweep(final=(2.0, 1.0, 0.1, 0.8, np.nan), start=2.5, seeds=3):
    """Losses that fall from `start` to `final`; nan diverged."""
    final = np.array(final)
    fall = np.linspace(0, 1, 40) ** 0.5
    losses = start + (final - start)[:, None, None] * fall * np.ones((1, seeds, 1))
    losses = losses * (1 + 0.01 * np.arange(seeds)[:, None])
    lost = np.isnan(final)[:, None] & np.ones(seeds, bool)
    losses[:, :, 0] = start
    return SweepResult(RATES[: len(final)], {"learning_rate": RATES[: len(final)]}, losses, None, lost)


def made_tune():
    losses, final = np.full((5, 3, 40), np.nan), np.full((5, 3), np.nan)
    losses[0, 0, :4], losses[1, 0, :14] = 2.4, np.linspace(2.4, 1.0, 14)
    losses[2], losses[3, 0] = np.linspace(2.4, 0.1, 40), np.linspace(2.4, 0.3, 40)
    losses[4, 0, :3] = [2.4, 9.0, 90.0]
    final[2], final[3, 0] = [0.1, 0.11, 0.12], 0.3
    diverged = np.zeros((5, 3), bool)
    diverged[4, 0] = True
    verdict = "Found: 0.01; from 0.01 to 0.01 does as well."
    return TuneResult(1e-2, 1e-2, 1e-2, verdict, RATES, losses, final, diverged, 181, 600)


def made_range(known=True):
    rates = np.geomspace(1e-6, 1, 40)
    losses = 2 - np.exp(-((np.log10(rates) + 2) ** 2)) + np.array([[0.0], [0.1], [0.2]])
    smoothed = np.where(np.arange(40) < 35, losses, np.nan)
    at = np.array([1e-3, 2e-3, np.nan]) if known else np.full(3, np.nan)
    return RangeTest(rates, losses, smoothed, {rule: at * (k + 1) for k, rule in enumerate(RULES)})


CASES = {
    "find": lambda: (findings := found(SEARCH, made_range()), find_page(findings, made_range())),
    "find, nothing": lambda: (findings := found(SEARCH, made_range(False)), find_page(findings, made_range(False))),
    "sweep": lambda: (findings := swept(SEARCH, made_sweep()), sweep_page(findings, made_sweep())),
    "sweep, all diverged": lambda: (
        findings := swept(SEARCH, made_sweep([np.nan] * 5)),
        sweep_page(findings, made_sweep([np.nan] * 5)),
    ),
    "sweep, one run": lambda: (
        findings := swept(dataclasses.replace(SEARCH, seeds=1), made_sweep([1.0], seeds=1)),
        sweep_page(findings, made_sweep([1.0], seeds=1)),
    ),
    "sweep, losses below zero": lambda: (
        findings := swept(SEARCH, made_sweep([0.0, -1.0, -2.0, -1.5, np.nan], 1.0)),
        sweep_page(findings, made_sweep([0.0, -1.0, -2.0, -1.5, np.nan], 1.0)),
    ),
    "tune": lambda: (findings := tuned(SEARCH, made_tune(), 0.25), tune_page(findings, made_tune())),
    "tune, eval": lambda: (
        findings := tuned(dataclasses.replace(SEARCH, evaluated=True), made_tune(), 0.25),
        tune_page(findings, made_tune()),
    ),
    "tune, all diverged": lambda: (
        findings := tuned(SEARCH, nothing_tuned(), 0.25),
        tune_page(findings, nothing_tuned()),
    ),
}


def nothing_tuned():
    losses = np.full((5, 3, 40), np.nan)
    losses[:, 0, 0] = 2.4
    nan, diverged = float("nan"), np.arange(3) * np.ones((5, 1)) == 0
    return TuneResult(nan, nan, nan, "Everything diverged.", RATES, losses, np.full((5, 3), np.nan), diverged, 5, 600)


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_balanced_escaped_and_without_nan(name):
    findings, text = CASES[name]()
    assert_needs_nothing(text)
    assert "<b>task" not in text and "&lt;b&gt;task" in text
    assert not any(word in text.lower().replace("nanum", "") for word in (">nan", "nan ", " nan", ">inf<", "infinity"))
    drawn = charts_of(text)
    assert len(drawn) == 2
    for svg in drawn:
        assert "nan" not in ET.tostring(svg, encoding="unicode")
        assert svg.find(f"{SVG}title").text and svg.find(f"{SVG}desc").text
    assert findings.verdict.split("<")[0] in text
    assert json.loads(findings.to_json(), parse_constant=lambda word: pytest.fail(word))["verdict"] == findings.verdict
    assert "nan" not in findings.to_csv() and len(findings.to_csv().splitlines()) == len(findings.rows) + 1
    assert all(len(cells) == len(findings.headers) for cells in findings.cells)


@pytest.mark.parametrize(
    ("final", "words"),
    [
        ((2.0, 1.0, 0.1, 0.8, np.nan), "The best rate is 0.01; none of the others does as well."),
        ((2.0, 0.11, 0.1, 0.8, np.nan), "The best rate is 0.01; from 0.001 to 0.01 does as well."),
        ((2.0, 1.0, 0.9, 0.5, 0.1), "edge of the range: widen it"),
        ((0.1, 0.5, 0.9, 1.0, 2.0), "edge of the range: widen it"),
        ((0.1, 0.11, 0.1, 0.11, 0.1), "Any of these rates will do"),
        ((np.nan,) * 5, "Everything diverged: try rates below 1e-4."),
        ((2.6, 2.7, 2.8, 3.0, 9.0), "nothing was learned"),
        ((1.0,), "nothing to compare it with"),
    ],
)
def test_the_verdict_of_a_sweep(final, words):
    assert words in swept(SEARCH, made_sweep(final)).verdict


def test_a_sweep_tells_the_band_the_largest_stable_rate_and_what_decides():
    findings = swept(SEARCH, made_sweep())
    assert findings.summary["best_learning_rate"] == 0.01 and findings.summary["band"] == [0.01, 0.01]
    assert findings.summary["largest_stable_learning_rate"] == 0.1
    assert "training loss" in findings.notes[0] and "0.1" in findings.notes[1]
    assert "`eval_fn`" in swept(dataclasses.replace(SEARCH, evaluated=True), made_sweep()).notes[0]
    assert findings.best == 2 and findings.bad == {4}
    assert findings.cells[4][1:3] == ["–", "3 of 3"] and findings.rows[4]["loss"] is None


def test_other_hyperparameters_of_a_sweep_are_columns():
    result = dataclasses.replace(made_sweep(), settings={"learning_rate": RATES, "b1": np.linspace(0, 0.8, 5)})
    findings = swept(SEARCH, result)
    assert findings.headers == ["rate", "b1", "loss", "diverged", ""] and findings.cells[4][1] == "0.8"


def test_a_sweep_in_any_order_is_drawn_from_low_to_high():
    result, flip = made_sweep(), slice(None, None, -1)
    turned = SweepResult(RATES[flip], {"learning_rate": RATES[flip]}, result.losses[flip], None, result.diverged[flip])
    drawn, other = (charts_of(sweep_page(swept(SEARCH, r), r)) for r in (result, turned))
    assert [ET.tostring(svg) for svg in drawn] == [ET.tostring(svg) for svg in other]


def test_what_diverged_is_shaded_and_the_best_is_marked():
    loss, curves = charts_of(CASES["sweep"]()[1])
    (span,) = (p for p in loss.findall(f"{SVG}path") if p.get("class").startswith("span"))
    assert span.find(f"{SVG}title").text == "1 to 1: all runs diverged"
    dots = [c for c in loss.findall(f"{SVG}circle") if c.get("class") == "dot best"]
    assert [c.find(f"{SVG}title").text for c in dots] == ["best: 0.01"]
    assert sum(c.get("class") == "dot c0" for c in loss.findall(f"{SVG}circle")) == 12
    assert [p.get("class") for p in curves.findall(f"{SVG}path")][-1] == "line best"


def test_rates_that_were_given_up_are_hollow():
    result = made_tune()
    assert [went(result, i) for i in range(5)] == ["given up", "given up", "to the end", "to the end", "diverged"]
    loss, _ = charts_of(tune_page(tuned(SEARCH, result, 0.25), result))
    hollow = [c for c in loss.findall(f"{SVG}circle") if "open" in c.get("class")]
    assert [c.find(f"{SVG}title").text.split(",")[0] for c in hollow] == [
        "rate 1e-4: given up after 4 steps",
        "rate 0.001: given up after 14 steps",
    ]
    spans = {p.get("class") for p in loss.findall(f"{SVG}path") if p.get("class").startswith("span")}
    assert spans == {"span c2", "span lost"}


def test_a_range_test_marks_the_suggestions_and_warns():
    findings, text = CASES["find"]()
    assert findings.verdict == "The rules suggest 0.0015 (valley) to 0.006 (minimum), 4 times apart."
    assert "lrjax tune '<b>task</b>.py'" in findings.notes[0]
    smoothed, _ = charts_of(text)
    marks = [p for p in smoothed.findall(f"{SVG}path") if p.get("class").startswith("mark")]
    assert [m.find(f"{SVG}title").text for m in marks] == [
        "valley: 0.0015", "slide: 0.003", "steep: 0.0045", "minimum: 0.006",
    ]  # fmt: skip
    assert len(smoothed.findall(f"{SVG}circle")) == 8  # two seeds know
    assert "No rule had enough points" in CASES["find, nothing"]()[0].verdict


def test_the_axes_of_losses_and_rates():
    axis = rate_axis(RATES)
    assert axis.log and np.allclose([axis.low, axis.high], [10**-4.5, 10**0.5])
    assert rate_axis(np.array([0.3])).low < 0.3 < rate_axis(np.array([0.3])).high
    assert loss_axis(np.array([0.01, 2.0, np.inf]), np.array([2.0])).log
    top = loss_axis(np.array([1.0, 1e9]), np.array([2.0]))
    assert not top.log and 2 < top.high < 2.5
    assert loss_axis(np.array([np.inf]), np.array([np.nan])).high > 0
