"""The page, the pictures and how a schedule shows itself."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from lrjax.compare import TASKS, Comparison, techniques
from lrjax.report.html import page
from lrjax.report.svg import horizon, log_ticks, number, schedule_svg, ticks
from lrjax.report.table import cells, headers, to_json


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
    return Comparison(task, listed, rates, losses, losses[:, :, -1], metric, np.arange(1, 41) * 2)


class Balanced(HTMLParser):
    void = {"meta", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_balanced_and_needs_nothing_from_elsewhere(result):
    text, parser = page(result), Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not any("src" in attrs or "href" in attrs for _, attrs in parser.tags)
    assert "url(" not in text and "@import" not in text
    assert {"viewport"} <= {attrs.get("name") for tag, attrs in parser.tags if tag == "meta"}
    for technique in result.techniques:
        assert technique.name in text


def test_the_page_shows_a_chart_of_losses_and_rates_for_each_group(result):
    charts = re.findall(r"<svg viewBox=\"0 0 460 250\".*?</svg>", page(result), flags=re.DOTALL)
    assert len(charts) == 8
    for chart in charts:
        assert "nan" not in ET.tostring(ET.fromstring(chart), encoding="unicode")
    assert sum('class="cross' in chart for chart in charts) == 1  # the run that got infinite


def test_the_rows_say_what_happened(result):
    rows = result.rows()
    assert rows[0]["steps_to_target"] == 42 and rows[0]["diverged"] == 0
    assert rows[1]["diverged"] == 3 and rows[1]["train_loss"] is None
    assert rows[2]["steps_to_target"] is None
    shown = dict(zip(headers(result), cells(rows[0], percent=True), strict=True))
    assert shown["test accuracy, %"] == "95.0 ± 0.0" and shown["steps to 90%"] == "42"
    assert "NaN" not in to_json(result)


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
    lrjax.from_callable(lambda step: 0.1 + 0 * step),
    lrjax.cosine_decay_schedule(1e-30, 10**9),
    lrjax.linear_schedule(1.0, 0.0, 10).stretch(3),
]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda s: type(s).__name__)
def test_a_schedule_shows_itself(schedule):
    html = schedule._repr_html_()
    root = ET.fromstring(html.replace("<br>", "<br/>"))
    (picture,) = root.iter("{http://www.w3.org/2000/svg}svg")
    assert "currentColor" in html and "nan" not in html and len(html) < 6000
    assert picture.find("{http://www.w3.org/2000/svg}title").text == repr(schedule)
    assert type(schedule).__name__ in html


def test_text_from_outside_is_escaped():
    def evil(step):
        return 0.1 + 0 * step

    evil.__qualname__ = "<script>"
    html = lrjax.from_callable(evil)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_batch_shows_its_repr():
    assert lrjax.cosine_decay_schedule(jnp.array([0.1, 0.2]), 10)._repr_html_().startswith("<code>cosine")


def test_the_horizon_shows_all_phases_or_some_periods():
    assert horizon(lrjax.linear_schedule(0.0, 1.0, 100)) == 111
    assert horizon(lrjax.cyclic_schedule(0.0, 1.0, 10, 10)) == 80
    assert horizon(lrjax.linear_schedule(0.0, 1.0, 100).stretch(2)) == 221
    assert horizon(lrjax.exponential_decay(1.0, 10, 0.5)) == 40


def test_a_schedule_svg_is_a_small_picture():
    text = schedule_svg(lrjax.rex_schedule(0.1, 100))
    assert ET.fromstring(text).tag.endswith("svg") and len(text) < 5000


def test_ticks_are_round_and_inside():
    assert ticks(0, 400) == [0, 100, 200, 300, 400]
    assert ticks(0, 0.105) == pytest.approx([0, 0.05, 0.1])
    assert log_ticks(0.004, 7.0) == [0.01, 0.1, 1.0]
    assert [number(x) for x in (0.05, 0, 3e-4, 20000, 1.67e-4)] == ["0.05", "0", "3e-4", "2e4", "1.67e-4"]


def test_plot_draws_with_matplotlib():
    import matplotlib

    matplotlib.use("agg")
    axes = lrjax.linear_schedule(0.0, 1.0, 10).plot(20)
    (line,) = axes.lines
    assert line.get_xdata()[-1] == 20 and line.get_ydata()[5] == np.float32(0.5)
    assert lrjax.linear_schedule(0.0, 1.0, 10).plot(10**6, ax=axes) is axes
