"""Plateau beside PyTorch and the trajectories of PyTorch that are stored here; plateau and stall in use."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from lrjax.jax_versions import enable_x64
from lrjax.tasks.diabetes import diabetes

ONE = jnp.ones(2)
NAN, INF = math.nan, math.inf


def run(tx, values, params=ONE):
    """The scale after each value, and the last state."""
    update = jax.jit(lambda s, v: tx.update(params, s, params, value=v)[1])
    state, scales = tx.init(params), []
    for value in values:
        state = update(state, None if value is None else jnp.float32(value))
        scales.append(float(state.scale))
    return scales, state


@functools.partial(jax.jit, static_argnames="every")
def last(tx, values, every=False):
    """The last state; with `every` the scales too."""

    def step(state, value):
        state = tx.update(ONE, state, ONE, value=value)[1]
        return state, state.scale if every else None

    state, scales = jax.lax.scan(step, tx.init(ONE), values)
    return (state, scales) if every else state


# torch 2.13, factor 0.5, threshold 1e-4: (values, patience, cooldown), rates
A = [1.0] + [0.9] * 5 + [0.8] * 6
B = [1.0] * 10
SLOW = [1 - 5e-5 * i for i in range(8)]
PYTORCHS = {
    "falls twice": (A, 2, 1, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
    "constant": (B, 2, 1, [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
    "without patience": (B, 0, 0, [0.5**i for i in range(10)]),
    "without patience, cooling": (B, 0, 1, [1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.03125]),
    "falls slowly": (SLOW, 2, 1, [1] * 8),
}


@pytest.mark.parametrize("name", PYTORCHS)
def test_plateau_is_pytorchs(name):
    values, patience, cooldown, expected = PYTORCHS[name]
    assert run(L.reduce_on_plateau(0.5, patience, cooldown=cooldown), values)[0] == expected


def of_torch(values, *, min_scale=0.0, mode="min", abs_threshold=None, **options):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    kind = {"threshold": 1e-4} if abs_threshold is None else {"threshold": abs_threshold, "threshold_mode": "abs"}
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, min_lr=min_scale, eps=0, **kind, **options
    )
    rates = []
    for value in values:
        plateau.step(float(np.float32(value)))
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("name", PYTORCHS)
def test_the_stored_trajectories_are_pytorchs(name):
    values, patience, cooldown, expected = PYTORCHS[name]
    assert of_torch(values, patience=patience, cooldown=cooldown) == expected


@pytest.mark.parametrize("seed", range(8))
def test_plateau_is_pytorchs_on_random_values(seed):
    rng = np.random.default_rng(seed)
    values = 2 + 3 * np.exp(-np.arange(60) / 10) + 0.2 * rng.normal(size=60)
    patience, cooldown = int(rng.integers(0, 5)), int(rng.integers(0, 4))
    mode = ("min", "max")[seed % 2]
    values = values if mode == "min" else 8 - values
    options = {"patience": patience, "cooldown": cooldown, "mode": mode, "min_scale": 0.01}
    ours, state = run(L.reduce_on_plateau(0.5, **options), values)
    assert ours == pytest.approx(of_torch(values, **options), rel=1e-6) and min(ours) < 1
    best = values.min() if mode == "min" else values.max()
    assert abs(float(state.best_value) - best) <= 1e-4 * abs(best)
    absolute = run(L.reduce_on_plateau(0.5, rtol=0.0, atol=0.1, **options), values)[0]
    assert absolute == pytest.approx(of_torch(values, abs_threshold=0.1, **options), rel=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("value", [-1.0, 1.0, 0.0, -1e30, 1e30])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_constant_of_any_sign_is_a_plateau(value, mode):
    assert run(L.reduce_on_plateau(0.5, 2, mode=mode), [value] * 5)[0] == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_what_gets_better_is_no_plateau_whatever_its_sign(mode, sign):
    values = sign * np.linspace(-1, 1, 50)
    assert set(run(L.reduce_on_plateau(0.5, 0, mode=mode), values)[0]) == {1.0}
    assert run(L.reduce_on_plateau(0.5, 0, mode=mode), -values)[1].reductions == 49


def test_nan_and_infinities_are_ignored_and_counted():
    tx = L.reduce_on_plateau(0.5, 1)
    scales, state = run(tx, [1.0, NAN, INF, -INF, 1.0, NAN, 1.0])
    assert scales == [1] * 6 + [0.5] and state.total_notfinite == 4 and state.reductions == 1
    clean = run(tx, [1.0, 1.0, 1.0])[1]
    assert state._replace(total_notfinite=clean.total_notfinite) == clean
    scales, state = run(L.reduce_on_stall(0.5, 5), [1.0, NAN, 1.0, INF, 1.0, 1.0, -INF, 1.0])
    assert scales == [1] * 7 + [0.5] and state.total_notfinite == 3


@pytest.mark.parametrize("tx", [L.reduce_on_plateau(0.5, 1), L.reduce_on_stall(0.5, 3)], ids=["plateau", "stall"])
def test_none_leaves_the_state_and_scales(tx):
    before = run(tx, [1.0] * 4)[1]
    updates, after = tx.update(ONE, before, ONE, value=None)
    assert before.scale == 0.5 and jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before, after))
    np.testing.assert_array_equal(updates, 0.5 * ONE)


@pytest.mark.parametrize("tx", [L.reduce_on_plateau(), L.reduce_on_stall()], ids=["plateau", "stall"])
def test_a_value_is_needed_and_a_scalar(tx):
    with pytest.raises(ValueError, match="`value`, the loss or a metric, must be given"):
        tx.update(ONE, tx.init(ONE), ONE)
    with pytest.raises(ValueError, match=r"`value` must be a scalar, got an array of shape \(2,\)"):
        tx.update(ONE, tx.init(ONE), ONE, value=ONE)


def test_means_of_several_values():
    tx = L.reduce_on_plateau(0.5, 1, accumulation_size=3)
    scales, state = run(tx, [1.0, NAN, 2.0, 3.0, 5.0, 0.0, 1.0, 2.0, 2.0, 2.0])
    assert scales == [1] * 9 + [0.5] and state.best_value == 2
    state = run(tx, [1.0, 2.0])[1]
    assert (state.count, state.avg_value) == (2, 1.5)


def test_the_scale_stops_at_its_least_and_never_rises():
    scales, state = run(L.reduce_on_plateau(0.5, 0, min_scale=0.2), [1.0] * 9)
    assert scales == pytest.approx([1, 0.5, 0.25] + [0.2] * 6) and state.reductions == 3
    # a state of another `min_scale`, or set by hand, below this one's
    low = state._replace(scale=jnp.float32(0.1))
    assert L.reduce_on_plateau(0.5, 0, min_scale=0.2).update(ONE, low, ONE, value=1.0)[1].scale == np.float32(0.1)
    tx = L.reduce_on_stall(0.5, 3, min_scale=0.4)
    scales, state = run(tx, [1.0] * 12)
    assert scales == pytest.approx([1, 1, 0.5, 0.5, 0.5] + [0.4] * 7) and state.reductions == 2


BAD = {
    "factor": [0.0, 1.0, -0.5, NAN], "patience": [-1, 1.5, NAN], "rtol": [-0.1, 1.5], "atol": [-1.0, INF],
    "cooldown": [-1], "accumulation_size": [0], "min_scale": [-0.1, 1.5], "mode": ["low", None],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"reduce_on_plateau: `{name}`"):
            L.reduce_on_plateau(**{name: value})
    for name, value in {"patience": 0, "probability_of_decrease": 1.0, "quantile_discard": 1.0}.items():
        with pytest.raises(ValueError, match=f"reduce_on_stall: `{name}`"):
            L.reduce_on_stall(**{name: value})


# where they are used

BOTH = {"plateau": L.reduce_on_plateau(0.5, 2), "stall": L.reduce_on_stall(0.5, 4)}
both = pytest.mark.parametrize("tx", BOTH.values(), ids=BOTH)


@both
def test_bfloat16_parameters(tx):
    params = jnp.ones(3, jnp.bfloat16)
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(params, state, params, value=jnp.bfloat16(1.0))
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
    assert updates.dtype == jnp.bfloat16 and (updates == 0.5).all()
    # bfloat16 has nothing between 1 and 1 − 2⁻⁸: this would be a plateau
    state = run(tx, 1 - 1e-3 * np.arange(20), params)[1]
    assert state.scale == 1


@both
def test_in_float64_without_a_nan_on_the_way(tx):
    with enable_x64(True), jax.debug_nans(True):
        before = state = tx.init(ONE)
        for value in (1.0, np.float32(1.0), 1.0, 1.0):
            updates, state = tx.update(ONE, state, ONE, value=value)
        assert [x.dtype for x in state] == [x.dtype for x in before]
        assert state.scale == 0.5 and state.scale.dtype == jnp.float64 and updates.dtype == jnp.float32


@pytest.mark.slow
@both
def test_one_program_for_all_values_jitted_and_in_scan(tx, count_traces):
    chained = L.chain(L.sgd(0.1), tx)
    values = jnp.asarray([3.0, 2.0] + [1.0] * 10)
    step, traces = count_traces(lambda s, v: chained.update(ONE, s, ONE, value=v))
    jitted, eager = jax.jit(step), chained.init(ONE)
    states = chained.init(ONE)
    for v in values:
        _, states = jitted(states, v)
        _, eager = chained.update(ONE, eager, ONE, value=float(v))
    assert traces == [1]
    for other in (eager, last(chained, values)):
        jax.tree.map(np.testing.assert_array_equal, states, other)
    assert states[-1].scale < 1 and float(L.get_learning_rate(states)) == pytest.approx(0.1 * float(states[-1].scale))


@both
def test_vmap_over_runs(tx):
    values = jnp.stack([jnp.linspace(2, 1, 12), jnp.ones(12)])
    alone, mapped = [last(tx, v) for v in values], jax.vmap(lambda v: last(tx, v))(values)
    jax.tree.map(lambda x, *y: np.testing.assert_array_equal(x, jnp.stack(y)), mapped, *alone)
    assert alone[0].scale == 1 > alone[1].scale


def test_vmap_over_numbers():
    txs = L.batched(L.reduce_on_plateau(jnp.array([0.5, 0.1, 0.1]), patience=jnp.array([1, 1, 30])))
    np.testing.assert_allclose(jax.vmap(lambda tx: last(tx, jnp.ones(3)).scale)(txs), [0.5, 0.1, 1.0])


def test_inside_of_multi_steps():
    tx = L.MultiSteps(L.chain(L.sgd(0.1), L.reduce_on_plateau(0.5, 0)), 2)
    state, step, rates = tx.init(ONE), jax.jit(lambda s, v: tx.update(ONE, s, ONE, value=v)), []
    for value in [1.0, 3.0, 0.0, 4.0, 3.0, 2.0, 1.0, 2.0]:  # means 2, 2, 2.5, 1.5
        updates, state = step(state, value)
        rates.append(-float(updates[0]))
    assert rates == pytest.approx([0, 0.1, 0, 0.05, 0, 0.025, 0, 0.025])
    assert float(L.get_learning_rate(state)) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="`value` must be a number in every call"):
        tx.update(ONE, state, ONE, value=None)
    tx = L.MultiSteps(L.chain(L.sgd(0.1), L.reduce_on_plateau(0.5, 0)), 2, averaged_args=())
    state = tx.init(ONE)
    for value in [None, 1.0, None, None, None, 1.0]:
        state = tx.update(ONE, state, ONE, value=value)[1]
    assert float(L.get_learning_rate(state)) == pytest.approx(0.05)


@pytest.mark.promotes
def test_optaxs_chain_and_arguments():
    ours = optax.chain(optax.sgd(0.1), L.to_optax(L.reduce_on_plateau(0.5, 1)))
    theirs = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(0.5, 2))
    states = ours.init(ONE), theirs.init(ONE)
    for value in [3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 1.0]:
        (a, s), (b, t) = (tx.update(ONE, s, ONE, value=value) for tx, s in zip((ours, theirs), states, strict=True))
        states = s, t
        np.testing.assert_allclose(a, b)
    fields = states[1][1]._fields
    assert fields == states[0][1]._fields[: len(fields)] and float(states[0][1].scale) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "tx", [L.reduce_on_plateau(0.5, 5, accumulation_size=5), L.reduce_on_stall(0.5, 60)], ids=["plateau", "stall"]
)
def test_a_real_run_is_slowed_down(tx):
    run = L.train(diabetes(), L.chain(L.adam(0.01), tx), steps=400, progress=False)
    rates, scale = run.learning_rates, float(run.opt_state[-1].scale)
    assert rates[0] == np.float32(0.01) and (np.diff(rates) <= 0).all()
    assert 1 < len(set(rates.tolist())) == int(run.opt_state[-1].reductions) + 1
    assert rates[-1] == pytest.approx(0.01 * scale)
    assert np.mean(run.losses[-50:]) < np.mean(run.losses[:50])
