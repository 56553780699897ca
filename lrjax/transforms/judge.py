"""Whether a loss, or the norm of a gradient, is what it has been lately: the eyes of `guard`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.numerics import Array
from lrjax.transforms.spikes import appended, mean_and_std

LEVEL = 16  # losses whose mean is the level of a run: fewer are as noisy as one, more are late
_GROSS = 10.0  # times the loss at the start: without a history only this much is surely wrong
_GROSS_NORM = 100.0  # the same for norms, which vary more
_JUMP_NORM = 10.0  # times the norm lately, below which a gradient is never a spike
_LEAST_RISE = 0.1  # of the loss, or of what was gained, below which a rise is never a spike
_GIVEN_BACK = 0.5  # of what was gained, above which a level is worse
_FORGETS = 1e-3  # of its distance to the level now, which the best level follows at each step
ACCEPTS = 64  # steps after which a high loss at the snapshot is the normal one
_ACCEPTS_NORM = 4  # high norms in a row, where the loss is good: then they are normal


class Judge(NamedTuple):
    recent: Array  # int32 (): good steps since the start or the last return
    known: Array  # int32 (): losses in the history
    losses: Array  # float32 [window]: the last good ones, the newest at the end; logarithms of norms without a loss
    norms: Array  # float32 [window]: logarithms of the gradients' norms
    high_norms: Array  # int32 (): spikes of the norm in a row
    start: Array  # float32 (): the mean loss at the parameters of the start
    starts: Array  # int32 (): losses in it
    best: Array  # float32 (): the lowest level


class Reading(NamedTuple):
    """What a step shows."""

    loss: Array
    norm: Array  # its logarithm
    is_bad: Array  # not for an update
    is_wrong: Array  # and not by its norm alone
    is_high: Array  # wrong, but finite
    is_worse: Array  # the level, so that the parameters are at fault
    is_good: Array  # the level is about the best
    spike: Array  # of the norm


def unjudged(window: int, zero: Any) -> Judge:
    count, recent = zero.astype(jnp.int32), jnp.zeros(window, zero.dtype) + zero
    new = lambda: jnp.copy(count)
    return Judge(count, new(), recent, jnp.copy(recent), new(), jnp.copy(zero), new(), jnp.copy(zero))


def judged(judge: Judge, threshold: Any, loss: Any, norm: Any, returned: Any) -> Reading:
    """`loss` is None where only the norm is known; `returned` is whether it is the first after a return."""
    log_norm = jnp.log(jnp.maximum(norm, 1e-30))
    only_norm = loss is None
    x = log_norm if only_norm else loss
    finite = jnp.isfinite(x) & jnp.isfinite(norm)
    known = judge.known.astype(x.dtype)
    # Student's t has wider tails for few values: about the same false alarms for every length of the history
    wider = threshold * (1 + 60 / jnp.square(jnp.maximum(known - 1, 1)))
    enough = judge.known >= 4
    gained = jnp.maximum(judge.start - judge.best, 0)

    level, noise, is_level = _level(judge)
    margin = 3 * noise * jnp.sqrt(1 / LEVEL + 1 / jnp.maximum(judge.starts, 1))
    limit = judge.best + jnp.maximum(_GIVEN_BACK * gained, margin)

    mean, std = mean_and_std(judge.losses, judge.known)
    least = jnp.log(_JUMP_NORM) if only_norm else _LEAST_RISE * jnp.maximum(jnp.abs(mean), gained)
    is_high = enough & (x - mean > jnp.maximum(wider * std, least))
    # without a history; a loss of 0 at the start, as of a penalty on the distance to it, says nothing of its size
    gross = jnp.log(_GROSS_NORM) if only_norm else (_GROSS - 1) * jnp.abs(judge.start)
    begun = (judge.starts > 0) & (gross > 0)
    is_high = is_high | (begun & (judge.known < LEVEL) & (x - judge.start > gross))

    norm_mean, norm_std = mean_and_std(judge.norms, judge.known)
    is_jump = log_norm - norm_mean > jnp.maximum(wider * norm_std, jnp.log(_JUMP_NORM))
    spike = jnp.zeros_like(finite)
    if only_norm:
        is_worse, is_good = spike, is_level
    else:
        # A jump of the norm alone costs one batch. The parameters aren't bad by it: leaving a plateau looks the same.
        spike = finite & enough & is_jump
        is_worse, is_good = is_level & (level > limit), is_level & (level <= judge.best + noise / 2)
        # the good parameters have lost what was gained: so the data aren't what they were
        is_high = is_high | (returned & enough & (x > limit + 3 * noise))
    is_wrong = ~finite | is_high
    is_bad = is_wrong | (spike & (judge.high_norms < _ACCEPTS_NORM))
    return Reading(x, log_norm, is_bad, is_wrong, finite & is_high, is_worse, is_good, spike)


def _level(judge: Judge) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(the mean of the last losses, the standard deviation of one, whether there are enough).

    The deviation is that of differences between neighbours, in which a trend hardly counts.
    """
    count = min(LEVEL, len(judge.losses))
    level = jnp.mean(judge.losses[-count:])
    steps = jnp.diff(judge.losses)
    is_step = jnp.arange(len(steps)) >= len(judge.losses) - judge.known
    squares = jnp.sum(jnp.where(is_step, jnp.square(steps), 0)) / jnp.maximum(judge.known - 1, 1)
    return level, jnp.sqrt(squares / 2), judge.recent >= count


def accepted(judge: Judge, reading: Reading, at_snapshot: Any) -> Judge:
    """After a good step."""
    new = Judge(
        recent=judge.recent + 1,
        known=jnp.minimum(judge.known + 1, len(judge.losses)),
        losses=appended(judge.losses, reading.loss),
        norms=appended(judge.norms, reading.norm),
        high_norms=judge.high_norms,
        start=judge.start,
        starts=judge.starts,
        best=judge.best,
    )
    # Losses at the start are more than one where the run came back there.
    is_start = at_snapshot & (judge.best >= judge.start)
    start = judge.start + (reading.loss - judge.start) / (judge.starts + 1)
    start, starts = jnp.where(is_start, start, judge.start), jnp.where(is_start, judge.starts + 1, judge.starts)
    level, _, is_level = _level(new)
    nearer = jnp.where(is_level, jnp.where(level < judge.best, level, judge.best), judge.best)
    forgetting = jnp.where(is_level & (level > judge.best), (level - judge.best) * _FORGETS, 0)
    best = jnp.where(is_start, start, nearer + forgetting)
    return new._replace(start=start, starts=starts, best=best)


def start_anew(judge: Judge, reading: Reading) -> Judge:
    """Where the data have changed: this loss is the first of its kind."""
    zero = jnp.zeros_like(judge.known)
    return judge._replace(recent=zero, known=zero, high_norms=zero, start=reading.loss, starts=zero, best=reading.loss)


def restored(saved: Judge, now: Judge) -> Judge:
    """That of the snapshot, which may be the start: what is known of the loss there stays."""
    best = jnp.where(saved.known == 0, now.start, saved.best)
    return saved._replace(recent=jnp.zeros_like(now.recent), start=now.start, starts=now.starts, best=best)
