"""The runs of an engine, and their controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Runs:
    """The runs of an engine. The first axis of the arrays is the run."""

    make_optimizer: Callable[[Any], Any]  # from the hyperparameters of a run
    hyperparams: Any
    seeds: Sequence[int]  # without repetition
    seed_index: np.ndarray  # of each run, in `seeds`
    is_control: np.ndarray  # bool: whether it never updates
    max_concurrent: int | None = None  # runs that have a carry at the same time; None for all


def with_controls(
    make_optimizer: Callable[[Any], Any], hyperparams: Any, seeds: Sequence[int], seed_index: np.ndarray
) -> tuple[Runs, np.ndarray]:
    """Returns (runs of every setting of `hyperparams` with the seeds at `seed_index`, then a control of each seed; the
    setting of each run, −1 for a control)."""
    settings, each, controls = len(jax.tree.leaves(hyperparams)[0]), len(seed_index), len(seeds)
    repeat = lambda x: np.concatenate([x.repeat(each, axis=0), x[:1].repeat(controls, axis=0)])
    setting_of = np.append(np.arange(settings).repeat(each), np.full(controls, -1))
    index = np.append(np.tile(seed_index, settings), np.arange(controls)).astype(np.int32)
    return Runs(make_optimizer, jax.tree.map(repeat, hyperparams), seeds, index, setting_of < 0), setting_of
