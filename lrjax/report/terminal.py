"""A curve in the terminal, in braille dots."""

import numpy as np

from lrjax.report.svg import number
from lrjax.schedules.base import Schedule

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character: 4 rows, 2 columns


def plot(schedule: Schedule, steps: int, columns: int, rows: int = 14) -> str:
    """The rates of steps 0 to `steps`, with the axes' ends labelled, at most `columns` wide."""
    margin = 11
    width = max(columns - margin - 2, 10)
    at = np.linspace(0, steps, 2 * width).astype(np.int64)
    rate = np.asarray(schedule(at), float)
    low, high = min(float(rate.min()), 0.0), max(float(rate.max()), 1e-30)
    height = 4 * rows
    level = np.rint((rate - low) / (high - low) * (height - 1)).astype(int)
    cells = np.full((rows, width), 0x2800)
    previous = level[0]
    for x, y in enumerate(level):  # a vertical run joins two points
        for dot in range(min(previous, y), max(previous, y) + 1):
            down = height - 1 - dot
            cells[down // 4, x // 2] |= _DOTS[down % 4, x % 2]
        previous = y
    labels = {0: number(high), rows - 1: number(low)}
    lines = [f"{labels.get(i, ''):>{margin}} ┤{''.join(map(chr, row))}".rstrip("⠀") for i, row in enumerate(cells)]
    end = number(steps)
    axis = f"{'':>{margin}} └{'─' * width}"
    return "\n".join([*lines, axis, f"{'':>{margin}}  0{end:>{width - 1}}"])
