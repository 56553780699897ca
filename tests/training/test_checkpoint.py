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
from lrjax.training.checkpoint import digest_of_function
from lrjax.training.engine import Engine
from tests.search.test_sweep import LIST, RATES, STEPPED, STEPS, X, Y, init, loss_fn, swept, task_of

pytest.importorskip("orbax.checkpoint")
pytestmark = [pytest.mark.promotes, pytest.mark.filterwarnings("ignore:.*[Ss]harding.*:UserWarning")]

FIELDS = {"batch_size": 16, "metrics": {"all": (loss_fn, "min")}, "validation": (X, Y)}
LONG = {"steps": 20_000, "seeds": 2, "eval_every": 5000}
KILLED = """
import sys
import jax
import lrjax.training.checkpoint
jax.config.update("jax_disable_most_optimizations", True)  # as here
from tests.training.test_checkpoint import *
lrjax.training.checkpoint.SAVING_FRACTION = 1.0  # it is saved after every chunk
long(sys.argv[1])
"""


def long(checkpoint=None):
    return swept(L.adam(RATES), (X, Y), FIELDS, checkpoint=checkpoint, **LONG)


def same(ours, theirs):
    for name in ("losses", "diverged", "control", "start_metric"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for tree in ("metrics", "modes"):
        assert list(getattr(ours, tree)) == list(getattr(theirs, tree))
    for name in ours.metrics:
        np.testing.assert_array_equal(ours.metrics[name], theirs.metrics[name])
    jax.tree.map(np.testing.assert_array_equal, ours.run.params, theirs.run.params)
    jax.tree.map(np.testing.assert_array_equal, ours.run.opt_state, theirs.run.opt_state)


@pytest.fixture
def calls(monkeypatch):
    """The steps of each call of the program."""
    seen, dispatch = [], Engine._dispatch

    def noted(engine, wave, active, chunk, interval):
        seen.append(int(interval.count))
        return dispatch(engine, wave, active, chunk, interval)

    monkeypatch.setattr(Engine, "_dispatch", noted)
    return seen


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(tmp_path, calls):
    expected = long()
    whole = sum(calls)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "sweep")])
    saved = lambda: [int(p.name) for p in tmp_path.glob("sweep/*") if p.name.isdecimal()]
    while process.poll() is None and max(saved(), default=0) < 3:  # it is in the middle of the work
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and saved()
    calls.clear()
    same(long(tmp_path / "sweep"), expected)
    assert 0 < sum(calls) < whole
    calls.clear()
    same(long(tmp_path / "sweep"), expected)
    assert not calls


def test_all_runs_side_by_side_go_on_too(tmp_path, monkeypatch):
    def broken():
        yield from LIST[:20]
        raise KeyboardInterrupt

    monkeypatch.setattr("lrjax.training.loader.MAX_LOADED_BYTES", 1000)  # chunks of a few steps
    options = {"steps": STEPS, "seeds": 2}
    expected = swept(L.adam(RATES), iter(LIST), **options)
    with pytest.raises(KeyboardInterrupt):
        swept(L.adam(RATES), broken(), checkpoint=tmp_path, **options)
    asked = []
    loader = (asked.append(i) or b for i, b in enumerate(LIST))
    same(swept(L.adam(RATES), loader, checkpoint=tmp_path, **options), expected)
    assert asked == list(range(STEPS))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("changed", [0, STEPS - 1])
def test_other_data_from_a_list_or_loader_are_refused(tmp_path, kind, changed):
    others = [jax.tree.map(lambda x, i=i: x + (i == changed), batch) for i, batch in enumerate(LIST)]
    swept(L.adam(RATES), kind(LIST), steps=STEPS, checkpoint=tmp_path)
    swept(L.adam(RATES), kind(LIST), steps=STEPS, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds another: `data` is not the same"):
        swept(L.adam(RATES), kind(others), steps=STEPS, checkpoint=tmp_path)


@pytest.mark.slow
def test_other_devices_and_what_file_managers_leave_are_fine(tmp_path):
    options = {"steps": 20, "seeds": 2, "checkpoint": tmp_path}
    one = swept(L.adam(RATES), (X, Y), FIELDS, runs_per_device=1, **options)
    (tmp_path / ".DS_Store").write_bytes(b"")
    many = swept(L.adam(RATES), (X, Y), FIELDS, runs_per_device=4, **options)
    same(one, many)  # what was saved


def test_a_damaged_folder_is_said_to_be(tmp_path):
    swept(L.adam(RATES), steps=20, checkpoint=tmp_path / "a")
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="^sweep: `checkpoint` must be a folder that can be read"):
        swept(L.adam(RATES), steps=20, checkpoint=tmp_path / "a")
    for path in (3, tmp_path / "a\0b", "/proc/nowhere/x"):
        with pytest.raises(ValueError, match="`checkpoint` must be"):
            swept(L.adam(RATES), steps=20, checkpoint=path)


def test_one_run_goes_on_too(tmp_path):
    task = task_of((X, Y), **FIELDS)
    expected = L.train(task, L.adam(0.01), steps=700, eval_every=100, progress=False)

    def stop(row):
        if row["step"] == 550:
            raise KeyboardInterrupt

    run = lambda **o: L.train(task, L.adam(0.01), steps=700, eval_every=100, progress=False, checkpoint=tmp_path, **o)
    with pytest.raises(KeyboardInterrupt):
        run(on_step=stop)
    seen = []
    found = run(on_step=lambda row: seen.append(row["step"]))
    assert seen[-1] == 699 and seen == list(range(seen[0], 700))
    np.testing.assert_array_equal(found.losses, expected.losses)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["noticed before", "while writing"])
def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, how):
    from lrjax.training.checkpoint import Checkpoint

    task, folder = task_of((X, Y), **FIELDS), tmp_path / "run"
    run = lambda **options: L.train(task, L.adam(0.01), steps=200, progress=False, **options)
    monkeypatch.setattr("lrjax.training.engine.CALL_SECONDS", 0.0)  # a step a call
    monkeypatch.setattr("lrjax.training.checkpoint.SAVING_FRACTION", 1.0)
    expected, saves, save = run(), [], Checkpoint.save

    def saving(checkpoint, *rest):
        saves.append(1)
        if len(saves) == 20 and how == "noticed before":
            monkeypatch.setattr("shutil.disk_usage", lambda path: FULL)
        elif len(saves) == 20:
            monkeypatch.setattr(checkpoint._orbax.args, "Composite", full)
        save(checkpoint, *rest)

    class FULL:
        free = 100

    def full(**items):
        (folder / "77.orbax-checkpoint-tmp").mkdir(exist_ok=True)
        raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device [os_error_code='28']")

    monkeypatch.setattr(Checkpoint, "save", saving)
    words = "train: `checkpoint` .* cannot be written: No space left on device; what was saved before stays, and the"
    with pytest.warns(UserWarning, match=words) as warned:
        found = run(checkpoint=folder)
    assert len(warned) == 1 and len(saves) > 100  # it is said once
    np.testing.assert_array_equal(found.losses, expected.losses)
    assert [path.name for path in folder.iterdir()] == ["18"]  # the last one that was whole
    monkeypatch.undo()
    np.testing.assert_array_equal(run(checkpoint=folder).losses, expected.losses)  # goes on from there


OTHERS = {
    "learning_rates": ({"optimizer": L.adam(RATES * 2)}, "`learning_rates` is 3 from 0.003 to 0.3 there, 3 from 0.006"),
    "optimizer": ({"optimizer": L.adam(RATES, b1=0.8)}, "`hyperparameters` is not the same"),
    "kind": ({"optimizer": L.adagrad(RATES)}, "`optimizer` is not the same"),
    "steps": ({"steps": 20}, "`steps` is 30 there, 20 here"),
    "seeds": ({"seeds": [0, 2]}, "`seeds` is 2 from 0 to 1 there, 2 from 0 to 2 here"),
    "loss_fn": ({"loss_fn": lambda p, b: 2 * loss_fn(p, b)}, "`loss_fn` is not the same"),
    "init": ({"init": lambda key: jax.tree.map(jnp.zeros_like, init(key))}, "`init` is not the same"),
    "data": ({"data": jax.tree.map(lambda x: x + 1, STEPPED)}, "`data` is not the same"),
    "metrics": ({"metrics": (loss_fn, "min"), "validation": (X, Y)}, "`metrics` is not the same"),
}


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_another_sweep_is_refused_by_name_and_nothing_is_overwritten(tmp_path):
    arguments = {"optimizer": L.adam(RATES), "seeds": 2}
    swept(**arguments, checkpoint=tmp_path)
    before = files(tmp_path)
    for changed, words in OTHERS.values():
        fields = {k: v for k, v in changed.items() if k in ("loss_fn", "init", "data", "metrics", "validation")}
        others = {k: v for k, v in changed.items() if k not in fields}
        with pytest.raises(ValueError, match="holds another: ") as error:
            swept(**{**arguments, **others}, data=fields.pop("data", STEPPED), fields=fields, checkpoint=tmp_path)
        assert words in str(error.value)
    assert files(tmp_path) == before


def test_states_of_a_version_that_is_not_known_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("lrjax.training.checkpoint.state_version", L.state_version + 1)
        swept(L.adam(RATES), steps=20, checkpoint=tmp_path)
    before = files(tmp_path)
    words = f"of a newer one, with states of version {L.state_version + 1}; this one's are {L.state_version}"
    with pytest.raises(ValueError, match=words):
        swept(L.adam(RATES), steps=20, checkpoint=tmp_path)
    monkeypatch.setattr("lrjax.training.checkpoint.state_version", L.state_version + 2)  # of an older version
    with pytest.raises(ValueError, match=f"`state_version` is {L.state_version + 1} there, {L.state_version + 2} here"):
        swept(L.adam(RATES), steps=20, checkpoint=tmp_path)
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
            swept(L.adam(RATES), checkpoint=path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match="lrjax\\[checkpoint\\]"):
        swept(L.adam(RATES), checkpoint=tmp_path)
