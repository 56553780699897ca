"""How many runs of a sweep are on the devices at the same time, and what is known of a program's time."""

import weakref

import numpy as np
import pytest

import lrjax as L
from lrjax.training.engine import Engine
from tests.search.test_sweep import RATES, swept


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("free", "vectorized"), [(None, 9), (10**9, 9), (25_000, 2), (1, 1)])
def test_only_as_many_runs_at_a_time_as_the_memory_holds(monkeypatch, free, vectorized):
    seen, advance, compiling = [], Engine.advance, Engine._compile
    monkeypatch.setattr("lrjax.training.engine._default_runs_per_device", lambda mesh: None)  # as on an accelerator
    needed = lambda engine: (7000 * engine.program.runs_per_device, compiling(engine)[1])
    monkeypatch.setattr(Engine, "_compile", needed)
    monkeypatch.setattr("lrjax.training.engine._free_bytes", lambda mesh: free)
    note = lambda engine, *rest, **kw: seen.append(engine.program.runs_per_device) or advance(engine, *rest, **kw)
    monkeypatch.setattr(Engine, "advance", note)
    run = lambda **options: swept(L.adam(np.geomspace(0.001, 0.1, 8)), **options)  # and a control
    result = run()
    assert set(seen) == {vectorized}
    np.testing.assert_allclose(result.losses, run(runs_per_device=4).losses, rtol=2e-4)
    assert set(seen) == {vectorized, 4}  # what is asked for is done


@pytest.mark.parametrize("together", [1, 2])  # a control alone, and one beside a run
def test_of_the_waves_that_are_done_one_stays_on_the_devices(monkeypatch, together):
    """So many are counted where a wave is fitted into the memory, beside the one that is trained."""
    done, most, dispatch, release = [], [], Engine._dispatch, Engine.release

    def dispatched(engine, wave, *rest):
        most.append(len({*engine.waves.carried, wave}) + sum(array() is not None for array in done))
        return dispatch(engine, wave, *rest)

    def released(engine, wave, *rest):
        done.append(weakref.ref(engine.waves.carried[wave].finite))
        return release(engine, wave, *rest)

    monkeypatch.setattr(Engine, "_dispatch", dispatched)
    monkeypatch.setattr(Engine, "release", released)
    swept(L.adam(np.geomspace(0.001, 0.1, 7)), steps=10, runs_per_device=together)  # a wave is a single call
    assert max(most) == 2


def test_a_program_that_was_compiled_before_is_known_to_take_its_time(monkeypatch):
    seen, advance = [], Engine.advance
    note = lambda engine, *rest, **kw: seen.append(engine._compile_seconds) or advance(engine, *rest, **kw)
    monkeypatch.setattr(Engine, "advance", note)
    for rates in (RATES, RATES * 2):
        swept(L.rmsprop(rates))
    assert len(set(seen)) == 1 and seen[0] > 0
