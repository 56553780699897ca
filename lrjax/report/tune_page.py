"""The table and the page of `tune`."""

from typing import Any

import numpy as np

from lrjax.report.chart import Chart, Line, Points, Span, value_axis
from lrjax.report.findings import Column, Findings, Setup, between, json_number, json_rows, mean_cells, rate
from lrjax.report.frame import figure, findings_page
from lrjax.report.rate_charts import best_point, diverged_spans, edges, ends_of, loss_curves, rate_axis, run_points
from lrjax.report.scale import number, plural, step_count
from lrjax.search.tune import TuneResult


def tune_findings(setup: Setup, result: TuneResult, budget: float) -> Findings:
    """Returns the table of `tune`: the steps, the status and the final score of each rate, and the cost."""
    rows, name = [], result.metric or "loss"
    for row, status, final in zip(result.rows(), statuses(result), result.final, strict=True):
        finished = final[~np.isnan(final)]
        spread = float(finished.std()) if len(finished) > 1 and np.isfinite(finished).all() else None
        rows.append({**row, "went": status, f"{name}_spread": spread})
    rows = json_rows(rows)
    means = mean_cells([row[name] for row in rows], [row[f"{name}_spread"] for row in rows], result.mode)
    is_known = bool(np.isfinite(result.learning_rate))
    best = int(np.flatnonzero(result.learning_rates == result.learning_rate)[0]) if is_known else None
    cells = []
    for i, row in enumerate(rows):
        is_finished, at = row[name] is not None, row["learning_rate"]
        note = "best" if i == best else "as good" if is_finished and result.low <= at <= result.high else ""
        seeds = str(row["seeds"]) if is_finished else ""
        cells.append([rate(at), step_count(row["steps"]), row["went"], seeds, means[i], note])
    finished = sum(row["went"] == "to the end" for row in rows)
    share = result.steps_spent / result.grid_steps
    names = ["learning_rate", "low", "high", "steps_spent", "grid_steps"]
    return Findings(
        setup,
        f"Tune: {setup.task}, {plural(setup.steps, 'step')}, {plural(setup.seeds, 'seed')}",
        result.verdict,
        [f"What decides: {setup.decides}.", *result.notes],
        [
            ("best rate", rate(result.learning_rate), "" if best is None else f"{name} {means[best]}"),
            ("does as well", between(result.low, result.high) if is_known else "–", "of the rates that were tried"),
            ("cost", f"{share:.0%}", f"of the {step_count(result.grid_steps)} steps of all rates with all seeds"),
            ("went to the end", f"{finished} of {len(rows)}", "rates"),
        ],
        {**{x: json_number(getattr(result, x)) for x in names}, "budget": budget},
        rows,
        [
            *map(Column, ("rate", "steps")),
            Column("went", is_text=True),
            Column("seeds"),
            Column(name),
            Column("", True),
        ],
        cells,
        best,
        frozenset(i for i, row in enumerate(rows) if row["went"] == "diverged"),
    )


def statuses(result: TuneResult) -> list[str]:
    """Returns the status of each rate: "to the end", "diverged" or "given up"."""
    finished = ~np.all(np.isnan(result.final), axis=1)
    return [
        "diverged" if is_diverged else "to the end" if is_finished else "given up"
        for is_diverged, is_finished in zip(np.any(result.diverged, axis=1), finished, strict=True)
    ]


def tune_page(findings: Findings, result: TuneResult) -> str:
    """Returns the page: the deciding metric or loss over the rate, and the losses of the first seed over the steps."""
    rates, losses = result.learning_rates, result.losses
    start = np.array([result.start]) if result.metric is None else losses[:, 0, 0]
    curves = loss_curves(rates, losses[:, :1], findings.best, start)
    hollow = "the training loss when a rate was given up" if result.metric is None else "that a rate was given up"
    how = [
        f"{plural(len(rates), 'rate')} began; those whose results were worse were given up early, and only rates that "
        f"trained all {plural(losses.shape[2], 'step')} are compared. A hollow dot shows {hollow}.",
        findings.setup.divergence,
    ]
    figures = [figure(_over_rates(findings, result)), figure(curves, ramp=ends_of(rates))]
    return findings_page(findings, how, figures, "All rates")


def _over_rates(findings: Findings, result: TuneResult) -> Chart:
    rates, name, best = result.learning_rates, result.metric or "loss", findings.best
    mean = np.array([np.nan if row[name] is None else row[name] for row in findings.rows])
    known = np.isfinite(mean)
    is_diverged = np.array([status == "diverged" for status in statuses(result)], float)
    spans = diverged_spans(rates, is_diverged)
    if best is not None:
        low, high = edges(rates)
        inside = np.flatnonzero((rates >= result.low) & (rates <= result.high))
        hint = f"{between(result.low, result.high)} does as well"
        spans.append(Span("c2", float(low[inside[0]]), float(high[inside[-1]]), hint, "does as well"))
    early, heights = _given_up(result)
    return Chart(
        f"{name} over the rate",
        f"Final {name} over the learning rate, which is on a logarithmic axis. {findings.verdict}",
        result.metric or "loss",
        rate_axis(rates),
        value_axis(np.concatenate([result.final.ravel(), heights]), [result.start], result.mode),
        "rate",
        [Line("mean", "c0 d0", rates[known], mean[known], key="mean")],
        spans,
        [early, run_points(rates, result.final, "a run to the end"), *best_point(rates, mean, best)],
    )


def _given_up(result: TuneResult) -> tuple[Points, np.ndarray]:
    """Returns (a dot for each rate that was given up, their heights). Puts the dot on the worse edge where a metric
    decides, since the training loss is on another scale."""
    early = np.array([i for i, status in enumerate(statuses(result)) if status == "given up"], int)
    latest = [_latest(result.losses[i, 0]) for i in early]
    edge = np.inf if result.mode == "min" else -np.inf
    heights = np.array([loss if result.metric is None else edge for loss, _ in latest], float)
    hints = [
        f"rate {rate(float(result.learning_rates[i]))}: given up after {plural(steps, 'step')}, "
        f"with the training loss {number(loss)}"
        for i, (loss, steps) in zip(early, latest, strict=True)
    ]
    return Points("c0 open", result.learning_rates[early], heights, hints, key="given up early"), heights


def _latest(losses: np.ndarray) -> tuple[float, int]:
    """Returns (the mean loss of the last third of the steps that were made, the number of steps made)."""
    made: Any = losses[~np.isnan(losses)]
    return float(made[-max(1, round(0.3 * len(made))) :].mean()), len(made)
