"""A comparison as one page that needs nothing else."""

from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

import numpy as np

from lrjax.compare import ADAPTIVE, FIXED, Comparison
from lrjax.report.svg import Line, chart
from lrjax.report.table import cells, headers

_ABOUT = {
    "Fixed rates": "Too low barely moves; too high jumps about or blows up; between them it learns.",
    "Decays": "Start higher than a fixed rate could stay, then calm down: the noise of the last steps goes.",
    "Warmups and cycles": "Begin gently, go high, and come down, once or several times.",
    "Adaptive methods": "A step size of its own for every weight, at a fixed rate.",
}


def page(comparison: Comparison) -> str:
    """The whole page: charts by group of techniques, and the table."""
    task, (_, seeds, steps) = comparison.task, comparison.losses.shape
    css = resources.files("lrjax.report").joinpath("page.css").read_text()
    groups = groupby(range(len(comparison.techniques)), key=lambda i: comparison.techniques[i].group)
    sections = "".join(_section(comparison, group, list(members)) for group, members in groups)
    title = f"What a learning rate does: {task.name}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{css}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(task.description)}. Every line is the mean of {seeds} seeds over {steps} steps, its band their range;
a cross at the top marks where a run stopped being finite.</p>
{sections}
<h2>All techniques</h2>
<p>Mean ± standard deviation over the seeds; <b>bold</b> marks the best.</p>
{_table(comparison)}
<footer>Made by <code>lrjax compare --task {escape(task.name)} --steps {steps} --seeds {seeds}</code></footer>
</body></html>
"""


def _section(comparison: Comparison, group: str, members: list[int]) -> str:
    losses = [_loss_line(comparison, i) for i in members]
    steps = np.arange(comparison.rates.shape[1])
    keep = np.unique(np.linspace(0, len(steps) - 1, 240).astype(int))
    rates = [Line(comparison.techniques[i].name, steps[keep], comparison.rates[i][keep]) for i in members]
    log_rate = group in (FIXED, ADAPTIVE)
    peak = float(comparison.rates[members].max())
    low_rate = float(comparison.rates[members].min()) / 2 if log_rate else 0.0
    legend = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true"><path class="line c{k}" d="M0 5H30"/></svg>'
        f"{escape(line.name)}</li>"
        for k, line in enumerate(losses)
    )
    loss_chart = chart(losses, f"{group}: training loss", "training loss", True, _loss_bounds(comparison), len(steps))
    rate_bounds = (low_rate, peak * (2 if log_rate else 1.05))
    rate_chart = chart(rates, f"{group}: learning rate", "learning rate", log_rate, rate_bounds, len(steps))
    return (
        f"<section><h2>{escape(group)}</h2><p>{escape(_ABOUT[group])}</p><ul class='legend'>{legend}</ul>"
        f"<div class='pair'><figure>{loss_chart}</figure><figure>{rate_chart}</figure></div></section>"
    )


def _loss_line(comparison: Comparison, i: int) -> Line:
    """The batch losses, averaged over the steps between two evaluations."""
    at = comparison.evaluated_at
    losses = comparison.losses[i].reshape(comparison.losses.shape[1], len(at), -1).mean(axis=2)
    name, finite = comparison.techniques[i].name, np.isfinite(losses).all(axis=0)
    ends_at = None if finite.all() else float(at[finite.argmin()])
    shown = np.where(finite, losses, np.nan)
    return Line(name, at, shown.mean(axis=0), shown.min(axis=0), shown.max(axis=0), ends_at)


def _loss_bounds(comparison: Comparison) -> tuple[float, float]:
    """One scale for all groups: from the lowest mean loss to three times the start."""
    start = float(np.median(comparison.losses[:, :, 0]))
    means = [_loss_line(comparison, i).y for i in range(len(comparison.techniques))]
    low = min(float(np.nanmin(y)) for y in means if np.isfinite(y).any())
    return max(low * 0.8, start * 1e-6), 3 * start


def _table(comparison: Comparison) -> str:
    rows, names = comparison.rows(), headers(comparison)
    best = max((row["test_metric"] for row in rows if row["test_metric"] is not None), default=None)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for group, members in groupby(rows, key=lambda row: row["group"]):
        body.append(f'<tr class="group"><td colspan="{len(names)}">{escape(group)}</td></tr>')
        body += [_row(row, names, comparison.task.percent, best) for row in members]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _row(row: dict[str, Any], names: list[str], percent: bool, best: float | None) -> str:
    out = []
    for name, cell in zip(names, cells(row, percent), strict=True):
        kind = "bad" if name == "diverged" and cell else ""
        if name.startswith("test ") and row["test_metric"] == best:
            kind = "best"
        label = "" if name == "technique" else f' data-name="{escape(name)}"'
        title = f' title="{escape(row["rate"])}"' if name == "peak rate" else ""
        out.append(f"<td{label}{title}{f' class={kind!r}' if kind else ''}>{escape(cell)}</td>")
    return f"<tr>{''.join(out)}</tr>"
