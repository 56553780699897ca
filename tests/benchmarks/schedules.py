"""Schedules, called eagerly at one step after the other."""

import itertools
from typing import Any

import optax

import lrjax
from tests.benchmarks.table import Table
from tests.benchmarks.timing import ratio

_CYCLE = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 500}

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "constant_schedule": (0.1,),
    "linear_schedule": (0.1, 0.0, 1000),
    "polynomial_schedule": (0.1, 0.0, 2, 1000),
    "piecewise_constant_schedule": (0.1, {300: 0.1, 600: 0.1}),
    "piecewise_interpolate_schedule": ("linear", 0.1, {300: 0.1, 600: 0.1}),
    "exponential_decay": (0.1, 1000, 0.1),
    "cosine_decay_schedule": (0.1, 1000),
    "linear_onecycle_schedule": (1000, 0.1),
    "cosine_onecycle_schedule": (1000, 0.1),
    "warmup_constant_schedule": (0.0, 0.1, 100),
    "warmup_cosine_decay_schedule": (0.0, 0.1, 100, 1000),
    "warmup_exponential_decay_schedule": (0.0, 0.1, 100, 1000, 0.1),
    "sgdr_schedule": ([_CYCLE, _CYCLE],),
}
GOALS = dict.fromkeys(
    [
        "cosine_decay_schedule",
        "linear_onecycle_schedule",
        "cosine_onecycle_schedule",
        "warmup_cosine_decay_schedule",
    ],
    1 / 3,
)


def _made(module: Any) -> dict[str, Any]:
    made = {name: getattr(module, name)(*arguments) for name, arguments in ARGUMENTS.items()}
    warmup, decay = module.linear_schedule(0.0, 0.1, 100), module.linear_schedule(0.1, 0.0, 900)
    return made | {"join_schedules": module.join_schedules([warmup, decay], [100])}


def measure(quick: bool) -> list[Table]:
    table = Table("A schedule, called eagerly", "schedule", ["time"])
    table.goals = {(name, "time"): goal for name, goal in GOALS.items()}
    ours, theirs = _made(lrjax), _made(optax)
    blocks, budget = (11, 0.2) if quick else (31, 1.0)
    for name in ours:
        table.add(name, {"time": ratio(_calls(ours[name]), _calls(theirs[name]), blocks, budget)})
    return [table]


def _calls(schedule: Any) -> Any:
    steps = itertools.cycle(range(1000))
    return lambda: schedule(next(steps))
