"""32 rates of Adam, 300 steps of a network on digits, as one sweep and as the loops that people write.

Each way runs in a process of its own, `python -m tests.benchmarks.sweeps WAY`, which prints its seconds: cold, from the
first call with nothing compiled, and for the sweep warm, other rates. The loops compile anew for every rate, so for
them there is no warm. Imports and the start of the parameters aren't counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tests.benchmarks.pytorch import device, installed
from tests.benchmarks.table import Table

RATES, STEPS, BATCH = np.geomspace(1e-5, 1, 32), 300, 64
RUNS = (1, 4, 16, 64, 256, 1024)
LONGER = (100, 1000, 3000)
CORES = 2
MODELS = ("linear", "shallow", "wide", "deep", "convolution", "recurrent, text", "transformer, text")


def measure(quick: bool) -> list[Table]:
    numbers = by_number(RUNS[:4] if quick else RUNS, LONGER[:2] if quick else LONGER)
    loops, runs = beside_loops(1 if quick else 5), beside_scan(("shallow", "wide"))
    return [loops, runs, numbers, at_once(("shallow", "wide") if quick else MODELS)]


def beside_loops(rounds: int) -> Table:
    """Ratios of medians; the ways take turns."""
    ways = ["lrjax", "lrjax, init", "optax", *(["torch"] if installed() else [])]
    seconds: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            seconds[way].append(_in_new_process(way))
    cold = {way: statistics.median(times[0] for times in seconds[way]) for way in ways}
    warm = statistics.median(times[1] for times in seconds["lrjax"])
    others = [way for way in ways if not way.startswith("lrjax")]
    table = Table("A sweep of 32 rates, 300 steps each, and the loop over them", "sweep", [f"{w} loop" for w in others])
    table.add("cold", {f"{way} loop": cold["lrjax"] / cold[way] for way in others})
    table.add("cold, `init` too", {f"{way} loop": cold["lrjax, init"] / cold[way] for way in others})
    table.add("warm, other rates", {f"{way} loop": warm / cold[way] for way in others})
    table.goals |= {
        ("cold", "optax loop"): 1 / 15,
        ("warm, other rates", "optax loop"): 1 / 40,
        ("cold", "torch loop"): 1 / 8,
    }
    return table


def beside_scan(models: tuple[str, ...]) -> Table:
    """One run of the engine, beside the `lax.scan` that one would write."""
    title = "`train`, beside a jitted `lax.scan` by hand; both evaluate 10 times and record the rate"
    table = Table(title, "model", ["time", "µs a step"])
    for model, ratio, microseconds in _in_new_process("scan", "--models", *models):
        table.add(model, {"time": ratio, "µs a step": microseconds})
    table.goals[("wide", "time")] = 1.05
    return table


def _in_new_process(*arguments: str) -> list[Any]:
    command = [sys.executable, "-m", "tests.benchmarks.sweeps", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def by_number(runs: tuple[int, ...], steps: tuple[int, ...]) -> Table:
    """What more runs and more steps cost, and that they compile nothing."""
    table = Table(
        "A sweep of many runs, beside one of 1 run of 100 steps", "runs × steps", ["time", "programs compiled"]
    )
    for case, time_ratio, programs in _in_new_process(
        "numbers", "--runs", *map(str, runs), "--steps", *map(str, steps)
    ):
        table.add(case, {"time": time_ratio, "programs compiled": programs})
    return table


def at_once(models: tuple[str, ...]) -> Table:
    """Whether a CPU should vectorise runs."""
    title = "16 runs on two CPU devices, 8 vectorised on each, beside one after the other"
    table = Table(title, "model", ["time", "time to compile"])
    for model, seconds, compiling in _in_new_process("at once", "--models", *models):
        table.add(model, {"time": seconds, "time to compile": compiling})
    return table


def timed(run: Callable[[np.ndarray], Any], *batches: np.ndarray) -> list[float]:
    seconds = []
    for rates in batches:
        begin = time.perf_counter()
        run(rates)
        seconds.append(time.perf_counter() - begin)
    return seconds


def swept(with_init: bool) -> list[float]:
    import lrjax as L
    from lrjax.tasks.digits import digits

    jax.config.update("jax_num_cpu_devices", CORES)
    made = digits()
    start = made.init if with_init else jax.block_until_ready(made.init(jax.random.key(0)))
    task = L.Task(made.loss_fn, start, made.data, batch_size=BATCH)
    run = lambda rates: L.sweep(task, L.adam(rates), steps=STEPS, progress=False).best_learning_rate
    return timed(run, RATES, RATES * 1.1)


def looped_with_optax() -> list[float]:
    import optax

    from lrjax.tasks.digits import digits

    task = digits()
    x, y = task.data
    start = jax.block_until_ready(task.init(jax.random.key(0)))

    def run(rates: np.ndarray) -> float:
        rng, final = np.random.default_rng(0), []
        for rate in rates:
            tx = optax.adam(rate)

            @jax.jit
            def step(params: Any, state: Any, batch: Any, tx: Any = tx) -> Any:
                loss, grads = jax.value_and_grad(task.loss_fn)(params, batch)
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state, loss

            params, state, losses = start, tx.init(start), []
            for _ in range(STEPS):
                chosen = rng.integers(0, len(x), BATCH)
                params, state, loss = step(params, state, (x[chosen], y[chosen]))
                losses.append(loss)
            final.append(np.mean(jax.device_get(losses[-30:])))
        return rates[np.nanargmin(final)]

    return timed(run, RATES)


def looped_with_torch() -> list[float]:
    import torch

    from lrjax.tasks.digits import digits

    task, where = digits(), device()
    x, y = torch.from_numpy(task.data[0]).to(where), torch.from_numpy(task.data[1]).long().to(where)
    linear, relu = torch.nn.Linear, torch.nn.ReLU

    def run(rates: np.ndarray) -> float:
        final = []
        for rate in rates:
            torch.manual_seed(0)
            model = torch.nn.Sequential(linear(64, 64), relu(), linear(64, 32), relu(), linear(32, 10)).to(where)
            optimizer = torch.optim.Adam(model.parameters(), lr=float(rate))
            losses = []
            for _ in range(STEPS):
                chosen = torch.randint(0, len(x), (BATCH,), device=where)
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            final.append(torch.stack(losses[-30:]).mean().item())
        return rates[np.nanargmin(final)]

    return timed(run, RATES)


def numbers(runs: list[int], steps: list[int]) -> list[Any]:
    import lrjax as L
    from lrjax.tasks.digits import digits

    jax.config.update("jax_num_cpu_devices", CORES)
    made, programs = digits(), []
    task = L.Task(made.loss_fn, made.init, made.data, batch_size=BATCH)
    names = ("start", "advance")
    note = lambda event, duration, fun_name="", **_: event.endswith("backend_compile_duration") and any(
        name in fun_name for name in names
    ) and programs.append(fun_name)  # fmt: skip
    jax.monitoring.register_event_duration_secs_listener(note)

    def seconds(runs: int, steps: int) -> float:
        begin = time.perf_counter()
        rates = np.geomspace(1e-5, 1e-2, runs)
        L.sweep(task, L.adam(rates), steps=steps, progress=False, mesh=jax.make_mesh((len(jax.devices()),), ("runs",)))
        return time.perf_counter() - begin

    seconds(1, 100)
    one = statistics.median(seconds(1, 100) for _ in range(5))
    cases = [(n, 100) for n in runs] + [(32, t) for t in steps]
    return [(f"{n:,} × {t:,}", seconds(n, t) / one, len(programs)) for n, t in cases]


def vectorised(models: list[str]) -> list[Any]:
    import lrjax as L
    from lrjax.tasks.base import mlp_init
    from tests.benchmarks.models import tasks

    jax.config.update("jax_num_cpu_devices", CORES)
    cases = tasks()
    cases["wide"] = (mlp_init((64, 512, 512, 10)), *cases["shallow"][1:])

    def seconds(model: str, together: int, steps: int) -> float:
        (init, loss_fn, examples), begin = cases[model], time.perf_counter()
        rates = np.geomspace(1e-5, 1e-2, 16)
        task = L.Task(loss_fn, init, examples, batch_size=16)
        L.sweep(task, L.adam(rates), steps=steps, runs_per_device=together, progress=False)
        return time.perf_counter() - begin

    rows = []
    for model in models:
        cold = [seconds(model, together, 1) for together in (1, 8)]
        steps = max(10, min(400, int(10 / seconds(model, 1, 10))))  # about a second
        warm = [[seconds(model, together, steps) for together in (1, 8)] for _ in range(5)]
        one, eight = map(statistics.median, zip(*warm, strict=True))
        rows.append((model, eight / one, cold[1] / cold[0]))
    return rows


def scanned(models: list[str]) -> list[Any]:
    import jax.numpy as jnp

    import lrjax as L
    from lrjax.tasks.base import mlp_init
    from tests.benchmarks.models import tasks

    cases, steps, every = tasks(), 1000, 100
    cases["wide"] = (mlp_init((64, 512, 512, 10)), *cases["shallow"][1:])
    tx = L.adam(L.cosine_decay_schedule(1e-3, steps))

    def by_hand(task: L.Task) -> Callable[[], Any]:
        """The loop that one would write: evaluated as often, and with the rate read at every step."""
        (x, _), examples, validation = task.data, jax.device_put(task.data), jax.device_put(task.validation)
        order = jnp.stack([np.random.default_rng(i).permutation(len(x))[:BATCH] for i in range(steps)])

        @jax.jit
        def run(examples: Any, validation: Any, order: Any) -> Any:
            def step(carry: Any, index: Any) -> Any:
                params, state = carry
                batch = jax.tree.map(lambda x: x[index], examples)
                loss, grads = jax.value_and_grad(task.loss_fn)(params, batch)
                updates, state = tx.update(grads, state, params)
                return (L.apply_updates(params, updates), state), (loss, L.get_learning_rate(state))

            def part(carry: Any, order: Any) -> Any:
                carry, found = jax.lax.scan(step, carry, order)
                return carry, (*found, task.loss_fn(carry[0], validation))

            params = task.init(jax.random.key(0))
            return jax.lax.scan(part, (params, tx.init(params)), order.reshape(-1, every, BATCH))

        return lambda: jax.block_until_ready(run(examples, validation, order))

    def compared(model: str) -> tuple[str, float, float]:
        init, loss_fn, (x, y) = cases[model]
        task = L.Task(loss_fn, init, (x, y), batch_size=BATCH, validation=(x[:360], y[:360]))
        ways = (lambda: L.train(task, tx, steps=steps, eval_every=every, progress=False), by_hand(task))
        seconds: list[list[float]] = [[], []]
        for i in range(8):
            for way, times in zip(ways, seconds, strict=True):
                begin = time.perf_counter()
                way()
                times += [time.perf_counter() - begin] if i else []  # the first compiles
        ours, theirs = map(statistics.median, seconds)
        return model, ours / theirs, 1e6 * theirs / steps

    return [compared(model) for model in models]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sweeps", description=__doc__)
    parser.add_argument(
        "way", nargs="?", choices=["lrjax", "lrjax, init", "optax", "torch", "numbers", "at once", "scan"]
    )
    parser.add_argument("--runs", type=int, nargs="*", default=RUNS)
    parser.add_argument("--steps", type=int, nargs="*", default=LONGER)
    parser.add_argument("--models", nargs="*", default=MODELS)
    chosen = parser.parse_args()
    match chosen.way:
        case "lrjax" | "lrjax, init":
            print(json.dumps(swept(with_init=chosen.way != "lrjax")))
        case "optax":
            print(json.dumps(looped_with_optax()))
        case "torch":
            print(json.dumps(looped_with_torch()))
        case "numbers":
            print(json.dumps(numbers(chosen.runs, chosen.steps)))
        case "scan":
            print(json.dumps(scanned(chosen.models)))
        case "at once":
            print(json.dumps(vectorised(chosen.models)))
        case _:
            for table in measure(quick=False):
                print(f"\n{table.markdown()}\n{table.missed()}")


if __name__ == "__main__":
    main()
