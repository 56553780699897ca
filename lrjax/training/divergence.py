"""Decides whether a run has diverged: one rule for `train`, `sweep`, `tune`, `range_test` and `compare`."""

import dataclasses

import numpy as np

from lrjax.training.record import TAIL_FRACTION, tail_steps

DIVERGED_ABOVE = 10.0  # the default of `diverged_above`
CONTROL_STEPS = 48  # for which a control is evaluated, at the start and at the end
_FIRST_LOSSES = 10  # of a run that has no control


def control_windows(steps: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the steps (begin, end) at which a control is evaluated: the first ones, and the last ones, on whose
    batches the final loss of a run is measured."""
    tail = tail_steps(steps)
    return (0, min(steps, CONTROL_STEPS)), (steps - min(tail, CONTROL_STEPS), steps)


@dataclasses.dataclass(frozen=True)
class Control:
    """The loss of each seed without training: [seeds, steps], nan where it wasn't evaluated."""

    losses: np.ndarray

    @property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        (_, first), (last, _) = control_windows(self.losses.shape[1])
        return self.losses[:, :first], self.losses[:, last:]

    @property
    def mean(self) -> np.ndarray:
        """[seeds]: the mean over the last batches, or the first where the last aren't known."""
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
        """Returns by how much training reduced the loss of each of the last batches; nan where that isn't known.

        Args:
          losses: [..., seeds, steps].
        """
        (last, _) = control_windows(self.losses.shape[1])[1]
        return self.losses[:, last:].astype(np.float64) - losses[..., last:]

    def limit(self, diverged_above: float = DIVERGED_ABOVE) -> np.ndarray:
        """Returns [seeds]: the final loss above which a run has diverged.

        That is the median untrained loss plus a multiple of its size and its spread over the batches, at the start or
        at the end, whichever is higher. Infinite where the untrained loss is 0 on every batch.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            limits = []
            for losses in self._windows:
                level = _median(losses)
                spread = 1.4826 * _median(np.abs(losses - level[:, None]))  # estimates the standard deviation
                scale = np.abs(level) + spread
                limits.append(np.where(scale > 0, level + diverged_above * scale, np.nan))
            limit = np.fmax(*limits)
        return np.where(np.isnan(limit), np.inf, limit)


def _padded(losses: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Pads with nan to the width of `like`, if that is wider."""
    width = max(losses.shape[1], like.shape[1]) - losses.shape[1]
    return np.pad(losses, ((0, 0), (0, width)), constant_values=np.nan)


def control_from_first_losses(losses: np.ndarray) -> Control:
    """Makes the control of runs [runs, steps] that have none, from their first losses."""
    return Control(losses[:, : max(1, min(_FIRST_LOSSES, losses.shape[1] // 10))])


def diverged(losses: np.ndarray, finite: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Returns bool [runs]: whether the parameters of a run are not finite, or the median loss of its last tenth is
    above the limit or not finite. A run whose loss rises in between and comes back has not diverged.

    Args:
      losses: [runs, steps].
      finite: bool [runs]: whether the parameters are finite.
      limit: [runs]: of the control of the seed; nan for none.
    """
    tail = losses[:, -tail_steps(losses.shape[1]) :]
    with np.errstate(invalid="ignore"):
        return ~finite | (_median(tail) > limit) | ~np.isfinite(tail).any(axis=1)


def final_loss(losses: np.ndarray, fraction: float = TAIL_FRACTION) -> np.ndarray:
    """Returns [runs]: the mean of the finite losses over the last part of the steps."""
    return _mean(losses[:, -tail_steps(losses.shape[1], fraction) :])


def _median(losses: np.ndarray) -> np.ndarray:
    """Returns [runs]: the median of the finite losses; nan where there is none."""
    finite = np.isfinite(losses)
    if finite.all() and losses.shape[1]:
        return np.median(losses, axis=1)
    medians = [np.median(row[mask]) if mask.any() else np.nan for row, mask in zip(losses, finite, strict=True)]
    return np.array(medians)


def _mean(losses: np.ndarray) -> np.ndarray:
    """Returns [runs]: the mean of the finite losses; nan where there is none."""
    finite = np.isfinite(losses)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(finite, losses, 0.0).sum(axis=1, dtype=np.float64) / finite.sum(axis=1)
