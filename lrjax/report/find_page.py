"""The table and the page of a range test: what all of its rules suggest."""

from typing import Any

import numpy as np

from lrjax.report.chart import Axis, Chart, Line, Points, Span, style, value_axis
from lrjax.report.findings import Column, Findings, Setup, between, json_rows, rate
from lrjax.report.frame import figure, findings_page
from lrjax.report.rate_charts import rate_axis
from lrjax.report.scale import number, plural
from lrjax.search.range_test import RangeTest

READS = {
    "valley": "half-way along the longest fall",
    "slide": "the first steady slope, from the right",
    "steep": "where the loss falls fastest",
    "minimum": "a tenth of the rate of the lowest loss",
}


def find_findings(setup: Setup, result: RangeTest, command: str) -> Findings:
    """Returns the table of a range test: the suggestion of each rule. `command` compares full-length runs."""
    rows = []
    for rule, median in result.suggestions.items():
        finite = result.by_seed[rule][np.isfinite(result.by_seed[rule])]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (float("nan"),) * 2
        rows.append({"rule": rule, "learning_rate": median, "lowest": low, "highest": high})
    rows = json_rows(rows)
    known = [row for row in rows if row["learning_rate"] is not None]
    spread = lambda row: f"{between(row['lowest'], row['highest'])}, {plural(setup.seeds, 'seed')}"
    advice = f"Don't trust this alone: a few steps at each rate say little about a whole run. Judge by runs: {command}"
    return Findings(
        setup,
        f"Range test: {setup.task}, {plural(setup.steps, 'step')}, {plural(setup.seeds, 'seed')}",
        _summary(known),
        [advice],
        [(row["rule"], rate(row["learning_rate"]), spread(row) if row in known else "") for row in rows],
        {"suggestions": {row["rule"]: row["learning_rate"] for row in rows}},
        rows,
        [
            Column("rule", is_text=True),
            *map(Column, ("rate", "lowest seed", "highest seed")),
            Column("what it reads", is_text=True),
        ],
        [
            [row["rule"], *(rate(row[k]) for k in ("learning_rate", "lowest", "highest")), READS[row["rule"]]]
            for row in rows
        ],
    )


def _summary(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No rule had enough points: the loss ended too early. Try more --steps, or a lower --high."
    low, high = (f(rows, key=lambda row: row["learning_rate"]) for f in (min, max))
    apart = number(high["learning_rate"] / low["learning_rate"], 2)
    return (
        f"The rules suggest {rate(low['learning_rate'])} ({low['rule']}) to {rate(high['learning_rate'])} "
        f"({high['rule']}), {apart} times apart."
    )


def find_page(findings: Findings, result: RangeTest) -> str:
    """Returns the page: the smoothed losses over the rate with the suggestions of all rules, and the losses."""
    rates, known = result.learning_rates, [row for row in findings.rows if row["learning_rate"] is not None]
    words = "; ".join(f"{row['rule']} {rate(row['learning_rate'])}" for row in known) or "none"
    smoothed = Chart(
        "Smoothed loss over the rate",
        f"The moving average of the losses while the rate climbs. Suggestions: {words}.",
        "smoothed loss",
        rate_axis(rates),
        _loss_axis(result.smoothed),
        "rate",
        _lines(rates, result.smoothed, "c0 d0", "a seed"),
        _marks(result),
        _dots(result),
    )
    each = Chart(
        "Loss of each batch over the rate",
        "The losses from which the moving average is computed, before each update.",
        "loss of each batch",
        rate_axis(rates),
        _loss_axis(result.losses),
        "rate",
        _lines(rates, result.losses, "c0 d0 thin", ""),
    )
    how = [
        "Each seed is one run whose rate climbs with the steps. Each rule reads a rate off its smoothed curve (a dot), "
        "and the upright lines are the medians."
    ]
    return findings_page(findings, how, [figure(smoothed), figure(each)], "The rules")


def _lines(rates: np.ndarray, losses: np.ndarray, kind: str, key: str) -> list[Line]:
    return [Line(f"seed {i}", kind, rates, x, hint=f"seed {i}", key=key) for i, x in enumerate(losses)]


def _marks(result: RangeTest) -> list[Span]:
    return [
        Span(style(k), at, at, f"{rule}: {rate(at)}", rule)
        for k, (rule, at) in enumerate(result.suggestions.items(), start=1)
        if np.isfinite(at)
    ]


def _dots(result: RangeTest) -> list[Points]:
    dots = []
    for k, (rule, by_seed) in enumerate(result.by_seed.items(), start=1):
        seeds = np.flatnonzero(np.isfinite(by_seed))
        heights = [float(np.interp(by_seed[i], result.learning_rates, result.smoothed[i])) for i in seeds]
        hints = [f"{rule}, seed {i}: {rate(by_seed[i])}" for i in seeds]
        dots.append(Points(style(k), by_seed[seeds], np.array(heights), hints, key="by one seed"))
    return dots


def _loss_axis(losses: np.ndarray) -> Axis:
    """Returns the axis of losses [seeds, steps], up to a little above the highest of the first half: later ones may
    explode."""
    early = losses[:, : max(losses.shape[1] // 2, 1)]
    return value_axis(losses, early[np.isfinite(early)].max(initial=-np.inf, keepdims=True))
