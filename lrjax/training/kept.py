"""Which of the trained models are kept, on the host."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from lrjax.training.engine import Engine
from lrjax.training.program import Carry

Keep = Literal["best", "all"] | None


class Kept:
    """The models of all runs, or of the best one: the best run of the setting whose mean score is the lowest.

    Args:
      engine: what trains the runs.
      keep: "best", "all" or None.
      setting_of: [runs]: the setting that each belongs to; −1 for a control.
      score: the scores of some runs that are at their end; lower is better.
    """

    def __init__(self, engine: Engine, keep: Keep, setting_of: np.ndarray, score: Callable[[np.ndarray], np.ndarray]):
        self._engine, self.keep, self._setting_of, self._score = engine, keep, setting_of, score
        self.carried: dict[int, Carry] = {}  # by run
        self.finished = np.zeros(engine.count, bool)

    def finish(self, wave: int, carry: Carry) -> None:
        """A wave is at its end: takes what is wanted of it, and drops what no longer is."""
        indices = np.unique(self._engine.run_indices(wave))
        indices = indices[(self._setting_of[indices] >= 0) & ~self.finished[indices]]
        self.finished[indices] = True
        wanted = self._wanted()
        self.carried = {run: kept for run, kept in self.carried.items() if run in wanted}
        for run in wanted & set(indices.tolist()):
            self.carried[run] = self._engine.of_run(carry, run)

    def _wanted(self) -> set[int]:
        if self.keep is None:
            return set()
        if self.keep == "all":
            return set(np.flatnonzero(self.finished).tolist())
        settings = np.unique(self._setting_of[self.finished])
        whole = [s for s in settings if self.finished[self._setting_of == s].all()]
        # of settings that still have runs to finish any may be the best one
        wanted = set(np.flatnonzero(self.finished & ~np.isin(self._setting_of, whole)).tolist())
        if whole:
            score = {s: self._score(np.flatnonzero(self._setting_of == s)) for s in whole}
            best = min(whole, key=lambda s: score[s].mean())
            wanted.add(int(np.flatnonzero(self._setting_of == best)[score[best].argmin()]))
        return wanted
