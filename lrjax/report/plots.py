"""Plots results with matplotlib, and shows them as tables in notebooks."""

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np

from lrjax.report.scale import limits, number

SHOWN_EVENTS = 12  # of a guard, the last ones, that a table or a page tells in words


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("lrjax: a plot needs matplotlib: pip install 'lrjax[plot]'.") from None
    return plt.subplots(layout="constrained")[1]


def plot_losses(result: Any, ax: Any = None) -> Any:
    """Plots the deciding metric or loss over the rate: each run, mean and spread over the seeds, divergence shaded, the
    best rate marked."""
    ax = _axes(ax)
    order = np.argsort(result.learning_rates, kind="stable")
    rates, final = result.learning_rates[order], result.final[order]
    mean, spread = (np.where(np.isfinite(x), x, np.nan) for x in (result.mean[order], result.spread[order]))
    ax.fill_between(rates, mean - spread, mean + spread, alpha=0.2, lw=0)
    ax.plot(rates, mean, lw=1.5)
    dots = np.where(np.isfinite(final), final, np.nan)
    ax.plot(np.repeat(rates, final.shape[1]), dots.ravel(), ".", ms=3, color="C0")
    for i in np.flatnonzero(result.diverged[order].any(axis=1)):
        left = np.sqrt(rates[i] * rates[max(i - 1, 0)])
        right = np.sqrt(rates[i] * rates[min(i + 1, len(rates) - 1)])
        ax.axvspan(left, right, color="C3", alpha=0.15, lw=0)
    if (best := result.recommended) is not None:
        at = float(result.learning_rates[best])
        ax.plot(at, result.mean[best], "o", color="C1", label=f"best: {at:.3g}")
    _legend(ax)
    _set_limits(ax, final, [result.start], result.mode)
    ax.set(xscale="log", xlabel="learning rate", ylabel=result.metric or "loss")
    return ax


def _set_limits(ax: Any, values: Any, start: Any = (), mode: str = "min") -> None:
    low, high, log = limits(values, start, mode)
    ax.set(yscale="log" if log else "linear", ylim=(low, high))


def _legend(ax: Any, **options: Any) -> None:
    """Adds a legend, if anything is labelled."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, **options)


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, the moving average over a fiftieth of them)."""
    width = max(1, len(losses) // 50)
    with np.errstate(invalid="ignore", over="ignore"):
        average = np.convolve(losses, np.ones(width) / width, "valid")
    return np.arange(len(average)) + width // 2, average


def plot_curves(result: Any, ax: Any = None) -> Any:
    """Plots the smoothed loss of every setting over the steps, averaged over its seeds; dark is a low rate."""
    ax = _axes(ax)
    import matplotlib

    order = np.argsort(result.learning_rates, kind="stable")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(order)))
    curves = [_smoothed(result.losses[i].mean(axis=0)) for i in order]
    for colour, i, curve in zip(colours, order, curves, strict=True):
        ax.plot(*curve, color=colour, lw=1, label=f"{result.learning_rates[i]:.3g}")
    _set_limits(ax, np.concatenate([average for _, average in curves]), result.control)
    if len(order) <= 12:
        _legend(ax, title="rate", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlabel="step", ylabel="loss")
    return ax


def as_html(rows: list[dict[str, Any]], best: int | None, verdict: str = "", notes: Iterable[str] = ()) -> str:
    """Returns the verdict, the notes, and a table with the best row in bold."""
    paragraphs = "".join(f"<p>{escape(words)}</p>" for words in (verdict, *notes) if words)
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    cell = lambda x: f"<td>{'' if x is None else escape(x) if isinstance(x, str) else number(x)}</td>"
    body = "".join(
        f"<tr{' style=font-weight:bold' if i == best else ''}>{''.join(map(cell, row.values()))}</tr>"
        for i, row in enumerate(rows)
    )
    return f"{paragraphs}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def plot_run(run: Any, ax: Any = None) -> Any:
    """Plots the loss, smoothed and of each step, and the metrics; the rate on a second axis."""
    ax = _axes(ax)
    at, smooth = _smoothed(run.losses)
    ax.plot(run.losses, color="C0", alpha=0.25, lw=0.8)
    ax.plot(at, smooth, color="C0", lw=1.5, label="loss")
    for i, (name, values) in enumerate(run.metrics.items(), start=1):
        ax.plot(run.evaluated_at, values, ".-", color=f"C{i}", label=name)
    _set_limits(ax, np.concatenate([smooth, *run.metrics.values()]))
    ax.set(xlabel="step", ylabel="loss" if not run.metrics else None)
    rates = run.learning_rates if isinstance(run.learning_rates, dict) else {"": run.learning_rates}
    if run.learning_rates is not None:
        rate_ax = ax.twinx()
        for name, rate in rates.items():
            rate_ax.plot(rate, color="0.5", lw=1, ls="--", label=name)
        rate_ax.set(ylabel="learning rate", ylim=(0, None))
    _legend(ax)
    return ax


def run_html(run: Any) -> str:
    """Returns the last loss, rate and metrics of a run."""
    rate = run.learning_rates if isinstance(run.learning_rates, np.ndarray) else None
    row = {"steps": len(run.losses), "loss": float(run.losses[-1]), "rate": None if rate is None else float(rate[-1])}
    row |= {name: float(x[-1]) for name, x in run.metrics.items()}
    title = f"{run.task}, {run.optimizer}, seed {run.seed}" + (": diverged" if run.diverged else "")
    events = () if run.guard is None else run.guard.events
    notes = [f"guard: {event}" for event in events[-SHOWN_EVENTS:]]
    return as_html([row], None, title, notes)


def plot_comparison(result: Any, ax: Any = None) -> Any:
    """Plots the smoothed loss of every optimizer over the steps, averaged over its seeds."""
    ax = _axes(ax)
    import matplotlib

    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(result.entries)))
    curves = [_smoothed(losses.mean(axis=0)) for losses in result.losses]
    for colour, entry, curve in zip(colours, result.entries, curves, strict=True):
        ax.plot(*curve, color=colour, lw=1, label=entry.name)
    _set_limits(ax, np.concatenate([average for _, average in curves]), result.control)
    _legend(ax, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlabel="step", ylabel="loss")
    return ax


def plot_tune(result: Any, ax: Any = None) -> Any:
    """Plots the final losses over the rate, in grey the last losses of runs that were given up, and shades the rates
    that do as well."""
    ax = _axes(ax)
    rates, seeds = result.learning_rates, result.final.shape[1]
    final = np.where(np.isfinite(result.final), result.final, np.nan)
    steps_made = (~np.isnan(result.losses[:, 0])).sum(axis=1)
    last = result.losses[np.arange(len(rates)), 0, np.maximum(steps_made - 1, 0)]
    given_up = np.isnan(result.final[:, 0])
    if result.metric is None and given_up.any():  # a metric is on another scale than the loss
        ax.plot(rates[given_up], last[given_up], ".", ms=4, color="0.7", label="given up early")
    ax.plot(rates.repeat(seeds), final.ravel(), ".", ms=3, color="C0")
    finite = np.flatnonzero(~given_up & ~np.isinf(result.final).any(axis=1))
    if len(finite):
        ax.plot(rates[finite], [np.nanmean(x) for x in final[finite]], color="C0", lw=1.5, label="to the end")
    if np.isfinite(result.learning_rate):
        ax.axvspan(result.low, result.high, color="C1", alpha=0.2, lw=0)
        ax.axvline(result.learning_rate, color="C1", label=f"{result.learning_rate:.3g}")
    shown = last[given_up] if result.metric is None else last[:0]
    _set_limits(ax, np.concatenate([shown, final.ravel()]), [result.start], result.mode)
    _legend(ax)
    ax.set(xscale="log", xlabel="learning rate", ylabel=result.metric or "loss")
    return ax


def plot_range(result: Any, ax: Any = None) -> Any:
    """Plots the smoothed loss of every seed over the rate, and the suggestions."""
    ax = _axes(ax)
    for curve in result.smoothed:
        ax.plot(result.learning_rates, curve, color="C0", lw=1.5 if len(result.smoothed) == 1 else 0.8)
    for i, (rule, rate) in enumerate(result.suggestions.items(), start=1):
        if np.isfinite(rate):
            ax.axvline(rate, color=f"C{i}", lw=1, ls="--", label=f"{rule}: {rate:.2g}")
    half = result.smoothed[:, : max(1, result.smoothed.shape[1] // 2)]
    _set_limits(ax, result.smoothed, half[np.isfinite(half)].max(initial=-np.inf, keepdims=True))
    _legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    return ax


def plot_coordinates(result: Any, ax: Any = None) -> Any:
    """Plots the sizes of updates over the width: the mean of the seeds, with the exponent in the legend."""
    ax = _axes(ax)
    import matplotlib

    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(result.names)))
    for colour, name, sizes, exponent in zip(colours, result.names, result.sizes, result.exponents, strict=True):
        mean = np.where(sizes.mean(axis=1) > 0, sizes.mean(axis=1), np.nan)
        label = f"{name}: {exponent:.2f}" if np.isfinite(exponent) else name
        ax.plot(result.widths, mean, ".-", color=colour, lw=1.2, label=label)
    ax.set(xscale="log", yscale="log", xlabel="width", ylabel="size of the change", xticks=result.widths)
    ax.set_xticks(result.widths, [str(width) for width in result.widths])
    ax.set_xticks([], minor=True)
    _legend(ax, title="exponent", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return ax
