"""Values that go to another process come back equal, and work there."""

import json
import multiprocessing
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from tests.everything import EVERYTHING
from tests.workers import MAKE, assert_same, python, read_config, returned, used

PLAIN = {
    "schedule": L.cosine_decay_schedule(0.1, 10),
    "schedules": L.join_schedules([L.linear_schedule(0.0, 0.1, 3), L.rex_schedule(0.1, 9) * 0.5], [3]),
    "large count": L.linear_schedule(0.1, 0.0, 2**31 - 1),
    "batch": L.adam(np.array([0.1, 0.2], np.float32)),
    "mask": L.masked(L.sgd(0.1), {"w": True, "b": (False, [True])}),
    "rates": L.sgd(L.layerwise_learning_rates({"layer0": 1.0, "layer1": 2.0}, 0.1, decay=0.5)),
    "by_path": L.by_path({"w$": L.linear_schedule(0.1, 0.0, 5), "": 0.1}),
}
VALUES = PLAIN | {name: make() for name, make in MAKE.items()}
# but for those with lambdas, which no pickle takes
VALUES |= {f"all: {name}": tx for name, tx in EVERYTHING.items() if "<lambda>" not in repr(tx)}


@pytest.fixture(scope="module")
def spawned():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(returned, {}).result()
        yield pool


def test_a_spawned_process_gives_values_back(spawned):
    back, texts = spawned.submit(returned, VALUES).result()
    for name, value in VALUES.items():
        assert back[name] == value and hash(back[name]) == hash(value), name
        assert repr(back[name]) == texts[name] == repr(value)
    assert pickle.dumps(back) and {type(v) for v in back.values()} == {type(v) for v in VALUES.values()}


@pytest.mark.slow
def test_a_spawned_process_updates_as_this_one(spawned):
    for make in MAKE.values():
        assert_same(spawned.submit(used, make()).result(), used(make()))
    curve = PLAIN["schedules"](np.arange(12))
    np.testing.assert_array_equal(spawned.submit(PLAIN["schedules"], np.arange(12)).result(), curve)


def test_a_state_goes_to_a_process_and_on_from_there(spawned):
    tx, params = L.chain(L.clip(1.0), L.adam(L.linear_schedule(0.1, 0.0, 10))), {"w": jnp.ones(3)}
    _, state = tx.update(params, tx.init(params), params)
    expected = tx.update(params, state, params)
    there = spawned.submit(tx.update, params, state, params).result()
    chex.assert_trees_all_equal(there, expected)
    assert L.get_learning_rate(there[1]) == L.get_learning_rate(expected[1])


def holds_a_function(x):
    """Whether it is a function or a factory, which a config can't name, or one is inside."""
    if isinstance(x, L.Value):
        return any(map(holds_a_function, vars(x).values()))
    if isinstance(x, Mapping):
        return any(map(holds_a_function, x.values()))
    return any(map(holds_a_function, x)) if isinstance(x, tuple) else callable(x)


CONFIGURED = {name: v for name, v in VALUES.items() if not holds_a_function(v)}


def test_configs_go_to_a_process(spawned):
    configs = {name: json.dumps(L.to_config(value)) for name, value in CONFIGURED.items()}
    back = spawned.submit(read_config, configs).result()
    for name, value in CONFIGURED.items():
        assert back[name] == L.from_config(json.loads(configs[name])), name
        if name != "batch":  # of jax's arrays NumPy's are made
            assert back[name] == value, name


FORKED = """
import multiprocessing, pickle
from jax._src import xla_bridge
import tests.workers as w

values = {name: make() for name, make in w.MAKE.items()}
assert not xla_bridge._backends  # XLA's threads don't survive a fork: nothing may have started them
with multiprocessing.get_context("fork").Pool(2) as pool:
    there = pool.map(w.used, values.values())
    back, _ = pool.apply(w.returned, (values,))
assert back == values
for value, results in zip(values.values(), there):
    w.assert_same(results, w.used(value))
print("same", len(there))
"""


@pytest.mark.slow
def test_values_made_before_a_fork_work_after_it():
    assert python(FORKED).split() == ["same", str(len(MAKE))]


DEFINED = """
import json, sys, cloudpickle, jax, lrjax
from lrjax import schedule
from lrjax.domains import Rate, Steps

@schedule
def halving(step, init_value: Rate, half_life: Steps):
    return init_value * 0.5 ** (step / half_life)

@lrjax.optimizer
def mine(learning_rate: lrjax.ScalarOrSchedule, decay: Rate = 0.5):
    return lrjax.chain(lrjax.trace(decay), lrjax.scale_by_learning_rate(learning_rate))

@lrjax.transformation(lambda params, tx: lrjax.EmptyState())
def times(updates, state, params, factor: Rate = 2.0, negative: bool = False):
    return jax.tree.map(lambda u: u * (-factor if negative else factor), updates), state

values = {
    "schedule": halving(0.1, 10),
    "sum": halving(0.1, 10) + lrjax.linear_schedule(0.1, 0.0, 5),
    "optimizer": mine(0.5),
    "scheduled": mine(halving(0.5, 1), decay=halving(0.5, 10)),
    "transformation": times(3.0, negative=True),
    "chain": lrjax.chain(times(4.0), mine(0.25)),
    "Optax": lrjax.masked(times(2.0), {"w": True}),
    "injected": lrjax.inject_hyperparams(mine)(0.5),
}
with open(sys.argv[1], "wb") as file:
    cloudpickle.dump(values, file)
print(json.dumps({name: repr(value) for name, value in values.items()}))
"""
LOADED = """
import copy, dataclasses, json, pickle, sys, cloudpickle, jax, jax.numpy as jnp, lrjax
from lrjax import Schedule

content = open(sys.argv[1], "rb").read()
values, again = pickle.loads(content), pickle.loads(content)
assert json.loads(sys.argv[2]) == {name: repr(value) for name, value in values.items()}
for name, value in values.items():
    assert value == again[name] and hash(value) == hash(again[name]), name
    assert dataclasses.replace(value) == value == copy.deepcopy(value) == cloudpickle.loads(cloudpickle.dumps(value))
    leaves, structure = jax.tree.flatten(value)
    assert leaves and all(isinstance(leaf, float) for leaf in leaves)
    assert jax.tree.unflatten(structure, leaves) == value
    assert jax.jit(lambda x: x)(value) == value
    if name != "injected":
        assert lrjax.from_config(json.loads(json.dumps(lrjax.to_config(value)))) == value
halving, mine, times = (type(values[name]) for name in ("schedule", "optimizer", "transformation"))
assert halving(0.1, 10) != halving(0.2, 10) and halving(0.1, 10) == values["schedule"]
assert lrjax.with_hyperparams(values["schedule"], init_value=0.2) == halving(0.2, 10)
try:
    halving(0.1, -1)
except ValueError as error:
    assert "half_life" in str(error)
else:
    raise AssertionError

close = lambda x, y: abs(float(x) - y) < 1e-6
assert close(values["schedule"](10), 0.05) and close(jax.jit(lambda s: s(20))(values["schedule"]), 0.025)
assert close(values["sum"](10), 0.05)
params = {"w": jnp.ones(())}
# the update of 1, and the one after it
expected = {"optimizer": (-0.5, -0.75), "scheduled": (-0.5, -0.366629), "transformation": (-3, -3),
            "chain": (-1, -1.5), "Optax": (2, 2), "injected": (-0.5, -0.75)}
for name, numbers in expected.items():
    tx = values[name]
    for update in (tx.update, jax.jit(tx.update), jax.jit(lambda g, s, p: tx.update(g, s, p))):
        state = tx.init(params)
        for number in numbers:
            updates, state = update(params, state, params)
            assert close(updates["w"], number), (name, updates, number)
assert close(lrjax.get_learning_rate(state), 0.5)
batch = lrjax.batched(mine(jnp.array([0.5, 0.25])))
assert jax.vmap(lambda tx: tx.update(params, tx.init(params), params)[0]["w"])(batch).tolist() == [-0.5, -0.25]
print("works")
"""


@pytest.mark.slow
def test_classes_of_main_work_in_another_process(tmp_path):
    texts = python(DEFINED, str(tmp_path / "values"))
    assert python(LOADED, str(tmp_path / "values"), texts).strip() == "works"
