"""Draws a schedule as SVG, for notebooks.

Schedules import this module, so it doesn't import them, and only calls them with steps.
"""

import math
from html import escape
from typing import Any

import jax
import jax.core
import numpy as np

from lrjax.domains import MAX_STEPS
from lrjax.report.scale import number, step_count
from lrjax.value import Value, hyperparameter_names

_SAMPLES = 2000  # of a curve, before those on a straight line are dropped
_PERIODS = 6  # shown of a schedule that never becomes constant
_DEFAULT_STEPS = 100  # shown of a constant schedule


def horizon(schedule: Any) -> int:
    """Returns the number of steps that show a schedule: all of its phases, or a few periods where it never ends."""
    if (length := round(_duration(schedule))) < 1:
        return _DEFAULT_STEPS
    base = min(length, MAX_STEPS // _PERIODS)
    at, rate = curve(schedule, _PERIODS * base)
    moving = np.abs(rate - rate[-1]) > 1e-4 * np.abs(rate).max()
    if not moving.any():
        return max(base, _DEFAULT_STEPS)
    settled = int(at[np.flatnonzero(moving)[-1] + 1])
    return _round_up(1.05 * settled) if settled < 0.6 * at[-1] else int(at[-1])


def _round_up(x: float) -> int:
    """Rounds up to two digits: 1053 becomes 1100."""
    unit = 10 ** max(math.floor(math.log10(x)) - 1, 0)
    return math.ceil(x / unit) * unit


def _duration(x: Any) -> float:
    """Returns the sum of all hyperparameters of a schedule that are numbers of steps; of boundaries the last."""
    if isinstance(x, Value):
        total = 0.0
        for name, field in vars(x).items():
            domain = x._domains.get(name)
            if domain is not None and domain.counts_steps:
                total += max((float(v) for v in jax.tree.leaves(field)), default=0.0)
            elif name == "boundaries_and_scales":
                total += max((float(boundary) for boundary, _ in field), default=0.0)
            elif domain is not None and domain.rank:
                total += len(field)
            elif isinstance(field, (Value, tuple)):
                total += _duration(field)
        return total * float(getattr(x, "factor", 1.0)) if hasattr(x, "schedule") else total
    return sum(map(_duration, x)) if isinstance(x, tuple) else 0.0


def curve(schedule: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, rates) from step 0 to `steps`, all of them or evenly spaced ones."""
    at = np.unique(np.linspace(0, steps, min(steps, _SAMPLES) + 1).astype(np.int64))
    return at, np.asarray(schedule(at), float)


def path(x: np.ndarray, y: np.ndarray, tolerance: float = 0.2) -> str:
    """Returns a line through points as the `d` of an SVG path, simplified (Ramer–Douglas–Peucker)."""
    keep = np.zeros(len(x), bool)
    keep[[0, -1]] = True
    spans = [(0, len(x) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        dx, dy = x[last] - x[first], y[last] - y[first]
        off = np.abs(dx * (y[first:last] - y[first]) - dy * (x[first:last] - x[first])) / (math.hypot(dx, dy) or 1.0)
        far = int(off.argmax())
        if off[far] > tolerance:
            keep[first + far] = True
            spans += [(first, first + far), (first + far, last)]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[keep], y[keep], strict=True))


def schedule_svg(
    schedule: Any, steps: int | None = None, width: int = 240, height: int = 80, color: str = "#2f81f7"
) -> str:
    """Draws the curve of a schedule as a small SVG, in a colour that is visible on white and on black."""
    at, rate = curve(schedule, horizon(schedule) if steps is None else steps)
    low, high, pad = min(float(rate.min()), 0.0), max(float(rate.max()), 0.0), 4  # a rate may be negative
    x = pad + at / max(at[-1], 1) * (width - 2 * pad)
    y_of = lambda rate: height - pad - (rate - low) / ((high - low) or 1.0) * (height - 2 * pad)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" fill="none" stroke="{escape(color)}"><title>{escape(repr(schedule))}</title>'
        f'<path d="M{pad} {y_of(0.0):.3g}H{width - pad}" stroke-opacity=".35"/>'
        f'<path d="{path(x, y_of(rate))}" stroke-width="1.5" stroke-linejoin="round"/></svg>'
    )


def _is_single(schedule: Any) -> bool:
    """Returns whether it is one schedule with concrete hyperparameters, not a batch or traced."""
    leaves = jax.tree.leaves(schedule)
    tabulated = any(domain.rank for domain in schedule._domains.values())
    return tabulated or not any(isinstance(x, jax.core.Tracer) or np.ndim(x) for x in leaves)


def caption(schedule: Any, steps: int) -> str:
    """Describes the rates of the first `steps` steps in words."""
    _, rate = curve(schedule, steps)
    return f"{number(float(rate.min()))} to {number(float(rate.max()))} over {step_count(steps)} steps"


def schedule_html(schedule: Any) -> str:
    """Returns the name, the curve and the arguments of a schedule."""
    if not _is_single(schedule):
        return f"<code>{escape(repr(schedule))}</code>"
    end = horizon(schedule)
    cell = '<td style="text-align:left"><code>'
    rows = "".join(
        f"<tr>{cell}{escape(name)}</code></td>{cell}{escape(repr(vars(schedule)[name]))}</code></td></tr>"
        for name in hyperparameter_names(schedule)
    )
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:center">'
        f"<div><code><b>{escape(type(schedule).__name__)}</b></code><br/>"
        f"{schedule_svg(schedule, end, color='currentColor')}<br/><small>{caption(schedule, end)}</small></div>"
        f"<table>{rows}</table></div>"
    )
