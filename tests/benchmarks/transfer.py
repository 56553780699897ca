"""How far the best rate moves with the width of a model, with `width_multipliers` and without them:
`python -m tests.benchmarks.transfer`.

Trains a network on digits and a Transformer on text at several widths, over a grid of base rates, with and without the
multipliers of the narrowest. The best rate is that of the parabola through the three lowest neighbours of the mean
held-out loss over the logarithm of the rate. The last column is how much higher the widest model's loss is with the
best rate of the narrowest than with its own, on the grid. With `--check` prints the coordinate checks too. Writes the
table and the picture into `transfer.md`.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import lrjax as L
from lrjax.tasks.base import mlp, mlp_init
from lrjax.tasks.digits import digits
from tests.benchmarks.models import LETTERS, WINDOW, matrices, text
from tests.benchmarks.pages import NOTEBOOKS, write

CORES = 2
SHOWN = ("digits, Adam, 2 epochs", "text, Adam")  # in the picture


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of any width, with what the multipliers need to know of it."""

    init: Callable[[int], Callable[[jax.Array], Any]]
    loss_fn: Callable[[Any, Any], jax.Array]
    data: tuple[Any, Any]  # examples to train with, and held out
    batch_size: int
    steps: int
    widths: tuple[int, ...]
    method: Literal["adam", "sgd"]
    make: Callable[[Any], Any]  # rates -> optimizer
    rates: np.ndarray

    def shapes(self, width: int) -> Any:
        return jax.eval_shape(self.init(width), jax.random.key(0))

    def task(self, width: int, with_multipliers: bool) -> L.Task:
        init = self.init(width)
        if with_multipliers:
            factors = L.width_init_multipliers(self.shapes(self.widths[0]), self.shapes(width))
            unscaled = init
            init = lambda key: jax.tree.map(lambda x, factor: x * factor, unscaled(key), factors)
        return L.Task(self.loss_fn, init, self.data[0], self.batch_size, validation=self.data[1])

    def optimizer(self, width: int, with_multipliers: bool, rate: Any) -> Any:
        if not with_multipliers:
            return self.make(rate)
        shapes = self.shapes(self.widths[0]), self.shapes(width)
        return self.make(L.width_multipliers(*shapes, rate, method=self.method))

    def losses(self, width: int, with_multipliers: bool, seeds: int) -> np.ndarray:
        """[rates]: the mean of the losses on the held-out examples at the end; nan where a run diverged."""
        decay = L.cosine_decay_schedule(1.0, self.steps)
        result = L.sweep(
            self.task(width, with_multipliers),
            lambda rate: self.optimizer(width, with_multipliers, decay * rate),
            learning_rates=self.rates,
            steps=self.steps,
            seeds=seeds,
            keep=None,
            progress=False,
        )
        return np.where(result.diverged.any(axis=1), np.nan, result.mean)


def digits_init(width: int) -> Callable[[jax.Array], Any]:
    return mlp_init((64, width, width, 10))


def digits_loss(params: Any, batch: Any) -> jax.Array:
    log_p = jax.nn.log_softmax(mlp(params, batch[0]))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(batch[1], 10) * log_p, axis=1))


HEAD = 16  # the size of a head: wider models have more of them


def text_init(width: int) -> Callable[[jax.Array], Any]:
    shapes = {"qkv": (width, 3 * width), "mix": (width, width), "up": (width, 2 * width), "down": (2 * width, width)}
    tables = {"embed": (LETTERS, width), "place": (WINDOW, width)}

    def init(key: jax.Array) -> Any:
        first, second = jax.random.split(key)
        tables_of = lambda name, k: jax.random.normal(k, tables[name])
        embeddings = {name: tables_of(name, k) for name, k in zip(tables, jax.random.split(first), strict=True)}
        return embeddings | matrices(second, shapes | {"out": (width, LETTERS)})

    return init


def text_loss(params: Any, letters: jax.Array) -> jax.Array:
    """The loss of a Transformer with one layer."""
    inputs, targets = letters[:, :-1], letters[:, 1:]
    normed = lambda h: h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
    h = params["embed"][inputs] + params["place"][None]
    heads = lambda x: x.reshape(*x.shape[:2], -1, HEAD)
    q, k, v = map(heads, jnp.split(normed(h) @ params["qkv"], 3, axis=-1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * HEAD**-0.5
    past = jnp.tril(jnp.ones((WINDOW, WINDOW), bool))[None, None]
    attended = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(past, scores, -1e9)), v)
    h = h + attended.reshape(h.shape) @ params["mix"]
    h = h + jax.nn.gelu(normed(h) @ params["up"]) @ params["down"]
    log_p = jax.nn.log_softmax(normed(h) @ params["out"])
    return -jnp.mean(jnp.sum(jax.nn.one_hot(targets, LETTERS) * log_p, axis=-1))


def models() -> dict[str, Model]:
    pictures, wide, letters = digits(), (32, 64, 128, 256, 512), text()
    held_out = len(letters) // 10
    grid = lambda low, high: 2.0 ** np.arange(low, high + 1)
    network = (digits_init, digits_loss, (pictures.data, pictures.validation), 64)
    return {
        "digits, Adam, 2 epochs": Model(*network, 44, wide, "adam", L.adam, grid(-10, -2)),
        "digits, Adam, 7 epochs": Model(*network, 154, wide, "adam", L.adam, grid(-11, -3)),
        "digits, SGD with momentum, 2 epochs": Model(
            *network, 44, wide, "sgd", lambda rates: L.sgd(rates, momentum=0.9), grid(-8, 0)
        ),
        "text, Adam": Model(
            text_init,
            text_loss,
            (letters[:-held_out], letters[-held_out:]),
            8,
            150,
            wide[:4],
            "adam",
            L.adam,
            grid(-11, -3),
        ),
    }


def best_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """The minimum of a parabola in the logarithm of the rate; that of the grid at its edges, or beside divergence."""
    at = int(np.nanargmin(losses))
    if at in (0, len(rates) - 1) or not np.isfinite(losses[at - 1 : at + 2]).all():
        return float(rates[at])
    left, middle, right = losses[at - 1 : at + 2]
    offset = (left - right) / (2 * (left - 2 * middle + right))
    return float(rates[at] * (rates[at + 1] / rates[at]) ** offset)


def check(model: Model, with_multipliers: bool) -> L.CoordinateCheck:
    rate = float(model.rates[len(model.rates) // 2])
    return L.coordinate_check(
        lambda width: model.task(width, with_multipliers),
        model.widths,
        lambda width: model.optimizer(width, with_multipliers, rate),
    )


def plot(curves: dict[str, dict[bool, dict[int, np.ndarray]]], rates: dict[str, np.ndarray]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(curves), 2, figsize=(9, 3 * len(curves)), layout="constrained", squeeze=False)
    colours = plt.colormaps["viridis"]
    for row, (name, ways) in zip(axes, curves.items(), strict=True):
        lowest = min(np.nanmin(losses) for widths in ways.values() for losses in widths.values())
        highest = max(np.nanmedian(losses) for widths in ways.values() for losses in widths.values())
        for ax, (with_multipliers, widths) in zip(row, sorted(ways.items()), strict=True):
            for i, (width, losses) in enumerate(widths.items()):
                ax.plot(rates[name], losses, ".-", color=colours(i / len(widths)), lw=1, label=str(width))
            title = "with the multipliers" if with_multipliers else "one rate for all"
            ax.set(xscale="log", yscale="log", title=f"{name}: {title}", ylim=(lowest * 0.9, highest * 1.1))
        row[0].set(ylabel="loss")
        row[1].legend(title="width", frameon=False, fontsize="small")
    for ax in axes[-1]:
        ax.set(xlabel="base rate")
    figure.savefig(NOTEBOOKS / "images" / "transfer.png", dpi=72)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.transfer", description=__doc__)
    parser.add_argument("--model", action="append", help="only this one, page unchanged; may be given several times")
    parser.add_argument("--widths", type=int, help="only so many of the widths, page unchanged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="the coordinate checks too")
    chosen = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", CORES)
    begin, curves, lines = time.perf_counter(), {}, []
    every = {name: model for name, model in models().items() if not chosen.model or name in chosen.model}
    every = {name: dataclasses.replace(model, widths=model.widths[: chosen.widths]) for name, model in every.items()}
    wide = max((model.widths for model in every.values()), key=len)
    columns = " | ".join(map(str, wide))
    lines += [
        f"| model | rates | {columns} | moves by | loss with the rate of {wide[0]} |",
        f"|---|---|{'---|' * len(wide)}---|---|",
    ]
    for name, model in every.items():
        curves[name] = {False: {}, True: {}}
        for with_multipliers, of_width in curves[name].items():
            best = []
            for width in model.widths:
                of_width[width] = model.losses(width, with_multipliers, chosen.seeds)
                best.append(best_rate(model.rates, of_width[width]))
                print(name, with_multipliers, width, f"{best[-1]:.3g}", of_width[width].round(4), flush=True)
            cells = [f"{rate:.2g}" for rate in best] + [""] * (len(wide) - len(best))
            first, last = of_width[model.widths[0]], of_width[model.widths[-1]]
            excess = last[int(np.nanargmin(first))] / np.nanmin(last) - 1
            rates = "multipliers" if with_multipliers else "one for all"
            lines.append(f"| {name} | {rates} | {' | '.join(cells)} | {max(best) / min(best):.2f} | {excess:+.0%} |")
            print(lines[-1], flush=True)
            if chosen.check:
                found = check(model, with_multipliers)
                print("\n".join(f"  {row}" for row in found.rows()), found.verdict, sep="\n", flush=True)
    print("\n".join(lines), f"{time.perf_counter() - begin:.0f} s", sep="\n")
    if not chosen.model and not chosen.widths:
        write("transfer.md", "transfer", "\n".join(lines))
        plot({name: curves[name] for name in SHOWN}, {name: every[name].rates for name in SHOWN})


if __name__ == "__main__":
    main()
