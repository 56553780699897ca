"""Draws charts of lines and points as SVG. The style sheet of the page sets the colours, by class."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from lrjax.report.scale import is_log, labels, limits, log_ticks, number, step_count, ticks
from lrjax.report.svg import curve, path
from lrjax.schedules.base import Schedule

WIDTH, HEIGHT = 440, 252
LEFT, RIGHT, TOP, BOTTOM = 50, 424, 30, 226  # the plot area; wide labels move its left edge
COLOURS, DASHES = 7, 5  # with no common divisor: 35 lines differ in one or the other
_CHARACTER = 9.0  # the largest width of a character in a label


def style(k: int) -> str:
    """Returns the CSS classes of the k-th line."""
    return f"c{k % COLOURS} d{k % DASHES}"


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve, with the band of its seeds."""

    name: str
    style: str  # CSS classes
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    diverged_at: float | None = None  # the x at which it diverged
    tone: float | None = None  # from 0 to 1, for the style "tone": the position on a colour ramp
    hint: str = ""  # the tooltip
    key: str = ""  # its name in the key below the chart, in which equal names are shown once
    band_key: str = ""

    @property
    def is_drawn(self) -> bool:
        return int(np.isfinite(self.y).sum()) > 1  # one point has no length

    @property
    def has_band(self) -> bool:
        return self.low is not None and self.high is not None and int(np.isfinite(self.low).sum()) > 1


@dataclasses.dataclass(frozen=True)
class Points:
    """Dots, each with its tooltip."""

    style: str
    x: np.ndarray
    y: np.ndarray
    hints: Sequence[str]
    radius: float = 3
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Span:
    """A shaded part of the x axis; a line where its ends are equal."""

    style: str
    low: float
    high: float
    hint: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Axis:
    """The range of an axis, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, v: Any) -> np.ndarray:
        """Maps numbers to 0 at the low end and 1 at the high end; clips those outside, or infinite, to the edge."""
        v = np.nan_to_num(np.asarray(v, float), nan=self.high, posinf=self.high, neginf=self.low)
        v = np.clip(v, self.low, self.high)
        if self.log:
            return np.log(v / self.low) / (math.log(self.high / self.low) or 1.0)
        return (v - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self, count: int = 4) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def steps_axis(steps: int) -> Axis:
    return Axis(0, max(steps, 1))


def value_axis(values: Any, start: Any = (), mode: str = "min") -> Axis:
    """Returns an axis with the range of `limits`."""
    return Axis(*limits(values, start, mode))


def rates_axis(rates: Sequence[np.ndarray]) -> Axis:
    """Returns the axis of the rates of several runs over the steps. It starts at 0; where the highest rates of the runs
    are far apart it is logarithmic and ends below a thousandth of the lowest of these."""
    finite = [x[np.isfinite(x)] for x in rates]
    peaks = [float(x.max()) for x in finite if len(x) and x.max() > 0]
    if not is_log(peaks):
        return Axis(0.0, 1.05 * max(peaks, default=1.0))
    positive = np.concatenate([x[x > 0] for x in finite])
    return Axis(max(float(positive.min()), 1e-3 * min(peaks)) / 2, 2 * max(peaks), log=True)


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines, points and spans over an x axis. Values beyond the y axis are drawn on its edge."""

    title: str
    description: str
    y_label: str
    x_axis: Axis
    y_axis: Axis
    x_label: str = "step"
    lines: Sequence[Line] = ()
    spans: Sequence[Span] = ()
    points: Sequence[Points] = ()

    def key(self) -> list[tuple[str, str]]:
        """Returns (swatch, name) of all that is drawn, as HTML."""
        shown = [(swatch(p.style, "dot"), p.key) for p in self.points if p.key and len(p.x)]
        shown += [(swatch(line.style), line.key) for line in self.lines if line.key and line.is_drawn]
        bands = [line for line in self.lines if line.band_key and line.has_band]
        shown += [(swatch(line.style, "band"), line.band_key) for line in bands]
        for span in self.spans:
            shape = "span" if span.high > span.low else "line"
            shown += [(swatch(span.style, shape), span.key)] if span.key else []
        return [(picture, escape(words)) for words, picture in {words: picture for picture, words in shown}.items()]

    def svg(self) -> str:
        marks = self.y_axis.ticks(5)
        texts = labels(marks)
        left = max(LEFT, round(11 + _CHARACTER * max(map(len, texts), default=0)))  # fits the widest label
        canvas = _Canvas(self.x_axis, self.y_axis, left)
        values = [line.y[np.isfinite(line.y)] for line in self.lines]
        above = any((y > self.y_axis.high).any() for y in values)
        below = any((y < self.y_axis.low).any() for y in values)
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart" '
            f'data-left="{left}" data-right="{RIGHT}" data-top="{TOP}" data-bottom="{BOTTOM}" '
            f'data-low="{self.y_axis.low:.6g}" data-high="{self.y_axis.high:.6g}" data-log="{int(self.y_axis.log)}" '
            f'data-above="{int(above)}" data-below="{int(below)}" data-steps="{self.x_axis.high:.6g}">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>"
            f'<text x="4" y="14" class="label">{escape(_shortened(self.y_label, 50))}</text>'
        ]
        out += [canvas.span(span) for span in self.spans]
        for tick, text in zip(marks, texts, strict=True):
            y = float(canvas.y(tick))
            out.append(f'<path class="grid" d="M{left} {y:.1f}H{RIGHT}"/>')
            out.append(f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        out += self._x_labels(canvas)
        out += [canvas.band(line) for line in self.lines if line.has_band]
        out += [canvas.line(line) for line in self.lines]
        out += [canvas.dots(group) for group in self.points]
        out += [canvas.cross(line) for line in self.lines if line.diverged_at is not None]
        return "".join(out) + "</svg>"

    def _x_labels(self, canvas: "_Canvas") -> list[str]:
        numbers = self.x_axis.ticks()
        texts = labels(numbers) if self.x_axis.log else list(map(step_count, numbers))
        out, y = [], BOTTOM + 17
        for tick, text in zip(numbers, texts, strict=True):
            x = min(float(canvas.x(tick)), WIDTH - 2 - _CHARACTER * len(text) / 2)
            out.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
        left = canvas.left - (20 if self.x_axis.log else 14)  # a power of ten is wider than a 0
        return [*out, f'<text x="{left}" y="{y}" text-anchor="end">{escape(self.x_label)}</text>']


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """Maps data to pixels in a chart, and draws lines, points and spans there."""

    x_axis: Axis
    y_axis: Axis
    left: int

    def x(self, x: Any) -> np.ndarray:
        return self.left + self.x_axis.share(x) * (RIGHT - self.left)

    def y(self, y: Any) -> np.ndarray:
        return BOTTOM - self.y_axis.share(y) * (BOTTOM - TOP)

    def span(self, span: Span) -> str:
        left, right = float(self.x(span.low)), float(self.x(span.high))
        is_line = not right > left
        d = f"M{left:.1f} {TOP}V{BOTTOM}" + ("" if is_line else f"H{right:.1f}V{TOP}Z")
        return f'<path class="{"mark" if is_line else "span"} {span.style}" d="{d}">{_hint(span.hint)}</path>'

    def band(self, line: Line) -> str:
        assert line.low is not None and line.high is not None
        keep = np.isfinite(line.low) & np.isfinite(line.high)
        x = self.x(line.x[keep])
        upper, lower = path(x, self.y(line.high[keep])), path(x[::-1], self.y(line.low[keep])[::-1])
        return f'<path class="band {line.style}" d="{upper}L{lower[1:]}Z"/>'

    def line(self, line: Line) -> str:
        """Draws a path even for an empty line, since page.js matches lines with the legend by order."""
        keep = np.isfinite(line.y)
        d = path(self.x(line.x[keep]), self.y(line.y[keep])) if keep.any() else ""
        tone = "" if line.tone is None else f' style="--tone:{line.tone:.0%}"'
        hint = f">{_hint(line.hint)}</path>" if line.hint else "/>"
        return f'<path class="line {line.style}"{tone} d="{d}"{hint}'

    def dots(self, group: Points) -> str:
        return "".join(
            f'<circle class="dot {group.style}" cx="{x:.1f}" cy="{y:.1f}" r="{group.radius}">{_hint(hint)}</circle>'
            for x, y, hint in zip(self.x(group.x), self.y(group.y), group.hints, strict=True)
        )

    def cross(self, line: Line) -> str:
        x = min(float(self.x(line.diverged_at)), RIGHT - 5)
        return f'<path class="cross {line.style}" d="M{x - 5:.1f} {TOP - 5}l10 10m0 -10l-10 10"/>'


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


_STYLE = (
    "<style>svg{color:#0072b2}text{font:12px sans-serif;fill:#5c6270}.label{font-weight:600}.grid{stroke:#5c6270;"
    "stroke-opacity:.3}.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}"
    "@media(prefers-color-scheme:dark){svg{color:#56b4e9}text{fill:#a3a9b5}}</style>"
)


def schedule_page(schedule: Schedule, steps: int) -> str:
    """Returns the curve of a schedule with axes, as a standalone SVG file."""
    line = Line(repr(schedule), "", *curve(schedule, steps))
    first, last = number(float(line.y[0])), number(float(line.y[-1]))
    description = f"From {first} at step 0 to {last} at step {step_count(steps)}."
    axis = Axis(0.0, 1.05 * float(line.y.max()) or 1.0)
    picture = Chart(line.name, description, "learning rate", steps_axis(steps), axis, lines=[line]).svg()
    return picture.replace("<title>", _STYLE + "<title>", 1)


_SHAPES = {"line": "M0 5H34", "span": "M0 0H34V10H0Z", "band": "M0 1H34V9H0Z"}


def swatch(style: str, shape: str = "line") -> str:
    """Draws a sample of a line, a band, a span or a dot, for a legend."""
    drawn = (
        f'<circle class="dot {style}" cx="17" cy="5" r="4"/>'
        if shape == "dot"
        else f'<path class="{shape} {style}" d="{_SHAPES[shape]}"/>'
    )
    return f'<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true">{drawn}</svg>'
