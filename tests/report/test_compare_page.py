"""The page and the table of a comparison, and the script that reads values off its charts."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import lrjax
from lrjax.search.comparison import Entry
from lrjax.search.techniques import REFERENCE
from tests.pages import SVG, charts_of
from tests.report.made import all_techniques, comparison, of_comparison, own_entries


@pytest.mark.slow
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
    assert ("diverged", f"1 of {len(all_techniques())}", REFERENCE) in findings.facts
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
