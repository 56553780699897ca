"""`train(start=run)`: the parts of a run are the run, and the optimizer may change between them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.training.engine import Engine
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
    "packed": L.packed(L.chain(L.adam(PLAN), L.ema_params(0.9))),
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
    np.testing.assert_allclose(half.final, measured(half.evaluation_params, half.model_state, (X, Y)), rtol=1e-5)
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


def test_a_plan_that_changed_is_that_of_the_whole_run():
    half, calls, evaluated = adam_half(), [], []
    for plan, steps in ((L.extend_schedule(0.1, HALF, HALF, STEPS), STEPS), (L.cooldown_schedule(0.1, HALF, 8), 22)):
        options = {"on_step": calls.append, "on_eval": evaluated.append}
        run = train(L.adam(plan), steps=steps, start=half, **options)
        same(run, train(L.adam(plan), steps=steps, seed=3))
        np.testing.assert_array_equal(run.losses[:HALF], half.losses)
        assert [row["step"] for row in calls] == list(range(HALF, steps)) and len(run.rows()) == steps
        calls.clear()
    assert run.learning_rates[HALF] == np.float32(0.1) and run.learning_rates[-1] < 0.02


@pytest.mark.promotes
def test_evaluations_and_names_that_only_one_part_has():
    first = dataclasses.replace(SIMPLE, metrics={"all": (loss_fn, "min"), "old": (loss_fn, "max")}, validation=(X, Y))
    other = dataclasses.replace(first, metrics={"new": (loss_fn, "max"), "all": (loss_fn, "min")})
    half = train(L.adam(0.1), first, steps=HALF, eval_every=10)
    seen = []
    groups = L.partition({"a": L.adam(0.1), "b": L.adam(0.1)}, lambda params: {"w": "a", "v": "b"})
    run = train(L.adam(0.1), other, steps=STEPS, eval_every=10, start=half, on_eval=seen.append)
    assert run.evaluated_at.tolist() == [10, 14, 20, 30] and list(run.metrics) == ["new", "all"]
    assert np.isnan(run.metrics["new"][:2]).all() and run.metrics["new"][2] == run.metrics["all"][2]
    np.testing.assert_array_equal(run.metrics["all"][:2], half.metrics["all"])
    assert [row["step"] for row in seen] == [20, 30] and seen[-1]["all"] == run.metrics["all"][-1]
    assert run.modes == {"new": "max", "all": "min"} and run.final == run.metrics["new"][-1]
    theirs = train(optax.adam(0.1), first, steps=STEPS, start=half)  # its rates can't be read
    assert theirs.learning_rates is None
    assert np.isnan(train(L.adam(0.1), first, steps=STEPS + 1, start=theirs).learning_rates[:-1]).all()
    split = train(groups, first, steps=STEPS, start=half)
    assert split.learning_rates.keys() == {"a", "b"} and (split.learning_rates["a"] == np.float32(0.1)).all()


@pytest.mark.parametrize("kind", ["stacked", "function", "list", "generator function", "iterator"])
def test_the_batches_go_on(kind):
    numbers = np.arange(1, 31, dtype=np.float32)

    def passed():
        yield from numbers[:, None]

    data = {
        "stacked": numbers[:, None],
        "function": lambda step: jnp.asarray(numbers)[step][None],
        "list": list(numbers[:20, None]),  # it begins again
        "generator function": passed,
        "iterator": passed(),
    }[kind]
    task = L.Task(lambda w, x: jnp.mean(x) + 0 * w, jnp.zeros(()), data, stacked=kind == "stacked")
    half = train(L.sgd(0.1), task, steps=HALF)
    expected = np.append(numbers[:20], numbers[:10]) if kind == "list" else numbers
    np.testing.assert_array_equal(half.losses, expected[:HALF])
    np.testing.assert_array_equal(train(L.sgd(0.1), task, steps=STEPS, start=half).losses, expected)


def quadratic():
    return L.Task(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), np.ones((40, 1), np.float32), stacked=True)


CHANGES = {  # from, to, as which the whole run is: the same numbers
    "a clip": (L.adam(0.1), L.chain(L.clip(1e9), L.adam(0.1)), L.adam(0.1)),
    "a decay": (L.adam(0.1), L.adamw(0.1, weight_decay=0.0), L.adam(0.1)),
    "a guard": (L.adam(0.1), L.guard(L.adam(0.1)), L.adam(0.1)),
    "an average": (L.adam(0.1), L.chain(L.adam(0.1), L.ema_params(0.5)), L.adam(0.1)),
    "a scheduled number, no more": (L.adam(0.1, b1=L.linear_schedule(0.9, 0.9, 9)), L.adam(0.1), L.adam(0.1)),
    "a number of its own, no more": (L.inject_hyperparams(L.adam)(0.1), L.adam(0.1), L.adam(0.1)),
    "from Optax": (optax.adam(0.1), L.adam(0.1), optax.adam(0.1)),
    "to Optax": (L.adam(0.1), optax.adam(0.1), L.adam(0.1)),
    "to a schedule of Optax": (optax.sgd(0.1), optax.sgd(optax.linear_schedule(0.3, 0.1, HALF)), optax.sgd(0.1)),
    "from what counts nothing": (optax.sgd(0.1), L.sgd(L.linear_schedule(0.3, 0.1, HALF)), optax.sgd(0.1)),
    "to accumulation": (optax.sgd(0.1), L.MultiSteps(L.sgd(L.linear_schedule(0.3, 0.1, HALF)), 1), L.sgd(0.1)),
    "a constant to a schedule": (L.sgd(0.1), L.sgd(L.linear_schedule(0.3, 0.1, HALF)), L.sgd(0.1)),
}


@pytest.mark.sampled(3)
@pytest.mark.promotes
@pytest.mark.parametrize("name", CHANGES)
def test_another_optimizer_takes_over_the_state(name):
    before, after, throughout = CHANGES[name]
    task = quadratic()
    half = train(before, task, steps=HALF)
    run, expected = train(after, task, steps=STEPS, start=half), train(throughout, task, steps=STEPS)
    np.testing.assert_allclose(run.losses, expected.losses, rtol=1e-4)
    assert run.optimizer == repr(after)


def test_an_average_begins_where_it_is_added():
    task, tx = quadratic(), L.chain(L.adam(0.1), L.ema_params(0.5))
    half = train(L.adam(0.1), task, steps=HALF)
    first, second = (train(tx, task, steps=HALF + n, start=half) for n in (1, 2))
    assert first.evaluation_params == first.params
    np.testing.assert_allclose(second.evaluation_params, (first.params + 2 * second.params) / 3, rtol=1e-6)


LOST = {
    "moments": (L.adam(0.1), L.sgd(0.1, momentum=0.9), ["0/mu", "0/nu"]),
    "an average": (L.chain(L.adam(0.1), L.ema_params(0.9)), L.adam(0.1), ["1/average"]),
    "a cut": (L.chain(L.sgd(0.1), L.reduce_on_plateau(patience=2)), L.sgd(0.1), ["1/scale"]),
    "gradients": (optax.MultiSteps(optax.sgd(0.1), 4), optax.sgd(0.1), ["acc_grads"]),
    "one of two": (L.sgd(0.1, momentum=0.9), L.chain(L.trace(0.9), L.sgd(0.1, momentum=0.9)), ["0/trace", "1/0/trace"]),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", LOST)
def test_what_would_be_lost_is_refused_and_listed(name):
    before, after, paths = LOST[name]
    task = quadratic()
    half = train(before, task, steps=HALF)
    with pytest.raises(ValueError, match="train: `optimizer` must have a place for all that") as error:
        train(after, task, steps=STEPS, start=half)
    assert all(f"`{path}`" in str(error.value) for path in paths) and len(str(error.value)) < 600
    state = L.migrate_state(half.opt_state, after, half.params).state  # as the error says
    run = train(after, task, steps=STEPS, start=dataclasses.replace(half, opt_state=state))
    assert len(run.losses) == STEPS and np.isfinite(run.losses).all()


def test_a_guarded_run_needs_a_guard():
    task = quadratic()
    half = train(L.adam(0.1), task, steps=HALF, guard=True)
    with pytest.raises(ValueError, match="train: `optimizer` must be guarded, since the run of `start` was") as error:
        train(L.adam(0.1), task, steps=STEPS, start=half)
    assert "give `guard=True`, or `lrjax.guard(optimizer)`" in str(error.value) and "snapshot" not in str(error.value)
    assert len(train(L.adam(0.1), task, steps=STEPS, start=half, guard=True).losses) == STEPS
    state = L.migrate_state(half.opt_state, L.adam(0.1), half.params).state  # as the error says
    run = train(L.adam(0.1), task, steps=STEPS, start=dataclasses.replace(half, opt_state=state))
    np.testing.assert_allclose(run.losses, train(L.adam(0.1), task, steps=STEPS).losses, rtol=1e-4)


def test_a_scale_set_by_hand_goes_on_and_is_not_lost_silently():
    task = quadratic()
    half = train(L.sgd(0.1), task, steps=HALF)
    scaled = dataclasses.replace(half, opt_state=L.scale_learning_rate(half.opt_state, 0.5))
    run = train(L.sgd(0.2), task, steps=STEPS, start=scaled)
    np.testing.assert_allclose(run.learning_rates, [0.1] * STEPS)
    with pytest.raises(ValueError, match="`1/scale`"):
        train(optax.sgd(0.1), task, steps=STEPS, start=scaled)


@pytest.mark.parametrize(
    "name", ["a path", "steps", "no steps", "default", "seed", "parameters", "model state", "diverged"]
)
def test_a_bad_start_is_named(name):
    half = adam_half()
    broken = dataclasses.replace(half, params={**half.params, "w": half.params["w"] * jnp.nan})
    stacked = dataclasses.replace(SIMPLE, steps=HALF)
    options, message = {
        "a path": ({"start": "run.pkl"}, "train: `start` must be a Run, of `train` or `Run.load`, got 'run.pkl'"),
        "steps": ({"steps": HALF}, f"`steps` must be more than the {HALF} of `start`.*got {HALF}"),
        "no steps": ({"steps": None}, f"`steps` must be given, more than the {HALF} of `start`: it counts these"),
        "default": ({"task": stacked, "steps": None}, f"`steps` must be more than the {HALF} of `start`"),
        "seed": ({"seed": 4}, "`seed` must be left out, or 3 as that of `start`, got 4"),
        "parameters": ({"task": quadratic()}, r"`start` must be a Run of this task, with the parameters float32\[\]"),
        "model state": ({"start": dataclasses.replace(half, model_state=jnp.ones(2))}, "with the model state None"),
        "diverged": ({"start": broken}, "`start` must be a Run that ended with finite parameters"),
    }[name]
    with pytest.raises(ValueError, match=message):
        train(**{"optimizer": L.adam(0.1), "steps": STEPS, "start": half, **options})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*[Ss]harding.*:UserWarning")
def test_it_has_checkpoints_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.setattr("lrjax.training.engine.FIRST_CALL_STEPS", 1)
    monkeypatch.setattr("lrjax.training.engine.CALL_SECONDS", 0.0)  # a step a call
    monkeypatch.setattr("lrjax.training.checkpoint.SAVING_FRACTION", 1.0)
    half, whole, calls = adam_half(), train(L.adam(0.1), steps=STEPS, seed=3), []
    dispatch = Engine._dispatch

    def breaking(*args):
        calls.append(None)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return dispatch(*args)

    monkeypatch.setattr(Engine, "_dispatch", breaking)
    continued = lambda start: train(L.adam(0.1), steps=STEPS, start=start, seed=3, checkpoint=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        continued(half)
    same(continued(half), whole)
    assert len(calls) == 9 + STEPS - HALF - 8  # it made no step twice
    same(continued(half), whole)
    other = dataclasses.replace(half, params=jax.tree.map(lambda p: p + 1, half.params))
    for start in (other, None):
        with pytest.raises(ValueError, match="holds another: `start` is not the same"):
            continued(start)


@pytest.mark.slow
def test_the_best_run_of_a_search_goes_on():
    swept = L.sweep(SIMPLE, L.adam(jnp.array([1e-4, 0.1])), steps=HALF, seeds=[3], progress=False)
    run = train(L.adam(0.1), steps=STEPS, start=swept.run)
    np.testing.assert_allclose(run.losses, train(L.adam(0.1), steps=STEPS, seed=3).losses, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("boxed", [True, False])
def test_models_of_nnx_go_on(boxed, tmp_path):
    nnx = pytest.importorskip("flax.nnx")

    def model(rngs):
        parts = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        return nnx.Sequential(*parts, nnx.Linear(8, 1, rngs=rngs))

    data = {"data": X, "batch_size": 16}
    loss = lambda model, batch: jnp.mean((model(batch) - 1.0) ** 2)
    graph, params = nnx.split(nnx.Linear(4, 1, rngs=nnx.Rngs(0)))
    if boxed:  # in Variables, as nnx keeps them
        task = L.Task(lambda params, batch: loss(nnx.merge(graph, params), batch), params, **data)
    else:
        task = L.Task.from_nnx(model, loss, **data)
    tx = L.chain(L.clip_by_block_rms(1.0), L.adam(0.1), L.ema_params(0.9))
    whole, half = train(tx, task, steps=STEPS), train(tx, task, steps=HALF)
    half.save(tmp_path / "half")
    for start in (half, L.Run.load(tmp_path / "half", task)):
        same(train(tx, task, steps=STEPS, start=start), whole)
    with pytest.raises(ValueError, match="Not carried over: `2/weight`"):
        train(L.adam(0.1), task, steps=STEPS, start=half)
