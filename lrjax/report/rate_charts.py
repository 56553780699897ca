"""Charts over the rate, and curves of many rates over the steps, for the pages of searches."""

from collections.abc import Sequence

import numpy as np

from lrjax.report.chart import Axis, Chart, Line, Points, Span, steps_axis, value_axis
from lrjax.report.scale import number, plural

BINS = 60  # of steps in a curve: each shows the mean over its steps


def rate_axis(rates: np.ndarray) -> Axis:
    """Returns the axis of all rates, with half a grid step on both sides."""
    low, high = edges(np.unique(rates))
    return Axis(float(low[0]), float(high[-1]), log=True)


def edges(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the lower edge around each rate, the upper edge): half-way to its neighbours."""
    middle = np.sqrt(rates[1:] * rates[:-1])
    if not len(middle):
        return rates / 3, rates * 3
    first, last = rates[:1] ** 2 / middle[:1], rates[-1:] ** 2 / middle[-1:]
    return np.concatenate([first, middle]), np.concatenate([middle, last])


def run_points(rates: np.ndarray, final: np.ndarray, key: str) -> Points:
    """Returns a dot for each run with a finite `final` [rates, seeds]."""
    at, seed = np.nonzero(np.isfinite(final))
    hints = [f"rate {number(rates[i], 3)}, seed {j}: {number(final[i, j])}" for i, j in zip(at, seed, strict=True)]
    return Points("c0", rates[at], final[at, seed], hints, key=key)


def best_point(rates: np.ndarray, mean: np.ndarray, best: int | None) -> list[Points]:
    if best is None:
        return []
    hint = f"best: {number(rates[best], 3)}"
    return [Points("best", rates[[best]], mean[[best]], [hint], 4.5, key="best")]


def diverged_spans(rates: np.ndarray, share: np.ndarray) -> list[Span]:
    """Returns the spans of rates at which runs diverged, one for neighbours of which all, or some, did. `share` is the
    fraction of runs that diverged at each rate."""
    low, high = edges(rates) if len(np.unique(rates)) == len(rates) else (rates, rates)
    kind = np.sign(share) + (share == 1)  # 0 none, 1 some, 2 all
    cuts = np.flatnonzero(np.diff(kind)) + 1
    spans = []
    for part in np.split(np.arange(len(rates)), cuts):
        first, last = int(part[0]), int(part[-1])
        if kind[first]:
            words = "all runs diverged" if kind[first] == 2 else "some runs diverged"
            hint = f"{number(float(rates[first]), 3)} to {number(float(rates[last]), 3)}: {words}"
            style = "lost" if kind[first] == 2 else "lost some"
            spans.append(Span(style, float(low[first]), float(high[last]), hint, words))
    return spans


def bins(steps: int, most: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first steps, ends) of at most `most` parts of a run."""
    starts = np.unique(np.linspace(0, steps, min(steps, most), endpoint=False).astype(int))
    return starts, np.append(starts[1:], steps)


def binned(losses: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the means over parts of the last axis; nan where a loss is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(losses.astype(float), starts, axis=-1) / (ends - starts)
    return np.where(np.isfinite(means), means, np.nan)


def loss_curves(rates: np.ndarray, losses: np.ndarray, best: int | None, start: np.ndarray) -> Chart:
    """Returns the chart of losses [rates, seeds, steps] over the steps, coloured by rate; `start` is the untrained
    loss."""
    steps = losses.shape[2]
    starts, ends = bins(steps)
    means = binned(losses, starts, ends).mean(axis=1)
    words = "a line ends where a run diverged or was given up"
    return Chart(
        "Training loss over the steps",
        f"Mean training loss of each rate over {plural(steps, 'step')}; {words}.",
        "training loss",
        steps_axis(steps),
        value_axis(means, start),
        lines=_lines(rates, (starts + ends - 1) / 2, means, best),
    )


def metric_curves(
    name: str, rates: np.ndarray, values: np.ndarray, at: np.ndarray, best: int | None, start: np.ndarray, mode: str
) -> Chart:
    """Returns the chart of a metric [rates, seeds, evaluations] over the steps."""
    means = values.mean(axis=1)
    return Chart(
        f"{name} over the steps",
        f"Mean {name} of each rate, evaluated {len(at)} times.",
        name,
        steps_axis(int(at[-1])),
        value_axis(means, start, mode),
        lines=_lines(rates, at, means, best),
    )


def _lines(rates: np.ndarray, x: np.ndarray, means: np.ndarray, best: int | None) -> Sequence[Line]:
    tones = np.linspace(0, 1, len(rates)) if len(rates) > 1 else np.zeros(1)
    words = [number(at, 3) for at in rates]
    lines = [
        Line(word, "tone", x, mean, tone=tone, hint=f"rate {word}")
        for word, mean, tone in zip(words, means, tones, strict=True)
    ]
    if best is not None:
        lines.append(Line("best", "best", x, means[best], hint=f"best: {words[best]}", key="best"))
    return lines


def ends_of(rates: np.ndarray) -> tuple[str, str]:
    """Formats the lowest and the highest rate."""
    return number(float(rates[0]), 3), number(float(rates[-1]), 3)
