"""Prints findings and curves as text for a terminal of any width, without truncating anything."""

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from lrjax.report.findings import Column, Findings
from lrjax.report.scale import number, step_count, ticks
from lrjax.schedules.base import Schedule

_GAP, _NAME = 2, 9  # spaces between two columns of a table; the width above which a column name is wrapped
_STYLES = {"best": "\x1b[1;32m", "bad": "\x1b[31m", "title": "\x1b[3m", "verdict": "\x1b[1m"}
_ASCII = {"±": "+/-", "–": "-", "−": "-", "…": "...", "×": "x", "²": "^2", "→": "->", "─": "-", "│": "|", "┤": "+",
          "└": "+", "┬": "+", "≥": ">=", "≤": "<=", "≈": "~", "’": "'", "·": "."}  # fmt: skip
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character: 4 rows, 2 columns

_SAMPLES = 19_997  # enough to see a short peak between two columns; a prime, so that samples don't alias with cycles


def as_ascii(text: str) -> str:
    """Replaces characters by ASCII ones: braille dots by dots and colons, unknown ones by a question mark."""
    out = []
    for character in text:
        if 0x2800 <= (code := ord(character)) < 0x2900:
            upper, lower = (code & 0x1B) != 0, (code & 0xE4) != 0
            out.append(":" if upper and lower else "'" if upper else "." if lower else " ")
        else:
            out.append(_ASCII.get(character, character if code < 128 else "?"))
    return "".join(out)


def findings_text(findings: Findings, columns: int, colours: bool = False, ascii_only: bool = False) -> str:
    """Returns the table with its verdict, at most `columns` wide unless a single cell or word is wider."""
    findings = _in_ascii(findings) if ascii_only else findings
    paint = lambda words, style: f"{_STYLES[style]}{words}\x1b[0m" if colours and style and words else words
    width = max(columns, 20)
    lines = [paint(line, "title") for line in _wrapped(findings.title, width)]
    filled = lambda block: any(row[k] for row in findings.cells for k in block[1:])
    for block in filter(filled, _blocks(findings, width)):
        lines += ["", *_table(findings, block, paint)]
    lines.append("")
    lines += [paint(line, "verdict") for line in _wrapped(findings.verdict, width)]
    in_table = {row[0] for row in findings.cells}
    for name, value, detail in findings.facts:
        lines += _wrapped(f"{name}: {value}{f' ({detail})' if detail else ''}", width) if name not in in_table else []
    for note in findings.notes:
        lines += _wrapped(note, width)
    text = "\n".join(lines)
    return as_ascii(text) if ascii_only else text


def _in_ascii(findings: Findings) -> Findings:
    """Replaces characters before the layout, since one may become several."""
    return dataclasses.replace(
        findings,
        columns=[Column(as_ascii(column.name), column.is_text) for column in findings.columns],
        cells=[list(map(as_ascii, row)) for row in findings.cells],
    )


def _wrapped(words: str, width: int) -> list[str]:
    return textwrap.wrap(words, max(width, 1), break_long_words=False, break_on_hyphens=False)


def _widths(findings: Findings) -> list[int]:
    """Returns the widths of the columns; a name of several words is wrapped."""
    return [
        max(min(_NAME, len(column.name)), *map(len, column.name.split(" ")), *(len(row[i]) for row in findings.cells))
        for i, column in enumerate(findings.columns)
    ]


def _blocks(findings: Findings, width: int) -> list[list[int]]:
    """Splits the columns into as many tables as the width needs; each starts with the first column."""
    widths = _widths(findings)
    blocks, used = [[0]], widths[0]
    for i in range(1, len(widths)):
        if used + _GAP + widths[i] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(i)
        used += _GAP + widths[i]
    return blocks


def _table(findings: Findings, block: Sequence[int], paint: Callable[[str, str], str]) -> list[str]:
    widths = _widths(findings)
    columns = [(findings.columns[i], widths[i]) for i in block]
    names = [_wrapped(column.name, width) for column, width in columns]
    height = max(map(len, names))
    heads = [[""] * (height - len(name)) + name for name in names]
    lines = [_line(list(cells), columns) for cells in zip(*heads, strict=True)]
    lines.append("─" * (sum(width for _, width in columns) + _GAP * (len(columns) - 1)))
    groups = findings.groups or [""] * len(findings.cells)
    for group, members in groupby(range(len(findings.cells)), key=lambda i: groups[i]):
        shown = [i for i in members if any(findings.cells[i][k] for k in block[1:])]
        lines += ["", paint(group, "title")] if group and shown else []
        for i in shown:
            style = "best" if i == findings.best else "bad" if i in findings.bad else ""
            lines.append(paint(_line([findings.cells[i][k] for k in block], columns), style))
    return lines


def _line(cells: Sequence[str], columns: Sequence[tuple[Column, int]]) -> str:
    padded = [
        cell.ljust(width) if column.is_text else cell.rjust(width)
        for cell, (column, width) in zip(cells, columns, strict=True)
    ]
    return (" " * _GAP).join(padded).rstrip()


def plot(schedule: Schedule, steps: int, columns: int, rows: int = 14) -> str:
    """Plots the rates of steps 0 to `steps` with braille dots, at most `columns` wide (and at least 24)."""
    margin = 9
    width = max(columns - margin - 3, 12)
    at = np.linspace(0, steps, max(min(steps, _SAMPLES), 2 * width) + 1).astype(np.int64)
    rate = np.asarray(schedule(at), float)
    low, high = min(float(rate.min()), 0.0), max(float(rate.max()), 0.0)  # a rate may be negative
    span = (high - low) or 1.0
    height = 4 * rows
    level = np.rint((rate - low) / span * (height - 1)).astype(int)
    column = np.minimum(np.arange(len(at)) * 2 * width // len(at), 2 * width - 1)
    cells = np.full((rows, width), 0x2800)
    for x in range(2 * width):
        (inside,) = np.nonzero(column == x)
        levels = level[max(inside[0] - 1, 0) : inside[-1] + 1]  # includes the one before, so that columns connect
        for dot in range(min(levels), max(levels) + 1):
            down = height - 1 - dot
            cells[down // 4, x // 2] |= _DOTS[down % 4, x % 2]
    row_of = lambda tick: rows - 1 - round((tick - low) / span * (rows - 1))
    labels = {row_of(tick): number(tick) for tick in ticks(low, low + 1.001 * span)}
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
