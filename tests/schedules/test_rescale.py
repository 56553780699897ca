"""The examples of schedules at another peak and over another number of steps: the techniques that `compare` trains."""

import numpy as np
import pytest

import lrjax
from lrjax.schedules import cyclic, decay, warmup
from lrjax.schedules.rescale import PEAK, STEPS, rescalable_examples, rescaled

EXAMPLES = {name: s for family in (decay, warmup, cyclic) for name, s in rescalable_examples(family).items()}
each = pytest.mark.parametrize("name", EXAMPLES)


def test_tables_momentum_and_laws_of_their_own_are_left_out():
    assert {"linear_schedule", "step_decay", "cosine_onecycle_schedule", "sgdr_schedule"} <= set(EXAMPLES)
    assert not {"tabulated_schedule", "onecycle_momentum_schedule", "noam_schedule", "power_schedule"} & set(EXAMPLES)
    assert set(EXAMPLES) <= set(vars(lrjax))  # a technique is a public schedule


@pytest.mark.sampled(4)
@each
def test_an_example_reaches_its_peak_within_its_length(name):
    curve = np.asarray(EXAMPLES[name](np.arange(STEPS)))
    np.testing.assert_allclose(curve.max(), PEAK, rtol=1e-6)


@pytest.mark.sampled(21)
@each
@pytest.mark.parametrize(("rate", "time"), [(1.0, 1), (3.0, 4), (0.02, 100)])
def test_the_curve_is_that_of_the_example_stretched_and_multiplied(name, rate, time):
    at = np.arange(0, 3 * STEPS * time, time // 4 or 1)
    got, expected = rescaled(EXAMPLES[name], rate, time)(at), (EXAMPLES[name].stretch(time) * rate)(at)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * PEAK * rate)


@pytest.mark.sampled(11)
@each
@pytest.mark.parametrize("steps", [1, 3, 97])
def test_any_number_of_steps_is_long_enough(name, steps):
    schedule = rescaled(EXAMPLES[name], 0.5, steps / STEPS)
    curve = np.asarray(schedule(np.arange(steps)))
    assert np.isfinite(curve).all() and curve.max() <= 0.5 * PEAK * (1 + 1e-6)
    counts = [x for name, x in vars(schedule).items() if schedule._domains[name].counts_steps and x is not None]
    assert all(isinstance(count, int) for count in counts)


def test_a_rate_that_is_no_number_raises():
    with pytest.raises(ValueError, match="`init_value` must be a finite number"):
        rescaled(lrjax.linear_schedule(0.1, 0.0, 100), 1e40, 0.5)
