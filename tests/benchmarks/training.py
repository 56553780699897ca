"""Memory, time of a step, and how well loading is hidden, beside a plain loop: `python -m tests.benchmarks.training`.

Each number is of a process of its own. Memory is the most that was resident, less what was after JAX had begun. The
plain loop is what everybody writes: one jitted step with Optax, run after run, that keeps its losses. Writes the tables
into `benchmarks.md`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrjax as L
from tests.benchmarks.pages import write
from tests.benchmarks.table import Table

SMALL, BIG = (16, 32, 1), (16, 3160, 3160, 3160, 1)  # widths of a network; BIG has 20 million parameters
CASES: dict[str, tuple[tuple[int, ...], int, int]] = {  # widths, runs, steps
    "3 runs of 200,000 steps": (SMALL, 3, 200_000),
    "2,000 runs of 50 steps": (SMALL, 2000, 50),
    "8 rates, 20 million parameters, 20 steps": (BIG, 8, 20),
}
SEARCH = "tune, 20 million parameters, 20 steps"
LOADING, LOADED_STEPS, WIDE = "a loader as slow as a step", 1000, (256, 512, 1)
RANDOM = np.random.default_rng(0)


def task_of(widths: tuple[int, ...], data: Any = None, batch: int = 32) -> L.Task:
    def init(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        layers = zip(jax.random.split(key, len(widths) - 1), widths[:-1], widths[1:], strict=True)
        return [(jax.random.normal(k, (n, m)) * n**-0.5, jnp.zeros(m)) for k, n, m in layers]

    def loss_fn(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        for weights, bias in params[:-1]:
            x = jnp.tanh(x @ weights + bias)
        weights, bias = params[-1]
        return jnp.mean((x @ weights + bias - y) ** 2)

    if data is None:
        x = RANDOM.normal(size=(1024, widths[0])).astype(np.float32)
        return L.Task(loss_fn, init, (x, np.sin(x.sum(axis=1, keepdims=True))), batch_size=batch)
    return L.Task(loss_fn, init, data)


def plain_loop(task: L.Task, rates: np.ndarray, batches: Callable[[], Iterator[Any]], steps: int) -> None:
    """Trains with Adam."""
    tx = optax.inject_hyperparams(optax.adam)(1.0)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(task.loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = np.zeros((len(rates), steps), np.float32)
    for i, rate in enumerate(rates):
        params = task.init(jax.random.key(0))
        state = tx.init(params)
        state.hyperparams["learning_rate"] = jnp.asarray(rate, jnp.float32)
        for t, batch in zip(range(steps), batches(), strict=False):
            params, state, losses[i, t] = step(params, state, batch)


def shuffled(task: L.Task) -> Iterator[Any]:
    """Batches of 32 examples, in a new order each epoch."""
    x, y = task.data
    while True:
        for some in RANDOM.permutation(len(x)).reshape(-1, 32):
            yield x[some], y[some]


def run_case(case: str, who: str) -> dict[str, float]:
    """Memory in MB and milliseconds a step, compilation included."""
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
    before, begin = _peak(), time.perf_counter()
    if case == SEARCH:
        found = L.tune(task_of(BIG), L.adam(1.0), steps=20, progress=False)
        made = found.steps_spent
    else:
        widths, runs, steps = CASES[case]
        task, rates, made = task_of(widths), np.geomspace(1e-4, 1e-2, runs), runs * steps
        if who == "lrjax":
            L.sweep(task, L.adam(rates), steps=steps, progress=False)
        else:
            plain_loop(task, rates, lambda: shuffled(task), steps)
    return {"MB": _peak() - before, "ms": 1e3 * (time.perf_counter() - begin) / made}


def run_loading(who: str) -> dict[str, float]:
    """Seconds of a run over those of its steps alone, whose time is that of loading a batch too."""
    batch = (RANDOM.normal(size=(1024, WIDE[0])).astype(np.float32), np.ones((1024, 1), np.float32))
    seconds_of_step = 0.0

    def load() -> Iterator[Any]:
        while True:
            time.sleep(seconds_of_step)
            yield batch

    task = task_of(WIDE, load)

    def run(steps: int) -> float:
        begin = time.perf_counter()
        if who == "lrjax":
            L.train(task, L.adam(1e-3), steps=steps, progress=False)
        else:
            plain_loop(task, np.array([1e-3]), load, steps)
        return time.perf_counter() - begin

    run(10)
    compiling = run(1)  # what is not a matter of steps
    seconds_of_step = (run(301) - compiling) / 300
    return {"ratio": (run(LOADED_STEPS) - compiling) / (LOADED_STEPS * seconds_of_step)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(case: str, who: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.training", "--case", case, "--who", who]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training", description=__doc__)
    parser.add_argument("--case", choices=[*CASES, SEARCH, LOADING], help="only this one, in this process")
    parser.add_argument("--who", choices=["lrjax", "loop"], default="lrjax")
    chosen = parser.parse_args()
    if chosen.case is not None:
        found = run_loading(chosen.who) if chosen.case == LOADING else run_case(chosen.case, chosen.who)
        print(json.dumps(found))
        return
    sizes = Table("Memory and time", "Adam", ["memory, MB", "plain loop", "ms a step", "plain loop, ms"])
    for case in (*CASES, SEARCH):
        ours = measured(case, "lrjax")
        row = {"memory, MB": ours["MB"], "ms a step": ours["ms"]}
        if case in CASES:
            theirs = measured(case, "loop")
            row |= {"plain loop": theirs["MB"], "plain loop, ms": theirs["ms"]}
        sizes.add(case, row)
    loading = Table("Loading", "time over that of the steps alone", ["lrjax", "plain loop"])
    loading.add(
        LOADING, {"lrjax": measured(LOADING, "lrjax")["ratio"], "plain loop": measured(LOADING, "loop")["ratio"]}
    )
    report = f"{sizes.markdown()}\n\n{loading.markdown()}"
    print(f"\n{report}")
    write("benchmarks.md", "training", report)


if __name__ == "__main__":
    main()
