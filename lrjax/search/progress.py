"""The progress bar of a sweep."""

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np


@contextlib.contextmanager
def bar(steps: int, learning_rates: np.ndarray, wanted: bool) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Gives `show(some runs, their losses in the latest steps [runs, steps])`, for runs at these rates that make so
    many steps in all. Quiet without a terminal, notebook or rich, and in all processes but the first."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError:
        wanted = False
    if not wanted or jax.process_index() > 0:
        yield lambda runs, losses: None
        return

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} steps/s")

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        "{task.completed}/{task.total}",
        Speed(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("sweep", total=steps, state="")

        rates, rate_of = np.unique(learning_rates, return_inverse=True)
        latest, seen = np.zeros(len(learning_rates)), np.zeros(len(learning_rates), bool)

        def show(runs: np.ndarray, losses: np.ndarray) -> None:
            latest[runs], seen[runs] = losses.mean(axis=1), True  # nan where a run has diverged
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.bincount(rate_of, latest) / np.bincount(rate_of, seen)
            best = "" if np.isnan(mean).all() else f"best rate {rates[np.nanargmin(mean)]:.3g}  "
            state = f"{best}{np.isnan(latest).sum()} of {len(latest)} diverged"
            progress.update(task, advance=len(np.unique(runs)) * losses.shape[1], state=state)

        yield show
