"""Compares runs by the metric that decides: the first one, or without metrics the training loss."""

from functools import cached_property

import numpy as np

from lrjax.training.divergence import final_loss


class DecidingMetric:
    """A mixin for results: the metric that decides, and the final score of each run."""

    losses: np.ndarray  # [settings, seeds, steps]
    metrics: dict[str, np.ndarray]  # by name: [settings, seeds, evaluations]
    modes: dict[str, str]
    diverged: np.ndarray  # bool [settings, seeds]

    @property
    def metric(self) -> str | None:
        """The name of the metric that decides; None where the training loss does."""
        return next(iter(self.metrics), None)

    @property
    def mode(self) -> str:
        return "min" if self.metric is None else self.modes[self.metric]

    @cached_property
    def final(self) -> np.ndarray:
        """[settings, seeds], or [optimizers, seeds]: the deciding metric of each run after its last step, or the mean
        loss over the last tenth of its steps; where a run diverged inf, or −inf where higher is better."""
        final = self._final_loss if self.metric is None else self.metrics[self.metric][:, :, -1]
        return np.where(self.diverged | ~np.isfinite(final), self._sign * np.inf, final)

    @property
    def _final_loss(self) -> np.ndarray:
        return final_loss(self.losses.reshape(-1, self.losses.shape[2])).reshape(self.losses.shape[:2])

    @property
    def _sign(self) -> int:
        """The factor by which a score, of which lower is better, differs from the metric."""
        return -1 if self.mode == "max" else 1
