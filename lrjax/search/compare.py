"""Trains one task with many optimizers and schedules: `compare`."""

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
from lrjax.search.outcome import control_of, diverged_runs, divergence_limits, final_scores, start_metric
from lrjax.search.settings import rate_of
from lrjax.search.sweep import SAME_SEEDS
from lrjax.search.techniques import FAMILIES, NEAR, RATES, REFERENCE, STEP, techniques
from lrjax.training.batches import check_repeatable, distinct_seeds
from lrjax.training.checkpoint import Checkpoint, check_folder, fingerprint
from lrjax.training.divergence import Control
from lrjax.training.engine import Engine, Show, check_mesh
from lrjax.training.interrupt import Interrupted, handling_signals, warn_interrupted
from lrjax.training.kept_models import KeptModels
from lrjax.training.loop import train_to_end
from lrjax.training.progress import progress_bar
from lrjax.training.result import Run, build_run
from lrjax.training.runs import with_controls
from lrjax.training.task import Task
from lrjax.training.train import (
    FixedOptimizer,
    as_hyperparam,
    as_is,
    check_task,
    eval_interval,
    run_length,
    seed_list,
)
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.value import NotInDomain, bad_argument

SEARCH_SEEDS = 2  # of full-length runs in the search for rates
EVALUATIONS = 40  # of a run, where `eval_every` is not given
_PART = "part-"  # prefix of the folders in a checkpoint, one for each engine
GIVEN_GROUP = "Optimizers"  # the group of optimizers that the user gave


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
    """Trains a task with many optimizers, from the same initial parameters on the same batches.

    Without `optimizers` it compares common schedules and adaptive methods, each at a rate that is searched for this
    task: rates from 1e-6 to 10 for each optimizer in short runs with a fixed rate, then for each schedule full-length
    runs at rates around the best of these. So none loses because of a badly chosen rate.

    Optimizers that differ only in their numbers share one compiled program, whatever their schedules.

    Args:
      task: the model, loss and data.
      optimizers: by name, lrjax's or Optax's.
      steps: updates of each run. Default: those of the task, or the number of batches, where that is known.
      seeds: how many runs of each, or a list of seeds; see `Task`.
      eval_every: steps between two evaluations of the task's metrics. Default: 40 evaluations.
      target: the value of the deciding metric from which a run counts as learned. Default: nine tenths of the way from
        the untrained value to the best of all.
      keep: which trained models to return: the "best", "all", or None.
      mesh: the devices; default: all.
      checkpoint: a folder (extra: checkpoint) to save to, as for `sweep`.
      progress: whether to show a bar, as for `sweep`.

    Raises:
      ValueError: an argument is invalid.

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
    every = eval_interval("compare", eval_every) or max(1, steps // EVALUATIONS)
    given_entries = None if optimizers is None else _given_entries(optimizers)
    listed = techniques(steps) if given_entries is None else []
    total = len(given_entries or listed) * len(seed_numbers) * steps
    if given_entries is None:
        each = min(SEARCH_SEEDS, len(seed_numbers))
        total += len(FAMILIES) * len(RATES) * max(1, steps // 4) + (len(listed) - 2) * len(NEAR) * each * steps
    folder = (
        None if checkpoint is None else check_folder("compare", checkpoint, lambda item: item.name.startswith(_PART))
    )
    trainer = _Trainer(task, steps, seed_numbers, every, mesh, lambda run_indices, begin, end: None, folder)
    status, groups = lambda run_indices, begin, end: trainer.status, []
    with handling_signals(), progress_bar(total, status, progress) as trainer.show:
        if given_entries:
            entries, how = given_entries, "The optimizers, and their rates, are those that were given."
        else:
            entries, how = _search_rates(trainer)
        try:
            for members in _programs(entries, steps):
                groups.append(_train(trainer, members, keep))
        except Interrupted:
            if not groups:
                raise
    notes = () if seed_numbers == given else (SAME_SEEDS,)
    trained = sorted(i for group in groups for i in group.indices)
    if len(trained) < len(entries):
        words = f"{len(trained)} of {len(entries)} optimizers were trained to the end, and are here."
        notes = (*notes, warn_interrupted("compare", words))
        entries = [entries[i] for i in trained]
        groups = [dataclasses.replace(group, indices=[trained.index(i) for i in group.indices]) for group in groups]
    return _comparison(trainer, entries, groups, target, keep, how, notes)


def _given_entries(optimizers: Any) -> list[Entry]:
    words = "a dict of optimizers, lrjax's or Optax's, by name"
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise bad_argument("compare", "optimizers", words, optimizers)
    entries = []
    for name, optimizer in optimizers.items():
        try:
            entries.append(Entry(GIVEN_GROUP, str(name), as_transformation(optimizer)))
        except NotInDomain:
            raise bad_argument("compare", "optimizers", words, {name: optimizer}) from None
    return entries


def _tabulated(optimizer: Any, steps: int) -> Any:
    """Replaces the schedule of an optimizer by a table of its rates, so that all schedules share one program."""
    rate = rate_of(optimizer)
    if isinstance(rate, (int, float)):
        rate = constant_schedule(rate)
    if not isinstance(rate, Schedule) or not isinstance(optimizer, GradientTransformation):
        return optimizer
    try:
        return with_hyperparams(optimizer, learning_rate=tabulated_schedule(np.asarray(rate(np.arange(steps)))))
    except ValueError:  # several rates, or a negative one
        return optimizer


def _programs(entries: Sequence[Entry], steps: int) -> list[list[tuple[int, Any]]]:
    """Groups (index, optimizer) of all entries by the program that they share."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for i, entry in enumerate(entries):
        value = _tabulated(entry.optimizer, steps)
        leaves, structure = jax.tree.flatten(value)
        is_alone = not leaves or not isinstance(value, GradientTransformation)
        key = i if is_alone else (structure, tuple(np.shape(x) for x in leaves))
        groups.setdefault(key, []).append((i, value))
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class _Trained:
    """The trained runs of one program: optimizers × seeds, then controls."""

    engine: Engine
    indices: list[int]  # of the entries
    kept: KeptModels


@dataclasses.dataclass
class _Trainer:
    """Trains the engines of a comparison, with all that they share."""

    task: Task
    steps: int
    seeds: tuple[int, ...]
    eval_every: int
    mesh: Mesh | None
    show: Show
    folder: Path | None  # for checkpoints, one for each engine
    status: str = ""  # the text beside the progress bar
    engines: int = 0  # trained so far

    def engine(
        self, values: Sequence[Any], seed_index: np.ndarray, steps: int, eval_every: int | None
    ) -> tuple[Engine, np.ndarray]:
        """Returns (the engine for optimizers of one program with some seeds; the optimizer of each run, −1 for a
        control)."""
        make_optimizer: Callable[[Any], Any] = as_is if jax.tree.leaves(values[0]) else FixedOptimizer(values[0])
        hyperparams = jax.tree.map(lambda *xs: np.concatenate([as_hyperparam(x) for x in xs]), *values)
        if make_optimizer is not as_is:
            hyperparams = np.zeros(len(values), np.float32)
        runs, setting_of = with_controls(make_optimizer, hyperparams, self.seeds, seed_index)
        options = {"eval_every": eval_every, "mesh": self.mesh, "hashed": self.folder is not None}
        return Engine("compare", self.task, runs, steps, **options), setting_of

    def train(self, engine: Engine, kept: KeptModels) -> None:
        if self.folder is None:
            train_to_end(engine, kept, self.show)
            return
        path, self.engines = self.folder / f"{_PART}{self.engines}", self.engines + 1
        with closing(Checkpoint("compare", path, fingerprint(engine))) as saver:
            train_to_end(engine, kept, self.show, saver)


def _train(trainer: _Trainer, members: Sequence[tuple[int, Any]], keep: Any) -> _Trained:
    """Trains the optimizers of one program, with all seeds."""
    trainer.status = f"training with {type(members[0][1]).__name__}"
    values, all_seeds = [value for _, value in members], np.arange(len(trainer.seeds))
    engine, setting_of = trainer.engine(values, all_seeds, trainer.steps, trainer.eval_every)
    kept = KeptModels(engine, keep, setting_of, lambda run_indices: final_scores(engine, run_indices))
    trainer.train(engine, kept)
    return _Trained(engine, [i for i, _ in members], kept)


def _search_rates(trainer: _Trainer) -> tuple[list[Entry], str]:
    """Searches rates for all techniques. Returns (each technique at its rate, how the rates were found)."""
    trainer.status = "looking for rates"
    steps, short, first = trainer.steps, max(1, trainer.steps // 4), {}
    fixed = [make(constant_schedule(float(rate))) for make in FAMILIES.values() for rate in RATES]
    scores = _score_all(trainer, fixed, short, 1).reshape(len(FAMILIES), len(RATES))
    for family, row in zip(FAMILIES, scores, strict=True):
        first[family] = float(RATES[int(np.argmin(row))]) if np.isfinite(row).any() else float(RATES[0])
    listed = techniques(steps)
    searched = [t for t in listed if t.multiple in (None, 1.0)]
    near = [t.optimizer(t.shape(first[t.family] * multiple)) for t in searched for multiple in NEAR]
    scores = _score_all(trainer, near, steps, SEARCH_SEEDS).mean(axis=1).reshape(len(searched), len(NEAR))
    peaks = {t.name: first[t.family] * NEAR[_lowest_as_good(row)] for t, row in zip(searched, scores, strict=True)}
    rate = lambda t: peaks[t.name] if t.name in peaks else peaks[REFERENCE] * t.multiple
    entries = [Entry(t.group, t.name, t.optimizer(t.shape(float(f"{rate(t):.3g}")))) for t in listed]
    how = (
        f"The rates were found for this task: for each optimizer the best of {len(RATES)} fixed rates from "
        f"{RATES[0]:.0e} to {RATES[-1]:.0f} in runs of {short:,} steps with one seed; then for each technique the "
        f"lowest of {len(NEAR)} peaks around it, a factor of {STEP:.2f} apart, that is as good as the best of them in "
        f"whole runs with {min(SEARCH_SEEDS, len(trainer.seeds))} seeds. Too low is a 500th of the rate that was "
        "found, too high is 60 times it."
    )
    return entries, how


def _lowest_as_good(score: np.ndarray) -> int:
    """Returns the lowest of the rates up to the best that are as good without a gap: within a hundredth of the range of
    finite scores, and a tenth of the best where that is positive."""
    best, finite = int(np.argmin(score)), score[np.isfinite(score)]
    allowed = 0.01 * np.ptp(finite) if len(finite) else 0.0
    allowed = min(allowed, 0.1 * score[best]) if score[best] > 0 else allowed
    while best > 0 and score[best - 1] <= score.min() + allowed:
        best -= 1
    return best


def _score_all(trainer: _Trainer, values: Sequence[GradientTransformation], steps: int, seeds: int) -> np.ndarray:
    """Trains values for `steps` steps with the first `seeds` seeds, in the programs of the comparison. Returns [values,
    seeds]: the scores."""
    each = min(seeds, len(trainer.seeds))
    scores = np.full((len(values), each), np.inf)
    for members in _programs([Entry("", "", value) for value in values], trainer.steps):
        engine, setting_of = trainer.engine([value for _, value in members], np.arange(each), steps, None)
        trainer.train(engine, KeptModels(engine, None, setting_of))
        scores[[i for i, _ in members]] = final_scores(engine, np.flatnonzero(setting_of >= 0)).reshape(-1, each)
    return scores


def _comparison(
    trainer: _Trainer,
    entries: Sequence[Entry],
    groups: Sequence[_Trained],
    target: float | None,
    keep: Any,
    how: str,
    notes: tuple[str, ...],
) -> Comparison:
    """Merges the runs of all programs."""
    task, count, each, first = trainer.task, len(entries), len(trainer.seeds), groups[0].engine
    at = first.evaluated_at
    losses = np.empty((count, each, first.steps), first.record.losses.dtype)
    rates, has_diverged = np.full((count, first.steps), np.nan), np.zeros((count, each), bool)
    metrics = {name: np.empty((count, each, len(at)), losses.dtype) for name in task.metrics}
    runs: dict[str, list[Run]] = {}
    candidates: list[tuple[float, float, Run]] = []  # (mean score of the optimizer, score of the run, the run)
    for group in groups:
        engine, record, carried = group.engine, group.engine.record, group.kept.carried
        for k, i in enumerate(group.indices):
            run_indices = np.arange(k * each, (k + 1) * each)
            losses[i], has_diverged[i] = record.losses[run_indices], diverged_runs(engine, run_indices)
            if "" in record.learning_rates:
                rates[i] = record.learning_rates[""][k * each]
            for name, values in metrics.items():
                values[i] = record.metrics[name][run_indices][:, at - 1]
            score, limit = final_scores(engine, run_indices), divergence_limits(engine, run_indices)
            built = [
                (
                    float(score.mean()),
                    float(score[j]),
                    build_run(engine, carried[run], run, repr(entries[i].optimizer), limit[j]),
                )
                for j, run in enumerate(run_indices.tolist())
                if run in carried
            ]
            runs[entries[i].name] = [run for _, _, run in built]
            candidates += built
    best = min(candidates, key=lambda candidate: candidate[:2], default=(np.inf, np.inf, None))
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


def _target(table: Comparison) -> float:
    """Returns the default target: nine tenths of the way from the untrained value to the best, in two digits."""
    start = float(Control(table.control).mean.mean()) if table.metric is None else float(np.nanmean(table.start_metric))
    mean = table.final.mean(axis=1)
    best = float(mean.max() if table.mode == "max" else mean.min())
    return float(f"{start + 0.9 * (best - start):.2g}") if np.isfinite(best) and np.isfinite(start) else float("nan")
