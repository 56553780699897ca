"""Every schedule is exact: float32 results against float64 formulas, at every step from 0 to 2³¹−1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from lrjax.jax_versions import enable_x64
from tests import oracles
from tests.schedules.cases import ALL, CASES, IDS, oracle_of, schedule_of

LENGTHS = [1, 2, 3, 7, 100, 12345, 10**6, 2**24 + 1, 10**9]
LAST = 2**31 - 1


def steps_around(T):
    around = {0, 1, T // 2, T - 2, T - 1, T, T + 1, 2**24 - 1, 2**24, 2**24 + 1, LAST, 2 * T - 1, 2 * T, 3 * T, 7 * T}
    return np.array(sorted(t for t in around if 0 <= t <= LAST), np.int64)


def assert_close(got, expected, exponential=False):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    peak = np.abs(expected).max()
    allowed = 1e-6 * np.abs(expected)
    if exponential:
        with np.errstate(divide="ignore"):
            allowed *= np.maximum(1, np.abs(np.log(np.maximum(expected, 1e-300) / max(peak, 1e-300))))
    allowed = np.where(np.abs(expected) < 1e-12 * peak, 1e-12 * peak, allowed)
    worst = np.argmax(np.abs(got - expected) - allowed)
    assert (np.abs(got - expected) <= allowed).all(), (worst, got[worst], expected[worst])


@pytest.mark.sampled(72)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize(("name", "i", "least", "arguments"), ALL, ids=IDS)
def test_agrees_with_the_formula_in_float64(name, i, least, arguments, T):
    if T < least:
        pytest.skip("too short for its phases")
    steps, oracle = steps_around(T), oracle_of(name, arguments(T))
    got = schedule_of(name, arguments(T))(steps)
    assert got.dtype == jnp.float32 and not got.weak_type
    assert_close(got, [oracle(int(t)) for t in steps], CASES[name].exponential)


@pytest.mark.sampled(32)
@pytest.mark.parametrize(("name", "i", "least", "arguments"), ALL, ids=IDS)
def test_eager_constant_and_argument_agree_to_the_last_digits(name, i, least, arguments):
    schedule, steps = schedule_of(name, arguments(100)), np.arange(0, 260, 7)
    eager = np.asarray(schedule(steps))
    constant = jax.jit(lambda t: schedule(t))(steps)
    argument = jax.jit(lambda s, t: s(t))(schedule, steps)
    one_by_one = [schedule(int(t)) for t in steps]
    mapped = jax.vmap(schedule)(jnp.asarray(steps))
    for other in (constant, argument, one_by_one, mapped):
        np.testing.assert_allclose(other, eager, rtol=4e-7, atol=1e-9)


@pytest.mark.parametrize("step_size", [1, 3, 1000, 10**9])
def test_cycle_boundaries_are_hit_on_their_exact_step(step_size):
    schedule = lrjax.cyclic_schedule(0.0, 1.0, step_size)
    period = 2 * step_size
    for k in {0, 1, 2, (LAST // period) - 1, LAST // period}:
        if 0 <= k * period <= LAST:
            assert schedule(k * period) == 0.0
        if 0 <= k * period + step_size <= LAST:
            assert schedule(k * period + step_size) == 1.0
            assert not 1 < step_size < 2**24 or schedule(k * period + step_size - 1) < 1.0


@pytest.mark.parametrize("mult", [1, 2, 3, 10])
@pytest.mark.parametrize("first", [1, 7, 1000, 2**24 + 1])
def test_restarts_are_hit_on_their_exact_step(first, mult):
    schedule, start, length = lrjax.cosine_restarts_schedule(1.0, first, mult), 0, first
    for _ in range(40):
        assert schedule(start) == 1.0
        if start > 0 and length > 1:
            assert schedule(start - 1) < 0.5 or first == 1
        start, length = start + length, length * mult
        if start > LAST:
            break


def test_restarts_with_a_fractional_multiple_agree_with_the_sum_of_their_lengths():
    for mult in (1.5, 1.25, 2.5):
        arguments = {"peak_value": 1.0, "first_cycle_steps": 1000, "cycle_mult": mult, "end_value": 0.125}
        steps = np.arange(0, 200_000, 37)
        got = lrjax.cosine_restarts_schedule(**arguments)(steps)
        expected = [oracles.cosine_restarts_schedule(int(t), **arguments) for t in steps]
        np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("T", [3, 10, 1000, 10**6, 10**9])
def test_a_decay_reaches_its_end_at_its_last_step_and_not_before(T):
    for schedule in (
        lrjax.linear_schedule(1.0, 0.0, T),
        lrjax.polynomial_schedule(1.0, 0.0, 2.0, T),
        lrjax.cosine_decay_schedule(1.0, T),
        lrjax.rex_schedule(1.0, T),
        lrjax.tanh_decay(1.0, T),
        lrjax.warmup_cosine_decay_schedule(0.0, 1.0, 1, T),
        lrjax.warmup_linear_decay_schedule(0.0, 1.0, 1, T),
        lrjax.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, T - 2),
    ):
        assert schedule(T) == 0.0 and schedule(LAST) == 0.0 and schedule(T - 1) > 0.0, schedule


def test_a_linear_warmup_from_zero_keeps_its_digits():
    schedule = lrjax.warmup_constant_schedule(0.0, 1e-3, 10**9)
    np.testing.assert_allclose(schedule(np.array([1, 2, 10**6])), [1e-12, 2e-12, 1e-6], rtol=1e-6)


def test_float64_under_x64():
    with enable_x64(True):
        got = lrjax.cosine_decay_schedule(1.0, 10**9)(np.array([10**9 - 1]))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, [np.sin(np.pi * 0.5e-9) ** 2], rtol=1e-14)
