"""The result of a run: `Run`."""

import dataclasses
import pickle
from collections.abc import Callable
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.training.divergence import diverged, final_loss
from lrjax.training.engine import Engine
from lrjax.training.files import write_file
from lrjax.training.parameters import is_key, merge, split
from lrjax.training.program import Carry
from lrjax.training.record import Record, first_reached
from lrjax.training.task import Task
from lrjax.transforms.averaging import evaluation_params
from lrjax.transforms.guard import guard_report, guards_in
from lrjax.transforms.guard_log import GuardReport
from lrjax.transforms.lookahead import LookaheadParams
from lrjax.value import bad_argument


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """The result of a run: the record as NumPy arrays, and the trained parameters and states.

    >>> import jax.numpy as jnp, lrjax
    >>> task = lrjax.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(8), batch_size=4)
    >>> run = lrjax.train(task, lrjax.sgd(lrjax.linear_schedule(0.5, 0.0, 4)), steps=4)
    >>> run.learning_rates, float(run.params)
    (array([0.5  , 0.375, 0.25 , 0.125], dtype=float32), 1.0)
    """

    params: Any  # after the last step; `evaluation_params` may be others
    model_state: Any  # None where the task has none
    opt_state: Any
    losses: np.ndarray  # [steps]: before each update; nan from where the parameters are not finite
    learning_rates: Any  # [steps]: of each update; a dict of these by group of parameters; None where unknown
    metrics: dict[str, np.ndarray]  # by name: [evaluations]; empty where it was interrupted before the first
    evaluated_at: np.ndarray  # [evaluations]: updates made before each
    aux: dict[str, np.ndarray]  # by name: [steps]
    seed: int
    diverged: bool  # by the rule of `sweep`
    modes: dict[str, str]  # of the metrics: "min" or "max"
    task: str  # its name
    optimizer: str  # its repr; the latest one, where `start` was another's run
    interrupted: bool = False  # whether a signal stopped it before its last step
    as_model: Callable[[Any, Any], Any] | None = None  # of the task

    @property
    def model(self) -> Any:
        """The trained model, an instance of the class of its framework, with the `evaluation_params`.

        Raises:
          ValueError: the task has no `as_model`, or the run was loaded without its task.
        """
        if self.as_model is None:
            raise ValueError("Run.model: no model is known, use `params`; tasks made by `Task.from_nnx` and the like "
                             "have one. A saved run needs its task: Run.load(path, task).")  # fmt: skip
        return self.as_model(self.evaluation_params, self.model_state)

    @property
    def evaluation_params(self) -> Any:
        """The parameters to evaluate with, which the metrics were measured with: an average where the optimizer keeps
        one (`ema_params`), the slow ones of `lookahead`, else `params`; see `lrjax.evaluation_params`."""
        trained, others = split(self.params)  # the optimizer has seen no others
        found = evaluation_params(self.opt_state, trained)
        if found is trained:
            return self.params
        return merge(found, others.slow if isinstance(others, LookaheadParams) else others)

    @property
    def final(self) -> float:
        """The first metric after the last step, or without metrics the mean loss over the last tenth of the steps."""
        if self.metrics:
            return float(next(iter(self.metrics.values()))[-1])
        return float(final_loss(self.losses[None])[0])

    def steps_to(self, metric: str, value: float) -> int | None:
        """Returns the updates made when the metric first was as good as `value`; None where it never was. The metric
        may be "loss", the loss of a batch.

        Raises:
          ValueError: there is no such metric.
        """
        if metric == "loss":
            values, at, mode = self.losses, np.arange(len(self.losses)), "min"
        elif metric in self.metrics:
            values, at, mode = self.metrics[metric], self.evaluated_at, self.modes[metric]
        else:
            raise bad_argument("Run.steps_to", "metric", f"one of {['loss', *self.metrics]}", metric)
        reached = first_reached(values, at, value, mode)
        return int(reached) if np.isfinite(reached) else None

    @property
    def guard(self) -> GuardReport | None:
        """What `guard` did; None where the optimizer has none, or several."""
        return guard_report(self.opt_state) if len(guards_in(self.opt_state)) == 1 else None

    def __repr__(self) -> str:
        steps = f"{len(self.losses)} steps{', interrupted' if self.interrupted else ''}"
        return f"Run({self.task}, {self.optimizer}, seed {self.seed}, {steps}: ends at {self.final:.4g})"

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each step, for `pandas.DataFrame` and loggers: loss, rate, auxiliary scalars, and the
        metrics after it, None where they were not evaluated."""
        at = {int(step) - 1: i for i, step in enumerate(self.evaluated_at)}
        rates = rates_by_name(self.learning_rates)
        rows = []
        for step in range(len(self.losses)):
            row: dict[str, Any] = {"step": step, "loss": float(self.losses[step])}
            row |= {name: float(x[step]) for name, x in {**rates, **self.aux}.items()}
            row |= {name: float(x[at[step]]) if step in at else None for name, x in self.metrics.items()}
            rows.append(row)
        return rows

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a pickle file, since parameters and states may be of any class."""
        write_file(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns the bytes that `save` writes."""
        fields = {name: x for name, x in vars(self).items() if name != "as_model"}  # not every function pickles
        return pickle.dumps(jax.tree.map(_as_saved, fields))

    @classmethod
    def load(cls, path: str | PathLike[str], task: Task | None = None) -> "Run":
        """Reads what `save` wrote; `model` needs the task. A pickle can run code: read only files that you trust."""
        with open(path, "rb") as file:
            fields = pickle.load(file)
        as_model = None if task is None else task.as_model
        return cls(**jax.tree.map(_as_loaded, fields, is_leaf=lambda x: isinstance(x, _SavedKey)), as_model=as_model)

    def plot(self, ax: Any = None) -> Any:
        """Plots the smoothed loss, the metrics and the rate over the steps with matplotlib (extra: plot). Returns the
        axes."""
        from lrjax.report.plots import plot_run

        return plot_run(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import run_html

        return run_html(self)


@dataclasses.dataclass(frozen=True)
class _SavedKey:
    data: np.ndarray


def _as_saved(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return _SavedKey(np.asarray(jax.random.key_data(x))) if is_key(x) else np.asarray(x)
    return x


def _as_loaded(x: Any) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(x.data)) if isinstance(x, _SavedKey) else x


def rates_by_name(rates: Any) -> dict[str, np.ndarray]:
    if rates is None:
        return {}
    if isinstance(rates, dict):
        return {f"learning_rate/{group}": x for group, x in rates.items()}
    return {"learning_rate": rates}


def build_run(
    engine: Engine, carry: Carry, run: int, optimizer: str, limit: float, steps_made: int | None = None
) -> Run:
    """Builds the result of a run of an engine, at its end, or where it was interrupted after `steps_made`."""
    record, steps = engine.record, engine.steps if steps_made is None else steps_made
    at = engine.evaluated_at[engine.evaluated_at <= steps]
    carry = engine.to_devices(carry)
    return Run(
        params=carry.params,
        model_state=carry.model_state,
        opt_state=carry.opt_state,
        losses=record.losses[run, :steps].copy(),
        learning_rates=rates_of_run(record, run, steps),
        metrics={name: x[run, at - 1] for name, x in record.metrics.items() if len(at)},
        evaluated_at=at if record.metrics else at[:0],
        aux={name: x[run, :steps].copy() for name, x in record.aux.items()},
        seed=int(engine.runs.seeds[engine.runs.seed_index[run]]),
        diverged=bool(diverged(record.losses[[run], :steps], record.finite[[run]], np.array([limit]))[0]),
        modes={name: metric.mode for name, metric in engine.program.metrics},
        task=engine.task.name,
        optimizer=optimizer,
        interrupted=steps < engine.steps,
        as_model=engine.task.as_model,
    )


def rates_of_run(record: Record, run: int, steps: int | None = None) -> Any:
    rates = {name: x[run, :steps].copy() for name, x in record.learning_rates.items()}
    if not rates:
        return None
    return rates[""] if set(rates) == {""} else rates
