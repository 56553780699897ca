"""When a run counts as diverged: the one rule, for `train`, `sweep`, `tune`, `range_test` and `compare`."""

import dataclasses

import numpy as np

from lrjax.training.record import TAIL

ABOVE = 10.0
_OWN = 10  # first losses of a run that has no control


@dataclasses.dataclass(frozen=True)
class Control:
    """What the loss of each seed [seeds] is without training, over some batches."""

    losses: np.ndarray  # [seeds, steps]: of a run that never updates

    @property
    def level(self) -> np.ndarray:
        return _median(self.losses)

    @property
    def spread(self) -> np.ndarray:
        """Of the loss over the batches: the median absolute deviation, scaled to a standard deviation."""
        return 1.4826 * _median(np.abs(self.losses - self.level[:, None]))

    @property
    def mean(self) -> np.ndarray:
        return _mean(self.losses)

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean."""
        count = np.maximum(np.isfinite(self.losses).sum(axis=1), 1)
        return np.sqrt(_mean((self.losses - self.mean[:, None]) ** 2) / count)

    def limit(self, diverged_above: float = ABOVE) -> np.ndarray:
        """[seeds]: the loss above which a run that ends there has diverged; none where the loss is 0 on every batch,
        since then there is nothing to compare with."""
        scale = np.abs(self.level) + self.spread
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(scale > 0, self.level + diverged_above * scale, np.inf)


def own_control(losses: np.ndarray) -> Control:
    """For runs [runs, steps] that have no control: their own first losses."""
    return Control(losses[:, : max(1, min(_OWN, losses.shape[1] // 10))])


def diverged(losses: np.ndarray, finite: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """bool [runs]: whether the parameters of a run are no longer finite, or its loss ends, by the median of the last
    tenth, above the limit or in what is not finite. A run that was up there in between and came back has not diverged.

    Args:
      losses: [runs, steps].
      finite: bool [runs], of the parameters.
      limit: [runs], of the control of the seed; nan for none.
    """
    end = losses[:, -max(1, round(TAIL * losses.shape[1])) :]
    with np.errstate(invalid="ignore"):
        return ~finite | (_median(end) > limit) | ~np.isfinite(end).any(axis=1)


def final_loss(losses: np.ndarray, part: float = TAIL) -> np.ndarray:
    """[runs]: the mean over the last part of the steps, without those whose loss is not finite."""
    return _mean(losses[:, -max(1, round(part * losses.shape[1])) :])


def _median(losses: np.ndarray) -> np.ndarray:
    """[runs]: over the finite ones; nan where there is none."""
    finite = np.isfinite(losses)
    if finite.all() and losses.shape[1]:
        return np.median(losses, axis=1)
    medians = [np.median(row[known]) if known.any() else np.nan for row, known in zip(losses, finite, strict=True)]
    return np.array(medians)


def _mean(losses: np.ndarray) -> np.ndarray:
    """[runs]: over the finite ones; nan where there is none."""
    finite = np.isfinite(losses)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(finite, losses, 0.0).sum(axis=1, dtype=np.float64) / finite.sum(axis=1)
