"""The table and the page of a sweep."""

from typing import Any

import numpy as np

from lrjax.report.chart import Chart, Line, value_axis
from lrjax.report.findings import Column, Findings, Setup, between, json_number, json_rows, mean_cells, rate
from lrjax.report.frame import figure, findings_page
from lrjax.report.rate_charts import (
    best_point,
    diverged_spans,
    ends_of,
    loss_curves,
    metric_curves,
    rate_axis,
    run_points,
)
from lrjax.report.scale import number, plural
from lrjax.search.result import SweepResult


def sweep_findings(setup: Setup, result: SweepResult) -> Findings:
    """Returns the table of a sweep: the loss or metric at each rate, the best rate, and how much the choice matters."""
    best = result.recommended
    band = None if best is None else result.band()
    rows, name = json_rows(result.rows()), result.metric or "loss"
    spreads = [row[f"{name}_spread"] if row["seeds"] > 1 else None for row in rows]
    means = mean_cells([row[name] for row in rows], spreads, result.mode)
    varied = list(rows[0])[1:-4]
    cells = []
    for i, row in enumerate(rows):
        is_good = band is not None and row[name] is not None and band[0] <= row["learning_rate"] <= band[1]
        note = "best" if i == best else "as good" if is_good else ""
        diverged = f"{row['diverged']} of {row['seeds']}" if row["diverged"] else ""
        cells.append([rate(row["learning_rate"]), *(number(row[x]) for x in varied), means[i], diverged, note])
    words = [plural(len(rows), "rate"), plural(setup.steps, "step"), plural(setup.seeds, "seed")]
    return Findings(
        setup,
        f"Sweep: {setup.task}, {', '.join(words)}",
        result.verdict,
        [f"What decides: {setup.decides}.", *result.notes],
        _facts(result, best, band, "" if best is None else f"{name} {means[best]}"),
        {
            "best_learning_rate": None if best is None else float(result.learning_rates[best]),
            "band": None if band is None else list(band),
            "largest_stable_learning_rate": json_number(result.largest_stable_learning_rate),
            "sensitivity": None if best is None else json_number(result.sensitivity),
        },
        rows,
        [Column("rate"), *map(Column, varied), Column(name), Column("diverged"), Column("", is_text=True)],
        cells,
        best,
        frozenset(i for i, row in enumerate(rows) if row["diverged"]),
    )


def _facts(
    result: SweepResult, best: int | None, band: tuple[float, float] | None, best_score: str
) -> list[tuple[str, str, str]]:
    diverged = f"{plural(int(result.diverged.sum()), 'run')} of {result.diverged.size} diverged"
    sensitivity = None if best is None else json_number(result.sensitivity)
    return [
        ("best rate", rate(None if best is None else float(result.learning_rates[best])), best_score),
        ("does as well", between(*band) if band else "–", f"{result.stable_range:.1f} decades" if band else ""),
        ("largest stable rate", rate(json_number(result.largest_stable_learning_rate)), diverged),
        ("sensitivity", "–" if sensitivity is None else number(sensitivity, 2), "mean distance to the best"),
    ]


def sweep_page(findings: Findings, result: SweepResult) -> str:
    """Returns the page: the deciding metric or loss over the rate, and losses and metrics over the steps."""
    order = np.argsort(result.learning_rates, kind="stable")
    rates, best = result.learning_rates[order], findings.best
    at_best = None if best is None else int(np.flatnonzero(order == best)[0])
    seeds, steps = result.losses.shape[1:]
    curves = [loss_curves(rates, result.losses[order], at_best, result.control)]
    if len(result.evaluated_at) > 1:
        untrained = {result.metric: result.start_metric}
        curves += [
            metric_curves(name, rates, x[order], result.evaluated_at, at_best, untrained.get(name, np.empty(0)), mode)
            for (name, x), mode in zip(result.metrics.items(), result.modes.values(), strict=True)
        ]
    figures = [figure(_over_rates(findings, result, order, at_best))]
    figures += [figure(chart, ramp=ends_of(rates)) for chart in curves]
    how = [
        f"Every rate trained {plural(seeds, 'model')} for {plural(steps, 'step')}.",
        findings.setup.divergence,
        "A rate is as good as the best if it ends worse by no more than 5 % of the fall in training and a tenth of the "
        "best, or by no more than the noise and a fifth of it.",
        "The sensitivity is how far the rates end from the best, on average: 0 where any rate will do.",
    ]
    return findings_page(findings, how, figures, "All rates")


def _over_rates(findings: Findings, result: SweepResult, order: np.ndarray, best: int | None) -> Chart:
    rates, final = result.learning_rates[order], result.final[order]
    mean, spread = (np.where(np.isfinite(x), x, np.nan) for x in (result.mean[order], result.spread[order]))
    bands: dict[str, Any] = {}
    if final.shape[1] > 1:
        bands = {"low": mean - spread, "high": mean + spread, "band_key": "standard deviation"}
    name = result.metric or "loss"
    return Chart(
        f"{name} over the rate",
        f"Final {name} over the learning rate, which is on a logarithmic axis. {findings.verdict}",
        result.metric or "final loss",
        rate_axis(rates),
        value_axis(final, result.start, result.mode),
        "rate",
        [Line("mean", "c0 d0", rates, mean, key="mean", **bands)],
        diverged_spans(rates, result.diverged[order].mean(axis=1)),
        [run_points(rates, final, "a run"), *best_point(rates, mean, best)],
    )
