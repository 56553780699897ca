"""How runs end at rates that are too high, and with faults injected, without and with `guard`, and beside what else there
is: `python -m tests.benchmarks.guarding`.

Every run is judged by its loss on a fixed part of the data before its first and after its last step. It ends worse than
it began if that loss is higher, or not finite; it was healthy if without a guard it ends lower than it began and no
step was more than half again above that. Writes its tables into `guarding.md`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrjax as L
from tests.benchmarks.models import tasks

PAGE, CORES = "guarding.md", 2
RATES = np.geomspace(1e-3, 1e3, 7)
TASKS = {"digits": "shallow", "diabetes": "regression", "deep, no norms": "deep"}
TASKS |= {"recurrent, text": "recurrent, text", "transformer, text": "transformer, text"}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": L.sgd,
    "momentum": lambda rate: L.sgd(rate, momentum=0.9),
    "adam": L.adam,
    "adamw": L.adamw,
    "rmsprop": L.rmsprop,
    "adagrad": L.adagrad,
    "lion": L.lion,
    "lamb": L.lamb,
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda tx: tx,
    "guard": L.guard,
    "optax.apply_if_finite": lambda tx: optax.apply_if_finite(tx, 5),
    "skip_spikes": L.skip_spikes,
    "clip_by_zscore": lambda tx: L.chain(L.clip_by_zscore(), tx),
    "clip_by_global_norm": lambda tx: L.chain(L.clip_by_global_norm(1.0), tx),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task of the benchmark; its metric is the loss on a fixed part of the data."""

    init: Any
    loss_fn: Any
    examples: Any
    steps: int
    batch_size: int

    @property
    def fixed(self) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x[:256]), self.examples)

    def task(self) -> L.Task:
        return L.Task(self.loss_fn, self.init, self.examples, batch_size=self.batch_size, validation=self.fixed)

    def before(self, seed: int = 0) -> float:
        return float(self.loss_fn(self.init(jax.random.key(seed)), self.fixed))

    def sweep(self, make: Callable[[Any], Any], rates: np.ndarray) -> np.ndarray:
        """[rates, evaluations]: the loss on the fixed part."""
        every = max(1, self.steps // 20)
        options = {"eval_every": every, "keep": None, "progress": False}
        result = L.sweep(self.task(), make, learning_rates=rates, steps=self.steps, **options)
        return next(iter(result.metrics.values()))[:, 0]


def settings(steps: int) -> dict[str, Setting]:
    found = tasks()
    return {name: Setting(*found[key], steps, 8 if "text" in key else 32) for name, key in TASKS.items()}
