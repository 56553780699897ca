"""What the losses of runs at many rates say, and what they don't: ties, data that fail at any rate, nothing learned,
seeds that disagree, the rates that do as well as the best."""

import dataclasses

import numpy as np

AS_GOOD = 0.05  # of the fall of the loss, up to which a difference doesn't matter
WORSE = 1.1  # the multiple of the best loss up to which a rate can be as good


@dataclasses.dataclass(frozen=True)
class Scores:
    """The results of runs that went to the end; lower is better.

    Args:
      final: [rates, seeds]: of each run, inf where it diverged; nan where it didn't go to the end.
      start: [seeds]: what it was without training; nan where that isn't known.
      start_error: [seeds]: the standard error of `start`.
      run_error: [rates, seeds]: the standard error of each `final`, from the steps that it is the mean of; 0 where it
        is a metric.
      unsafe: bool [rates]: those at which a run diverged, or was not finite, as far as it went.
    """

    final: np.ndarray
    start: np.ndarray
    start_error: np.ndarray
    run_error: np.ndarray
    unsafe: np.ndarray

    def of(self, rates: np.ndarray) -> "Scores":
        """Those of some rates."""
        return dataclasses.replace(
            self, final=self.final[rates], run_error=self.run_error[rates], unsafe=self.unsafe[rates]
        )

    @property
    def mean(self) -> np.ndarray:
        """[rates]: over the seeds; nan where one didn't go to the end."""
        return self.final.mean(axis=1)

    def noise(self, best: int) -> np.ndarray:
        """[rates]: the standard error of the difference of the mean to the best: seed by seed, since runs of one seed
        begin at the same parameters; with one seed from the runs themselves."""
        difference = self.final - self.final[best]
        seeds = self.final.shape[1]
        within = np.sqrt(np.sum(self.run_error**2 + self.run_error[best] ** 2, axis=1)) / seeds
        with np.errstate(invalid="ignore"):
            between = difference.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(difference))
        return np.fmax(np.where(np.isfinite(between), between, 0.0), within)

    def as_good(self, best: int, tolerance: float = AS_GOOD) -> np.ndarray:
        """bool [rates]: those whose mean is above the best by no more than a part of what training took off, or than
        the noise of the difference, and above a best that is positive by no more than a tenth of it."""
        with np.errstate(invalid="ignore"):
            worse = self.mean - self.mean[best]
            fall = np.nanmean(self.start) - self.mean[best] if np.isfinite(self.start).any() else 0.0
            allowed = np.maximum(tolerance * max(fall, 0.0), self.noise(best))
            bounded = worse <= (WORSE - 1) * abs(self.mean[best]) if self.mean[best] > 0 else True
            return (worse <= allowed) & (bounded | (worse <= 0))

    @property
    def is_edge(self) -> np.ndarray:
        """bool [rates]: those whose upper neighbor is unsafe."""
        return np.append(self.unsafe[1:], False)

    def careful_best(self) -> int:
        """The best rate; of two that are as good the lower one, where the next higher rate is unsafe."""
        best = int(np.nanargmin(self.mean))
        return best - 1 if best > 0 and self.is_edge[best] and self.as_good(best)[best - 1] else best

    def band(self, best: int, tolerance: float = AS_GOOD) -> tuple[int, int]:
        """(first, last) of the rates around the best that are as good, each of them: nothing is bridged, and what is
        next to an unsafe rate is left out."""
        good = self.as_good(best, tolerance) & ~self.is_edge
        first = last = best
        while first > 0 and good[first - 1]:
            first -= 1
        while last < len(good) - 1 and good[last + 1]:
            last += 1
        return first, last

    def nothing_learned(self, best: int) -> bool:
        """Whether the best rate ends no better than without training, to the noise of both."""
        if not np.isfinite(self.start).any():
            return False
        fall = np.nanmean(self.start) - self.mean[best]
        seeds = len(self.start)
        error = np.sqrt(np.nansum(self.start_error**2) + np.nansum(self.run_error[best] ** 2)) / seeds
        return bool(fall <= 2 * error or fall <= 1e-6 * abs(np.nanmean(self.start)))

    def disagree(self, best: int) -> np.ndarray | None:
        """[seeds]: the best rate of each, where for some seed the best rate of all is far from its own; else None."""
        known = np.isfinite(self.mean) | np.isinf(self.mean)
        if self.final.shape[1] == 1 or known.sum() < 2:
            return None
        final = np.where(known[:, None], self.final, np.inf)
        own = final.min(axis=0)
        with np.errstate(invalid="ignore"):
            lost = (final[best] - own) / np.maximum(self.start - own, 1e-30)
        return final.argmin(axis=0) if np.nanmax(lost) > 0.5 else None


def standard_error(losses: np.ndarray) -> np.ndarray:
    """[runs]: of the mean over the steps [runs, steps]: from the means of five parts, so that neighbours may be alike;
    0 where there are too few."""
    if not len(losses):
        return np.zeros(0)
    steps, losses = losses.shape[1] // 5 * 5, losses.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if steps < 10:
            return np.nan_to_num(losses.std(axis=1) / np.sqrt(max(losses.shape[1], 1)), posinf=0.0)
        parts = losses[:, -steps:].reshape(len(losses), 5, -1).mean(axis=2)
        return np.nan_to_num(parts.std(axis=1, ddof=1) / np.sqrt(5), posinf=0.0)


def is_tied(scores: np.ndarray) -> bool:
    """Whether all scores are the same, to rounding: no update has told the rates apart."""
    finite = scores[np.isfinite(scores)]
    return len(finite) > 1 and bool(np.ptp(finite) <= 1e-6 * np.abs(finite).max(initial=0.0))


def first_not_finite(losses: np.ndarray) -> int | None:
    """The first step whose loss is not finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None


def data_words(seed: int, step: int) -> str:
    return (
        f"The loss is not finite on some batches at any rate, also without training: batch {step:,} of seed {seed}. "
        "No rate can mend that: look at the data, or at the loss."
    )
