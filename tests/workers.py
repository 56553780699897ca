"""What the tests of threads, processes and memory run elsewhere: in threads, and in processes of their own."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrjax as L

ROOT = Path(__file__).parent.parent

MAKE: dict[str, Callable[[], Any]] = {
    "adam": lambda: L.adam(1e-3),
    "schedules": lambda: L.adamw((L.cosine_decay_schedule(0.1, 9) * 0.5).warmup(2), b1=L.linear_schedule(0.9, 0.8, 9)),
    "chain": lambda: L.chain(L.clip_by_global_norm(1.0), L.named_chain(("lion", L.lion(0.1)))),
    "tree of rates": lambda: L.sgd({"w": 0.1, "b": L.linear_schedule(0.1, 0.0, 5)}),
    "groups": lambda: L.partition({"a": L.sgd(L.by_path({"": 0.1})), "b": L.rmsprop(0.2)}, {"w": "a", "b": "b"}),
    "packed": lambda: L.packed(L.adam(0.1)),
    "injected": lambda: L.inject_hyperparams(L.adam)(L.rex_schedule(0.1, 10)),
    "accumulated": lambda: L.MultiSteps(L.masked(L.sgd(0.1), {"w": True, "b": False}), 2),
}
FOREIGN: dict[str, Callable[[], Any]] = {
    "a lambda": lambda: L.adam(lambda step: 0.1 / (1 + step)),
    "a schedule of Optax": lambda: L.inject_hyperparams(L.sgd)(optax.cosine_decay_schedule(0.1, 10)),
    "a transformation of Optax": lambda: L.chain(optax.scale_by_adam(), L.scale_by_learning_rate(0.1)),
    "a mask": lambda: L.adamw(0.1, mask=lambda params: {"w": True, "b": False}),
    "a factory of Optax": lambda: L.chain(L.inject_hyperparams(optax.scale_by_adam)(b1=0.8), L.sgd(0.1)),
}


def use(tx: Any) -> dict[str, Any]:
    """Two updates, eager and compiled, and the rates on the way, as NumPy's arrays."""
    params = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
    results = {}
    for kind, update in (("eager", tx.update), ("compiled", jax.jit(tx.update))):
        p, state, rates = params, tx.init(params), []
        for _ in range(2):
            updates, state = update(p, state, p)
            p = L.apply_updates(p, updates)
            rates.append(L.get_learning_rate(state))
        results[kind] = jax.tree.map(np.asarray, {"params": p, "rates": rates})
    return results


def used(tx: Any) -> dict[str, Any]:
    """In a process, whose settings are JAX's own: what the tests' own settings allow, too."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return use(tx)


def returned(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    return values, {name: repr(value) for name, value in values.items()}


def read_config(configs: dict[str, str]) -> dict[str, Any]:
    return {name: L.from_config(json.loads(config)) for name, config in configs.items()}


def use_all(make: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: use(one()) for name, one in make.items()}


def assert_same(results: Any, expected: Any) -> None:
    """Bit for bit: the same programs on the same machine."""
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, results, expected)


def in_threads(work: Callable[[int], Any], n: int) -> list[Any]:
    """The results of `work(i)` for n threads that begin at the same moment; the first error is raised here."""
    barrier, results, errors = threading.Barrier(n), [None] * n, []

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns as often as they can
    try:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    return results


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a new process prints; an error of its is one here."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environ, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def in_two_processes(program: str, *arguments: str) -> None:
    """Runs a program twice, with the arguments (its number, the port at which the two meet, and these)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = lambda number: [sys.executable, "-c", program, str(number), port, *arguments]
    processes = [subprocess.Popen(command(number), stderr=subprocess.PIPE, text=True) for number in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
