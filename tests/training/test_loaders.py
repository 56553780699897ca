"""Data that are loaded batch by batch."""

import gc
import threading
import time
import warnings
from itertools import chain, islice, repeat

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.training.loader import read_ahead

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


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.001)
    assert holds()


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "lrjax reading ahead"]


def test_batches_are_read_ahead_but_none_too_many():
    gc.collect()  # what an error in another test keeps alive, its reader too
    asked = []
    ahead = read_ahead((asked.append(i) or i for i in range(100)), 5)
    wait_until(lambda: len(asked) == 5)
    time.sleep(0.05)
    assert len(asked) == 5 and next(ahead) == 0
    wait_until(lambda: len(asked) == 6)
    assert list(ahead) == list(range(1, 100))
    wait_until(lambda: not readers())
    ahead = read_ahead(iter(range(100)), 5)
    assert next(ahead) == 0 and readers()
    del ahead
    wait_until(lambda: not readers())


def test_of_an_iterator_no_more_is_taken_than_a_run_needs():
    batches = iter([X[i : i + 4] for i in range(16)])
    run_of(batches, 6)
    np.testing.assert_array_equal(next(batches), X[6:10])


def test_an_error_of_the_loader_reaches_the_caller():
    class Broken(Exception):
        pass

    def broken():
        yield from [X[:8]] * 3
        raise Broken("no more")

    with pytest.raises(Broken, match="no more"):
        run_of(broken, 6)


def test_what_is_read_in_the_thread_has_the_precision_of_the_caller(x64):
    generated = lambda: (jnp.asarray(X[:8], float) for _ in range(4))
    run = L.train(L.Task(loss_fn, jnp.ones(1, float), Repeated(generated)), L.sgd(0.1), steps=3, progress=False)
    assert run.losses.dtype == np.float64


class Repeated:
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return self.make()


@pytest.mark.parametrize("search", [L.tune, L.compare])
def test_what_goes_through_the_data_again_refuses_an_iterator_before_it_asks_for_one(search):
    asked = []
    batches = (asked.append(i) or X[:8] for i in range(10_000))
    with pytest.raises(ValueError, match=f"`data` must be something that {search.__name__} can go through again"):
        search(L.Task(loss_fn, START, batches), L.sgd(0.1) if search is L.tune else None, steps=2000, progress=False)
    assert asked == []


def endless():
    while True:
        yield X[:8]


PAIRS = [(x, np.float32(i % 3)) for i, x in enumerate(X)]


def stacked(pairs):
    return tuple(map(np.stack, zip(*pairs, strict=True)))


def torch_loader(**options):
    torch, data = pytest.importorskip("torch"), pytest.importorskip("torch.utils.data")
    order = torch.Generator().manual_seed(0)
    return data.DataLoader(PAIRS, 4, shuffle=True, drop_last=True, generator=order, **options)


def torch_loader_of_arrays():
    return torch_loader(collate_fn=stacked)


def grain_loader():
    grain = pytest.importorskip("grain")
    order = grain.samplers.IndexSampler(len(PAIRS), grain.sharding.NoSharding(), shuffle=True, num_epochs=1, seed=0)
    batched = [grain.transforms.Batch(4, drop_remainder=True)]
    return grain.DataLoader(data_source=PAIRS, sampler=order, operations=batched)


def grain_dataset():
    dataset = pytest.importorskip("grain").MapDataset.source(PAIRS).shuffle(seed=0)
    return dataset.batch(4, drop_remainder=True).repeat(reseed_each_epoch=True).to_iter_dataset()


@pytest.mark.slow
@pytest.mark.parametrize("make", [torch_loader, torch_loader_of_arrays, grain_loader, grain_dataset])
def test_loaders_of_torch_and_grain_train_as_a_list_and_go_on_from_a_checkpoint(make, tmp_path, monkeypatch):
    monkeypatch.setattr("lrjax.training.loader.MAX_LOADED_BYTES", 150)  # chunks of a few steps
    monkeypatch.setattr("lrjax.training.checkpoint.SAVING_FRACTION", 1.0)  # it is saved after every chunk
    steps, loss = 12, lambda params, batch: jnp.mean((batch[0] @ params - batch[1]) ** 2)
    batches = islice(chain.from_iterable(repeat(make())), steps)  # the order may differ from pass to pass
    expected = [stacked(zip(*map(np.asarray, batch), strict=True)) for batch in batches]
    seen = []

    def train(data, stop=steps, **options):
        def note(row):
            seen.append(row["step"])
            if row["step"] == stop:
                raise KeyboardInterrupt

        return L.train(L.Task(loss, START, data), L.adam(0.1), steps=steps, progress=False, on_step=note, **options)

    run = train(expected)
    np.testing.assert_array_equal(train(make()).losses, run.losses)
    with pytest.raises(KeyboardInterrupt):
        train(make(), stop=7, checkpoint=tmp_path)
    seen.clear()
    again = train(make(), checkpoint=tmp_path)
    assert 0 < seen[0] <= 7 and seen == list(range(seen[0], steps))
    np.testing.assert_array_equal(again.losses, run.losses)
    np.testing.assert_array_equal(again.params, run.params)
