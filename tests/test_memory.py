"""Optimizers that are made, used and dropped leave nothing in memory. Each loop runs in a process of its own."""

import json
from pathlib import Path

import pytest

from tests.workers import python

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's count of resident pages")

LOOP = """
import ctypes, gc, json, resource, weakref
import jax, jax.numpy as jnp, optax, lrjax as L

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(())}

def megabytes():
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is freed counts as resident until the system has it back
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

def update(tx):
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)

def live(references):
    gc.collect()
    return sum(r() is not None for r in references)
"""

# one of each a round
OURS = """
MAKE = [
    lambda i: L.sgd(1e-3 + i),
    lambda i: L.sgd(L.cosine_decay_schedule(1e-3 + i, 100 + i)),
    lambda i: L.chain(L.clip(1.0 + i), L.sgd((L.linear_schedule(0.1, 0.0, 5 + i) * 0.5).warmup(3))),
    lambda i: L.masked(L.sgd(L.by_path({"w": 0.1 + i, "": 0.2})), {"w": True, "b": False}),
    lambda i: L.inject_hyperparams(L.sgd)(0.1 + i),
]
"""
FOREIGN = """
MAKE = [
    lambda i: L.adam(lambda step: 0.1 / (1 + i)),
    lambda i: L.adam(optax.cosine_decay_schedule(1e-3, 100 + i)),
    lambda i: L.chain(optax.scale(1.0 + i), L.sgd(0.1)),
    lambda i: L.adamw(0.1, mask=lambda params: {"w": i > 0, "b": True}),
    lambda i: L.inject_hyperparams(L.sgd)(lambda step: 0.1 + i),
]
"""
MANY = """
references, seen = [], {}
for i in range(10_000):
    tx = MAKE[i % len(MAKE)](i)
    assert jax.tree.leaves(tx) is not None and hash(tx) and repr(tx)
    if i % EVERY < len(MAKE):
        update(tx)
    references.append(weakref.ref(tx))
    if i + 1 in (1000, 10_000):
        seen[i + 1] = megabytes()
del tx
print(json.dumps([seen[1000], seen[10_000], live(references)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("make", "every"), [(OURS, 5), (FOREIGN, 250)], ids=["ours", "foreign"])
def test_ten_thousand_optimizers_leave_nothing(make, every):
    first, last, live = json.loads(python(LOOP + make + f"EVERY = {every}" + MANY))
    assert live == 0
    assert last - first < 4  # 0.5 kB for each would be more


HUNDRED = """
for i in range(5):
    update(L.adam(optax.cosine_decay_schedule(1e-3, 50 + i)))
before = megabytes()
for i in range(100):
    update(L.adam(optax.cosine_decay_schedule(1e-3, 100 + i)))
print(json.dumps([before, megabytes()]))
"""


@pytest.mark.slow
def test_a_hundred_schedules_of_optax_compile_nothing_that_stays():
    before, after = json.loads(python(LOOP + HUNDRED))
    assert after - before < 4  # it was 375: a program for each


JITTED = """
def compiled(i):
    schedule = [L.cosine_decay_schedule(0.1 + i, 100 + i), lambda step: 0.1 / (1 + i)][i % 2]
    tx = L.sgd(schedule)
    jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    return weakref.ref(tx)

def round(n):
    references = [compiled(i) for i in range(n)]
    full = megabytes()
    jax.clear_caches()
    return full, megabytes(), live(references)

round(20)
print(json.dumps([round(40), round(40)]))
"""


@pytest.mark.slow
def test_compiled_updates_go_with_the_caches():
    """A method that is compiled is a function of its own, so JAX keeps a program for each, until told otherwise."""
    (_, before, _), (full, after, live) = json.loads(python(LOOP + JITTED))
    assert live == 0
    assert full - before > 1  # otherwise this measures nothing
    assert after - before < 4


SEARCHES = """
class Data:
    pass

X = jnp.ones((64, 4))
OPTIONS = {"steps": 8, "progress": False}
RUN = [
    lambda task, i: L.sweep(task, L.adam(jnp.array([0.1, 0.2, 0.3])), **OPTIONS),
    lambda task, i: L.sweep(task, lambda rate: L.sgd(rate * (1 + i)), learning_rates=[0.1, 0.2], **OPTIONS),
    lambda task, i: L.train(task, optax.adam(0.1 + i), **OPTIONS),
    lambda task, i: L.tune(task, L.sgd(0.1), seeds=1, **OPTIONS),
]

def search(i):
    data = Data()  # closed over by all that a task is made of
    loss_fn = lambda params, batch: (data, jnp.mean((batch @ params["w"] - 1.0 - i) ** 2))[1]
    init = lambda key: (data, {"w": jax.random.normal(key, (4,))})[1]
    metrics = {"error": (lambda params, batch: (data, loss_fn(params, batch))[1], "min")}
    RUN[i % len(RUN)](L.Task(loss_fn, init, X, batch_size=16, metrics=metrics, validation=X), i)
    return weakref.ref(data)

references = [search(i) for i in range(8)]
before, some = megabytes(), live(references)
references += [search(i) for i in range(32)]
print(json.dumps([before, megabytes(), live(references)]))
"""


@pytest.mark.slow
def test_what_a_search_compiles_goes_with_its_task():
    before, after, live = json.loads(python(LOOP + SEARCHES))
    assert live == 0
    assert after - before < 40  # 4 to 8 MB for each would be 128 and more
