"""Threads that use lrjax at the same time get what one alone gets."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.domains import Rate
from tests.workers import FOREIGN, MAKE, assert_same, in_threads, python, use, use_all

N = 3
ALL = MAKE | FOREIGN


@pytest.mark.promotes
@pytest.mark.slow
def test_threads_that_use_everything_get_what_one_gets():
    expected = use_all(ALL)
    names = list(ALL)

    def work(i):  # each in another order
        mine = names[3 * i :] + names[: 3 * i]
        return use_all({name: ALL[name] for name in mine})

    for results in in_threads(work, N):
        assert_same(results, expected)


FIRST_USE = """
from tests.workers import FOREIGN, MAKE, assert_same, in_threads, use_all
results = in_threads(lambda i: use_all(MAKE | FOREIGN), 3)
expected = use_all(MAKE | FOREIGN)
for result in results:
    assert_same(result, expected)
print("same", len(results))
"""


@pytest.mark.slow
def test_the_first_use_may_be_in_threads():
    """In a new process, where nothing is compiled and no cache is filled."""
    assert python(FIRST_USE).split() == ["same", "3"]


def test_one_value_in_many_threads():
    """The leaves of a value are kept with it at its first use: here at the first use of all threads."""
    for _ in range(20):
        tx = L.chain(L.clip(1.0), L.adam(L.cosine_decay_schedule(0.1, 10)))
        leaves = in_threads(lambda i, tx=tx: (jax.tree.leaves(tx), hash(tx), repr(tx), pickle.dumps(tx)), N)
        assert all(one == leaves[0] for one in leaves)


def test_threads_that_share_a_value_and_a_state():
    tx = L.adam(L.linear_schedule(0.1, 0.0, 10))
    results = in_threads(lambda i: use(tx), N)
    for result in results:
        assert_same(result, results[0])
    rates = [float(r) for r in results[0]["eager"]["rates"]]
    np.testing.assert_allclose(rates, [0.1, 0.09], rtol=1e-6)


def test_threads_that_make_classes():
    """Each its own, of one name: none gets another's formula or hyperparameters."""

    def work(i):
        def plain(step, init_value: Rate):
            return init_value * i

        made = L.schedule(plain)
        curves = [
            float(made(2.0)(5)),
            float(jax.jit(made(2.0))(5)),
            float(L.sgd(made(2.0)).init(1.0)[-1].learning_rate),
        ]
        return made, curves

    results = in_threads(work, N)
    for i, (made, curves) in enumerate(results):
        assert curves == [2.0 * i] * 3
        assert [f.name for f in dataclasses.fields(made)] == ["init_value"]
    assert len({made for made, _ in results}) == N


def test_many_rates_in_threads_compile_once(count_traces):
    """The optimizer is an argument: however many threads bring their own, it is one program."""
    step, traces = count_traces(lambda tx, p: tx.update(p, tx.init(p), p)[0])
    compiled, params = jax.jit(step), jnp.ones(3)
    in_threads(lambda i: compiled(L.sgd(1.0), params), 1)  # the settings of this test are this thread's alone
    results = in_threads(lambda i: [np.asarray(compiled(L.sgd(i + j / 8), params)) for j in range(8)], N)
    assert traces[0] == 1
    for i, mine in enumerate(results):
        np.testing.assert_array_equal(mine, [np.full(3, -(i + j / 8), np.float32) for j in range(8)])
