"""Data that are loaded batch by batch."""

import warnings

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L

X = np.arange(1.0, 22.0, dtype=np.float32).reshape(21, 1) / 20
BATCHES = [X[:8], X[8:16], X[16:]]  # the last one is shorter
START = jnp.ones(1)


def loss_fn(params, batch):
    return jnp.mean((batch @ params - 0.5) ** 2)


class Loader:
    """As torch's: batches of arrays, for each pass anew."""

    def __iter__(self):
        return iter(BATCHES)

    def __len__(self):
        return len(BATCHES)


def generator():
    yield from BATCHES


def run_of(data, steps=6):
    return L.train(L.Task(loss_fn, START, data), L.sgd(0.1), steps=steps, progress=False)


EXPECTED = {"data": np.stack([BATCHES[i % 2] for i in range(6)])}


@pytest.mark.parametrize("data", [BATCHES, Loader(), generator], ids=["list", "loader", "generator function"])
def test_a_shorter_last_batch_is_left_out_with_one_note(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = run_of(data)
    notes = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert notes == ["Task: the last batch of a pass through the data has 5 examples, the others 8; it is left out."]
    stacked = L.train(L.Task(loss_fn, START, EXPECTED["data"], stacked=True), L.sgd(0.1), progress=False)
    np.testing.assert_allclose(run.losses, stacked.losses, rtol=1e-6)


def test_an_iterator_ends_before_a_shorter_last_batch():
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="at least 3 batches"):
        run_of(iter(BATCHES), 3)
    np.testing.assert_allclose(run_of(iter(BATCHES), 2).losses, run_of(BATCHES[:2], 2).losses)


def test_another_size_in_the_midst_is_an_error():
    for data in ([X[:8], X[8:10], X[10:18]], [X[:2], X[2:10]]):
        with pytest.raises(ValueError, match="batches all of one shape"):
            run_of(data, 3)


def test_a_generator_function_shows_a_model_its_batch():
    loss = lambda model, batch: jnp.mean((model(batch) - 0.5) ** 2)
    task = L.Task.from_linen(nn.Dense(1), loss, endless)
    run = L.train(task, L.sgd(0.1), steps=5, progress=False)
    assert run.losses.shape == (5,) and run.losses[-1] < run.losses[0]


def endless():
    while True:
        yield X[:8]
