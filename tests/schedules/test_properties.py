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
from lrjax.catalogue import example, public_values
from tests.schedules.cases import CASES
from tests.schedules.test_precision import assert_close

# as a fraction of a number of few digits, so that the formula in float64 sees the same ones
fraction = st.integers(1, 32).map(lambda n: n / 32)
count = st.one_of(st.integers(1, 50), st.integers(1, 10**9))
few = st.integers(0, 20)


@st.composite
def arguments(draw, name):
    """Those of a row of the table, at another length, all rates multiplied alike and other numbers made smaller, where
    the schedule takes them."""
    cls = getattr(lrjax, name)
    least, at = draw(st.sampled_from(CASES[name].rows))
    given = at(max(draw(count), least))
    multiple, changed = draw(fraction), {}
    for key, x in given.items():
        domain = cls._domains[key]
        changed[key] = x
        if domain.counts_steps and isinstance(x, int):
            changed[key] = draw(st.one_of(st.just(x), few, count))
        elif isinstance(x, float):
            changed[key] = x * (multiple if domain.rate else draw(fraction))
    try:
        cls(**changed)
    except ValueError:  # another range, or phases that don't fit in
        return given
    return changed


NAMES = sorted(CASES)
evaluate = jax.jit(lambda schedule, t: schedule(t))  # one program for each structure
at_steps = st.lists(st.one_of(st.integers(0, 2**31 - 1), st.integers(0, 200)), min_size=6, max_size=6)
# 30 rather than 100 examples for each of the schedules
few_examples = settings(deadline=None, max_examples=30, derandomize=True)


def test_every_public_schedule_has_a_row():
    schedules = {n: example(cls) for n, cls in public_values(vars(lrjax)).items() if issubclass(cls, lrjax.Schedule)}
    parts = {n: [x for x in jax.tree.leaves(vars(s), is_leaf=callable) if callable(x)] for n, s in schedules.items()}
    assert set(CASES) <= set(schedules)
    assert [name for name in schedules if name not in CASES and not parts[name]] == []


@pytest.mark.sampled(24)
@pytest.mark.parametrize("name", NAMES)
@few_examples
@given(data=st.data())
def test_follows_its_formula_and_stays_a_rate(name, data):
    kwargs = data.draw(arguments(name))
    at = np.sort([*range(6), *data.draw(at_steps)])
    got = np.asarray(evaluate(getattr(lrjax, name)(**kwargs), at))
    assert np.isfinite(got).all() and (got >= 0).all()
    expected = np.array([CASES[name].law(int(t), **kwargs) for t in at])
    assert_close(got, expected, CASES[name].exponential)
    for sign in (1, -1):  # rises, falls
        if (sign * np.diff(expected) >= 0).all():
            assert (sign * np.diff(got) >= -2e-7 * got.max()).all()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=10, derandomize=True)
@given(data=st.data())
def test_is_a_value(name, data):
    schedule = getattr(lrjax, name)(**data.draw(arguments(name)))
    assert eval(repr(schedule), vars(lrjax) | {"array": np.array}) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule == copy.deepcopy(schedule)
    assert lrjax.from_config(json.loads(json.dumps(lrjax.to_config(schedule)))) == schedule
    assert jax.tree.map(lambda x: x, schedule) == schedule


@few_examples
@given(data=st.data())
def test_a_negative_step_acts_as_zero(data):
    name = data.draw(st.sampled_from(NAMES))
    schedule = getattr(lrjax, name)(**data.draw(arguments(name)))
    assert schedule(-data.draw(st.integers(1, 2**40))) == schedule(0)
