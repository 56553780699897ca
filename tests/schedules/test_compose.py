"""Schedules made of schedules, epochs, and schedules that a user writes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.domains import Rate, Steps

COSINE, LINE = L.cosine_decay_schedule(1.0, 100), L.linear_schedule(0.25, 1.0, 40)
AT = np.arange(0, 260)


def curve(schedule):
    return np.asarray(schedule(AT))


def same(a, b, rtol=1e-6):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.mark.slow
def test_products_and_sums():
    same(curve(COSINE * LINE), curve(COSINE) * curve(LINE))
    same(curve(COSINE * 0.5), 0.5 * curve(COSINE))
    same(curve(2 * COSINE), 2 * curve(COSINE))
    same(curve(COSINE + LINE), curve(COSINE) + curve(LINE))
    same(curve(0.5 + COSINE), 0.5 + curve(COSINE))
    same(curve(COSINE * (lambda t: 0.5)), 0.5 * curve(COSINE))


def test_clip_delay_repeat_warmup():
    same(curve(COSINE.clip(0.25, 0.75)), np.clip(curve(COSINE), 0.25, 0.75))
    same(curve(COSINE.clip(low=0.25)), np.maximum(curve(COSINE), 0.25))
    same(curve(COSINE.delay(30)), COSINE(np.maximum(AT - 30, 0)))
    same(curve(COSINE.repeat(30)), COSINE(AT % 30))
    warmed = curve(COSINE.warmup(20, init_value=0.5))
    same(warmed[20:], COSINE(AT[20:] - 20))
    same(warmed[:20], 0.5 + 0.5 * AT[:20] / 20)
    assert COSINE.warmup(0)(0) == 1.0


@pytest.mark.parametrize("T", [3, 100, 12345, 10**6, 10**8])
@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_a_stretched_schedule_is_the_longer_one(T, factor):
    steps = np.array([0, 1, T // 2, T, T * factor - 2, T * factor - 1, T * factor, 2**31 - 1])
    for make in (lambda n: L.cosine_decay_schedule(1.0, n), lambda n: L.linear_schedule(1.0, 0.0, n)):
        same(make(T).stretch(factor)(steps), make(T * factor)(steps), rtol=2e-6)


def test_a_fraction_stretches_too():
    same(curve(COSINE.stretch(0.5)), curve(L.cosine_decay_schedule(1.0, 50)), rtol=1e-6)
    same(curve(COSINE.stretch(1.5))[:140], curve(L.cosine_decay_schedule(1.0, 150))[:140], rtol=1e-4)


def test_repeats_are_exact_over_billions_of_steps():
    schedule = COSINE.repeat(100)
    assert schedule(2_000_000_000) == 1.0 and schedule(2_000_000_099) == COSINE(99)


def test_join_gives_each_schedule_its_own_step_zero():
    joined = curve(L.join_schedules([LINE, COSINE, L.constant_schedule(0.125)], [40, 90]))
    same(joined, np.where(AT < 40, LINE(AT), np.where(AT < 90, COSINE(AT - 40), 0.125)))


@pytest.mark.slow
def test_compositions_are_values():
    schedule = (0.5 * COSINE.warmup(10) + LINE.clip(high=0.5)).delay(3).stretch(2).repeat(500)
    assert eval(repr(schedule), dict(vars(L))) == schedule == L.from_config(L.to_config(schedule))
    traced = jax.jit(lambda s: s(AT))(schedule)
    same(traced, curve(schedule))
    gradient = jax.grad(lambda s: s(100))(schedule)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    batch = COSINE * jnp.array([0.5, 1.0])
    same(jax.vmap(lambda s: s(30))(L.batched(batch)), np.array([0.5, 1.0]) * COSINE(30))


@pytest.mark.slow
@pytest.mark.promotes
def test_an_optax_schedule_is_taken_as_it_is():
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100)
    ours = L.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100)
    same(curve(L.as_schedule(theirs)), curve(ours), rtol=1e-4)
    same(L.join_schedules([theirs, ours], [50])(60), ours(10))


@pytest.mark.sampled(8)
@pytest.mark.promotes
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("linear_schedule", (1.0, 0.1, 70, 10)),
        ("polynomial_schedule", (1.0, 0.1, 2.5, 70, 10)),
        ("piecewise_constant_schedule", (1.0, {30: 0.5, 60: 0.1})),
        ("piecewise_interpolate_schedule", ("linear", 1.0, {30: 0.5, 60: 0.1})),
        ("piecewise_interpolate_schedule", ("cosine", 1.0, {30: 0.5, 60: 0.1})),
        ("exponential_decay", (1.0, 30, 0.7, 10, True, 0.3)),
        ("exponential_decay", (1.0, 30, 0.7)),
        ("cosine_decay_schedule", (1.0, 100, 0.1, 1.5)),
        ("linear_onecycle_schedule", (100, 1.0)),
        ("cosine_onecycle_schedule", (100, 1.0)),
        ("warmup_constant_schedule", (0.1, 1.0, 30)),
        ("warmup_cosine_decay_schedule", (0.1, 1.0, 30, 100, 0.01)),
        ("warmup_exponential_decay_schedule", (0.1, 1.0, 30, 20, 0.5, 10)),
        (
            "sgdr_schedule",
            ([dict(init_value=0.1, peak_value=1.0, warmup_steps=5, decay_steps=50, end_value=0.1)] * 2,),
        ),
    ],
)
def test_agrees_with_optax_where_optax_is_right(name, arguments):
    theirs = [float(getattr(optax, name)(*arguments)(t)) for t in range(120)]
    same(np.asarray(getattr(L, name)(*arguments)(np.arange(120))), theirs, rtol=2e-4)


def test_steps_for_counts_updates():
    assert L.steps_for(epochs=3, examples=1000, batch_size=100) == 30
    assert L.steps_for(epochs=1, examples=1001, batch_size=100) == 11
    assert L.steps_for(epochs=1, examples=1001, batch_size=100, drop_remainder=True) == 10
    assert L.steps_for(epochs=2, examples=1000, batch_size=100, accumulation=8) == 2
    assert L.steps_for(epochs=0.1, examples=3000, batch_size=100) == 3


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"examples": -1}, "examples"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"accumulation": 0}, "accumulation"),
        ({"accumulation": 1000}, "epochs"),
    ],
)
def test_steps_for_names_a_bad_argument(changes, argument):
    with pytest.raises(ValueError, match=f"steps_for: `{argument}` must be"):
        L.steps_for(**{"epochs": 1, "examples": 100, "batch_size": 10, **changes})


@L.schedule
def triangle_schedule(step, peak: Rate, half: Steps):
    """Up and down once."""
    return peak * jnp.maximum(1 - jnp.abs(step / half - 1), 0)


def test_a_users_schedule_is_as_good_as_ours():
    schedule = triangle_schedule(0.5, half=10)
    assert schedule([0, 5, 10, 15, 20, 30]).tolist() == [0, 0.25, 0.5, 0.25, 0, 0]
    assert repr(schedule) == "triangle_schedule(peak=0.5, half=10)"
    assert L.from_config(L.to_config(schedule)) == schedule
    assert L.to_config(schedule)["type"].endswith("test_compose.triangle_schedule")
    with pytest.raises(ValueError, match="triangle_schedule: `half` must be"):
        triangle_schedule(0.5, half=0)
    assert L.adam(schedule).learning_rate == schedule
