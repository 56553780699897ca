"""What holds for every schedule, whatever its arguments."""

import copy
import json
import pickle

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import lrjax
from tests import oracles
from tests.schedules.test_precision import assert_close

# float32 numbers of few digits, so that the formula in float64 sees the same ones
rate = st.integers(0, 64).map(lambda n: n / 64)
above = st.integers(1, 64).map(lambda n: n / 32)
steps = st.one_of(st.integers(1, 50), st.integers(1, 10**9))
few = st.integers(0, 20)
decay = st.integers(1, 31).map(lambda n: n / 32)
pct = st.integers(1, 31).map(lambda n: n / 32)


def ordered(draw, *names):
    """Rates from the lowest to the highest."""
    return dict(zip(names, sorted(draw(rate) for _ in names), strict=True))


@st.composite
def arguments(draw, name):
    T = draw(steps)
    low_high = lambda low, high: ordered(draw, low, high)
    made = {
        "constant_schedule": lambda: {"value": draw(rate)},
        "linear_schedule": lambda: {
            "init_value": draw(rate),
            "end_value": draw(rate),
            "transition_steps": T,
            "transition_begin": draw(few),
        },
        "polynomial_schedule": lambda: {
            "init_value": draw(rate),
            "end_value": draw(rate),
            "power": draw(above),
            "transition_steps": T,
        },
        "exponential_decay": lambda: {
            "init_value": draw(rate),
            "transition_steps": T,
            "decay_rate": draw(decay),
            "transition_begin": draw(few),
            "staircase": draw(st.booleans()),
        },
        "step_decay": lambda: {"init_value": draw(rate), "step_size": T, "decay_rate": draw(decay)},
        "cosine_decay_schedule": lambda: {
            "init_value": draw(rate),
            "decay_steps": T,
            "alpha": draw(rate),
            "exponent": draw(above),
        },
        "inverse_time_decay": lambda: {"init_value": draw(rate), "transition_steps": T, "decay_rate": draw(above)},
        "inverse_sqrt_schedule": lambda: {"peak_value": draw(rate), "warmup_steps": draw(few), "timescale": T},
        "noam_schedule": lambda: {"model_size": draw(st.integers(1, 4096)), "warmup_steps": T, "factor": draw(rate)},
        "power_schedule": lambda: {
            "max_value": draw(rate),
            "batch_size": draw(st.integers(1, 4096)),
            "tokens_per_step": draw(st.integers(1, 2**24)),
            "warmup_steps": draw(few),
            "a": 4.0,
            "b": -0.5,
        },
        "rex_schedule": lambda: {**low_high("end_value", "init_value"), "transition_steps": T},
        "tanh_decay": lambda: {**low_high("end_value", "init_value"), "decay_steps": T},
        "tabulated_schedule": lambda: {"values": draw(st.lists(rate, min_size=1, max_size=5))},
        "piecewise_constant_schedule": lambda: {
            "init_value": draw(rate),
            "boundaries_and_scales": {T: draw(above), 2 * T: draw(rate)},
        },
        "piecewise_values_schedule": lambda: {"values": [draw(rate), draw(rate)], "boundaries": [T]},
        "piecewise_interpolate_schedule": lambda: {
            "interpolate_type": draw(st.sampled_from(["linear", "cosine"])),
            "init_value": draw(rate),
            "boundaries_and_scales": {T: draw(above), 2 * T: draw(rate)},
        },
        "cosine_onecycle_schedule": lambda: {
            "transition_steps": T + 2,
            "peak_value": draw(rate),
            "pct_start": draw(pct),
        },
        "three_phase_onecycle_schedule": lambda: {
            "transition_steps": T + 2,
            "peak_value": draw(rate),
            "pct_start": draw(pct) / 2,
        },
        "onecycle_momentum_schedule": lambda: {
            **low_high("min_value", "max_value"),
            "transition_steps": T + 2,
            "pct_start": draw(pct) / 2,
        },
        "linear_onecycle_schedule": lambda: {
            "transition_steps": T + 2,
            "peak_value": draw(rate),
            "pct_start": draw(pct) / 2,
            "pct_final": 0.75,
        },
        "warmup_constant_schedule": lambda: {"init_value": draw(rate), "peak_value": draw(rate), "warmup_steps": T},
        "warmup_cosine_decay_schedule": lambda: {
            **low_high("end_value", "peak_value"),
            "init_value": draw(rate),
            "warmup_steps": draw(few),
            "decay_steps": T + 20,
            "exponent": draw(above),
        },
        "warmup_linear_decay_schedule": lambda: {
            **low_high("end_value", "peak_value"),
            "init_value": draw(rate),
            "warmup_steps": draw(few),
            "decay_steps": T + 20,
        },
        "warmup_exponential_decay_schedule": lambda: {
            "init_value": draw(rate),
            "peak_value": draw(rate),
            "warmup_steps": draw(few),
            "transition_steps": T,
            "decay_rate": draw(decay),
        },
        "warmup_stable_decay_schedule": lambda: {
            **low_high("end_value", "peak_value"),
            "init_value": draw(rate),
            "warmup_steps": draw(few),
            "stable_steps": draw(few),
            "decay_steps": T,
            "cooldown": draw(st.sampled_from(["linear", "cosine", "1-sqrt", "1-square"])),
        },
        "cyclic_schedule": lambda: {
            **low_high("min_value", "max_value"),
            "step_size_up": T,
            "step_size_down": draw(steps),
            "mode": draw(st.sampled_from(["triangular", "triangular2"])),
        },
        "cosine_restarts_schedule": lambda: {
            **low_high("end_value", "peak_value"),
            "first_cycle_steps": T + 20,
            "cycle_mult": draw(st.integers(1, 4)),
            "peak_decay": draw(decay),
            "warmup_steps": draw(few),
        },
        "sgdr_schedule": lambda: {
            "cosine_kwargs": [
                {"init_value": draw(rate), "peak_value": draw(rate), "warmup_steps": draw(few), "decay_steps": 20 + T}
                for _ in range(2)
            ]
        },
    }
    assert set(made) == NAMES
    return made[name]()


# every public schedule but those made of other schedules (test_compose.py) and foreign ones
NAMES = {
    name
    for name, thing in vars(lrjax).items()
    if isinstance(thing, type) and issubclass(thing, lrjax.Schedule) and hasattr(oracles, name)
}
COMPOSED = {"product", "sum", "clip", "delay", "stretch", "repeat", "warmup"}
OTHERS = {"Schedule", "from_callable", "join_schedules", *(f"{name}_schedule" for name in COMPOSED)}
DECAYS = [
    "cosine_decay_schedule",
    "exponential_decay",
    "inverse_time_decay",
    "rex_schedule",
    "step_decay",
    "tanh_decay",
]
evaluate = jax.jit(lambda schedule, t: schedule(t))  # one program for each structure
at_steps = st.lists(st.one_of(st.integers(0, 2**31 - 1), st.integers(0, 200)), min_size=6, max_size=6)
# 30 rather than 100 examples for each of 27 schedules
few_examples = settings(deadline=None, max_examples=30, derandomize=True)


def test_every_public_schedule_has_an_oracle():
    everything = {n for n, x in vars(lrjax).items() if isinstance(x, type) and issubclass(x, lrjax.Schedule)}
    assert everything == NAMES | OTHERS


@pytest.mark.parametrize("name", sorted(NAMES))
@few_examples
@given(data=st.data())
def test_follows_its_formula_and_stays_a_rate(name, data):
    kwargs = data.draw(arguments(name))
    at = np.array([0, 1, *data.draw(at_steps)])
    got = np.asarray(evaluate(getattr(lrjax, name)(**kwargs), at))
    assert np.isfinite(got).all() and (got >= 0).all()
    exponential = "exponential" in name or name in (
        "step_decay",
        "cosine_decay_schedule",
        "warmup_cosine_decay_schedule",
    )
    expected = [getattr(oracles, name)(int(t), **kwargs) for t in at]
    assert_close(got, expected, exponential)


@pytest.mark.parametrize("name", sorted(NAMES))
@settings(deadline=None, max_examples=10, derandomize=True)
@given(data=st.data())
def test_is_a_value(name, data):
    schedule = getattr(lrjax, name)(**data.draw(arguments(name)))
    assert eval(repr(schedule), vars(lrjax) | {"array": np.array}) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule == copy.deepcopy(schedule)
    assert lrjax.from_config(json.loads(json.dumps(lrjax.to_config(schedule)))) == schedule
    assert jax.tree.map(lambda x: x, schedule) == schedule


@pytest.mark.parametrize("name", DECAYS)
@few_examples
@given(data=st.data())
def test_a_decay_never_rises(name, data):
    schedule = getattr(lrjax, name)(**data.draw(arguments(name)))
    curve = np.asarray(evaluate(schedule, np.sort([*data.draw(at_steps), *range(6)])))
    assert (np.diff(curve) <= 1e-7 * curve.max()).all()


@few_examples
@given(data=st.data())
def test_a_negative_step_acts_as_zero(data):
    name = data.draw(st.sampled_from(sorted(NAMES)))
    schedule = getattr(lrjax, name)(**data.draw(arguments(name)))
    assert schedule(-data.draw(st.integers(1, 2**40))) == schedule(0)
