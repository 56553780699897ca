"""A small real model trained by each framework's own training class: as with Optax, its rate read and scaled, its
average evaluated, and its checkpoint gone on from."""

import os
import subprocess
import sys

import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest

import lrjax as L
from tests.interop.frameworks import FRAMEWORKS

pytestmark = [pytest.mark.promotes, pytest.mark.usefixtures("quick_compilation")]
STEPS, HALF, DECAY = 200, 100, 0.95
PEAK = 1e-2


def make(library):
    return library.warmup_cosine_decay_schedule(0.0, PEAK, 20, STEPS)


def ours():
    return L.chain(L.clip_by_global_norm(1.0), L.adamw(make(L), weight_decay=1e-2), L.ema_params(DECAY))


def theirs():
    """The rate is halved in the middle, which Optax has to know from the start."""
    schedule = optax.join_schedules([make(optax), lambda t: 0.5 * make(optax)(t + HALF)], [HALF])
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))


def assert_rate(training, rate):
    np.testing.assert_allclose(L.get_learning_rate(training.whole), rate, rtol=1e-6)


def numbers(params):
    return [np.asarray(x) for x in jax.tree.leaves(params) if not callable(x)]


def average(history):
    """The mean of the parameters, each weighing `DECAY` times the one after it."""
    weights = DECAY ** np.arange(len(history), dtype=np.float64)[::-1]
    return [np.tensordot(weights / weights.sum(), np.stack(values), 1) for values in zip(*history, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_trains_reads_scales_averages_and_goes_on(framework, tmp_path):
    data = framework.batches(STEPS)
    reference, expected, history = framework(theirs()), [], []
    for batch in data:
        expected.append(float(reference.step(batch)))
        history.append(numbers(reference.params))

    training, losses, schedule = framework(ours()), [], make(L)
    first = training.loss_with(training.params, data[0])
    for step, batch in enumerate(data[:HALF]):
        losses.append(float(training.step(batch)))
        if step in (0, 1, HALF - 1):
            assert_rate(training, schedule(step))
    scaled = L.scale_learning_rate(training.whole, 0.5)
    assert type(scaled) is type(training.whole)
    training.whole = scaled
    assert_rate(training, 0.5 * schedule(HALF - 1))

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", training.arrays)
        checkpointer.wait_until_finished()
        resumed = framework(ours())
        resumed.restore(checkpointer.restore(tmp_path / "half", resumed.arrays))

    losses += [float(training.step(batch)) for batch in data[HALF:]]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert losses[-1] < framework.falls_to * losses[0]
    assert_rate(training, 0.5 * schedule(STEPS - 1))

    averaged = L.evaluation_params(training.whole, training.params)
    for found, wanted in zip(numbers(averaged), average(history), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert jax.tree.structure(averaged) == jax.tree.structure(training.params)
    assert float(training.loss_with(averaged, data[0])) < framework.falls_to * float(first)

    assert losses[HALF:] == [float(resumed.step(batch)) for batch in data[HALF:]]
    for a, b in zip(jax.tree.leaves(training.arrays), jax.tree.leaves(resumed.arrays), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_data_parallel_and_sharded_parameters_train_as_one_device():
    quick = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tests.interop.sharded_training"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quick)
    assert done.stdout.strip() == "sharded 8", done.stderr[-3000:]
