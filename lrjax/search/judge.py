"""What the losses of runs at many rates say, and what they don't: ties, data that fail at any rate, nothing learned,
seeds that disagree, the rates that do as well as the best."""

import dataclasses

import numpy as np

AS_GOOD = 0.05  # of the fall of the loss, up to which a difference doesn't matter,
WORSE = 1.1  # and the multiple of the best loss up to which it doesn't;
NOISY = 1.2  # the multiple of the best loss up to which a difference can be put down to noise
SHIFT = 5.5  # the probability that another seed does at a rate what these do at one x times higher is x^-SHIFT
APART = 10  # the ratio of the results of two seeds at one rate beyond which they say little about a third
ROUNDING = 1e-6  # of a loss, up to which a difference is none
CLEAR = 2.0  # standard errors from which a difference to no training is clear,
CLEAR_RANK = 2.5  # and the z-value of a signed-rank test from which it is
SLIGHT = 1e-3  # of what there is without training, up to which a rate has changed little;
HARM = 0.05  # of what there is without training, from which a rate that ends worse tells that higher ones do too


@dataclasses.dataclass(frozen=True)
class Scores:
    """The results of runs that went to the end; lower is better.

    Args:
      final: [rates, seeds]: of each run, inf where it diverged; nan where it didn't go to the end. Rates at which all
        runs did are compared; the others tell what is next to these.
      start: [seeds]: what it was without training; nan where that isn't known.
      start_error: [seeds]: the standard error of `start`.
      run_error: [rates, seeds]: the standard error of each `final`, from the steps that it is the mean of; 0 where it
        is a metric.
      unsafe: bool [rates]: those at which a run diverged, or was not finite, as far as it went.
      batch_z: [rates]: what `signed_rank` gives for the fall of the loss on each of the last batches; None where a
        metric decides.
      sampling_error: [rates]: the standard error of the difference to the best rate that comes from the examples of the
        validation set; None where that isn't known.
    """

    final: np.ndarray
    start: np.ndarray
    start_error: np.ndarray
    run_error: np.ndarray
    unsafe: np.ndarray
    batch_z: np.ndarray | None = None
    sampling_error: np.ndarray | None = None

    def of(self, rates: np.ndarray) -> "Scores":
        """Those of some rates."""
        by_rate = {name: getattr(self, name) for name in ("final", "run_error", "unsafe", "batch_z", "sampling_error")}
        return dataclasses.replace(self, **{name: None if x is None else x[rates] for name, x in by_rate.items()})

    @property
    def mean(self) -> np.ndarray:
        """[rates]: over the seeds; nan where one didn't go to the end."""
        return self.final.mean(axis=1)

    @property
    def untrained(self) -> float:
        """The mean of `start`; nan where that isn't known."""
        return float(np.nanmean(self.start)) if np.isfinite(self.start).any() else float("nan")

    def noise(self, best: int) -> np.ndarray:
        """[rates]: the standard error of the difference of the mean to the best: seed by seed, since runs of one seed
        begin at the same parameters; with one seed from the runs themselves, or the validation set."""
        difference = self.final - self.final[best]
        seeds = self.final.shape[1]
        within = np.sqrt(np.sum(self.run_error**2 + self.run_error[best] ** 2, axis=1)) / seeds
        with np.errstate(invalid="ignore"):
            between = difference.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(difference))
        sampling = 0.0 if self.sampling_error is None else self.sampling_error
        return np.fmax(np.fmax(np.where(np.isfinite(between), between, 0.0), within), sampling)

    def as_good(self, best: int, tolerance: float = AS_GOOD) -> np.ndarray:
        """bool [rates]: those whose mean is above the best by no more than a part of what training took off and a tenth
        of the best, or by no more than the noise of the difference and a fifth of the best, if that is positive."""
        with np.errstate(invalid="ignore"):
            worse = self.mean - self.mean[best]
            fall = np.fmax(self.untrained - self.mean[best], 0.0)
            size = self.mean[best] if self.mean[best] > 0 else np.inf
            small = worse <= min(tolerance * fall, (WORSE - 1) * size)
            return small | (worse <= np.minimum(self.noise(best), (NOISY - 1) * size))

    def is_safe_and_good(self, best: int, tolerance: float = AS_GOOD) -> np.ndarray:
        """bool [rates]: those that are as good, but for what is next to an unsafe rate."""
        return self.as_good(best, tolerance) & ~self.is_edge

    @property
    def is_edge(self) -> np.ndarray:
        """bool [rates]: those whose upper neighbor is unsafe."""
        return np.append(self.unsafe[1:], False)

    def expected(self, rates: np.ndarray) -> np.ndarray:
        """[rates]: the mean to be expected of other seeds; nan where not all went to the end.

        Seeds differ in the rate at which training becomes unstable, so a few can all do well where another one fails.
        Therefore a rate is expected to do what the next higher one does with the probability (rate / higher)^SHIFT, and
        that one in turn what is expected of the one after it. The worst that is reckoned with is no training, also for
        what is unsafe. SHIFT was chosen on recorded runs of small models, on which 5.2 to 7 do about as well.
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
        """The rate that can be expected to be the best with other seeds, but no further below the one with the lowest
        mean than the next; or than the second next, where that one is not known with all seeds and more than a slight
        difference is expected."""
        lowest, expected = int(np.nanargmin(self.mean)), self.expected(rates)
        known = [r for r in range(max(lowest - 2, 0), lowest) if np.isfinite(expected[r])]
        if not np.isfinite(expected[lowest]) or not known:
            return lowest
        nearest = known[-1]
        if nearest == lowest - 2 and expected[lowest] - expected[nearest] <= SLIGHT * abs(self.untrained):
            return lowest
        return max(int(np.nanargmin(expected)), nearest)

    def band(self, best: int, tolerance: float = AS_GOOD) -> tuple[int, int]:
        """(first, last) of the rates around the best that are as good, each of them: nothing is bridged, and what is
        next to an unsafe rate is left out."""
        good = self.is_safe_and_good(best, tolerance)
        first = last = best
        while first > 0 and good[first - 1]:
            first -= 1
        while last < len(good) - 1 and good[last + 1]:
            last += 1
        return first, last

    @property
    def went_to_end(self) -> np.ndarray:
        """Those of which some run did."""
        return np.flatnonzero(~np.isnan(self.final).all(axis=1))

    def fall(self, rate: int) -> float:
        """What training at a rate takes off, with the seeds that went to the end; nan where the start isn't known."""
        known = ~np.isnan(self.final[rate])
        start = self.start[known & np.isfinite(self.start)]
        return float(start.mean() - self.final[rate, known].mean()) if len(start) else float("nan")

    def gain(self, rate: int) -> float:
        """How clearly a rate ends better than without training: in standard errors of both, of which CLEAR are clear;
        below 0 where it ends worse, inf where the start isn't known.

        A few large losses make the error of a mean large, so the batches are compared one by one too: the run and its
        control saw the same ones.
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
        """Whether it ends clearly better than without training."""
        return self.gain(rate) > CLEAR

    def does_harm(self, rate: int) -> bool:
        """Whether it ends clearly and much worse than without training."""
        return self.gain(rate) < -CLEAR and not self.fall(rate) > -HARM * abs(self.untrained)

    def open_ends(self, best: int) -> tuple[bool, bool]:
        """Whether rates (below, above) those that went to the end may do better than the best of these: it is the
        lowest or the highest of them, or nothing was learned while the highest does no harm or the lowest does some."""
        went, learned = self.went_to_end, self.has_learned(best)
        low, high = int(went[0]), int(went[-1])
        is_changed = not abs(self.fall(low)) <= SLIGHT * abs(self.untrained)
        below = best == low if learned else is_changed and (best == low or self.fall(low) < 0)
        above = best == high if learned else not self.does_harm(high)
        return bool(low > 0 and below), bool(high < len(self.final) - 1 and above)

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

    def far_apart(self, best: int) -> tuple[float, float] | None:
        """(lowest, highest) of the seeds at the best rate, where they differ by more than APART times; else None."""
        low, high = float(self.final[best].min()), float(self.final[best].max())
        is_rounding = high - low <= ROUNDING * abs(self.untrained)
        return (low, high) if low >= 0 and high > APART * low and not is_rounding else None


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


def signed_rank(falls: np.ndarray) -> float:
    """The z-value of Wilcoxon's signed-rank test of [seeds, batches]: how sure it is that most batches are above 0, or,
    below 0, that most are below. Of the seeds, which may see the same batches, the mean is taken over those that are
    known."""
    known = np.isfinite(falls)
    falls = np.where(known, falls, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    falls = falls[falls != 0]
    ranks = np.abs(falls).argsort().argsort() + 1.0
    return float(np.sum(np.sign(falls) * ranks) / np.sqrt(np.sum(ranks**2))) if len(falls) else 0.0


def is_tied(scores: np.ndarray) -> bool:
    """Whether all scores are the same, to rounding: no update has told the rates apart."""
    finite = scores[np.isfinite(scores)]
    return len(finite) > 1 and bool(np.ptp(finite) <= ROUNDING * np.abs(finite).max(initial=0.0))


def first_not_finite(losses: np.ndarray) -> int | None:
    """The first step whose loss is not finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None


def data_words(seed: int, step: int) -> str:
    return (
        f"The loss is not finite on some batches at any rate, also without training: batch {step:,} of seed {seed}. "
        "No rate can mend that: look at the data, or at the loss."
    )
