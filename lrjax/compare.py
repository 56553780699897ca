"""Trains one model with every technique of the field, each family of optimizers in one compiled program."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.optimizers.adam import adam
from lrjax.optimizers.adaptive import adagrad, rmsprop
from lrjax.optimizers.sgd import sgd
from lrjax.schedules.base import Schedule, constant_schedule
from lrjax.schedules.cyclic import cosine_restarts_schedule, cyclic_schedule
from lrjax.schedules.decay import (
    exponential_decay,
    inverse_time_decay,
    polynomial_schedule,
    step_decay,
    tabulated_schedule,
)
from lrjax.schedules.warmup import (
    cosine_onecycle_schedule,
    warmup_cosine_decay_schedule,
    warmup_stable_decay_schedule,
)
from lrjax.tasks.base import Task
from lrjax.tasks.diabetes import diabetes
from lrjax.tasks.digits import digits
from lrjax.transforms.apply import apply_updates
from lrjax.transforms.base import GradientTransformation

TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "diabetes": diabetes}

CHUNKS = 80  # of a run: the progress bar moves and the test examples are looked at after each

FIXED, DECAYS, CYCLES, ADAPTIVE = "Fixed rates", "Decays", "Warmups and cycles", "Adaptive methods"


@dataclasses.dataclass(frozen=True)
class Technique:
    """One way to set the rate."""

    group: str
    name: str
    family: str  # the runs of a family go through one compiled program
    schedule: Schedule
    optimizer: Callable[[Schedule], GradientTransformation]


def techniques(task: Task, steps: int) -> list[Technique]:
    """Every technique at the scale of a task: its well-chosen rate, and `steps` steps."""
    rate, third = task.rate, -(-steps // 3)

    def momentum(schedule: Schedule) -> GradientTransformation:
        return sgd(schedule, momentum=0.9)

    plain = [
        (FIXED, "fixed, too low", constant_schedule(rate / 500)),
        (FIXED, "fixed, well chosen", constant_schedule(rate)),
        (FIXED, "fixed, too high", constant_schedule(rate * 60)),
        (DECAYS, "step decay", step_decay(2 * rate, third, 0.3)),
        (DECAYS, "exponential decay", exponential_decay(2 * rate, steps, 0.03)),
        (DECAYS, "polynomial decay", polynomial_schedule(2 * rate, 0.0, 2, steps)),
        (DECAYS, "inverse-time decay", inverse_time_decay(2 * rate, steps, 8.0)),
        (CYCLES, "cyclic, triangular", cyclic_schedule(rate / 10, 2 * rate, max(steps // 8, 1))),
        (CYCLES, "cosine, warm restarts", cosine_restarts_schedule(2 * rate, third)),
        (CYCLES, "cosine with warmup", warmup_cosine_decay_schedule(0.0, 2 * rate, steps // 10, steps)),
        (CYCLES, "warmup-stable-decay", _trapezoid(2 * rate, steps)),
        (CYCLES, "one cycle", cosine_onecycle_schedule(max(steps, 2), 3 * rate)),
    ]
    adagrad_rate, rmsprop_rate, adam_rate = (task.adaptive_rates[n] for n in ("adagrad", "rmsprop", "adam"))
    adaptive = [
        ("AdaGrad", "adagrad", adagrad_rate, adagrad),
        ("RMSprop", "rmsprop", rmsprop_rate, lambda s: rmsprop(s, momentum=0.0)),
        ("RMSprop, momentum", "rmsprop", rmsprop_rate / 10, lambda s: rmsprop(s, momentum=0.9)),
        ("Adam, no momentum", "adam", adam_rate, lambda s: adam(s, b1=0.0)),
        ("Adam", "adam", adam_rate, adam),
    ]
    return [Technique(group, name, "sgd", schedule, momentum) for group, name, schedule in plain] + [
        Technique(ADAPTIVE, name, family, constant_schedule(rate), make) for name, family, rate, make in adaptive
    ]


def _trapezoid(peak: float, steps: int) -> Schedule:
    warmup, decay = steps // 10, steps // 5
    return warmup_stable_decay_schedule(0.0, peak, warmup, steps - warmup - decay, decay)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the runs did, as NumPy arrays; the first axis is the technique, the second the seed."""

    task: Task
    techniques: list[Technique]
    rates: np.ndarray  # [techniques, steps]
    start_loss: np.ndarray  # [seeds]: of all training examples, before the first update
    losses: np.ndarray  # [techniques, seeds, steps]: of each batch, before its update
    train_loss: np.ndarray  # [techniques, seeds]: of all training examples, after the last update
    metric: np.ndarray  # [techniques, seeds, evaluations]: of the test examples
    evaluated_at: np.ndarray  # [evaluations]: updates made before each

    @property
    def rose(self) -> np.ndarray:
        """[techniques, seeds, steps]: whether the loss is above three times its start, or not finite."""
        with np.errstate(invalid="ignore"):
            return ~(self.losses <= 3 * self.start_loss[:, None])

    @property
    def diverged(self) -> np.ndarray:
        """[techniques, seeds]: whether the loss rose, and did not end below half of its start."""
        with np.errstate(invalid="ignore"):
            learned = self.train_loss < self.start_loss / 2
        return (self.rose.any(axis=2) | ~np.isfinite(self.train_loss)) & ~learned

    @property
    def steps_to_target(self) -> np.ndarray:
        """[techniques, seeds]: updates before the metric first was at the target, inf where it never was."""
        reached = self.metric >= self.task.target
        return np.where(reached.any(axis=2), self.evaluated_at[reached.argmax(axis=2)], np.inf)

    def rows(self) -> list[dict[str, Any]]:
        """The table, a dict for each technique; spreads are standard deviations over the seeds."""
        final, rows = self.metric[:, :, -1], []
        for i, technique in enumerate(self.techniques):
            steps = float(np.median(self.steps_to_target[i]))
            rows.append(
                {
                    "group": technique.group,
                    "technique": technique.name,
                    "rate": repr(technique.schedule),
                    "peak_rate": float(self.rates[i].max()),
                    "train_loss": _finite(np.mean(self.train_loss[i])),
                    "test_metric": _finite(np.mean(final[i])),
                    "test_metric_spread": _finite(np.std(final[i])),
                    "steps_to_target": int(steps) if math.isfinite(steps) else None,
                    "diverged": int(self.diverged[i].sum()),
                    "seeds": self.losses.shape[1],
                }
            )
        return rows


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def compare(
    task: Task, steps: int = 400, seeds: int = 5, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Trains `seeds` models for `steps` steps with each of `techniques(task, steps)`.

    A schedule is data: its curve `schedule(jnp.arange(steps))`. So the runs of one family of optimizers differ in
    their numbers only, and all of them, with all seeds, are one compiled program that is called chunk by chunk.
    `progress(done, total)` is called after each chunk.
    """
    listed = techniques(task, steps)
    curves = [np.asarray(t.schedule(np.arange(steps))) for t in listed]
    at = np.unique([*range(-(-steps // CHUNKS), steps, -(-steps // CHUNKS)), steps])
    starts = jax.jit(jax.vmap(task.init))(jax.random.split(jax.random.key(0), seeds))
    families = list(dict.fromkeys(t.family for t in listed))
    trained: dict[int, Any] = {}
    for k, family in enumerate(families):
        members = [i for i, t in enumerate(listed) if t.family == family]
        txs = [listed[i].optimizer(tabulated_schedule(curves[i])) for i in members]
        batch = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x, float) for x in leaves]), *txs)
        done = lambda step, k=k: progress(k * steps + step, steps * len(families))
        losses, metric, params = _train(task, batch, starts, at, done)
        for j, i in enumerate(members):
            trained[i] = losses[j], metric[j], jax.tree.map(lambda x, j=j: x[j], params)
    losses, metric, params = zip(*(trained[i] for i in range(len(listed))), strict=True)
    # all the models as one batch, the untrained ones first
    models = jax.tree.map(lambda start, *xs: np.stack([start, *xs]), starts, *params)
    full_loss = np.asarray(jax.jit(jax.vmap(jax.vmap(lambda p: task.loss_fn(p, task.train))))(models))
    return Comparison(
        task, listed, np.stack(curves), full_loss[0], np.stack(losses), full_loss[1:], np.stack(metric), at
    )


def _train(task: Task, txs: Any, starts: Any, at: np.ndarray, done: Callable[[int], None]) -> tuple[Any, Any, Any]:
    """(losses [runs, seeds, steps], metric [runs, seeds, evaluations], final params [runs, seeds, ...])."""
    train, test = jax.device_put((task.train, task.test))
    runs, seeds = len(jax.tree.leaves(txs)[0]), len(jax.tree.leaves(starts)[0])
    chunk = int(at[0])

    def run_chunk(tx: Any, carry: Any, batches: jax.Array, count: jax.Array) -> Any:
        def step(i: Any, carry: Any) -> Any:
            params, state, losses = carry
            batch = jax.tree.map(lambda x: x[batches[i]], train)
            loss, grads = jax.value_and_grad(task.loss_fn)(params, batch)
            updates, state = tx.update(grads, state, params)
            return apply_updates(params, updates), state, losses.at[i].set(loss)

        # the number of steps is data, so that a shorter last chunk is the same program
        params, state, losses = jax.lax.fori_loop(0, count, step, (*carry, jnp.zeros(chunk)))
        return (params, state), losses, task.metric_fn(params, test)

    mapped = jax.vmap(jax.vmap(run_chunk, (None, 0, 0, None)), (0, 0, None, None))
    program = jax.jit(mapped, donate_argnums=1)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (runs, *x.shape)), starts)
    carry = params, jax.vmap(jax.vmap(lambda tx, p: tx.init(p), (None, 0)))(txs, params)
    batches = _batches(len(task.train[0]), task.batch_size, seeds)
    losses, metric, before = [], [], 0
    for step in map(int, at):
        indices = np.stack(list(islice(batches, chunk)), axis=1)
        carry, loss, value = program(txs, carry, indices, step - before)
        losses.append(np.asarray(loss)[:, :, : step - before])
        metric.append(np.asarray(value))
        done(step)
        before = step
    return np.concatenate(losses, axis=2), np.stack(metric, axis=2), jax.tree.map(np.asarray, carry[0])


def _batches(examples: int, batch_size: int, seeds: int) -> Iterator[np.ndarray]:
    """For each step the examples [seeds, batch_size]: every epoch all of them in a new order, for every technique the
    same."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permuted(np.tile(np.arange(examples, dtype=np.int32), (seeds, 1)), axis=1)
        for i in range(0, examples - batch_size + 1, batch_size):
            yield order[:, i : i + batch_size]
