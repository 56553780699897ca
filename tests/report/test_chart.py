"""Charts: where things are, what the key names, and schedules as pictures."""

import re
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from lrjax.report.chart import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Chart,
    Line,
    Points,
    Span,
    rates_axis,
    schedule_page,
    style,
    value_axis,
)
from lrjax.report.svg import horizon, path, schedule_svg
from tests.pages import SVG

NAN = float("nan")


def drawn(**parts):
    return Chart("t", "d", "y", Axis(0, 100), **{"y_axis": Axis(0.01, 1, log=True), **parts})


def test_a_point_of_a_chart_is_where_its_axes_say():
    line = Line("a", "c0 d0", np.array([0, 50]), np.array([0.01, 1.0]))
    root = ET.fromstring(drawn(lines=[line]).svg())
    (shown,) = (p for p in root.iter(f"{SVG}path") if p.get("class") == "line c0 d0")
    assert shown.get("d") == f"M{LEFT:.1f} {BOTTOM:.1f}L{(LEFT + RIGHT) / 2:.1f} {TOP:.1f}"


def test_a_chart_says_where_it_draws():
    root = ET.fromstring(drawn().svg())
    frame = [root.get(f"data-{side}") for side in ("left", "right", "top", "bottom")]
    assert frame == [str(LEFT), str(RIGHT), str(TOP), str(BOTTOM)]
    assert (root.get("data-low"), root.get("data-high"), root.get("data-log")) == ("0.01", "1", "1")


@pytest.mark.parametrize("values", [[1.23e6, 1.2305e6], [1.75e-10, 1.76e-10], [-1.5e-10, -3e-9], [0.1, 0.2]])
def test_no_label_is_cut_or_said_twice(values):
    chart = drawn(y_axis=value_axis(values), lines=[Line("a", "", np.array([0, 1]), np.array(values))])
    root = ET.fromstring(chart.svg())
    texts = [t for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "end" and t.text != "step"]
    assert len({t.text for t in texts}) == len(texts) >= 2
    assert all(float(t.get("x")) >= 8 * len(t.text) for t in texts)  # the widest fonts have 8 pixels a character
    assert root.get("data-left") == str(max(LEFT, float(texts[0].get("x")) + 7)).removesuffix(".0")


def test_the_last_label_of_the_steps_is_inside():
    for steps in (7, 400, 100_000, 123_456_789, 2**31 - 1):
        root = ET.fromstring(Chart("t", "d", "y", Axis(0, steps), Axis(0, 1)).svg())
        texts = [t for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "middle"]
        assert len({t.text for t in texts}) == len(texts) >= 2
        assert all(float(t.get("x")) + 4 * len(t.text) <= WIDTH for t in texts)


def test_a_long_name_of_an_axis_is_shortened():
    root = ET.fromstring(Chart("t", "d", "word " * 40, Axis(0, 1), Axis(0, 1)).svg())
    assert max(len(t.text) for t in root.iter(f"{SVG}text")) == 50


def test_the_key_names_what_is_drawn_and_nothing_else():
    x, nothing = np.array([0.0, 1.0]), np.full(2, NAN)
    shown = Line("a", "c0 d0", x, x, x, x, key="mean", band_key="spread")
    parts = {
        "lines": [shown, Line("b", "c1 d1", x, nothing, nothing, nothing, key="lost", band_key="band of it")],
        "points": [Points("c0", x, x, ["", ""], key="a run"), Points("c1", x[:0], x[:0], [], key="given up")],
        "spans": [Span("lost", 0, 1, "", "all <lost>"), Span("lost", 1, 2, "", "all <lost>")],
    }
    assert [words for _, words in drawn(**parts).key()] == ["a run", "mean", "spread", "all &lt;lost&gt;"]
    assert drawn().key() == []


def test_a_chart_says_whether_lines_leave_it():
    x = np.array([0.0, 1.0])
    sides = lambda y: [
        ET.fromstring(drawn(lines=[Line("a", "", x, np.array(y))]).svg()).get(f"data-{side}")
        for side in ("above", "below")
    ]
    assert sides([0.1, 0.2]) == ["0", "0"] and sides([0.1, 2.0]) == ["1", "0"] and sides([0.001, NAN]) == ["0", "1"]


def test_what_is_infinite_is_put_on_an_edge():
    axis = Axis(0.0, 2.0)
    assert axis.share([np.inf, -np.inf, 1.0, 5.0]).tolist() == [1.0, 0.0, 0.5, 1.0]


def test_twenty_lines_can_be_told_apart():
    assert len({style(k) for k in range(20)}) == 20
    assert [style(k) for k in range(5)] == [f"c{k} d{k}" for k in range(5)]


def test_the_axis_of_rates():
    falling = np.linspace(0.1, 0, 10)
    assert rates_axis([falling, 2 * falling]).low == 0.0 and not rates_axis([falling]).log
    far = rates_axis([falling, np.full(10, 1e-4)])
    assert far.log and 1e-8 < far.low < 1e-4 and far.high > 0.1
    assert rates_axis([np.full(3, NAN)]).high > 0 and rates_axis([np.zeros(3)]).high > 0


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


@pytest.mark.sampled(4)
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
    texts = {t.text for t in root.iter(f"{SVG}text")}
    assert {"0.1", "0.05", "0", "2,000", "4,000", "learning rate", "step"} <= texts
    assert re.search("prefers-color-scheme:dark", schedule_page(lrjax.constant_schedule(0.0), 10))


def test_a_path_keeps_corners_and_drops_points_on_a_line():
    x = np.arange(101.0)
    assert path(x, np.abs(x - 50)) == "M0.0 50.0L50.0 0.0L100.0 50.0"
    y = 50 + 40 * np.sin(x / 10)
    kept = np.array([list(map(float, p.split())) for p in path(x, y)[1:].split("L")])
    assert len(kept) < 60 and np.abs(np.interp(x, *kept.T) - y).max() < 1  # of 80, where it is steepest


@pytest.mark.slow
def test_plot_draws_with_matplotlib():
    import matplotlib

    matplotlib.use("agg")
    axes = lrjax.linear_schedule(0.0, 1.0, 10).plot(20)
    (line,) = axes.lines
    assert line.get_xdata()[-1] == 20 and line.get_ydata()[5] == np.float32(0.5)
    assert lrjax.linear_schedule(0.0, 1.0, 10).plot(10**6, ax=axes) is axes
