"""Successive halving over rates: decides which runs of a search continue, and for how many steps."""

from collections.abc import Callable

import numpy as np

from lrjax.search.judge import Scores, is_tied
from lrjax.training.divergence import diverged, final_loss

GRID = 25  # rates, at equal ratios
WINDOW = 9  # rates that continue after the first part of a run
FEW = 2  # rates that get other seeds at least, if the budget allows

# (rates, seed, begin, end) -> (their losses [rates, steps], the score by the deciding metric after them [rates] or
# None, whether their parameters are finite [rates])
Advance = Callable[[np.ndarray, int, int, int], tuple[np.ndarray, np.ndarray | None, np.ndarray]]


class Halving:
    """Gives up rates early. It only sees losses and scores, so that it can be tested on recorded ones.

    The best rate of a short run is not that of a long one, and with a decaying schedule a rate looks bad until it has
    decayed. So the first parts of the runs only narrow the range, and only finished runs are compared in the end.

    Args:
      advance: trains some runs for some steps.
      steps: of each run.
      seeds: how many.
      budget_steps: the most steps of all runs together.
      limit: [seeds]: the final loss above which a run has diverged.
      drop: frees runs of the first seed at rates that are unlikely to continue; returns rates that have to start again
        if they do.
      together: how many rates are trained together at first.
      judge: returns the scores of the finished runs; by default without untrained scores.
    """

    def __init__(
        self,
        advance: Advance,
        steps: int,
        seeds: int,
        budget_steps: float,
        limit: np.ndarray | None = None,
        drop: Callable[[np.ndarray], np.ndarray] = lambda rates: rates[:0],
        together: int = GRID,
        judge: Callable[[], Scores] | None = None,
    ):
        self.advance, self.steps, self.seeds, self.budget_steps = advance, steps, seeds, budget_steps
        self.drop, self.together, self.judge = drop, together, judge or self.scores
        self.limit = np.full(seeds, np.inf) if limit is None else limit
        self.losses = np.full((GRID, seeds, steps), np.nan)
        self.score = np.full((GRID, seeds), np.inf)  # of a run so far; inf where it can't continue
        self.loss = self.score.copy()  # the same by the training loss
        self.diverged = np.zeros((GRID, seeds), bool)
        self.unsafe = np.zeros(GRID, bool)  # whether a run at the rate was above its limit at some stage, or not finite
        self.steps_done = np.zeros((GRID, seeds), int)
        self.resume_at = np.zeros((GRID, seeds), int)  # the step from which a run would continue
        self.cost = 0  # steps of all runs so far
        self.tied = False  # whether all rates had the same score

    @property
    def budget_left(self) -> float:
        """The rest of the budget, in full-length runs."""
        return (self.budget_steps - self.cost) / self.steps

    @property
    def min_steps(self) -> int:
        """The fewest steps for any result: one at each rate, and the rest of one run."""
        return GRID + self.steps - 1

    def run(self, rates: np.ndarray | list[int], seed: int, end: int) -> None:
        """Trains rates with a seed up to the step `end`, and scores them."""
        rates = np.asarray(rates, int)
        rates = rates[self.steps_done[rates, seed] < end]
        for begin in np.unique(self.resume_at[rates, seed]):
            group = rates[self.resume_at[rates, seed] == begin]
            losses, score, finite = self.advance(group, seed, int(begin), end)
            self.losses[group, seed, begin:end] = losses
            self.steps_done[group, seed] = self.resume_at[group, seed] = end
            # a run that was stopped early costs only the steps whose loss was recorded
            self.cost += int(np.where(finite, end - begin, (~np.isnan(losses)).sum(axis=1)).sum())
            so_far, limit = self.losses[group, seed, :end], np.full(len(group), self.limit[seed])
            has_diverged = diverged(so_far, finite, limit)
            self.unsafe[group] |= has_diverged
            if end == self.steps:
                loss = final_loss(so_far)
            else:  # a high loss may still fall; averages over more steps, against the noise
                has_diverged, loss = ~finite, final_loss(so_far, 0.3)
            self.loss[group, seed] = np.where(np.isfinite(loss), loss, np.inf)
            score = loss if score is None else score
            self.diverged[group, seed] = has_diverged
            self.score[group, seed] = np.where(np.isfinite(score) & ~has_diverged, score, np.inf)

    def finished(self, seed: int = 0) -> np.ndarray:
        """Returns the rates whose run with a seed is finished."""
        return np.flatnonzero(self.steps_done[:, seed] == self.steps)

    def search(self) -> None:
        """Runs the search."""
        if self.budget_steps < self.min_steps:
            return
        all_rates = np.arange(GRID)
        first = max(1, int(self.steps * min(0.1, 0.24 * self.budget_left / GRID)))
        for begin in range(0, GRID, self.together):
            started = all_rates[: begin + self.together]
            self.run(started[begin:], 0, first)
            score = self.score[started, 0]
            if len(started) < GRID and not is_tied(score) and np.isfinite(score).any():
                self.give_up(started, np.union1d(self.around_best(started, WINDOW), started[-(WINDOW // 2) :]))
        # continues until the scores differ, as far as the budget allows
        while is_tied(self.score[:, 0]):
            longer = min(self.steps, 2 * first, first + int(self.budget_left * self.steps / GRID))
            if longer == first:
                self.tied = True
                return
            self.run(all_rates, 0, longer)
            first = longer
        if not np.isfinite(self.score[:, 0]).any():
            return
        third = max(first, int(self.steps * 0.35))
        affordable = int(0.45 * self.budget_left * self.steps / max(third - first, 1))
        window = self.around_best(all_rates, min(WINDOW, affordable))
        self.give_up(all_rates, window)
        self.run(window, 0, third)
        # finishes every other rate, then the neighbours of the best; reserves budget for the other seeds of three
        every_other = self.around_best(window[len(window) % 2 == 0 :: 2], max(1, int(0.6 * self.budget_left / 0.65)))
        self.run(every_other, 0, self.steps)
        self.refine()
        self.more_seeds()

    def scores(self) -> Scores:
        """Returns the scores of the first seed, without untrained ones."""
        final = np.where(self.steps_done == self.steps, self.score, np.nan)[:, :1]
        return Scores(final, np.full(1, np.nan), np.zeros(1), np.zeros(final.shape), self.unsafe)

    def refine(self) -> None:
        """Finishes the rates beyond the finished ones, where these may be better, then the neighbours of the best. Of
        the neighbours only as many as leave budget for the other seeds of three rates, or of FEW after going beyond."""
        reserved_rates = 3
        while True:
            outward = self.next_outward()
            wanted, reserved = (self.neighbours(), reserved_rates) if outward is None else ([outward], 0)
            costs = np.cumsum([self.steps - self.resume_at[r, 0] for r in wanted]) / self.steps
            available = self.budget_left - reserved * (self.seeds - 1)
            affordable = [r for r, cost in zip(wanted, costs, strict=True) if cost <= available]
            if not affordable:
                return
            self.run(affordable, 0, self.steps)
            reserved_rates = reserved_rates if outward is None else FEW

    def next_outward(self) -> int | None:
        """Returns the next rate beyond the finished ones, if it may be better: the best rate of a short run doesn't
        tell how high the best rate of a long run is."""
        finished = self.finished()
        below, above = self.judge().open_ends(self.best(finished))
        if above:
            further = int(finished[-1]) + 2
            return further - 1 if further == GRID or self.diverged[further, 0] else further
        return max(int(finished[0]) - 2, 0) if below else None

    def neighbours(self) -> list[int]:
        """Returns the neighbours of the best rate that aren't finished."""
        finished = self.finished()
        best = self.best(finished)
        return [r for r in (best + 1, best - 1) if 0 <= r < GRID and r not in finished]

    def best(self, rates: np.ndarray) -> int:
        """Returns the rate with the lowest score; of equal ones, as of an accuracy, that with the lowest loss."""
        return int(rates[np.lexsort((self.loss[rates, 0], self.score[rates, 0]))[0]])

    def give_up(self, rates: np.ndarray, keep: np.ndarray) -> None:
        """Gives up all of these rates but those to keep."""
        self.resume_at[self.drop(np.setdiff1d(rates, keep)), 0] = 0

    def around_best(self, rates: np.ndarray, count: int) -> np.ndarray:
        """Returns `count` neighbouring rates, with the best one in the middle."""
        count = min(max(count, 1), len(rates))
        best = int(np.searchsorted(rates, self.best(rates)))
        first = min(max(best - count // 2, 0), len(rates) - count)
        return rates[first : first + count]

    def more_seeds(self) -> None:
        """Trains the best rates with the other seeds: FEW at least, if need be with fewer seeds, so that all rates that
        are compared have the same seeds."""
        finished = self.finished()
        ranked = finished[np.argsort(self.score[finished, 0], kind="stable")]
        if self.seeds > 1 and len(ranked) and np.isfinite(self.score[ranked[0], 0]):
            each, runs_left = self.seeds - 1, int(self.budget_left)
            chosen = ranked[: max(1, min(FEW, runs_left), min(5, runs_left // each))]
            for seed in range(1, self.seeds):
                if self.budget_left >= len(chosen):
                    self.run(chosen, seed, self.steps)
