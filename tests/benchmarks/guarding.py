"""How runs end at rates that are too high, and with faults, without and with `guard`, and beside what else there is:
`python -m tests.benchmarks.guarding`.

Every run is judged by its loss on a fixed part of the data before its first and after its last step. It ends worse than
it began if that loss is higher, or not finite. It was healthy if without a guard it ends within a tenth of the lowest
loss of its optimizer on the task, over all rates. Writes its tables into `guarding.md`.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrjax as L
from tests.benchmarks.models import tasks
from tests.benchmarks.pages import write

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
    "optax.apply_if_finite(5)": lambda tx: optax.apply_if_finite(tx, 5),
    "skip_spikes": L.skip_spikes,
    "clip_by_zscore": lambda tx: L.chain(L.clip_by_zscore(), tx),
    "clip_by_global_norm(1)": lambda tx: L.chain(L.clip_by_global_norm(1.0), tx),
}
FAULTS = ("nan batch", "inf gradient", "gradient of 100×", "corrupted every 50", "flipped for 20", "nan in the state")
AT = 150  # the step of a fault
FAULTS_RATE, SEEDS = 1e-3, 8
# parameters, layers, batch, steps in one call
SIZES = [(10_000_000, 10, 128, 40), (10_000_000, 10, 1024, 10), (10_000, 4, 128, 2000)]


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

    @property
    def before(self) -> float:
        return float(self.loss_fn(self.init(jax.random.key(0)), self.fixed))

    def sweep(self, make: Callable[[Any], Any], rates: Any, **options: Any) -> tuple[np.ndarray, L.SweepResult]:
        """([rates, seeds]: the loss on the fixed part after the last step, all results)."""
        task = L.Task(self.loss_fn, self.init, self.examples, batch_size=self.batch_size, validation=self.fixed)
        options = {"keep": None, "progress": False, **options}
        result = L.sweep(task, make, learning_rates=rates, steps=self.steps, **options)
        return next(iter(result.metrics.values()))[..., -1], result


def settings(quick: bool) -> dict[str, Setting]:
    found, part = tasks(), 2 if quick else 1
    is_text = lambda key: "text" in key
    return {
        n: Setting(*found[k], (200 if is_text(k) else 300) // part, 8 if is_text(k) else 32) for n, k in TASKS.items()
    }


def at_all_rates(chosen: dict[str, Setting], optimizers: list[str]) -> str:
    """The share of runs that end worse than they began."""
    lines = [f"| task | runs | {' | '.join(WAYS)} |", f"|---|---|{'---|' * len(WAYS)}"]
    worse: dict[str, list[bool]] = {way: [] for way in WAYS}
    for name, setting in chosen.items():
        before, here = setting.before, {way: [] for way in WAYS}
        for optimizer in optimizers:
            ends, make = {}, OPTIMIZERS[optimizer]
            for way, wrap in WAYS.items():
                ends[way] = setting.sweep(lambda rate, wrap=wrap, make=make: wrap(make(rate)), RATES)[0][:, 0]
                here[way] += (~(ends[way] <= before)).tolist()
            print(name, optimizer, {way: np.round(x, 3).tolist() for way, x in ends.items()}, flush=True)
        lines.append(f"| {name} | {len(here['alone'])} | {' | '.join(f'{np.mean(x):.0%}' for x in here.values())} |")
        print(lines[-1], flush=True)
        for way in WAYS:
            worse[way] += here[way]
    lines.append(f"| all | {len(worse['alone'])} | {' | '.join(f'{np.mean(x):.1%}' for x in worse.values())} |")
    return "\n".join(lines)


def healthy_runs(chosen: dict[str, Setting], optimizers: list[str]) -> str:
    """What the guard costs where all is well: it may skip a batch, or return, for nothing."""
    lines = ["| task | runs | the guard acted in | mean loss with it |", "|---|---|---|---|"]
    for name, setting in chosen.items():
        before, here = setting.before, []
        for optimizer in optimizers:
            make = OPTIMIZERS[optimizer]
            ends, result = setting.sweep(make, RATES, stop_when_diverged=False)
            highest = np.max(np.nan_to_num(result.losses[:, 0], nan=np.inf), axis=1)
            is_low = ends[:, 0] <= 1.1 * np.nanmin(ends[:, 0])
            healthy = RATES[is_low & (highest <= 3 * result.losses[:, 0, 0])]
            if not len(healthy):
                continue
            alone, guarded = (
                setting.sweep(lambda rate, wrap=wrap, make=make: wrap(make(rate)), healthy, seeds=SEEDS, keep="all")
                for wrap in (WAYS["alone"], WAYS["guard"])
            )
            reports = [[run.guard for run in runs] for runs in guarded[1].runs]
            acted = np.array([[report.skipped + report.returns > 0 for report in row] for row in reports])
            here += [np.stack(x) for x in zip(alone[0], guarded[0], acted, strict=True)]  # [3, seeds] each
            print(name, optimizer, healthy, [np.round(x, 4).tolist() for x in here[-len(healthy) :]], flush=True)
        lines.append(f"| {name} | {_cost_of(here, before)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _cost_of(found: list[np.ndarray], before: float) -> str:
    alone, guarded, acted = np.stack(found, axis=1)  # [settings, seeds]
    is_healthy = alone <= before  # not where another seed diverges
    mean = lambda x: np.maximum(np.mean(x, axis=1, where=is_healthy), before / 1000)  # below that it is as good as 0
    logs = np.log(mean(guarded) / mean(alone))
    cost, error = np.mean(logs), np.std(logs) / max(len(logs) - 1, 1) ** 0.5
    return f"{is_healthy.sum()} | {int(acted[is_healthy].sum())} | {np.expm1(cost):+.1%} ± {error:.1%}"


def faulty_runs(setting: Setting, tx: Any) -> np.ndarray:
    """[1 + faults, seeds]: the loss on the fixed part after a clean run, and after one with each of the faults."""
    size, number = setting.batch_size, len(jax.tree.leaves(setting.examples)[0])
    examples = jax.tree.map(jnp.asarray, setting.examples)

    def harmed(tree: Any, harm: Callable[[Any], Any], at: Any) -> Any:
        one = lambda x: jnp.where(at, harm(x), x) if jnp.issubdtype(x.dtype, jnp.inexact) else x
        return jax.tree.map(one, tree)

    @jax.jit
    def run(fault: Any, seed: Any) -> Any:
        params = setting.init(jax.random.key(seed))
        order = jax.random.permutation(jax.random.key(seed + 100), number)
        step = partial(step_of, fault, jax.tree.map(lambda x: x[order], examples))
        params, state = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(2 * setting.steps))[0]
        return setting.loss_fn(L.evaluation_params(state, params), setting.fixed)

    def step_of(fault: Any, data: Any, carry: Any, i: Any) -> tuple[Any, None]:
        params, state = carry
        at = (jnp.arange(size) + size * i) % number
        x, y = jax.tree.map(lambda a: a[at], data)
        now = lambda name: (fault == FAULTS.index(name)) & (i == AT)
        x = harmed(x, lambda a: jnp.nan, now("nan batch"))
        x = harmed(x, lambda a: 100 * a, (fault == FAULTS.index("corrupted every 50")) & (i % 50 == 49))
        is_flipped = (fault == FAULTS.index("flipped for 20")) & (i >= AT) & (i < AT + 20)
        y = jnp.where(is_flipped, 9 - y if jnp.issubdtype(y.dtype, jnp.integer) else -y, y)
        state = with_a_nan(state, now("nan in the state"))
        loss, grads = jax.value_and_grad(setting.loss_fn)(params, (x, y))
        grads = harmed(grads, lambda g: jnp.inf, now("inf gradient"))
        grads = harmed(grads, lambda g: 100 * g, now("gradient of 100×"))
        extra = {"value": loss, "value_fn": lambda params: setting.loss_fn(params, (x, y))}  # as `train` gives them
        updates, state = L.with_extra_args_support(tx).update(grads, state, params, **extra)
        return (L.apply_updates(params, updates), state), None

    seeds = range(SEEDS)
    return np.array([[float(run(fault, seed)) for seed in seeds] for fault in range(-1, len(FAULTS))])


def with_a_nan(state: Any, at: Any) -> Any:
    """The state with one nan in Adam's first moment; not in what a guard has stored of it."""
    if isinstance(state, L.GuardState):
        return state._replace(inner_state=with_a_nan(state.inner_state, at))
    is_adam = lambda x: isinstance(x, L.ScaleByAdamState)
    poisoned = lambda m: jnp.where(at, m.at[(0,) * m.ndim].set(jnp.nan), m)
    one = lambda x: x._replace(mu=jax.tree.map(poisoned, x.mu)) if is_adam(x) else x
    return jax.tree.map(one, state, is_leaf=is_adam)


def with_faults(chosen: dict[str, Setting]) -> str:
    """The mean loss of the runs with a fault over that of the clean runs of the same way."""
    lines = [f"| task | fault | {' | '.join(WAYS)} |", f"|---|---|{'---|' * len(WAYS)}"]
    for name, setting in chosen.items():
        if not isinstance(setting.examples, tuple):
            continue  # whole numbers can't be nan
        ends = np.array([faulty_runs(setting, wrap(L.adam(FAULTS_RATE))).mean(axis=1) for wrap in WAYS.values()])
        for fault, row in zip(FAULTS, (ends[:, 1:] / ends[:, :1]).T, strict=True):
            lines.append(f"| {name} | {fault} | {' | '.join(f'{x:.2f}' for x in row)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def times_of_a_step() -> str:
    return "\n".join(
        ["| network | batch | alone | guard | more |", "|---|---|---|---|---|", *map(time_of_a_step, SIZES)]
    )


def time_of_a_step(size: tuple[int, int, int, int], rounds: int = 7) -> str:
    """Microseconds of a compiled step of Adam for a network of so many parameters, in turns; the medians."""
    numbers, layers, batch, steps = size
    width = round((numbers / layers) ** 0.5)
    params = [jax.random.normal(k, (width, width)) * width**-0.5 for k in jax.random.split(jax.random.key(0), layers)]
    x = jax.random.normal(jax.random.key(1), (batch, width))

    def loss_fn(params: Any, x: Any) -> Any:
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def steps_of(tx: Any) -> Any:
        @partial(jax.jit, donate_argnums=(0, 1))
        def run(params: Any, state: Any) -> Any:
            def step(carry: Any, _: Any) -> Any:
                params, state = carry
                loss, grads = jax.value_and_grad(loss_fn)(params, x)
                updates, state = tx.update(grads, state, params, value=loss)
                return (L.apply_updates(params, updates), state), loss

            return jax.lax.scan(step, (params, state), None, length=steps)[0]

        return run

    ways = {"alone": L.adam(1e-5), "guard": L.guard(L.adam(1e-5))}
    runs, seconds = {way: steps_of(tx) for way, tx in ways.items()}, {way: [] for way in ways}
    state = {way: (jax.tree.map(jnp.copy, params), tx.init(params)) for way, tx in ways.items()}
    for _ in range(rounds + 1):
        for way, run in runs.items():
            begin = time.perf_counter()
            state[way] = jax.block_until_ready(run(*state[way]))
            seconds[way].append((time.perf_counter() - begin) / steps)
    alone, guarded = (1e6 * statistics.median(x[1:]) for x in seconds.values())
    made = sum(p.size for p in params)
    return f"| {made:,} parameters | {batch} | {alone:,.0f} µs | {guarded:,.0f} µs | {guarded / alone - 1:+.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.guarding", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half the steps and three optimizers; page unchanged")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="only this one; page unchanged")
    parser.add_argument(
        "--only", choices=["rates", "healthy", "faults", "time"], help="only this table; page unchanged"
    )
    chosen = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", CORES)
    given = {n: s for n, s in settings(chosen.quick).items() if n in (chosen.task or TASKS)}
    optimizers = ["sgd", "adam", "lion"] if chosen.quick else list(OPTIMIZERS)
    makers: dict[str, Callable[[], str]] = {
        "rates": lambda: at_all_rates(given, optimizers),
        "healthy": lambda: healthy_runs(given, optimizers),
        "faults": lambda: with_faults(given),
        "time": times_of_a_step,
    }
    for name, make in makers.items():
        if chosen.only in (None, name):
            report = make()
            print(f"\n{report}\n", flush=True)
            if not (chosen.quick or chosen.task):
                write(PAGE, name, report)


if __name__ == "__main__":
    main()
