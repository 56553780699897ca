"""Charts of lines and points as SVG. The page's style sheet sets the colours: line i has the class `c<i>`."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from lrjax.report.scale import log_ticks, number, step_count, ticks
from lrjax.report.svg import curve, path
from lrjax.schedules.base import Schedule

WIDTH, HEIGHT = 440, 252
LEFT, RIGHT, TOP, BOTTOM = 50, 424, 30, 226  # the plot area


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve, with the band of its seeds."""

    name: str
    style: str  # its class
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    lost_at: float | None = None  # where it diverged
    tone: float | None = None  # from 0 to 1, for the style "tone": between two colours
    hint: str = ""  # shown where it is pointed at


@dataclasses.dataclass(frozen=True)
class Points:
    """Dots, each with what is shown where it is pointed at."""

    style: str
    x: np.ndarray
    y: np.ndarray
    hints: Sequence[str]
    radius: float = 3


@dataclasses.dataclass(frozen=True)
class Span:
    """A shaded part of the x axis; a line, where its ends are the same."""

    style: str
    low: float
    high: float
    hint: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """From pixels to numbers and back."""

    low: float
    high: float
    log: bool = False

    def share(self, v: Any) -> np.ndarray:
        """0 at the low end, 1 at the high one; what lies outside, or is infinite, is put on the edge."""
        v = np.clip(np.nan_to_num(np.asarray(v, float), nan=self.high, posinf=self.high), self.low, self.high)
        if self.log:
            return np.log(v / self.low) / (math.log(self.high / self.low) or 1.0)
        return (v - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def steps_axis(steps: int) -> Axis:
    return Axis(0, max(steps, 1))


def chart(
    lines: Sequence[Line],
    title: str,
    description: str,
    y_label: str,
    x_axis: Axis,
    axis: Axis,
    x_label: str = "step",
    spans: Sequence[Span] = (),
    points: Sequence[Points] = (),
) -> str:
    """The lines over the x axis. What is above the y axis runs along the top."""

    def to_x(x: Any) -> np.ndarray:
        return LEFT + x_axis.share(x) * (RIGHT - LEFT)

    def to_y(y: Any) -> np.ndarray:
        return BOTTOM - axis.share(y) * (BOTTOM - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart" '
        f'data-low="{axis.low:.6g}" data-high="{axis.high:.6g}" data-log="{int(axis.log)}" '
        f'data-steps="{x_axis.high:.6g}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        f'<text x="4" y="14" class="label">{escape(y_label)}</text>'
    ]
    for span in spans:
        left, right = float(to_x(span.low)), float(to_x(span.high))
        d = f"M{left:.1f} {TOP}V{BOTTOM}" + (f"H{right:.1f}V{TOP}Z" if right > left else "")
        out.append(f'<path class="{"span" if right > left else "mark"} {span.style}" d="{d}">{_hint(span.hint)}</path>')
    for tick in axis.ticks():
        y = float(to_y(tick))
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        out.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x_axis.ticks():
        text = number(tick) if x_axis.log else step_count(tick)
        out.append(f'<text x="{float(to_x(tick)):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{text}</text>')
    left = LEFT - (20 if x_axis.log else 14)  # a power of ten is wider than a 0
    out.append(f'<text x="{left}" y="{BOTTOM + 17}" text-anchor="end">{escape(x_label)}</text>')
    for line in lines:
        if line.low is not None and line.high is not None and (keep := np.isfinite(line.low)).sum() > 1:
            x = to_x(line.x[keep])
            there, back = path(x, to_y(line.high[keep])), path(x[::-1], to_y(line.low[keep])[::-1])
            out.append(f'<path class="band {line.style}" d="{there}L{back[1:]}Z"/>')
    for line in lines:
        keep = np.isfinite(line.y)  # where there is nothing to draw, the lines still are in the order of the legend
        d = path(to_x(line.x[keep]), to_y(line.y[keep])) if keep.any() else ""
        tone = "" if line.tone is None else f' style="--tone:{line.tone:.0%}"'
        hint = f">{_hint(line.hint)}</path>" if line.hint else "/>"
        out.append(f'<path class="line {line.style}"{tone} d="{d}"{hint}')
    for group in points:
        for x, y, hint in zip(to_x(group.x), to_y(group.y), group.hints, strict=True):
            out.append(
                f'<circle class="dot {group.style}" cx="{x:.1f}" cy="{y:.1f}" r="{group.radius}">{_hint(hint)}</circle>'
            )
    for line in lines:
        if line.lost_at is not None:
            x = min(float(to_x(line.lost_at)), RIGHT - 5)
            out.append(f'<path class="cross {line.style}" d="M{x - 5:.1f} {TOP - 5}l10 10m0 -10l-10 10"/>')
    return "".join(out) + "</svg>"


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>"


_ALONE = (
    "<style>svg{color:#0072b2}text{font:12px sans-serif;fill:#5c6270}.label{font-weight:600}.grid{stroke:#5c6270;"
    "stroke-opacity:.3}.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}"
    "@media(prefers-color-scheme:dark){svg{color:#56b4e9}text{fill:#a3a9b5}}</style>"
)


def schedule_page(schedule: Schedule, steps: int) -> str:
    """The curve of a schedule with its axes, as a file of its own."""
    line = Line(repr(schedule), "", *curve(schedule, steps))
    axis = Axis(0.0, 1.05 * float(line.y.max()) or 1.0)
    description = (
        f"From {number(float(line.y[0]))} at step 0 to {number(float(line.y[-1]))} at step {step_count(steps)}."
    )
    picture = chart([line], line.name, description, "learning rate", steps_axis(steps), axis)
    return picture.replace("<title>", _ALONE + "<title>", 1)


_SHAPES = {"line": "M0 5H34", "span": "M0 0H34V10H0Z", "band": "M0 1H34V9H0Z"}


def swatch(style: str, shape: str = "line") -> str:
    """A piece of a line, of a band or a span, or a dot, for a legend."""
    drawn = (
        f'<circle class="dot {style}" cx="17" cy="5" r="4"/>'
        if shape == "dot"
        else f'<path class="{shape} {style}" d="{_SHAPES[shape]}"/>'
    )
    return f'<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true">{drawn}</svg>'
