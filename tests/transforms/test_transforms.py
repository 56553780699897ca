"""Transforms and chains: what they do to trees, dtypes and odd leaves, and what they refuse."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from tests.problems import nested_params

TRANSFORMS = {
    "identity": L.identity(),
    "scale": L.scale(-0.5),
    "scale_by_learning_rate": L.scale_by_learning_rate(0.1),
    "scale_by_schedule": L.scale_by_schedule(L.linear_schedule(1.0, 0.5, 50)),
    "trace": L.trace(0.9),
    "ema": L.ema(0.9),
    "scale_by_rss": L.scale_by_rss(),
    "scale_by_rms": L.scale_by_rms(),
    "scale_by_stddev": L.scale_by_stddev(),
    "scale_by_adam": L.scale_by_adam(),
    "scale_by_amsgrad": L.scale_by_amsgrad(),
    "add_decayed_weights": L.add_decayed_weights(0.1),
    "clip": L.clip(0.5),
    "clip_by_global_norm": L.clip_by_global_norm(0.5),
    "chain": L.chain(L.clip(0.5), L.ema(0.5), L.scale(-1)),
    "named_chain": L.named_chain(("clip", L.clip(0.5)), ("adam", L.adam(0.1))),
}


@pytest.mark.parametrize("tx", TRANSFORMS.values(), ids=TRANSFORMS)
class TestEveryTransform:
    @pytest.mark.sampled(8)
    @pytest.mark.parametrize("params", [{}, (), {"a": None}, {"a": {}, "b": []}], ids=repr)
    def test_empty_trees(self, tx, params):
        updates, state = tx.update(params, tx.init(params), params)
        assert updates == params and jax.tree.structure(state) == jax.tree.structure(tx.init(params))

    def test_a_scalar_leaf(self, tx):
        updates, _ = tx.update(jnp.float32(2.0), tx.init(jnp.float32(1.0)), jnp.float32(1.0))
        assert updates.shape == () and np.isfinite(updates)

    def test_a_leaf_without_a_gradient_stays(self, tx):
        params = {"a": jnp.ones(2), "b": jnp.ones(3)}
        grads = {"a": jnp.ones(2), "b": None}
        state = tx.init(params)
        updates, new_state = tx.update(grads, state, params)
        assert updates["b"] is None and updates["a"].shape == (2,)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)

    def test_none_leaves_of_both_stay(self, tx):
        params = {"a": jnp.ones(2), "b": None}
        updates, _ = tx.update(params, tx.init(params), params)
        assert updates["b"] is None

    @pytest.mark.sampled(12)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_dtypes_stay(self, tx, dtype):
        params = nested_params(dtype)
        state = tx.init(params)
        updates, new_state = tx.update(params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)

    @pytest.mark.sampled(8)
    def test_narrow_gradients_of_wide_parameters_keep_the_state_wide(self, tx):
        params = nested_params()
        state = tx.init(params)
        _, new_state = tx.update(jax.tree.map(lambda p: p.astype("bfloat16"), params), state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)

    def test_a_count_at_the_last_step_stays(self, tx):
        params = jnp.ones(2)
        last = jax.tree.map(lambda s: jnp.full_like(s, 2**31 - 1) if s.dtype == jnp.int32 else s, tx.init(params))
        updates, state = tx.update(params, last, params)
        assert np.isfinite(updates).all()
        assert all(s == 2**31 - 1 for s in jax.tree.leaves(state) if s.dtype == jnp.int32)


class TestChexVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_adam_steps_by_its_rate_at_first(self):
        tx = L.adam(0.5)
        updates, _ = self.variant(tx.update)(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
        np.testing.assert_allclose(updates, [-0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize("rate", [3e-4, np.float32(3e-4), np.float64(3e-4), jnp.float32(3e-4)])
def test_the_rate_is_not_rounded_to_bfloat16(rate):
    tx, g = L.sgd(rate), jnp.full(1000, 3.0, jnp.bfloat16)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16
    assert updates[0] == jnp.asarray(-9e-4, jnp.bfloat16)  # rounded once, after the product
    assert L.get_learning_rate(state) == np.float32(3e-4)


def test_hyperparameters_do_not_follow_the_parameters_into_bfloat16():
    tx, p = L.scale_by_adam(b2=0.999), jnp.ones(3, jnp.bfloat16)
    state = tx.init(p)
    _, state = tx.update(p, state, p)
    assert state.nu[0] == jnp.asarray(1e-3, jnp.bfloat16)  # in bfloat16 0.999 is 1: nu would stay 0


def test_mu_dtype_is_that_of_the_first_moment():
    tx = L.adam(0.1, mu_dtype=jnp.bfloat16)
    state = tx.init(jnp.ones(3))
    assert state[0].mu.dtype == jnp.bfloat16 and state[0].nu.dtype == jnp.float32
    updates, state = tx.update(jnp.ones(3), state)
    assert state[0].mu.dtype == jnp.bfloat16 and updates.dtype == jnp.float32


@pytest.mark.parametrize(
    "mask",
    [
        {"a": True, "b": {"c": False, "d": True}},
        lambda p: {"a": True, "b": {"c": False, "d": True}},
    ],
)
def test_a_mask_decays_only_where_it_is_true(mask):
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
    tx = L.add_decayed_weights(0.5, mask)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert [float(u[0]) for u in jax.tree.leaves(updates)] == [0.5, 0.0, 0.5]


def test_a_mask_may_be_a_prefix_of_the_tree():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
    updates, _ = L.add_decayed_weights(0.5, {"a": False, "b": True}).update(params, L.EmptyState(), params)
    assert [float(u[0]) for u in jax.tree.leaves(updates)] == [1.0, 1.5, 1.5]


def test_decay_needs_parameters():
    with pytest.raises(ValueError, match="add_decayed_weights: `params` must be given"):
        L.adamw(0.1).update(jnp.ones(2), L.adamw(0.1).init(jnp.ones(2)))


PARAMS = {"a": {"w": jnp.ones((2, 3))}, "b": jnp.ones(3)}


@pytest.mark.parametrize(
    ("updates", "where"),
    [
        ({"a": {"v": jnp.ones((2, 3))}, "b": jnp.ones(3)}, "'v'"),
        ({"a": {"w": jnp.ones((2, 4))}, "b": jnp.ones(3)}, "a/w"),
        ({"a": {"w": jnp.ones((2, 3))}}, "'b'"),
        ([jnp.ones((2, 3)), jnp.ones(3)], r"\["),
    ],
)
@pytest.mark.parametrize("with_params", [True, False])
def test_updates_that_do_not_agree_are_shown(updates, where, with_params):
    tx = L.adam(0.1)
    with pytest.raises(ValueError, match=rf"`updates` must have the structure and shapes of [^$]*{where}"):
        tx.update(updates, tx.init(PARAMS), PARAMS if with_params else None)


@pytest.mark.parametrize("tx", [L.sgd(0.1), L.adam(0.1), L.clip_by_block_rms(0.5)], ids=repr)
def test_integer_updates_give_the_numbers_of_floats(tx):
    g = jnp.array([3, -4])
    updates, _ = tx.update(g, tx.init(g))
    expected, _ = tx.update(g.astype(float), tx.init(g.astype(float)))
    np.testing.assert_array_equal(updates, expected)


@pytest.mark.promotes  # a real rate times a complex gradient
def test_complex_updates_of_real_parameters_are_refused():
    params, g = jnp.ones(2), jnp.full(2, 1j)  # Optax drops the imaginary part, with a warning
    for call in (
        lambda: L.sgd(0.1).update(g, L.sgd(0.1).init(params), params),
        lambda: L.adam(0.1).update(g, L.adam(0.1).init(params)),
        lambda: L.apply_updates(params, g),
    ):
        with pytest.raises(TypeError, match="`updates` must be real where the parameters are, got complex64"):
            call()


def test_a_state_of_another_length_is_named():
    tx = L.chain(L.clip(1.0), L.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"chain: `state` must hold 2 states, .* got 0. Create it with `init\(params\)`"
    ):
        tx.update(jnp.ones(2), ())
    with pytest.raises(ValueError, match="scale_by_learning_rate: `state` must be a LearningRateState, got EmptyState"):
        tx.update(jnp.ones(2), (L.EmptyState(), (L.EmptyState(), L.EmptyState())))


@pytest.mark.parametrize("state", [{"clip": 0}, {"clip": 0, "adam": 0}, (0, 0)], ids=repr)
def test_a_state_of_other_names_is_named(state):
    tx = L.named_chain(("clip", L.clip(1.0)), ("sgd", L.sgd(0.1)))
    with pytest.raises(
        ValueError, match=r"named_chain: `state` must be a dict of the states of \['clip', 'sgd'\], got"
    ):
        tx.update(jnp.ones(2), state)


def test_the_empty_chain_is_the_identity():
    tx = L.chain()
    chex.assert_trees_all_equal(tx.update(PARAMS, tx.init(PARAMS)), (PARAMS, ()))


def test_a_named_chain_does_what_the_chain_does():
    parts = {"clip": L.clip(0.5), "adam": L.adam(0.1)}
    named, plain = L.named_chain(*parts.items()), L.chain(*parts.values())
    updates, state = named.update(PARAMS, named.init(PARAMS))
    expected, plain_state = plain.update(PARAMS, plain.init(PARAMS))
    chex.assert_trees_all_equal(updates, expected)
    assert set(state) == {"clip", "adam"}
    chex.assert_trees_all_equal((state["clip"], state["adam"]), plain_state)


def test_apply_updates():
    params = {"w": jnp.ones(2, jnp.bfloat16), "frozen": jnp.ones(1), "none": None}
    new = L.apply_updates(params, {"w": jnp.full(2, 0.5), "frozen": None, "none": None})
    assert new["w"].dtype == jnp.bfloat16 and new["w"].tolist() == [1.5, 1.5]
    assert new["frozen"] is not None and new["none"] is None
    with pytest.raises(ValueError, match="apply_updates: .*'w': shapes"):
        L.apply_updates({"w": jnp.ones(())}, {"w": jnp.ones(2)})  # Optax broadcasts
    with pytest.raises(TypeError, match="apply_updates: `params` must be floating"):
        L.apply_updates({"w": jnp.ones(2, int)}, {"w": jnp.ones(2)})  # Optax truncates


def test_clip_by_global_norm_measures_narrow_floats_in_float32():
    g = jnp.full(10_000, 100.0, jnp.float16)  # the squares add up to more than float16 holds
    updates, _ = L.clip_by_global_norm(1.0).update(g, L.EmptyState())
    np.testing.assert_allclose(updates[0], 0.01, rtol=1e-3)


def test_a_variance_is_never_negative():
    g = jnp.full(8, 1.2345678)
    tx = L.scale_by_stddev(decay=0.0, eps=1e-8, eps_in_sqrt=False)
    updates, _ = tx.update(g, tx.init(g))
    assert np.isfinite(updates).all()


def test_an_eager_update_is_one_compiled_call_for_all_numbers(compilations):
    tx = L.chain(L.clip_by_global_norm(1.0), L.adamw(L.cosine_decay_schedule(0.1, 10)))
    params = {"w": jnp.ones((7, 5)), "b": jnp.ones(11)}
    state = tx.init(params)
    compilations.clear()
    updates, state = tx.update(params, state, params)
    assert compilations == ["jit(chain)"]
    L.with_hyperparams(tx, init_value=0.5, b1=0.5, max_norm=2.0).update(updates, state, params)
    assert compilations == ["jit(chain)"]


@pytest.mark.parametrize(
    "tx", [L.adam(1e-3), L.chain(L.clip_by_global_norm(1.0), L.adamw(1e-3))], ids=["adam", "chain"]
)
def test_nested_in_a_callers_jit_the_update_adds_no_work(tx):
    params = nested_params()
    state = tx.init(params)

    def opcodes(update):
        text = jax.jit(lambda g, s, p: update(g, s, p)).lower(params, state, params).compile().as_text()
        return sorted(re.findall(r" = (?:\([^)]*\)|\S+) ([\w-]+)\(", text))

    nested = opcodes(tx.update)
    plain = opcodes(lambda g, s, p: type(tx)._update(tx, g, s, p, {}))
    assert nested == plain and len(plain) > 10


def test_a_function_among_the_leaves_falls_back_to_python():
    params = {"w": jnp.ones(2), "activation": jnp.tanh}
    grads = {"w": jnp.ones(2), "activation": None}
    tx = L.adam(0.1)
    updates, _ = tx.update(grads, tx.init({"w": jnp.ones(2), "activation": None}), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)
    assert L.apply_updates(params, updates)["activation"] is jnp.tanh


def test_a_users_transformation_and_optimizer():
    @L.transformation(lambda params, tx: L.EmptyState())
    def flip(updates, state, params, value=1.0, **extra_args):
        return jax.tree.map(lambda g: -g * extra_args.get("boost", 1.0), updates), state

    @L.optimizer
    def flipped_sgd(learning_rate: L.ScalarOrSchedule):
        return L.chain(flip(), L.scale_by_learning_rate(learning_rate))

    tx = flipped_sgd(0.5)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), boost=4.0)
    assert updates.tolist() == [2.0, 2.0] and repr(tx) == "flipped_sgd(learning_rate=0.5)"
    assert tx.transforms[1] == L.scale_by_learning_rate(0.5)
