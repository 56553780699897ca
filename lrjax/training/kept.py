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
      score: the scores of some runs that are at their end; lower is better. Needed to keep the best.
    """

    def __init__(
        self,
        engine: Engine,
        keep: Keep,
        setting_of: np.ndarray,
        score: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
    ):
        self._engine, self.keep, self._setting_of, self._score = engine, keep, setting_of, score
        self.carried: dict[int, Carry] = {}  # by run
        self.finished = np.zeros(engine.count, bool)
        self._best: tuple[float, int] | None = None  # (mean score of its setting, run), of the settings that are whole

    @property
    def settings_finished(self) -> np.ndarray:
        """bool [settings]: those of which all runs are at their end."""
        settings = range(int(self._setting_of.max(initial=-1)) + 1)
        return np.array([self.finished[self._setting_of == setting].all() for setting in settings])

    def finish(self, wave: int, carry: Carry) -> None:
        """A wave is at its end: takes what is wanted of it, and drops what no longer is."""
        indices = np.unique(self._engine.waves.run_indices(wave))
        indices = indices[(self._setting_of[indices] >= 0) & ~self.finished[indices]]
        self.finished[indices] = True
        wanted = self._wanted(indices)
        self.carried = {run: kept for run, kept in self.carried.items() if run in wanted}
        for run in wanted.intersection(indices.tolist()):
            self.carried[run] = self._engine.waves.of_run(carry, run)

    def _wanted(self, latest: np.ndarray) -> set[int]:
        """The runs that are to be kept, once the latest are finished."""
        if self.keep != "best":
            return set() if self.keep is None else {*self.carried, *latest.tolist()}
        wanted = set(self.carried)
        for setting in np.unique(self._setting_of[latest]):
            runs = np.flatnonzero(self._setting_of == setting)
            if not self.finished[runs].all():  # it may become the best one
                wanted.update(runs[self.finished[runs]].tolist())
                continue
            score, before = self._score(runs), self._best
            wanted -= set(runs.tolist())
            if before is None or score.mean() < before[0]:
                self._best = float(score.mean()), int(runs[score.argmin()])
                wanted -= {before[1]} if before else set()
                wanted.add(self._best[1])
        return wanted
