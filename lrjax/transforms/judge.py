"""The statistics of `guard`: whether a loss, or the norm of a gradient, is as it has been lately."""

import functools
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
_UNSEEN = 2.0  # times as far above the trend as any loss in the history: only such a one is a spike
_NEIGHBOURS = 8  # on each side, whose mean is the trend
_FARTHER = 10.0  # times as far from normal as at the good parameters: parameters that are less sure do it 2 times
_SURE = 2.0  # standard errors by which a level must be above the start, or the best
_WILD = 3.0  # times the noise at the start, above which the losses scatter by the parameters
_SPIKE = 4.0  # standard deviations, more than noise reaches in a history of its length
_STARTS = 3  # losses at the start, of which their noise is known
_GIVEN_BACK = 0.3  # of what was gained, above which a level is worse
_NEAR = 0.1  # of what was gained, within which a level is about the best
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
    start_squares: Array  # float32 (): sum of their squared distances from it
    best: Array  # float32 (): the lowest level, as much as it may be by chance


class Reading(NamedTuple):
    """What a step shows."""

    loss: Array
    is_bad: Array  # not for an update
    is_wrong: Array  # and not by its norm alone
    is_high: Array  # wrong, but finite
    is_worse: Array  # the level, so that the parameters are at fault
    is_good: Array  # the level is about the best, and the loss no higher than most
    spike: Array  # of the norm
    bounded: Array  # what the loss is at most, as history
    highest: Array  # above which a loss is a spike
    usual: Array  # the mean of the last losses
    bounded_norm: Array  # the logarithm of the norm, as history: one of 0 would make every deviation normal


def unjudged(window: int, zero: Any) -> Judge:
    count, recent = zero.astype(jnp.int32), jnp.zeros(window, zero.dtype) + zero
    new = lambda: jnp.copy(count)
    return Judge(count, new(), recent, jnp.copy(recent), new(), jnp.copy(zero), new(), jnp.copy(zero), jnp.copy(zero))


def judged(judge: Any, threshold: Any, loss: Any, norm: Any, returned: Any) -> Reading:
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

    levels = _levels(judge)
    level = levels[0]
    # noise is mostly in proportion to the loss, so it is less where the loss is lower
    at = lambda reference: level.noise * jnp.minimum(1, (jnp.abs(reference) + gained) / jnp.abs(level.mean))
    starts = jnp.maximum(judge.starts, 1).astype(x.dtype)
    start_error = jnp.sqrt(jnp.square(at(judge.start)) + judge.start_squares) / starts
    # the mean of the whole history is late while the loss falls, so it is held against the start alone
    margins = [_SURE * (x.error + start_error) for x in levels]
    limits = [judge.best + jnp.maximum(_GIVEN_BACK * gained, margins[0]), *(judge.start + m for m in margins[1:])]

    mean, residuals = _detrended(judge.losses, judge.known)
    std = jnp.sqrt(jnp.sum(jnp.square(residuals)) / jnp.maximum(known - 1, 1))
    least = jnp.log(_JUMP_NORM) if only_norm else _LEAST_RISE * jnp.maximum(jnp.abs(mean), gained)
    # batches whose losses are 0 mostly, and high at times, are no spikes: these are far above all that was before
    bounded = mean + jnp.maximum(wider * std, least)
    highest = jnp.where(enough, jnp.maximum(bounded, mean + _UNSEEN * jnp.max(residuals)), jnp.inf)
    # without a history; a loss of 0 at the start, as of a penalty on the distance to it, says nothing of its size
    gross = jnp.log(_GROSS_NORM) if only_norm else (_GROSS - 1) * jnp.abs(judge.start)
    begun = (judge.starts > 0) & (gross > 0) & (judge.known < LEVEL)
    highest = jnp.where(begun, jnp.minimum(highest, judge.start + gross), highest)

    norm_mean, norm_std = mean_and_std(judge.norms, judge.known)
    norm_jump = jnp.maximum(wider * norm_std, jnp.log(_JUMP_NORM))
    is_jump = log_norm - norm_mean > norm_jump
    bounded_norm = jnp.where(enough, jnp.maximum(log_norm, norm_mean - norm_jump), log_norm)
    spike = jnp.zeros_like(finite)
    if only_norm:
        is_worse, is_good = spike, level.is_known
    else:
        # A jump of the norm alone costs one batch. The parameters aren't bad by it: leaving a plateau looks the same.
        spike = finite & enough & is_jump
        is_worse = functools.reduce(
            jnp.logical_or, [x.is_known & (x.mean > limit) for x, limit in zip(levels, limits, strict=True)]
        )
        is_good = level.is_known & (level.most <= judge.best + _NEAR * gained) & ~_is_wild(judge, level)
        is_good &= x <= mean + _SURE * std
        # the good parameters have lost what was gained: so the data aren't what they were
        highest = jnp.where(returned & enough, jnp.minimum(highest, limits[0] + 3 * level.noise), highest)
    is_high = x > highest
    is_wrong = ~finite | is_high
    is_bad = is_wrong | (spike & (judge.high_norms < _ACCEPTS_NORM))
    is_high = finite & is_high
    return Reading(x, is_bad, is_wrong, is_high, is_worse, is_good, spike, bounded, highest, mean, bounded_norm)


class _Level(NamedTuple):
    mean: Array
    most: Array  # that it may be by chance, so that a level of much noise is none of the best
    error: Array  # its standard error
    noise: Array  # the standard deviation of one loss
    is_known: Array


def is_convicted(reading: Any, loss_there: Any) -> jax.Array:
    """Returns whether the parameters are at fault and not the batch, whose loss at the good parameters is given: where
    that is normal, or not a tenth as far from normal."""
    nearer = reading.loss - reading.usual > _FARTHER * (loss_there - reading.usual)
    return jnp.isfinite(loss_there) & ((loss_there <= reading.highest) | nearer)


def _detrended(losses: Any, known: Any) -> tuple[Any, Any]:
    """Returns the level of the newest losses, and the distance of each from the mean of its neighbours: without the
    trend, since the losses of a steep descent say nothing of what a spike is at its foot."""
    is_known = jnp.arange(len(losses), dtype=known.dtype) >= len(losses) - known
    newest = is_known & (jnp.arange(len(losses), dtype=known.dtype) >= len(losses) - LEVEL)
    level = jnp.sum(jnp.where(newest, losses, 0)) / jnp.maximum(jnp.sum(newest.astype(losses.dtype)), 1)
    width = 2 * _NEIGHBOURS + 1
    summed = lambda x: jax.lax.reduce_window(x, jnp.zeros([], x.dtype), jax.lax.add, (width,), (1,), "SAME")
    counts = jnp.maximum(summed(is_known.astype(losses.dtype)), 1)
    return level, jnp.where(is_known, losses - summed(jnp.where(is_known, losses, 0)) / counts, 0)


def _is_wild(judge: Any, level: Any) -> jax.Array:
    """Returns whether the losses scatter more than they fell, and far more than those of several batches at the start:
    then the parameters scatter, by a rate that is too high, and any of them may be worse than the start."""
    noise_at_start = jnp.sqrt(judge.start_squares / jnp.maximum(judge.starts - 1, 1).astype(level.noise.dtype))
    scatters = (judge.starts >= _STARTS) & (level.noise > _WILD * noise_at_start)
    return scatters & (judge.start - level.mean < 2 * level.noise)


def is_doubtful(judge: Any) -> jax.Array:
    """Returns whether the next loss may be a bad one: the last four or sixteen are above the best level, or scatter as
    if by the rate, or there are such spikes that one of them would be above the start."""
    gained, level = jnp.maximum(judge.start - judge.best, 0), _levels(judge)[0]
    _, residuals = _detrended(judge.losses, judge.known)
    spike, usual = jnp.max(residuals), jnp.std(residuals)
    has_spikes = (spike > _SPIKE * usual) & (level.mean + spike > judge.start)
    doubts = [level.is_known & (_is_wild(judge, level) | has_spikes)]
    for count in (min(4, len(judge.losses)), min(LEVEL, len(judge.losses))):
        mean = jnp.mean(judge.losses[-count:])
        limit = judge.best + jnp.maximum(_NEAR * gained, _SURE * level.noise / count**0.5)
        doubts.append((judge.recent >= count) & (mean > limit))
    return functools.reduce(jnp.logical_or, doubts)


def _levels(judge: Any) -> list[Any]:
    """Of the last losses, and of all in the history: the second is late, but sees what is within the noise.

    The deviation is that of differences between neighbours, in which a trend hardly counts.
    """
    window = len(judge.losses)
    steps = jnp.diff(judge.losses)
    is_step = jnp.arange(len(steps), dtype=judge.known.dtype) >= window - judge.known
    squares = jnp.sum(jnp.where(is_step, jnp.square(steps), 0)) / jnp.maximum(judge.known - 1, 1).astype(steps.dtype)
    noise, counts = jnp.sqrt(squares / 2), dict.fromkeys((min(LEVEL, window), window))
    means, errors = [jnp.mean(judge.losses[window - n :]) for n in counts], [noise / n**0.5 for n in counts]
    rows = zip(counts, means, errors, strict=True)
    return [_Level(mean, mean + _SURE * error, error, noise, judge.recent >= n) for n, mean, error in rows]


def accepted(judge: Any, reading: Any, at_snapshot: Any) -> Judge:
    """After a good step."""
    new = judge._replace(
        recent=judge.recent + 1,
        known=jnp.minimum(judge.known + 1, len(judge.losses)),
        losses=appended(judge.losses, reading.loss),
        norms=appended(judge.norms, reading.bounded_norm),
    )
    # Losses at the start are more than one where the run came back there.
    is_start = at_snapshot & (judge.best >= judge.start)
    start = judge.start + (reading.loss - judge.start) / (judge.starts + 1).astype(reading.loss.dtype)
    squares = judge.start_squares + (reading.loss - judge.start) * (reading.loss - start)  # Welford's
    level = _levels(new)[0]
    follows = jnp.where(level.most < judge.best, 1, jnp.asarray(_FORGETS, level.most.dtype))
    best = jnp.where(level.is_known, judge.best + follows * (level.most - judge.best), judge.best)
    return new._replace(
        start=jnp.where(is_start, start, judge.start),
        starts=jnp.where(is_start, judge.starts + 1, judge.starts),
        start_squares=jnp.where(is_start, squares, judge.start_squares),
        best=jnp.where(is_start, start, best),
    )


def skipped(judge: Any, reading: Any) -> Judge:
    """After a spike: a bounded one is history, since where the loss has spikes they belong to its level and noise."""
    enters = reading.is_high & (judge.known >= LEVEL)
    return judge._replace(losses=jnp.where(enters, appended(judge.losses, reading.bounded), judge.losses))


def start_anew(judge: Any, reading: Any) -> Judge:
    """Where the data have changed: this loss is the first of its kind."""
    zero = jnp.zeros_like(judge.known)
    return judge._replace(recent=zero, known=zero, high_norms=zero, start=reading.loss, starts=zero, best=reading.loss)


def restored(saved: Any, now: Any) -> Judge:
    """That of the snapshot, which may be the start: what is known of the loss there stays."""
    best = jnp.where(saved.known == 0, now.start, saved.best)
    kept = {"start": now.start, "starts": now.starts, "start_squares": now.start_squares}
    return saved._replace(recent=jnp.zeros_like(now.recent), best=best, **kept)
