"""Every technique of the field that sets a learning rate, at rates that short searches found for a task."""

import dataclasses
from collections.abc import Callable

import numpy as np

import lrjax.schedules.cyclic as cyclic
import lrjax.schedules.decay as decay
import lrjax.schedules.warmup as warmup
from lrjax.optimizers.adam import adam
from lrjax.optimizers.adaptive import adagrad, rmsprop
from lrjax.optimizers.sgd import sgd
from lrjax.schedules.base import Schedule, constant_schedule
from lrjax.schedules.rescale import PEAK, STEPS, rescalable_examples, rescaled
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
    """Every technique for runs of so many steps.

    The decays, warmups and cycles are the public schedules of these families, as in the examples of their docstrings;
    the adaptive methods, at a fixed rate, are the ones of which each adds one thing to the one before.
    """
    fixed = [
        ("fixed, too low", constant_schedule, TOO_LOW),
        (REFERENCE, constant_schedule, 1.0),
        ("fixed, too high", constant_schedule, TOO_HIGH),
    ]
    sgd_family = "SGD with momentum"
    found = [Technique(FIXED, name, sgd_family, shape, momentum, multiple) for name, shape, multiple in fixed]
    found += [Technique(FIXED, "fixed, no momentum", "SGD", constant_schedule, FAMILIES["SGD"])]
    for group, modules in ((DECAYS, [decay]), (CYCLES, [warmup, cyclic])):
        examples = {name: schedule for module in modules for name, schedule in rescalable_examples(module).items()}
        found += [
            Technique(group, _term(name), sgd_family, _Rescaled(schedule, steps), momentum)
            for name, schedule in examples.items()
        ]
    return found + [
        Technique(ADAPTIVE, name, name, constant_schedule, make)
        for name, make in FAMILIES.items()
        if not name.startswith("SGD")
    ]


def _term(name: str) -> str:
    """What a schedule is called in the field, by its public name."""
    return name.removesuffix("_schedule").replace("_", " ")


@dataclasses.dataclass(frozen=True)
class _Rescaled:
    """From a peak to the example of a schedule at this peak, for runs of so many steps."""

    example: Schedule
    steps: int

    def __call__(self, peak: float) -> Schedule:
        return rescaled(self.example, peak / PEAK, self.steps / STEPS)


RATES = np.geomspace(1e-6, 10.0, 22)  # of the first look, a factor of 2.15 apart
STEP = float(RATES[1] / RATES[0])
NEAR = tuple(STEP**k for k in (-1, 0, 1, 2))  # multiples of the best fixed rate of a short run, for whole runs
