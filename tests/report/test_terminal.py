"""Tables and curves in terminals of all kinds."""

import dataclasses
import re

import numpy as np
import pytest

import lrjax
from lrjax.report.compare_page import compare_findings
from lrjax.report.find_page import find_findings
from lrjax.report.svg import schedule_svg
from lrjax.report.sweep_page import sweep_findings
from lrjax.report.terminal import as_ascii, findings_text, plot
from lrjax.report.train_page import train_findings
from lrjax.report.tune_page import tune_findings
from tests.report.made import (
    NAN,
    SETUP,
    all_techniques,
    comparison,
    range_result,
    run_result,
    sweep_result,
    tune_result,
)

FINDINGS = {
    "find": lambda: find_findings(SETUP, range_result(), "lrjax tune task.py"),
    "sweep": lambda: sweep_findings(SETUP, sweep_result()),
    "tune": lambda: tune_findings(SETUP, tune_result("R²", "max"), 0.25),
    "compare": lambda: compare_findings(SETUP, comparison(all_techniques(), metric="R²")),
    "train": lambda: train_findings(SETUP, run_result()),
}
COLOUR = re.compile("\x1b\\[[0-9;]*m")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("columns", [1, 20, 30, 50, 59, 80, 120])
@pytest.mark.parametrize("name", FINDINGS)
def test_nothing_is_cut_at_any_width(name, columns):
    findings = FINDINGS[name]()
    text = findings_text(findings, columns)
    words = set(re.split(r"\s+", text))
    for cells in findings.cells:
        for cell in cells:
            assert set(cell.split()) <= words, cell
    assert "…" not in text
    widest = max(len(row[0]) + 2 + max(map(len, row[1:])) for row in findings.cells)
    assert max(map(len, text.splitlines())) <= max(columns, 20, widest)
    assert " ".join(findings.verdict.split()) in " ".join(text.split())


@pytest.mark.parametrize("name", FINDINGS)
def test_a_wide_terminal_has_one_table(name):
    findings = FINDINGS[name]()
    lines = findings_text(findings, 120).splitlines()
    assert sum(set(line) == {"─"} for line in lines) == 1
    assert sum(set(line) == {"─"} for line in findings_text(findings, 30).splitlines()) >= (1 if name == "train" else 2)


def test_columns_stand_below_each_other_and_numbers_end_there():
    lines = findings_text(FINDINGS["sweep"](), 80).splitlines()
    head = next(line for line in lines if "diverged" in line)
    row = next(line for line in lines if "3 of 3" in line)
    assert head.index("diverged") + len("diverged") == row.index("3 of 3") + len("3 of 3")
    best = next(line for line in lines if line.endswith("best"))
    assert best.split()[0] == "0.01" and best.index("0.01") == head.index("rate")


@pytest.mark.parametrize("name", FINDINGS)
@pytest.mark.parametrize("columns", [30, 80])
def test_where_there_is_nothing_but_ascii(name, columns):
    findings = FINDINGS[name]()
    text = findings_text(findings, columns, ascii_only=True)
    assert text.isascii() and "?" not in text
    if name == "tune":
        assert "R^2" in text and "+/-" in text
    body = [line for line in text.splitlines() if "+/-" in line and ":" not in line and "(" not in line]
    assert len({line.index("+/-") for line in body}) <= 2 * (columns == 30) + 1  # they stand below each other


def test_colours_change_nothing_but_colours():
    for name, make in FINDINGS.items():
        plain, coloured = findings_text(make(), 80), findings_text(make(), 80, colours=True)
        assert COLOUR.sub("", coloured) == plain and "\x1b" not in plain
        assert name in ("find", "train") or "\x1b[1;32m" in coloured
    assert "\x1b[31m" in findings_text(FINDINGS["sweep"](), 80, colours=True)


def test_groups_have_headings_in_every_part():
    text = findings_text(FINDINGS["compare"](), 50)
    assert text.count("Fixed rates") == text.count("─\n") >= 2
    assert text.count("\nDecays\n") == text.count("Fixed rates") - 1  # where none diverged, there is nothing to show


def test_a_part_with_nothing_in_it_is_left_out():
    findings = sweep_findings(SETUP, sweep_result((2.0, 1.0, 0.1, 0.8, 0.9)))
    bare = dataclasses.replace(findings, cells=[[*row[:2], "", ""] for row in findings.cells])
    assert "diverged" not in findings_text(bare, 24).split("\n\n")[1]
    assert findings_text(bare, 24).count("─\n") == 1


def test_where_everything_diverged():
    text = findings_text(sweep_findings(SETUP, sweep_result([NAN] * 5)), 80)
    assert "Everything diverged" in text and "best rate: –" in text


def test_a_curve_in_ascii_keeps_its_shape():
    schedule = lrjax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
    drawn = plot(schedule, 1000, 60)
    plain = as_ascii(drawn)
    assert plain.isascii() and len(plain) == len(drawn) and "?" not in plain
    blank = lambda text: np.array([c in " \n" for c in text])
    np.testing.assert_array_equal(blank(plain), blank(drawn))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.0), (-0.1, 0.1), (0.0, 0.0), (-0.2, -0.1)])
def test_a_plot_of_rates_below_zero_has_all_of_them(low, high):
    schedule = lrjax.linear_schedule(low, high, 100)
    lines = plot(schedule, 100, 60).splitlines()[1:-2]  # between the name of the axis and the steps
    inked = [i for i, line in enumerate(lines) if set(line[11:]) - {" "}]
    assert len(lines) == 14 and (low < high) == (len(inked) > 7)
    y = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", schedule_svg(schedule).split('d="')[2])]
    assert min(y) >= 4 and max(y) <= 76  # inside of the picture
