"""Clips and skips by history: the numbers of the papers' own code."""

import jax
import jax.numpy as jnp
import numpy as np

import lrjax as L

PARAM = jnp.zeros(1)


def run(tx, norms, losses=None):
    """(the updates, the states) of gradients of these norms."""
    update, state, updates, states = jax.jit(tx.update), tx.init(PARAM), [], []
    for i, norm in enumerate(norms):
        extra = {} if losses is None else {"value": jnp.float32(losses[i])}
        u, state = update(jnp.array([norm], jnp.float32), state, PARAM, **extra)
        updates.append(float(u[0]))
        states.append(state)
    return np.array(updates), states


def test_skip_spikes_skips_what_olmo_skips():
    losses = 2 + 0.05 * np.cos(np.arange(200))
    losses[150:152] = 3, 2.4  # the second passes, because the first is history by then
    updates, states = run(L.skip_spikes(L.sgd(1.0)), np.ones(200), losses)
    assert np.flatnonzero(updates == 0).tolist() == [150] and int(states[-1].skipped) == 1
    previous = losses[22:150]
    assert (losses[150] - previous.mean()) / previous.std(ddof=1) > 28 > 6


def test_skip_spikes_looks_at_the_norm_too_and_keeps_the_inner_state():
    norms = 1 + 0.01 * np.cos(np.arange(80))
    norms[70], norms[75] = 50, np.nan
    updates, states = run(L.skip_spikes(L.sgd(1.0, momentum=0.5)), norms)
    assert np.flatnonzero(updates == 0).tolist() == [70, 75]
    for bad in (70, 75):
        jax.tree.map(np.testing.assert_array_equal, states[bad].inner_state, states[bad - 1].inner_state)
    assert np.isfinite(np.asarray(states[-1].norms)).all() and 50 in np.asarray(states[-1].norms)


def test_clip_by_zscore_is_zclip():
    norms = 1 + 0.1 * np.cos(np.arange(60))
    norms[40] = 10
    updates, states = run(L.clip_by_zscore(max_norm=None), norms)
    np.testing.assert_allclose(updates[40], 1.007346136, rtol=1e-6)
    np.testing.assert_allclose([states[-1].mean, states[-1].var], [1.002219561, 0.004817530], rtol=1e-5)
    np.testing.assert_allclose(run(L.clip_by_zscore(), norms)[0].max(), 1, rtol=1e-6)


def test_clip_by_history_is_adagc():
    norms = 0.5 + 0.1 * np.cos(np.arange(200))
    norms[150] = 20
    updates, states = run(L.clip_by_history(), norms)
    np.testing.assert_allclose([updates[99], updates[150]], [0.420004113, 0.436671965], rtol=1e-6)
    np.testing.assert_allclose(states[-1].norms, 0.428059042, rtol=1e-6)


def test_what_is_not_finite_is_no_history():
    for tx in (L.clip_by_zscore(), L.clip_by_history()):
        updates, states = run(tx, [1.0, 1.1, np.nan, np.inf, 0.9])
        assert not np.isfinite(updates[2:4]).any()
        jax.tree.map(np.testing.assert_array_equal, states[3], states[1])
        assert np.isfinite(updates[4])
