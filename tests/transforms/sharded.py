"""Runs every transformation on a mesh of eight devices, and beside it on one: a program of its own, since the number of
devices is fixed when JAX starts.

Most of it only traces: on an explicit mesh and inside of `shard_map` the sharding is part of an array's type.
"""

import functools

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # its time is that of compiling

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from lrjax.jax_versions import as_varying  # noqa: E402
from tests.everything import EVERYTHING, NEW_TREE, extra_args, for_matrices, params_of  # noqa: E402

# two of one shape but other axes, which may not be joined, and two of one shape and axes, which may
SHAPES = {"w": (16, 8), "v": (16, 8), "b": (16,), "c": (16,), "r": (3,)}
SPECS = {"w": P("d"), "v": P(None, "d"), "b": P("d"), "c": P("d"), "r": P()}
RNG = np.random.default_rng(0)
HOST = {name: np.asarray(RNG.normal(size=shape), np.float32) for name, shape in SHAPES.items()}
TRANSFORMS = {name: for_matrices(name, tx) for name, tx in EVERYTHING.items()}
LAYOUT = ("flatten", "packed")  # whose states have other arrays than the parameters
CONSTANT = ("freeze", "set_to_zero")  # zeros, which on an automatic mesh the compiler places


def init(params, names=TRANSFORMS):
    return {name: TRANSFORMS[name].init(params_of(name, params)) for name in names}


def update(grads, states, params):
    """The updates and the states of the transformations that have a state."""
    out = {
        name: TRANSFORMS[name].update(grads, state, params_of(name, params), **extra_args(name))
        for name, state in states.items()
    }
    return {name: u for name, (u, _) in out.items()}, {name: s for name, (_, s) in out.items()}


def on(kind):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    return mesh, {name: jax.device_put(x, NamedSharding(mesh, SPECS[name])) for name, x in HOST.items()}


def assert_types(tree, like, what):
    """Of the same shapes, dtypes, shardings and varying axes."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        assert str(jax.typeof(x)).strip("~") == str(jax.typeof(y)).strip("~"), (what, path, x, y)


def check_types(params, grads):
    states = init(params)
    updates, new_states = jax.eval_shape(update, grads, states, params)
    assert_types(new_states, states, "state")
    assert_types({k: u for k, u in updates.items() if k not in NEW_TREE},
                 {k: grads for k in updates if k not in NEW_TREE}, "updates")  # fmt: skip


def check_inside_shard_map():
    mesh, params = on(AxisType.Explicit)
    varying = lambda p: jax.tree.map(lambda x: as_varying(x, ("d",)), p)

    def local(p):
        part = {name: p[name] for name in p if name != "r"}
        check_types(part, part)  # each device has its part of each parameter
        jax.eval_shape(update, p, init(p), p)  # and all of another, which varies too once it depends on a norm

    def parallel(p):
        check_types(p, jax.lax.pmean(varying(p), "d"))  # each has all the parameters, and gradients of its own examples
        check_types(varying(p), varying(p))

    jax.eval_shape(jax.shard_map(local, mesh=mesh, in_specs=(SPECS,), out_specs=P()), params)
    replicated = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P())), HOST)
    jax.eval_shape(jax.shard_map(parallel, mesh=mesh, in_specs=P(), out_specs=P()), replicated)


def check_results(kind, names, expected):
    _, params = on(kind)
    states = init(params, names)
    updates, new_states = jax.jit(update)(params, states, params)
    for name in names:
        if name not in LAYOUT:
            got, alone = (updates[name], new_states[name]), (expected[0][name], expected[1][name])
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5, err_msg=name), got, alone)
        if name not in NEW_TREE + LAYOUT + (CONSTANT if kind == AxisType.Auto else ()):
            assert_sharded(updates[name], params, name)
        assert_sharded(new_states[name], states[name], name)


def assert_sharded(tree, like, name):
    for x, y in zip(*map(jax.tree.leaves, (tree, like)), strict=True):
        on_one = len(y.sharding.device_set) == 1  # as scalars begin
        assert on_one or x.sharding.is_equivalent_to(y.sharding, y.ndim), (name, x.shape, x.sharding, y.sharding)


if __name__ == "__main__":
    mesh, params = on(AxisType.Explicit)
    check_types(params, params)
    with jax.set_mesh(mesh):
        check_types(params, params)
    check_inside_shard_map()
    chosen = [name for name in TRANSFORMS if not name.startswith("scale_by_")]  # the optimizers are made of those
    single = jax.tree.map(jnp.asarray, HOST)
    expected = jax.jit(update)(single, init(single, chosen), single)
    check_results(AxisType.Explicit, chosen, expected)
    check_results(AxisType.Auto, chosen, expected)
    print("sharded", len(jax.devices()))
