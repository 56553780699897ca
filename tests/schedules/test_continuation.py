"""Schedules that change the plan of a run while it goes on, against their formulas in float64."""

import jax
import numpy as np
import pytest

import lrjax as L
from tests import oracles

COSINE = L.cosine_decay_schedule(1.0, 100)
WSD = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "stable_steps": 60, "decay_steps": 30}


def cosine(t):
    """In float64, at fractions of steps too."""
    return 0.5 * (1 + np.cos(np.pi * np.clip(t / 100, 0, 1)))


@pytest.mark.parametrize(("at", "new_total"), [(0, 250), (50, 200), (99, 1000), (30, 60), (12.5, 131.5)])
def test_the_past_stays_and_the_rest_is_stretched(at, new_total):
    steps = np.arange(0, 1100)
    got = np.asarray(L.extend_schedule(COSINE, at, 100, new_total)(steps))
    rest = at + (steps - at) * (100 - at) / (new_total - at)
    np.testing.assert_allclose(got, cosine(np.where(steps < at, steps, rest)), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(got[: int(at) + 1], COSINE(steps[: int(at) + 1]))
    assert (got[int(new_total) + 1 :] == 0).all()
    slope = np.pi / 200 * max(1, (100 - at) / (new_total - at))  # the steepest of the two parts
    assert np.abs(np.diff(got)).max() <= slope * 1.001  # without a jump


def test_at_the_end_the_last_rate_stays_and_an_endless_schedule_goes_on():
    assert L.extend_schedule(COSINE.clip(low=0.25), 100, 100, 200)([99, 100, 150, 300]).tolist()[1:] == [0.25] * 3
    endless = L.inverse_sqrt_schedule(1.0, warmup_steps=10)
    got = L.extend_schedule(endless, at=40, total=100, new_total=160)([40, 160, 460])
    np.testing.assert_allclose(got, endless([40, 100, 400]), rtol=1e-6)


@pytest.mark.parametrize("at", [5, 40, 80])  # in the warmup, the stable phase and the decay
def test_a_warmup_stable_decay_run_is_extended_in_any_phase(at):
    schedule, steps = L.warmup_stable_decay_schedule(**WSD), np.arange(0, 220)
    got = np.asarray(L.extend_schedule(schedule, at, 100, 200)(steps))
    rest = at + (steps - at) * (100 - at) / (200 - at)
    expected = [oracles.warmup_stable_decay_schedule(t, **WSD) for t in np.where(steps < at, steps, rest)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("total", [10**4, 10**8, 2**30])
def test_the_steps_that_remain_are_exact(total):
    """Where a schedule reaches 0, its rates are proportional to the steps that remain."""
    at, new_total = total // 2, 2 * total - 3
    left = np.array([1, 2, 3, 1000])
    got = L.extend_schedule(L.linear_schedule(1.0, 0.0, total), at, total, new_total)(new_total - left)
    np.testing.assert_allclose(got, left * (total - at) / (new_total - at) / total, rtol=1e-6)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt", "1-square"])
@pytest.mark.parametrize("start", [5, 40, 85])
def test_a_cooldown_branches_off_at_any_step(start, shape):
    schedule, steps = L.warmup_stable_decay_schedule(**WSD), np.arange(0, 140)
    got = np.asarray(L.cooldown_schedule(schedule, start, 40, 0.0625, shape)(steps))
    p = np.clip((steps - start) / 40, 0, 1)
    f = {"linear": 1 - p, "cosine": 0.5 * (1 + np.cos(np.pi * p)), "1-sqrt": 1 - np.sqrt(p), "1-square": 1 - p**2}
    before = [oracles.warmup_stable_decay_schedule(t, **WSD) for t in np.minimum(steps, start)]
    expected = np.where(steps < start, before, 0.0625 + (np.array(before) - 0.0625) * f[shape])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[: start + 1], schedule(steps[: start + 1]))


def test_a_cooldown_from_the_stable_phase_is_the_decay_of_the_shorter_plan():
    shorter, longer = ({**WSD, "stable_steps": n} for n in (30, 1000))
    branch = L.cooldown_schedule(L.warmup_stable_decay_schedule(**longer), start=40, steps=30)
    steps = np.arange(0, 80)
    np.testing.assert_allclose(branch(steps), L.warmup_stable_decay_schedule(**shorter)(steps), rtol=1e-6, atol=1e-7)


def test_they_are_values_and_go_into_compiled_programs():
    for schedule in (L.extend_schedule(COSINE, 50, 100, 200), L.cooldown_schedule(COSINE, 50, 20, shape="linear")):
        assert eval(repr(schedule), dict(vars(L))) == schedule == L.from_config(L.to_config(schedule))
        np.testing.assert_allclose(jax.jit(lambda s, t: s(t))(schedule, 60), schedule(60), rtol=1e-6)
        gradient = jax.grad(lambda s: s(60))(schedule)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    traced = jax.jit(lambda at: L.extend_schedule(COSINE, at, 100, 200)(70))(50)
    np.testing.assert_allclose(traced, L.extend_schedule(COSINE, 50, 100, 200)(70), rtol=1e-6)


def test_the_optimizer_goes_on_with_the_new_schedule_and_its_old_state():
    params = np.ones(2, np.float32)
    before = L.adam(L.cosine_decay_schedule(0.1, 4))
    after = L.adam(L.extend_schedule(before.learning_rate, at=2, total=4, new_total=6))
    state, rates = before.init(params), []
    for step in range(7):
        _, state = (before if step < 2 else after).update(params, state, params)
        rates.append(float(L.get_learning_rate(state)))
    np.testing.assert_allclose(rates, 0.1 * cosine(25 * np.array([0, 1, 2, 2.5, 3, 3.5, 4])), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: L.extend_schedule(COSINE, at=101, total=100, new_total=200), "at"),
        (lambda: L.extend_schedule(COSINE, at=50, total=100, new_total=50), "new_total"),
        (lambda: L.extend_schedule(COSINE, at=-1, total=100, new_total=50), "at"),
        (lambda: L.cooldown_schedule(COSINE, start=-1, steps=10), "start"),
        (lambda: L.cooldown_schedule(COSINE, start=10, steps=10, shape="sqrt"), "shape"),
        (lambda: L.cooldown_schedule("cosine", start=10, steps=10), "schedule"),
    ],
)
def test_a_bad_argument_is_named(make, argument):
    with pytest.raises(ValueError, match=f"_schedule: `{argument}` must be"):
        make()
