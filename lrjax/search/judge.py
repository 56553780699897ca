"""Judges the scores of runs at many rates: which are as good as the best, and whether they are tied, noise, or no
better than no training."""

import dataclasses

import numpy as np

AS_GOOD = 0.05  # a rate is as good as the best if its score is higher by at most this fraction of the fall,
WORSE = 1.1  # and at most this multiple of the best
NOISY = 1.2  # the multiple of the best score up to which a difference may be noise
SHIFT = 5.5  # another seed does at a rate what these seeds do at an x times higher one with the probability x^-SHIFT
APART = 10  # two seeds at one rate whose scores have a higher ratio than this predict a third one badly
ROUNDING = 1e-6  # the relative difference of losses up to which they are equal
CLEAR = 2.0  # a difference to no training is clear from this many standard errors,
CLEAR_RANK = 2.5  # or from this z-value of a signed-rank test
SLIGHT = 1e-3  # the fraction of the untrained score up to which a change is slight
HARM = 0.05  # a rate that ends worse than no training by this fraction shows that higher rates do too


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of finished runs; lower is better.

    Args:
      final: [rates, seeds]: of each run; inf where it diverged, nan where it wasn't finished. Rates at which all runs
        are finished are compared; others only show whether a neighbour diverged.
      start: [seeds]: the score without training; nan where that isn't known.
      start_error: [seeds]: the standard error of `start`.
      run_error: [rates, seeds]: the standard error of each `final`, from the steps that it is the mean of; 0 where it
        is a metric.
      unsafe: bool [rates]: whether a run diverged at a rate, or its loss was not finite, finished or not.
      batch_z: [rates]: `signed_rank` of the falls of the loss on each of the last batches; None where a metric decides.
      sampling_error: [rates]: the standard error of the difference to the best rate that comes from the choice of
        validation examples; None where that isn't known.
    """

    final: np.ndarray
    start: np.ndarray
    start_error: np.ndarray
    run_error: np.ndarray
    unsafe: np.ndarray
    batch_z: np.ndarray | None = None
    sampling_error: np.ndarray | None = None

    def select(self, rates: np.ndarray) -> "Scores":
        """Returns the scores of some rates."""
        by_rate = {name: getattr(self, name) for name in ("final", "run_error", "unsafe", "batch_z", "sampling_error")}
        return dataclasses.replace(self, **{name: None if x is None else x[rates] for name, x in by_rate.items()})

    @property
    def mean(self) -> np.ndarray:
        """[rates]: the mean over the seeds; nan where a run isn't finished."""
        return self.final.mean(axis=1)

    @property
    def untrained(self) -> float:
        """The mean of `start`; nan where that isn't known."""
        return float(np.nanmean(self.start)) if np.isfinite(self.start).any() else float("nan")

    def noise(self, best: int) -> np.ndarray:
        """Returns [rates]: the standard error of the difference of the mean to the best. Pairs runs by seed, since they
        start from the same parameters; with one seed uses the error within runs, or of the validation set."""
        difference = self.final - self.final[best]
        seeds = self.final.shape[1]
        within = np.sqrt(np.sum(self.run_error**2 + self.run_error[best] ** 2, axis=1)) / seeds
        with np.errstate(invalid="ignore"):
            between = difference.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(difference))
        sampling = 0.0 if self.sampling_error is None else self.sampling_error
        return np.fmax(np.fmax(np.where(np.isfinite(between), between, 0.0), within), sampling)

    def as_good(self, best: int, tolerance: float = AS_GOOD) -> np.ndarray:
        """Returns bool [rates]: whether the mean is above the best by at most `tolerance` of the fall in training and a
        tenth of the best, or by at most the noise of the difference and a fifth of the best, if that is positive."""
        with np.errstate(invalid="ignore"):
            worse = self.mean - self.mean[best]
            fall = np.fmax(self.untrained - self.mean[best], 0.0)
            size = self.mean[best] if self.mean[best] > 0 else np.inf
            small = worse <= min(tolerance * fall, (WORSE - 1) * size)
            return small | (worse <= np.minimum(self.noise(best), (NOISY - 1) * size))

    def is_safe_and_good(self, best: int, tolerance: float = AS_GOOD) -> np.ndarray:
        """Returns bool [rates]: whether a rate is as good as the best, and the next higher rate is not unsafe."""
        return self.as_good(best, tolerance) & ~self.is_edge

    @property
    def is_edge(self) -> np.ndarray:
        """bool [rates]: whether the next higher rate is unsafe."""
        return np.append(self.unsafe[1:], False)

    def expected(self, rates: np.ndarray) -> np.ndarray:
        """Returns [rates]: the expected mean for other seeds; nan where not all runs are finished.

        Seeds differ in the rate at which training becomes unstable, so a few can all do well where another one fails.
        Therefore a rate is expected to do as the next higher one with the probability (rate / higher)^SHIFT, and so on
        upwards. No rate is expected to do worse than no training, which is also what an unsafe rate counts as. SHIFT
        was chosen on recorded runs of small models, on which 5.2 to 7 do about as well.
        """
        known = ~np.isnan(self.final)
        with np.errstate(invalid="ignore"):
            mean = np.where(known, self.final, 0.0).sum(axis=1) / known.sum(axis=1)
        worst = self.untrained if np.isfinite(self.untrained) else mean[np.isfinite(mean)].max()
        mean = np.where(self.unsafe & ~np.isfinite(mean), worst, mean)
        expected, higher, beyond = np.full(len(mean), np.nan), np.inf, worst
        for i in np.flatnonzero(~np.isnan(mean))[::-1]:
            shifted = (rates[i] / higher) ** SHIFT
            expected[i] = (1 - shifted) * mean[i] + shifted * beyond
            higher, beyond = rates[i], worst if self.unsafe[i] else min(expected[i], worst)
        return np.where(np.isfinite(self.mean), expected, np.nan)

    def careful_best(self, rates: np.ndarray) -> int:
        """Returns the rate with the best expected mean for other seeds, but at most one below the rate with the lowest
        mean; or two below, where the one between isn't finished and more than a slight difference is expected."""
        lowest, expected = int(np.nanargmin(self.mean)), self.expected(rates)
        known = [r for r in range(max(lowest - 2, 0), lowest) if np.isfinite(expected[r])]
        if not np.isfinite(expected[lowest]) or not known:
            return lowest
        nearest = known[-1]
        if nearest == lowest - 2 and expected[lowest] - expected[nearest] <= SLIGHT * abs(self.untrained):
            return lowest
        return max(int(np.nanargmin(expected)), nearest)

    def band(self, best: int, tolerance: float = AS_GOOD) -> tuple[int, int]:
        """Returns (first, last) of the rates around the best that are safe and as good, without a gap."""
        good = self.is_safe_and_good(best, tolerance)
        first = last = best
        while first > 0 and good[first - 1]:
            first -= 1
        while last < len(good) - 1 and good[last + 1]:
            last += 1
        return first, last

    @property
    def finished(self) -> np.ndarray:
        """The rates at which some run is finished."""
        return np.flatnonzero(~np.isnan(self.final).all(axis=1))

    def fall(self, rate: int) -> float:
        """Returns by how much training at a rate reduces the score, over finished runs; nan where the start isn't
        known."""
        known = ~np.isnan(self.final[rate])
        start = self.start[known & np.isfinite(self.start)]
        return float(start.mean() - self.final[rate, known].mean()) if len(start) else float("nan")

    def gain(self, rate: int) -> float:
        """Returns by how many standard errors a rate ends better than no training; below 0 where it ends worse, inf
        where the start isn't known.

        A few large losses make the error of a mean large, so run and control are also compared batch by batch: they saw
        the same ones.
        """
        known, fall = ~np.isnan(self.final[rate]), self.fall(rate)
        if not np.isfinite(self.final[rate, known]).all():
            return -np.inf
        if np.isnan(fall) or abs(fall) <= ROUNDING * abs(self.untrained):
            return np.inf if np.isnan(fall) else 0.0
        error = np.sqrt(np.nansum(self.start_error[known] ** 2 + self.run_error[rate, known] ** 2)) / known.sum()
        by_batch = 0.0 if self.batch_z is None else float(self.batch_z[rate]) * CLEAR / CLEAR_RANK
        return float(np.sign(fall) * max(abs(fall) / max(error, 1e-30), np.sign(fall) * by_batch))

    def has_learned(self, rate: int) -> bool:
        """Returns whether a rate ends clearly better than no training."""
        return self.gain(rate) > CLEAR

    def does_harm(self, rate: int) -> bool:
        """Returns whether a rate ends clearly and much worse than no training."""
        return self.gain(rate) < -CLEAR and not self.fall(rate) > -HARM * abs(self.untrained)

    def open_ends(self, best: int) -> tuple[bool, bool]:
        """Returns whether rates (below, above) the finished ones may do better than the best of these: it is the lowest
        or the highest of them, or nothing was learned while the highest does no harm or the lowest does some."""
        finished, learned = self.finished, self.has_learned(best)
        low, high = int(finished[0]), int(finished[-1])
        is_changed = not abs(self.fall(low)) <= SLIGHT * abs(self.untrained)
        below = best == low if learned else is_changed and (best == low or self.fall(low) < 0)
        above = best == high if learned else not self.does_harm(high)
        return bool(low > 0 and below), bool(high < len(self.final) - 1 and above)

    def disagree(self, best: int) -> np.ndarray | None:
        """Returns [seeds]: the best rate of each, if for some seed the best rate of all is much worse than its own;
        else None."""
        known = np.isfinite(self.mean) | np.isinf(self.mean)
        if self.final.shape[1] == 1 or known.sum() < 2:
            return None
        final = np.where(known[:, None], self.final, np.inf)
        best_of_seed = final.min(axis=0)
        with np.errstate(invalid="ignore"):
            regret = (final[best] - best_of_seed) / np.maximum(self.start - best_of_seed, 1e-30)
        return final.argmin(axis=0) if np.nanmax(regret) > 0.5 else None

    def far_apart(self, best: int) -> tuple[float, float] | None:
        """Returns (lowest, highest) of the seeds at the best rate, if their ratio is above APART; else None."""
        low, high = float(self.final[best].min()), float(self.final[best].max())
        is_rounding = high - low <= ROUNDING * abs(self.untrained)
        return (low, high) if low >= 0 and high > APART * low and not is_rounding else None


def standard_error(losses: np.ndarray) -> np.ndarray:
    """Returns [runs]: the standard error of the mean over the steps of losses [runs, steps]. Estimates it from the
    means of five parts (batch means), since neighbouring steps are correlated; 0 where there are too few steps."""
    if not len(losses):
        return np.zeros(0)
    steps, losses = losses.shape[1] // 5 * 5, losses.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if steps < 10:
            return np.nan_to_num(losses.std(axis=1) / np.sqrt(max(losses.shape[1], 1)), posinf=0.0)
        parts = losses[:, -steps:].reshape(len(losses), 5, -1).mean(axis=2)
        return np.nan_to_num(parts.std(axis=1, ddof=1) / np.sqrt(5), posinf=0.0)


def signed_rank(falls: np.ndarray) -> float:
    """Returns the z-value of Wilcoxon's signed-rank test of falls [seeds, batches]: positive where most batches are.
    Averages over the seeds first, since these may see the same batches."""
    known = np.isfinite(falls)
    falls = np.where(known, falls, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    falls = falls[falls != 0]
    ranks = np.abs(falls).argsort().argsort() + 1.0
    return float(np.sum(np.sign(falls) * ranks) / np.sqrt(np.sum(ranks**2))) if len(falls) else 0.0


def is_tied(scores: np.ndarray) -> bool:
    """Returns whether all scores are the same, up to rounding."""
    finite = scores[np.isfinite(scores)]
    return len(finite) > 1 and bool(np.ptp(finite) <= ROUNDING * np.abs(finite).max(initial=0.0))


def first_not_finite(losses: np.ndarray) -> int | None:
    """Returns the first step whose loss is not finite."""
    steps = np.flatnonzero(~np.isfinite(losses))
    return int(steps[0]) if len(steps) else None


def data_failure_message(seed: int, step: int) -> str:
    return (
        f"The loss is not finite on some batches at any rate, also without training: batch {step:,} of seed {seed}. "
        "No rate can mend that: look at the data, or at the loss."
    )
