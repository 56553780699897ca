"""The best rate for a run of a given length, for a part of what a full grid costs."""

import dataclasses
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lrjax.search.batches import as_batches
from lrjax.search.pictures import as_html, plot_tune
from lrjax.search.progress import bar
from lrjax.search.runs import Runs, programmed
from lrjax.search.settings import at_rate, seeds_of, whole_number
from lrjax.search.train import advanced
from lrjax.value import bad_argument

GRID = 25  # rates, at equal ratios

Advance = Callable[[np.ndarray, int, int, int], tuple[np.ndarray, np.ndarray | None]]


class Search:
    """Which runs go on, and how far. It knows the losses alone, so that it can be tried on any that are recorded.

    A short run prefers other rates than a long one, and with a decaying schedule a rate looks bad until it falls. So
    the first parts of the runs only tell where to look, and what is compared in the end went to the end.

    `advance(rates, seed, begin, end)` makes these steps of some runs, and returns their losses [rates, steps] and,
    where there is an evaluation, its losses [rates] after them.
    """

    def __init__(self, advance: Advance, steps: int, seeds: int, budget: float):
        self.advance, self.steps, self.seeds = advance, steps, seeds
        self.losses = np.full((GRID, seeds, steps), np.nan)
        self.score = np.full((GRID, seeds), np.inf)  # of a run as far as it is, inf where it diverged
        self.done = np.zeros((GRID, seeds), int)  # steps that a run was given
        self.total = budget * GRID * seeds * steps

    @property
    def left(self) -> float:
        """Of the budget, in whole runs; a run that diverged has cost what it took."""
        return (self.total - np.sum(~np.isnan(self.losses))) / self.steps

    def run(self, rates: Any, seed: int, until: int) -> None:
        rates = np.asarray(rates, int)
        for begin in np.unique(self.done[rates, seed]):
            some = rates[self.done[rates, seed] == begin]
            if begin < until:
                losses, evaluated = self.advance(some, seed, int(begin), until)
                self.losses[some, seed, begin:until] = losses
                self.done[some, seed] = until
                # of whole runs their end decides, as everywhere; of shorter ones more is taken, against the noise
                known = self.losses[some, seed, :until]
                score = _tail(known, 0.1 if until == self.steps else 0.3) if evaluated is None else evaluated
                self.score[some, seed] = np.where(np.isfinite(score) & np.isfinite(known[:, -1]), score, np.inf)

    def finished(self, seed: int = 0) -> np.ndarray:
        return np.flatnonzero(self.done[:, seed] == self.steps)

    def search(self) -> None:
        first = max(1, int(self.steps * min(0.1, 0.24 * self.left / GRID)))
        self.run(np.arange(GRID), 0, first)
        third = max(first, int(self.steps * 0.35))
        window = self.around_best(np.arange(GRID), min(9, int(0.45 * self.left * self.steps / max(third - first, 1))))
        self.run(window, 0, third)
        # every other one to the end, then the neighbours of the best; enough is kept for the other seeds of three
        every_other = self.around_best(window[len(window) % 2 == 0 :: 2], max(1, int(0.6 * self.left / 0.65)))
        self.run(every_other, 0, self.steps)
        reserve = 3 * (self.seeds - 1)
        while self.left - reserve >= 1:
            done = self.finished()
            best = done[np.argmin(self.score[done, 0])]
            wanted = [r for r in (best - 1, best + 1) if 0 <= r < GRID and r not in done]
            if not wanted:
                break
            costs = [(self.steps - self.done[r, 0]) / self.steps for r in wanted]
            self.run(wanted if self.left - reserve >= sum(costs) else wanted[:1], 0, self.steps)
        self.more_seeds()

    def around_best(self, rates: np.ndarray, keep: int) -> np.ndarray:
        """`keep` neighbours, with the one of the lowest score in the middle."""
        keep = min(max(keep, 1), len(rates))
        first = min(max(int(np.argmin(self.score[rates, 0])) - keep // 2, 0), len(rates) - keep)
        return rates[first : first + keep]

    def more_seeds(self) -> None:
        """For the best rates, the best one first."""
        done = self.finished()
        ranked = done[np.argsort(self.score[done, 0], kind="stable")]
        if self.seeds > 1 and np.isfinite(self.score[ranked[0], 0]):
            chosen = ranked[: max(1, min(5, int(self.left / (self.seeds - 1))))]
            for seed in range(1, self.seeds):
                if self.left >= len(chosen):
                    self.run(chosen, seed, self.steps)


@dataclasses.dataclass(frozen=True, eq=False)
class TuneResult:
    """What `tune` found. A rate that was given up early has nan as its `final`, one that diverged inf.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> found = lrjax.tune(loss_fn, jnp.zeros(()), jnp.ones((60, 4)), lrjax.sgd(0.1), steps=60, high=0.01)
    >>> found.verdict
    'The best rate, 0.01, is at the edge of the range: widen it.'
    """

    learning_rate: float  # the best; nan where none trained
    low: float  # from `low` to `high` rates do as well, to the spread over the seeds and half a step between two rates
    high: float
    verdict: str  # in words
    learning_rates: np.ndarray  # [25]: all that were tried
    losses: np.ndarray  # [25, seeds, steps]: before each update; nan where a run made none
    final: np.ndarray  # [25, seeds]: the loss of each run at its end
    diverged: np.ndarray  # bool [25, seeds]
    steps_spent: int  # updates of all runs
    grid_steps: int  # of all rates and seeds to the end

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each rate: how far it went, and its loss, None where it didn't go to the end."""
        mean, went = self.final.mean(axis=1), (~np.isnan(self.losses)).sum(axis=2).max(axis=1)
        return [
            {"learning_rate": float(rate), "steps": int(steps), "loss": None if np.isnan(loss) else float(loss)}
            for rate, steps, loss in zip(self.learning_rates, went, mean, strict=True)
        ]

    def plot(self, ax: Any = None) -> Any:
        """Loss over rate with matplotlib (extra: plot): whole runs, and in grey how far the others came; the interval
        that does as well is shaded. Returns the axes."""
        return plot_tune(self, ax)

    def _repr_html_(self) -> str:
        best = np.flatnonzero(self.learning_rates == self.learning_rate)
        return f"<p>{escape(self.verdict)}</p>{as_html(self.rows(), best[0] if len(best) else None)}"


def tune(
    loss_fn: Callable[..., Any],
    init: Any,
    batches: Any,
    optimizer: Any,
    *,
    steps: int,
    low: float = 1e-7,
    high: float = 10.0,
    budget: float = 0.25,
    seeds: int | Sequence[int] = 3,
    batch_size: int | None = None,
    eval_fn: Callable[..., Any] | None = None,
    eval_batch: Any = None,
    has_aux: bool = False,
    mesh: Mesh | None = None,
    diverged_above: float = 10.0,
    progress: bool = True,
) -> TuneResult:
    """The best rate for training `steps` steps with this optimizer and this shape of schedule.

    25 rates from `low` to `high` start with one seed. After a tenth of the run nine around the best go on; after a
    third every other one of these, to the end; then the neighbours of the best, and the best few with the other seeds.
    Every run is on the whole schedule, so a rate is judged by where it ends, and not by a short run, which prefers
    other rates than a long one.

    Args:
      loss_fn: (params, batch) -> loss; with `has_aux` (loss, anything).
      init: a tree of parameters or key -> params, as for `sweep`.
      batches: as for `sweep`, but nothing that can be gone through only once.
      optimizer: a value with a `learning_rate`, which is replaced; a schedule keeps its shape and gets another peak.
        Or a function from the rate to a transformation, lrjax's or Optax's, which may put a schedule in.
      steps: of the training that the rate is for.
      low, high: the range of rates to look at.
      budget: the most that it may cost, as a part of all 25 rates with all seeds to the end.
      seeds: how many runs of a rate that goes to the end, or a list of seeds, as for `sweep`.
      batch_size: of `batches` that are examples.
      eval_fn: (params, eval_batch) -> a loss, which decides at the end, in place of the last tenth of the losses.
      eval_batch: for `eval_fn`.
      has_aux: whether `loss_fn` returns more than the loss.
      mesh: the devices; default: all.
      diverged_above: a run has diverged when its loss is not finite, or has risen by this multiple of its first loss.
      progress: a bar, as for `sweep`.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> found = lrjax.tune(loss_fn, jnp.zeros(()), jnp.ones((60, 4)), lrjax.sgd(0.1), steps=60)
    >>> 0.1 < found.learning_rate < 1.0
    True
    """
    seed_list, steps = seeds_of("tune", seeds), whole_number("tune", "steps", steps)
    for name, number, holds, words in (
        ("low", low, lambda x: 0 < x < high, "a number > 0 and below `high`"),
        ("budget", budget, lambda x: 0.05 <= x <= 1, "a number from 0.05 to 1"),
    ):
        if not (isinstance(number, (int, float)) and holds(number)):
            raise bad_argument("tune", name, words, number)
    source = as_batches("tune", batches, batch_size, steps, seed_list)
    rates = np.geomspace(low, high, GRID)
    program = programmed(
        loss_fn=loss_fn,
        make=at_rate("tune", optimizer, steps),
        at=source.at,
        init=init if callable(init) else None,
        eval_fn=eval_fn,
        has_aux=has_aux,
        chunk=source.size,
        together=None,
        diverged_above=float(diverged_above),
        stop=True,
        mesh=mesh,
        runs=GRID,
    )
    # a wave are every other rates, since these are what goes to the end
    order = sorted(range(GRID), key=lambda rate: (rate // (2 * program.places), rate % 2, rate))
    runs = Runs(
        program,
        source,
        steps,
        np.tile(rates[order].astype(np.float32), len(seed_list)),
        init,
        seed_list,
        np.arange(len(seed_list), dtype=np.int32).repeat(GRID),
        eval_batch,
    )
    place_of = np.argsort(order)
    with bar(int(budget * runs.count * steps), np.tile(rates[order], len(seed_list)), progress) as show:

        def go(some: np.ndarray, seed: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray | None]:
            return advanced(runs, seed * GRID + place_of[some], begin, end, show)

        search = Search(go, steps, len(seed_list), budget)
        search.search()
    return _judged(rates, search)


def _tail(losses: np.ndarray, part: float) -> np.ndarray:
    """The mean over the last part of the steps."""
    return losses[..., -max(1, round(part * losses.shape[-1])) :].mean(axis=-1)


def _judged(rates: np.ndarray, search: Search) -> TuneResult:
    """The best of the rates that went to the end with the most seeds, those that do as well, and what to make of it."""
    losses, ended = search.losses, search.done == search.steps
    final = np.where(ended, search.score, np.nan)
    diverged = np.isinf(search.score) & (search.done > 0)
    seeds = int(ended.sum(axis=1).max())
    mean = np.where(ended.sum(axis=1) == seeds, final[:, :seeds].mean(axis=1), np.inf)
    nan = float("nan")
    result = lambda rate, low, high, verdict: TuneResult(
        rate, low, high, verdict, rates, losses, final, diverged, int((~np.isnan(losses)).sum()), losses.size
    )
    if not np.isfinite(losses[:, 0, 0]).any():
        return result(nan, nan, nan, "The loss was not finite at the first step: no rate can help.")
    if not np.isfinite(mean).any():
        return result(nan, nan, nan, f"Everything diverged: try rates below {rates[0]:.2g}.")
    best = int(np.argmin(mean))
    known = np.flatnonzero(np.isfinite(mean))
    worse = final[known, :seeds] - final[best, :seeds]  # seed by seed: they begin at the same parameters
    noise = np.maximum(worse.std(axis=1) / seeds**0.5, 0.01 * abs(mean[best]))
    close = worse.mean(axis=1) <= noise
    fine = rates[np.union1d(known[close], known[worse.argmin(axis=0)])]  # the best of each seed too
    half = (rates[1] / rates[0]) ** 0.5  # of what lies between two rates nothing is known
    low, high = max(float(fine.min() / half), float(rates[0])), min(float(fine.max() * half), float(rates[-1]))
    early = losses[:, 0, : int(search.done[:, 0].min())]
    early = _tail(early[np.isfinite(early).all(axis=1)], 0.3)
    if len(early) > GRID // 2 and np.ptp(early) <= noise.min() and close.all():
        verdict = "The curve is flat within the spread over the seeds: any of these rates will do."
    elif best in (0, GRID - 1):
        verdict = f"The best rate, {rates[best]:.2g}, is at the edge of the range: widen it."
    else:
        verdict = f"Found: {rates[best]:.2g}; from {low:.2g} to {high:.2g} does as well."
    return result(float(rates[best]), low, high, verdict)
