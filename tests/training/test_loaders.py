"""Data that are loaded batch by batch."""

import warnings
from itertools import chain, islice, repeat

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


@pytest.mark.parametrize("make", [torch_loader, torch_loader_of_arrays, grain_loader, grain_dataset])
def test_loaders_of_torch_and_grain_train_as_a_list_and_go_on_from_a_checkpoint(make, tmp_path, monkeypatch):
    monkeypatch.setattr("lrjax.training.batches.LOADED_BYTES", 150)  # chunks of a few steps
    monkeypatch.setattr("lrjax.training.checkpoint.MOST_OF_TIME", 1.0)  # it is saved after every chunk
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
