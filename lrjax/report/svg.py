"""Curves as SVG, with nothing but strings; and how a schedule shows itself in a notebook."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import jax
import numpy as np

from lrjax.schedules.base import Schedule
from lrjax.value import hyperparameter_names

_POINTS = 240  # of a curve: more than a small picture has pixels to show


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve of a chart, with the band of its seeds."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    ends_at: float | None = None  # where it stopped being finite


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover an interval."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside an interval, at most five."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / 5))
    return [10.0**k for k in range(first, last + 1, every)]


def number(x: float) -> str:
    """A number in few characters: 0.05, 3e-4, 20k."""
    if x == 0:
        return "0"
    if abs(x) >= 1e4 or abs(x) < 1e-3:
        mantissa, exponent = f"{x:.3g}".split("e") if "e" in f"{x:.3g}" else f"{x:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return f"{x:.4g}"


def points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def chart(lines: Sequence[Line], title: str, y_label: str, log: bool, bounds: tuple[float, float], x_end: float) -> str:
    """A line chart; the style of line i is the class `c<i>`, so that the page can set its colours."""
    width, height = 460, 250
    left, right, top, bottom = 46, 18, 22, 26
    low, high = bounds
    scale = (lambda v: math.log10(max(v, low))) if log else (lambda v: max(v, low))
    span = scale(high) - scale(low) or 1.0

    def to_x(x: Any) -> np.ndarray:
        return left + np.asarray(x, float) / max(x_end, 1) * (width - left - right)

    def to_y(y: Any) -> np.ndarray:
        clipped = np.clip(np.nan_to_num(np.asarray(y, float), nan=high, posinf=high), low, high)
        share = np.asarray([(scale(v) - scale(low)) / span for v in np.atleast_1d(clipped)])
        return height - bottom - share * (height - top - bottom)

    out = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" class="chart">'
        f"<title>{escape(title)}</title>"
    ]
    for tick in log_ticks(low, high) if log else ticks(low, high):
        y = float(to_y(tick)[0])
        out.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(0, x_end):
        out.append(f'<text x="{float(to_x(tick)):.1f}" y="{height - 9}" text-anchor="middle">{number(tick)}</text>')
    out.append(f'<text x="0" y="12" class="label">{escape(y_label)}</text>')
    for i, line in enumerate(lines):
        if line.low is not None and line.high is not None:
            keep = np.isfinite(line.low) & np.isfinite(line.high)
            x = to_x(line.x[keep])
            band = points(x, to_y(line.low[keep])) + " " + points(x[::-1], to_y(line.high[keep])[::-1])
            out.append(f'<polygon class="band c{i}" points="{band}"/>')
    for i, line in enumerate(lines):
        keep = np.isfinite(line.y)
        xs, ys = to_x(line.x[keep]), to_y(line.y[keep])
        out.append(
            f'<polyline class="line c{i}" points="{points(xs, ys)}"><title>{escape(line.name)}</title></polyline>'
        )
        if line.ends_at is not None:
            x = float(to_x(line.ends_at))
            out.append(f'<path class="cross c{i}" d="M{x - 4:.1f} {top}l8 8m0 -8l-8 8"/>')
    out.append("</svg>")
    return "".join(out)


def horizon(schedule: Schedule) -> int:
    """How many steps show a schedule: all its phases, or a few periods where it goes on."""
    base = max(round(_duration(schedule)), 1)
    base = min(base, 2**29)
    late = np.asarray(schedule(np.linspace(base, 4 * base, 50).astype(np.int64)))
    return math.ceil(1.1 * base) if np.ptp(late) == 0 else 4 * base


def _duration(x: Any) -> float:
    """The sum of all numbers of steps in a schedule; of boundaries the last."""
    if isinstance(x, Schedule):
        total = 0.0
        for name, field in vars(x).items():
            domain = x._domains.get(name)
            if domain is not None and domain.whole:
                numbers = [float(v) for v in jax.tree.leaves(field)]
                total += max(numbers, default=0.0)
            elif name == "boundaries_and_scales":
                total += max((float(boundary) for boundary, _ in field), default=0.0)
            elif domain is not None and domain.rank:
                total += len(field)
            elif isinstance(field, (Schedule, tuple)):
                total += _duration(field)
        return total * float(getattr(x, "factor", 1.0)) if hasattr(x, "schedule") else total
    return sum(map(_duration, x)) if isinstance(x, tuple) else 0.0


def _curve(schedule: Schedule, steps: int | None) -> tuple[np.ndarray, np.ndarray]:
    end = horizon(schedule) if steps is None else steps
    at = np.unique(np.linspace(0, end, _POINTS + 1).astype(np.int64))
    return at, np.asarray(schedule(at), float)


def schedule_svg(schedule: Schedule, steps: int | None = None, width: int = 240, height: int = 80) -> str:
    """The curve of a schedule as a picture of its own, in the colour of the text around it."""
    at, rate = _curve(schedule, steps)
    top, pad = max(float(rate.max()), 1e-30), 4
    x = pad + at / max(at[-1], 1) * (width - 2 * pad)
    y = height - pad - rate / top * (height - 2 * pad)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(repr(schedule))}</title>'
        f'<path d="M{pad} {height - pad}H{width - pad}" stroke="currentColor" stroke-opacity=".3"/>'
        f'<polyline points="{points(x, y)}" fill="none" stroke="currentColor" stroke-width="1.5" '
        'stroke-linejoin="round"/></svg>'
    )


def _is_single(schedule: Schedule) -> bool:
    """Whether it is one schedule with known numbers, not a batch or a traced one."""
    leaves = jax.tree.leaves(schedule)
    tabulated = any(domain.rank for domain in schedule._domains.values())
    return tabulated or not any(isinstance(x, jax.core.Tracer) or np.ndim(x) for x in leaves)


def repr_html(schedule: Schedule) -> str:
    """Its name, its curve, and its arguments."""
    name = f"<code><b>{escape(type(schedule).__name__)}</b></code>"
    if not _is_single(schedule):
        return f"<code>{escape(repr(schedule))}</code>"
    at, rate = _curve(schedule, None)
    rows = "".join(
        f'<tr><td style="text-align:left"><code>{escape(n)}</code></td>'
        f'<td style="text-align:left"><code>{escape(repr(vars(schedule)[n]))}</code></td></tr>'
        for n in hyperparameter_names(schedule)
    )
    caption = f"{number(float(rate.min()))} to {number(float(rate.max()))} over {number(int(at[-1]))} steps"
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:center"><div>{name}<br>'
        f"{schedule_svg(schedule)}<br><small>{caption}</small></div><table>{rows}</table></div>"
    )


Schedule._repr_html_ = repr_html  # type: ignore[attr-defined]
