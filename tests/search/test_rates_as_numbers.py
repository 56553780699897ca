"""Optimizers that are functions of a rate which must be a Python number."""

import numpy as np
import optax
import pytest

import lrjax as L
from tests.search.test_sweep import LIST, RATES, STEPS, X, Y, looped, swept, task_of


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
def test_a_function_that_needs_its_rate_as_a_number():
    def warmed_up(rate):  # Optax asks whether the peak is 0
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, 5, STEPS))

    found = swept(warmed_up, learning_rates=RATES, seeds=2)
    np.testing.assert_allclose(found.losses, looped(warmed_up, RATES, 2, LIST), rtol=1e-4)
    assert "as a Python number" in found.notes[0] and "warmed_up(0." in found.run.optimizer
    tuned = L.tune(task_of((X, Y), batch_size=16), warmed_up, steps=STEPS, low=1e-4, high=1.0, progress=False)
    again = L.train(task_of((X, Y), batch_size=16), warmed_up(tuned.learning_rate), steps=STEPS, seed=tuned.run.seed)
    np.testing.assert_allclose(again.losses, tuned.run.losses, rtol=1e-4)
    assert "as a Python number" in tuned.notes[0]
    assert swept(optax.adam, learning_rates=RATES).notes == ()
