"""What a guard did: counts, and the last events."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lrjax.numerics import Array

EVENTS = 64  # that are remembered
KINDS = ("skipped", "went back", "gave up", "raised the rate", "took a new level", "repaired the state")


_WITHOUT_LOSS = "No loss was given (`value=`): gradient norms alone miss most of what a rate that is too high does."


class GuardLog(NamedTuple):
    skipped: Array  # int32 (): steps
    returns: Array  # int32 ()
    without_loss: Array  # bool (): whether an update was not given the loss
    count: Array  # int32 (): events so far
    steps: Array  # int32 [EVENTS]
    kinds: Array  # int32 [EVENTS]: of `KINDS`
    rate_factors: Array  # float32 [EVENTS]: after the event
    values: Array  # float32 [EVENTS]: the loss, or the norm of the gradient


def no_log(zero: Any) -> GuardLog:
    new = lambda: jnp.copy(zero)
    whole = lambda: jnp.zeros(EVENTS, jnp.int32) + zero
    numbers = lambda: whole().astype(jnp.result_type(float))
    return GuardLog(new(), new(), zero > 0, new(), whole(), whole(), numbers(), numbers())


def logged(
    log: Any, kinds: Any, step: Any, rate_factor: Any, loss: Any, norm: Any, skipped: Any, returned: Any
) -> GuardLog:
    """Adds what happened at a step, of which at most one of the flags `kinds` holds; `loss` is None if not given."""
    value = norm if loss is None else loss
    happened, kind = jnp.any(jnp.stack(kinds)), jnp.argmax(jnp.stack(kinds)).astype(jnp.int32)
    here = happened & (jnp.arange(EVENTS, dtype=log.count.dtype) == log.count % EVENTS)
    write = lambda old, new: jnp.where(here, new.astype(old.dtype), old)
    return GuardLog(
        log.skipped + skipped.astype(jnp.int32),
        log.returns + returned.astype(jnp.int32),
        log.without_loss if loss is not None else log.without_loss | (step >= 0),
        log.count + happened.astype(jnp.int32),
        write(log.steps, step),
        write(log.kinds, kind),
        write(log.rate_factors, rate_factor),
        write(log.values, value),
    )


@dataclasses.dataclass(frozen=True)
class GuardEvent:
    """One step at which `guard` did something.

    >>> import lrjax
    >>> str(lrjax.GuardEvent(120, "went back", 0.5, 31.7))
    'step 120: went back, rate ×0.5, at loss 31.7'
    """

    step: int  # calls of `update` before
    kind: str  # of `KINDS`; "skipped" stands for all skipped steps in a row, by the first
    rate_factor: float  # after it
    value: float  # the loss, or without one the gradient's norm
    measure: str = "loss"  # or "gradient norm"

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.kind}, rate ×{self.rate_factor:.4g}, at {self.measure} {self.value:.4g}"


@dataclasses.dataclass(frozen=True)
class GuardReport:
    """What `guard` did so far.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.guard(lrjax.sgd(0.1)), jnp.ones(1)
    >>> _, state = tx.update(jnp.array([jnp.nan]), tx.init(params), params)
    >>> print(lrjax.guard_report(state))
    1 step skipped, 0 returns, rate ×1
    No loss was given (`value=`): gradient norms alone miss most of what a rate that is too high does.
    step 0: skipped, rate ×1, at gradient norm nan
    """

    rate_factor: float  # 1 unless the rate is cut
    skipped: int  # steps
    returns: int  # to the last good parameters
    held: bool  # whether the retries were used up, and the parameters stay the last good ones
    events: tuple[GuardEvent, ...]  # the last ones, at most `EVENTS`
    forgotten: int = 0  # events before those
    without_loss: bool = False  # whether updates were not given the loss, so that less was seen

    def __str__(self) -> str:
        counts = f"{_plural(self.skipped, 'step')} skipped, {_plural(self.returns, 'return')}"
        held = "; retries used up: the parameters stay the last good ones" if self.held else ""
        earlier = [f"({_plural(self.forgotten, 'earlier event')})"] if self.forgotten else []
        blind = [_WITHOUT_LOSS] if self.without_loss else []
        return "\n".join([f"{counts}, rate ×{self.rate_factor:.4g}{held}", *blind, *earlier, *map(str, self.events)])


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def report_of(log: GuardLog, rate_factor: Any, held: Any) -> GuardReport:
    count, blind = int(log.count), bool(log.without_loss)
    order = np.arange(max(0, count - EVENTS), count) % EVENTS
    steps, kinds, factors, values = (np.asarray(x)[order] for x in (log.steps, log.kinds, log.rate_factors, log.values))
    events = tuple(
        GuardEvent(int(s), KINDS[int(k)], float(f), float(v), "gradient norm" if blind else "loss")
        for s, k, f, v in zip(steps, kinds, factors, values, strict=True)
    )
    return GuardReport(
        float(rate_factor), int(log.skipped), int(log.returns), bool(held), events, max(0, count - EVENTS), blind
    )
