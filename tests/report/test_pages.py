"""The page and the table of every kind of result."""

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from lrjax.report.compare_page import compare_findings, compare_page
from lrjax.report.find_page import READS, find_findings, find_page
from lrjax.report.findings import DIVERGED, mean_cells
from lrjax.report.rate_charts import rate_axis
from lrjax.report.sweep_page import sweep_findings, sweep_page
from lrjax.report.train_page import train_findings, train_page
from lrjax.report.tune_page import tune_findings, tune_page, ways
from lrjax.search.comparison import Entry
from lrjax.search.range_test import RULES
from lrjax.search.techniques import REFERENCE
from tests.pages import SVG, assert_needs_nothing, charts_of
from tests.report.made import (
    NAN,
    RATES,
    SETUP,
    STEPS,
    all_techniques,
    comparison,
    nothing_tuned,
    own_entries,
    range_result,
    run_result,
    sweep_result,
    tune_result,
)

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
    assert captions(of_sweep([NAN] * 5)[1])[0] == "all runs diverged".split()
    assert captions(of_sweep([1.0], seeds=1)[1])[0] == "a run best mean".split()
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
    assert ways(result) == ["given up", "given up", "to the end", "to the end", "diverged"]
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


# a comparison


def test_the_page_of_a_comparison_names_everything():
    findings, text = of_comparison(all_techniques())
    for entry in all_techniques():
        assert text.count(entry.name) >= 3
    assert "What a learning rate does" in text and "Made of numbers. Each technique" in text
    assert list(dict.fromkeys(findings.groups)) == ["Fixed rates", "Decays", "Warmups and cycles", "Adaptive methods"]
    own = of_comparison(own_entries(2))[1]
    assert "Optimizers compared" in own and "Each optimizer trained" in own and "mine 1" in own


def test_each_group_has_charts_of_losses_metrics_and_rates():
    drawn = charts_of(of_comparison(all_techniques())[1])
    names = [svg.find(f"{SVG}text").text for svg in drawn]
    assert names == ["training loss", "accuracy", "learning rate"] * 4
    for svg in drawn:
        assert "At the end: " in svg.find(f"{SVG}desc").text
    with_cross = [svg.find(f"{SVG}desc").text for svg in drawn if "cross" in ET.tostring(svg, encoding="unicode")]
    assert len(with_cross) == 4  # it is the reference too
    assert all("Training loss" in text and f"{REFERENCE} – (diverged)" in text for text in with_cross)
    assert len({(svg.get("data-low"), svg.get("data-high")) for svg in drawn[::3]}) == 1  # one axis for all groups
    without = charts_of(of_comparison(all_techniques(), metric=None)[1])
    assert [svg.find(f"{SVG}text").text for svg in without] == ["training loss", "learning rate"] * 4


def test_every_group_shows_the_well_chosen_fixed_rate_beside_its_own():
    lines = [svg.findall(f"{SVG}path") for svg in charts_of(of_comparison(all_techniques())[1])]
    styles = [[p.get("class") for p in paths if p.get("class").startswith("line")] for paths in lines]
    assert styles[0] == [f"line c{k} d{k}" for k in range(4)]
    assert all(names[-1] == "line ref" and len(set(names)) == len(names) for names in styles[3:])
    assert "ref" not in str([p.get("class") for svg in charts_of(of_comparison(own_entries(3))[1]) for p in svg])


def test_twenty_lines_of_a_group_have_twenty_styles_in_light_and_dark():
    _, text = of_comparison(own_entries(20))
    loss = charts_of(text)[0]
    styles = [p.get("class") for p in loss.findall(f"{SVG}path") if p.get("class").startswith("line")]
    assert len(set(styles)) == 20
    css = text[text.index("<style>") : text.index("</style>")]
    for name in {part for kind in styles for part in kind.split()[1:]} - {"d0"}:
        assert f".{name}" in css
    for colour in range(7):
        (light, dark) = re.findall(rf"--c{colour}: (#\w+);", css)
        assert light != dark


def test_a_cross_is_where_a_run_went_up_for_good():
    entries, rose = own_entries(3), np.full((3, 3, 80), 1.0)
    rose[1, 0, 10:15] = 1e9  # and comes back
    rose[1, 0, 60:] = 1e9
    lost = np.zeros((3, 3), bool)
    lost[1, 0] = lost[2, 1] = True  # the other one's parameters are not finite, and its losses are
    _, text = of_comparison(entries, losses=rose, diverged=lost)
    crosses = [p for p in charts_of(text)[0].findall(f"{SVG}path") if p.get("class").startswith("cross")]
    starts = [float(re.match(r"M([\d.]+)", p.get("d")).group(1)) + 5 for p in crosses]
    left, right = (float(charts_of(text)[0].get(f"data-{side}")) for side in ("left", "right"))
    assert starts == pytest.approx([left + 60 / 80 * (right - left), right - 5], abs=0.1)


def test_the_rows_of_a_comparison_say_what_happened():
    findings, text = of_comparison(all_techniques())
    rows, names = findings.rows, [column.name for column in findings.columns]
    assert rows[0]["steps_to_target"] == 42 and rows[0]["diverged"] == 0
    assert rows[1]["diverged"] == 3 and rows[1]["train_loss"] is None and rows[2]["steps_to_target"] is None
    shown = dict(zip(names, findings.cells[0], strict=True))
    assert shown["accuracy"] == "0.950 ± 0.000" and shown["steps to accuracy 0.9"] == "42"
    assert findings.best == 0 and findings.bad == {1}
    assert ("best accuracy", "0.950 ± 0.000", "fixed, too low") in findings.facts
    assert ("first to accuracy 0.9", "42 steps", "fixed, too low") in findings.facts
    assert ("diverged", "1 of 19", REFERENCE) in findings.facts
    assert "%" not in " ".join(findings.cells[0])
    one, _ = of_comparison(own_entries(2), seeds=1)
    assert "±" in shown["accuracy"]
    assert json.loads(one.to_json())["target"] == 0.9


def test_without_a_metric_the_loss_has_the_target():
    findings, _ = of_comparison(own_entries(3), metric=None)
    assert "steps to loss 0.5" in [column.name for column in findings.columns]
    assert findings.best == 0 and findings.rows[0]["steps_to_target"] is not None
    nothing, text = of_comparison(own_entries(2), diverged=np.ones((2, 3), bool))
    assert nothing.best is None and nothing.summary["best"] is None and "class=best" not in text


def test_rates_that_are_not_known_have_no_chart():
    _, text = of_comparison([Entry("Optimizers", "<b>task", lrjax.sgd)])
    assert [svg.find(f"{SVG}text").text for svg in charts_of(text)] == ["training loss", "accuracy"]


def test_rates_that_are_far_apart_are_on_a_logarithmic_axis():
    drawn = charts_of(of_comparison(all_techniques())[1])
    assert [svg.get("data-log") for svg in drawn[2::3]] == ["0", "0", "0", "0"]  # all peaks are 0.1
    far = [Entry("Optimizers", f"{rate}", lrjax.sgd(lrjax.constant_schedule(rate))) for rate in (1e-5, 1.0)]
    assert charts_of(of_comparison(far)[1])[2].get("data-log") == "1"


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_the_script_of_the_page_reads_the_values_at_a_step(tmp_path):
    """In a small stand-in for a browser's document, made from the page."""
    _, text = of_comparison(own_entries(3), metric="R²")
    charts = charts_of(text)
    described = [
        {
            "dataset": {k.removeprefix("data-"): v for k, v in svg.attrib.items() if k.startswith("data-")},
            "lines": [p.get("d") for p in svg.findall(f"{SVG}path") if p.get("class").startswith("line")],
        }
        for svg in charts
    ]
    script = re.search("<script>(.*)</script>", text, flags=re.DOTALL).group(1)
    (tmp_path / "page.js").write_text(f"const charts_ = {json.dumps(described)};\n{STAND_IN}\n{script}\n{POINT}")
    done = subprocess.run(["node", str(tmp_path / "page.js")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    at, *cells = json.loads(done.stdout)
    assert at == "step 80"
    result = comparison(own_entries(3), metric="R²")
    for cell, rate in zip(cells[2], (0.001, 0.002, 0.003), strict=True):
        assert float(cell) == pytest.approx(rate, rel=0.01)
    assert float(cells[1][0]) == pytest.approx(0.95, abs=0.01)
    assert cells[0][1] == "–"  # its line has ended
    assert float(cells[0][2]) == pytest.approx(result.losses[2, :, -1].mean(), rel=0.05)


STAND_IN = """
const cell = () => ({ textContent: "end" });
const at = cell();
const charts = charts_.map((c, k) => ({
  dataset: c.dataset, viewBox: { baseVal: { width: 440 } }, on: {},
  querySelectorAll: () => c.lines.map(d => ({ getAttribute: () => d })),
  appendChild: x => x, getBoundingClientRect: () => ({ left: 0, width: 880 }),
  addEventListener(name, f) { this.on[name] = f; },
}));
const columns = charts.map((c, k) => charts_[k].lines.map(cell));
const group = {
  querySelectorAll: words => words === "svg.chart" ? charts : columns[+words.match(/(\\d+)/)[1] - 2],
  querySelector: () => at,
};
const document = {
  querySelectorAll: () => [group],
  createElementNS: () => ({ setAttribute() {} }),
};
"""
POINT = """
charts[1].on.pointermove({ clientX: 2 * 424, currentTarget: charts[1] });
const shown = [at.textContent, ...columns.map(column => column.map(c => c.textContent))];
charts[1].on.pointerleave();
if (columns[0][0].textContent !== "end") throw new Error("the ends are not back");
console.log(JSON.stringify(shown));
"""


# one run


def test_the_page_of_a_run_shows_loss_rate_and_metrics():
    findings, text = of_run(metrics=TWO, rates="groups", aux={"norm": np.ones(STEPS)})
    drawn = charts_of(text)
    assert [svg.find(f"{SVG}text").text for svg in drawn] == ["training loss", "learning rate", "R²", "error", "norm"]
    assert drawn[3].get("data-log") == "1" and drawn[2].get("data-log") == "0"
    assert [column.name for column in findings.columns] == ["step", "loss", "rate body", "rate head", "R²", "error"]
    assert "with seed 3" in text and findings.rows[3]["error"] == pytest.approx(3.0)


def test_the_table_of_a_run_is_short_and_its_rows_are_all_steps():
    findings, _ = of_run(steps=1000)
    assert [cells[0] for cells in findings.cells] == [f"{100 * k:,}" for k in range(1, 11)]
    assert len(findings.rows) == 1000 and findings.cells[-1][-1] == "0.960"
    assert findings.verdict.startswith("After 1,000 steps: loss 0.") and "accuracy 0.96" in findings.verdict
    assert ("accuracy", "0.96", "best 0.96 after 1,000 steps") in findings.facts


def test_a_run_that_diverged_says_so():
    losses = np.append(np.ones(20), np.full(20, NAN))
    findings, _ = of_run(losses=losses, diverged=True)
    assert "has diverged" in findings.verdict and findings.summary["loss"] is None
    assert findings.cells[-1][1] == "–" and ("diverged", "yes", "") in findings.facts


# pictures


@pytest.mark.parametrize("make", [sweep_result, tune_result, nothing_tuned, range_result, run_result])
def test_pictures_of_results_have_the_axes_of_the_pages(make):
    plt = pytest.importorskip("matplotlib.pyplot")
    result = make()
    ax = result.plot()
    assert ax.get_ylim()[1] > ax.get_ylim()[0]
    if make is sweep_result:
        svg = charts_of(of_sweep()[1])[0]
        assert ax.get_ylim() == pytest.approx([float(svg.get("data-low")), float(svg.get("data-high"))], rel=1e-5)
        assert (ax.get_yscale() == "log") == (svg.get("data-log") == "1")
        result.plot_curves()
    plt.close("all")


def test_pictures_where_there_is_nothing_to_name_have_no_legend():
    plt = pytest.importorskip("matplotlib.pyplot")
    for result in (sweep_result([NAN] * 5), range_result(False), nothing_tuned()):
        ax = result.plot()
        assert ax.get_legend() is None or ax.get_legend().get_texts()
    assert comparison(own_entries(2)).plot().get_legend() is not None
    plt.close("all")


def test_a_table_in_a_notebook_takes_words_and_numbers():
    html = comparison([Entry("Optimizers", "<i>", lrjax.adam(jnp.float32(0.1)))])._repr_html_()
    assert "&lt;i&gt;" in html and "<i>" not in html and "1.23e" not in html
