"""Signals end a call early, with what there is; what was saved goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.training.engine import Engine
from lrjax.training.interrupt import received_signal
from tests.search.test_sweep import RATES, X, Y, task_of

FIELDS = {"batch_size": 16, "steps": 400}
QUIET = {"progress": False}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process a signal before a call of the program; `signalled.at` says before which one."""

    class Signalled:
        at, number, calls = 0, signal.SIGINT, 0

    dispatch = Engine._dispatch

    def sending(engine, *rest):
        Signalled.calls += 1
        if Signalled.calls == Signalled.at:
            os.kill(os.getpid(), Signalled.number)
        return dispatch(engine, *rest)

    monkeypatch.setattr(Engine, "_dispatch", sending)
    monkeypatch.setattr("lrjax.training.engine.CALL_SECONDS", 0.0)  # a step a call
    yield Signalled
    received_signal()


def trained(**options):
    return L.train(task_of((X, Y), **FIELDS), L.adam(0.01), eval_every=10, **QUIET, **options)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_ends_early_and_goes_on(tmp_path, signalled, number):
    whole = trained()
    before, signalled.at, signalled.number = signal.getsignal(number), signalled.calls + 60, number
    with pytest.warns(UserWarning, match=f"train: Stopped by {number.name}: [0-9]+ of 400 steps were made"):
        part = trained(checkpoint=tmp_path / "run")
    made = len(part.losses)
    assert part.interrupted and 20 < made < 200 and "interrupted" in repr(part) and not part.diverged
    np.testing.assert_array_equal(part.losses, whole.losses[:made])
    np.testing.assert_array_equal(part.learning_rates, whole.learning_rates[:made])
    assert len(part.rows()) == made and np.isfinite(part.final)
    assert signal.getsignal(number) is before and received_signal() == number and received_signal() is None
    again = trained(checkpoint=tmp_path / "run")
    assert not again.interrupted
    np.testing.assert_array_equal(again.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_a_part_of_a_run_can_be_saved_and_shown(tmp_path, signalled):
    signalled.at = 5
    with pytest.warns(UserWarning, match="Stopped"):
        part = L.train(task_of((X, Y), validation=(X, Y), **FIELDS), L.adam(0.01), **QUIET)  # evaluated at the end only
    assert part.metrics == {} and part.final > 0
    part.save(tmp_path / "run")
    assert L.Run.load(tmp_path / "run").interrupted
    assert part._repr_html_()


def test_the_second_signal_ends_at_once(signalled, monkeypatch):
    def impatient(engine, *rest):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    monkeypatch.setattr(Engine, "_dispatch", impatient)
    with pytest.raises(KeyboardInterrupt):
        trained()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_the_user_stay(signalled):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        signalled.at, signalled.number = 10, signal.SIGTERM
        assert not trained().interrupted and seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_left_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(trained()))
    thread.start()
    thread.join()
    assert not found[0].interrupted


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "all", None])
def test_a_sweep_gives_the_settings_that_are_whole(tmp_path, signalled, keep, one_at_a_time):
    run = lambda **options: L.sweep(
        task_of((X, Y), batch_size=16), L.adam(RATES), steps=60, seeds=2, keep=keep, **QUIET, **options
    )
    whole = run()
    signalled.at = signalled.calls + signalled.calls // 2
    with pytest.warns(UserWarning, match="sweep: Stopped by SIGINT: [12] of 3 settings were trained to the end"):
        part = run(checkpoint=tmp_path / "sweep")
    count = len(part.learning_rates)
    assert count in (1, 2) and "of 3 settings" in part.notes[0]
    np.testing.assert_array_equal(part.losses, whole.losses[:count])
    np.testing.assert_array_equal(part.diverged, whole.diverged[:count])
    assert (part.run is None) == (keep is None) and (part.runs is None) == (keep != "all")
    if keep is not None:
        assert part.run.final == part.final.min()
    again = run(checkpoint=tmp_path / "sweep")
    np.testing.assert_array_equal(again.losses, whole.losses)
    assert again.notes == whole.notes


def test_a_sweep_with_nothing_whole_is_interrupted(signalled):
    signalled.at = 10
    with pytest.raises(KeyboardInterrupt, match="sweep: stopped by a signal"):
        L.sweep(task_of((X, Y), **FIELDS), L.adam(RATES), **QUIET)


def test_a_search_says_that_it_was_interrupted(signalled):
    run = lambda: L.tune(task_of((X, Y), batch_size=16, steps=40), L.adam(0.1), **QUIET)
    run()
    calls, signalled.at = signalled.calls, int(1.7 * signalled.calls)
    with pytest.warns(UserWarning, match="tune: Stopped by SIGINT: [0-9]+ rates were trained to the end so far"):
        part = run()
    assert part.verdict.startswith("Interrupted, so this is not settled. ") and part.run is not None
    assert "Stopped by SIGINT" in part.notes[-1] and np.isfinite(part.final).any()
    signalled.calls, signalled.at = 0, calls // 5
    with pytest.warns(UserWarning, match="tune: Stopped by SIGINT: 0 rates"):
        nothing = run()
    assert nothing.verdict == "Interrupted before a rate was trained to the end: nothing can be said."
    assert np.isnan(nothing.learning_rate) and nothing.run is None


@pytest.mark.slow
@pytest.mark.parametrize("runs_per_device", [1, None])
def test_a_search_goes_on_from_its_checkpoint(signalled, tmp_path, monkeypatch, runs_per_device):
    """However often it is stopped, and wherever; also where devices train fewer runs after a while."""
    monkeypatch.setattr("lrjax.training.engine._default_runs_per_device", lambda mesh: runs_per_device)
    seconds = property(lambda engine: -1.0, lambda engine, measured: None)  # it is always worth compiling
    monkeypatch.setattr(Engine, "_compile_seconds", seconds, raising=False)
    task = task_of(
        (X, Y), batch_size=16, steps=40, metrics=(lambda p, b: jnp.sum(p["w"] ** 2), "min"), validation=(X, Y)
    )
    run = lambda **options: L.tune(task, L.adam(0.1), seeds=2, eval_every=7, **QUIET, **options)
    whole = run()
    calls, stops, part = signalled.calls, 0, None
    while part is None or part.verdict.startswith("Interrupted"):
        signalled.calls, signalled.at, stops = 0, calls // 7, stops + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = run(checkpoint=tmp_path / "tune")
    assert stops > 4
    for found in (part, run(checkpoint=tmp_path / "tune")):
        assert found.verdict == whole.verdict and found.steps_spent == whole.steps_spent
        np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-6)
        np.testing.assert_allclose(found.final, whole.final, rtol=1e-6)
        assert found.run.seed == whole.run.seed
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found.run.params, whole.run.params)
    with pytest.raises(ValueError, match="tune: `checkpoint` must be a new folder"):
        L.tune(task, L.adam(0.1), seeds=2, low=1e-5, **QUIET, checkpoint=tmp_path / "tune")


@pytest.mark.slow
def test_a_comparison_gives_what_is_whole_and_goes_on(signalled, tmp_path):
    optimizers = {"adam": L.adam(0.01), "sgd": L.sgd(0.1), "lion": L.lion(0.001)}
    run = lambda **o: L.compare(task_of((X, Y), batch_size=16, steps=40), optimizers, seeds=2, **QUIET, **o)
    whole = run()
    signalled.at = signalled.calls + signalled.calls // 2
    with pytest.warns(UserWarning, match="compare: Stopped by SIGINT: [12] of 3 optimizers were trained"):
        part = run(checkpoint=tmp_path / "c")
    names = [entry.name for entry in part.entries]
    assert names == [entry.name for entry in whole.entries][: len(names)] and len(part.rows()) == len(names)
    np.testing.assert_array_equal(part.losses, whole.losses[: len(names)])
    before = signalled.calls
    again = run(checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(again.losses, whole.losses)
    assert 0 < signalled.calls - before < whole.losses[0].size * 3
    before = signalled.calls
    np.testing.assert_array_equal(run(checkpoint=tmp_path / "c").losses, whole.losses)
    assert signalled.calls == before
    for search in (L.sweep, L.compare):
        with pytest.raises(ValueError, match="`checkpoint` must be a new folder, or one of an earlier call of"):
            folder = tmp_path / "c" if search is L.sweep else tmp_path
            given = L.adam(RATES) if search is L.sweep else optimizers
            search(task_of((X, Y), batch_size=16, steps=40), given, checkpoint=folder, **QUIET)
    with pytest.raises(ValueError, match="holds another: `hyperparameters` is not the same"):
        optimizers["adam"] = L.adam(0.02)
        run(checkpoint=tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_writes_what_there_is(tmp_path, number):
    files = {name: tmp_path / f"run.{name}" for name in ("html", "json")}
    options = ["--steps", "3000000", "--out", files["html"], "--json", files["json"], "--checkpoint", tmp_path / "c"]
    command = [sys.executable, "-m", "lrjax", "train", "diabetes", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "c").glob("[0-9]*")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert f"Stopped by {number.name}" in errors and "Traceback" not in errors
    assert files["html"].stat().st_size > 1000
    assert json.loads(files["json"].read_text())["notes"] == ["Stopped by a signal before its last step."]
