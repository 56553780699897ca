"""Wrappers: what they do to the transformation inside, beside Optax where it is right."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.problems import gradients, nested_params

PARAMS = {"w": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
MASK = {"w": True, "b": False}


def path(tx, params, grads, **extra):
    """All the updates, and the last state."""
    state, seen = tx.init(params), []
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params, **extra)
        seen.append(updates)
    return jax.tree.map(lambda *u: np.stack(u), *seen), state


# ours beside Optax's, of the same arguments
PAIRS = {
    "masked": lambda m: m.masked(m.adam(0.1), MASK),
    "masked, prefix": lambda m: m.masked(m.trace(0.9), True),
    "masked, function": lambda m: m.masked(m.sgd(0.1), lambda p: {"w": False, "b": True}),
    "partition": lambda m: m.partition({"a": m.adam(0.1), "b": m.sgd(0.5)}, {"w": "a", "b": "b"}),
    "partition, function": lambda m: m.multi_transform({1: m.sgd(0.1), 2: m.sgd(0.5)}, lambda p: {"w": 1, "b": 2}),
    "freeze": lambda m: (m if m is L else optax.transforms).freeze({"w": True, "b": False}),
    "selective": lambda m: (m if m is L else optax.transforms).selective_transform(m.sgd(0.1), freeze_mask=MASK),
    "conditionally_transform": lambda m: m.conditionally_transform(m.sgd(0.1, momentum=0.9), lambda t: t % 3 == 1),
    "conditionally_mask": lambda m: m.conditionally_mask(m.sgd(0.1, momentum=0.9), lambda t: t % 3 == 1),
    "apply_if_finite": lambda m: m.apply_if_finite(m.adam(0.1), 2),
    "MultiSteps": lambda m: m.MultiSteps(m.adam(0.1), 3).gradient_transformation(),
    "MultiSteps, sum": lambda m: m.MultiSteps(m.sgd(0.1), 2, use_grad_mean=False).gradient_transformation(),
    "MultiSteps, growing": lambda m: m.MultiSteps(m.sgd(0.1), lambda n: n + 1).gradient_transformation(),
    "apply_every": lambda m: m.apply_every(3),
    "flatten": lambda m: m.flatten(m.lamb(0.1)),
    "set_to_zero": lambda m: m.set_to_zero(),
    "stateless": lambda m: m.stateless(lambda u, p: jax.tree.map(lambda a, b: a + b, u, p)),
    "stateless_with_tree_map": lambda m: m.stateless_with_tree_map(lambda u, p: u * p),
    "keep_params_nonnegative": lambda m: m.chain(m.scale(5.0), m.keep_params_nonnegative()),
    "zero_nans": lambda m: m.zero_nans(),
    "add_noise": lambda m: m.add_noise(0.1, 0.5, 7),
    "centralize": lambda m: m.centralize(),
    "normalize_by_update_norm": lambda m: m.normalize_by_update_norm(0.5),
    "clip_by_block_rms": lambda m: m.clip_by_block_rms(0.5),
    "adaptive_grad_clip": lambda m: m.adaptive_grad_clip(0.1),
    "adaptive_grad_clip, axis": lambda m: m.adaptive_grad_clip(0.1, axis=0),
    "snapshot": lambda m: m.snapshot("first", lambda u: u["w"][0]),
    "add_decayed_weights, schedule": lambda m: m.add_decayed_weights(m.linear_schedule(1.0, 0.0, 10)),
    "weight decay, scheduled": lambda m: m.adamw(0.1, weight_decay=m.linear_schedule(1.0, 0.0, 10)),
    "scale_by_trust_ratio": lambda m: m.scale_by_trust_ratio(0.1, 0.5, 0.1),
}
GRADS = [{"w": jnp.asarray(g[:2], jnp.float32), "b": jnp.asarray(g[2:], jnp.float32)} for g in
         np.random.default_rng(0).normal(size=(12, 3))]  # fmt: skip


# where one nan makes all later updates of Optax nan
STAY_BAD = ("MultiSteps", "MultiSteps, sum", "MultiSteps, growing", "apply_every")
WITH_NANS = [(name, bad) for name in PAIRS for bad in (False, True) if not (bad and name in STAY_BAD)]


@pytest.mark.sampled(24)
@pytest.mark.promotes
@pytest.mark.parametrize(("name", "bad"), WITH_NANS)
def test_agrees_with_optax(name, bad):
    make = PAIRS[name]
    grads = [jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), g) if bad and i == 5 else g for i, g in enumerate(GRADS)]
    ours, our_state = path(make(L), PARAMS, grads)
    theirs, their_state = path(make(optax), PARAMS, grads)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), ours, theirs)
    if type(our_state).__name__ not in ("tuple", "PartitionState", "MultiStepsState", "dict"):
        assert type(our_state).__name__ in (type(their_state).__name__, "EmptyState")


STATES = {**PAIRS, "monitor": lambda m: m.monitor({"n": m.global_norm, "e": m.measure_with_ema(m.global_norm, 0.9)}),
          "inject": lambda m: m.inject_hyperparams(m.adam)(m.cosine_decay_schedule(0.1, 10)),
          "packed": lambda m: m.packed(m.adamw(0.1)), "finite": lambda m: m.apply_if_finite(m.adam(0.1))}  # fmt: skip


@pytest.mark.sampled(56)
@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_is_a_carry_and_the_transformation_a_value(make, dtype):
    tx, params = make(L), jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    state = tx.init(params)
    updates, new_state = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    jitted, _ = jax.jit(tx.update)(params, state, params)
    chex.assert_trees_all_close(jitted, updates, rtol=2e-2 if dtype == "bfloat16" else 1e-6)
    _, stacked = jax.lax.scan(lambda s, _: tx.update(params, s, params)[::-1], state, length=3)
    jax.tree.map(lambda p, u: chex.assert_shape(u, (3, *p.shape)), params, stacked)
    assert repr(tx).startswith(type(tx).__name__) and hash(tx) == hash(tx) and tx == tx


# What Optax does wrong.


def test_a_wrong_label_is_named():
    for labels in ({"w": "a", "b": "c"}, lambda p: {"w": "a", "b": "c"}):
        with pytest.raises(ValueError, match=r"partition: `param_labels` must be of \['a', 'b'\], got \['c'\]"):
            L.partition({"a": L.sgd(0.1), "b": L.sgd(0.1)}, labels).init(PARAMS)
    unused = L.partition({"a": L.sgd(0.1), "b": L.sgd(0.1)}, {"w": "a", "b": "a"})
    assert unused.update(PARAMS, unused.init(PARAMS))[0]["w"].shape == PARAMS["w"].shape
    with pytest.raises(ValueError, match="`transforms` must be a dict from labels, all of one type"):
        L.partition({"a": L.sgd(0.1), 1: L.sgd(0.1)}, {"w": "a", "b": 1})


def test_a_mask_of_another_structure_is_named():
    for mask in ({"w": True}, {"w": True, "b": {"x": True}}):
        with pytest.raises(ValueError, match="masked: `mask` must be a tree like the parameters"):
            L.masked(L.sgd(0.1), mask).init(PARAMS)
    with pytest.raises(ValueError, match="`mask` must"):
        L.masked(L.sgd(0.1), {"w": 1, "b": 0})
    with pytest.raises(ValueError, match="masked: `mask` must return a tree of bools"):
        L.masked(L.sgd(0.1), lambda p: {"w": 1, "b": 0}).init(PARAMS)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_a_bad_number_of_steps_is_named(k):
    with pytest.raises(ValueError, match="MultiSteps: `every_k_schedule` must be a whole number"):
        L.MultiSteps(L.sgd(0.1), k)


@pytest.mark.parametrize("k", [2, np.int64(2), jnp.int32(2)])
def test_any_integer_is_a_number_of_steps(k):
    updates, state = path(L.MultiSteps(L.sgd(1.0), k), PARAMS, GRADS[:2])
    expected = -(GRADS[0]["w"] + GRADS[1]["w"]) / 2
    np.testing.assert_allclose(updates["w"], [[0, 0], expected], rtol=1e-6)
    assert isinstance(L.MultiSteps(L.sgd(1.0), k), L.GradientTransformation)
    assert bool(L.MultiSteps(L.sgd(1.0), k).has_updated(state))


def test_the_inner_update_runs_only_when_due():
    seen = []

    def count(updates, params):
        jax.debug.callback(lambda: seen.append(1))
        return updates

    tx = L.MultiSteps(L.chain(L.stateless(count), L.sgd(0.1)), 4)
    path(tx, PARAMS, GRADS[:8])
    jax.effects_barrier()
    assert len(seen) == 2


def test_extra_arguments_are_averaged_over_the_micro_batches():
    seen = []

    def inner(updates, state, params=None, *, value, note, **extra):
        jax.debug.callback(lambda v, n: seen.append((float(v), float(n))), value, note)
        return updates, state

    tx = L.MultiSteps(L.GradientTransformationExtraArgs(lambda p: (), inner), 2)
    state = tx.init(PARAMS)
    for value in (1.0, 100.0, 3.0, 5.0):
        _, state = tx.update(PARAMS, state, PARAMS, value=jnp.float32(value), note=jnp.float32(value))
    jax.effects_barrier()
    assert seen == [(50.5, 100.0), (4.0, 5.0)]


def test_a_skipped_gradient_has_never_come():
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), GRADS[0])
    tx = L.MultiSteps(L.sgd(1.0), 2, should_skip_update_fn=L.skip_not_finite)
    updates, state = path(tx, PARAMS, [GRADS[0], bad, GRADS[1]])
    np.testing.assert_allclose(updates["w"][2], -(GRADS[0]["w"] + GRADS[1]["w"]) / 2, rtol=1e-6)
    assert not updates["w"][:2].any() and int(state.gradient_step) == 1
    large = functools.partial(L.skip_large_updates, max_squared_norm=1e-9)
    _, state = path(L.MultiSteps(L.sgd(1.0), 1, should_skip_update_fn=large), PARAMS, GRADS[:3])
    assert int(state.gradient_step) == 0 and bool(state.skip_state["should_skip"])


@pytest.mark.parametrize("tx", [L.MultiSteps(L.sgd(1.0), 2), L.apply_every(2)], ids=["MultiSteps", "apply_every"])
def test_a_nan_goes_with_its_update(tx):
    grads = [jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADS[0]), *GRADS[:3]]
    updates, _ = path(tx, PARAMS, grads)
    assert np.isnan(updates["w"]).any(axis=1).tolist() == [False, True, False, False]


def test_apply_if_finite_gives_up_only_where_told():
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADS[0])
    never, state = path(L.apply_if_finite(L.sgd(1.0)), PARAMS, [bad] * 10)
    assert not never["w"].any() and int(state.total_notfinite) == 10
    given_up, _ = path(L.apply_if_finite(L.sgd(1.0), 2), PARAMS, [bad] * 4)
    assert np.isnan(given_up["w"]).any(axis=1).tolist() == [False, False, True, True]


def test_lookahead_is_the_papers_algorithm():
    tx, rng = L.lookahead(L.sgd(0.1), sync_period=3, slow_step_size=0.5), np.random.default_rng(0)
    params = L.LookaheadParams.init_synced(jnp.ones(2))
    fast = slow = np.ones(2)
    state = tx.init(params)
    for t in range(1, 11):
        g = rng.normal(size=2)
        updates, state = tx.update(jnp.asarray(g, jnp.float32), state, params)
        params = L.apply_updates(params, updates)
        fast = fast - 0.1 * g
        if t % 3 == 0:
            fast = slow = slow + 0.5 * (fast - slow)
        np.testing.assert_allclose(params.fast, fast, rtol=1e-5)
        np.testing.assert_allclose(params.slow, slow, rtol=1e-5)
    with pytest.raises(ValueError, match="lookahead: `params` must be LookaheadParams, got dict"):
        tx.init(PARAMS)
    reset = L.lookahead(L.sgd(0.1, momentum=0.9), 1, 0.5, reset_state=True)
    _, state = reset.update(jnp.ones(2), reset.init(params), params)
    assert not state.fast_state[0].trace.any()


def test_averages_of_parameters():
    new, old = {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.zeros(2)}
    assert L.incremental_update(new, old, 0.25)["w"].tolist() == [0.25, 0.25]
    assert L.periodic_update(old, new, 3, 2)["w"].tolist() == [1, 1]
    assert L.periodic_update(old, new, jnp.int32(4), 2)["w"].tolist() == [0, 0]


def test_per_example_clipping_bounds_every_example():
    grads = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32), "b": jnp.ones((6, 2))}
    total, clipped = L.per_example_global_norm_clip(grads, 1.5)
    rows = np.concatenate([grads["a"], grads["b"]], axis=1)
    norms = np.linalg.norm(rows, axis=1)
    expected = (rows * np.minimum(1, 1.5 / norms)[:, None]).sum(0)
    np.testing.assert_allclose(np.concatenate([total["a"], total["b"]]), expected, rtol=1e-5)
    assert int(clipped) == (norms > 1.5).sum()
    for uniform in (True, False):
        ours, theirs = (m.per_example_layer_norm_clip(list(grads.values()), 1.5, uniform) for m in (L, optax))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, theirs)
    for bad in ({"a": jnp.ones(())}, {"a": jnp.ones((2, 2)), "b": jnp.ones((3, 2))}):
        with pytest.raises(ValueError, match="`grads` must have one first axis"):
            L.per_example_global_norm_clip(bad, 1.0)
    assert not np.isnan(L.per_example_global_norm_clip(jnp.zeros((2, 2)), 1.0)[0]).any()


# Rates for groups of parameters.


def test_a_tree_of_rates_gives_each_parameter_its_own():
    params = {"encoder": {"w": jnp.ones(2), "b": jnp.ones(1)}, "head": jnp.ones(2)}
    tx = L.sgd({"encoder": 1e-4, "head": L.linear_schedule(1.0, 0.0, 2)})
    updates, state = path(tx, params, [params] * 2)
    np.testing.assert_allclose(updates["encoder"]["w"], -1e-4 * np.ones((2, 2)))
    np.testing.assert_allclose(updates["head"], [[-1, -1], [-0.5, -0.5]])
    rates = L.get_learning_rate(state)
    assert float(rates["head"]) == 0.5 and float(rates["encoder"]["b"]) == pytest.approx(1e-4)
    adam = L.adam({"encoder": 1e-4, "head": 1e-3})
    assert L.adam({"encoder": 1e-4, "head": 1e-3}) == adam and hash(adam) == hash(
        L.adam({"encoder": 1e-4, "head": 1e-3})
    )
    with pytest.raises(ValueError, match="`learning_rate` must be a tree like the parameters, or a prefix"):
        L.sgd({"encoder": 1e-4}).init(params)
    with pytest.raises(ValueError, match="sgd: `learning_rate` must be"):
        L.sgd({"encoder": -1.0})


def test_rules_on_paths():
    params = {"layers": [{"kernel": jnp.ones(1), "bias": jnp.ones(1)}] * 2}
    by_pattern = L.by_path({r"layers/0/.*kernel": 0.5, "bias$": L.constant_schedule(0.25), "": 0.125})
    by_function = L.by_path(lambda path: 0.25 if path.endswith("bias") else 0.5 if "/0/" in path else 0.125)
    expected = {"layers": [{"kernel": 0.5, "bias": 0.25}, {"kernel": 0.125, "bias": 0.25}]}
    for rule in (by_pattern, by_function):
        state = L.adam(rule).init(params)
        assert jax.tree.map(float, L.get_learning_rate(state)) == expected
        updates, _ = L.sgd(rule).update(params, L.sgd(rule).init(params), params)
        assert jax.tree.map(lambda u: -float(u[0]), updates) == expected
    with pytest.raises(
        ValueError, match="by_path: `rates` must have a rate for every parameter, got none for 'layers/0"
    ):
        L.sgd(L.by_path({"head": 0.1})).init(params)
    with pytest.raises(ValueError, match="by_path: `rates` must be a dict from regular expressions"):
        L.by_path({"(": 0.1})


def test_layerwise_rates_fall_towards_the_input():
    params = {"wte": jnp.ones(1), "h_0": jnp.ones(1), "h_1": jnp.ones(1), "ln_f": jnp.ones(1)}
    rates = L.layerwise_learning_rates(params, 1.0, 0.5)
    assert rates == {"wte": 0.125, "h_0": 0.25, "h_1": 0.5, "ln_f": 1.0}
    state = L.adamw(L.layerwise_learning_rates(params, L.linear_schedule(1.0, 0.0, 2), 0.5)).init(params)
    assert jax.tree.map(float, L.get_learning_rate(state)) == rates
    own = L.layerwise_learning_rates(params, 1.0, 0.1, layer_of=lambda path: 0 if path == "wte" else None)
    assert own == {"wte": pytest.approx(0.1), "h_0": 1.0, "h_1": 1.0, "ln_f": 1.0}
    for decay in (0, 1.5, None):
        with pytest.raises(ValueError, match="`decay` must be"):
            L.layerwise_learning_rates(params, 1.0, decay)


# Packing.


def many(n=70, dtype="float32"):
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {f"p{i}": make(3, 2) if i % 3 else make(4) for i in range(n)} | {"big": make(200, 100), "one": make()}


PACKED = [
    L.chain(L.clip_by_global_norm(1.0), L.adamw(1e-2)),
    L.sgd(0.1, momentum=0.9),
    L.lion(L.cosine_decay_schedule(1e-2, 50)),
    L.named_chain(("norm", L.normalize_by_update_norm()), ("madgrad", L.madgrad(0.1))),
]


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("inner", PACKED, ids=lambda tx: type(tx).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_updates_are_the_same(inner, dtype):
    params = many(dtype=dtype)
    grads, tx = gradients(params, 20), L.packed(inner)
    expected, plain_state = path(inner, params, grads)
    updates, state = path(tx, params, grads)
    rtol = 1e-5 if dtype == "float32" else 2e-2
    chex.assert_trees_all_close(updates, expected, rtol=rtol, atol=1e-6)
    unpacked = L.unpack_state(state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(unpacked, plain_state)
    chex.assert_trees_all_close(unpacked, plain_state, rtol=rtol, atol=1e-6)
    chex.assert_trees_all_equal(L.pack_state(tx, unpacked, params), state)


def test_packed_joins_the_small_arrays():
    state = L.packed(L.trace(0.9)).init(many())
    shapes = sorted(a.shape for a in state.inner_state.trace.arrays)
    assert shapes == [(), (14, 3, 2), (24, 4), (32, 3, 2), (200, 100)]


@pytest.mark.parametrize(
    "inner",
    [
        L.lamb(0.1),
        L.adamw(0.1, mask=True),
        L.sgd({"a": 0.1}),
        L.masked(L.sgd(0.1), True),
        optax.sgd(0.1),
        L.adafactor(),
    ],
)
def test_packed_refuses_what_looks_at_single_arrays(inner):
    with pytest.raises(ValueError, match="packed: `inner` must be a transformation without masks"):
        L.packed(inner)


def test_packed_names_what_does_not_fit():
    params, tx = {"a": jnp.ones(2), "b": jnp.ones(2)}, L.packed(L.sgd(0.1))
    state = tx.init(params)
    with pytest.raises(ValueError, match="an array for every parameter"):
        tx.update({"a": None, "b": jnp.ones(2)}, state, params)
    with pytest.raises(ValueError, match="the dtypes of `params`"):
        tx.update({"a": jnp.ones(2), "b": jnp.ones(2, "bfloat16")}, state, params)


@pytest.mark.slow
def test_packed_has_fewer_operations():
    if jax.default_backend() != "cpu":
        pytest.skip("what XLA makes of it differs: on a GPU as many fusions, which take less time")
    params = many(100)
    text = lambda tx: jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text().count(" fusion(")
    assert text(L.packed(L.adam(0.1))) < 0.6 * text(L.adam(0.1))


def test_nested_trees_in_wrappers():
    params = nested_params()
    tx = L.partition({"a": L.adam(0.1), "b": L.MultiSteps(L.sgd(0.1), 2)}, {"layers": "a", "scale": "b"})
    updates, state = path(tx, params, gradients(params, 4))
    assert not updates["scale"][::2].any() and updates["scale"][1::2].all()
    assert set(L.get_learning_rate(state)) == {"a", "b"}
