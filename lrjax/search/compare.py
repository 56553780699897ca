"""Trains one task with many optimizers and schedules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lrjax.hyperparameters import with_hyperparams
from lrjax.schedules.base import Schedule, constant_schedule
from lrjax.schedules.decay import tabulated_schedule
from lrjax.search.comparison import Comparison, Entry
from lrjax.search.outcome import control_of, limits, lost, scores, start_metric
from lrjax.search.settings import rate_of
from lrjax.search.sweep import SAME_SEEDS
from lrjax.search.techniques import FAMILIES, NEAR, RATES, REFERENCE, STEP, techniques
from lrjax.training.batches import check_repeatable, distinct_seeds
from lrjax.training.checkpoint import Checkpoint, check_folder, identity
from lrjax.training.divergence import Control
from lrjax.training.engine import Engine, Show, check_mesh, with_controls
from lrjax.training.interrupt import Interrupted, handling_signals, note_interrupted
from lrjax.training.kept import Kept
from lrjax.training.loop import train_to_end
from lrjax.training.progress import bar
from lrjax.training.task import Task
from lrjax.training.train import (
    Always,
    Run,
    as_number,
    check_task,
    interval,
    itself,
    made_run,
    run_length,
    seed_list,
)
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.value import NotInDomain, bad_argument

SEARCH_SEEDS = 2  # with which whole runs are searched for rates
EVALUATIONS = 40  # of a run, where it isn't said how many
_PART = "part-"  # of a checkpoint: what one engine saves
OWN = "Optimizers"  # the group of those that are given


def compare(
    task: Task,
    optimizers: Mapping[str, Any] | None = None,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] = 5,
    eval_every: int | None = None,
    target: float | None = None,
    keep: str | None = "best",
    mesh: Mesh | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Trains a task with many optimizers, from the same starts on the same batches.

    Without `optimizers` with every technique of the field, each at a rate that was found for this task: rates from
    1e-6 to 10 for each optimizer in short runs with a fixed rate, then for each schedule whole runs at rates around the
    best of these. So none loses because its rate was a guess.

    Optimizers that differ in their numbers only are one compiled program; any schedule counts as numbers.

    Args:
      task: what is trained.
      optimizers: by name, lrjax's or Optax's.
      steps: updates of each run. Default: those of the task, or as many as there are batches, where that is known.
      seeds: how many runs of each, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics. Default: 40 evaluations.
      target: what the metric that decides has to reach to count as learned. Default: nine tenths of the way from
        without training to the best of all.
      keep: which trained models to return: the "best", "all", or None.
      mesh: the devices; default: all.
      checkpoint: a folder (extra: checkpoint), where it is saved as `sweep` is.
      progress: a bar, as for `sweep`.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(8), batch_size=4, steps=40)
    >>> lrjax.compare(task, {"slow": lrjax.sgd(0.001), "fast": lrjax.sgd(0.1)}, seeds=1).steps_to_target[:, 0]
    array([inf,  7.])
    """
    check_task("compare", task)
    check_mesh("compare", mesh)
    check_repeatable("compare", task)
    steps = run_length("compare", task, steps)
    if keep not in ("best", "all", None):
        raise bad_argument("compare", "keep", '"best", "all" or None', keep)
    given = seed_list("compare", seeds)
    seed_numbers = distinct_seeds(task, given)
    every = interval("compare", eval_every) or max(1, steps // EVALUATIONS)
    own = None if optimizers is None else _own_entries(optimizers)
    listed = techniques(steps) if own is None else []
    total = len(own or listed) * len(seed_numbers) * steps
    if own is None:
        each = min(SEARCH_SEEDS, len(seed_numbers))
        total += len(FAMILIES) * len(RATES) * max(1, steps // 4) + (len(listed) - 2) * len(NEAR) * each * steps
    folder = (
        None if checkpoint is None else check_folder("compare", checkpoint, lambda item: item.name.startswith(_PART))
    )
    setup = _Setup(task, steps, seed_numbers, every, mesh, lambda run_indices, begin, end: None, folder)
    words, groups = lambda run_indices, begin, end: setup.words, []
    with handling_signals(), bar(total, words, progress) as setup.show:
        entries, how = (own, "The optimizers, and their rates, are those that were given.") if own else _searched(setup)
        try:
            for members in _programs(entries, steps):
                groups.append(_train(setup, members, keep))
        except Interrupted:
            if not groups:
                raise
    notes = () if seed_numbers == given else (SAME_SEEDS,)
    trained = sorted(i for group in groups for i in group.indices)
    if len(trained) < len(entries):
        said = f"{len(trained)} of {len(entries)} optimizers were trained to the end, and are here."
        notes = (*notes, note_interrupted("compare", said))
        entries = [entries[i] for i in trained]
        groups = [dataclasses.replace(group, indices=[trained.index(i) for i in group.indices]) for group in groups]
    return _comparison(setup, entries, groups, target, keep, how, notes)


def _own_entries(optimizers: Any) -> list[Entry]:
    words = "a dict of optimizers, lrjax's or Optax's, by name"
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise bad_argument("compare", "optimizers", words, optimizers)
    entries = []
    for name, optimizer in optimizers.items():
        try:
            entries.append(Entry(OWN, str(name), as_transformation(optimizer)))
        except NotInDomain:
            raise bad_argument("compare", "optimizers", words, {name: optimizer}) from None
    return entries


def _tabulated(optimizer: Any, steps: int) -> Any:
    """With its schedule as a table of its rates, so that any schedule is numbers to the same program."""
    rate = rate_of(optimizer)
    if isinstance(rate, (int, float)):
        rate = constant_schedule(rate)
    if not isinstance(rate, Schedule) or not isinstance(optimizer, GradientTransformation):
        return optimizer
    try:
        return with_hyperparams(optimizer, learning_rate=tabulated_schedule(np.asarray(rate(np.arange(steps)))))
    except ValueError:  # several rates, or one that is negative
        return optimizer


def _programs(entries: Sequence[Entry], steps: int) -> list[list[tuple[int, Any]]]:
    """(index, optimizer) of all entries, those that are one program together."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for i, entry in enumerate(entries):
        value = _tabulated(entry.optimizer, steps)
        leaves, structure = jax.tree.flatten(value)
        alone = not leaves or not isinstance(value, GradientTransformation)
        key = i if alone else (structure, tuple(np.shape(x) for x in leaves))
        groups.setdefault(key, []).append((i, value))
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class _Trained:
    """The runs of one program: members × seeds, then controls."""

    engine: Engine
    indices: list[int]  # of the entries
    kept: Kept


@dataclasses.dataclass
class _Setup:
    """What all runs of a comparison share."""

    task: Task
    steps: int
    seeds: tuple[int, ...]
    eval_every: int
    mesh: Mesh | None
    show: Show
    folder: Path | None  # for checkpoints, one for each engine
    words: str = ""  # what the bar says
    engines: int = 0  # so far

    def engine(
        self, values: Sequence[Any], seed_index: np.ndarray, steps: int, eval_every: int | None
    ) -> tuple[Engine, np.ndarray]:
        """(what trains the optimizers of one program with some seeds, the optimizer of each run, −1 for a control)."""
        make: Callable[[Any], Any] = itself if jax.tree.leaves(values[0]) else Always(values[0])
        numbers = jax.tree.map(lambda *xs: np.concatenate([as_number(x) for x in xs]), *values)
        if make is not itself:
            numbers = np.zeros(len(values), np.float32)
        runs, setting_of = with_controls(make, numbers, self.seeds, seed_index)
        options = {"eval_every": eval_every, "mesh": self.mesh, "hashed": self.folder is not None}
        return Engine("compare", self.task, runs, steps, **options), setting_of

    def train(self, engine: Engine, kept: Kept) -> None:
        if self.folder is None:
            train_to_end(engine, kept, self.show)
            return
        path, self.engines = self.folder / f"{_PART}{self.engines}", self.engines + 1
        with closing(Checkpoint("compare", path, identity(engine))) as saved:
            train_to_end(engine, kept, self.show, saved)


def _train(setup: _Setup, members: Sequence[tuple[int, Any]], keep: Any) -> _Trained:
    """The optimizers of one program, with all seeds."""
    setup.words = f"training with {type(members[0][1]).__name__}"
    values, all_seeds = [value for _, value in members], np.arange(len(setup.seeds))
    engine, setting_of = setup.engine(values, all_seeds, setup.steps, setup.eval_every)
    kept = Kept(engine, keep, setting_of, lambda run_indices: scores(engine, run_indices))
    setup.train(engine, kept)
    return _Trained(engine, [i for i, _ in members], kept)


def _searched(setup: _Setup) -> tuple[list[Entry], str]:
    """(every technique at the rate that was found for it, how it was found)."""
    setup.words = "looking for rates"
    steps, short, first = setup.steps, max(1, setup.steps // 4), {}
    fixed = [make(constant_schedule(float(rate))) for make in FAMILIES.values() for rate in RATES]
    found = _score_all(setup, fixed, short, 1).reshape(len(FAMILIES), len(RATES))
    for family, row in zip(FAMILIES, found, strict=True):
        first[family] = float(RATES[int(np.argmin(row))]) if np.isfinite(row).any() else float(RATES[0])
    listed = techniques(steps)
    open_ones = [t for t in listed if t.multiple in (None, 1.0)]
    near = [t.optimizer(t.shape(first[t.family] * multiple)) for t in open_ones for multiple in NEAR]
    found = _score_all(setup, near, steps, SEARCH_SEEDS).mean(axis=1).reshape(len(open_ones), len(NEAR))
    peaks = {t.name: first[t.family] * NEAR[_lowest_as_good(row)] for t, row in zip(open_ones, found, strict=True)}
    rate = lambda t: peaks[t.name] if t.name in peaks else peaks[REFERENCE] * t.multiple
    entries = [Entry(t.group, t.name, t.optimizer(t.shape(float(f"{rate(t):.3g}")))) for t in listed]
    how = (
        f"The rates were found for this task: for each optimizer the best of {len(RATES)} fixed rates from "
        f"{RATES[0]:.0e} to {RATES[-1]:.0f} in runs of {short:,} steps with one seed; then for each technique the "
        f"lowest of {len(NEAR)} peaks around it, a factor of {STEP:.2f} apart, that is as good as the best of them in "
        f"whole runs with {min(SEARCH_SEEDS, len(setup.seeds))} seeds. Too low is a 500th of the rate that was found, "
        "too high is 60 times it."
    )
    return entries, how


def _lowest_as_good(score: np.ndarray) -> int:
    """The lowest of the rates that are as good as the best, in a row up to it: to a hundredth of the range of those
    that trained, and a tenth of the best where that is positive."""
    best, finite = int(np.argmin(score)), score[np.isfinite(score)]
    allowed = 0.01 * np.ptp(finite) if len(finite) else 0.0
    allowed = min(allowed, 0.1 * score[best]) if score[best] > 0 else allowed
    while best > 0 and score[best - 1] <= score.min() + allowed:
        best -= 1
    return best


def _score_all(setup: _Setup, values: Sequence[GradientTransformation], steps: int, seeds: int) -> np.ndarray:
    """[values, seeds]: the scores of runs of so many steps with the first seeds. The programs are those of the
    comparison."""
    each = min(seeds, len(setup.seeds))
    found = np.full((len(values), each), np.inf)
    for members in _programs([Entry("", "", value) for value in values], setup.steps):
        engine, setting_of = setup.engine([value for _, value in members], np.arange(each), steps, None)
        setup.train(engine, Kept(engine, None, setting_of))
        found[[i for i, _ in members]] = scores(engine, np.flatnonzero(setting_of >= 0)).reshape(-1, each)
    return found


def _comparison(
    setup: _Setup,
    entries: Sequence[Entry],
    groups: Sequence[_Trained],
    target: float | None,
    keep: Any,
    how: str,
    notes: tuple[str, ...],
) -> Comparison:
    """Puts the runs of all programs together."""
    task, count, each, first = setup.task, len(entries), len(setup.seeds), groups[0].engine
    at = first.evaluated_at
    losses = np.empty((count, each, first.steps), first.record.losses.dtype)
    rates, has_diverged = np.full((count, first.steps), np.nan), np.zeros((count, each), bool)
    metrics = {name: np.empty((count, each, len(at)), losses.dtype) for name in task.metrics}
    runs: dict[str, list[Run]] = {}
    candidates: list[tuple[float, float, Run]] = []  # (mean score of the optimizer, score of the run, the run)
    for group in groups:
        engine, record, carried = group.engine, group.engine.record, group.kept.carried
        for k, i in enumerate(group.indices):
            of_entry = np.arange(k * each, (k + 1) * each)
            losses[i], has_diverged[i] = record.losses[of_entry], lost(engine, of_entry)
            if "" in record.learning_rates:
                rates[i] = record.learning_rates[""][k * each]
            for name, values in metrics.items():
                values[i] = record.metrics[name][of_entry][:, at - 1]
            score, limit = scores(engine, of_entry), limits(engine, of_entry)
            made = [
                (
                    float(score.mean()),
                    float(score[j]),
                    made_run(engine, carried[run], run, repr(entries[i].optimizer), limit[j]),
                )
                for j, run in enumerate(of_entry.tolist())
                if run in carried
            ]
            runs[entries[i].name] = [run for _, _, run in made]
            candidates += made
    best = min(candidates, key=lambda found: found[:2], default=(np.inf, np.inf, None))
    table = Comparison(
        task.name,
        task.description,
        tuple(entries),
        rates,
        losses,
        metrics,
        at if metrics else at[:0],
        {name: metric.mode for name, metric in task.metrics.items()},
        has_diverged,
        control_of(first).losses,
        start_metric(first),
        float("nan") if target is None else float(target),
        how,
        notes,
        best[2] if np.isfinite(best[0]) else None,
        runs if keep == "all" else None,
    )
    return table if target is not None else dataclasses.replace(table, target=_target(table))


def _target(found: Comparison) -> float:
    """Nine tenths of the way from without training to the best, to two digits."""
    start = float(Control(found.control).mean.mean()) if found.metric is None else float(np.nanmean(found.start_metric))
    mean = found.final.mean(axis=1)
    best = float(mean.max() if found.mode == "max" else mean.min())
    return float(f"{start + 0.9 * (best - start):.2g}") if np.isfinite(best) and np.isfinite(start) else float("nan")
