"""Sequences of schedules."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax.numpy as jnp

from lrjax.domains import Boundaries, Domain, NotInDomain, is_function, items_of, require
from lrjax.schedules.base import Schedule, as_schedule, schedule


def _schedules(items: Any) -> tuple[Schedule, ...]:
    items = items_of(items)
    if not items or not all(isinstance(s, Schedule) or is_function(s) for s in items):
        raise NotInDomain
    return tuple(map(as_schedule, items))


Schedules = Annotated[
    Sequence[Schedule | Callable[[Any], Any]], Domain("one or more schedules, in a sequence", _schedules)
]


@schedule(
    require(
        "boundaries",
        "one fewer than `schedules`",
        lambda boundaries, schedules: len(boundaries) == len(schedules) - 1,
        structural=True,
    )
)
def join_schedules(step: Any, schedules: Schedules, boundaries: Boundaries):
    """A sequence of schedules; each starts from its own step 0 at its boundary.

    η(t) = schedules[i](t − boundaries[i−1]), i = #{boundary ≤ t}

    >>> import lrjax
    >>> warmup, decay = lrjax.linear_schedule(0.0, 0.1, 30), lrjax.cosine_decay_schedule(0.1, 70)
    >>> lrjax.join_schedules([warmup, decay], [30])([0, 15, 30, 65, 100])
    Array([0.  , 0.05, 0.1 , 0.05, 0.  ], dtype=float32)
    """
    rate = schedules[0](step)
    for boundary, next_schedule in zip(boundaries, schedules[1:], strict=True):
        rate = jnp.where(step >= boundary, next_schedule((step - boundary).clip()), rate)
    return rate
