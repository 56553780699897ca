"""The page and the table of every kind of result; those of searches."""

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import lrjax
from lrjax.report.find_page import READS
from lrjax.report.findings import DIVERGED, mean_cells
from lrjax.report.rate_charts import rate_axis
from lrjax.report.sweep_page import sweep_findings, sweep_page
from lrjax.report.tune_page import statuses, tune_findings
from lrjax.search.comparison import Entry
from lrjax.search.range_test import RULES
from tests.pages import SVG, assert_needs_nothing, charts_of
from tests.report.made import (
    ACCURACY,
    AGAIN,
    NAN,
    RATES,
    SETUP,
    STEPS,
    TWO,
    all_techniques,
    nothing_tuned,
    of_comparison,
    of_find,
    of_run,
    of_sweep,
    of_tune,
    own_entries,
    sweep_result,
    tune_result,
)

CASES = {  # a page, and how many charts it has
    "find": (of_find, 2),
    "find, nothing": (lambda: of_find(False), 2),
    "sweep": (of_sweep, 2),
    "sweep, all diverged": (lambda: of_sweep([NAN] * 5), 2),
    "sweep, one run": (lambda: of_sweep([1.0], seeds=1), 2),
    "sweep, losses below zero": (lambda: of_sweep([0.0, -1.0, -2.0, -1.5, NAN], 1.0), 2),
    "sweep, a metric": (lambda: of_sweep(metric=ACCURACY), 3),
    "sweep, a metric at the end": (lambda: of_sweep(metric=ACCURACY, evaluations=1), 2),
    "sweep, a metric that is never finite": (lambda: of_sweep(metric=("error", "min", [NAN] * 5)), 3),
    "tune": (lambda: of_tune(tune_result()), 2),
    "tune, a metric": (lambda: of_tune(tune_result("accuracy", "max")), 2),
    "tune, all diverged": (lambda: of_tune(nothing_tuned()), 2),
    "compare": (lambda: of_comparison(all_techniques()), 12),
    "compare, the loss": (lambda: of_comparison(all_techniques(), metric=None), 8),
    "compare, own": (lambda: of_comparison(own_entries(20), metric="error", mode="min"), 3),
    "compare, one": (lambda: of_comparison(own_entries(1), seeds=1), 3),
    "compare, all diverged": (lambda: of_comparison(own_entries(2), diverged=np.ones((2, 3), bool)), 3),
    "compare, unknown rates": (lambda: of_comparison([Entry("Optimizers", "<b>task", lrjax.sgd)]), 2),
    "train": (of_run, 3),
    "train, groups": (lambda: of_run(rates="groups", metrics=TWO, aux={"norm": np.ones(STEPS)}), 5),
    "train, little": (lambda: of_run(rates="none", metrics={}), 1),
    "train, diverged": (lambda: of_run(losses=np.append(np.ones(20), np.full(20, NAN)), diverged=True), 3),
    "train, one step": (lambda: of_run(steps=10, losses=np.ones(1), learning_rates=np.ones(1), metrics={}), 2),
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", CASES)
def test_a_page_is_balanced_escaped_and_without_nan(name):
    make, count = CASES[name]
    findings, text = make()
    assert_needs_nothing(text)
    assert "<b>task" not in text and "&lt;b&gt;task" in text
    assert not any(word in text.lower() for word in (">nan", "nan ", " nan", ">inf<", ">-inf", "infinity"))
    drawn = charts_of(text)
    assert len(drawn) == count
    for svg in drawn:
        assert "nan" not in ET.tostring(svg, encoding="unicode")
        assert svg.find(f"{SVG}title").text and svg.find(f"{SVG}desc").text
    assert findings.verdict.split("<")[0] in text
    numbers = json.loads(findings.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert numbers["verdict"] == findings.verdict and len(numbers["rows"]) == len(findings.rows)
    rows = list(csv.DictReader(io.StringIO(findings.to_csv())))
    assert len(rows) == len(findings.rows) and not {"nan", "inf", "-inf"} & {x for row in rows for x in row.values()}
    assert all(len(cells) == len(findings.columns) for cells in findings.cells)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("find")])
def test_a_page_says_the_rule_of_divergence_and_what_decides(name):
    findings, text = CASES[name][0]()
    assert DIVERGED in text
    assert json.loads(findings.to_json())["decided_by"] == SETUP.decides
    if not name.startswith("train"):
        assert findings.notes[0] == f"What decides: {SETUP.decides}." and SETUP.decides in text


def test_another_multiple_of_divergence_is_said():
    setup = dataclasses.replace(SETUP, diverged_above=2.5)
    result = sweep_result()
    assert "above 2.5 times the size" in sweep_page(sweep_findings(setup, result), result)


def test_verdict_and_notes_are_those_of_the_result():
    for final in ((2.0, 1.0, 0.1, 0.8, NAN), (NAN,) * 5, (2.5, 2.51, 2.5, 2.52, 2.5)):
        result = sweep_result(final)
        findings = sweep_findings(SETUP, result)
        assert findings.verdict == result.verdict and "A note." in findings.notes
    assert tune_findings(SETUP, tune_result(), 0.25).verdict == tune_result().verdict
    assert "A note." in tune_findings(SETUP, tune_result(), 0.25).notes
    findings, text = of_comparison(all_techniques())
    assert "The rates were made up." in findings.notes and "A note." in findings.notes
    assert "The rates were made up." in text and json.loads(findings.to_json())["how"] == "The rates were made up."


def test_a_sweep_tells_the_band_and_the_largest_stable_rate():
    findings, _ = of_sweep()
    assert findings.summary["best_learning_rate"] == 0.01 and findings.summary["band"] == [0.01, 0.01]
    assert findings.summary["largest_stable_learning_rate"] == 0.1
    assert findings.best == 2 and findings.bad == {4}
    assert findings.cells[4][1:3] == ["–", "3 of 3"] and findings.rows[4]["loss"] is None
    assert ("largest stable rate", "0.1", "3 runs of 15 diverged") in findings.facts


@pytest.mark.parametrize("final", [(NAN,) * 5, (2.5, 2.5, 2.5, 2.5, 2.5), (2.6, 2.7, 2.8, 3.0, 9.0)])
def test_where_nothing_can_be_recommended_nothing_is_marked_as_best(final):
    findings, text = of_sweep(final)
    assert findings.best is None and findings.summary["best_learning_rate"] is None
    assert findings.facts[0][:2] == ("best rate", "–") and findings.facts[1][:2] == ("does as well", "–")
    assert "class=best" not in text and 'class="dot best"' not in text
    assert "font-weight" not in sweep_result(final)._repr_html_()


def test_a_metric_may_be_better_when_higher():
    findings, text = of_sweep(metric=ACCURACY)
    assert findings.best == 2 and findings.cells[2][1] == "0.951 ± 0.001"
    final, loss, curves = charts_of(text)
    assert [x.find(f"{SVG}text").text for x in (final, loss, curves)] == ["accuracy", "training loss", "accuracy"]
    assert final.get("data-log") == curves.get("data-log") == "0" and float(final.get("data-high")) > 0.95
    best = next(c for c in final.findall(f"{SVG}circle") if c.get("class") == "dot best")
    highest = min(float(c.get("cy")) for c in final.findall(f"{SVG}circle"))
    assert float(best.get("cy")) == pytest.approx(highest, abs=1)
    early = [
        c for c in charts_of(CASES["tune, a metric"][0]()[1])[0].findall(f"{SVG}circle") if "open" in c.get("class")
    ]
    assert {c.get("cy") for c in early} == {"226.0"}  # the worse edge


def test_other_hyperparameters_of_a_sweep_are_columns():
    result = dataclasses.replace(sweep_result(), settings={"learning_rate": RATES, "b1": np.linspace(0, 0.8, 5)})
    findings = sweep_findings(SETUP, result)
    assert [column.name for column in findings.columns] == ["rate", "b1", "loss", "diverged", ""]
    assert findings.cells[4][1] == "0.8"


def test_a_sweep_in_any_order_is_drawn_from_low_to_high():
    result, flip = sweep_result(metric=ACCURACY), slice(None, None, -1)
    turned = dataclasses.replace(
        result,
        learning_rates=RATES[flip],
        settings={"learning_rate": RATES[flip]},
        losses=result.losses[flip],
        metrics={"accuracy": result.metrics["accuracy"][flip]},
        diverged=result.diverged[flip],
    )
    drawn, other = (charts_of(sweep_page(sweep_findings(SETUP, r), r)) for r in (result, turned))
    assert [ET.tostring(svg) for svg in drawn] == [ET.tostring(svg) for svg in other]


def test_what_diverged_is_shaded_and_the_best_is_marked():
    loss, curves = charts_of(of_sweep()[1])
    (span,) = (p for p in loss.findall(f"{SVG}path") if p.get("class").startswith("span"))
    assert span.find(f"{SVG}title").text == "1 to 1: all runs diverged"
    dots = [c for c in loss.findall(f"{SVG}circle") if c.get("class") == "dot best"]
    assert [c.find(f"{SVG}title").text for c in dots] == ["best: 0.01"]
    assert sum(c.get("class") == "dot c0" for c in loss.findall(f"{SVG}circle")) == 12
    assert [p.get("class") for p in curves.findall(f"{SVG}path")][-1] == "line best"


def captions(text):
    return [re.sub("<[^>]*>", " ", c).split() for c in re.findall("<figcaption>(.*?)</figcaption>", text)]


def test_a_key_names_what_is_drawn():
    assert captions(of_sweep()[1])[0] == "a run best mean standard deviation all runs diverged".split()
    nothing = of_sweep([NAN] * 5)[1]
    assert captions(nothing) == ["all runs diverged".split()] and 'class="ramp"' not in nothing
    assert captions(of_sweep([1.0], seeds=1)[1])[0] == "a run best".split()
    assert "given" in captions(of_tune(tune_result())[1])[0] and "given" not in captions(of_tune(nothing_tuned())[1])[0]
    assert captions(of_find(False)[1])[0] == ["a", "seed"]


@pytest.mark.parametrize("make", [lambda: of_sweep([NAN] * 5), lambda: of_tune(nothing_tuned())])
def test_where_everything_diverged_the_axes_are_wide(make):
    for svg in charts_of(make()[1]):
        low, high = (float(svg.get(f"data-{end}")) for end in ("low", "high"))
        assert high - low > 0.01 * high
        texts = [t.text for t in svg.findall(f"{SVG}text")]
        assert len(set(texts)) == len(texts) >= 5


def test_rates_that_were_given_up_are_hollow():
    result = tune_result()
    assert statuses(result) == ["given up", "given up", "to the end", "to the end", "diverged"]
    loss, _ = charts_of(of_tune(result)[1])
    hollow = [c for c in loss.findall(f"{SVG}circle") if "open" in c.get("class")]
    assert [c.find(f"{SVG}title").text.split(",")[0] for c in hollow] == [
        "rate 1e-4: given up after 4 steps",
        "rate 0.001: given up after 14 steps",
    ]
    spans = {p.get("class") for p in loss.findall(f"{SVG}path") if p.get("class").startswith("span")}
    assert spans == {"span c2", "span lost"}


def test_a_range_test_marks_the_suggestions_and_warns():
    findings, text = of_find()
    assert list(READS) == list(RULES)
    assert findings.verdict == "The rules suggest 0.0015 (valley) to 0.006 (minimum), 4 times apart."
    assert AGAIN in findings.notes[0]
    smoothed, _ = charts_of(text)
    marks = [p for p in smoothed.findall(f"{SVG}path") if p.get("class").startswith("mark")]
    assert [m.find(f"{SVG}title").text for m in marks] == [
        "valley: 0.0015", "slide: 0.003", "steep: 0.0045", "minimum: 0.006",
    ]  # fmt: skip
    assert len(smoothed.findall(f"{SVG}circle")) == 8  # two seeds know
    assert "No rule had enough points" in of_find(False)[0].verdict


def test_the_axis_of_rates_has_half_a_step_on_both_sides():
    axis = rate_axis(RATES)
    assert axis.log and np.allclose([axis.low, axis.high], [10**-4.5, 10**0.5])
    assert rate_axis(np.array([0.3])).low < 0.3 < rate_axis(np.array([0.3])).high


def test_means_have_the_places_of_the_best():
    assert mean_cells([0.981, 0.0919], [0.0048, 0.0165], "max") == ["0.981 ± 0.005", "0.092 ± 0.017"]
    assert mean_cells([0.00123, 2.5, None], [None] * 3) == ["0.00123", "2.50000", "–"]
    assert mean_cells([-3.893, 0.2788], [2.563, 0.038], "max") == ["-3.89 ± 2.56", "0.28 ± 0.04"]
    assert mean_cells([1e-9, 2e7], [None, 1.0]) == ["1e-9", "2e7 ± 1"] and mean_cells([0.0], [0.0]) == ["0.00 ± 0.00"]
