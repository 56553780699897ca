"""Puts the result of a search in words, or the reason why there is none."""

import dataclasses

import numpy as np

from lrjax.search.judge import SLIGHT, Scores, is_tied


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
    """Judges finished runs.

    Args:
      rates: [rates], ascending.
      scores: of the runs.
      diverged: bool [rates, seeds].
      failure: what is wrong with the data, in words, if anything is.
      metric: the name of the metric that decides; None for the training loss.
      edges: (first, last): the rates beyond which none was tried.
      careful: whether to take the rate with the best expected mean for other seeds: see `Scores.careful_best`.
    """
    nothing = lambda words: Verdict(words, None, None)
    mean, what = scores.mean, metric or "loss"
    if not np.isfinite(mean).any():
        return nothing(failure or _failed_words(rates, scores, diverged, metric))
    best = scores.careful_best(rates) if careful else int(np.nanargmin(mean))
    finished = np.flatnonzero(~np.isnan(mean))
    tied, learned = len(finished) > 1 and is_tied(mean[finished]), scores.has_learned(best)
    if tied and (np.isnan(scores.untrained) or len(finished) == len(rates) and not learned):
        return nothing(f"Cannot tell the rates apart: all of them end at the same {what}.")
    if not learned:
        return nothing(_nothing_words(rates, scores, best, what))
    first, last = scores.band(best)
    words = _answer(rates, scores, best, (first, last), edges)
    if tied and first < last:
        words = f"Any of the rates from {rates[first]:.3g} to {rates[last]:.3g} will do: they end at the same {what}."
    best_of_seeds = scores.disagree(best)
    if best_of_seeds is not None:
        listed = ", ".join(f"{rates[i]:.3g}" for i in best_of_seeds)
        words = f"The seeds disagree: the best rates of each are {listed}. Over all of them it is {rates[best]:.3g}."
    apart = scores.far_apart(best)
    if apart is not None:
        words += f" Unsure: its seeds end from {_number(apart[0])} to {_number(apart[1])}; another may end higher."
    return Verdict(words if failure is None else f"{words} But: {failure}", best, (first, last))


def _answer(rates: np.ndarray, scores: Scores, best: int, band: tuple[int, int], edges: tuple[int, int]) -> str:
    at, (first, last) = f"{rates[best]:.3g}", band
    if len(rates) == 1:
        return f"One rate, {at}, and nothing to compare it with."
    if band == edges:
        return f"Any of these rates will do: the best, {at}, is no better than the noise or 5 % of the fall."
    if best in edges:
        return f"The best rate, {at}, is at the edge of the range: widen it."
    lowest = int(np.nanargmin(scores.mean))
    ends = scores.open_ends(lowest)
    if any(ends):
        at = f"{rates[lowest]:.3g}"
        place = {(True, False): "lowest of them", (False, True): "highest of them", (True, True): "only one"}[ends]
        return f"The best of those that went to the end is {at}, the {place}: {_OTHERS[ends]} may do better."
    others = [f"{rates[i]:.3g}" for i in np.flatnonzero(scores.is_safe_and_good(best)) if i != best]
    if first == last and others:
        return f"Found: {at}; {' and '.join(others)} {'does' if len(others) == 1 else 'do'} as well."
    if first == last:
        return f"Found: {at}; none of the others does as well."
    return f"Found: {at}; from {rates[first]:.3g} to {rates[last]:.3g} does as well."


_OTHERS = {(True, False): "lower rates", (False, True): "higher rates", (True, True): "other rates"}  # (below, above)


def _nothing_words(rates: np.ndarray, scores: Scores, best: int, what: str) -> str:
    """Describes a search whose best rate ends no better than no training."""
    start, fall, ends = scores.untrained, scores.fall(best), scores.open_ends(best)
    words = (
        f"the {what} ends at {_number(abs(scores.mean[best]))} at the best rate, {rates[best]:.3g}, and is "
        f"{_number(abs(start))} without training."
    )
    if scores.gain(best) > 1:
        return f"Cannot tell whether anything was learned: {words} That may be noise."
    if any(ends):
        low, high = rates[scores.finished[[0, -1]]]
        tried = f"nothing was learned from {low:.3g} to {high:.3g}, and {_OTHERS[ends]} were not trained to the end"
        return f"Cannot tell: {tried}; {words}"
    may_be_lower = best == 0 and abs(fall) > SLIGHT * abs(start)
    return f"Nothing was learned: {words}" + (" Lower rates may learn." if may_be_lower else "")


def _failed_words(rates: np.ndarray, scores: Scores, diverged: np.ndarray, metric: str | None) -> str:
    """Describes a search in which no rate has a finite score."""
    unsafe, finished = scores.unsafe | diverged.any(axis=1), scores.finished
    if metric is not None and not unsafe[finished if len(finished) else slice(None)].all():
        if not np.isfinite(scores.start).any():
            return f"{metric} is not finite at any rate, also without training: no rate can mend that."
        return f"{metric} is not finite after training at any rate: no rate can be recommended."
    if unsafe[: finished[0] + 1 if len(finished) else None].all():
        return f"Everything diverged: try rates below {rates[0]:.3g}."
    low, high = rates[finished[[0, -1]]]
    return f"All that went to the end diverged, from {low:.3g} to {high:.3g}: lower rates may not."


def _number(x: float) -> str:
    return f"{x:.3g}"
