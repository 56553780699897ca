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
from lrjax.search.runs import Runs

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


@pytest.mark.promotes  # Optax does
@pytest.mark.parametrize("together", [1, 2, 6])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_agrees_with_the_loop(name, together):
    expected = looped(getattr(optax, name), RATES, 2, LIST)
    options = {"seeds": 2, "runs_per_device": together, "progress": False}
    ours = L.sweep(loss_fn, init, STEPPED, getattr(L, name)(RATES), **options)
    theirs = L.sweep(loss_fn, init, STEPPED, getattr(optax, name), learning_rates=RATES, **options)
    np.testing.assert_allclose(ours.losses, expected, rtol=2e-4)
    np.testing.assert_allclose(theirs.losses, expected, rtol=2e-4)
    assert ours.best == int(expected[:, :, -3:].mean((1, 2)).argmin())
    np.testing.assert_allclose(ours.learning_rates, RATES, rtol=1e-6)


@pytest.mark.parametrize("kind", ["list", "iterator", "function"])
def test_batches_in_every_form_are_the_same(kind):
    batches = {"list": LIST, "iterator": iter(LIST), "function": by_step}[kind]
    expected = L.sweep(loss_fn, init, STEPPED, L.adam(RATES), progress=False).losses
    steps = None if kind == "list" else STEPS
    found = L.sweep(loss_fn, init, batches, L.adam(RATES), steps=steps, progress=False).losses
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_can_be_gone_through_again_is():
    short = L.sweep(loss_fn, init, LIST[:7], L.sgd(RATES), steps=14, progress=False)
    twice = L.sweep(loss_fn, init, LIST[:7] * 2, L.sgd(RATES), progress=False)
    np.testing.assert_array_equal(short.losses, twice.losses)


def test_each_batch_of_an_iterator_is_asked_for_once():
    asked = []

    def load():
        for i, batch in enumerate(LIST):
            asked.append(i)
            yield batch

    L.sweep(loss_fn, init, load(), L.adam(RATES), steps=20, seeds=3, progress=False)
    assert asked == list(range(20))


def test_an_epoch_has_every_example_once_in_the_same_order_for_every_run():
    numbers = np.arange(1, 13, dtype=np.float32)
    found = L.sweep(lambda p, x: x.sum() + 0 * p, jnp.zeros(()), numbers, L.sgd(np.array([0.1, 0.2])), batch_size=1,
                    steps=36, seeds=2, diverged_above=1e9, progress=False).losses  # fmt: skip
    np.testing.assert_array_equal(found[0], found[1])
    epochs = found[0].reshape(2, 3, 12)
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(numbers, (2, 3, 12)))
    assert len({tuple(epoch) for epoch in epochs.reshape(6, 12)}) == 6


def test_other_numbers_more_runs_and_more_steps_compile_nothing(compilations):
    tx = lambda rates: L.chain(L.clip_by_global_norm(1.0), L.adamw(L.cosine_decay_schedule(rates, STEPS)))
    run = lambda rates, **options: L.sweep(loss_fn, init, (X, Y), tx(rates), batch_size=15, progress=False, **options)
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
    options = {"batch_size": 15, "steps": 20, "progress": False}
    three = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), seeds=3, **options)
    two = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), seeds=[2, 0], **options)
    np.testing.assert_array_equal(two.losses, three.losses[:, [2, 0]])


@pytest.mark.parametrize(("free", "together"), [(None, 8), (10**9, 8), (25_000, 2), (1, 1)])
def test_only_as_many_runs_at_a_time_as_the_memory_holds(monkeypatch, free, together):
    seen, go = [], Runs.go
    monkeypatch.setattr("lrjax.search.runs._together", lambda mesh: None)  # as on an accelerator
    monkeypatch.setattr("lrjax.search.runs._free_bytes", lambda mesh: free)
    monkeypatch.setattr(Runs, "go", lambda runs, *rest: seen.append(runs.program.together) or go(runs, *rest))
    run = lambda **options: L.sweep(
        loss_fn, init, STEPPED, L.adam(np.geomspace(0.001, 0.1, 8)), progress=False, **options
    )
    result = run()
    assert set(seen) == {together}
    np.testing.assert_allclose(result.losses, run(runs_per_device=4).losses, rtol=2e-4)
    assert set(seen) == {together, 4}  # what is asked for is done


def test_any_hyperparameters_differ():
    tx = L.grid(L.chain(L.clip(1.0), L.adam(0.1)), learning_rate=[0.01, 0.1], b1=[0.0, 0.5, 0.9])
    result = L.sweep(loss_fn, init, STEPPED, tx, progress=False)
    assert result.losses.shape == (6, 1, STEPS)
    rows = result.rows()
    assert [(row["learning_rate"], row["transforms.1.b1"]) for row in rows][:3] == [
        (0.01, 0.0),
        (0.01, 0.5),
        (0.01, 0.9),
    ]
    alone = L.sweep(loss_fn, init, STEPPED, L.chain(L.clip(1.0), L.adam(0.1, b1=0.5)), progress=False)
    np.testing.assert_allclose(result.losses[4], alone.losses[0], rtol=1e-4)


@pytest.mark.parametrize("together", [1, 3])
def test_a_run_that_diverges_is_marked_and_the_others_go_on(together):
    loss = lambda w, x: jnp.sum((w - x) ** 2)
    result = L.sweep(loss, jnp.zeros(2), jnp.ones((40, 2)), L.sgd(np.array([0.1, 1.6, 0.3])), progress=False,
                     runs_per_device=together)  # fmt: skip
    np.testing.assert_array_equal(result.diverged[:, 0], [False, True, False])
    assert np.isnan(result.losses[1, 0, -1]) and np.isfinite(result.losses[[0, 2]]).all()
    assert result.final[1, 0] == np.inf and result.best == 2
    assert result.largest_stable_learning_rate == pytest.approx(0.3)


def test_everything_diverged_says_so():
    result = L.sweep(lambda w, x: jnp.nan * w, jnp.ones(()), jnp.ones(5), L.sgd(RATES), progress=False)
    assert result.diverged.all()
    with pytest.raises(ValueError, match="every one diverged"):
        result.best_learning_rate  # noqa: B018
    assert "<table>" in result._repr_html_()


def test_negative_losses():
    result = L.sweep(
        lambda w, x: jnp.sum((w - x) ** 2) - 5, jnp.zeros(2), jnp.ones((40, 2)), L.sgd(RATES), progress=False
    )
    assert not result.diverged.any() and result.loss.min() < -4.99


def test_evaluation_decides_where_there_is_one():
    options = {"eval_fn": lambda p, batch: -loss_fn(p, batch), "eval_batch": (X, Y), "progress": False}
    result = L.sweep(loss_fn, init, STEPPED, L.sgd(RATES), **options)
    assert result.eval.shape == (3, 1) and (result.eval < 0).all() and result.best == 0


def test_a_schedule_keeps_its_shape_and_gets_other_peaks():
    shape = L.warmup_cosine_decay_schedule(0.0, 0.5, 5, STEPS)
    found = L.sweep(loss_fn, init, STEPPED, L.sgd(shape), learning_rates=RATES, progress=False)
    schedules = L.warmup_cosine_decay_schedule(0.0, RATES, 5, STEPS)
    expected = L.sweep(loss_fn, init, STEPPED, L.sgd(schedules), progress=False)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(found.learning_rates, RATES, rtol=1e-6)


def test_aux_and_one_setting():
    aux = L.sweep(lambda p, b: (loss_fn(p, b), {"a": 1}), init, STEPPED, L.sgd(0.1), has_aux=True, progress=False)
    plain = L.sweep(loss_fn, init, STEPPED, L.sgd(0.1), progress=False)
    np.testing.assert_allclose(aux.losses, plain.losses)
    assert aux.losses.shape == (1, 1, STEPS)


def test_saved_and_loaded(tmp_path):
    result = L.sweep(loss_fn, init, STEPPED, L.adam(RATES), seeds=2, progress=False)
    result.save(tmp_path / "result.npz")
    loaded = L.SweepResult.load(tmp_path / "result.npz")
    assert loaded.rows() == result.rows() and loaded.eval is None
    np.testing.assert_array_equal(loaded.losses, result.losses)


def test_sensitivity_and_band():
    losses = np.broadcast_to(np.array([4.0, 1.0, 1.1, 3.0, np.nan])[:, None, None], (5, 1, 10)).copy()
    losses[:, :, 0] = 5.0
    dead = np.array([[False], [False], [False], [False], [True]])
    rates = np.logspace(-4, 0, 5)
    result = L.SweepResult(rates, {"learning_rate": rates}, losses, None, dead)
    assert result.sensitivity == pytest.approx(np.mean([3, 0, 0.1, 2, 4]))
    assert result.band() == pytest.approx((1e-3, 1e-2)) and result.stable_range == pytest.approx(1.0)
    assert result.largest_stable_learning_rate == pytest.approx(0.1)


def test_pictures():
    plt = pytest.importorskip("matplotlib.pyplot")
    result = L.sweep(loss_fn, init, STEPPED, L.sgd(np.array([0.01, 0.1, 50.0])), seeds=2, progress=False)
    assert result.plot().get_xscale() == "log"
    assert len(result.plot_curves().lines) == 3
    plt.close("all")


BAD = {
    "seeds": ({"seeds": 0}, "`seeds` must be a whole number >= 1, got 0"),
    "batch_size": ({"batch_size": 99, "steps": 3}, "`batch_size` must be a whole number from 1 to the 30 examples"),
    "steps": ({"steps": 31}, "`batches` must be at least `steps`=31"),
    "learning_rates": ({"learning_rates": [-1.0]}, "`learning_rates` must be a sequence of finite numbers >= 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        L.sweep(loss_fn, init, STEPPED, L.adam(0.1), **options)


def test_other_bad_input():
    with pytest.raises(ValueError, match="`steps` must be given"):
        L.sweep(loss_fn, init, iter(LIST), L.adam(RATES))
    with pytest.raises(ValueError, match="`batches` must be at least 31 batches, got 'an end after 30'"):
        L.sweep(loss_fn, init, iter(LIST), L.adam(RATES), steps=31, progress=False)
    with pytest.raises(ValueError, match="`optimizer` must be an lrjax optimizer"):
        L.sweep(loss_fn, init, STEPPED, optax.adam(0.1))
    with pytest.raises(ValueError, match="`batches` must be all of one shape"):
        short = [LIST[0], jax.tree.map(lambda x: x[:5], LIST[1])]
        L.sweep(loss_fn, init, short, L.adam(RATES), progress=False)
    with pytest.raises(ValueError, match="`seeds` must be how many, or different whole numbers"):
        L.sweep(loss_fn, init, STEPPED, L.adam(RATES), seeds=[1, 1])
    with pytest.raises(ValueError, match="one length"):
        L.sweep(loss_fn, init, STEPPED, L.adam(RATES, b1=np.array([0.1, 0.2])))


SHARDED = """
import jax; jax.config.update("jax_num_cpu_devices", 8)
import numpy as np, lrjax as L
from tests.search.test_sweep import *
alone = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("runs",))
for together in (None, 2):
    options = dict(seeds=5, steps=20, batch_size=8, progress=False, runs_per_device=together)
    many = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), eval_fn=loss_fn, eval_batch=(X, Y), **options)
    one = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), eval_fn=loss_fn, eval_batch=(X, Y), mesh=alone, **options)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    np.testing.assert_allclose(many.eval, one.eval, rtol=1e-5)
    for mesh in (jax.make_mesh((8,), ("x",)), jax.make_mesh((4, 2), ("a", "b"))):
        given = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), mesh=mesh, **options)
        np.testing.assert_array_equal(given.losses, many.losses)
"""


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    subprocess.run([sys.executable, "-c", SHARDED], check=True, timeout=300)


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
    found = L.sweep(loss, how(start), batches, L.adam(jnp.array([0.1, 0.2])), eval_fn=loss, eval_batch=batches[0])
    for rate, losses, evaluated in zip((0.1, 0.2), found.losses[:, 0], found.eval[:, 0], strict=True):
        tx, params = optax.adam(rate), jax.tree.map(jnp.asarray, start)
        state = tx.init(params)
        for i, batch in enumerate(batches):
            value, grads = jax.value_and_grad(loss)(params, batch)
            np.testing.assert_allclose(losses[i], value, rtol=1e-3, atol=coarse * losses[0])
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(evaluated, loss(params, batches[0]), rtol=1e-3, atol=coarse * losses[0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_parameters_of_every_dtype(dtype):
    def start(key):
        return jax.tree.map(lambda x: x.astype(dtype), init(key))

    def loss(params, batch):
        return loss_fn(params, jax.tree.map(lambda x: x.astype(dtype), batch))

    expected = L.sweep(loss_fn, init, STEPPED, L.adam(RATES), progress=False).loss
    with jax.enable_x64(dtype == jnp.float64):
        params = jax.tree.map(np.asarray, jax.jit(start)(jax.random.key(0)))  # one start, which x64 would change
        found = L.sweep(loss, params, STEPPED, L.adam(RATES), progress=False)
    assert found.losses.dtype == (np.float64 if dtype == jnp.float64 else np.float32)
    if dtype != jnp.float64:
        tolerance = 10 * float(jnp.finfo(dtype).eps)  # small steps are lost in rounding
        np.testing.assert_allclose(found.loss, expected, rtol=max(tolerance, 0.02), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_where_somebody_looks(terminal):
    program = """
from tests.search.test_sweep import *
rates = np.array([0.01, 0.1, 1e4])
L.sweep(loss_fn, init, (X, Y), L.sgd(rates), batch_size=8, steps=3000, seeds=2)
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
    seen, until = [], Runs.until
    monkeypatch.setattr(Runs, "until", lambda *args: seen.append((args[1], until(*args))) or seen[-1][1])
    options = {"steps": 300, "batch_size": 16, "progress": False}
    expected = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), **options)
    assert seen[0] == (0, 16) and max(end - begin for begin, end in seen) > 128  # these take much less
    monkeypatch.setattr("lrjax.search.runs.CALL_SECONDS", 1e-9)
    seen.clear()
    slow = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), **options)
    np.testing.assert_array_equal(slow.losses, expected.losses)
    assert min(end - begin for begin, end in seen) == 1


@pytest.mark.promotes
def test_somebodys_schedules_are_swept():
    x = jax.random.normal(jax.random.key(1), (64, 4))
    loss = lambda params, batch: jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)
    run = lambda tx: L.sweep(loss, lambda key: {"w": jnp.zeros(4)}, (x, x.sum(axis=1)), tx, batch_size=16, steps=30)
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
