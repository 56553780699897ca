"""Trains one model with every technique of the field, each family of optimizers in one compiled program."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.optimizers.adaptive import adagrad, adam, rmsprop
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
from lrjax.transforms.base import GradientTransformation, apply_updates

TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "diabetes": diabetes}

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
        (FIXED, "fixed, too low", constant_schedule(rate / 300)),
        (FIXED, "fixed, well chosen", constant_schedule(rate)),
        (FIXED, "fixed, too high", constant_schedule(rate * 60)),
        (DECAYS, "step decay", step_decay(2 * rate, third, 0.3)),
        (DECAYS, "exponential decay", exponential_decay(2 * rate, steps, 0.03)),
        (DECAYS, "polynomial decay", polynomial_schedule(2 * rate, 0.0, 2, steps)),
        (DECAYS, "inverse-time decay", inverse_time_decay(2 * rate, steps, 8.0)),
        (CYCLES, "cyclic, triangular", cyclic_schedule(rate / 10, 2 * rate, max(steps // 8, 1))),
        (CYCLES, "cosine, warm restarts", cosine_restarts_schedule(2 * rate, third)),
        (CYCLES, "cosine with warmup", warmup_cosine_decay_schedule(0.0, 2 * rate, steps // 10, steps)),
        (CYCLES, "warmup–stable–decay", _trapezoid(2 * rate, steps)),
        (CYCLES, "one cycle", cosine_onecycle_schedule(max(steps, 2), 3 * rate)),
    ]
    adagrad_rate, rmsprop_rate, adam_rate = (task.adaptive_rates[n] for n in ("adagrad", "rmsprop", "adam"))
    adaptive = [
        ("AdaGrad", "adagrad", adagrad_rate, adagrad),
        ("RMSprop", "rmsprop", rmsprop_rate, lambda s: rmsprop(s, momentum=0.0)),
        ("RMSprop, momentum", "rmsprop", rmsprop_rate / 4, lambda s: rmsprop(s, momentum=0.9)),
        ("Adam, no momentum", "adam", adam_rate / 2, lambda s: adam(s, b1=0.0)),
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
    losses: np.ndarray  # [techniques, seeds, steps]: of each batch, before its update
    train_loss: np.ndarray  # [techniques, seeds]: of all training examples, after the last update
    metric: np.ndarray  # [techniques, seeds, evaluations]: of the test examples
    evaluated_at: np.ndarray  # [evaluations]: updates made before each

    @property
    def diverged(self) -> np.ndarray:
        """[techniques, seeds]: whether the loss stopped being finite, or rose to twice its start and stayed up."""
        start = self.losses[:, :, 0]
        finite = np.isfinite(self.losses).all(axis=2) & np.isfinite(self.train_loss)
        rose = np.nan_to_num(self.losses, nan=np.inf).max(axis=2) > 2 * start
        return ~finite | (rose & ~(self.train_loss < 0.9 * start))

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
    chunk = _chunk(steps)
    families = list(dict.fromkeys(t.family for t in listed))
    done, parts = 0, {}
    for family in families:
        members = [i for i, t in enumerate(listed) if t.family == family]
        txs = [listed[i].optimizer(tabulated_schedule(curves[i])) for i in members]
        batch = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x, float) for x in leaves]), *txs)
        collected = []
        for part in _train(task, batch, len(members), seeds, steps, chunk):
            collected.append(part)
            done += chunk
            progress(done, steps * len(families))
        parts.update(zip(members, _by_run(collected), strict=True))
    losses, train_loss, metric = (np.stack([parts[i][k] for i in range(len(listed))]) for k in range(3))
    at = np.arange(1, steps // chunk + 1) * chunk
    return Comparison(task, listed, np.stack(curves), losses, train_loss, metric, at)


def _chunk(steps: int) -> int:
    """The largest divisor of `steps` that makes at least about forty chunks: each chunk is the same program."""
    return max(d for d in range(1, max(steps // 40, 1) + 1) if steps % d == 0)


def _by_run(parts: list[Any]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    losses = np.concatenate([p[0] for p in parts], axis=2)
    train_loss, metric = parts[-1][1], np.stack([p[2] for p in parts], axis=2)
    return zip(losses, train_loss, metric, strict=True)


def _train(task: Task, txs: Any, runs: int, seeds: int, steps: int, chunk: int) -> Iterator[Any]:
    """Yields (losses [runs, seeds, chunk], train loss [runs, seeds], metric [runs, seeds]) of each chunk."""
    train, test = jax.device_put((task.train, task.test))
    keys = jax.random.split(jax.random.key(0), seeds)

    def start(tx: Any, key: jax.Array) -> Any:
        params = task.init(key)
        return params, tx.init(params)

    def run_chunk(tx: Any, carry: Any, batches: jax.Array) -> Any:
        def step(carry: Any, batch: jax.Array) -> Any:
            params, state = carry
            loss, grads = jax.value_and_grad(task.loss_fn)(params, jax.tree.map(lambda x: x[batch], train))
            updates, state = tx.update(grads, state, params)
            return (apply_updates(params, updates), state), loss

        carry, losses = jax.lax.scan(step, carry, batches)
        params = carry[0]
        return carry, (losses, task.loss_fn(params, train), task.metric_fn(params, test))

    over_runs_and_seeds = jax.vmap(jax.vmap(run_chunk, (None, 0, 0)), (0, 0, None))
    program = jax.jit(over_runs_and_seeds, donate_argnums=1)
    carry = jax.jit(jax.vmap(jax.vmap(start, (None, 0)), (0, None)))(txs, keys)
    order = _batches(len(task.train[0]), task.batch_size, seeds, steps)
    for i in range(0, steps, chunk):
        carry, out = program(txs, carry, order[:, i : i + chunk])
        yield jax.tree.map(np.asarray, out)


def _batches(examples: int, batch_size: int, seeds: int, steps: int) -> np.ndarray:
    """[seeds, steps, batch_size] indices: every epoch a new order of all examples, the same for every technique."""
    per_epoch = examples // batch_size
    epochs = -(-steps // per_epoch)
    rng = np.random.default_rng(0)
    orders = [
        [rng.permutation(examples)[: per_epoch * batch_size].reshape(per_epoch, batch_size) for _ in range(epochs)]
        for _ in range(seeds)
    ]
    return np.asarray(orders).reshape(seeds, -1, batch_size)[:, :steps]
