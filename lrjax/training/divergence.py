"""When a run counts as diverged: the one rule, for `train`, `sweep`, `tune`, `range_test` and `compare`."""

import dataclasses

import numpy as np

from lrjax.training.record import TAIL, tail_steps

ABOVE = 10.0
WINDOW = 48  # steps of a control that are looked at, at the start and at the end
_OWN = 10  # first losses of a run that has no control


def control_windows(steps: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The steps of a run, (from, to), in which a control is looked at: its first ones, and the last ones, on whose
    batches the result of a run is measured."""
    tail = tail_steps(steps)
    return (0, min(steps, WINDOW)), (steps - min(tail, WINDOW), steps)


@dataclasses.dataclass(frozen=True)
class Control:
    """What the loss of each seed is without training: [seeds, steps], nan where that isn't known."""

    losses: np.ndarray

    @property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        (_, first), (last, _) = control_windows(self.losses.shape[1])
        return self.losses[:, :first], self.losses[:, last:]

    @property
    def mean(self) -> np.ndarray:
        """[seeds]: over the last batches, or the first where the last aren't known."""
        first, last = self._windows
        mean = _mean(last)
        return np.where(np.isfinite(mean), mean, _mean(first))

    @property
    def error(self) -> np.ndarray:
        """[seeds]: the standard error of the mean."""
        first, last = self._windows
        losses = np.where(np.isfinite(_mean(last))[:, None], _padded(last, first), _padded(first, last))
        count = np.maximum(np.isfinite(losses).sum(axis=1), 1)
        return np.sqrt(_mean((losses - _mean(losses)[:, None]) ** 2) / count)

    def fall(self, losses: np.ndarray) -> np.ndarray:
        """What runs [..., seeds, steps] took off the loss of each of the last batches; nan where that isn't known."""
        (last, _) = control_windows(self.losses.shape[1])[1]
        return self.losses[:, last:].astype(np.float64) - losses[..., last:]

    def limit(self, diverged_above: float = ABOVE) -> np.ndarray:
        """[seeds]: the loss above which a run that ends there has diverged: above the median loss by a multiple of its
        size and its spread over the batches, at the start or, where the data change, at the end. None where the loss is
        0 on every batch, since then there is nothing to compare with."""
        with np.errstate(invalid="ignore", over="ignore"):
            limits = []
            for losses in self._windows:
                level = _median(losses)
                spread = 1.4826 * _median(np.abs(losses - level[:, None]))  # as a standard deviation
                scale = np.abs(level) + spread
                limits.append(np.where(scale > 0, level + diverged_above * scale, np.nan))
            found = np.fmax(*limits)
        return np.where(np.isnan(found), np.inf, found)


def _padded(losses: np.ndarray, like: np.ndarray) -> np.ndarray:
    """As wide as the wider of both, with nan."""
    width = max(losses.shape[1], like.shape[1]) - losses.shape[1]
    return np.pad(losses, ((0, 0), (0, width)), constant_values=np.nan)


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
    end = losses[:, -tail_steps(losses.shape[1]) :]
    with np.errstate(invalid="ignore"):
        return ~finite | (_median(end) > limit) | ~np.isfinite(end).any(axis=1)


def final_loss(losses: np.ndarray, part: float = TAIL) -> np.ndarray:
    """[runs]: the mean over the last part of the steps, without those whose loss is not finite."""
    return _mean(losses[:, -tail_steps(losses.shape[1], part) :])


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
