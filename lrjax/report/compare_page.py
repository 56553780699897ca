"""The table and the page of a comparison."""

from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from lrjax.report.chart import Axis, Chart, Line, rates_axis, steps_axis, style, swatch, value_axis
from lrjax.report.findings import Column, Findings, Setup, json_number, json_rows, mean_cells, rate
from lrjax.report.frame import document, facts, paragraphs, table, text
from lrjax.report.rate_charts import binned, bins
from lrjax.report.scale import number, plural, step_count
from lrjax.search.comparison import Comparison
from lrjax.search.techniques import ABOUT, REFERENCE

_BINS = 80
_TALL = 9  # lines; a longer legend stands beside all charts


def compare_findings(setup: Setup, result: Comparison) -> Findings:
    """Returns the table of a comparison; spreads are standard deviations over the seeds."""
    rows = json_rows(result.rows())
    several = setup.seeds > 1
    metrics = [
        mean_cells([row[x] for row in rows], [row[f"{x}_spread"] if several else None for row in rows], mode)
        for x, mode in result.modes.items()
    ]
    goal = f"{result.metric or 'loss'} {number(result.target)}"
    cells = [
        [
            row["technique"],
            rate(row["peak_rate"]),
            "–" if row["train_loss"] is None else number(row["train_loss"], 3),
            *(metric[i] for metric in metrics),
            "–" if row["steps_to_target"] is None else step_count(row["steps_to_target"]),
            f"{row['diverged']} of {row['seeds']}" if row["diverged"] else "",
        ]
        for i, row in enumerate(rows)
    ]
    is_learned = bool(np.isfinite(result.final.mean(axis=1)).any())
    best = [entry.name for entry in result.entries].index(result.best) if is_learned else None
    names = ["peak rate", "train loss", *result.metrics, f"steps to {goal}", "diverged"]
    return Findings(
        setup,
        f"{setup.task}: {plural(setup.steps, 'step')}, {plural(setup.seeds, 'seed')}",
        "",
        [f"What decides: {setup.decides}.", result.how, *result.notes],
        _facts(result, rows, cells, best, goal),
        {
            "metric": result.metric,
            "target": json_number(result.target),
            "best": None if best is None else result.best,
            "how": result.how,
        },
        rows,
        [Column("technique", is_text=True), *map(Column, names)],
        cells,
        best,
        frozenset(i for i, row in enumerate(rows) if row["diverged"]),
        [row["group"] for row in rows],
    )


def _facts(
    result: Comparison, rows: list[dict[str, Any]], cells: list[list[str]], best: int | None, goal: str
) -> list[tuple[str, str, str]]:
    """Returns the fact boxes."""
    boxes = []
    if best is not None and result.metric is not None:
        boxes.append((f"best {result.metric}", cells[best][3], rows[best]["technique"]))
    lowest = min((row for row in rows if row["train_loss"] is not None), key=lambda r: r["train_loss"], default=None)
    if lowest is not None:
        boxes.append(("lowest training loss", number(lowest["train_loss"], 3), lowest["technique"]))
    reached = [row for row in rows if row["steps_to_target"] is not None]
    if reached:
        first = min(reached, key=lambda row: row["steps_to_target"])
        boxes.append((f"first to {goal}", plural(first["steps_to_target"], "step"), first["technique"]))
    diverged = [row["technique"] for row in rows if row["diverged"]]
    return [*boxes, ("diverged", f"{len(diverged)} of {len(rows)}", ", ".join(diverged) or "none")]


def compare_page(findings: Findings, result: Comparison) -> str:
    """Returns the page: the main results, charts by group, and the table."""
    setup = findings.setup
    groups = groupby(range(len(result.entries)), key=lambda i: result.entries[i].group)
    charts = _Charts(result)
    sections = "".join(charts.section(group, list(members)) for group, members in groups)
    runs = f"{plural(setup.seeds, 'run')} of {plural(setup.steps, 'step')}"
    has_techniques = any(entry.group in ABOUT for entry in result.entries)
    title = f"{'What a learning rate does' if has_techniques else 'Optimizers compared'}: {setup.task}"
    described = f"{result.description.rstrip('.')}. " if result.description else ""
    lead = (
        f"{described}Each {'technique' if has_techniques else 'optimizer'} trained the same model in {runs}, from the "
        "same starts, on the same batches."
    )
    reading = (
        "A line is the mean over the runs, its band their range. A cross marks where runs diverged. Point at a chart, "
        "or touch it, to read the values at a step."
    )
    spread = f"Mean ± standard deviation over {plural(setup.seeds, 'run')}; " if setup.seeds > 1 else ""
    body = f"""{facts(findings.facts)}
{paragraphs(findings.notes)}
{paragraphs([f"{reading} {setup.divergence}"], "how")}
{sections}
<section><h2>All {"techniques" if has_techniques else "optimizers"}</h2>
<p>{spread}<b>bold</b> marks the best by {escape(result.metric or "training loss")}.</p>
{table(findings)}
{_optimizers(result)}</section>"""
    return document(title, f"<p>{text(lead)}</p>", body, setup.command, script=True)


class _Charts:
    """The charts of all groups, with common axes of losses and metrics."""

    def __init__(self, result: Comparison):
        self.result, self.steps = result, result.losses.shape[2]
        self.loss_axis = value_axis([self._loss(i, "").y for i in range(len(result.entries))], result.control)
        self.has_curves = result.metric is not None and len(result.evaluated_at) > 1
        if self.has_curves:
            means = [self._metric(i, "").y for i in range(len(result.entries))]
            self.metric_axis = value_axis(means, result.start_metric, result.mode)

    def section(self, group: str, members: list[int]) -> str:
        names = [entry.name for entry in self.result.entries]
        shown = [(i, style(k)) for k, i in enumerate(members)]
        if REFERENCE in names and names.index(REFERENCE) not in members and group in ABOUT:
            shown.append((names.index(REFERENCE), "ref"))
        parts = [("training loss", "loss", [self._loss(*line) for line in shown], self.loss_axis)]
        if self.has_curves:
            name = str(self.result.metric)
            parts.append((name, name, [self._metric(*line) for line in shown], self.metric_axis))
        rates = [self._rate(*line) for line in shown]
        if any(line.is_drawn for line in rates):
            parts.append(("learning rate", "rate", rates, rates_axis([line.y for line in rates])))
        figures = "".join(f"<figure>{self._chart(group, label, drawn, y)}</figure>" for label, _, drawn, y in parts)
        lines = zip(*(part[2] for part in parts), strict=True)
        axes = [part[3] for part in parts]
        rows = "".join(
            f'<tr><th scope="row">{swatch(kind)}{escape(names[i])}</th>'
            f"{''.join(f'<td>{_end(line, axis)}</td>' for line, axis in zip(ends, axes, strict=True))}</tr>"
            for (i, kind), ends in zip(shown, lines, strict=True)
        )
        heads = "".join(f'<th scope="col">{escape(part[1])}</th>' for part in parts)
        legend = (
            f'<table class="legend"><thead><tr><th class="at">step {step_count(self.steps)}</th>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )
        about = f"<p>{escape(ABOUT[group])}</p>" if group in ABOUT else ""
        layout = "panel tall" if len(shown) > _TALL else "panel" if len(parts) == 2 else "panel two"
        return (
            f'<section class="group"><h2>{escape(group)}</h2>{about}'
            f'<div class="{layout}">{legend}{figures}</div></section>'
        )

    def _chart(self, group: str, label: str, lines: list[Line], axis: Axis) -> str:
        ends = "; ".join(
            f"{line.name} {_end(line, axis)}{' (diverged)' if line.diverged_at is not None else ''}" for line in lines
        )
        kind = "logarithmic" if axis.log else "linear"
        description = f"{label[:1].upper()}{label[1:]} over the steps, {kind} axis. At the end: {ends}."
        return Chart(f"{group}: {label}", description, label, steps_axis(self.steps), axis, lines=lines).svg()

    def _loss(self, i: int, kind: str) -> Line:
        """Returns the line of mean losses over a few steps each, at the middle of these."""
        starts, ends = bins(self.steps, _BINS)
        means = binned(self.result.losses[i], starts, ends)
        return self._line(i, kind, (starts + ends - 1) / 2, means, self._diverged_at(i))

    def _metric(self, i: int, kind: str) -> Line:
        return self._line(i, kind, self.result.evaluated_at, next(iter(self.result.metrics.values()))[i])

    def _rate(self, i: int, kind: str) -> Line:
        return Line(self.result.entries[i].name, kind, np.arange(self.steps), self.result.learning_rates[i])

    def _line(self, i: int, kind: str, x: np.ndarray, runs: np.ndarray, diverged_at: float | None = None) -> Line:
        """Returns the line of the mean over the runs [seeds, points], where all are finite, with their range."""
        finite = np.isfinite(runs).all(axis=0)
        shown = np.where(finite, runs, np.nan)
        name = self.result.entries[i].name
        return Line(name, kind, x, shown.mean(axis=0), shown.min(axis=0), shown.max(axis=0), diverged_at)

    def _diverged_at(self, i: int) -> float | None:
        """Returns the first step after which the loss of a diverged run was never below the limit again."""
        steps = []
        for seed in np.flatnonzero(self.result.diverged[i]):
            with np.errstate(invalid="ignore"):
                below = np.flatnonzero(self.result.losses[i, seed] <= self.result.limit[seed])
            steps.append(float(below[-1] + 1) if len(below) else 0.0)
        return min(steps, default=None)


def _end(line: Line, axis: Axis) -> str:
    """Formats the last value with the digits that page.js shows."""
    return number(float(line.y[-1]), 2 if axis.log else 3, 2) if np.isfinite(line.y[-1]) else "–"


def _optimizers(result: Comparison) -> str:
    items = "".join(
        f"<dt>{escape(entry.name)}</dt><dd><code>{escape(repr(entry.optimizer))}</code></dd>"
        for entry in result.entries
    )
    return f"<details><summary>The optimizers, as Python</summary><dl>{items}</dl></details>"
