"""A comparison as one page that needs nothing else."""

from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from lrjax.compare import ADAPTIVE, CYCLES, DECAYS, FIXED, Comparison
from lrjax.report.chart import Axis, Line, chart, steps_axis, swatch
from lrjax.report.document import document, facts
from lrjax.report.scale import number, plural, step_count
from lrjax.report.table import cells, headers, metric_cell, target

_ABOUT = {
    FIXED: "Too low barely moves. Too high blows up, or jumps about and learns nothing. Between them it learns.",
    DECAYS: "They start higher than is good for the whole run, then calm down, and the noise of the last steps goes.",
    CYCLES: "They begin gently, go high, and come down, once or several times.",
    ADAPTIVE: "Every weight gets a step size of its own; the rate itself stays fixed here.",
}
_REFERENCE = "fixed, well chosen"  # shown in every group


def page(comparison: Comparison) -> str:
    """The whole page: the main results, charts by group of techniques, and the table."""
    task, (_, seeds, steps) = comparison.task, comparison.losses.shape
    groups = groupby(range(len(comparison.techniques)), key=lambda i: comparison.techniques[i].group)
    sections = "".join(_section(comparison, group, list(members)) for group, members in groups)
    title = f"What a learning rate does: {task.name}"
    runs = f"{plural(seeds, 'run')} of {plural(steps, 'step')}"
    lead = f"""<p>{escape(task.description)}. Each technique trained the same network in {runs}, from the same random
starts, on the same batches.</p>"""
    body = f"""{_facts(comparison)}
<p class="how">A line is the mean over the runs, its band their range. A cross marks where runs diverged: the loss rose
above three times its start, or stopped being finite, and did not come back. Point at a chart, or touch it, to read the
values at a step.</p>
{sections}
<section><h2>All techniques</h2>
<p>Mean ± standard deviation over {plural(seeds, "run")}; <b>bold</b> marks the best test {escape(task.metric)}.</p>
{_table(comparison)}
{_schedules(comparison)}</section>"""
    return document(title, lead, body, f"lrjax compare --task {task.name} --steps {steps} --seeds {seeds}", script=True)


def _facts(comparison: Comparison) -> str:
    """What the table says, in a few boxes."""
    task, rows = comparison.task, comparison.rows()
    known = lambda key: [row for row in rows if row[key] is not None]
    boxes = []
    if found := known("test_metric"):
        best = max(found, key=lambda row: row["test_metric"])
        unit = " %" if task.percent else ""
        boxes.append((f"best test {task.metric}", metric_cell(best, task.percent) + unit, best["technique"]))
    if found := known("train_loss"):
        best = min(found, key=lambda row: row["train_loss"])
        boxes.append(("lowest training loss", number(best["train_loss"], 2), best["technique"]))
    if found := known("steps_to_target"):
        best = min(found, key=lambda row: row["steps_to_target"])
        boxes.append((f"first to {target(task)}", plural(best["steps_to_target"], "step"), best["technique"]))
    lost = [row["technique"] for row in rows if row["diverged"]]
    boxes.append(("diverged", plural(len(lost), "technique"), ", ".join(lost) or "none"))
    return facts(boxes)


def _section(comparison: Comparison, group: str, members: list[int]) -> str:
    names, steps = [t.name for t in comparison.techniques], comparison.rates.shape[1]
    shown = [(i, f"c{k}") for k, i in enumerate(members)]
    if group != FIXED:
        shown.append((names.index(_REFERENCE), "ref"))
    losses = [_loss_line(comparison, i, style) for i, style in shown]
    rates = [Line(names[i], style, np.arange(steps), comparison.rates[i]) for i, style in shown]
    charts = [
        ("training loss", losses, _loss_axis(comparison)),
        ("learning rate", rates, _rate_axis(comparison, [i for i, _ in shown], log=group in (FIXED, ADAPTIVE))),
    ]
    over = steps_axis(steps)
    figures = "".join(
        f"<figure>{chart(lines, f'{group}: {label}', _description(label, lines, axis), label, over, axis)}</figure>"
        for label, lines, axis in charts
    )
    rows = "".join(
        f'<tr><th scope="row">{swatch(style)}{escape(names[i])}</th><td>{_end(loss)}</td><td>{_end(rate)}</td></tr>'
        for (i, style), loss, rate in zip(shown, losses, rates, strict=True)
    )
    legend = (
        f'<table class="legend"><thead><tr><th class="at">step {step_count(steps)}</th>'
        f'<th scope="col">loss</th><th scope="col">rate</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return (
        f'<section class="group"><h2>{escape(group)}</h2><p>{escape(_ABOUT[group])}</p>'
        f'<div class="panel">{legend}{figures}</div></section>'
    )


def _end(line: Line) -> str:
    return number(float(line.y[-1]), 2) if np.isfinite(line.y[-1]) else "–"


def _description(label: str, lines: list[Line], axis: Axis) -> str:
    ends = "; ".join(f"{line.name} {_end(line)}{' (diverged)' if line.lost_at is not None else ''}" for line in lines)
    return f"{label.capitalize()} over the steps, {'logarithmic' if axis.log else 'linear'} axis. At the end: {ends}."


def _loss_line(comparison: Comparison, i: int, style: str) -> Line:
    """The batch losses, averaged between two looks at the test examples, each in the middle of its steps."""
    ends = comparison.evaluated_at
    starts = np.concatenate([[0], ends[:-1]])
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.add.reduceat(comparison.losses[i].astype(float), starts, axis=1) / (ends - starts)
    finite = np.isfinite(losses).all(axis=0)
    shown = np.where(finite, losses, np.nan)
    rose = comparison.rose[i][comparison.diverged[i]].any(axis=0)
    lost_at = float(rose.argmax()) if comparison.diverged[i].any() else None
    middle = (starts + ends - 1) / 2
    return Line(
        comparison.techniques[i].name, style, middle, shown.mean(axis=0), shown.min(axis=0), shown.max(axis=0), lost_at
    )


def _loss_axis(comparison: Comparison) -> Axis:
    """One for all groups: from the lowest loss of a line to three times the start."""
    start = float(np.median(comparison.start_loss))
    means = np.stack([_loss_line(comparison, i, "").y for i in range(len(comparison.techniques))])
    low = float(np.nanmin(means, initial=start))
    return Axis(max(low * 0.7, start * 1e-6, 1e-30), max(3 * start, 1e-20), log=True)


def _rate_axis(comparison: Comparison, members: list[int], log: bool) -> Axis:
    low, high = float(comparison.rates[members].min()), float(comparison.rates[members].max())
    return Axis(low / 2, 2 * high, log=True) if log else Axis(0.0, 1.05 * high)


def _table(comparison: Comparison) -> str:
    rows, names = comparison.rows(), headers(comparison)
    best = max((row["test_metric"] for row in rows if row["test_metric"] is not None), default=None)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = []
    for group, members in groupby(rows, key=lambda row: row["group"]):
        body.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(names)}">{escape(group)}</th></tr>')
        body += [_row(row, comparison.task.percent, best) for row in members]
    return f'<table class="results"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _row(row: dict[str, Any], percent: bool, best: float | None) -> str:
    name, rate, loss, metric, steps, diverged = map(escape, cells(row, percent))
    value, plus_minus, spread = metric.partition(" ± ")
    metric = f"{value}<span class='spread'>{plus_minus}{spread}</span>"
    if row["test_metric"] is not None and row["test_metric"] == best:
        metric = f"<b>{metric}</b>"
    return (
        f'<tr><th scope="row">{name}</th><td>{rate}</td><td>{loss}</td><td>{metric}</td><td>{steps}</td>'
        f'<td class="bad">{diverged}</td></tr>'
    )


def _schedules(comparison: Comparison) -> str:
    items = "".join(
        f"<dt>{escape(t.name)}</dt><dd><code>{escape(repr(t.schedule))}</code></dd>" for t in comparison.techniques
    )
    return f"<details><summary>The schedules, as Python</summary><dl>{items}</dl></details>"
