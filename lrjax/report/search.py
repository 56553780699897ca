"""The results of a search as pages that need nothing else."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from lrjax.report.chart import Axis, Line, Points, Span, chart, steps_axis, swatch
from lrjax.report.document import document, facts
from lrjax.report.findings import RULES, Findings, went
from lrjax.report.scale import number, plural
from lrjax.search.range_test import RangeTest
from lrjax.search.result import SweepResult
from lrjax.search.tune import TuneResult

_BINS = 60  # of a loss curve: each shows the mean over its steps

_DIVERGED = "A run diverged when its loss was not finite, or had risen by ten times its start."


def find_page(findings: Findings, result: RangeTest) -> str:
    """The smoothed curves over the rate with the suggestions of all rules, and the losses they are made of."""
    rates = result.learning_rates
    style = {rule: f"c{i}" for i, rule in enumerate(RULES, start=1)}
    curves = [Line(f"seed {i}", "c0", rates, curve, hint=f"seed {i}") for i, curve in enumerate(result.smoothed)]
    marks = [
        Span(style[rule], at, at, f"{rule}: {number(at, 3)}")
        for rule, at in result.suggestions.items()
        if np.isfinite(at)
    ]
    dots = []
    for rule, by_seed in result.by_seed.items():
        seeds = np.flatnonzero(np.isfinite(by_seed))
        heights = [float(np.interp(by_seed[i], rates, result.smoothed[i])) for i in seeds]
        hints = [f"{rule}, seed {i}: {number(float(by_seed[i]), 3)}" for i in seeds]
        dots.append(Points(style[rule], by_seed[seeds], np.array(heights), hints))
    raw = [Line(f"seed {i}", "c0 thin", rates, losses, hint=f"seed {i}") for i, losses in enumerate(result.losses)]
    over = rate_axis(rates)
    said = "; ".join(f"{row['rule']} {number(row['learning_rate'], 3)}" for row in _said(findings)) or "none"
    smoothed = chart(
        curves,
        "Smoothed loss over the rate",
        f"The moving average of the losses while the rate climbs. Suggestions: {said}.",
        "smoothed loss",
        over,
        _climbing(result.smoothed),
        "rate",
        marks,
        dots,
    )
    each = chart(
        raw,
        "Loss of each batch over the rate",
        "The losses that the moving average is made of, before each update.",
        "loss of each batch",
        over,
        _climbing(result.losses),
        "rate",
    )
    key = [(swatch("c0"), "a seed"), *((swatch(style[rule]), rule) for rule in RULES)]
    key.append((swatch("c1", "dot"), "by one seed"))
    how = (
        "Each seed is one run whose rate climbs with the steps. Each rule reads a rate off its smoothed curve (a dot), "
        "and the upright lines are the medians."
    )
    return _page(findings, how, [(smoothed, key), (each, [])], "The rules")


def _climbing(losses: np.ndarray) -> Axis:
    """The losses [seeds, steps], and not far above the highest of the first half, after which they may explode."""
    early = losses[:, : max(losses.shape[1] // 2, 1)]
    return loss_axis(losses, early[np.isfinite(early)].max(initial=-np.inf, keepdims=True))


def _said(findings: Findings) -> list[dict[str, Any]]:
    return [row for row in findings.rows if row["learning_rate"] is not None]


def sweep_page(findings: Findings, result: SweepResult) -> str:
    """The final loss over the rate, and the loss curves."""
    order = np.argsort(result.learning_rates, kind="stable")
    rates, final = result.learning_rates[order], result.final[order]
    mean, spread = (np.where(np.isfinite(x), x, np.nan) for x in (result.loss[order], result.spread[order]))
    losses, lost = result.losses[order], result.diverged[order]
    best = None if findings.best is None else int(np.flatnonzero(order == findings.best)[0])
    runs = _run_points(rates, final)
    several = final.shape[1] > 1
    line = Line("mean", "c0", rates, mean, mean - spread if several else None, mean + spread if several else None)
    over_rates = chart(
        [line],
        "Loss over the rate",
        _described(findings),
        "final loss",
        rate_axis(rates),
        loss_axis(final, losses[:, :, 0]),
        "rate",
        _lost_spans(rates, lost.mean(axis=1)),
        [runs, *_best_point(rates, mean, best)],
    )
    key = [(swatch("c0", "dot"), "a run"), (swatch("c0"), "mean")]
    if several:
        key.append((swatch("c0", "band"), "standard deviation"))
    key += _key(best is not None, lost.any())
    how = f"Every rate trained {plural(final.shape[1], 'model')} for {plural(losses.shape[2], 'step')}. {_DIVERGED}"
    return _page(findings, how, [(over_rates, key), _curves(rates, losses, best)], "All rates")


def tune_page(findings: Findings, result: TuneResult) -> str:
    """The loss over the rate, also of the rates that were given up, and the loss curves of the first seed."""
    rates, final, losses = result.learning_rates, result.final, result.losses
    ways = [went(result, i) for i in range(len(rates))]
    runs = _run_points(rates, final)
    early = np.array([i for i, way in enumerate(ways) if way == "given up"], int)
    latest = [_latest(losses[i, 0]) for i in early]
    # its training loss is no loss of `eval_fn`: then it is put on the upper edge
    heights = np.array([np.inf if findings.search.evaluated else loss for loss, _ in latest], float)
    hints = [
        f"rate {number(rates[i], 3)}: given up after {plural(steps, 'step')}, with the training loss {number(loss)}"
        for i, (loss, steps) in zip(early, latest, strict=True)
    ]
    ended = [row for row in findings.rows if row["loss"] is not None]
    line = Line("mean", "c0", np.array([r["learning_rate"] for r in ended]), np.array([r["loss"] for r in ended]))
    spans = _lost_spans(rates, np.array([way == "diverged" for way in ways], float))
    if findings.best is not None:
        low, high = _edges(rates)
        inside = np.flatnonzero((rates >= result.low) & (rates <= result.high))
        hint = f"{number(result.low, 3)} to {number(result.high, 3)} does as well"
        spans.append(Span("c2", low[inside[0]], high[inside[-1]], hint))
    best = Points("best", line.x[:0], line.x[:0], [])
    if findings.best is not None:
        row = findings.rows[findings.best]
        best = Points("best", *(np.array([row[k]]) for k in ("learning_rate", "loss")), [f"best: {_rate(row)}"], 4.5)
    over_rates = chart(
        [line],
        "Loss over the rate",
        _described(findings),
        "final loss" if findings.search.evaluated else "loss",
        rate_axis(rates),
        loss_axis(np.concatenate([final.ravel(), heights]), losses[:, :, 0]),
        "rate",
        spans,
        [Points("c0 open", rates[early], heights, hints), runs, best],
    )
    key = [(swatch("c0", "dot"), "a run to the end"), (swatch("c0"), "mean")]
    if len(early):
        key.append((swatch("c0 open", "dot"), "given up early"))
    key += [*_key(findings.best is not None, "diverged" in ways)]
    if findings.best is not None:
        key.append((swatch("c2", "span"), "does as well"))
    how = (
        f"{plural(len(rates), 'rate')} began; those whose losses were worse were given up early, and only rates that "
        f"trained all {plural(losses.shape[2], 'step')} are compared. A hollow dot shows "
        f"{'that a rate was given up' if findings.search.evaluated else 'the training loss when a rate was given up'}. "
        f"{_DIVERGED}"
    )
    return _page(findings, how, [(over_rates, key), _curves(rates, losses[:, :1], findings.best)], "All rates")


def _run_points(rates: np.ndarray, final: np.ndarray) -> Points:
    """A dot for each run that has a final loss [rates, seeds]."""
    at, seed = np.nonzero(np.isfinite(final))
    hints = [f"rate {number(rates[i], 3)}, seed {j}: {number(final[i, j])}" for i, j in zip(at, seed, strict=True)]
    return Points("c0", rates[at], final[at, seed], hints)


def _rate(row: dict[str, Any]) -> str:
    return number(row["learning_rate"], 3)


def _latest(losses: np.ndarray) -> tuple[float, int]:
    """(the mean of the last third of the steps that were made, how many)."""
    made = losses[~np.isnan(losses)]
    return float(made[-max(1, round(0.3 * len(made))) :].mean()), len(made)


def _described(findings: Findings) -> str:
    return f"Final loss over the learning rate, which is on a logarithmic axis. {findings.verdict}"


def rate_axis(rates: np.ndarray) -> Axis:
    """All rates, and half a step on both sides."""
    low, high = _edges(np.unique(rates))
    return Axis(float(low[0]), float(high[-1]), log=True)


def _edges(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where the part of each rate begins, where it ends): half-way to its neighbours."""
    middle = np.sqrt(rates[1:] * rates[:-1])
    if not len(middle):
        return rates / 3, rates * 3
    first, last = rates[:1] ** 2 / middle[:1], rates[-1:] ** 2 / middle[-1:]
    return np.concatenate([first, middle]), np.concatenate([middle, last])


def loss_axis(values: np.ndarray, start: np.ndarray) -> Axis:
    """From the lowest loss to the highest, but not far above the loss before training."""
    finite, first = values[np.isfinite(values)], start[np.isfinite(start)]
    if not len(finite):
        finite = first if len(first) else np.zeros(1)
    low, high = float(finite.min()), float(finite.max())
    if len(first) and (begin := float(first.mean())) > low:
        high = min(high, begin + 0.2 * (begin - low))
    if low > 0 and high > 10 * low:
        return Axis(low / 1.3, high * 1.3, log=True)
    pad = 0.07 * (high - low) or 0.1 * abs(low) or 1.0
    return Axis(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)


def _lost_spans(rates: np.ndarray, share: np.ndarray) -> list[Span]:
    """Where runs diverged: neighbours of which all did, or of which some did, are one part."""
    low, high = _edges(rates) if len(np.unique(rates)) == len(rates) else (rates, rates)
    kind = np.sign(share) + (share == 1)  # 0 none, 1 some, 2 all
    cuts = np.flatnonzero(np.diff(kind)) + 1
    spans = []
    for part in np.split(np.arange(len(rates)), cuts):
        if kind[part[0]]:
            words = "all runs diverged" if kind[part[0]] == 2 else "some runs diverged"
            hint = f"{number(rates[part[0]], 3)} to {number(rates[part[-1]], 3)}: {words}"
            style = "lost" if kind[part[0]] == 2 else "lost some"
            spans.append(Span(style, float(low[part[0]]), float(high[part[-1]]), hint))
    return spans


def _best_point(rates: np.ndarray, mean: np.ndarray, best: int | None) -> list[Points]:
    if best is None:
        return []
    return [Points("best", rates[[best]], mean[[best]], [f"best: {number(rates[best], 3)}"], 4.5)]


Key = Sequence[tuple[str, str]]


def _key(has_best: bool, some_lost: bool) -> list[tuple[str, str]]:
    best = [(swatch("best", "dot"), "best")] if has_best else []
    return best + ([(swatch("lost", "span"), "diverged")] if some_lost else [])


def _curves(rates: np.ndarray, losses: np.ndarray, best: int | None) -> tuple[str, Key]:
    """The losses [rates, seeds, steps] over the steps, from a low rate to a high one."""
    steps = losses.shape[2]
    starts = np.unique(np.linspace(0, steps, min(steps, _BINS), endpoint=False).astype(int))
    ends = np.append(starts[1:], steps)
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(losses.mean(axis=1, dtype=float), starts, axis=1) / (ends - starts)
    tones = np.linspace(0, 1, len(rates)) if len(rates) > 1 else np.zeros(1)
    lines = [
        Line(f"{rates[i]:.3g}", "tone", (starts + ends - 1) / 2, means[i], tone=tones[i], hint=f"rate {rates[i]:.3g}")
        for i in range(len(rates))
    ]
    if best is not None:
        lines.append(Line("best", "best", lines[best].x, means[best], hint=f"best: {rates[best]:.3g}"))
    drawn = chart(
        lines,
        "Loss over the steps",
        f"Training loss of each rate over {plural(steps, 'step')}; a line ends where a run diverged or was given up.",
        "training loss",
        steps_axis(steps),
        loss_axis(means, losses[:, :, 0]),
    )
    low, high = number(float(rates[0]), 3), number(float(rates[-1]), 3)
    key = [("", f'{low}<i class="ramp"></i>{high}')] + ([(swatch("best"), "best")] if best is not None else [])
    return drawn, key


def _page(findings: Findings, how: str, charts: Iterable[tuple[str, Key]], heading: str) -> str:
    """The verdict, the charts each with its key, and the table."""
    run = findings.search
    figures = "".join(f"<figure>{drawn}{_caption(key)}</figure>" for drawn, key in charts)
    notes = "".join(f"<p>{_text(note)}</p>" for note in findings.notes)
    lead = f'<p class="verdict">{_text(findings.verdict)}</p>{notes}'
    what = f"Optimizer: <code>{escape(run.optimizer)}</code>."
    body = f"""{facts(findings.facts)}
<p class="how">{_text(how)}</p>
<section class="plain"><div class="panel two">{figures}</div></section>
<section><h2>{escape(heading)}</h2>
<p>{what}</p>
{_table(findings)}</section>"""
    return document(findings.title, lead, body, run.command)


def _caption(key: Key) -> str:
    return (
        f"<figcaption>{''.join(f'<span>{picture}{text}</span>' for picture, text in key)}</figcaption>" if key else ""
    )


def _text(words: str) -> str:
    """Escaped, with `code` in it."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(findings: Findings) -> str:
    is_text = [name in ("what it reads", "went", "") for name in findings.headers]
    kind = lambda i: ' class="text"' if is_text[i] else ""
    head = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(findings.headers))
    body = []
    for i, cells in enumerate(findings.cells):
        first, *others = map(escape, cells)
        row = "".join(f"<td{_class(is_text[k], i in findings.bad)}>{_spread(x)}</td>" for k, x in enumerate(others, 1))
        body.append(f'<tr{" class=best" * (i == findings.best)}><th scope="row">{first}</th>{row}</tr>')
    return f'<table class="results few"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _class(text: bool, bad: bool) -> str:
    names = " ".join(["text"] * text + ["bad"] * bad)
    return f' class="{names}"' if names else ""


def _spread(cell: str) -> str:
    value, plus_minus, spread = cell.partition(" ± ")
    return f"{value}<span class='spread'>{plus_minus}{spread}</span>" if plus_minus else value
