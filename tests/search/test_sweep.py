"""A sweep beside the loop that everybody writes; how batches may be given; what compiles; what diverges."""

import contextlib
import os
import pty
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.jax_versions import enable_x64
from lrjax.training.engine import Engine

RATES = np.array([0.003, 0.03, 0.3])
X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.tanh(X @ np.ones((4, 1), np.float32))


def init(key):
    a, b = jax.random.split(key)
    return {"w": jax.random.normal(a, (4, 8)) * 0.5, "v": jax.random.normal(b, (8, 1)) * 0.3}


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


STEPS = 30
STEPPED = (np.stack([X[i : i + 16] for i in range(STEPS)]), np.stack([Y[i : i + 16] for i in range(STEPS)]))


def by_step(i):
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 16), (jnp.asarray(X), jnp.asarray(Y)))


def looped(make, rates, seeds, batches):
    """[rates, seeds, steps]: the loop with Optax."""
    losses = np.zeros((len(rates), seeds, len(batches)))
    for r, rate in enumerate(rates):
        tx = make(rate)

        @jax.jit
        def step(params, state, batch, tx=tx):
            loss, grads = jax.value_and_grad(loss_fn)(params, batch)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        for seed in range(seeds):
            params = init(jax.random.key(seed))
            state = tx.init(params)
            for t, batch in enumerate(batches):
                params, state, losses[r, seed, t] = step(params, state, batch)
    return losses


LIST = [jax.tree.map(lambda x, t=t: x[t], STEPPED) for t in range(STEPS)]


def task_of(data=STEPPED, **fields):
    """The model above; arrays with a batch a step unless a `batch_size` is given."""
    is_stacked = isinstance(data, tuple) and "batch_size" not in fields
    return L.Task(**{"loss_fn": loss_fn, "init": init, "data": data, "stacked": is_stacked, **fields})


def swept(optimizer, data=STEPPED, fields=None, **options):
    return L.sweep(task_of(data, **(fields or {})), optimizer, **{"progress": False, **options})


@pytest.mark.slow
@pytest.mark.promotes  # Optax does
@pytest.mark.parametrize(("name", "together"), [("adam", 1), ("adam", 6), ("sgd", 2)])
def test_agrees_with_the_loop(name, together):
    expected = looped(getattr(optax, name), RATES, 2, LIST)
    options = {"seeds": 2, "runs_per_device": together, "progress": False}
    ours = swept(getattr(L, name)(RATES), **options)
    theirs = swept(getattr(optax, name), learning_rates=RATES, **options)
    np.testing.assert_allclose(ours.losses, expected, rtol=2e-4)
    np.testing.assert_allclose(theirs.losses, expected, rtol=2e-4)
    assert ours.best == int(expected[:, :, -3:].mean((1, 2)).argmin())
    np.testing.assert_allclose(ours.learning_rates, RATES, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "iterator", "function"])
def test_batches_in_every_form_are_the_same(kind):
    batches = {"list": LIST, "iterator": iter(LIST), "function": by_step}[kind]
    expected = swept(L.adam(RATES)).losses
    steps = None if kind == "list" else STEPS
    found = swept(L.adam(RATES), batches, steps=steps).losses
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_can_be_gone_through_again_is():
    short = swept(L.sgd(RATES), LIST[:7], steps=14)
    twice = swept(L.sgd(RATES), LIST[:7] * 2)
    np.testing.assert_array_equal(short.losses, twice.losses)


def test_each_batch_of_an_iterator_is_asked_for_once():
    asked = []

    def load():
        for i, batch in enumerate(LIST):
            asked.append(i)
            yield batch

    swept(L.adam(RATES), load(), steps=20, seeds=3)
    assert asked == list(range(20))


def test_an_epoch_has_every_example_once_in_the_same_order_for_every_run():
    numbers = np.arange(1, 13, dtype=np.float32)
    fields = {"loss_fn": lambda p, x: x.sum() + 0 * p, "init": jnp.zeros(()), "batch_size": 1}
    found = swept(L.sgd(np.array([0.1, 0.2])), numbers, fields, steps=36, seeds=2).losses
    np.testing.assert_array_equal(found[0], found[1])
    epochs = found[0].reshape(2, 3, 12)
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(numbers, (2, 3, 12)))
    assert len({tuple(epoch) for epoch in epochs.reshape(6, 12)}) == 6


def test_other_numbers_more_runs_and_more_steps_compile_nothing(compilations, one_at_a_time):
    tx = lambda rates: L.chain(L.clip_by_global_norm(1.0), L.adamw(L.cosine_decay_schedule(rates, STEPS)))
    run = lambda rates, **options: swept(tx(rates), (X, Y), {"batch_size": 15}, **options)
    run(RATES, steps=20)
    for name in ("start", "advance"):
        assert sum(f"({name})" in str(program) for program in compilations) == 1
    compilations.clear()
    result = run(RATES * 1.5, steps=20)
    np.testing.assert_allclose(result.learning_rates, RATES * 1.5, rtol=1e-6)
    run(np.geomspace(1e-4, 1, 40), steps=20)
    run(RATES, steps=300)
    assert [name for name in compilations if "advance" in str(name) or "start" in str(name)] == []


def test_seeds_may_be_listed():
    run = lambda seeds: swept(L.adam(RATES), (X, Y), {"batch_size": 15}, steps=20, seeds=seeds)
    three, two = run(3), run([2, 0])
    np.testing.assert_array_equal(two.losses, three.losses[:, [2, 0]])


def test_any_hyperparameters_differ():
    tx = L.grid(L.chain(L.clip(1.0), L.adam(0.1)), learning_rate=[0.01, 0.1], b1=[0.0, 0.5, 0.9])
    result = swept(tx)
    assert result.losses.shape == (6, 1, STEPS)
    rows = result.rows()
    assert [(row["learning_rate"], row["transforms.1.b1"]) for row in rows][:3] == [
        (0.01, 0.0),
        (0.01, 0.5),
        (0.01, 0.9),
    ]
    alone = swept(L.chain(L.clip(1.0), L.adam(0.1, b1=0.5)))
    np.testing.assert_allclose(result.losses[4], alone.losses[0], rtol=1e-4)


SQUARE = {"loss_fn": lambda w, x: jnp.sum((w - x) ** 2), "init": jnp.zeros(2)}


@pytest.mark.parametrize("together", [1, 3])
def test_a_run_that_diverges_is_marked_and_the_others_go_on(together):
    rates = np.array([0.1, 30.0, 0.3], np.float32)
    result = swept(L.sgd(rates), (jnp.ones((40, 2)),), {**SQUARE, "loss_fn": lambda w, x: jnp.sum((w - x[0]) ** 2)},
                   runs_per_device=together)  # fmt: skip
    np.testing.assert_array_equal(result.diverged[:, 0], [False, True, False])
    assert np.isnan(result.losses[1, 0, -1]) and np.isfinite(result.losses[[0, 2]]).all()
    assert result.final[1, 0] == np.inf and result.best == 2
    assert result.largest_stable_learning_rate == pytest.approx(0.3)


def test_everything_diverged_says_so():
    result = swept(L.sgd(RATES), (jnp.ones(5),), {"loss_fn": lambda w, x: jnp.nan * w, "init": jnp.ones(())})
    assert result.diverged.all() and "not finite on some batches at any rate" in result.verdict
    with pytest.raises(ValueError, match="every one diverged"):
        result.best_learning_rate  # noqa: B018
    assert "<table>" in result._repr_html_() and result.run is None


def test_negative_losses():
    fields = {"loss_fn": lambda w, x: jnp.sum((w - x[0]) ** 2) - 5, "init": jnp.zeros(2)}
    result = swept(L.sgd(RATES), (jnp.ones((40, 2)),), fields)
    assert not result.diverged.any() and result.mean.min() < -4.99


def test_a_metric_decides_where_there_is_one():
    fields = {"metrics": {"ascent": (loss_fn, "max")}, "validation": (X, Y)}
    result = swept(L.sgd(RATES), fields=fields)
    assert result.metrics["ascent"].shape == (3, 1, 1) and result.mode == "max"
    assert result.best == 0 and result.final[0, 0] == result.metrics["ascent"][0, 0, -1]
    fields["metrics"] = {"descent": (loss_fn, "min"), **fields["metrics"]}
    assert swept(L.sgd(RATES), fields=fields).best == 2


@pytest.mark.slow
def test_a_schedule_keeps_its_shape_and_gets_other_peaks():
    shape = L.warmup_cosine_decay_schedule(0.0, 0.5, 5, STEPS)
    found = swept(L.sgd(shape), learning_rates=RATES)
    schedules = L.warmup_cosine_decay_schedule(0.0, RATES, 5, STEPS)
    expected = swept(L.sgd(schedules))
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(found.learning_rates, RATES, rtol=1e-6)


def test_aux_and_one_setting():
    with_aux = {"loss_fn": lambda p, b: (loss_fn(p, b), {"a": 1}), "has_aux": True}
    aux, plain = swept(L.sgd(0.1), fields=with_aux), swept(L.sgd(0.1))
    np.testing.assert_allclose(aux.losses, plain.losses)
    assert aux.losses.shape == (1, 1, STEPS) and (aux.run.aux["a"] == 1).all()


BAD = {
    "seeds": ({"seeds": 0}, "`seeds` must be a whole number >= 1, got 0"),
    "steps": ({"steps": 31}, "`steps` must be at most the 30 batches of the task, got 31"),
    "learning_rates": ({"learning_rates": [-1.0]}, "`learning_rates` must be a sequence of finite numbers >= 0"),
    "words": ({"learning_rates": ["a"]}, "`learning_rates` must be a sequence of finite numbers >= 0"),
    "no rates": ({"learning_rates": []}, "`learning_rates` must be a sequence of finite numbers >= 0"),
    "diverged_above": ({"diverged_above": "a"}, "`diverged_above` must be a finite number > 0, got 'a'"),
    "mesh": ({"mesh": 3}, "`mesh` must be a jax.sharding.Mesh"),
    "keep": ({"keep": "worst"}, '`keep` must be "best", "all" or None'),
    "eval_every": ({"eval_every": 0}, "`eval_every` must be a whole number >= 1, got 0"),
    "task": ({"task": loss_fn}, "`task` must be a lrjax.Task"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        L.sweep(**{"task": task_of(), "optimizer": L.adam(0.1), **options})


def test_other_bad_input():
    with pytest.raises(ValueError, match="`steps` must be given"):
        swept(L.adam(RATES), iter(LIST))
    with pytest.raises(ValueError, match="`data` must be at least 31 batches, got 'only 30'"):
        swept(L.adam(RATES), iter(LIST), steps=31)
    with pytest.raises(ValueError, match="`optimizer` must be an lrjax optimizer"):
        swept(optax.adam(0.1))
    with pytest.raises(ValueError, match="`data` must be batches all of one shape"):
        swept(L.adam(RATES), [jax.tree.map(lambda x: x[:5], LIST[0]), LIST[1]])
    with pytest.raises(ValueError, match="`seeds` must be how many, or different whole numbers"):
        swept(L.adam(RATES), seeds=[1, 1])
    with pytest.raises(ValueError, match="one length"):
        swept(L.adam(RATES, b1=np.array([0.1, 0.2])))
    with pytest.raises(ValueError, match="`batch_size` must be a whole number from 1 to the 60 examples, got 99"):
        swept(L.adam(RATES), (X, Y), {"batch_size": 99}, steps=3)
    with pytest.raises(ValueError, match="`batch_size` must be given, since the data are arrays"):
        swept(L.adam(RATES), fields={"stacked": False}, steps=3)


SHARDED = """
import jax; jax.config.update("jax_num_cpu_devices", 8)
import numpy as np, lrjax as L
from tests.search.test_sweep import *
alone = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("runs",))
for together in (None, 2):
    options = dict(seeds=5, steps=20, runs_per_device=together, eval_every=7)
    fields = dict(batch_size=8, metrics={"loss": (loss_fn, "min")}, validation=(X, Y), validation_batch_size=25)
    many = swept(L.adam(RATES), (X, Y), fields, **options)
    one = swept(L.adam(RATES), (X, Y), fields, mesh=alone, **options)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    np.testing.assert_allclose(many.metrics["loss"], one.metrics["loss"], rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (many.run.params, one.run.params))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for mesh in (jax.make_mesh((8,), ("x",)), jax.make_mesh((4, 2), ("a", "b"))):
        given = swept(L.adam(RATES), (X, Y), fields, mesh=mesh, **options)
        np.testing.assert_array_equal(given.losses, many.losses)
"""


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    subprocess.run([sys.executable, "-c", SHARDED], check=True, timeout=300)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "start",
    [
        {"w": np.ones((2, 3)), "b": np.zeros(3), "none": np.ones((0, 2)), "nothing": {}},  # float64, not with x64 off
        {"w": np.ones((2, 3), np.float32), "b": jnp.zeros(3), "none": None},
        {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros(3)},  # not to be joined
        {"w": jnp.ones((2, 3)), "b": 0.0},
    ],
)
@pytest.mark.parametrize("how", [lambda start: start, lambda start: lambda key: start], ids=["tree", "function"])
@jax.numpy_dtype_promotion("standard")
@jax.numpy_rank_promotion("allow")
def test_a_start_of_any_arrays(start, how):
    loss = lambda params, batch: jnp.mean((batch @ params["w"] + params["b"] - 3.0) ** 2)
    coarse = 0.01 if start["w"].dtype == jnp.bfloat16 else 0.0
    batches = jax.random.normal(jax.random.key(0), (20, 4, 2))
    task = L.Task(loss, how(start), batches, stacked=True, metrics=(loss, "min"), validation=batches[0])
    found = L.sweep(task, L.adam(jnp.array([0.1, 0.2])))
    for rate, losses, evaluated in zip((0.1, 0.2), found.losses[:, 0], found.final[:, 0], strict=True):
        tx, params = optax.adam(rate), jax.tree.map(jnp.asarray, start)
        state = tx.init(params)
        for i, batch in enumerate(batches):
            value, grads = jax.value_and_grad(loss)(params, batch)
            np.testing.assert_allclose(losses[i], value, rtol=1e-3, atol=coarse * losses[0])
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(evaluated, loss(params, batches[0]), rtol=1e-3, atol=coarse * losses[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_parameters_of_every_dtype(dtype):
    def start(key):
        return jax.tree.map(lambda x: x.astype(dtype), init(key))

    def loss(params, batch):
        return loss_fn(params, jax.tree.map(lambda x: x.astype(dtype), batch))

    expected = swept(L.adam(RATES)).mean
    with enable_x64(dtype == jnp.float64):
        params = jax.tree.map(np.asarray, jax.jit(start)(jax.random.key(0)))  # one start, which x64 would change
        found = swept(L.adam(RATES), fields={"loss_fn": loss, "init": params})
    assert found.losses.dtype == (np.float64 if dtype == jnp.float64 else np.float32)
    if dtype != jnp.float64:
        tolerance = 10 * float(jnp.finfo(dtype).eps)  # small steps are lost in rounding
        np.testing.assert_allclose(found.mean, expected, rtol=max(tolerance, 0.02), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_where_somebody_looks(terminal):
    program = """
from tests.search.test_sweep import *
rates = np.array([0.01, 0.1, 1e4])
L.sweep(task_of((X, Y), batch_size=8), L.sgd(rates), steps=3000, seeds=2)
"""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(ours, 10_000):
            shown += part
    assert process.wait() == 0
    words = (b"steps/s", b"best rate 0.1", b"2 of 6 diverged")
    assert [word in shown for word in words] == [terminal] * 3 and (shown == b"") == (not terminal)


def test_a_call_takes_about_a_second(monkeypatch):
    seen, chunk_end = [], Engine._chunk_end
    note = lambda *args: seen.append((args[1], chunk_end(*args))) or seen[-1][1]
    monkeypatch.setattr(Engine, "_chunk_end", note)
    run = lambda: swept(L.adam(RATES), (X, Y), {"batch_size": 16}, steps=300)
    expected = run()
    assert seen[0] == (0, 16) and max(end - begin for begin, end in seen) > 128  # these take much less
    monkeypatch.setattr("lrjax.training.engine.CALL_SECONDS", 1e-9)
    seen.clear()
    np.testing.assert_array_equal(run().losses, expected.losses)
    assert min(end - begin for begin, end in seen) == 1


@pytest.mark.slow
@pytest.mark.promotes
def test_somebodys_schedules_are_swept():
    x = jax.random.normal(jax.random.key(1), (64, 4))
    loss = lambda params, batch: jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)
    task = L.Task(loss, lambda key: {"w": jnp.zeros(4)}, (x, x.sum(axis=1)), batch_size=16)
    run = lambda tx: L.sweep(task, tx, steps=30)
    theirs, ours = optax.linear_schedule(0.1, 0.0, 30), L.linear_schedule(0.1, 0.0, 30)
    times = np.array([1.0, 0.1], np.float32)
    for foreign, own in [
        (L.sgd(theirs), L.sgd(ours)),
        (L.sgd(L.from_callable(theirs) * times), L.sgd(ours * times)),
        (L.sgd(0.1 * times, momentum=theirs), L.sgd(0.1 * times, momentum=ours)),
        (L.inject_hyperparams(L.sgd)(theirs), L.sgd(ours)),
    ]:
        got, expected = run(foreign), run(own)
        np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-4)
    np.testing.assert_allclose(run(L.sgd(theirs)).learning_rates, [0.1], rtol=1e-6)
