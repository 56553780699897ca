"""`train(guard=True)`: a run whose rate is far too high ends better than it began, and says what was done."""

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.tasks.diabetes import diabetes


@pytest.mark.slow
@pytest.mark.promotes
def test_a_rate_that_is_far_too_high():
    task, tx = diabetes(), L.sgd(1e3)
    alone = L.train(task, tx, steps=150, progress=False)
    guarded = L.train(task, tx, steps=150, progress=False, guard=True)
    assert not np.isfinite(alone.losses[-1]) or alone.losses[-1] > alone.losses[0]
    assert np.isfinite(guarded.losses[-10:]).all() and guarded.losses[-10:].mean() < guarded.losses[0]
    assert guarded.guard.returns > 0 and guarded.guard.rate_factor < 1 and len(guarded.guard.events) > 0
    assert float(guarded.learning_rates[-1]) < 1e3  # the rate that was applied, cut
    assert "guard" in guarded._repr_html_().lower()
    assert alone.guard is None


@pytest.mark.promotes
def test_a_healthy_run_is_the_same():
    x = jnp.linspace(-1, 1, 64)
    task = L.Task(lambda w, x: jnp.mean((w * x - 2 * x) ** 2), jnp.zeros(()), x, batch_size=16)
    alone, guarded = (L.train(task, L.adam(0.05), steps=60, progress=False, guard=g) for g in (False, True))
    np.testing.assert_allclose(guarded.losses, alone.losses, rtol=1e-5)
    assert guarded.guard.returns == 0 and guarded.guard.rate_factor == 1
