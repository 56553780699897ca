"""The result of a comparison, as NumPy arrays."""

import dataclasses
from typing import Any

import numpy as np

from lrjax.search.deciding_metric import DecidingMetric
from lrjax.training.divergence import Control
from lrjax.training.record import first_reached
from lrjax.training.result import Run


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer in a comparison."""

    group: str
    name: str
    optimizer: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(DecidingMetric):
    """The runs of a comparison, as NumPy arrays [optimizers, seeds, ...].

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(8), batch_size=4, steps=40)
    >>> table = lrjax.compare(task, {"slow": lrjax.sgd(0.001), "fast": lrjax.sgd(0.1)}, seeds=1)
    >>> [row["technique"] for row in table.rows()], table.best
    (['slow', 'fast'], 'fast')
    """

    task: str
    description: str
    entries: tuple[Entry, ...]
    learning_rates: np.ndarray  # [optimizers, steps]: of the first seed; nan where unknown
    losses: np.ndarray  # [optimizers, seeds, steps]: of each batch, before its update
    metrics: dict[str, np.ndarray]  # by name: [optimizers, seeds, evaluations]
    evaluated_at: np.ndarray  # [evaluations]: updates made before each
    modes: dict[str, str]  # of the metrics: "min" or "max"
    diverged: np.ndarray  # bool [optimizers, seeds]
    control: np.ndarray  # [seeds, steps]: losses without any update, at some steps; nan at the others
    start_metric: np.ndarray  # [seeds]: the first metric without training; nan where there is none
    target: float  # the value of the first metric, or of the loss, from which a run counts as learned
    how: str  # how the rates were chosen
    notes: tuple[str, ...]
    run: Run | None  # the best run, with its trained parameters
    runs: dict[str, list[Run]] | None  # by name, of each seed, with keep="all"

    @property
    def train_loss(self) -> np.ndarray:
        """[optimizers, seeds]: the mean over the last tenth of the steps."""
        return self._final_loss

    @property
    def best(self) -> str:
        """The name of the optimizer with the best mean."""
        mean = self.final.mean(axis=1)
        return self.entries[int(mean.argmin() if self.mode == "min" else mean.argmax())].name

    @property
    def limit(self) -> np.ndarray:
        """[seeds]: the final loss above which a run has diverged."""
        return Control(self.control).limit()

    @property
    def steps_to_target(self) -> np.ndarray:
        """[optimizers, seeds]: updates made when the target was reached first, inf where it never was."""
        if self.metric is None:
            width = max(1, self.losses.shape[2] // 50)
            kernel = np.ones(width) / width
            smooth = np.apply_along_axis(lambda x: np.convolve(x, kernel, "valid"), 2, self.losses)
            values, at = smooth, np.arange(smooth.shape[2]) + width
        else:
            values, at = self.metrics[self.metric], self.evaluated_at
        return first_reached(values, at, self.target, self.mode)

    def __repr__(self) -> str:
        count, seeds, steps = self.losses.shape
        return f"Comparison({count} optimizers, {seeds} seeds, {steps} steps; best: {self.best})"

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table, a dict for each optimizer; spreads are standard deviations over the seeds."""
        rows, steps_to = [], np.median(self.steps_to_target, axis=1)
        for i, entry in enumerate(self.entries):
            row: dict[str, Any] = {"group": entry.group, "technique": entry.name, "optimizer": repr(entry.optimizer)}
            rates = self.learning_rates[i]
            row["peak_rate"] = _finite_or_none(rates[np.isfinite(rates)].max(initial=-np.inf))
            row["train_loss"] = _finite_or_none(np.mean(self.train_loss[i]))
            for name, values in self.metrics.items():
                final = values[i, :, -1]
                row |= {name: _finite_or_none(np.mean(final)), f"{name}_spread": _finite_or_none(np.std(final))}
            row["steps_to_target"] = int(steps_to[i]) if np.isfinite(steps_to[i]) else None
            row |= {"diverged": int(self.diverged[i].sum()), "seeds": self.losses.shape[1]}
            rows.append(row)
        return rows

    def plot(self, ax: Any = None) -> Any:
        """Plots the smoothed loss of every optimizer over the steps, averaged over its seeds, with matplotlib (extra:
        plot). Returns the axes."""
        from lrjax.report.plots import plot_comparison

        return plot_comparison(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import as_html

        names = [entry.name for entry in self.entries]
        rows = [{k: v for k, v in row.items() if k not in ("group", "optimizer")} for row in self.rows()]
        return as_html(rows, names.index(self.best), self.how, self.notes)


def _finite_or_none(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None
