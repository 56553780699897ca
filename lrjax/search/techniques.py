"""Every technique of the field that sets a learning rate, at rates that short searches found for a task."""

import dataclasses
from collections.abc import Callable

import numpy as np

from lrjax.optimizers.adam import adam
from lrjax.optimizers.adaptive import adagrad, rmsprop
from lrjax.optimizers.sgd import sgd
from lrjax.schedules.base import Schedule, constant_schedule
from lrjax.schedules.cyclic import cosine_restarts_schedule, cyclic_schedule
from lrjax.schedules.decay import (
    exponential_decay,
    inverse_time_decay,
    linear_schedule,
    polynomial_schedule,
    step_decay,
)
from lrjax.schedules.warmup import (
    cosine_onecycle_schedule,
    warmup_cosine_decay_schedule,
    warmup_stable_decay_schedule,
)
from lrjax.transforms.base import GradientTransformation

FIXED, DECAYS, CYCLES, ADAPTIVE = "Fixed rates", "Decays", "Warmups and cycles", "Adaptive methods"
ABOUT = {
    FIXED: "Too low barely moves. Too high blows up, or jumps about and learns nothing. Between them it learns.",
    DECAYS: "They start higher than is good for the whole run, then calm down, and the noise of the last steps goes.",
    CYCLES: "They begin gently, go high, and come down, once or several times.",
    ADAPTIVE: "Every weight gets a step size of its own; the rate itself stays fixed here.",
}
REFERENCE = "fixed, well chosen"
TOO_LOW, TOO_HIGH = 1 / 500, 60  # multiples of the rate that is well chosen


@dataclasses.dataclass(frozen=True)
class Technique:
    """A way to set the rate, whose peak is to be found."""

    group: str
    name: str
    family: str  # an optimizer: the peak is looked for near the best fixed rate of the family
    shape: Callable[[float], Schedule]  # from the peak to the schedule
    optimizer: Callable[[Schedule], GradientTransformation]
    multiple: float | None = None  # of the best fixed rate, where it isn't looked for


def momentum(schedule: Schedule) -> GradientTransformation:
    return sgd(schedule, momentum=0.9)


FAMILIES: dict[str, Callable[[Schedule], GradientTransformation]] = {
    "SGD with momentum": momentum,
    "SGD": lambda s: sgd(s, momentum=0.0),
    "AdaGrad": adagrad,
    "RMSprop": lambda s: rmsprop(s, momentum=0.0),
    "RMSprop, momentum": lambda s: rmsprop(s, momentum=0.9),
    "Adam, no momentum": lambda s: adam(s, b1=0.0),
    "Adam": adam,
}


def techniques(steps: int) -> list[Technique]:
    """Every technique for runs of so many steps."""
    third, part = -(-steps // 3), max(steps // 10, 1)
    fixed = [
        ("fixed, too low", constant_schedule, TOO_LOW),
        (REFERENCE, constant_schedule, 1.0),
        ("fixed, too high", constant_schedule, TOO_HIGH),
    ]
    decays = [
        ("step decay", lambda rate: step_decay(rate, third, 0.3)),
        ("exponential decay", lambda rate: exponential_decay(rate, steps, 0.03)),
        ("polynomial decay", lambda rate: polynomial_schedule(rate, 0.0, 2, steps)),
        ("linear decay", lambda rate: linear_schedule(rate, 0.0, steps)),
        ("inverse-time decay", lambda rate: inverse_time_decay(rate, steps, 8.0)),
    ]
    cycles = [
        ("cyclic, triangular", lambda rate: cyclic_schedule(rate / 20, rate, max(steps // 8, 1))),
        ("cosine, warm restarts", lambda rate: cosine_restarts_schedule(rate, third)),
        ("cosine with warmup", lambda rate: warmup_cosine_decay_schedule(0.0, rate, part, max(steps, part + 1))),
        ("warmup-stable-decay", lambda rate: _trapezoid(rate, steps)),
        ("one cycle", lambda rate: cosine_onecycle_schedule(max(steps, 2), rate)),
    ]
    sgd_family = "SGD with momentum"
    found = [Technique(FIXED, name, sgd_family, shape, momentum, multiple) for name, shape, multiple in fixed]
    found += [Technique(FIXED, "fixed, no momentum", "SGD", constant_schedule, FAMILIES["SGD"])]
    found += [Technique(DECAYS, name, sgd_family, shape, momentum) for name, shape in decays]
    found += [Technique(CYCLES, name, sgd_family, shape, momentum) for name, shape in cycles]
    return found + [
        Technique(ADAPTIVE, name, name, constant_schedule, make)
        for name, make in FAMILIES.items()
        if not name.startswith("SGD")
    ]


def _trapezoid(peak: float, steps: int) -> Schedule:
    warmup, decay = max(steps // 10, 1), max(steps // 5, 1)
    return warmup_stable_decay_schedule(0.0, peak, warmup, max(steps - warmup - decay, 1), decay)


RATES = np.geomspace(1e-6, 10.0, 22)  # of the first look, a factor of 2.15 apart
STEP = float(RATES[1] / RATES[0])
NEAR = tuple(STEP**k for k in (-1, 0, 1, 2))  # multiples of the best fixed rate of a short run, for whole runs
