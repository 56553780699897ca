"""What is known of runs, on the host: their losses, rates and metrics, and whether they diverged."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

TAIL = 0.1  # the part of a run, its end, whose mean loss is its result


@dataclasses.dataclass
class Record:
    """The arrays have the runs first and the steps second; what wasn't recorded is nan."""

    losses: np.ndarray  # before each update
    learning_rates: dict[str, np.ndarray]  # that each update applied, by group of parameters; '' where there is one
    aux: dict[str, np.ndarray]  # the auxiliary numbers of the loss
    metrics: dict[str, np.ndarray]  # after each step at whose end they were evaluated
    finite: np.ndarray  # bool [runs]: whether all parameters are, as far as the run is
    made: np.ndarray  # [runs]: steps made; fewer than asked for where a run was left
    position: np.ndarray  # (group of waves, step): where to go on

    @classmethod
    def empty(cls, runs: int, steps: int, names: Any) -> "Record":
        """`names` are those of what is recorded, by kind."""
        dtype = jnp.result_type(float)
        empty = lambda kind: {name: np.full((runs, steps), np.nan, dtype) for name in names[kind]}
        losses = np.full((runs, steps), np.nan, dtype)
        rates, aux, metrics = map(empty, ("learning_rate", "aux", "metrics"))
        return cls(losses, rates, aux, metrics, np.ones(runs, bool), np.zeros(runs, int), np.zeros(2, np.int32))

    def write(self, run_indices: np.ndarray, begin: int, end: int, recorded: Any) -> None:
        """The steps from `begin` to `end` of some runs."""
        self.losses[run_indices, begin:end] = recorded["loss"][""][:, : end - begin]
        kinds = (("learning_rate", self.learning_rates), ("aux", self.aux), ("metrics", self.metrics))
        for kind, arrays in kinds:
            for name, array in arrays.items():
                array[run_indices, begin:end] = recorded[kind][name][:, : end - begin]
        self.finite[run_indices], self.made[run_indices] = recorded["finite"], begin + recorded["made"]


def tail_steps(steps: int, part: float = TAIL) -> int:
    """How many steps are the last part of a run; at least one."""
    return max(1, round(part * steps))


def first_reached(values: np.ndarray, at: np.ndarray, value: float, mode: str) -> np.ndarray:
    """Where, in `at`, the values [..., steps] first are as good as `value`; inf where they never are."""
    with np.errstate(invalid="ignore"):
        reached = values >= value if mode == "max" else values <= value
    return np.where(reached.any(axis=-1), at[reached.argmax(axis=-1)], np.inf)


class Decided:
    """What decides among runs: the first metric, or the training loss."""

    metrics: dict[str, np.ndarray]
    modes: dict[str, str]

    @property
    def metric(self) -> str | None:
        """The name of the metric that decides; None where the training loss does."""
        return next(iter(self.metrics), None)

    @property
    def mode(self) -> str:
        return "min" if self.metric is None else self.modes[self.metric]
