"""Schedules, called eagerly at one step after the other."""

import itertools
from typing import Any

import optax

import lrjax
from lrjax.catalogue import example, example_source, public_values
from tests.benchmarks.table import Table
from tests.benchmarks.timing import ratio

GOALS = dict.fromkeys(
    [
        "cosine_decay_schedule",
        "linear_onecycle_schedule",
        "cosine_onecycle_schedule",
        "warmup_cosine_decay_schedule",
    ],
    1 / 3,
)


def _made() -> dict[str, tuple[Any, Any]]:
    """The public schedules that Optax has too, as in the examples of their docstrings: by name, ours and Optax's."""
    made = {}
    for name, cls in public_values(vars(lrjax)).items():
        if issubclass(cls, lrjax.Schedule) and hasattr(optax, name):
            before, call = example_source(cls)
            names: dict[str, Any] = {}
            exec(before.replace("lrjax", "optax"), names)
            made[name] = (example(cls), eval(call.replace("lrjax", "optax"), names))
    return made


def measure(quick: bool) -> list[Table]:
    table = Table("A schedule, called eagerly", "schedule", ["time"])
    table.goals = {(name, "time"): goal for name, goal in GOALS.items()}
    blocks, budget = (11, 0.2) if quick else (31, 1.0)
    for name, (ours, theirs) in _made().items():
        table.add(name, {"time": ratio(_calls(ours), _calls(theirs), blocks, budget)})
    return [table]


def _calls(schedule: Any) -> Any:
    steps = itertools.cycle(range(100))
    return lambda: schedule(next(steps))
