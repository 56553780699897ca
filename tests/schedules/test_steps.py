"""A step is a number to whoever writes a formula, exact where whole numbers are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.domains import Steps
from lrjax.numerics import Time, as_time

STEPS = [0, 3, 5, 6, 2**24 + 1, 2**31 - 1]
N = 2**24 + 1  # not a float32 number

# each on a step, and on a NumPy int64 or float64
COMPARISONS = {
    "==": lambda t: t == N,
    "!=": lambda t: t != N,
    "<": lambda t: t < N,
    "<=": lambda t: t <= N,
    ">": lambda t: t > N,
    ">=": lambda t: t >= N,
    "reflected ==": lambda t: N == t,
    "reflected <": lambda t: N < t,
    "with a NumPy number": lambda t: t == np.int64(N),
    "with a fraction": lambda t: t > 4.5,
    "with a whole float": lambda t: t == 5.0,
    "of a remainder": lambda t: t % 3 == 2,
    "of a quotient": lambda t: t // 3 == 5592405,
    "of a difference": lambda t: t - N == 0,
    "of a negative": lambda t: -t == -N,
    "of a distance": lambda t: abs(t - N) <= 0,
    "of a reflected difference": lambda t: N - t >= 0,
    "of a reflected remainder": lambda t: 7 % (t + 2) > 0,
    "of divmod": lambda t: divmod(t, 4)[1] == 1,
}
NUMBERS = {
    "+": lambda t: t + 1.5,
    "reflected +": lambda t: 2 + t / 1,
    "-": lambda t: t - 3,
    "reflected -": lambda t: 3 - t,
    "*": lambda t: t * 0.5,
    "reflected *": lambda t: 0.5 * t,
    "/": lambda t: t / 7,
    "reflected /": lambda t: 7 / (t + 1),
    "//": lambda t: t // 3,
    "reflected //": lambda t: 7 // (t + 1),
    "// by a fraction": lambda t: (t % 100) // 2.5,
    "%": lambda t: t % 3,
    "of a negative": lambda t: (-t) % 7,
    "**": lambda t: (t / 2**31) ** 2,
    "reflected **": lambda t: 0.5 ** (t % 8),
    "-t": lambda t: -t,
    "+t": lambda t: +t,
    "abs": lambda t: abs(t - 4),
}
JNP = {
    "sqrt": lambda np, t: np.sqrt(t),
    "minimum": lambda np, t: np.minimum(t, 4.0),
    "maximum": lambda np, t: np.maximum(4.0, t),
    "where": lambda np, t: np.where(t > 4, t, 0.0),
    "interp": lambda np, t: np.interp(t, np.array([0.0, 10.0]), np.array([1.0, 2.0])),
    "exp": lambda np, t: np.exp(-t / 7),
    "cos": lambda np, t: np.cos((t % 7) / 7),
    "floor": lambda np, t: np.floor(t / 2),
    "clip": lambda np, t: np.clip(t, 1.0, 5.0),
    "power": lambda np, t: np.power(0.5, t % 8),
    "mod": lambda np, t: np.mod(t % 100, 3.0),
    "log1p": lambda np, t: np.log1p(t),
    "select": lambda np, t: np.select([t < 4, t < 6], [t * 1.0, t * 2.0], 0.0),
    "polyval": lambda np, t: np.polyval(np.array([1.0, 2.0]), t),
}


def value_of(formula):
    @L.schedule
    def user_schedule(step):
        return formula(step)

    return user_schedule()


def check(formula, reference, rtol):
    schedule, expected = value_of(formula), [float(reference(np.int64(t))) for t in STEPS]
    mapped = jax.jit(jax.vmap(schedule))
    for got in ([schedule(t) for t in STEPS], schedule(STEPS), mapped(jnp.array(STEPS, jnp.int32))):
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=1e-7)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("formula", COMPARISONS.values(), ids=COMPARISONS)
def test_comparisons_are_exact(formula):
    check(lambda t: jnp.where(formula(t), 1.0, 0.0), formula, 0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("formula", NUMBERS.values(), ids=NUMBERS)
def test_every_operator_works(formula):
    check(formula, formula, 3e-7)


@pytest.mark.sampled(4)
@pytest.mark.promotes
@pytest.mark.parametrize("formula", JNP.values(), ids=JNP)
def test_functions_of_jnp_take_a_step(formula):
    check(lambda t: formula(jnp, t), lambda t: formula(np, t), 1e-6)


def test_a_rate_of_zero_at_one_step():
    @L.schedule
    def pause(step, rate: float, at: Steps):
        return jnp.where(step == at, 0.0, rate)

    assert pause(0.5, at=2**24 + 1)([2**24, 2**24 + 1, 2**24 + 2]).tolist() == [0.5, 0.0, 0.5]


def test_no_step_is_true_or_false_while_it_is_traced():
    with pytest.raises(jax.errors.TracerBoolConversionError):
        value_of(lambda t: 1.0 if t else 0.0)(1)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        value_of(lambda t: 1.0 if t < 5 else 0.0)(1)


def test_addition_stays_at_the_last_step():
    assert value_of(lambda t: jnp.where(t + 10 > t, 1.0, 0.0) + 0 * t)(5) == 1
    assert value_of(lambda t: jnp.where(t + 10 >= 2**31 - 1, 1.0, 0.0))(2**31 - 1) == 1


def test_steps_of_a_fraction_and_derivatives_go_through_every_operator():
    schedule = value_of(lambda t: (t - 1) % 3 + t // 2 + abs(t - 9) + (-t))
    for t in (0.5, 3.25, 7.75):
        np.testing.assert_allclose(schedule(t), (t - 1) % 3 + t // 2 + abs(t - 9) - t, rtol=1e-6)

    @L.schedule
    def sawtooth(step, period: Steps):
        return (step % period) / period + abs(step - period)

    of = jax.grad(lambda period: sawtooth(period)(11))
    # d/dT of (11 − 2T)/T + 11 − T at T = 4
    np.testing.assert_allclose(of(4.0), -11 / 16 - 1, rtol=1e-6)


@pytest.mark.parametrize("period", [2.5, 3.0, 7.25])
def test_periods_of_a_fraction(period):
    t = np.array([0, 1, 2, 5, 7, 8, 100])
    times, since = as_time(t).divmod(as_time(period))
    np.testing.assert_allclose(times.total, t // period, rtol=1e-6)
    np.testing.assert_allclose(since.total, t % period, rtol=1e-5, atol=1e-5)


def test_a_step_far_below_zero_is_the_first(x64):
    schedule = L.linear_schedule(1.0, 0.0, 10)
    for step in (jnp.int64(-(2**40)), np.int64(-(2**40)), -(2**40)):
        assert schedule(step) == 1.0 and jax.jit(schedule)(step) == 1.0
    assert as_time(jnp.int64(-(2**40))).whole == -(2**31 - 1)


def test_a_time_has_a_shape_and_a_dtype():
    time = Time(jnp.arange(3))
    assert (time.shape, time.ndim, time.dtype) == ((3,), 1, jnp.float32)
    assert time.astype(jnp.int32).dtype == jnp.int32 and time.astype(jnp.bfloat16).dtype == jnp.bfloat16
    assert float(Time(3, 0.5)) == 3.5 and int(Time(3)) == 3
