"""How often `tune`, and fastai's rules, find the rate that a full grid finds: `python -m tests.benchmarks.finding`.

The truth of a setting is a sweep of 25 rates on the whole run with 3 seeds, others than those of `tune`. A rate is
right when it is within a factor of 3 of the best one, or its loss within 5 % of the lowest. `tune` is charged for every
step that it makes. Its spread is the standard deviation of log10(rate) over 20 calls with other seeds, for Adam with a
cosine. Writes the table into `finding.md`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import lrjax as L
from tests.benchmarks.models import tasks
from tests.benchmarks.pages import write

SEEDS, FRESH, CALLS, CORES = 3, 8, 20, 2
RATES = np.geomspace(1e-7, 10, 25)
RULES = ("valley", "slide", "steep", "minimum")
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd, momentum": lambda rate: L.sgd(rate, momentum=0.9),
    "adam": L.adam,
    "adamw": L.adamw,
    "rmsprop": L.rmsprop,
    "lion": L.lion,
    "adagrad": L.adagrad,
}
SHAPES: dict[str, Callable[[int], Any]] = {
    "constant": lambda steps: 1.0,
    "cosine": lambda steps: L.cosine_decay_schedule(1.0, steps),
    "warmup-stable-decay": lambda steps: L.warmup_stable_decay_schedule(
        0.0, 1.0, steps // 10, steps - steps // 10 - steps // 5, steps // 5
    ),
}


class Setting:
    """A task, an optimizer and the shape of a schedule."""

    def __init__(self, task: tuple[Any, Any, Any], make: Callable[[Any], Any], shape: Callable[[int], Any]):
        init, loss_fn, examples = task
        is_text = isinstance(examples, np.ndarray)
        self.steps = 200 if is_text else 300
        self.make, self.task = make, L.Task(loss_fn, init, examples, batch_size=8 if is_text else 32)
        rate = shape(self.steps)
        self.at = lambda peak: make(rate * peak)

    def tune(self, seeds: list[int]) -> L.TuneResult:
        return L.tune(self.task, self.at, steps=self.steps, seeds=seeds, progress=False)

    def right(self, fresh: int) -> tuple[dict[str, bool], L.TuneResult, np.ndarray]:
        """(whether each way is right, what tune found, the mean loss of the grid [25] over so many other seeds)."""
        others, options = list(range(SEEDS, SEEDS + fresh)), {"keep": None, "progress": False}
        grid = L.sweep(self.task, self.at, learning_rates=RATES, steps=self.steps, seeds=others, **options)
        found = self.tune(list(range(SEEDS)))
        test = L.range_test(self.task, self.make, progress=False)
        loss, best = grid.mean, RATES[grid.mean.argmin()]

        def is_right(rate: float) -> bool:
            near = np.abs(np.log(RATES / rate)).argmin()
            return bool(1 / 3 <= rate / best <= 3 or loss[near] <= loss.min() + 0.05 * abs(loss.min()))

        ways = {"tune": found.learning_rate, **{rule: test.suggestions[rule] for rule in RULES}}
        return {way: is_right(rate) for way, rate in ways.items()}, found, loss

    def spread(self) -> float:
        seeds = [list(range(SEEDS * call, SEEDS * (call + 1))) for call in range(CALLS)]
        return float(np.std([np.log10(self.tune(three).learning_rate) for three in seeds]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.finding", description=__doc__)
    parser.add_argument("--task", action="append", help="only this one, page unchanged; may be given several times")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth setting, and no spread")
    parser.add_argument("--first", type=int, default=0, help="with --every: which one to begin with; page unchanged")
    chosen = parser.parse_args()
    wanted, every, first = chosen.task, chosen.every, chosen.first
    jax.config.update("jax_num_cpu_devices", CORES)
    begin, costs, everything = time.perf_counter(), [], []
    holds, worst, total = [], [], 0
    lines = [f"| task | settings | tune | {' | '.join(RULES)} |", "|---|---|---|---|---|---|---|"]
    lines = [line + column for line, column in zip(lines, (" spread of tune |", "---|"), strict=True)]
    percent = lambda results, way: f"{np.mean([right[way] for right in results]):.0%}"
    for name, task in tasks().items():
        if wanted and name not in wanted:
            continue
        results = []
        for optimizer, make in OPTIMIZERS.items():
            for shape_name, shape in SHAPES.items():
                total += 1
                if total % every != first % every:
                    continue
                # the interval, which needs more seeds, with every schedule
                is_measured = every > 1 or (total + total // 3) % 3 == 0
                right, found, loss = Setting(task, make, shape).right(FRESH if is_measured else SEEDS)
                results.append(right)
                costs.append(found.steps_spent / found.grid_steps)
                if is_measured:
                    inside = (RATES >= found.low * 0.999) & (RATES <= found.high * 1.001)
                    holds.append(bool(inside[loss.argmin()]))
                    worst.append(bool(inside.any() and loss[inside].max() <= 1.5 * loss.min()))
                print(f"{name}, {optimizer}, {shape_name}: {right}, {found.verdict}", flush=True)
        everything += results
        shares = " | ".join(percent(results, way) for way in ("tune", *RULES))
        spread = f"{Setting(task, L.adam, SHAPES['cosine']).spread():.2f}" if every == 1 else ""
        lines.append(f"| {name} | {len(results)} | {shares} | {spread} |")
        print(lines[-1], flush=True)
    shares = " | ".join(percent(everything, way) for way in ("tune", *RULES))
    lines.append(f"| all | {len(everything)} | {shares} | |")
    spent = f"`tune` took {np.mean(costs):.1%} of the grid's steps, at most {np.max(costs):.1%}."
    interval = (
        f"Over {len(holds)} of these settings and {FRESH} other seeds, the rates that `tune` says do as well hold the "
        f"grid's best in {np.mean(holds):.0%}, and none of them is more than 1.5 times worse than it in "
        f"{np.mean(worst):.0%}."
    )
    report = "\n".join([*lines, "", f"{spent} {interval}"])
    print(f"\n{report}\n\n{time.perf_counter() - begin:.0f} s")
    if not wanted and not first:
        write("finding.md", "finding", report)


if __name__ == "__main__":
    main()
