"""What goes wrong elsewhere goes right here: bad arguments, odd steps, dtypes, precision, tracing.

The rows are those that were found wrong in Optax 0.2.8.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.jax_versions import enable_x64
from tests.schedules.cases import CASES

NAN, INF = math.nan, math.inf

BAD = [
    # call, argument that the message names
    (lambda: L.linear_schedule(1.0, 0.1, 0), "transition_steps"),
    (lambda: L.linear_schedule(1.0, 0.1, -5), "transition_steps"),
    (lambda: L.polynomial_schedule(1.0, 0.1, 2.0, 0), "transition_steps"),
    (lambda: L.linear_schedule(1.0, 0.1, 10, -3), "transition_begin"),
    (lambda: L.linear_schedule(1.0, 0.1, NAN), "transition_steps"),
    (lambda: L.linear_schedule(1.0, 0.1, 10, NAN), "transition_begin"),
    (lambda: L.linear_schedule(NAN, 0.1, 10), "init_value"),
    (lambda: L.linear_schedule(1.0, 100.0, 0.1), "transition_steps"),  # swapped with the end value
    (lambda: L.polynomial_schedule(1.0, 0.1, -1, 10), "power"),
    (lambda: L.exponential_decay(1.0, 0, 0.5), "transition_steps"),
    (lambda: L.exponential_decay(1.0, 10, -0.5), "decay_rate"),
    (lambda: L.exponential_decay(1.0, 10, 0.5, end_value=2.0), "end_value"),
    (lambda: L.exponential_decay(1.0, 10, 1.5, end_value=0.5), "end_value"),
    (lambda: L.exponential_decay(-1.0, 10, 0.5, end_value=-2.0), "end_value"),
    (lambda: L.exponential_decay(1.0, NAN, 0.5), "transition_steps"),
    (lambda: L.exponential_decay(1.0, 10, NAN), "decay_rate"),
    (lambda: L.exponential_decay(1.0, 10, 0.5, end_value=NAN), "end_value"),
    (lambda: L.cosine_decay_schedule(1.0, 0), "decay_steps"),
    (lambda: L.cosine_decay_schedule(1.0, NAN), "decay_steps"),
    (lambda: L.cosine_decay_schedule(1.0, 10, exponent=-1), "exponent"),
    (lambda: L.cosine_decay_schedule(1.0, 10, exponent=NAN), "exponent"),
    (lambda: L.piecewise_constant_schedule(1.0, {3: NAN}), "boundaries_and_scales"),
    (lambda: L.piecewise_constant_schedule(1.0, {3: INF}), "boundaries_and_scales"),
    (lambda: L.piecewise_constant_schedule(1.0, {-3: 0.5}), "boundaries_and_scales"),
    (lambda: L.piecewise_interpolate_schedule("linear", 1.0, {-4: 0.5, 4: 0.1}), "boundaries_and_scales"),
    (lambda: L.piecewise_interpolate_schedule("linear", 1.0, {4: INF}), "boundaries_and_scales"),
    (lambda: L.piecewise_interpolate_schedule("cubic", 1.0, {4: 0.5}), "interpolate_type"),
    (lambda: L.linear_onecycle_schedule(1, 1.0), "transition_steps"),
    (lambda: L.linear_onecycle_schedule(10, 1.0, pct_start=1.0), "pct_start"),
    (lambda: L.linear_onecycle_schedule(100, 1.0, pct_start=0.9), "pct_start"),
    (lambda: L.linear_onecycle_schedule(100, 1.0, pct_start=2.0), "pct_start"),
    (lambda: L.linear_onecycle_schedule(0, 1.0), "transition_steps"),
    (lambda: L.cosine_onecycle_schedule(-1, 1.0), "transition_steps"),
    (lambda: L.linear_onecycle_schedule(NAN, 1.0), "transition_steps"),
    (lambda: L.linear_onecycle_schedule(10, 1.0, pct_start=NAN), "pct_start"),
    (lambda: L.linear_onecycle_schedule(10, 1.0, div_factor=0), "div_factor"),
    (lambda: L.cosine_onecycle_schedule(10, 1.0, div_factor=-25), "div_factor"),
    (lambda: L.warmup_constant_schedule(0.0, 1.0, -1), "warmup_steps"),
    (lambda: L.warmup_cosine_decay_schedule(0.0, 1.0, -2, 10), "warmup_steps"),
    (lambda: L.warmup_cosine_decay_schedule(0.0, 1.0, 20, 10), "warmup_steps"),
    (lambda: L.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10), "warmup_steps"),
    (lambda: L.warmup_exponential_decay_schedule(0.0, 1.0, 2, 10, -1.0), "decay_rate"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 3, [5]), "boundaries"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 2, [5, 10]), "boundaries"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 3, [10, 5]), "boundaries"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 2, [NAN]), "boundaries"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 2, [-5]), "boundaries"),
    (lambda: L.join_schedules([], []), "schedules"),
    (lambda: L.join_schedules([3.0], []), "schedules"),
    (lambda: L.sgdr_schedule([]), "cosine_kwargs"),
    (lambda: L.sgdr_schedule(jnp.array(1.0)), "cosine_kwargs"),
    (lambda: L.join_schedules(jnp.array(1.0), []), "schedules"),
    (lambda: L.join_schedules([L.constant_schedule(1.0)] * 2, jnp.array(1.0)), "boundaries"),
    (lambda: L.piecewise_constant_schedule(1.0, "a"), "boundaries_and_scales"),
    (lambda: L.piecewise_constant_schedule(1.0, [(1, 2, 3)]), "boundaries_and_scales"),
    (lambda: L.constant_schedule(None), "value"),
    (lambda: L.constant_schedule("a"), "value"),
    (lambda: L.constant_schedule(NAN), "value"),
    (lambda: L.constant_schedule(INF), "value"),
    (lambda: L.constant_schedule(True), "value"),
    (lambda: L.constant_schedule(1j), "value"),
    (lambda: L.constant_schedule(1e39), "value"),  # infinite in float32
    (lambda: L.constant_schedule(np.array([0.1, NAN])), "value"),
    # and in schedules that Optax lacks
    (lambda: L.step_decay(1.0, 0, 0.5), "step_size"),
    (lambda: L.piecewise_values_schedule([1.0], [3]), "values"),
    (lambda: L.cyclic_schedule(0.5, 1.0, 10, mode="square"), "mode"),
    (lambda: L.cyclic_schedule(0.5, 1.0, 2**31 - 1), "step_size_up"),
    (lambda: L.cosine_restarts_schedule(1.0, 10, cycle_mult=0.5), "cycle_mult"),
    (lambda: L.cosine_restarts_schedule(1.0, 10, warmup_steps=10), "warmup_steps"),
    (lambda: L.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, 1, cooldown="sqrt"), "cooldown"),
    (lambda: L.tanh_decay(1.0, 10, lower=3.0, upper=-7.0), "lower"),
    (lambda: L.tabulated_schedule([]), "values"),
    (lambda: L.three_phase_onecycle_schedule(10, 1.0, pct_start=0.6), "pct_start"),
    (lambda: L.constant_schedule(0.1).stretch(0), "factor"),
    (lambda: L.constant_schedule(0.1).repeat(0), "period"),
    (lambda: L.constant_schedule(0.1).clip(0.5, 0.1), "high"),
]


@pytest.mark.parametrize(("call", "argument"), BAD)
def test_a_bad_argument_raises_at_construction_and_is_named(call, argument):
    with pytest.raises(ValueError, match=rf"^\w+: `{argument}` must be .*, got .*\.$"):
        call()


def test_absolute_rates_have_a_schedule_of_their_own():
    assert L.piecewise_values_schedule([0.1, 0.01, 0.001], [3, 6])(6) == np.float32(0.001)


GROWING = [
    L.exponential_decay(1.0, 10, 1.5),
    L.exponential_decay(0.0, 1, 2.0),  # 0·∞
    L.step_decay(0.0, 1, 2.0),
    L.step_decay(-1.0, 1, 2.0),
    L.warmup_exponential_decay_schedule(0.0, 0.0, 1, 1, 2.0),
    L.cosine_restarts_schedule(0.1, 10, peak_decay=2.0),
    L.cosine_restarts_schedule(0.0, 10, peak_decay=2.0, end_value=1.0),
    L.cyclic_schedule(0.0, 1.0, 10, mode="exp_range", gamma=2.0),
    L.cyclic_schedule(-1.0, -2.0, 10, mode="exp_range", gamma=2.0),
]


@pytest.mark.parametrize("schedule", GROWING, ids=repr)
def test_growth_without_an_end_stays_finite(schedule):
    assert np.isfinite(schedule([1, 10**4, 10**4 + 5, 10**6, 2**31 - 1])).all()


def test_a_function_that_returns_no_number_is_named():
    with pytest.raises(ValueError, match="from_callable: `function` must return a number, got None"):
        L.sgd(lambda step: None).init(jnp.ones(2))
    with pytest.raises(ValueError, match="from_callable: `function` must return a number, got 'a'"):
        L.from_callable(lambda step: "a")([1, 2])


def test_a_decay_rate_of_one_is_constant():
    assert L.exponential_decay(1.0, 10, 1.0, end_value=0.5)(10**6) == 1.0


def test_cosine_alpha_is_a_fraction_of_the_first_rate():
    assert L.cosine_decay_schedule(0.5, 10, alpha=0.25)(10) == 0.125


@pytest.mark.parametrize("T", [3, 4, 10, 100])
@pytest.mark.parametrize("pct_start", [0.01, 0.3, 0.84])
def test_a_one_cycle_reaches_its_peak_and_its_end(T, pct_start):
    steps, low = np.arange(T + 100), np.float32(1 / 25)
    for schedule in (L.linear_onecycle_schedule(T, 1.0, pct_start), L.cosine_onecycle_schedule(T, 1.0, pct_start)):
        curve = np.asarray(schedule(steps))
        assert curve.max() == 1.0 and curve[0] == low
        np.testing.assert_allclose(curve[T:], low / 1e4, rtol=1e-6)


def test_a_warmup_of_no_steps_starts_at_the_peak():
    assert L.warmup_constant_schedule(0.0, 0.5, 0)([0, 1, 9]).tolist() == [0.5, 0.5, 0.5]


def test_a_cooldown_of_no_steps_ends_at_once():
    assert L.warmup_stable_decay_schedule(0.0, 1.0, 2, 3, 0)([0, 1, 2, 4, 5]).tolist() == [0, 0.5, 1, 1, 0]


def test_join_never_calls_a_schedule_with_a_negative_step():
    seen = []
    join = L.join_schedules([lambda t: 0.1, lambda t: jax.debug.callback(seen.append, t) or 0.2], [10])
    for step in (0, 9, 10, 15):
        join(step).block_until_ready()
    jax.effects_barrier()
    assert sorted(int(t) for t in seen) == [0, 0, 0, 5]


SCHEDULES = {
    "constant": L.constant_schedule(0.5),
    "linear": L.linear_schedule(1.0, 0.125, 10),
    "polynomial": L.polynomial_schedule(1.0, 0.125, 2.0, 10),
    "piecewise": L.piecewise_constant_schedule(1.0, {5: 0.5}),
    "interpolate": L.piecewise_interpolate_schedule("linear", 1.0, {5: 0.5, 10: 0.5}),
    "exponential": L.exponential_decay(1.0, 10, 0.5, 5),
    "cosine": L.cosine_decay_schedule(1.0, 10),
    "onecycle": L.linear_onecycle_schedule(10, 1.0),
    "warmup_cosine": L.warmup_cosine_decay_schedule(0.25, 1.0, 3, 10),
    "cyclic": L.cyclic_schedule(0.25, 1.0, 3),
    "restarts": L.cosine_restarts_schedule(1.0, 10, 2.0),
    "join": L.join_schedules([L.linear_schedule(0.25, 1.0, 5), L.cosine_decay_schedule(1.0, 5)], [5]),
    "foreign": L.from_callable(lambda step: 0.1 * step.astype(float)),
    "stretch": L.linear_schedule(1.0, 0.125, 10).stretch(2),
}
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.mark.sampled(8)
@each
def test_a_negative_step_acts_as_zero(schedule):
    first = schedule(0)
    for step in (-1, -5, np.int64(-5), jnp.int32(-5), -2.5):
        assert schedule(step) == first


@pytest.mark.sampled(7)
@each
def test_a_step_past_the_last_acts_as_the_last(schedule):
    last = schedule(2**31 - 1)
    for step in (2**31, 2**40, np.int64(2**40), np.uint32(2**32 - 1), np.inf, 1e30):
        assert schedule(step) == last


@pytest.mark.sampled(24)
@each
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "bfloat16"])
def test_every_dtype_of_step_gives_the_same_strong_float32(schedule, dtype):
    for step in (0, 3, 7, 12):
        got = schedule(jnp.asarray(step, dtype))
        assert got.dtype == jnp.float32 and not got.weak_type
        assert got == schedule(step)


@pytest.mark.sampled(8)
@each
def test_arrays_of_steps_give_the_shape_of_the_array(schedule):
    steps = np.arange(24).reshape(2, 3, 4)
    got = schedule(steps)
    assert got.shape == steps.shape
    np.testing.assert_allclose(got.ravel(), [schedule(int(t)) for t in steps.ravel()], rtol=3e-7)
    assert schedule([1, 2, 3]).shape == (3,) and schedule(np.zeros(0, int)).shape == (0,)


@each
@pytest.mark.parametrize("step", [True, None, "3", 1j, NAN, np.array([1.0, NAN])])
def test_what_is_no_number_of_steps_is_an_error(schedule, step):
    with pytest.raises(TypeError, match="`step` must be a number of steps, got"):
        schedule(step)


@each
def test_a_traced_nan_step_gives_nan(schedule):
    assert np.isnan(jax.jit(schedule)(jnp.float32(NAN)))


@each
def test_a_float_step_lies_between_its_neighbours(schedule):
    low, between, high = (float(schedule(t)) for t in (6, 6.5, 7))
    assert min(low, high) - 1e-6 <= between <= max(low, high) + 1e-6


def test_restarts_do_not_freeze():
    assert L.cosine_restarts_schedule(1.0, 10)(10**9) == 1.0


@pytest.mark.parametrize("T", [10**4, 10**5, 10**6, 10**7, 10**8, 2 * 10**9])
def test_the_last_steps_keep_their_digits(T):
    np.testing.assert_allclose(L.cosine_decay_schedule(1.0, T)(T - 1), math.sin(math.pi / 2 / T) ** 2, rtol=1e-6)
    np.testing.assert_allclose(L.linear_schedule(1.0, 0.0, T)(T - 1), 1 / T, rtol=1e-6)


def test_the_last_thousand_steps_differ():
    curve = np.asarray(L.cosine_decay_schedule(1.0, 10**6)(np.arange(10**6 - 1000, 10**6)))
    assert len(set(curve.tolist())) == 1000 and (curve > 0).all() and (np.diff(curve) < 0).all()


def test_boundaries_past_two_to_the_24_are_exact():
    schedule = L.piecewise_values_schedule([1.0, 0.5], [2**24 + 1])
    assert schedule(2**24) == 1.0 and schedule(2**24 + 1) == 0.5
    got = jax.jit(lambda s, t: s(t))(schedule, 2**24)
    assert got == 1.0  # also where the boundary is an argument


def most_arguments(case):
    return max((make(max(least, 10)) for least, make in case.rows), key=len)


# Every single number of every schedule is traceable: (name, argument), with those of the row that gives most
TRACED = {name: vars(getattr(L, name)(**most_arguments(case))) for name, case in CASES.items()}
NUMBERS = [(name, key) for name, kwargs in TRACED.items() for key, x in kwargs.items() if type(x) in (int, float)]
number_of_each = pytest.mark.parametrize(("name", "argument"), NUMBERS)


@pytest.mark.sampled(32)
@number_of_each
def test_vmap_over_every_number(name, argument):
    cls, kwargs = getattr(L, name), TRACED[name]
    batch = jnp.asarray([kwargs[argument]] * 3)
    got = jax.vmap(lambda v: cls(**{**kwargs, argument: v})(3))(batch)
    np.testing.assert_allclose(got, [cls(**kwargs)(3)] * 3, rtol=1e-6)


@pytest.mark.sampled(96)
@number_of_each
def test_the_gradient_of_every_number_is_finite_and_that_of_a_float_is_right(name, argument):
    cls, kwargs = getattr(L, name), TRACED[name]
    with enable_x64(True):
        gradient = float(getattr(jax.grad(lambda s: s(3))(cls(**kwargs)), argument))
        assert np.isfinite(gradient)
        if isinstance(kwargs[argument], float) and kwargs[argument] and not argument.startswith("pct"):
            h = 1e-6 * kwargs[argument]
            shifted = [float(cls(**{**kwargs, argument: kwargs[argument] + d})(3)) for d in (h, -h)]
            np.testing.assert_allclose(gradient, (shifted[0] - shifted[1]) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "make",
    [
        lambda T: L.linear_schedule(1.0, 0.5, T),
        lambda T: L.cosine_decay_schedule(1.0, T, alpha=0.25, exponent=1.5),
        lambda T: L.exponential_decay(1.0, T, 0.5),
        lambda T: L.rex_schedule(1.0, T),
    ],
)
def test_the_gradient_of_a_number_of_steps_is_right(make):
    with enable_x64(True):
        rate = lambda T: make(T)(3)
        gradient = jax.grad(rate)(10.0)
        shifted = [float(jax.jit(rate)(10.0 + h)) for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(gradient, (shifted[0] - shifted[1]) / 2e-5, rtol=1e-5)


def test_a_batch_that_is_used_as_one_schedule_says_so():
    with pytest.raises(ValueError, match=r"cosine_decay_schedule: `init_value` is a batch of shape \(2,\)"):
        L.cosine_decay_schedule(jnp.array([0.1, 0.2]), 10)(3)


@pytest.mark.parametrize(
    "schedule", [L.polynomial_schedule(1.0, 0.0, 0.5, 10), L.cosine_decay_schedule(1.0, 10, exponent=0.5)]
)
def test_the_slope_past_the_end_is_zero_and_never_nan(schedule):
    slope = jax.grad(schedule)
    assert slope(11.0) == 0 and slope(1e6) == 0 and not np.isnan(slope(10.0)) and slope(5.0) < 0


def test_constant_and_injected_hyperparameters_give_the_same_bits():
    steps = np.arange(0, 3000, 11)
    constant = L.exponential_decay(0.1, 100, 0.97)(steps)
    traced = jax.jit(lambda a, r: L.exponential_decay(a, 100, r)(steps))(0.1, 0.97)
    np.testing.assert_allclose(constant, traced, rtol=2e-7)
