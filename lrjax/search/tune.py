"""The best rate for a run of a given length, for a part of what a full grid costs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lrjax.search.halving import GRID, Halving
from lrjax.search.judge import Scores, signed_rank, standard_error
from lrjax.search.outcome import SamplingError, control_of, failure_of, limits, start_metric
from lrjax.search.settings import at_rate
from lrjax.search.sweep import SAME_SEEDS, positive_number
from lrjax.search.verdict import Verdict, verdict
from lrjax.training.batches import check_repeatable, distinct_seeds
from lrjax.training.divergence import ABOVE, control_windows, final_loss
from lrjax.training.engine import Engine, Runs, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, note_interrupted
from lrjax.training.loop import show_controls
from lrjax.training.program import Carry
from lrjax.training.progress import SweepWords, bar
from lrjax.training.record import tail_steps
from lrjax.training.sharding import RUNS, runs_mesh
from lrjax.training.task import Task
from lrjax.training.train import Run, check_task, interval, made_run, run_length, seed_list
from lrjax.value import bad_argument


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TuneResult:
    """What `tune` found. A rate that was given up early has nan as its `final`; one that diverged inf, or −inf where
    higher is better.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(()), jnp.ones((60, 4)), stacked=True)
    >>> found = lrjax.tune(task, lrjax.sgd(0.1), high=0.01)
    >>> found.verdict
    'The best rate, 0.01, is at the edge of the range: widen it.'
    """

    learning_rate: float  # the best; nan where none can be recommended
    low: float  # from `low` to `high` all rates that were tried do as well, to the noise or 5 % of the fall
    high: float
    verdict: str  # in words
    learning_rates: np.ndarray  # [25]: all that were tried
    losses: np.ndarray  # [25, seeds, steps]: before each update; nan where a run made none
    final: np.ndarray  # [25, seeds]: what decides, at the end of each run
    diverged: np.ndarray  # bool [25, seeds]
    metric: str | None  # the name of the metric that decides; None where the training loss does
    mode: str  # "min" or "max": which of it is better
    start: float  # what decides, without training
    steps_spent: int  # updates of all runs
    grid_steps: int  # of all rates and seeds to the end
    notes: tuple[str, ...]
    run: Run | None  # the run at the best rate, with what it trained; None where no rate can be recommended

    def __repr__(self) -> str:
        return f"TuneResult({self.losses.shape[2]} steps: {self.verdict})"

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each rate: how far it went, and what decides, None where it didn't go to the end."""
        went = (~np.isnan(self.losses)).sum(axis=2).max(axis=1)
        name = self.metric or "loss"
        rows = []
        for rate, steps, final in zip(self.learning_rates, went, self.final, strict=True):
            known = final[~np.isnan(final)]
            mean = float(known.mean()) if len(known) else None
            rows.append({"learning_rate": float(rate), "steps": int(steps), "seeds": len(known), name: mean})
        return rows

    def plot(self, ax: Any = None) -> Any:
        """Loss over rate with matplotlib (extra: plot): whole runs, and in grey how far the others came; the rates that
        do as well are shaded. Returns the axes."""
        from lrjax.report.plots import plot_tune

        return plot_tune(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import as_html

        best = np.flatnonzero(self.learning_rates == self.learning_rate)
        return as_html(self.rows(), int(best[0]) if len(best) else None, self.verdict, self.notes)


def tune(
    task: Task,
    optimizer: Any,
    *,
    steps: int | None = None,
    low: float = 1e-7,
    high: float = 10.0,
    budget: float = 0.25,
    seeds: int | Sequence[int] = 3,
    eval_every: int | None = None,
    mesh: Mesh | None = None,
    diverged_above: float = ABOVE,
    progress: bool = True,
) -> TuneResult:
    """The best rate for training `steps` steps with this optimizer and this shape of schedule, and the model that it
    trained.

    25 rates from `low` to `high` start with one seed. After a tenth of the run nine around the best go on; after a
    third every other one of these, to the end; then the neighbours of the best, and the best few with the other seeds.
    Every run is on the whole schedule, so a rate is judged by where it ends, and not by a short run, which prefers
    other rates than a long one. So where the best is the highest or the lowest that went to the end, or none has
    learned anything, rates further out follow, as far as the budget goes; where it ends too early, the verdict says so.

    It takes the rate that can be expected to be the best with other seeds: since seeds differ in where training becomes
    unstable, that is the one below the best of these seeds where higher ones do much worse. Where no update falls into
    the first tenth, it looks longer; where nothing tells the rates apart, where nothing is learned, where the budget is
    too small, and where the data have no finite loss at any rate, it says so instead.

    Args:
      task: what is trained; its data can be gone through again.
      optimizer: a value with a `learning_rate`, which is replaced; a schedule keeps its shape and gets another peak.
        Or a function from the rate to a transformation, lrjax's or Optax's, which may put a schedule in.
      steps: of the training that the rate is for. Default: those of the task, or as many as there are batches.
      low, high: the range of rates to look at.
      budget: the most that it may cost, as a part of all 25 rates with all seeds to the end.
      seeds: how many runs of a rate that goes to the end, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics.
      mesh: the devices; default: all.
      diverged_above: as for `sweep`.
      progress: a bar, as for `sweep`.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(()), jnp.ones((60, 4)), stacked=True)
    >>> found = lrjax.tune(task, lrjax.sgd(0.1))
    >>> 0.1 < found.learning_rate < 1.0
    True
    """
    check_task("tune", task)
    check_mesh("tune", mesh)
    check_repeatable("tune", task)
    steps = run_length("tune", task, steps)
    high, number = positive_number("tune", "high", high), (int, float, np.number)
    if not (isinstance(low, number) and 0 < low < high):
        raise bad_argument("tune", "low", "a number > 0 and below `high`", low)
    if not (isinstance(budget, number) and 0.05 <= budget <= 1):
        raise bad_argument("tune", "budget", "a number from 0.05 to 1", budget)
    given, above = seed_list("tune", seeds), positive_number("tune", "diverged_above", diverged_above)
    seed_numbers = distinct_seeds(task, given)
    search = _Search(task, at_rate("tune", optimizer, steps), steps, np.geomspace(low, high, GRID), seed_numbers,
                     interval("tune", eval_every), mesh)  # fmt: skip
    search.run(budget, above, progress)
    return search.result(optimizer, above, () if seed_numbers == given else (SAME_SEEDS,))


class _Search:
    """The runs of `tune` on an engine: the rates of each seed in an order that suits the waves, then the controls."""

    def __init__(
        self,
        task: Task,
        make: Any,
        steps: int,
        rates: np.ndarray,
        seeds: tuple[int, ...],
        eval_every: int | None,
        mesh: Mesh | None,
    ):
        self.rates, self.seeds, count = rates, seeds, len(seeds)
        # a wave are every other rates, since these are what goes to the end
        wave = runs_mesh("tune", mesh, task.run_sharding is not None, GRID).shape[RUNS]
        self.order = sorted(range(GRID), key=lambda rate: (rate // (2 * wave), rate % 2, rate))
        self.place_of = np.argsort(self.order)
        ordered = rates[self.order].astype(np.float32)
        seed_index = np.append(np.arange(count).repeat(GRID), np.arange(count)).astype(np.int32)
        is_control = np.arange(len(seed_index)) >= GRID * count
        runs = Runs(
            make, np.append(np.tile(ordered, count), np.zeros(count, np.float32)), seeds, seed_index, is_control, GRID
        )
        self.engine = Engine("tune", task, runs, steps, eval_every=eval_every, mesh=mesh)
        self.interrupted = False
        self.sampling = SamplingError(self.engine, lambda rate: self.kept[int(self.place_of[rate])][1:])
        self.kept: dict[int, tuple[float, int, Carry]] = {}  # by the place of the rate: (score, run, what it carried)

    def run(self, budget: float, above: float, progress: bool) -> None:
        engine, count = self.engine, len(self.seeds)
        total = round(budget * GRID * count * engine.steps, 6)
        rates = np.append(np.tile(self.rates[self.order], count), np.zeros(count))
        with handling_signals(), bar(int(total), SweepWords(engine, rates), progress) as show:
            windows = control_windows(engine.steps)
            for window in windows:
                show_controls(engine, *window)
            self.spent = count * sum(end - begin for begin, end in windows)

            def advance(some: np.ndarray, seed: int, begin: int, end: int) -> Any:
                runs = seed * GRID + self.place_of[some]
                active = np.zeros(engine.count, bool)
                active[runs] = True
                if begin == 0:
                    engine.waves.line_up(runs)
                engine.advance(active, engine.waves.containing(runs), begin, end, show)
                engine.settle()
                record = engine.record
                metric = next((x[runs, end - 1] for x in record.metrics.values()), None)
                score = None if metric is None else engine.task.score(metric)
                if end == engine.steps:
                    self._keep(runs, final_loss(record.losses[runs]) if score is None else score)
                return record.losses[runs, begin:end], score, record.finite[runs]

            def drop(some: np.ndarray) -> np.ndarray:
                gone = engine.drop(self.place_of[some])
                return np.asarray(self.order)[gone[gone < GRID]]

            limit, together = control_of(engine).limit(above), 2 * engine.program.wave_size
            self.halving = Halving(
                advance, engine.steps, count, total - self.spent, limit, drop, together, self._scores
            )
            try:
                self.halving.search()
            except Interrupted:
                self.interrupted = True

    def _keep(self, runs: np.ndarray, score: np.ndarray) -> None:
        """Of runs at their end what they trained, on the host: at each rate that of the best seed."""
        for run, found in zip(runs.tolist(), np.where(np.isnan(score), np.inf, score), strict=True):
            before = self.kept.get(run % GRID)
            if before is None or found < before[0]:
                self.kept[run % GRID] = float(found), run, self.engine.waves.carried_by(run)
        self.engine.drop(runs)

    def result(self, optimizer: Any, above: float, notes: tuple[str, ...]) -> TuneResult:
        engine, halving, task = self.engine, self.halving, self.engine.task
        if self.interrupted:
            words = f"{(halving.done == engine.steps).any(axis=1).sum()} rates were trained to the end so far."
            notes = (*notes, note_interrupted("tune", words))
        by_rate = np.arange(len(self.seeds))[:, None] * GRID + self.place_of
        failure = failure_of(engine, by_rate.ravel())
        scores = self._scores(at_end=True)
        seeds = scores.final.shape[1]
        metric = next(iter(task.metrics), None)
        if halving.total < halving.needed:
            found = Verdict(self._budget_words(), None, None)
        elif halving.tied:
            after = _steps_words(halving.done[:, 0].max())
            found = Verdict(f"Cannot tell: after {after} the {metric or 'loss'} is the same at all rates.", None, None)
        elif self.interrupted and not (halving.done == engine.steps).any():
            found = Verdict("Interrupted before a rate was trained to the end: nothing can be said.", None, None)
        else:
            found = verdict(self.rates, scores, halving.diverged[:, :seeds], failure, metric, (0, GRID - 1), True)
        if self.interrupted and found.best is not None:
            found = dataclasses.replace(found, words=f"Interrupted, so this is not settled. {found.words}")
        first, last = found.band or (None, None)
        rate = lambda i: float("nan") if i is None else float(self.rates[i])
        sign, final = (-1 if metric and task.metrics[metric].mode == "max" else 1), np.full(halving.score.shape, np.nan)
        ended = halving.done == engine.steps
        final[ended] = sign * halving.score[ended]
        start = scores.start
        run = None
        if found.best is not None:
            _, index, carry = self.kept[int(self.place_of[found.best])]
            limit = float(limits(engine, np.array([index]), above)[0])
            words = repr(engine.runs.make(rate(found.best))) if dataclasses.is_dataclass(optimizer) else (
                f"{getattr(optimizer, '__name__', 'optimizer')}({rate(found.best):.3g})")  # fmt: skip
            run = made_run(engine, carry, index, words, limit)
        return TuneResult(
            rate(found.best),
            rate(first),
            rate(last),
            found.words,
            self.rates,
            halving.losses,
            final,
            halving.diverged,
            metric,
            "max" if sign < 0 else "min",
            float(sign * np.nanmean(start)) if np.isfinite(start).any() else float("nan"),
            int(halving.cost),
            halving.losses.size,
            notes,
            run,
        )

    def _budget_words(self) -> str:
        """Where it is too small to begin."""
        halving, whole = self.halving, GRID * len(self.seeds) * self.engine.steps
        share = np.ceil(100 * (self.spent + halving.needed) / whole) / 100
        what = f"a budget of {share:.2f}" if share <= 1 else "more steps or seeds"
        return (
            f"Cannot tell: the budget has {_steps_words(max(halving.total, 0))}, and a search needs "
            f"{halving.needed:,}: {what} would do."
        )

    def _scores(self, at_end: bool = False) -> Scores:
        """Of the rates that went to the end with the most seeds; nan of the others."""
        engine, halving = self.engine, self.halving
        ended = halving.done == engine.steps
        seeds = max(int(ended.sum(axis=1).max()), 1)
        final = np.where(ended[:, :seeds], halving.score[:, :seeds], np.nan)
        control, error = control_of(engine), np.zeros((GRID, seeds))
        if engine.task.metrics:
            start = engine.task.score(start_metric(engine))
            of_fall, between = self.sampling.of_fall(final), self.sampling.between(final) if at_end else None
            return Scores(final, start[:seeds], of_fall, error, halving.unsafe, None, between)
        tail = tail_steps(engine.steps)
        for seed in range(seeds):
            error[ended[:, seed], seed] = standard_error(halving.losses[ended[:, seed], seed, -tail:])
        batch_z = np.array([signed_rank(fall) for fall in control.fall(halving.losses)])
        return Scores(final, control.mean[:seeds], control.error[:seeds], error, halving.unsafe, batch_z)


def _steps_words(count: float) -> str:
    return f"{int(count):,} step{'' if int(count) == 1 else 's'}"
