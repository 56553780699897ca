"""Every configuration of every transformation under stress: mixed dtypes, each way to compile, NaNs, tracer leaks,
complex numbers, float64, accumulation."""

import pickle
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.jax_versions import enable_x64
from lrjax.transforms.elementwise import compute_dtype
from tests.everything import CONFIGURATIONS, EVERYTHING, NEW_TREE, decay_matrices, extra_args, for_matrices, params_of
from tests.transforms.cases import CASES, Case

pytestmark = pytest.mark.usefixtures("quick_compilation")
# what is a part of an optimizer is tested with it
OPTIMIZERS = [name for name in EVERYTHING if not name.startswith("scale_by_")]
DTYPES = ("float32", "bfloat16", "float16")
RNG = np.random.default_rng(0)
HOST = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=2), "s": np.array(0.5), "empty": np.zeros((0, 3))}


def tree_of(*dtypes):
    """A matrix of the same numbers in each of the dtypes, those that bfloat16 has, and arrays of other shapes."""
    exact = {k: jnp.asarray(x, "bfloat16").astype("float32") for k, x in HOST.items()}
    return {dtype: exact["w"].astype(dtype) for dtype in dtypes} | {"others": [exact["b"], exact["s"], exact["empty"]]}


def gradients(params):
    return [
        jax.tree.map(lambda p, scale=scale: p * jnp.asarray(scale, p.dtype), params) for scale in (0.5, -0.375, 1.0)
    ]


def loss(params):
    numbers = [p.astype(compute_dtype(p.dtype)) for p in jax.tree.leaves(params)]
    return sum((jnp.sum(jnp.abs(p) ** 2).astype(jnp.float32) for p in numbers), jnp.zeros((), jnp.float32))


def skip(name, what):
    if (reason := CASES.get(name.split(",")[0], Case()).skips.get(what)) is not None:
        pytest.skip(reason)


def run(tx, params, grads, kwargs):
    """The updates of each step, and the last state; the state keeps its structure and dtypes."""
    state, updates = tx.init(params), []
    for g in grads:
        u, new_state = tx.update(g, state, params, **kwargs)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        state = new_state
        updates.append(u)
    return updates, state


def assert_dtypes_agree(updates, narrow, wide, ulps):
    largest = max(np.max(np.abs(np.asarray(u[wide], np.float64))) for u in updates)  # of which some may cancel
    for u in updates:
        assert_same(u[wide].astype(narrow), u[narrow], ulps, largest)


def assert_finite(tree):
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert all(np.isfinite(np.asarray(x, np.complex128)).all() for x in numbers)


def assert_same(got, expected, ulps, largest=0.0):
    """Equal to some units in the last place of the largest number of each array, or of another if that is larger."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape, path
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            np.testing.assert_array_equal(x, y, str(path))
            continue
        wide = [np.asarray(a, np.complex128) for a in (x, y)]
        info = jnp.finfo(x.dtype)
        atol = ulps * float(info.eps) * np.max(np.abs(wide[1]), initial=max(largest, float(info.tiny)))
        np.testing.assert_allclose(*wide, rtol=0, atol=atol, err_msg=str(path))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("key", CONFIGURATIONS)
def test_dtypes_and_every_way_to_compile(key):
    name, tx = CONFIGURATIONS[key]
    skip(name, "mixed dtypes")
    tx, params = for_matrices(name, tx), params_of(name, tree_of(*DTYPES))
    grads, kwargs = gradients(tree_of(*DTYPES)), extra_args(name, loss)
    with jax.debug_nans(True):
        updates, state = run(tx, params, grads, kwargs)
    assert_finite((updates, state))
    again = pickle.loads(pickle.dumps(state))
    chex.assert_trees_all_equal(again, state)
    if name not in NEW_TREE:
        chex.assert_trees_all_equal_shapes_and_dtypes(updates[0], grads[0])
        differ = "dtypes agree" in CASES.get(name, Case()).skips or "bfloat16" in key  # a moment's rounding, summed up
        for dtype in () if differ else DTYPES[1:]:
            assert_dtypes_agree(updates, dtype, "float32", ulps=16)

    if key != name:  # the other configurations are compiled in the first way alone, which takes half of the time
        return

    def scanned(tx, params, grads):
        body = lambda state, g: tx.update(g, state, params, **kwargs)[::-1]
        return jax.lax.scan(body, tx.init(params), grads)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), (params, stacked))
    got_state, got = jax.jit(jax.vmap(scanned, in_axes=(None, 0, 0)))(tx, *twice)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *updates)
    for i in (0, 1):
        ulps = 4 if name == "scheduled" else 2  # a scheduled b1: 1 − b1ᵗ amplifies how its power is rounded
        assert_same(jax.tree.map(lambda x, i=i: x[i], (got_state, got)), (state, expected), ulps=ulps)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", EVERYTHING)
def test_no_tracer_leaks(name):
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, tree_of("float32"))
    with jax.checking_leaks():
        jax.eval_shape(lambda p: tx.update(tree_of("float32"), tx.init(p), p, **extra_args(name, loss)), params)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", EVERYTHING)
def test_float64_beside_float32_under_x64(name):
    skip(name, "mixed dtypes")
    skip(name, "x64")
    both = ("float32", "float64")
    with enable_x64(True):
        tx, tree = for_matrices(name, EVERYTHING[name]), tree_of(*both)
        updates, state = run(tx, params_of(name, tree), gradients(tree), extra_args(name, loss))
        assert_finite((updates, state))
        if name in NEW_TREE:
            return
        chex.assert_trees_all_equal_shapes_and_dtypes(updates[0], tree)
        if "dtypes agree" not in CASES.get(name, Case()).skips:
            assert_dtypes_agree(updates, "float32", "float64", ulps=32)


TURN = np.complex64(np.exp(0.7j))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("key", [key for key in CONFIGURATIONS if key in EVERYTHING or "bfloat16" in key])
@pytest.mark.promotes  # a real rate times a complex gradient
def test_a_complex_number_is_a_real_one_turned(key):
    """The update of a turned parameter is the update of the real one, turned."""
    name, tx = CONFIGURATIONS[key]
    skip(name, "complex")
    real = tree_of("float32")
    tree = real | {"turned": real["float32"] * TURN}
    tx, params = for_matrices(name, tx), params_of(name, tree)
    if name in CASES and CASES[name].real:
        with pytest.raises(TypeError, match="must be real"):
            run(tx, params, gradients(tree), extra_args(name, loss))
        return
    updates, state = run(tx, params, gradients(tree), extra_args(name, loss))
    assert_finite((updates, state))
    for u in () if name in NEW_TREE or "bfloat16" in key else updates:
        assert_same(u["turned"] / TURN, u["float32"].astype("complex64"), ulps=64)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_equal_micro_batches_are_one_batch(name):
    skip(name, "accumulation")
    tree = tree_of("float32")
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, tree)
    expected, _ = run(tx, params, gradients(tree), extra_args(name, loss))
    twice = [g for g in gradients(tree) for _ in range(2)]
    got, _ = run(L.MultiSteps(tx, 2), params, twice, extra_args(name, loss))
    assert_same(got[1::2], expected, ulps=2)
    for u in got[::2]:
        assert not any(np.any(x) for x in jax.tree.leaves(u))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", EVERYTHING)
def test_an_update_without_parameters_is_the_same_or_names_them(name):
    tree = tree_of("float32")
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, tree)
    state, kwargs = tx.init(params), extra_args(name, loss)
    try:
        got, _ = tx.update(tree, state, **kwargs)
    except ValueError as error:
        assert re.search("`params`.* must be given", str(error))
        return
    expected, _ = tx.update(tree, state, params, **kwargs)
    assert_same(got, expected, ulps=2)


@pytest.mark.parametrize("key", CONFIGURATIONS)
def test_repr_and_pickle_give_an_equal_value(key):
    name, tx = CONFIGURATIONS[key]
    if "<" not in repr(tx):  # a function
        assert eval(repr(tx), vars(L) | {"array": np.array, "decay_matrices": decay_matrices}) == tx
        assert pickle.loads(pickle.dumps(tx)) == tx
