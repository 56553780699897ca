"""The page, the pictures and how a schedule shows itself."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from lrjax.compare import TASKS, Comparison, techniques
from lrjax.report.chart import BOTTOM, LEFT, RIGHT, TOP, Axis, Line, chart, schedule_page
from lrjax.report.html import page
from lrjax.report.scale import log_ticks, number, step_count, ticks
from lrjax.report.svg import horizon, path, schedule_svg
from lrjax.report.table import cells, headers, to_csv, to_json
from tests.pages import SVG, assert_needs_nothing, charts_of


@pytest.fixture
def result():
    """Made-up runs: the first technique learns, the second gets infinite, the others stay."""
    task, rng = TASKS["digits"](), np.random.default_rng(0)
    listed = techniques(task, 80)
    losses = rng.uniform(1, 2, (len(listed), 3, 80))
    losses[0] *= np.linspace(1, 0.01, 80)
    losses[1, :, 40:] = np.nan
    metric = rng.uniform(0.1, 0.5, (len(listed), 3, 40))
    metric[0, :, 20:] = 0.95
    rates = np.stack([np.asarray(t.schedule(np.arange(80))) for t in listed])
    start = np.full(3, 1.5)
    return Comparison(task, listed, rates, start, losses, losses[:, :, -1], metric, np.arange(1, 41) * 2)


def test_the_page_is_balanced_and_needs_nothing_from_elsewhere(result):
    text = page(result)
    assert_needs_nothing(text)
    for technique in result.techniques:
        assert technique.name in text


def charts(result):
    return charts_of(page(result))


def test_the_page_shows_a_chart_of_losses_and_rates_for_each_group(result):
    drawn = charts(result)
    assert len(drawn) == 8
    for svg in drawn:
        assert "nan" not in ET.tostring(svg, encoding="unicode")
        assert svg.find(f"{SVG}title").text and "At the end: " in svg.find(f"{SVG}desc").text
    with_cross = [svg.find(f"{SVG}desc").text for svg in drawn if "cross" in ET.tostring(svg, encoding="unicode")]
    assert len(with_cross) == 4  # it is the reference too
    assert all("Training loss" in text and "fixed, well chosen – (diverged)" in text for text in with_cross)


def test_every_group_shows_the_well_chosen_fixed_rate_beside_its_own(result):
    lines = [svg.findall(f"{SVG}path") for svg in charts(result)]
    styles = [[p.get("class").split()[1] for p in paths if p.get("class").startswith("line")] for paths in lines]
    assert styles[0] == ["c0", "c1", "c2"]
    assert all(names[-1] == "ref" and len(set(names)) == len(names) for names in styles[2:])


def test_the_script_of_the_page_knows_where_the_charts_draw(result):
    frame = re.search(r"LEFT = (\d+), RIGHT = (\d+), TOP = (\d+), BOTTOM = (\d+), WIDTH = (\d+)", page(result))
    width = charts(result)[0].get("viewBox").split()[2]
    assert list(map(int, frame.groups())) == [LEFT, RIGHT, TOP, BOTTOM, int(width)]


def test_a_point_of_a_chart_is_where_its_axes_say():
    shown = Line("a", "c0", np.array([0, 50]), np.array([0.01, 1.0]))
    svg = chart([shown], "t", "d", "y", Axis(0, 100), Axis(0.01, 1, log=True))
    line = next(p for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("class") == "line c0")
    assert line.get("d") == f"M{LEFT:.1f} {BOTTOM:.1f}L{(LEFT + RIGHT) / 2:.1f} {TOP:.1f}"


def test_the_rows_say_what_happened(result):
    rows = result.rows()
    assert rows[0]["steps_to_target"] == 42 and rows[0]["diverged"] == 0
    assert rows[1]["diverged"] == 3 and rows[1]["train_loss"] is None
    assert rows[2]["steps_to_target"] is None
    shown = dict(zip(headers(result), cells(rows[0], percent=True), strict=True))
    assert shown["test accuracy, %"] == "95.0 ± 0.0" and shown["steps to 90%"] == "42"
    assert "NaN" not in to_json(result) and "nan" not in to_csv(result)


def test_a_diverged_run_rose_and_stayed_up(result):
    losses = np.ones_like(result.losses)
    losses[0, 0, 10:] = 9.0  # rose and stayed
    losses[0, 1, 10:20] = 9.0  # rose and came back
    train_loss = losses[:, :, -1].copy()
    train_loss[0, 1] = 0.1
    changed = dataclasses.replace(result, losses=losses, train_loss=train_loss)
    assert changed.diverged[0].tolist() == [True, False, False] and not changed.diverged[1:].any()


EXAMPLES = [
    lrjax.constant_schedule(0.1),
    lrjax.constant_schedule(0.0),
    lrjax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100),
    lrjax.cyclic_schedule(0.01, 0.1, 10),
    lrjax.piecewise_constant_schedule(0.1, {30: 0.5, 60: 0.5}),
    lrjax.join_schedules([lrjax.linear_schedule(0, 1, 10), lrjax.rex_schedule(1.0, 50)], [10]),
    lrjax.tabulated_schedule([0.1, 0.2, 0.1]),
    lrjax.from_callable(lambda step: 0.1),
    lrjax.cosine_decay_schedule(1e-30, 10**9),
    lrjax.linear_schedule(0.0, 0.1, 2**31 - 1),
    lrjax.linear_schedule(1.0, 0.0, 10).stretch(3),
]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda s: type(s).__name__)
def test_a_schedule_shows_itself(schedule):
    html = schedule._repr_html_()
    root = ET.fromstring(html)
    (picture,) = root.iter(f"{SVG}svg")
    assert "currentColor" in html and "nan" not in html and len(html) < 3000
    assert picture.find(f"{SVG}title").text == repr(schedule)
    assert type(schedule).__name__ in html


def test_text_from_outside_is_escaped():
    def evil(step):
        return 0.1

    evil.__qualname__ = "<script>"
    html = lrjax.from_callable(evil)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_batch_shows_its_repr():
    assert lrjax.cosine_decay_schedule(jnp.array([0.1, 0.2]), 10)._repr_html_().startswith("<code>cosine")


def test_the_horizon_shows_all_phases_or_some_periods():
    assert 100 < horizon(lrjax.linear_schedule(0.0, 1.0, 100)) < 120
    assert 1000 < horizon(lrjax.warmup_cosine_decay_schedule(0.0, 1.0, 100, 1000)) < 1200
    assert 200 < horizon(lrjax.linear_schedule(0.0, 1.0, 100).stretch(2)) < 240
    assert 100 < horizon(lrjax.linear_schedule(0.0, 1.0, 100).clip(high=0.9)) + 10 < 120
    assert horizon(lrjax.cyclic_schedule(0.0, 1.0, 10, 10)) >= 3 * 20
    assert horizon(lrjax.exponential_decay(1.0, 10, 0.5)) >= 3 * 10
    assert horizon(lrjax.constant_schedule(0.1)) == 100


def test_a_schedule_svg_is_a_small_picture():
    text = schedule_svg(lrjax.rex_schedule(0.1, 100), width=120, height=40)
    assert ET.fromstring(text).get("viewBox") == "0 0 120 40" and len(text) < 1500


def test_a_schedule_as_a_file_has_axes():
    root = ET.fromstring(schedule_page(lrjax.step_decay(0.1, 1000, 0.5), 4000))
    assert {"0.1", "0.05", "0", "2,000", "4,000", "learning rate", "step"} <= {t.text for t in root.iter(f"{SVG}text")}


def test_a_path_keeps_corners_and_drops_points_on_a_line():
    x = np.arange(101.0)
    assert path(x, np.abs(x - 50)) == "M0.0 50.0L50.0 0.0L100.0 50.0"
    y = 50 + 40 * np.sin(x / 10)
    kept = np.array([list(map(float, p.split())) for p in path(x, y)[1:].split("L")])
    assert len(kept) < 60 and np.abs(np.interp(x, *kept.T) - y).max() < 1  # of 80, where it is steepest


def test_ticks_are_round_and_inside():
    assert ticks(0, 400) == [0, 100, 200, 300, 400]
    assert ticks(0, 0.105) == [0, 0.05, 0.1]
    assert log_ticks(0.004, 7.0) == [0.01, 0.1, 1.0]
    assert log_ticks(0.3, 6.0) == [0.5, 1.0, 2.0, 5.0]
    assert log_ticks(1e-9, 1.0) == [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]
    assert [number(x) for x in (0.05, 0, 3e-4, 20000, 1.67e-4)] == ["0.05", "0", "3e-4", "2e4", "1.67e-4"]
    assert [number(x, 2) for x in (150.4, 9999, 12.3, 1.26)] == ["150", "9999", "12", "1.3"]
    assert [step_count(x) for x in (0, 1500, 2e6)] == ["0", "1,500", "2e6"]


def test_plot_draws_with_matplotlib():
    import matplotlib

    matplotlib.use("agg")
    axes = lrjax.linear_schedule(0.0, 1.0, 10).plot(20)
    (line,) = axes.lines
    assert line.get_xdata()[-1] == 20 and line.get_ydata()[5] == np.float32(0.5)
    assert lrjax.linear_schedule(0.0, 1.0, 10).plot(10**6, ax=axes) is axes
