"""A run goes on, bit for bit, from the state that a checkpoint has kept."""

import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

import lrjax as L
from tests.everything import EVERYTHING, NEW_TREE, extra_args, for_matrices, params_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

HALF = 50  # steps
NO_STEP = (*NEW_TREE[:2], "hutchinson_estimator_diag_hessian")  # what their update returns is added to no parameters


@pytest.fixture(scope="module")
def checkpointer():
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        yield checkpointer


def by_pickle(tx, saved, abstract, folder, checkpointer):
    return pickle.loads(pickle.dumps(saved))


def by_flax(tx, saved, abstract, folder, checkpointer):
    return flax.serialization.from_bytes(abstract, flax.serialization.to_bytes(saved))


def by_orbax(tx, saved, abstract, folder, checkpointer):
    checkpointer.save(folder / "saved", saved)
    checkpointer.wait_until_finished()
    return checkpointer.restore(folder / "saved", abstract)


def by_migration(tx, saved, abstract, folder, checkpointer):
    """From dicts, without a template."""
    step, params, state = saved
    plain = flax.serialization.to_state_dict(state)
    return step, params, L.migrate_state(plain, tx, abstract[1], strict=True).state


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), jax.tree_util.keystr(path)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_run_goes_on_from_every_form_of_checkpoint(name, tmp_path, checkpointer):
    tx, small = for_matrices(name, EVERYTHING[name]), {"w": jnp.full((2, 2), 0.5), "b": jnp.full(2, 0.25)}
    params = params_of(name, small)

    @jax.jit
    def run_half(carried):
        def step(carried, _):
            t, params, state = carried
            at = params.fast if name == "lookahead" else params
            grads = jax.tree.map(lambda p: jnp.sin(3 * p + t.astype(jnp.float32)), at)
            updates, state = tx.update(grads, state, params, **extra_args(name))
            new = params if name in NO_STEP else L.apply_updates(params, updates)
            return (t + 1, new, state), updates

        return jax.lax.scan(step, carried, length=HALF)

    half, _ = run_half((jnp.int32(0), params, tx.init(params)))
    whole = run_half(half)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(whole[0][1]))
    shapes = jax.eval_shape(lambda: params)
    abstract = (jax.ShapeDtypeStruct((), jnp.int32), shapes, jax.eval_shape(tx.init, shapes))
    for restore in (by_pickle, by_flax, by_orbax, by_migration):
        restored = restore(tx, half, abstract, tmp_path, checkpointer)
        assert_same_bits(restored, half)
        assert_same_bits(run_half(restored), whole)
