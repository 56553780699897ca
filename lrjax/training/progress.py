"""Shows the progress bar of `train` and of all searches."""

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from lrjax.training.engine import Engine, Show

Status = Callable[[np.ndarray, int, int], str]  # from the arguments of `Show` to the text beside the bar


@contextlib.contextmanager
def progress_bar(steps: int, status: Status, enabled: bool) -> Iterator[Show]:
    """Shows a bar of the steps of all runs, with `status` beside it. Shows nothing without a terminal, notebook or
    rich, and in all processes but the first."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError:
        enabled = False
    if not enabled or jax.process_index() > 0:
        yield lambda run_indices, begin, end: None
        return

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} steps/s")

    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=20),
        "{task.completed}/{task.total}",
        Speed(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    is_shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("", total=steps, status="")

        def show(run_indices: np.ndarray, begin: int, end: int) -> None:
            steps_made = len(np.unique(run_indices)) * (end - begin)
            progress.update(task, advance=steps_made, status=status(run_indices, begin, end) if is_shown else "")

        yield show


class TrainStatus:
    """Describes one run: its loss, its rate and its metrics."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def __call__(self, run_indices: np.ndarray, begin: int, end: int) -> str:
        record = self._engine.record
        words = [f"loss {np.nanmean(record.losses[0, begin:end]) if record.steps_made[0] > begin else np.nan:.4g}"]
        words += [f"rate {x[0, end - 1]:.3g}" for x in list(record.learning_rates.values())[:1]]
        for name, x in record.metrics.items():
            known = np.flatnonzero(np.isfinite(x[0, :end]))
            words += [f"{name} {x[0, known[-1]]:.4g}"] if len(known) else []
        return "  ".join(words)


class SweepStatus:
    """Describes many runs: the best rate by the latest losses, and how many diverged."""

    def __init__(self, engine: Engine, learning_rates: np.ndarray):
        """`learning_rates`: of all runs, [runs]."""
        self._engine, (self._rates, self._rate_of) = engine, np.unique(learning_rates, return_inverse=True)
        self._latest, self._seen = np.zeros(len(learning_rates)), np.zeros(len(learning_rates), bool)

    def __call__(self, run_indices: np.ndarray, begin: int, end: int) -> str:
        record = self._engine.record
        self._latest[run_indices] = record.losses[run_indices, begin:end].mean(axis=1)
        self._latest[run_indices[~record.finite[run_indices]]] = np.nan
        self._seen[run_indices] = ~self._engine.runs.is_control[run_indices]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(self._rate_of, np.where(self._seen, self._latest, 0.0)) / np.bincount(
                self._rate_of, self._seen
            )
        best = "" if np.isnan(mean).all() else f"best rate {self._rates[np.nanargmin(mean)]:.3g}  "
        diverged = np.isnan(self._latest[self._seen]).sum()
        return f"{best}{diverged} of {len(self._latest) - self._engine.runs.is_control.sum()} diverged"
