"""The table and the page of one run: its loss, its rate and its metrics over the steps."""

from typing import Any

import numpy as np

from lrjax.report.chart import Chart, Line, Span, rates_axis, steps_axis, style, value_axis
from lrjax.report.findings import Column, Findings, Setup, json_number, json_rows, mean_cells, rate
from lrjax.report.frame import figure, findings_page
from lrjax.report.plots import SHOWN_EVENTS
from lrjax.report.rate_charts import binned, bins
from lrjax.report.scale import number, plural, step_count
from lrjax.training.result import Run
from lrjax.transforms.guard_log import GuardReport

_ROWS = 10  # of the table
_BINS = 120
_EVENT_STYLES = {"skipped": "some", "went back": "lost", "gave up": "lost", "raised the rate": "c2"}


def train_findings(setup: Setup, run: Run) -> Findings:
    """Returns the table of a run, about every tenth of the steps: the mean loss since the row above, rate, metrics."""
    steps, rates = len(run.losses), _rates(run)
    ends = _table_steps(run)
    starts = np.append(0, ends[:-1])
    losses = binned(run.losses, starts, ends)
    columns = [[rate(float(x)) for x in losses]]
    columns += [[rate(float(x[end - 1])) for end in ends] for x in rates.values()]
    columns += [_metric_cells(run, name, ends) for name in run.metrics]
    names = ["step", "loss", *(f"rate {name}" if name else "rate" for name in rates), *run.metrics]
    state = " It has diverged." if run.diverged else ""
    metrics = "; ".join(f"{name} {number(float(x[-1]))}" for name, x in run.metrics.items())
    verdict = f"After {plural(steps, 'step')}: loss {columns[0][-1]}{f'; {metrics}' if metrics else ''}.{state}"
    return Findings(
        setup,
        f"Training: {setup.task}, {plural(steps, 'step')}, seed {run.seed}",
        verdict,
        [*(["Stopped by a signal before its last step."] if run.interrupted else []), *guard_notes(run)],
        _facts(run, columns[0][-1], rates),
        {
            "diverged": run.diverged,
            "loss": json_number(float(losses[-1])),
            "metrics": {name: json_number(float(x[-1])) for name, x in run.metrics.items()},
            **({} if run.guard is None else {"guard": _guard_numbers(run.guard)}),
        },
        json_rows(run.rows()),
        list(map(Column, names)),
        [[step_count(int(end)), *row] for end, *row in zip(ends, *columns, strict=True)],
    )


def _table_steps(run: Run) -> np.ndarray:
    """Returns the evaluations nearest to the tenths of the run, or the tenths themselves."""
    steps = len(run.losses)
    tenths = np.unique(np.ceil(np.linspace(0, steps, min(_ROWS, steps) + 1)[1:]).astype(int))
    if len(run.evaluated_at) < 2:
        return tenths
    return np.unique([run.evaluated_at[np.argmin(np.abs(run.evaluated_at - step))] for step in tenths])


def _metric_cells(run: Run, name: str, ends: np.ndarray) -> list[str]:
    by_step = dict(zip(run.evaluated_at.tolist(), run.metrics[name], strict=True))
    values = [json_number(float(by_step[end])) if end in by_step else None for end in ends]
    return mean_cells(values, [None] * len(values), run.modes[name])


def _rates(run: Run) -> dict[str, np.ndarray]:
    if run.learning_rates is None:
        return {}
    return run.learning_rates if isinstance(run.learning_rates, dict) else {"": run.learning_rates}


def _facts(run: Run, loss: str, rates: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    boxes = []
    for name, values in run.metrics.items():
        finite = np.where(np.isfinite(values), values, np.nan)
        if np.isfinite(finite).any():
            best = int(np.nanargmax(finite) if run.modes[name] == "max" else np.nanargmin(finite))
            after = f"best {number(float(values[best]))} after {plural(int(run.evaluated_at[best]), 'step')}"
            boxes.append((name, number(float(values[-1])), after))
    boxes.append(("training loss", loss, f"{number(float(run.losses[0]), 3)} at the start"))
    peaks = [float(np.nanmax(x)) for x in rates.values() if np.isfinite(x).any()]
    if peaks:
        lasts = [float(x[-1]) for x in rates.values()]
        boxes.append(("highest rate", rate(max(peaks)), f"{', '.join(map(rate, lasts))} at the end"))
    return [*boxes, ("diverged", "yes" if run.diverged else "no", "")]


def guard_notes(run: Run) -> list[str]:
    """Where `guard` stepped in."""
    report = run.guard
    if report is None:
        return []
    if not report.events:
        return ["`guard` had nothing to do."]
    counts = f"{plural(report.skipped, 'step')} skipped, {plural(report.returns, 'return')} to the last good parameters"
    held = " The retries were used up: the run stayed at the last good parameters." if report.held else ""
    shown = "; ".join(map(str, report.events[-SHOWN_EVENTS:]))
    left = len(report.events) + report.forgotten - SHOWN_EVENTS
    earlier = f"{plural(left, 'earlier event')}; " if left > 0 else ""
    return [f"`guard` stepped in: {counts}, in the end rate ×{rate(report.rate_factor)}.{held}", f"{earlier}{shown}."]


def _guard_numbers(report: GuardReport) -> dict[str, Any]:
    events = [vars(event) | {"value": json_number(event.value)} for event in report.events]
    counts = {"skipped": report.skipped, "returns": report.returns, "held": report.held}
    return {**counts, "rate_factor": report.rate_factor, "events": events}


def train_page(findings: Findings, run: Run) -> str:
    """Returns the page: losses, rates, metrics and auxiliary scalars over the steps."""
    steps, rates = len(run.losses), _rates(run)
    over, charts = steps_axis(steps), [_loss_chart(run)]
    if rates:
        at = np.arange(steps)
        lines = [Line(name, style(k), at, x, key=name, hint=name) for k, (name, x) in enumerate(rates.items())]
        axis, words = rates_axis(list(rates.values())), "The rate of each update, read from the optimizer state."
        charts.append(Chart("Learning rate over the steps", words, "learning rate", over, axis, lines=lines))
    if len(run.evaluated_at) > 1:
        charts += [_curve(run, name, run.evaluated_at, x, run.modes[name]) for name, x in run.metrics.items()]
    starts, ends = bins(steps, _BINS)
    middle = (starts + ends - 1) / 2
    charts += [_curve(run, name, middle, binned(x, starts, ends), "min") for name, x in run.aux.items()]
    how = [f"Trained once, with seed {run.seed}, for {plural(steps, 'step')}.", findings.setup.divergence]
    return findings_page(findings, how, map(figure, charts), "The run")


def _loss_chart(run: Run) -> Chart:
    steps = len(run.losses)
    starts, ends = bins(steps, _BINS)
    means = binned(run.losses, starts, ends)
    first = run.losses[: max(1, min(10, steps // 10))]
    each, drawn = np.where(np.isfinite(run.losses), run.losses, np.nan), steps <= 5000
    lines = [Line("each batch", "c0 d0 faint", np.arange(steps), each, key="of a batch")] if drawn else []
    lines.append(Line("mean", "c0 d0", (starts + ends - 1) / 2, means, key="mean of a few steps"))
    end = means[np.isfinite(means)]
    words = f"Of each batch, before its update. At the end: {number(float(end[-1]), 3) if len(end) else 'not finite'}."
    axis = value_axis(means, first)
    events = run.guard.events if run.guard is not None else ()
    spans = [Span(_EVENT_STYLES.get(e.kind, "some"), e.step, e.step, str(e), f"guard {e.kind}") for e in events]
    title = "Training loss over the steps"
    return Chart(title, words, "training loss", steps_axis(steps), axis, lines=lines, spans=spans)


def _curve(run: Run, name: str, at: np.ndarray, values: Any, mode: str) -> Chart:
    words = f"{name} over the steps, {len(at)} points."
    line = Line(name, "c0 d0", at, np.where(np.isfinite(values), values, np.nan))
    axis = value_axis(values, (), mode)
    return Chart(f"{name} over the steps", words, name, steps_axis(len(run.losses)), axis, lines=[line])
