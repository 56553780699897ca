"""The best rate for a run of a given length, for a part of what a full grid costs."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any, cast

import numpy as np
from jax.sharding import Mesh

from lrjax.search.halving import GRID, Halving
from lrjax.search.judge import Scores, signed_rank, standard_error
from lrjax.search.outcome import SamplingError, control_of, failure_of, limits, scores, start_metric
from lrjax.search.settings import at_rate, notes_of
from lrjax.search.sweep import SAME_SEEDS, positive_number
from lrjax.search.verdict import Verdict, verdict
from lrjax.training.batches import check_repeatable, distinct_seeds
from lrjax.training.checkpoint import Checkpoint, identity
from lrjax.training.divergence import ABOVE, control_windows
from lrjax.training.engine import Engine, Runs, Show, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, is_interrupted, note_interrupted
from lrjax.training.kept import Kept
from lrjax.training.loop import show_controls
from lrjax.training.program import Carry
from lrjax.training.progress import SweepWords, bar
from lrjax.training.record import tail_steps
from lrjax.training.sharding import RUNS, runs_mesh
from lrjax.training.task import Task
from lrjax.training.train import Run, check_task, interval, made_run, run_length, seed_list
from lrjax.transforms.base import TransformationLike
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
    optimizer: TransformationLike | Callable[..., Any],
    *,
    steps: int | None = None,
    low: float = 1e-7,
    high: float = 10.0,
    budget: float = 0.25,
    seeds: int | Sequence[int] = 3,
    eval_every: int | None = None,
    mesh: Mesh | None = None,
    diverged_above: float = ABOVE,
    checkpoint: str | PathLike[str] | None = None,
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
      checkpoint: a folder (extra: checkpoint), where the search is saved as `sweep` is.
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
    rates = np.geomspace(low, high, GRID)
    make = at_rate("tune", optimizer, steps, rates)
    search = _Search(task, make, steps, rates, seed_numbers, interval("tune", eval_every), mesh, checkpoint is not None)
    search.run(budget, above, progress, checkpoint)
    notes = (*notes_of(make), *(() if seed_numbers == given else (SAME_SEEDS,)))
    return search.result(optimizer, above, notes)


class _BestSeeds(Kept):
    """Of runs at their end what they trained, on the host: at each rate that of the best seed."""

    def __init__(self, engine: Engine):
        super().__init__(engine, None, np.full(engine.count, -1))

    def at_rate(self, place: int) -> tuple[int, Carry] | None:
        """(the run, what it carried)."""
        return next(((run, carry) for run, carry in self.carried.items() if run % GRID == place), None)

    def finish_runs(self, runs: np.ndarray) -> None:
        found = scores(self._engine, np.append(runs, list(self.carried)).astype(int))
        score = dict(zip([*runs.tolist(), *self.carried], found.tolist(), strict=True))
        for run in runs.tolist():
            before = next((other for other in self.carried if other % GRID == run % GRID), None)
            if before is None or score[run] < score[before]:
                if before is not None:
                    del self.carried[before]
                self.carried[run] = self._engine.waves.carried_by(run)


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
        hashed: bool,
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
        options = {"eval_every": eval_every, "mesh": mesh, "hashed": hashed}
        self.engine = Engine("tune", task, runs, steps, **options)
        self.interrupted = False
        self.saved: Checkpoint | None = None
        # what the search has found so far, and the step that the runs in training have reached; how much of it is used
        self.noted, self.at = {"found": [], "step": 0}, 0
        self.kept = _BestSeeds(self.engine)
        self.sampling = SamplingError(self.engine, lambda rate: self.kept.at_rate(int(self.place_of[rate])))

    def run(self, budget: float, above: float, progress: bool, checkpoint: Any) -> None:
        engine, count = self.engine, len(self.seeds)
        together, total = 2 * engine.program.wave_size, round(budget * GRID * count * engine.steps, 6)
        rates = np.append(np.tile(self.rates[self.order], count), np.zeros(count))
        with ExitStack() as stack:
            stack.enter_context(handling_signals())
            show = stack.enter_context(bar(int(total), SweepWords(engine, rates), progress))
            if checkpoint is not None:
                names = {"learning_rates": self.rates.tolist(), "budget": budget, **identity(engine)}
                self.saved = stack.enter_context(closing(Checkpoint("tune", checkpoint, names)))
                self.noted = self.saved.restore(engine, self.kept) or self.noted
            windows = control_windows(engine.steps)
            self._once(lambda: [show_controls(engine, *window) or 0 for window in windows])
            self.spent = count * sum(end - begin for begin, end in windows)

            def advance(some: np.ndarray, seed: int, begin: int, end: int) -> Any:
                runs = seed * GRID + self.place_of[some]
                finite = self._once(lambda: self._train(runs, begin, end, show))
                record = engine.record
                metric = next((x[runs, end - 1] for x in record.metrics.values()), None)
                score = None if metric is None else engine.task.score(metric)
                return record.losses[runs, begin:end], score, finite.astype(bool)

            def drop(some: np.ndarray) -> np.ndarray:
                gone = self._once(lambda: engine.drop(self.place_of[some]).tolist()).astype(int)
                return np.asarray(self.order)[gone[gone < GRID]]

            limit, total = control_of(engine).limit(above), total - self.spent
            self.halving = Halving(advance, engine.steps, count, total, limit, drop, together, self._scores)
            try:
                self.halving.search()
            except Interrupted:
                self.interrupted = True
            else:
                self._save(0, last=True)

    def _once(self, compute: Callable[[], list[Any]]) -> np.ndarray:
        """What `compute` finds, or what it found before a checkpoint was saved: the search takes the same course."""
        if self.at == len(self.noted["found"]):
            found = compute()
            self.noted = {"found": [*self.noted["found"], found], "step": 0}
        self.at += 1
        return np.asarray(self.noted["found"][self.at - 1])

    def _train(self, runs: np.ndarray, begin: int, end: int, show: Show) -> list[int]:
        """Trains some runs, on from where a checkpoint was saved; whether the parameters of each are finite."""
        engine, active = self.engine, np.zeros(self.engine.count, bool)
        active[runs] = True
        if max(begin, self.noted["step"]) == 0:
            engine.waves.line_up(runs)
        waves, begin = engine.waves.containing(runs), max(begin, self.noted["step"])
        engine.advance(active, waves, begin, end, show, self._save)
        engine.settle()
        if end == engine.steps:
            self.kept.finish_runs(runs)
            engine.drop(runs)
        return engine.record.finite[runs].astype(int).tolist()

    def _save(self, step: int, last: bool = False) -> None:
        """After this step of the runs that are trained now."""
        if self.saved is not None and self.saved.is_due(last or is_interrupted()):
            self.engine.settle()
            self.engine.record.position[1] = step
            self.saved.save(self.engine, self.kept, list(self.engine.waves.carried), {**self.noted, "step": step})

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
            index, carry = cast(tuple[int, Carry], self.kept.at_rate(int(self.place_of[found.best])))
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
            of_fall = self._once(lambda: self.sampling.of_fall(final).tolist())  # other models were kept then
            between = self.sampling.between(final) if at_end else None
            return Scores(final, start[:seeds], of_fall, error, halving.unsafe, None, between)
        tail = tail_steps(engine.steps)
        for seed in range(seeds):
            error[ended[:, seed], seed] = standard_error(halving.losses[ended[:, seed], seed, -tail:])
        batch_z = np.array([signed_rank(fall) for fall in control.fall(halving.losses)])
        return Scores(final, control.mean[:seeds], control.error[:seeds], error, halving.unsafe, batch_z)


def _steps_words(count: float) -> str:
    return f"{int(count):,} step{'' if int(count) == 1 else 's'}"
