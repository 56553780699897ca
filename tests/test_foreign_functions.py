"""Somebody's own functions and objects: run as plain Python, kept by nothing, handed on as they are."""

import gc
import subprocess
import sys
import weakref

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lrjax as L

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}

# A value for a function of the step, or of the parameters; each calls it in every update.
OF_A_SCHEDULE = {
    "sgd": lambda f: L.sgd(f),
    "adam in a chain": lambda f: L.chain(L.clip(1.0), L.adam(f)),
    "product": lambda f: L.sgd(0.5 * L.from_callable(f)),
    "join": lambda f: L.sgd(L.join_schedules([L.linear_schedule(0.1, 0.1, 1), f], [0])),
    "dict": lambda f: L.sgd({"w": f, "b": 0.1}),
    "list": lambda f: L.chain(L.flatten(L.sgd(0.1)), L.scale_by_learning_rate({"w": [f][0], "b": f})),
    "by_path": lambda f: L.sgd(L.by_path({"w": f, "": 0.1})),
    "by_path function": lambda f: L.sgd(L.by_path(lambda path: f)),
    "momentum": lambda f: L.sgd(0.1, momentum=f),
    "weight decay": lambda f: L.adamw(0.1, weight_decay=f),
    "masked": lambda f: L.masked(L.sgd(f), {"w": True, "b": False}),
    "partition": lambda f: L.partition({"a": L.sgd(f), "b": L.sgd(0.1)}, {"w": "a", "b": "b"}),
    "injected": lambda f: L.inject_hyperparams(L.sgd)(f),
    "packed": lambda f: L.packed(L.sgd(f)),
    "named_chain": lambda f: L.named_chain(
        ("sgd", L.sgd(f)),
    ),
    "scheduled clip": lambda f: L.chain(L.clip(f), L.sgd(0.1)),
}
OF_A_TREE = {
    "mask": lambda f: L.masked(L.sgd(0.1), lambda params: f(params, True)),
    "decay mask": lambda f: L.adamw(0.1, mask=lambda params: f(params, True)),
    "labels": lambda f: L.partition({True: L.sgd(0.1)}, lambda params: f(params, True)),
    "stateless": lambda f: L.stateless(lambda updates, params: f(updates, updates)),
    "pair": lambda f: L.GradientTransformation(lambda params: (), lambda g, state, params=None: (f(g, g), state)),
    "monitor": lambda f: L.monitor({"x": lambda g: f(g, jnp.ones(()))}),
    "freeze": lambda f: L.freeze(lambda params: f(params, True)),
}


def call_once(tx, params=PARAMS):
    state = tx.init(params)
    return tx.update(params, state, params)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", OF_A_SCHEDULE.values(), ids=OF_A_SCHEDULE)
def test_a_function_of_the_step_runs_at_every_call_as_plain_python(make):
    now, seen = {"rate": 0.5}, []

    def function(step):
        seen.append(int(step))  # raises for a tracer
        return now["rate"] if step < 100 else 0.0

    tx = make(function)
    state = tx.init(PARAMS)
    first, state = tx.update(PARAMS, state, PARAMS)
    now["rate"], calls = 0.125, len(seen)
    second, state = tx.update(PARAMS, state, PARAMS)
    assert len(seen) > calls and {0, 1} <= set(seen)
    assert not np.allclose(first["w"], second["w"])


@pytest.mark.parametrize("make", OF_A_TREE.values(), ids=OF_A_TREE)
def test_a_function_of_a_tree_runs_at_every_call_as_plain_python(make):
    seen = []

    def function(tree, result):
        seen.append(float(jax.tree.leaves(tree)[0].sum()))
        return jax.tree.map(lambda _: result, tree) if isinstance(result, bool) else result

    tx = make(function)
    state = tx.init(PARAMS) if "monitor" not in str(tx) else L.MonitorState({"x": jnp.ones(())}, ((),))
    for _ in range(2):
        calls = len(seen)
        _, state = tx.update(PARAMS, state, PARAMS)
        assert len(seen) > calls


class Captured:
    def __init__(self):
        self.array = np.ones(4)


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("make", (OF_A_SCHEDULE | OF_A_TREE).values(), ids=OF_A_SCHEDULE | OF_A_TREE)
def test_what_a_function_has_captured_is_freed(make):
    def use_once():
        captured = Captured()
        if make in OF_A_SCHEDULE.values():
            call_once(make(lambda step: captured.array[0] * 0.1))
        else:
            flags = lambda tree, result: jax.tree.map(lambda _: result, tree) if captured and result is True else result
            call_once(make(flags))
        return weakref.ref(captured)

    reference = use_once()
    gc.collect()
    assert reference() is None


@pytest.mark.sampled(8)
@pytest.mark.parametrize("make", OF_A_SCHEDULE.values(), ids=OF_A_SCHEDULE)
def test_no_tracer_leaks_through_a_function(make):
    def run(rate, params):
        return call_once(make(lambda step: rate), params)[0]

    with jax.checking_leaks():
        traced = jax.jit(run)(0.25, PARAMS)
        jax.make_jaxpr(run)(0.25, PARAMS)
        jax.vmap(run, (0, None))(jnp.array([0.25, 0.5]), PARAMS)
    chex.assert_trees_all_close(traced, run(0.25, PARAMS), rtol=1e-6)


@pytest.mark.promotes
def test_the_eager_and_the_compiled_update_agree():
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)
    falling, mask = optax.linear_schedule(0.9, 0.8, 5), lambda params: {"w": True, "b": False}
    tx = L.chain(L.clip_by_global_norm(1.0), L.adamw(theirs, b1=falling, mask=mask))

    def run(update):
        params, state = PARAMS, tx.init(PARAMS)
        for _ in range(4):
            updates, state = update(params, state, params)
            params = L.apply_updates(params, updates)
        return params, state

    chex.assert_trees_all_close(run(tx.update), run(jax.jit(tx.update)), rtol=1e-6)


def test_our_own_values_stay_compiled(compilations):
    def many(n):
        for i in range(n):
            call_once(L.adam(L.cosine_decay_schedule(1e-3 + i, 100 + i)))
            call_once(L.adam(lambda step, i=i: 0.1 + i))
            L.cosine_decay_schedule(1e-3, 100 + i)(5)

    many(2)
    before = len(compilations)
    many(3)
    assert compilations[before:] == []


CYCLES = [{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 6}] * 2


@pytest.mark.sampled(4)
@pytest.mark.promotes
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cosine_decay_schedule", (0.1, 10)),
        ("linear_onecycle_schedule", (10, 0.1)),
        ("piecewise_constant_schedule", (0.1, {3: 0.5, 6: 0.1})),
        ("sgdr_schedule", (CYCLES,)),
    ],
)
def test_optaxs_schedules_anywhere(name, arguments):
    theirs, ours = (getattr(m, name)(*arguments) for m in (optax, L))
    schedule, steps = L.from_callable(theirs), jnp.arange(12)
    expected = np.array([float(theirs(t)) for t in range(12)], np.float32)
    close = lambda curve, times=1.0: np.testing.assert_allclose(curve, times * expected, rtol=1e-5, atol=1e-8)
    for call in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        close(call(steps))
    close(jax.jit(lambda s: jax.lax.scan(lambda c, t: (c, s(t)), 0, steps)[1])(schedule))
    close(schedule(range(12)))
    close([schedule(t) for t in range(12)])
    close((schedule * 2.0)(steps), 2)
    np.testing.assert_allclose(schedule(steps), ours(steps), rtol=1e-4, atol=1e-7)
    several = L.batched(schedule * np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(jax.vmap(lambda s: s(4))(several), expected[4] * np.array([1, 2]), rtol=1e-5)


# Arguments of any kind

EVERYWHERE = {
    "sgd": lambda: L.sgd(0.1),
    "chain": lambda: L.chain(L.clip(1.0), L.adam(0.1)),
    "named_chain": lambda: L.named_chain(("clip", L.clip(1.0)), ("sgd", L.sgd(0.1))),
    "masked": lambda: L.masked(L.sgd(0.1), {"w": True, "b": False}),
    "partition": lambda: L.partition({"a": L.sgd(0.1), "b": L.adam(0.1)}, {"w": "a", "b": "b"}),
    "MultiSteps": lambda: L.MultiSteps(L.sgd(0.1), 2),
    "apply_if_finite": lambda: L.apply_if_finite(L.sgd(0.1)),
    "inject": lambda: L.inject_hyperparams(L.sgd)(0.1),
    "packed": lambda: L.packed(L.sgd(0.1)),
    "flatten": lambda: L.flatten(L.sgd(0.1)),
    "polyak": lambda: L.polyak_sgd(),
    "conditionally_mask": lambda: L.conditionally_mask(L.sgd(0.1), lambda step: step >= 0),
}


class Batch:
    """Something that JAX knows nothing of."""


@pytest.mark.sampled(8)
@pytest.mark.parametrize("make", EVERYWHERE.values(), ids=EVERYWHERE)
def test_extra_arguments_of_any_type_go_through(make):
    tx, seen = make(), []

    def look(updates, state, params=None, *, name, batch, loss_fn, **rest):
        seen.append((name, batch, loss_fn))
        return updates, state

    batch, loss_fn = Batch(), lambda params: 0.0
    extra = {"name": "train", "batch": batch, "loss_fn": loss_fn, "value": jnp.float32(1.0), "none": None}
    state = tx.init(PARAMS)
    updates, _ = tx.update(PARAMS, state, PARAMS, **extra)
    expected, _ = tx.update(PARAMS, state, PARAMS, value=jnp.float32(1.0))
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    jax.jit(lambda g, s: tx.update(g, s, g, **extra))(PARAMS, state)
    looking = L.chain(tx, L.GradientTransformation(lambda params: (), look))
    for update in (looking.update, jax.jit(lambda g, s, p, **_: looking.update(g, s, p, **extra))):
        update(PARAMS, looking.init(PARAMS), PARAMS, **({} if update != looking.update else extra))
    assert seen == [("train", batch, loss_fn)] * 2


def test_a_transformation_reads_like_a_pair():
    tx = L.sgd(0.5)
    assert len(tx) == 2 and tx._fields == ("init", "update") and (tx[0], tx[1]) == (tx.init, tx.update) == tx[:]
    assert tx[-1] == tx.update and bool(tx)
    with pytest.raises(IndexError):
        tx[2]
    doubled = tx._replace(update=lambda g, s, p=None: (jax.tree.map(lambda x: 2 * x, tx.update(g, s, p)[0]), s))
    assert isinstance(doubled, L.GradientTransformation)
    np.testing.assert_array_equal(call_once(doubled)[0]["b"], -PARAMS["b"])
    np.testing.assert_array_equal(call_once(tx._replace())[0]["b"], -0.5 * PARAMS["b"])
    assert optax.GradientTransformationExtraArgs(*tx).update == tx.update


@pytest.mark.promotes
def test_anything_with_init_and_update_is_a_member():
    tx = L.chain(optax.MultiSteps(optax.sgd(0.5), 2), L.scale(2.0))
    state = tx.init(PARAMS)
    for expected in (0.0, -1.0):
        updates, state = tx.update(PARAMS, state, PARAMS)
        np.testing.assert_array_equal(updates["b"], expected * PARAMS["b"])


# Trees that can be called

MLP = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
MODEL = eqx.filter(MLP, eqx.is_array)


def like(model, leaf):
    return jax.tree.map(lambda _: leaf, model)


CALLABLE = {
    "mask": lambda m: L.masked(L.sgd(0.1), like(m, True)),
    "decay mask": lambda m: L.adamw(0.1, mask=like(m, True)),
    "freeze": lambda m: L.freeze(like(m, True)),
    "selective": lambda m: L.selective_transform(L.sgd(0.1), freeze_mask=like(m, False)),
    "labels": lambda m: L.partition({"a": L.sgd(0.1)}, like(m, "a")),
    "rates": lambda m: L.sgd(like(m, 0.1)),
    "rates and schedules": lambda m: L.sgd(like(m, L.linear_schedule(0.1, 0.0, 5))),
    "layerwise": lambda m: L.sgd(L.layerwise_learning_rates(m, 0.1, 0.5)),
    "by_path": lambda m: L.sgd(L.by_path({"bias": 0.1, "": 0.2})),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", CALLABLE.values(), ids=CALLABLE)
def test_an_equinox_module_is_a_tree(make):
    tx = make(MODEL)
    updates, state = tx.update(MODEL, tx.init(MODEL), MODEL)
    assert jax.tree.structure(updates) == jax.tree.structure(MODEL)
    again, _ = jax.jit(tx.update)(MODEL, tx.init(MODEL), MODEL)
    chex.assert_trees_all_close(jax.tree.leaves(again), jax.tree.leaves(updates), rtol=1e-6)
    assert isinstance(hash(tx), int) and tx == make(MODEL)


def test_an_equinox_module_of_dimension_numbers_is_a_tree():
    numbers = jax.tree.map(lambda p: L.MuonDimensionNumbers() if p.ndim == 2 else None, MODEL)
    tx = L.muon(0.1, muon_weight_dimension_numbers=numbers)
    updates, _ = jax.jit(tx.update)(MODEL, tx.init(MODEL), MODEL)
    expected, _ = jax.jit(L.muon(0.1).update)(MODEL, L.muon(0.1).init(MODEL), MODEL)
    chex.assert_trees_all_close(jax.tree.leaves(updates), jax.tree.leaves(expected), rtol=1e-5)


class Net(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(2, 1, rngs=nnx.Rngs(0))


@pytest.mark.sampled(9)
@pytest.mark.parametrize("make", CALLABLE.values(), ids=CALLABLE)
def test_an_nnx_state_is_a_tree(make):
    params = nnx.state(Net(), nnx.Param)
    tx = make(params)
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    one = nnx.Param(jnp.ones(2))
    updates, _ = make(one).update(one, make(one).init(one), one)
    assert jax.tree.structure(updates) == jax.tree.structure(one)


def test_a_first_call_inside_of_a_trace_is_no_measure_of_what_is_outside(tmp_path):
    program = """if True:
        import jax, jax.numpy as jnp
        from lrjax.transforms.base import is_tracing
        seen = []
        jax.jit(lambda x: (seen.append(is_tracing()), x)[1])(1.0)
        jax.vmap(lambda x: (seen.append(is_tracing()), x)[1])(jnp.ones(2))
        print(*seen, is_tracing())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]
