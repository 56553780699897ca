"""Two processes, joined, give what one gives, and each holds only its runs."""

import numpy as np
import pytest

import lrjax as L
from tests.search.test_sweep import RATES, X, Y, loss_fn, swept, task_of
from tests.workers import in_two_processes

JOINED = """
import sys, jax
process, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_disable_most_optimizations", True)  # as here
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from lrjax.training.engine import Engine
from tests.training.test_processes import *

dispatch = Engine._dispatch
def watched(engine, wave, *rest):
    recorded = dispatch(engine, wave, *rest)
    for x in jax.tree.leaves(engine.waves.carried[wave]):
        assert x.shape[0] == 2 and sum(s.data.shape[0] for s in x.addressable_shards) == 1
    return recorded
Engine._dispatch = watched

assert jax.process_count() == 2
many(f"{out}/checkpoint").save(f"{out}/{process}.npz")
many(f"{out}/checkpoint").save(f"{out}/again{process}.npz")  # from the checkpoint
found = tuned()
assert found == tuned() and found[0] > 0
open(f"{out}/{process}.txt", "w").write(repr(found))
"""
FIELDS = {"batch_size": 16, "metrics": {"all": (loss_fn, "min")}, "validation": (X, Y)}


def many(checkpoint=None):
    rates = np.append(RATES, 1e30)  # and one that diverges
    return swept(L.sgd(rates), (X, Y), FIELDS, steps=150, seeds=3, checkpoint=checkpoint)


def tuned():
    found = L.tune(task_of((X, Y), **FIELDS), L.adam, steps=60, seeds=1, low=1e-4, progress=False)
    return found.learning_rate, float(found.run.losses[-1])


@pytest.mark.slow
@pytest.mark.promotes
def test_two_processes_give_what_one_gives(tmp_path):
    in_two_processes(JOINED, str(tmp_path))
    expected = many()
    for name in ("0", "1", "again0", "again1"):
        found = L.SweepResult.load(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
        np.testing.assert_allclose(found.metrics["all"], expected.metrics["all"], rtol=1e-5)
        np.testing.assert_array_equal(found.diverged, expected.diverged)
    assert expected.diverged.any()
    assert {(tmp_path / f"{i}.txt").read_text() for i in range(2)} == {repr(tuned())}
