"""Rescales the example schedules to another peak rate and another number of steps."""

from types import ModuleType
from typing import Any

import jax

from lrjax.catalogue import example, public_values
from lrjax.schedules.base import Schedule

PEAK, STEPS = 0.1, 100  # of the examples in the docstrings


def rescalable_examples(family: ModuleType) -> dict[str, Schedule]:
    """Returns the example schedules of a module, by name, that `rescaled` can stretch and multiply.

    They have hyperparameters that count steps, and a largest rate of `PEAK`. That excludes tables, momentum, and
    schedules whose rate follows from other numbers, such as `noam_schedule`.
    """
    found: dict[str, Schedule] = {}
    for name, cls in public_values(vars(family)).items():
        if cls.__module__ == family.__name__ and issubclass(cls, Schedule):  # not an imported one
            schedule = example(cls)
            if isinstance(schedule, Schedule) and _is_rescalable(schedule):
                found[name] = schedule
    return found


def rescaled(schedule: Schedule, rate: float, time: float) -> Schedule:
    """Returns the schedule with a curve `rate` times as high and `time` times as long.

    Multiplies the hyperparameters that are rates, and those that count steps, which stay integers. A schedule too
    short for its phases gets as many steps as they need.

    >>> import lrjax
    >>> rescaled(lrjax.linear_onecycle_schedule(100, peak_value=0.1), rate=5.0, time=0.4)
    linear_onecycle_schedule(transition_steps=40, peak_value=0.5, pct_start=0.3, pct_final=0.85, div_factor=25.0, \
final_div_factor=10000.0)
    """
    while True:
        try:
            return type(schedule)(**{name: _rescaled(schedule, name, rate, time) for name in vars(schedule)})
        except ValueError:  # too short for its phases
            if time >= 1:
                raise
            time += 1 / STEPS


def _rescaled(schedule: Schedule, name: str, rate: float, time: float) -> Any:
    x, domain = vars(schedule)[name], schedule._domains[name]
    if domain.rate:
        return jax.tree.map(lambda number: float(f"{number * rate:.6g}"), x)
    if domain.counts_steps:
        return jax.tree.map(lambda count: max(round(count * time), min(count, 1)), x)
    is_schedule = lambda part: isinstance(part, Schedule)
    return jax.tree.map(lambda part: rescaled(part, rate, time) if is_schedule(part) else part, x, is_leaf=is_schedule)


def _is_rescalable(schedule: Schedule) -> bool:
    rates, counts = _numbers(schedule, "rate"), _numbers(schedule, "counts_steps")
    return bool(counts) and max(rates, default=0.0) == PEAK


def _numbers(schedule: Schedule, kind: str) -> list[float]:
    """Returns all rates, or all numbers of steps, including those of nested schedules."""
    found: list[float] = []
    for name, x in vars(schedule).items():
        for part in jax.tree.leaves(x, is_leaf=lambda part: isinstance(part, Schedule)):
            if isinstance(part, Schedule):
                found += _numbers(part, kind)
            elif getattr(schedule._domains[name], kind):
                found.append(part)
    return found
