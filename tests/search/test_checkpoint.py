"""A sweep that was stopped, or killed, goes on where it was; that of another sweep is left alone."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.search.checkpoint import digest_of_function
from lrjax.search.runs import Runs
from tests.search.test_sweep import LIST, RATES, STEPPED, STEPS, X, Y, init, loss_fn

pytest.importorskip("orbax.checkpoint")
pytestmark = [pytest.mark.promotes, pytest.mark.filterwarnings("ignore:.*[Ss]harding.*:UserWarning")]

LONG = {"steps": 20_000, "seeds": 2, "batch_size": 16, "eval_fn": loss_fn, "eval_batch": (X, Y), "progress": False}
KILLED = """
import sys
import lrjax.search.checkpoint
from tests.search.test_checkpoint import *
lrjax.search.checkpoint.MOST_OF_TIME = 1.0  # it is saved after every chunk
L.sweep(loss_fn, init, (X, Y), L.adam(RATES), checkpoint=sys.argv[1], **LONG)
"""


def same(ours, theirs):
    for name in ("losses", "eval", "diverged"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.fixture
def calls(monkeypatch):
    """The steps of each call of the program."""
    seen, go = [], Runs.go
    monkeypatch.setattr(Runs, "go", lambda *args: seen.append(int(args[2][-1])) or go(*args))
    return seen


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(tmp_path, calls):
    expected = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), **LONG)
    whole = sum(calls)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "sweep")])
    saved = lambda: [int(p.name) for p in tmp_path.glob("sweep/*") if p.name.isdecimal()]
    while process.poll() is None and max(saved(), default=0) < 3:  # it is in the middle of the work
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and saved()
    calls.clear()
    again = L.sweep(loss_fn, init, (X, Y), L.adam(RATES), checkpoint=tmp_path / "sweep", **LONG)
    same(again, expected)
    assert 0 < sum(calls) < whole
    calls.clear()
    same(L.sweep(loss_fn, init, (X, Y), L.adam(RATES), checkpoint=tmp_path / "sweep", **LONG), expected)
    assert not calls


def test_all_runs_side_by_side_go_on_too(tmp_path, monkeypatch):
    def broken():
        yield from LIST[:20]
        raise KeyboardInterrupt

    monkeypatch.setattr("lrjax.search.batches.LOADED_BYTES", 1000)  # chunks of a few steps
    options = {"steps": STEPS, "seeds": 2, "progress": False}
    expected = L.sweep(loss_fn, init, iter(LIST), L.adam(RATES), **options)
    with pytest.raises(KeyboardInterrupt):
        L.sweep(loss_fn, init, broken(), L.adam(RATES), checkpoint=tmp_path, **options)
    asked = []
    again = L.sweep(
        loss_fn, init, (asked.append(i) or b for i, b in enumerate(LIST)), L.adam(RATES), checkpoint=tmp_path, **options
    )
    same_losses = np.testing.assert_array_equal(again.losses, expected.losses)
    assert same_losses is None and asked == list(range(STEPS))


OTHERS = {
    "learning_rates": ({"optimizer": L.adam(RATES * 2)}, "`learning_rates` is 3 from 0.003 to 0.3 there, 3 from 0.006"),
    "optimizer": ({"optimizer": L.adam(RATES, b1=0.8)}, "`hyperparameters` is not the same"),
    "kind": ({"optimizer": L.adagrad(RATES)}, "`optimizer` is not the same"),
    "steps": ({"steps": 20}, "`steps` is 30 there, 20 here"),
    "seeds": ({"seeds": [0, 2]}, "`seeds` is 2 from 0 to 1 there, 2 from 0 to 2 here"),
    "loss_fn": ({"loss_fn": lambda p, b: 2 * loss_fn(p, b)}, "`loss_fn` is not the same"),
    "init": ({"init": lambda key: jax.tree.map(jnp.zeros_like, init(key))}, "`init` is not the same"),
    "batches": ({"batches": jax.tree.map(lambda x: x + 1, STEPPED)}, "`batches` is not the same"),
    "eval_fn": ({"eval_fn": loss_fn, "eval_batch": (X, Y)}, "`eval_fn` is not the same"),
}


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_sweep_is_refused_by_name_and_nothing_is_overwritten(tmp_path):
    arguments = {"loss_fn": loss_fn, "init": init, "batches": STEPPED, "optimizer": L.adam(RATES), "seeds": 2}
    L.sweep(**arguments, checkpoint=tmp_path, progress=False)
    before = files(tmp_path)
    for changed, words in OTHERS.values():
        with pytest.raises(ValueError, match="holds another: ") as error:
            L.sweep(**{**arguments, **changed}, checkpoint=tmp_path, progress=False)
        assert words in str(error.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("last", [0.0, 1.0])
def test_functions_differ_in_what_they_close_over(wrap, last):
    def made(numbers):
        return wrap(lambda x: jnp.sum(x * numbers))

    digest = lambda numbers: digest_of_function(made(numbers), jnp.ones(100))
    numbers = np.append(np.ones(99, np.float32), np.float32(0.0))
    other = np.append(np.ones(99, np.float32), np.float32(last))
    assert (digest(numbers) == digest(other)) == (last == 0.0)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match="`checkpoint` must be a new folder"):
            L.sweep(loss_fn, init, STEPPED, L.adam(RATES), checkpoint=path, progress=False)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match="lrjax\\[checkpoint\\]"):
        L.sweep(loss_fn, init, STEPPED, L.adam(RATES), checkpoint=tmp_path, progress=False)
