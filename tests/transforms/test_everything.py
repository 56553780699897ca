"""What holds for every public optimizer and transformation."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import lrjax as L
from tests.everything import BASES, EVERYTHING, extra_args, params_of

each = pytest.mark.parametrize("name", EVERYTHING)


def test_the_table_is_complete():
    classes = {name for name, thing in vars(L).items() if isinstance(thing, type)}
    transforms = {name for name in classes if issubclass(getattr(L, name), L.GradientTransformation)}
    assert transforms - set(BASES) <= set(EVERYTHING)


@pytest.mark.slow
def test_on_meshes_and_inside_of_shard_map():
    command = [sys.executable, "-m", "tests.transforms.sharded"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.stdout.strip() == "sharded 8", done.stderr


def small_params():
    return {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(2), "s": jnp.ones(())}


def for_matrices(name, tx):
    """The transformation, shown matrices alone if it takes no others."""
    matrices = lambda params: jax.tree.map(lambda p: jnp.ndim(p) == 2, params)
    return L.masked(tx, matrices) if name in ("scale_by_muon", "scale_by_shape") else tx


@each
def test_no_array_is_twice_in_parameters_and_state(name):
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, small_params())
    leaves = jax.tree.leaves((params, tx.init(params)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size}) == len([x for x in leaves if x.size])


@pytest.mark.parametrize("name", [name for name in EVERYTHING if not name.startswith("scale_by_")])
def test_parameters_and_state_may_be_donated(name):
    tx, params = for_matrices(name, EVERYTHING[name]), params_of(name, small_params())
    grads, state = small_params(), tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, **extra_args(name))
        return params if name in ("measured", "measure_with_ema") else L.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(2):
        params, state = donating(params, state, grads)
