"""A curve in the terminal, in braille dots."""

import numpy as np

from lrjax.report.scale import number, step_count, ticks
from lrjax.schedules.base import Schedule

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character: 4 rows, 2 columns

_SAMPLES = 19_997  # a short peak between two columns is seen; a prime, so that samples and cycles do not step together


def plot(schedule: Schedule, steps: int, columns: int, rows: int = 14) -> str:
    """The rates of steps 0 to `steps` over an axis of round numbers, at most `columns` wide (and at least 24)."""
    margin = 9
    width = max(columns - margin - 3, 12)
    at = np.linspace(0, steps, max(min(steps, _SAMPLES), 2 * width) + 1).astype(np.int64)
    rate = np.asarray(schedule(at), float)
    high = max(float(rate.max()), 1e-30)
    height = 4 * rows
    level = np.rint(rate / high * (height - 1)).astype(int)
    column = np.minimum(np.arange(len(at)) * 2 * width // len(at), 2 * width - 1)
    cells = np.full((rows, width), 0x2800)
    for x in range(2 * width):
        (inside,) = np.nonzero(column == x)
        levels = level[max(inside[0] - 1, 0) : inside[-1] + 1]  # from the last one before, so that columns join
        for dot in range(min(levels), max(levels) + 1):
            down = height - 1 - dot
            cells[down // 4, x // 2] |= _DOTS[down % 4, x % 2]
    labels = {rows - 1 - round(tick / high * (rows - 1)): number(tick) for tick in ticks(0, 1.001 * high)}
    lines = [f"{'rate':>{margin}}"]
    for i, row in enumerate(cells):
        shown = "".join(map(chr, row)).replace("⠀", " ").rstrip()
        lines.append(f"{labels.get(i, ''):>{margin}} {'┤' if i in labels else '│'}{shown}")
    return "\n".join([*lines, *_axis(steps, width, margin)])


def _axis(steps: int, width: int, margin: int) -> tuple[str, str]:
    rule, names, free = ["─"] * width, [" "] * (width + 2), 0
    for tick in ticks(0, steps, max(width // 16, 1)):
        x, name = round(tick / max(steps, 1) * (width - 1)), step_count(tick)
        start = min(max(x - len(name) // 2, 0), width + 2 - len(name))
        if start >= free:
            rule[x] = "┬"
            names[start : start + len(name)] = name
            free = start + len(name) + 1
    return f"{'':>{margin}} └{''.join(rule)}", f"{'step':>{margin}}  {''.join(names).rstrip()}"
