"""What a search says in words, and when it must say that it doesn't know."""

import dataclasses

import numpy as np

from lrjax.search.judge import Scores, is_tied


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answer, or why there is none."""

    words: str
    best: int | None  # of the rates; None where no rate can be recommended
    band: tuple[int, int] | None  # (first, last) of the rates that do as well


def verdict(
    rates: np.ndarray,
    scores: Scores,
    diverged: np.ndarray,
    failure: str | None,
    metric: str | None,
    edges: tuple[int, int],
    careful: bool = False,
) -> Verdict:
    """Judges whole runs.

    Args:
      rates: [rates], ascending.
      scores: of the runs.
      diverged: bool [rates, seeds].
      failure: what is wrong with the data, in words, if anything is.
      metric: the name of the metric that decides; None for the training loss.
      edges: the rates beyond which nothing is known.
      careful: whether the best is the rate that can be expected to be the best with other seeds.
    """
    nothing = lambda words: Verdict(words, None, None)
    mean = scores.mean
    if not np.isfinite(mean).any():
        if failure is not None:
            return nothing(failure)
        if metric is not None and not diverged.all():
            return nothing(_metric_words(metric, scores))
        return nothing(f"Everything diverged: try rates below {rates[0]:.3g}.")
    best = scores.careful_best(rates) if careful else int(np.nanargmin(mean))
    tried = np.flatnonzero(~np.isnan(mean))
    if len(tried) > 1 and is_tied(mean[tried]):
        return nothing("Cannot tell the rates apart: all of them end at the same " + (metric or "loss") + ".")
    if scores.learned(best) < 1:
        ends, start = _number(abs(mean[best])), _number(abs(np.nanmean(scores.start)))
        what = metric or "loss"
        return nothing(
            f"Nothing was learned: the {what} ends at {ends} at the best rate, {rates[best]:.3g}, and is {start} "
            "without training."
        )
    first, last = scores.band(best)
    words = _answer(rates, best, first, last, tried, edges)
    own = scores.disagree(best)
    if own is not None:
        listed = ", ".join(f"{rates[i]:.3g}" for i in own)
        words = f"The seeds disagree: the best rates of each are {listed}. Over all of them it is {rates[best]:.3g}."
    apart = scores.far_apart(best)
    if apart is not None:
        words += f" Unsure: its seeds end from {_number(apart[0])} to {_number(apart[1])}; another may end higher."
    return Verdict(words if failure is None else f"{words} But: {failure}", best, (first, last))


def _answer(rates: np.ndarray, best: int, first: int, last: int, tried: np.ndarray, edges: tuple[int, int]) -> str:
    at = f"{rates[best]:.3g}"
    if len(rates) == 1:
        return f"One rate, {at}, and nothing to compare it with."
    if (first, last) == edges:
        return f"Any of these rates will do: the best, {at}, is no better than the noise or 5 % of the fall."
    if best in edges:
        return f"The best rate, {at}, is at the edge of the range: widen it."
    if first == last:
        return f"Found: {at}; none of the others does as well."
    return f"Found: {at}; from {rates[first]:.3g} to {rates[last]:.3g} does as well."


def _metric_words(metric: str, scores: Scores) -> str:
    if not np.isfinite(scores.start).any():
        return f"{metric} is not finite at any rate, also without training: no rate can mend that."
    return f"{metric} is not finite after training at any rate: no rate can be recommended."


def _number(x: float) -> str:
    return f"{x:.3g}"
