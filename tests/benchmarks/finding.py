"""How often `tune`, and fastai's rules, find the rate that a full grid finds: `python -m tests.benchmarks.finding`.

The truth of a setting is a sweep of 25 rates on the whole run with 3 seeds, others than those of `tune`. A rate is
right when it is within a factor of 3 of the best one, or its loss within 5 % of the lowest. `tune` is charged for every
step that it makes.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrjax as L
from lrjax.tasks.base import mlp, mlp_init
from lrjax.tasks.diabetes import diabetes
from lrjax.tasks.digits import digits

STEPS, SEEDS, BATCH = 300, 3, 32
RATES = np.geomspace(1e-7, 10, 25)
RULES = ("valley", "slide", "steep", "minimum")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def cnn_init(key: jax.Array) -> Any:
    a, b, c = jax.random.split(key, 3)
    shapes = ((a, (8, 1, 3, 3), 0.33), (b, (16, 8, 3, 3), 0.17), (c, (64, 10), 0.12))
    return [jax.random.normal(key, shape) * scale for key, shape, scale in shapes]


def cnn(params: Any, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, 1, 8, 8)
    for kernel in params[:2]:
        x = jax.nn.relu(jax.lax.conv(x, kernel, (2, 2), "SAME"))
    return x.reshape(len(x), -1) @ params[2]


def rnn_init(key: jax.Array) -> Any:
    shapes = ((8, 32), (32, 32), (32, 10))
    keys = jax.random.split(key, 3)
    return [jax.random.normal(k, s) * s[0] ** -0.5 for k, s in zip(keys, shapes, strict=True)]


def rnn(params: Any, x: jax.Array) -> jax.Array:
    """Over the rows of a picture."""
    inward, across, out = params
    step = lambda h, row: (jnp.tanh(row @ inward + h @ across), None)
    h, _ = jax.lax.scan(step, jnp.zeros((len(x), 32)), x.reshape(-1, 8, 8).transpose(1, 0, 2))
    return h @ out


def attention_init(key: jax.Array) -> Any:
    shapes = ((8, 24), (24, 72), (24, 48), (48, 24), (24, 10))
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s) * s[0] ** -0.5 for k, s in zip(keys, shapes, strict=True)]


def attention(params: Any, x: jax.Array) -> jax.Array:
    """A Transformer's layer, over the rows of a picture."""
    embed, qkv, up, down, out = params
    h = x.reshape(-1, 8, 8) @ embed + jnp.sin(jnp.arange(8.0)[:, None] * jnp.arange(1.0, 25.0))
    q, k, v = jnp.split(h @ qkv, 3, axis=-1)
    h = h + jax.nn.softmax(q @ k.transpose(0, 2, 1) * 24**-0.5) @ v
    h = h + jax.nn.gelu(h @ up) @ down
    return h.mean(axis=1) @ out


def tasks() -> dict[str, tuple[Any, Any, Any]]:
    """By name (init, loss_fn, examples)."""
    pictures, patients = digits().train, diabetes()

    def classifier(init: Any, model: Callable[[Any, jax.Array], jax.Array]) -> tuple[Any, Any, Any]:
        return init, lambda params, batch: cross_entropy(model(params, batch[0]), batch[1]), pictures

    return {
        "linear": classifier(mlp_init((64, 10)), mlp),
        "shallow": classifier(mlp_init((64, 64, 10)), mlp),
        "deep": classifier(mlp_init((64, 32, 32, 32, 32, 32, 10)), mlp),
        "convolution": classifier(cnn_init, cnn),
        "recurrent": classifier(rnn_init, rnn),
        "attention": classifier(attention_init, attention),
        "regression": (patients.init, patients.loss_fn, patients.train),
    }


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd, momentum": lambda rate: L.sgd(rate, momentum=0.9),
    "adam": L.adam,
    "adamw": L.adamw,
    "rmsprop": L.rmsprop,
    "lion": L.lion,
    "adagrad": L.adagrad,
}
SHAPES: dict[str, Any] = {
    "constant": 1.0,
    "cosine": L.cosine_decay_schedule(1.0, STEPS),
    "warmup-stable-decay": L.warmup_stable_decay_schedule(0.0, 1.0, STEPS // 10, STEPS - 3 * (STEPS // 10), STEPS // 5),
}


def setting(task: tuple[Any, Any, Any], make: Callable[[Any], Any], shape: Any) -> tuple[dict[str, bool], float, float]:
    """(whether each way is right, tune's cost, the decades that tune was off)."""
    init, loss_fn, examples = task
    at = lambda rate: make(shape * rate)
    options: dict[str, Any] = {"batch_size": BATCH, "progress": False}
    grid = L.sweep(loss_fn, init, examples, at, learning_rates=RATES, steps=STEPS, seeds=2 * SEEDS, **options)
    loss = grid.final[:, SEEDS:].mean(axis=1)  # tune sees the first seeds only
    best = RATES[loss.argmin()]
    found = L.tune(loss_fn, init, examples, at, steps=STEPS, seeds=SEEDS, **options)
    test = L.range_test(loss_fn, init, examples, make, batch_size=BATCH)

    def right(rate: float) -> bool:
        near = np.abs(np.log(RATES / rate)).argmin()
        return bool(1 / 3 <= rate / best <= 3 or loss[near] <= loss.min() + 0.05 * abs(loss.min()))

    ways = {"tune": found.learning_rate, **{rule: test.suggestions[rule] for rule in RULES}}
    off = abs(np.log10(found.learning_rate / best))
    return {way: right(rate) for way, rate in ways.items()}, found.steps_spent / found.grid_steps, float(off)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.finding", description=__doc__)
    parser.add_argument("--task", action="append", help="only this one; may be given several times")
    wanted = parser.parse_args().task
    begin, results, costs, offs = time.perf_counter(), [], [], []
    for name, task in tasks().items():
        if wanted and name not in wanted:
            continue
        for optimizer, make in OPTIMIZERS.items():
            for shape_name, shape in SHAPES.items():
                right, cost, off = setting(task, make, shape)
                results.append(right)
                costs.append(cost)
                offs.append(off)
                print(
                    f"{name}, {optimizer}, {shape_name}: {right}, {cost:.3f} of the grid, {off:.2f} decades", flush=True
                )
    print(f"\n| way | right, of {len(results)} |\n|---|---|")
    for way in ("tune", *RULES):
        print(f"| {way} | {np.mean([right[way] for right in results]):.0%} |")
    spent = f"tune spent {np.mean(costs):.1%} of the grid's steps, at most {np.max(costs):.1%}"
    print(f"\n{spent}; {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
