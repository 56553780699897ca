"""All runs of a sweep from their first step to their last."""

import dataclasses
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from lrjax.search.checkpoint import Checkpoint
from lrjax.search.runs import Runs, fetched


@dataclasses.dataclass
class Record:
    """What is known of the runs."""

    losses: np.ndarray  # [runs, steps]: before each update; nan where a run made none
    eval: np.ndarray  # [runs]
    diverged: np.ndarray  # bool [runs]
    position: np.ndarray  # (group of waves, step): where to go on


def train(runs: Runs, show: Callable[..., None], checkpoint: Checkpoint | None) -> Record:
    """One wave after the other; or all of them step by step, where each batch should be asked for once."""
    dtype, steps = jnp.result_type(float), runs.steps
    losses, evaluated = np.full((runs.count, steps), np.nan, dtype), np.full(runs.count, np.nan, dtype)
    record = Record(losses, evaluated, np.zeros(runs.count, bool), np.zeros(2, np.int32))
    waves = range(runs.waves)
    groups = [waves] if runs.source.once else [range(wave, wave + 1) for wave in waves]
    if checkpoint is not None and (saved := checkpoint.restore(vars(record), lambda at: _like(runs, groups, at))):
        record = Record(**saved[0])
        if saved[1]:
            runs.go_on_with(groups[record.position[0]], saved[1])
    group, begin = map(int, record.position)
    pending: deque[Callable[[], None]] = deque()  # the devices go on while the results of what they did are read

    def settle(left: int = 0) -> None:
        while len(pending) > left:
            pending.popleft()()

    def keep_losses(wave: int, begin: int, end: int, found: Any) -> None:
        record.losses[runs.of(wave), begin:end] = runs.read(found, end - begin)
        show(runs.of(wave), record.losses[runs.of(wave), begin:end])

    def keep_ends(wave: int, alive: Any, evaluated: Any) -> None:
        record.diverged[runs.of(wave)] = ~fetched(alive)
        if evaluated is not None:
            record.eval[runs.of(wave)] = fetched(evaluated)

    while group < len(groups):
        end = runs.until(begin, steps)
        for wave in groups[group]:
            pending.append(partial(keep_losses, wave, begin, end, runs.go(wave, runs.batches(begin, end))))
        begin = end
        if end == steps:
            for wave in groups[group]:
                pending.append(partial(keep_ends, wave, *runs.finish(wave)))
            group, begin = group + 1, 0
        record.position[:] = group, begin
        if checkpoint is not None and checkpoint.is_due(last=group == len(groups)):
            settle()
            checkpoint.save(vars(record), runs.carried(groups[group]) if begin else [])
        settle(left=2)
    settle()
    return record


def _like(runs: Runs, groups: list[range], position: np.ndarray) -> list[Any]:
    """What was saved of the waves at a position: nothing between two groups."""
    group, begin = map(int, position)
    return [runs.like_started() for _ in groups[group]] if begin else []


def advanced(
    runs: Runs, which: np.ndarray, begin: int, end: int, show: Callable[..., None]
) -> tuple[np.ndarray, np.ndarray | None]:
    """(losses [which, end − begin], `eval_fn` after them [which]) of some runs, which have come as far as `begin`."""
    awake = np.zeros(runs.count, bool)
    awake[which] = True
    losses, evaluated = np.full((runs.count, end - begin), np.nan), np.full(runs.count, np.nan)
    waves = np.unique(which // runs.program.places)
    at = begin
    while at < end:
        until = runs.until(at, end)
        for wave, found in [(wave, runs.go(wave, runs.batches(at, until), awake)) for wave in waves]:
            losses[runs.of(wave), at - begin : until - begin] = runs.read(found, until - at)
        show(which, losses[which, at - begin : until - begin])
        at = until
    if runs.program.eval_fn is None:
        return losses[which], None
    for wave in waves:
        evaluated[runs.of(wave)] = fetched(runs.evaluated(wave))
    return losses[which], evaluated[which]
