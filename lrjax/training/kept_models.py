"""Keeps trained models on the host: all, the best, or none."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from lrjax.training.engine import Engine
from lrjax.training.program import Carry

Keep = Literal["best", "all"] | None


class KeptModels:
    """Keeps the carry of all runs, or of the best: the best run of the setting with the lowest mean score.

    Args:
      engine: trains the runs.
      keep: "best", "all" or None.
      setting_of: [runs]: the setting of each; −1 for a control.
      score: returns the scores of finished runs; lower is better. Needed to keep the best.
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
        self._best: tuple[float, int] | None = None  # (mean score of its setting, run), among finished settings

    @property
    def settings_finished(self) -> np.ndarray:
        """bool [settings]: whether all runs of each are finished."""
        settings = range(int(self._setting_of.max(initial=-1)) + 1)
        return np.array([self.finished[self._setting_of == setting].all() for setting in settings])

    def finish(self, wave: int, carry: Carry) -> None:
        """Marks the runs of a wave as finished, keeps their carries as needed, and drops those no longer needed."""
        indices = np.unique(self._engine.waves.run_indices(wave))
        indices = indices[(self._setting_of[indices] >= 0) & ~self.finished[indices]]
        self.finished[indices] = True
        keep = self._select(indices)
        self.carried = {run: kept for run, kept in self.carried.items() if run in keep}
        for run in keep.intersection(indices.tolist()):
            self.carried[run] = self._engine.waves.slice_run(carry, run)

    def _select(self, latest: np.ndarray) -> set[int]:
        """Returns the runs to keep, after the latest have finished."""
        if self.keep != "best":
            return set() if self.keep is None else {*self.carried, *latest.tolist()}
        selected = set(self.carried)
        for setting in np.unique(self._setting_of[latest]):
            runs = np.flatnonzero(self._setting_of == setting)
            if not self.finished[runs].all():  # it may become the best setting
                selected.update(runs[self.finished[runs]].tolist())
                continue
            score, previous = self._score(runs), self._best
            selected -= set(runs.tolist())
            if previous is None or score.mean() < previous[0]:
                self._best = float(score.mean()), int(runs[score.argmin()])
                selected -= {previous[1]} if previous else set()
                selected.add(self._best[1])
        return selected
