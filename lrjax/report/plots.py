"""Pictures of results: with matplotlib, and as a table in a notebook. They read arrays, and import nothing."""

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("lrjax: a plot needs matplotlib: pip install 'lrjax[plot]'.") from None
    return plt.subplots(layout="constrained")[1]


def plot_losses(result: Any, ax: Any = None) -> Any:
    """What decides over the rate: each run, the mean with the spread over the seeds, divergence shaded, the best
    marked."""
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
    if np.isfinite(result.mean).any():
        best = f"best: {result.best_learning_rate:.3g}"
        ax.plot(result.learning_rates[result.best], result.mean[result.best], "o", color="C1", label=best)
        ax.legend(frameon=False)
    _scale(ax, mean[np.isfinite(mean)])
    ax.set(xscale="log", xlabel="learning rate", ylabel=result.metric or "loss")
    return ax


def _scale(ax: Any, losses: np.ndarray) -> None:
    """Logarithmic where the losses go over more than a power of ten."""
    if losses.size and losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")


def plot_curves(result: Any, ax: Any = None) -> Any:
    """The loss of every setting over the steps, the mean over its seeds and over some steps; dark is a low rate."""
    ax = _axes(ax)
    import matplotlib

    steps = result.losses.shape[2]
    width = max(1, steps // 50)
    kernel = np.ones(width) / width
    order = np.argsort(result.learning_rates, kind="stable")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(order)))
    for colour, i in zip(colours, order, strict=True):
        curve = np.convolve(result.losses[i].mean(axis=0), kernel, "valid")
        ax.plot(np.arange(len(curve)) + width // 2, curve, color=colour, lw=1, label=f"{result.learning_rates[i]:.3g}")
    first, lowest = result.losses[:, :, 0], result.losses[np.isfinite(result.losses)].min(initial=np.inf)
    top = float(np.mean(first[np.isfinite(first)])) if np.isfinite(first).any() else np.nan
    if np.isfinite(top) and np.isfinite(lowest):
        if lowest > 0 and top > 10 * lowest:
            ax.set(yscale="log", ylim=(None, 2 * top))
        else:
            ax.set(ylim=(None, top + 0.2 * abs(top - lowest)))
    if len(order) <= 12:
        ax.legend(title="rate", frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlabel="step", ylabel="loss")
    return ax


def as_html(rows: list[dict[str, Any]], best: int | None, verdict: str = "", notes: Iterable[str] = ()) -> str:
    """What is said, and a table with the best row in bold."""
    said = "".join(f"<p>{escape(words)}</p>" for words in (verdict, *notes) if words)
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    text = lambda x: "" if x is None else escape(x) if isinstance(x, str) else f"{x:.4g}"
    cell = lambda x: f"<td>{text(x)}</td>"
    body = "".join(
        f"<tr{' style=font-weight:bold' if i == best else ''}>{''.join(map(cell, row.values()))}</tr>"
        for i, row in enumerate(rows)
    )
    return f"{said}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def plot_run(run: Any, ax: Any = None) -> Any:
    """The loss of each step and its mean over some steps, with the metrics; on an axis of its own the rate."""
    ax = _axes(ax)
    steps = len(run.losses)
    width = max(1, steps // 50)
    smooth = np.convolve(run.losses, np.ones(width) / width, "valid")
    ax.plot(run.losses, color="C0", alpha=0.25, lw=0.8)
    ax.plot(np.arange(len(smooth)) + width // 2, smooth, color="C0", lw=1.5, label="loss")
    for i, (name, values) in enumerate(run.metrics.items(), start=1):
        ax.plot(run.evaluated_at, values, ".-", color=f"C{i}", label=name)
    _scale(ax, smooth[np.isfinite(smooth)])
    ax.set(xlabel="step", ylabel="loss" if not run.metrics else None)
    rates = run.learning_rates if isinstance(run.learning_rates, dict) else {"": run.learning_rates}
    if run.learning_rates is not None:
        other = ax.twinx()
        for name, rate in rates.items():
            other.plot(rate, color="0.5", lw=1, ls="--", label=name)
        other.set(ylabel="learning rate", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def run_html(run: Any) -> str:
    """What a run ended at."""
    rate = run.learning_rates if isinstance(run.learning_rates, np.ndarray) else None
    row = {"steps": len(run.losses), "loss": float(run.losses[-1]), "rate": None if rate is None else float(rate[-1])}
    row |= {name: float(x[-1]) for name, x in run.metrics.items()}
    said = f"{run.task}, {run.optimizer}, seed {run.seed}" + (": diverged" if run.diverged else "")
    return as_html([row], None, said)


def plot_comparison(result: Any, ax: Any = None) -> Any:
    """The loss of every optimizer over the steps, the mean over its seeds and over some steps."""
    ax = _axes(ax)
    import matplotlib

    steps = result.losses.shape[2]
    width = max(1, steps // 50)
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(result.entries)))
    for colour, entry, losses in zip(colours, result.entries, result.losses, strict=True):
        curve = np.convolve(losses.mean(axis=0), np.ones(width) / width, "valid")
        ax.plot(np.arange(len(curve)) + width // 2, curve, color=colour, lw=1, label=entry.name)
    start = float(np.nanmean(result.control))
    finite = result.losses[np.isfinite(result.losses)]
    if finite.size and finite.min() > 0 and start > 10 * finite.min():
        ax.set(yscale="log", ylim=(None, 3 * start))
    elif finite.size:
        ax.set(ylim=(None, start + 0.5 * abs(start - finite.min())))
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlabel="step", ylabel="loss")
    return ax


def plot_tune(result: Any, ax: Any = None) -> Any:
    """The losses of whole runs over the rate, the last ones of runs that were given up in grey, the interval shaded."""
    ax = _axes(ax)
    rates, seeds = result.learning_rates, result.final.shape[1]
    whole = np.where(np.isfinite(result.final), result.final, np.nan)
    went = (~np.isnan(result.losses[:, 0])).sum(axis=1)
    last = result.losses[np.arange(len(rates)), 0, np.maximum(went - 1, 0)]
    given_up = np.isnan(result.final[:, 0])
    if result.metric is None:  # else the loss at which it was given up is on another scale
        ax.plot(rates[given_up], last[given_up], ".", ms=4, color="0.7", label="given up early")
    ax.plot(rates.repeat(seeds), whole.ravel(), ".", ms=3, color="C0")
    known = np.flatnonzero(~given_up & ~np.isinf(result.final).any(axis=1))
    ax.plot(rates[known], [np.nanmean(x) for x in whole[known]], color="C0", lw=1.5, label="to the end")
    if np.isfinite(result.learning_rate):
        ax.axvspan(result.low, result.high, color="C1", alpha=0.2, lw=0)
        ax.axvline(result.learning_rate, color="C1", label=f"{result.learning_rate:.3g}")
    shown = np.concatenate([last[given_up] if result.metric is None else last[:0], whole.ravel()])
    shown = shown[np.isfinite(shown)]
    _scale(ax, shown)
    if result.mode == "min" and shown.size and shown.max() > (top := 3 * abs(result.start)):
        ax.set_ylim(top=top)  # what rose that far is lost
    ax.legend(frameon=False)
    ax.set(xscale="log", xlabel="learning rate", ylabel=result.metric or "loss")
    return ax


def plot_range(result: Any, ax: Any = None) -> Any:
    """The smoothed loss of every seed over the rate, and the suggestions."""
    ax = _axes(ax)
    for curve in result.smoothed:
        ax.plot(result.learning_rates, curve, color="C0", lw=1.5 if len(result.smoothed) == 1 else 0.8)
    for i, (rule, rate) in enumerate(result.suggestions.items(), start=1):
        if np.isfinite(rate):
            ax.axvline(rate, color=f"C{i}", lw=1, ls="--", label=f"{rule}: {rate:.2g}")
    ends = result.smoothed[:, 0]
    if np.nanmax(result.smoothed) > (top := np.nanmax(ends + np.abs(ends))):
        ax.set_ylim(top=top)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    return ax
