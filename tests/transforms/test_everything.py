"""What holds for every public optimizer and transformation."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.everything import CLASSES, EVERYTHING, extra_args, for_matrices, params_of
from tests.transforms.cases import CASES

pytestmark = pytest.mark.usefixtures("quick_compilation")
each = pytest.mark.parametrize("name", EVERYTHING)
# what is a part of an optimizer is tested with it
OPTIMIZERS = [name for name in EVERYTHING if not name.startswith("scale_by_")]
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def test_every_public_transformation_has_a_row():
    assert set(CASES) == set(CLASSES)


@pytest.mark.slow
def test_on_meshes_and_inside_of_shard_map():
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tests.transforms.sharded"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quick)
    assert done.stdout.strip() == "sharded 8", done.stderr


def small_params():
    return {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(2), "s": jnp.ones(())}


@each
def test_no_array_is_twice_in_parameters_and_state(name):
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, small_params())
    leaves = jax.tree.leaves((params, tx.init(params)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size}) == len([x for x in leaves if x.size])


@pytest.mark.sampled(28)
@each_optimizer
def test_parameters_and_state_may_be_donated(name):
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, small_params())
    grads, state = small_params(), tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, **extra_args(name))
        return params if name in ("measured", "measure_with_ema") else L.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(2):
        params, state = donating(params, state, grads)


NONES = {
    "both": ({"a": 1, "b": None}, {"a": 1, "b": None}),
    "updates": ({"a": 1, "b": None}, {"a": 1, "b": 1}),
    "params": ({"a": 1, "b": 1}, {"a": 1, "b": None}),
}


@pytest.mark.sampled(48)
@each_optimizer
@pytest.mark.parametrize("where", NONES)
def test_none_leaves(name, where):
    make = lambda tree: {k: None if x is None else jnp.full((2, 2), 0.5) for k, x in tree.items()}
    grads, params = map(make, NONES[where])
    tx = EVERYTHING[name]
    state = tx.init(params_of(name, params))
    if name == "packed" and where == "updates":
        with pytest.raises(ValueError, match="must have an array for every parameter"):
            tx.update(grads, state, params)
        return
    for _ in range(3):
        updates, new_state = tx.update(grads, state, params_of(name, params), **extra_args(name))
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        state = new_state
    if name in ("measured", "measure_with_ema"):
        return
    for key, update in (updates.fast if name == "lookahead" else updates).items():
        if grads[key] is None and params[key] is None:
            assert update is None
        elif update is not None:
            assert update.shape == (2, 2) and np.isfinite(update).all()


@pytest.mark.sampled(48)
@each_optimizer
@pytest.mark.parametrize(("kind", "dtype"), [("float0", "int32"), ("zeros", "int32"), ("ones", "bool")])
def test_integer_leaves(name, kind, dtype):
    odd = jnp.arange(2).astype(dtype)
    params = {"w": jnp.full((2, 2), 0.5), "i": odd}
    make = {"float0": lambda: np.zeros(2, jax.dtypes.float0), "zeros": lambda: jnp.zeros_like(odd),
            "ones": lambda: jnp.ones_like(odd)}[kind]  # fmt: skip
    grads = {"w": params["w"], "i": make()}
    tx = for_matrices(name, EVERYTHING[name])
    state = tx.init(params_of(name, params))
    if name == "packed" and kind == "float0":
        pytest.skip("has no gradients for some")
    for _ in range(3):
        updates, new_state = tx.update(grads, state, params_of(name, params), **extra_args(name))
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        state = new_state
    if name in ("measured", "measure_with_ema"):
        return
    update = (updates.fast if name == "lookahead" else updates)["i"]
    if kind == "float0":
        L.apply_updates(params_of(name, params), updates)
    if kind == "float0" or name.startswith("hutchinson"):
        assert update is None or not update.any()
    else:
        assert update.shape == (2,) and np.isfinite(update).all()


@each
def test_init_takes_integers_alone_and_abstract_parameters(name):
    tx, params = EVERYTHING[name], params_of(name, {"i": jnp.arange(2), "b": jnp.array([True])})
    state = tx.init(params)
    abstract = jax.eval_shape(tx.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, jax.eval_shape(lambda: state))


@pytest.mark.sampled(4)
@each
@pytest.mark.promotes
def test_optaxs_tools_work_on_the_state(name):
    tx, params = EVERYTHING[name], params_of(name, {"w": jnp.ones((2, 2)), "v": jnp.ones((2, 2))})
    state = tx.init(params)
    mapped = optax.tree_map_params(tx, lambda x: x, state)
    jax.tree.map(np.testing.assert_array_equal, mapped, state)
    optax.tree_map_params(tx.init, lambda x: x, state, transform_non_params=lambda x: x)
    paths = jax.tree_util.tree_leaves_with_path(state)
    for key in {entry.name for path, _ in paths for entry in path if isinstance(entry, jax.tree_util.GetAttrKey)}:
        for _, found in optax.tree_utils.tree_get_all_with_path(state, key):
            assert jax.tree.structure(found) is not None
        changed = optax.tree_utils.tree_set(state, **{key: 0})
        assert all(found == 0 for _, found in optax.tree_utils.tree_get_all_with_path(changed, key))


W = {"w": True, "v": False}
MASKED = {
    "masked": lambda m: m.masked(m.adam(0.1), W),
    "masked by a function": lambda m: m.masked(m.adam(0.1), lambda params: W),
    "freeze": lambda m: m.chain(m.adam(0.1), m.transforms.freeze(W) if m is optax else m.freeze(W)),
    "selective": lambda m: (m.transforms if m is optax else m).selective_transform(m.adam(0.1), freeze_mask=W),
    "partition": lambda m: m.partition({"a": m.adam(0.1), "b": m.sgd(0.1, 0.9)}, {"w": "a", "v": "b"}),
    "partition by a function": lambda m: m.partition({"a": m.adam(0.1)}, lambda params: {"w": "a", "v": "a"}),
    "rates": lambda m: m.sgd({"w": 0.1, "v": 0.2} if m is L else 0.1, momentum=0.9),
    "decay": lambda m: m.adamw(0.1, mask=W),
    "MultiSteps": lambda m: m.MultiSteps(m.masked(m.adam(0.1), W), 2),
}


@pytest.mark.promotes
@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_specs_of_the_parameters_are_mapped_over_the_state(make):
    params, specs = {"w": jnp.ones((2, 2)), "v": jnp.ones(2)}, {"w": "spec w", "v": "spec v"}

    def mapped(m):
        is_masked = lambda x: isinstance(x, m.MaskedNode)
        pick = lambda x, spec: x if is_masked(x) else spec
        tx = make(m)
        return optax.tree_map_params(
            tx, pick, tx.init(params), specs, transform_non_params=lambda x: None, is_leaf=is_masked
        )

    ours, theirs = (sorted(jax.tree.leaves(mapped(m))) for m in (L, optax))
    assert ours == theirs and len(ours) >= 1


def test_a_measure_of_named_parameters_has_a_placeholder_too():
    tx, params = L.snapshot("first", lambda updates: updates["w"][0]), {"w": jnp.ones(2)}
    state = tx.init(params)
    assert optax.tree_map_params(tx, lambda x: x, state) == state


MEETING = """keep_params_nonnegative adaptive_grad_clip flatten packed MultiSteps apply_every contract scale_by_madgrad
scale_by_novograd scale_by_trust_ratio scale_by_param_block_rms""".split()


@pytest.mark.parametrize("name", MEETING)
def test_a_member_of_a_chain_names_updates_that_are_not_like_its_parameters(name):
    longer = L.stateless(lambda updates, params: {"w": jnp.ones((2, 2))})
    tx, params = L.chain(longer, EVERYTHING[name]), {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=f"{name}: `updates` must have the structure and shapes of"):
        tx.update(params, tx.init(params), params)


@pytest.mark.slow
def test_lookahead_after_a_member_that_changes_the_tree():
    params = L.LookaheadParams.init_synced({"w": jnp.ones(2)})
    grads = {"w": jnp.ones((1, 2))}
    squeeze = L.stateless(lambda updates, params: {"w": updates["w"][0]})
    tx = L.chain(squeeze, EVERYTHING["lookahead"])
    inner = EVERYTHING["lookahead"].init(params)
    expected, _ = EVERYTHING["lookahead"].update({"w": jnp.ones(2)}, inner, params)
    got, _ = tx._update(grads, tx.init(params), params, {})
    chex.assert_trees_all_close(got, expected)
    with pytest.raises(ValueError, match="lookahead: `updates` must have the structure and shapes of `params.fast`"):
        EVERYTHING["lookahead"].update(grads, inner, params)
