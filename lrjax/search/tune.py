"""Searches the best rate for runs of a given length, for a part of the cost of a full grid: `tune`."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from typing import Any, cast

import numpy as np
from jax.sharding import Mesh

from lrjax.search.halving import GRID, Halving
from lrjax.search.judge import Scores, signed_rank, standard_error
from lrjax.search.outcome import SamplingError, control_of, data_failure, divergence_limits, final_scores, start_metric
from lrjax.search.settings import notes_of, optimizer_factory
from lrjax.search.sweep import SAME_SEEDS, positive_number
from lrjax.search.verdict import Verdict, verdict
from lrjax.training.batches import check_repeatable, distinct_seeds
from lrjax.training.checkpoint import Checkpoint, fingerprint
from lrjax.training.divergence import DIVERGED_ABOVE, control_windows
from lrjax.training.engine import Engine, Show, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, is_interrupted, warn_interrupted
from lrjax.training.kept_models import KeptModels
from lrjax.training.loop import run_controls
from lrjax.training.program import Carry
from lrjax.training.progress import SweepStatus, progress_bar
from lrjax.training.record import tail_steps
from lrjax.training.result import Run, build_run
from lrjax.training.runs import Runs
from lrjax.training.sharding import RUNS, runs_mesh
from lrjax.training.task import Task
from lrjax.training.train import check_task, eval_interval, run_length, seed_list
from lrjax.transforms.base import TransformationLike
from lrjax.value import bad_argument


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TuneResult:
    """The result of `tune`. `final` is nan where a rate was given up early; inf, or −inf where higher is better, where
    it diverged.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda w, x: jnp.mean((w * x - 3.0 * x) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(()), jnp.ones((60, 4)), stacked=True)
    >>> found = lrjax.tune(task, lrjax.sgd(0.1), high=0.01)
    >>> found.verdict
    'The best rate, 0.01, is at the edge of the range: widen it.'
    """

    learning_rate: float  # the best; nan where none can be recommended
    low: float  # from `low` to `high` all rates that were tried do as well, up to noise or 5 % of the fall
    high: float
    verdict: str  # the result in words
    learning_rates: np.ndarray  # [25]: all that were tried
    losses: np.ndarray  # [25, seeds, steps]: before each update; nan where a run made none
    final: np.ndarray  # [25, seeds]: the deciding metric or the loss at the end of each run
    diverged: np.ndarray  # bool [25, seeds]
    metric: str | None  # the name of the metric that decides; None where the training loss does
    mode: str  # "min" or "max": whether lower or higher is better
    start: float  # the deciding metric or the loss without training
    steps_spent: int  # updates of all runs
    grid_steps: int  # updates of full-length runs at all rates with all seeds
    notes: tuple[str, ...]
    run: Run | None  # the run at the best rate, with its model; None where no rate can be recommended

    def __repr__(self) -> str:
        return f"TuneResult({self.losses.shape[2]} steps: {self.verdict})"

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each rate: its steps, and its mean metric or loss, None where it wasn't finished."""
        steps_made = (~np.isnan(self.losses)).sum(axis=2).max(axis=1)
        name = self.metric or "loss"
        rows = []
        for rate, steps, final in zip(self.learning_rates, steps_made, self.final, strict=True):
            finished = final[~np.isnan(final)]
            mean = float(finished.mean()) if len(finished) else None
            rows.append({"learning_rate": float(rate), "steps": int(steps), "seeds": len(finished), name: mean})
        return rows

    def plot(self, ax: Any = None) -> Any:
        """Plots loss over rate with matplotlib (extra: plot): finished runs, in grey the last losses of the others, and
        the rates that do as well shaded. Returns the axes."""
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
    diverged_above: float = DIVERGED_ABOVE,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> TuneResult:
    """Finds the best rate for training `steps` steps with this optimizer and shape of schedule, and the model trained
    with it.

    25 rates from `low` to `high` start with one seed. After a tenth of the run nine around the best continue; after a
    third every other one of these, to the end; then the neighbours of the best, and the best few with the other seeds.
    Every run uses the full-length schedule, so that a rate is judged by its final loss, and not by a short run, whose
    best rate is another. Where the best finished rate is the highest or the lowest, or none has learned anything, rates
    further out follow while the budget lasts; if it ends too early, the verdict says so.

    It picks the rate with the best expected mean for other seeds: since seeds differ in where training becomes
    unstable, that is a lower rate than the best of these seeds where higher ones do much worse. If no update is made in
    the first tenth, it trains longer; if all rates are tied, if nothing is learned, if the budget is too small, or if
    the loss of the data is not finite at any rate, the verdict says so instead.

    Args:
      task: the model, loss and data, which can be iterated again.
      optimizer: a value with a `learning_rate`, which is replaced; a schedule is scaled to another peak. Or a function
        from the rate to a transformation, lrjax's or Optax's, which may use a schedule.
      steps: of the training that the rate is for. Default: those of the task, or the number of batches.
      low, high: the range of rates.
      budget: the most updates, as a fraction of full-length runs at all 25 rates with all seeds.
      seeds: how many runs of the best rates, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics.
      mesh: the devices; default: all.
      diverged_above: as for `sweep`.
      checkpoint: a folder (extra: checkpoint) to save to, as for `sweep`.
      progress: whether to show a bar, as for `sweep`.

    Raises:
      ValueError: an argument is invalid.

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
    make_optimizer, every = optimizer_factory("tune", optimizer, steps, rates), eval_interval("tune", eval_every)
    search = _Search(task, make_optimizer, steps, rates, seed_numbers, every, mesh, checkpoint is not None)
    search.run(budget, above, progress, checkpoint)
    notes = (*notes_of(make_optimizer), *(() if seed_numbers == given else (SAME_SEEDS,)))
    return search.result(optimizer, above, notes)


class _BestSeeds(KeptModels):
    """Keeps the finished run of the best seed at each rate, on the host."""

    def __init__(self, engine: Engine):
        super().__init__(engine, None, np.full(engine.count, -1))

    def at_position(self, position: int) -> tuple[int, Carry] | None:
        """Returns (run, carry) of the best seed at the rate with this position in `_Search.order`."""
        return next(((run, carry) for run, carry in self.carried.items() if run % GRID == position), None)

    def finish_runs(self, runs: np.ndarray) -> None:
        """Keeps those of the runs that are better than the ones kept before."""
        scores = final_scores(self._engine, np.append(runs, list(self.carried)).astype(int))
        score = dict(zip([*runs.tolist(), *self.carried], scores.tolist(), strict=True))
        for run in runs.tolist():
            previous = next((other for other in self.carried if other % GRID == run % GRID), None)
            if previous is None or score[run] < score[previous]:
                if previous is not None:
                    del self.carried[previous]
                self.carried[run] = self._engine.waves.carry_of(run)


class _Search:
    """Runs the search of `tune` on an engine, whose runs are the rates in `order` for each seed, then the controls."""

    def __init__(
        self,
        task: Task,
        make_optimizer: Any,
        steps: int,
        rates: np.ndarray,
        seeds: tuple[int, ...],
        eval_every: int | None,
        mesh: Mesh | None,
        hashed: bool,
    ):
        self.rates, self.seeds, count = rates, seeds, len(seeds)
        # a wave takes every other rate, since those are trained to the end together
        wave = runs_mesh("tune", mesh, task.run_sharding is not None, GRID).shape[RUNS]
        self.order = sorted(range(GRID), key=lambda rate: (rate // (2 * wave), rate % 2, rate))
        self.position_of = np.argsort(self.order)
        ordered = rates[self.order].astype(np.float32)
        hyperparams = np.append(np.tile(ordered, count), np.zeros(count, np.float32))
        seed_index = np.append(np.arange(count).repeat(GRID), np.arange(count)).astype(np.int32)
        is_control = np.arange(len(seed_index)) >= GRID * count
        runs = Runs(make_optimizer, hyperparams, seeds, seed_index, is_control, GRID)
        options = {"eval_every": eval_every, "mesh": mesh, "hashed": hashed}
        self.engine = Engine("tune", task, runs, steps, **options)
        self.interrupted = False
        self.saver: Checkpoint | None = None
        # the results of all computations of the search so far, and the step that the runs in training have reached
        self.history, self.replayed = {"results": [], "step": 0}, 0
        self.kept = _BestSeeds(self.engine)
        self.sampling = SamplingError(self.engine, lambda rate: self.kept.at_position(int(self.position_of[rate])))

    def run(self, budget: float, above: float, progress: bool, checkpoint: Any) -> None:
        engine, count = self.engine, len(self.seeds)
        together, total = 2 * engine.program.wave_size, round(budget * GRID * count * engine.steps, 6)
        rates = np.append(np.tile(self.rates[self.order], count), np.zeros(count))
        with ExitStack() as stack:
            stack.enter_context(handling_signals())
            show = stack.enter_context(progress_bar(int(total), SweepStatus(engine, rates), progress))
            if checkpoint is not None:
                names = {"learning_rates": self.rates.tolist(), "budget": budget, **fingerprint(engine)}
                self.saver = stack.enter_context(closing(Checkpoint("tune", checkpoint, names)))
                self.history = self.saver.restore(engine, self.kept) or self.history
            windows = control_windows(engine.steps)
            self._replay_or_run(lambda: [run_controls(engine, *window) or 0 for window in windows])
            self.control_steps = count * sum(end - begin for begin, end in windows)

            def advance(indices: np.ndarray, seed: int, begin: int, end: int) -> Any:
                runs = seed * GRID + self.position_of[indices]
                finite = self._replay_or_run(lambda: self._train(runs, begin, end, show))
                record = engine.record
                metric = next((x[runs, end - 1] for x in record.metrics.values()), None)
                score = None if metric is None else engine.task.score(metric)
                return record.losses[runs, begin:end], score, finite.astype(bool)

            def drop(indices: np.ndarray) -> np.ndarray:
                dropped = self._replay_or_run(lambda: engine.drop(self.position_of[indices]).tolist()).astype(int)
                return np.asarray(self.order)[dropped[dropped < GRID]]

            limit, budget_steps = control_of(engine).limit(above), total - self.control_steps
            self.halving = Halving(advance, engine.steps, count, budget_steps, limit, drop, together, self._scores)
            try:
                self.halving.search()
            except Interrupted:
                self.interrupted = True
            else:
                self._save(0, last=True)

    def _replay_or_run(self, compute: Callable[[], list[Any]]) -> np.ndarray:
        """Calls `compute`, or returns its result from before a restored checkpoint, so that the search repeats its
        decisions."""
        if self.replayed == len(self.history["results"]):
            result = compute()
            self.history = {"results": [*self.history["results"], result], "step": 0}
        self.replayed += 1
        return np.asarray(self.history["results"][self.replayed - 1])

    def _train(self, runs: np.ndarray, begin: int, end: int, show: Show) -> list[int]:
        """Trains some runs, from where a checkpoint was saved. Returns whether the parameters of each are finite."""
        engine, active = self.engine, np.zeros(self.engine.count, bool)
        active[runs] = True
        if max(begin, self.history["step"]) == 0:
            engine.waves.make_contiguous(runs)
        waves, begin = engine.waves.waves_of(runs), max(begin, self.history["step"])
        engine.advance(active, waves, begin, end, show, self._save)
        engine.read_pending()
        if end == engine.steps:
            self.kept.finish_runs(runs)
            engine.drop(runs)
        return engine.record.finite[runs].astype(int).tolist()

    def _save(self, step: int, last: bool = False) -> None:
        """Saves a checkpoint, if due, after a step of the runs that are trained now."""
        if self.saver is not None and self.saver.is_due(last or is_interrupted()):
            self.engine.read_pending()
            self.engine.record.position[1] = step
            self.saver.save(self.engine, self.kept, list(self.engine.waves.carried), {**self.history, "step": step})

    def result(self, optimizer: Any, above: float, notes: tuple[str, ...]) -> TuneResult:
        engine, halving, task = self.engine, self.halving, self.engine.task
        if self.interrupted:
            words = f"{(halving.steps_done == engine.steps).any(axis=1).sum()} rates were trained to the end so far."
            notes = (*notes, warn_interrupted("tune", words))
        by_rate = np.arange(len(self.seeds))[:, None] * GRID + self.position_of
        failure = data_failure(engine, by_rate.ravel())
        scores = self._scores(is_last=True)
        seeds = scores.final.shape[1]
        metric = next(iter(task.metrics), None)
        finished = halving.steps_done == engine.steps
        if halving.budget_steps < halving.min_steps:
            answer = Verdict(self._budget_words(), None, None)
        elif halving.tied:
            after = _steps_words(halving.steps_done[:, 0].max())
            answer = Verdict(f"Cannot tell: after {after} the {metric or 'loss'} is the same at all rates.", None, None)
        elif self.interrupted and not finished.any():
            answer = Verdict("Interrupted before a rate was trained to the end: nothing can be said.", None, None)
        else:
            answer = verdict(self.rates, scores, halving.diverged[:, :seeds], failure, metric, (0, GRID - 1), True)
        if self.interrupted and answer.best is not None:
            answer = dataclasses.replace(answer, words=f"Interrupted, so this is not settled. {answer.words}")
        first, last = answer.band or (None, None)
        rate = lambda i: float("nan") if i is None else float(self.rates[i])
        sign, final = (-1 if metric and task.metrics[metric].mode == "max" else 1), np.full(halving.score.shape, np.nan)
        final[finished] = sign * halving.score[finished]
        start = scores.start
        run = None
        if answer.best is not None:
            index, carry = cast(tuple[int, Carry], self.kept.at_position(int(self.position_of[answer.best])))
            limit = float(divergence_limits(engine, np.array([index]), above)[0])
            words = repr(engine.runs.make_optimizer(rate(answer.best))) if dataclasses.is_dataclass(optimizer) else (
                f"{getattr(optimizer, '__name__', 'optimizer')}({rate(answer.best):.3g})")  # fmt: skip
            run = build_run(engine, carry, index, words, limit)
        return TuneResult(
            rate(answer.best),
            rate(first),
            rate(last),
            answer.words,
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
        """Describes a budget that is too small for a search."""
        halving, grid_steps = self.halving, GRID * len(self.seeds) * self.engine.steps
        fraction = np.ceil(100 * (self.control_steps + halving.min_steps) / grid_steps) / 100
        what = f"a budget of {fraction:.2f}" if fraction <= 1 else "more steps or seeds"
        return (
            f"Cannot tell: the budget has {_steps_words(max(halving.budget_steps, 0))}, and a search needs "
            f"{halving.min_steps:,}: {what} would do."
        )

    def _scores(self, is_last: bool = False) -> Scores:
        """Returns the scores of the finished runs, of as many seeds as any rate has; nan for the others."""
        engine, halving = self.engine, self.halving
        finished = halving.steps_done == engine.steps
        seeds = max(int(finished.sum(axis=1).max()), 1)
        final = np.where(finished[:, :seeds], halving.score[:, :seeds], np.nan)
        control, error = control_of(engine), np.zeros((GRID, seeds))
        if engine.task.metrics:
            start = engine.task.score(start_metric(engine))
            # replayed, since a restored search has other kept models than it had then
            fall_error = self._replay_or_run(lambda: self.sampling.fall_error(final).tolist())
            sampling_error = self.sampling.difference_errors(final) if is_last else None
            return Scores(final, start[:seeds], fall_error, error, halving.unsafe, None, sampling_error)
        tail = tail_steps(engine.steps)
        for seed in range(seeds):
            mask = finished[:, seed]
            error[mask, seed] = standard_error(halving.losses[mask, seed, -tail:])
        batch_z = np.array([signed_rank(fall) for fall in control.fall(halving.losses)])
        return Scores(final, control.mean[:seeds], control.error[:seeds], error, halving.unsafe, batch_z)


def _steps_words(count: float) -> str:
    return f"{int(count):,} step{'' if int(count) == 1 else 's'}"
