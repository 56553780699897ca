"""Which runs of a search go on, and how far."""

from collections.abc import Callable

import numpy as np

from lrjax.search.judge import Scores, is_tied
from lrjax.training.divergence import diverged, final_loss

GRID = 25  # rates, at equal ratios
WINDOW = 9  # rates that go on after the first part of a run
FEW = 2  # rates that get other seeds at least, where that is possible

# (rates, seed, begin, end) -> (their losses [rates, steps], the score of the metric that decides after them [rates] or
# None, whether their parameters are finite [rates])
Advance = Callable[[np.ndarray, int, int, int], tuple[np.ndarray, np.ndarray | None, np.ndarray]]


class Halving:
    """Gives up rates early. It knows the losses alone, so that it can be tried on any that are recorded.

    A short run prefers other rates than a long one, and with a decaying schedule a rate looks bad until it falls. So
    the first parts of the runs only tell where to look, and what is compared in the end went to the end.

    Args:
      advance: makes these steps of some runs.
      steps: of a whole run.
      seeds: how many.
      total: steps of all runs that it may cost.
      limit: [seeds]: the loss above which a run that ends there has diverged.
      drop: takes rates whose runs with the first seed are not likely to go on; returns those that would have to begin
        anew.
      together: how many rates are run together at first.
      judge: what is known of the runs that went to the end so far; by default without what there is without training.
    """

    def __init__(
        self,
        advance: Advance,
        steps: int,
        seeds: int,
        total: float,
        limit: np.ndarray | None = None,
        drop: Callable[[np.ndarray], np.ndarray] = lambda rates: rates[:0],
        together: int = GRID,
        judge: Callable[[], Scores] | None = None,
    ):
        self.advance, self.steps, self.seeds, self.total = advance, steps, seeds, total
        self.drop, self.together, self.judge = drop, together, judge or self.scores
        self.limit = np.full(seeds, np.inf) if limit is None else limit
        self.losses = np.full((GRID, seeds, steps), np.nan)
        self.score = np.full((GRID, seeds), np.inf)  # of a run as far as it is, inf where it can't go on
        self.loss = self.score.copy()  # the same, of the training loss
        self.diverged = np.zeros((GRID, seeds), bool)
        self.unsafe = np.zeros(GRID, bool)  # rates at which a run was above its limit at some stage, or not finite
        self.done = np.zeros((GRID, seeds), int)  # steps that a run was given
        self.under_way = np.zeros((GRID, seeds), int)  # the step from which it would go on
        self.cost = 0
        self.tied = False  # whether nothing told the rates apart

    @property
    def left(self) -> float:
        """Of the budget, in whole runs; a run that was left has cost what it took."""
        return (self.total - self.cost) / self.steps

    @property
    def needed(self) -> int:
        """Steps without which nothing can be said: one of each rate, and the rest of one run."""
        return GRID + self.steps - 1

    def run(self, rates: np.ndarray | list[int], seed: int, end: int) -> None:
        rates = np.asarray(rates, int)
        rates = rates[self.done[rates, seed] < end]
        for begin in np.unique(self.under_way[rates, seed]):
            some = rates[self.under_way[rates, seed] == begin]
            losses, score, finite = self.advance(some, seed, int(begin), end)
            self.losses[some, seed, begin:end] = losses
            self.done[some, seed] = self.under_way[some, seed] = end
            # a run that was left made no more steps than its last loss that is known
            self.cost += int(np.where(finite, end - begin, (~np.isnan(losses)).sum(axis=1)).sum())
            known, limit = self.losses[some, seed, :end], np.full(len(some), self.limit[seed])
            lost = diverged(known, finite, limit)
            self.unsafe[some] |= lost
            if end == self.steps:  # of whole runs their end decides; of shorter ones more is taken, against the noise
                found = final_loss(known)
            else:  # what is high may come back
                lost, found = ~finite, final_loss(known, 0.3)
            self.loss[some, seed] = np.where(np.isfinite(found), found, np.inf)
            found = found if score is None else score
            self.diverged[some, seed] = lost
            self.score[some, seed] = np.where(np.isfinite(found) & ~lost, found, np.inf)

    def finished(self, seed: int = 0) -> np.ndarray:
        return np.flatnonzero(self.done[:, seed] == self.steps)

    def search(self) -> None:
        if self.total < self.needed:
            return
        everything = np.arange(GRID)
        first = max(1, int(self.steps * min(0.1, 0.24 * self.left / GRID)))
        for begin in range(0, GRID, self.together):
            so_far = everything[: begin + self.together]
            self.run(so_far[begin:], 0, first)
            known = self.score[so_far, 0]
            if len(so_far) < GRID and not is_tied(known) and np.isfinite(known).any():
                self.give_up(so_far, np.union1d(self.around_best(so_far, WINDOW), so_far[-(WINDOW // 2) :]))
        # until something tells the rates apart, as far as the budget goes
        while is_tied(self.score[:, 0]):
            longer = min(self.steps, 2 * first, first + int(self.left * self.steps / GRID))
            if longer == first:
                self.tied = True
                return
            self.run(everything, 0, longer)
            first = longer
        if not np.isfinite(self.score[:, 0]).any():
            return
        third = max(first, int(self.steps * 0.35))
        window = self.around_best(everything, min(WINDOW, int(0.45 * self.left * self.steps / max(third - first, 1))))
        self.give_up(everything, window)
        self.run(window, 0, third)
        # every other one to the end, then the neighbours of the best; enough is kept for the other seeds of three
        every_other = self.around_best(window[len(window) % 2 == 0 :: 2], max(1, int(0.6 * self.left / 0.65)))
        self.run(every_other, 0, self.steps)
        self.refine()
        self.more_seeds()

    def scores(self) -> Scores:
        """Of the first seed, without training not known."""
        final = np.where(self.done == self.steps, self.score, np.nan)[:, :1]
        return Scores(final, np.full(1, np.nan), np.zeros(1), np.zeros(final.shape), self.unsafe)

    def refine(self) -> None:
        """Runs to the end what is further out, where that may be better, then the neighbours of the best. Of these only
        as many as leave enough for the other seeds of three rates, or of a few where it had to go further out."""
        rates_kept = 3
        while True:
            outward = self.outward()
            wanted, kept = (self.neighbours(), rates_kept) if outward is None else ([outward], 0)
            costs = np.cumsum([self.steps - self.under_way[r, 0] for r in wanted]) / self.steps
            left = self.left - kept * (self.seeds - 1)
            affordable = [r for r, cost in zip(wanted, costs, strict=True) if cost <= left]
            if not affordable:
                return
            self.run(affordable, 0, self.steps)
            rates_kept = rates_kept if outward is None else FEW

    def outward(self) -> int | None:
        """The next rate beyond those that went to the end, where it may be better: a short run can't tell how high the
        best rate is."""
        done = self.finished()
        below, above = self.judge().open_ends(self.best(done))
        if above:
            further = int(done[-1]) + 2
            return further - 1 if further == GRID or self.diverged[further, 0] else further
        return max(int(done[0]) - 2, 0) if below else None

    def neighbours(self) -> list[int]:
        """Of the best rate those that didn't go to the end."""
        done = self.finished()
        best = self.best(done)
        return [r for r in (best + 1, best - 1) if 0 <= r < GRID and r not in done]

    def best(self, rates: np.ndarray) -> int:
        """The rate with the lowest score; of several, as where a metric counts examples, that with the lowest loss."""
        return int(rates[np.lexsort((self.loss[rates, 0], self.score[rates, 0]))[0]])

    def give_up(self, rates: np.ndarray, kept: np.ndarray) -> None:
        """All of these rates but those to keep."""
        self.under_way[self.drop(np.setdiff1d(rates, kept)), 0] = 0

    def around_best(self, rates: np.ndarray, keep: int) -> np.ndarray:
        """`keep` neighbours, with the one of the lowest score in the middle."""
        keep = min(max(keep, 1), len(rates))
        best = int(np.searchsorted(rates, self.best(rates)))
        first = min(max(best - keep // 2, 0), len(rates) - keep)
        return rates[first : first + keep]

    def more_seeds(self) -> None:
        """For the best rates, the best one first; for a few at least, if need be with fewer seeds, so that what is
        compared has the same ones."""
        done = self.finished()
        ranked = done[np.argsort(self.score[done, 0], kind="stable")]
        if self.seeds > 1 and len(ranked) and np.isfinite(self.score[ranked[0], 0]):
            each, left = self.seeds - 1, int(self.left)
            chosen = ranked[: max(1, min(FEW, left), min(5, left // each))]
            for seed in range(1, self.seeds):
                if self.left >= len(chosen):
                    self.run(chosen, seed, self.steps)
