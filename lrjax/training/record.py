"""Records runs on the host: their losses, rates and metrics, and whether their parameters are finite."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

TAIL_FRACTION = 0.1  # the last part of a run, whose mean loss is its final loss


@dataclasses.dataclass
class Record:
    """The record of all runs, [runs, steps]; nan where nothing was recorded."""

    losses: np.ndarray  # before each update
    learning_rates: dict[str, np.ndarray]  # of each update, by group of parameters; '' where there is one group
    aux: dict[str, np.ndarray]  # the auxiliary scalars of the loss
    metrics: dict[str, np.ndarray]  # after each step at whose end they were evaluated
    finite: np.ndarray  # bool [runs]: whether all parameters are finite
    steps_made: np.ndarray  # [runs]: fewer than all where a run was stopped early
    position: np.ndarray  # (group of waves, step) to resume from

    @classmethod
    def empty(cls, runs: int, steps: int, names: Any) -> "Record":
        """Makes a record for the `names` that a program records, by kind."""
        dtype = jnp.result_type(float)
        empty = lambda kind: {name: np.full((runs, steps), np.nan, dtype) for name in names[kind]}
        losses = np.full((runs, steps), np.nan, dtype)
        rates, aux, metrics = map(empty, ("learning_rate", "aux", "metrics"))
        return cls(losses, rates, aux, metrics, np.ones(runs, bool), np.zeros(runs, int), np.zeros(2, np.int32))

    def write(self, run_indices: np.ndarray, begin: int, end: int, recorded: Any) -> None:
        """Writes the steps from `begin` to `end` of some runs."""
        self.losses[run_indices, begin:end] = recorded["loss"][""][:, : end - begin]
        kinds = (("learning_rate", self.learning_rates), ("aux", self.aux), ("metrics", self.metrics))
        for kind, arrays in kinds:
            for name, array in arrays.items():
                array[run_indices, begin:end] = recorded[kind][name][:, : end - begin]
        self.finite[run_indices], self.steps_made[run_indices] = recorded["finite"], begin + recorded["steps_made"]


def tail_steps(steps: int, fraction: float = TAIL_FRACTION) -> int:
    """Returns the number of steps in the last part of a run; at least one."""
    return max(1, round(fraction * steps))


def first_reached(values: np.ndarray, at: np.ndarray, target: float, mode: str) -> np.ndarray:
    """Returns the element of `at` [steps] where the values [..., steps] first are as good as `target`; inf if never."""
    with np.errstate(invalid="ignore"):
        reached = values >= target if mode == "max" else values <= target
    return np.where(reached.any(axis=-1), at[reached.argmax(axis=-1)], np.inf)
