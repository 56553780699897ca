"""Trains one task with many optimizers and schedules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from lrjax.search.techniques import FAMILIES, NEAR, RATES, STEP, techniques
from lrjax.training.batches import depends_on_seed
from lrjax.training.engine import Engine, Runs, Show, check_mesh
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

EVALUATIONS = 80  # of a run, where it isn't said how many
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
      eval_every: steps between two evaluations of the task's metrics. Default: 80 evaluations.
      target: what the metric that decides has to reach to count as learned. Default: nine tenths of the way from
        without training to the best of all.
      keep: which trained models to return: the "best", "all", or None.
      mesh: the devices; default: all.
      progress: a bar, as for `sweep`.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(8), batch_size=4, steps=40)
    >>> lrjax.compare(task, {"slow": lrjax.sgd(0.001), "fast": lrjax.sgd(0.1)}, seeds=1).steps_to_target[:, 0]
    array([inf, 12.])
    """
    check_task("compare", task)
    check_mesh("compare", mesh)
    steps = run_length("compare", task, steps)
    if keep not in ("best", "all", None):
        raise bad_argument("compare", "keep", '"best", "all" or None', keep)
    given = seed_list("compare", seeds)
    seed_numbers = given if depends_on_seed(task) else given[:1]
    every = interval("compare", eval_every) or max(1, steps // EVALUATIONS)
    if optimizers is not None:
        entries, searched = _own_entries(optimizers), 0
        how = "The optimizers, and their rates, are those that were given."
    else:
        searched = len(FAMILIES) * len(RATES) * max(1, steps // 4) + len(techniques(steps)) * len(NEAR) * steps
        entries, how = [], ""
    total = searched + (len(entries) or len(techniques(steps))) * len(seed_numbers) * steps
    said = {"words": ""}
    with bar(total, lambda run_indices, begin, end: said["words"], progress) as show:
        if optimizers is None:
            said["words"] = "looking for rates"
            entries, how = _searched(task, steps, seed_numbers, every, mesh, show)
        groups = [
            _train(task, members, steps, seed_numbers, every, keep, mesh, show, said)
            for members in _programs(entries, steps)
        ]
    return _comparison(
        task, entries, groups, seed_numbers, target, keep, how, () if seed_numbers == given else (SAME_SEEDS,)
    )


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


def _runs_of(values: Sequence[Any], seeds: tuple[int, ...], seed_index: np.ndarray) -> Runs:
    """[values, seed_index], then a control of each seed."""
    if jax.tree.leaves(values[0]):
        stacked = jax.tree.map(lambda *xs: np.concatenate([as_number(x) for x in xs]), *values)
        make: Callable[[Any], Any] = itself
    else:
        stacked, make = np.zeros(len(values), np.float32), Always(values[0])
    controls = len(seeds)
    each = len(seed_index)
    numbers = jax.tree.map(lambda x: np.concatenate([x.repeat(each, axis=0), x[:1].repeat(controls, axis=0)]), stacked)
    index = np.append(np.tile(seed_index, len(values)), np.arange(controls)).astype(np.int32)
    return Runs(make, numbers, seeds, index, np.arange(len(index)) >= each * len(values))


def _train(
    task: Task,
    members: Sequence[tuple[int, Any]],
    steps: int,
    seeds: tuple[int, ...],
    eval_every: int,
    keep: Any,
    mesh: Mesh | None,
    show: Show,
    said: dict[str, str],
) -> _Trained:
    """The optimizers of one program, with all seeds."""
    said["words"] = f"training with {type(members[0][1]).__name__}"
    runs = _runs_of([value for _, value in members], seeds, np.arange(len(seeds)))
    engine = Engine("compare", task, runs, steps, eval_every=eval_every, mesh=mesh)
    setting_of = np.append(np.arange(len(members)).repeat(len(seeds)), np.full(len(seeds), -1))
    kept = Kept(engine, keep, setting_of, lambda run_indices: scores(engine, run_indices))
    train_to_end(engine, kept, show)
    return _Trained(engine, [i for i, _ in members], kept)


def _searched(
    task: Task, steps: int, seeds: tuple[int, ...], eval_every: int, mesh: Mesh | None, show: Show
) -> tuple[list[Entry], str]:
    """(every technique at the rate that was found for it, how it was found)."""
    short, first = max(1, steps // 4), {}
    cases = [(family, rate) for family in FAMILIES for rate in RATES]
    make = lambda family, rate: FAMILIES[family](constant_schedule(float(rate)))
    found = _score_all(task, [make(*case) for case in cases], steps, short, seeds, eval_every, mesh, show)
    for k, family in enumerate(FAMILIES):
        of_family = found[k * len(RATES) : (k + 1) * len(RATES)]
        first[family] = float(RATES[int(np.argmin(of_family))]) if np.isfinite(of_family).any() else float(RATES[0])
    listed = techniques(steps)
    open_ones = [t for t in listed if t.multiple in (None, 1.0)]
    near = [(t, first[t.family] * multiple) for t in open_ones for multiple in NEAR]
    values = [t.optimizer(t.shape(rate)) for t, rate in near]
    found = _score_all(task, values, steps, steps, seeds, eval_every, mesh, show).reshape(len(open_ones), len(NEAR))
    peaks = {t.name: first[t.family] * NEAR[int(np.argmin(row))] for t, row in zip(open_ones, found, strict=True)}
    reference = peaks["fixed, well chosen"]
    rate = lambda t: peaks[t.name] if t.name in peaks else reference * t.multiple
    entries = [Entry(t.group, t.name, t.optimizer(t.shape(float(f"{rate(t):.3g}")))) for t in listed]
    how = (
        f"The rates were found for this task, with one seed: for each optimizer the best of {len(RATES)} fixed rates "
        f"from {RATES[0]:.0e} to {RATES[-1]:.0f} in runs of {short:,} steps, then for each technique the best of "
        f"{len(NEAR)} peaks around it, a factor of {STEP:.2f} apart, in whole runs. Too low is a 500th of the rate "
        "that was found, too high 60 times it."
    )
    return entries, how


def _score_all(
    task: Task,
    values: Sequence[GradientTransformation],
    steps: int,
    until: int,
    seeds: tuple[int, ...],
    eval_every: int,
    mesh: Mesh | None,
    show: Show,
) -> np.ndarray:
    """[values]: the scores of runs of so many steps with the first seed. The programs are those of the comparison."""
    found = np.full(len(values), np.inf)
    for members in _programs([Entry("", "", value) for value in values], steps):
        runs = _runs_of([value for _, value in members], seeds, np.zeros(1, int))
        engine = Engine("compare", task, runs, until, eval_every=eval_every, mesh=mesh)
        setting_of = np.append(np.arange(len(members)), np.full(len(seeds), -1))
        train_to_end(engine, Kept(engine, None, setting_of, lambda run_indices: run_indices), show)
        found[[i for i, _ in members]] = scores(engine, np.arange(len(members)))
    return found


def _comparison(
    task: Task,
    entries: Sequence[Entry],
    groups: Sequence[_Trained],
    seeds: tuple[int, ...],
    target: float | None,
    keep: Any,
    how: str,
    notes: tuple[str, ...],
) -> Comparison:
    """Puts the runs of all programs together."""
    count, each, first = len(entries), len(seeds), groups[0].engine
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
    start = float(np.nanmean(found.control)) if found.metric is None else float(np.nanmean(found.start_metric))
    mean = found.final.mean(axis=1)
    best = float(mean.max() if found.mode == "max" else mean.min())
    return float(f"{start + 0.9 * (best - start):.2g}") if np.isfinite(best) and np.isfinite(start) else float("nan")
