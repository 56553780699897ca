"""`train(start=run)`: the parts of a run are the run, and the optimizer may change between them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.search.test_sweep import X, Y, init, loss_fn, task_of

HALF, STEPS = 14, 30
PLAN = L.cosine_decay_schedule(0.1, STEPS)


def noisy_loss(params, model_state, batch, key):
    """With dropout, and a model state that changes."""
    x, y = batch
    hidden = jnp.tanh(x @ params["w"]) * jax.random.bernoulli(key, 0.8, (8,))[None]
    error = hidden @ params["v"] - y
    mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(hidden)
    key = jax.random.split(model_state["key"])[0]
    return jnp.mean(error**2) + 0.0 * params["count"], ({"mean": mean, "key": key}, {"worst": jnp.max(error)})


def noisy_init(key):
    return init(key) | {"count": jnp.int32(3)}, {"mean": jnp.zeros(()), "key": jax.random.key(5)}


def measured(params, model_state, batch):
    return loss_fn(params, batch) + model_state["mean"]


NOISY = L.Task(noisy_loss, noisy_init, (X, Y), batch_size=16, has_state=True, has_aux=True, takes_key=True,
               metrics={"all": (measured, "min")}, validation=(X, Y))  # fmt: skip
SIMPLE = task_of((X, Y), batch_size=16)


def train(optimizer, task=SIMPLE, **options):
    return L.train(task, optimizer, progress=False, **options)


@functools.cache
def adam_half():
    return train(L.adam(0.1), steps=HALF, seed=3)


def same(ours, theirs, equal=np.testing.assert_array_equal):
    fields = ("params", "model_state", "opt_state", "losses", "learning_rates", "metrics", "aux", "evaluated_at")
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    for name in fields:
        a, b = (jax.tree.map(data, getattr(run, name)) for run in (ours, theirs))
        assert jax.tree.structure(a) == jax.tree.structure(b), name
        jax.tree.map(equal, a, b)
    for name in ("seed", "diverged", "modes", "task", "optimizer", "interrupted"):
        assert getattr(ours, name) == getattr(theirs, name), name


OPTIMIZERS = {
    "adamw": L.adamw(PLAN),  # its parameters are joined
    "MultiSteps": L.MultiSteps(L.adamw(PLAN), 4),  # in the middle of an accumulation
    "ema": L.chain(L.clip_by_global_norm(1.0), L.adamw(PLAN), L.ema_params(0.9)),
    "optax": optax.adamw(optax.cosine_decay_schedule(0.1, STEPS)),
    "noise": L.chain(L.add_noise(0.01, 0.5, 0), L.sgd(PLAN, momentum=0.9)),
    "injected": L.inject_hyperparams(L.adamw)(PLAN),
    "groups": L.partition({"a": L.adam(0.1), "b": L.sgd(PLAN)}, {"w": "a", "v": "b", "count": "b"}),
    "plateau": L.chain(L.adam(0.1), L.reduce_on_plateau(patience=2)),
    "MultiSteps of Optax": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 3),
}


@pytest.mark.sampled(3)
@pytest.mark.promotes
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_parts_are_the_whole_bit_for_bit(name, tmp_path):
    tx, options = OPTIMIZERS[name], {"task": NOISY, "eval_every": 7, "seed": 2}
    whole, half = train(tx, steps=STEPS, **options), train(tx, steps=HALF, **options)
    assert whole.aux.keys() == {"worst"} and whole.evaluated_at.tolist() == [7, 14, 21, 28, 30]
    half.save(tmp_path / "half")
    before = half.to_bytes()
    options |= {"seed": None}
    same(train(tx, steps=STEPS, start=half, **options), whole)
    same(train(tx, steps=STEPS, start=L.Run.load(tmp_path / "half"), **options), whole)
    assert half.to_bytes() == before  # neither donated nor changed
    third = train(tx, steps=21, start=half, **options)
    same(train(tx, steps=STEPS, start=third, **options), whole)


@pytest.mark.slow
@pytest.mark.promotes
def test_a_guarded_run_too():
    tx, options = L.sgd(L.cosine_decay_schedule(30.0, 200)), {"guard": True, "eval_every": 50}
    whole, half = train(tx, steps=200, **options), train(tx, steps=100, **options)
    same(train(tx, steps=200, start=half, **options), whole)
    assert half.guard.returns > 0 and len(half.guard.events) < len(whole.guard.events)
