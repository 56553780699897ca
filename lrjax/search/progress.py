"""The progress bar of a sweep."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def bar(steps: int, learning_rates: np.ndarray, wanted: bool) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Gives `show(done, losses [settings, seeds, latest steps])`; quiet without a terminal, notebook or rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda done, losses: None
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
    shown = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("sweep", total=steps, state="")

        def show(done: int, losses: np.ndarray) -> None:
            latest = losses.mean(axis=(1, 2))  # nan where a run has diverged
            best = "" if np.isnan(latest).all() else f"best rate {learning_rates[np.nanargmin(latest)]:.3g}  "
            dead = int(np.isnan(losses[:, :, -1]).sum())
            progress.update(task, completed=done, state=f"{best}{dead} of {losses[:, :, -1].size} diverged")

        yield show
