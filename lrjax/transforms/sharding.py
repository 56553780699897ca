"""Shardings in the types of arrays: the `PartitionSpec` on an explicit mesh, and the mesh axes along which an array
varies inside of `shard_map`. Without a mesh every function here returns its argument, without any operation."""

from typing import Any

import jax

from lrjax.jax_versions import as_varying, manual_axes


def spec(x: Any) -> Any:
    """Returns the `PartitionSpec`, known on an explicit mesh, and the axes along which the array varies."""
    return jax.typeof(x).sharding.spec, varying_axes(x)


def varying_axes(x: Any) -> frozenset[Any]:
    """Returns the manual axes along which an array, or a `jax.ShapeDtypeStruct`, differs between devices."""
    return manual_axes(_aval(x))


def _aval(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def with_axes(x: Any, axes: frozenset[Any]) -> Any:
    """Marks an array as varying along `axes` too."""
    missing = axes - varying_axes(x)
    return as_varying(x, tuple(missing)) if missing else x


def vary_like(tree: Any, like: Any) -> Any:
    """Marks each array of the tree as varying along the axes of its counterpart in `like` too."""
    return jax.tree.map(lambda x, y: with_axes(x, varying_axes(y)), tree, like)


def vary_as_all(x: Any, tree: Any) -> Any:
    """Marks an array, whose later values depend on the tree, as varying along the axes of all the tree's arrays."""
    return with_axes(x, frozenset().union(*map(varying_axes, jax.tree.leaves(tree))))


def shard_like(x: Any, like: Any) -> Any:
    """Gives an array the sharding and the varying axes of another of the same shape."""
    sharding = _aval(like).sharding
    if sharding is not None and jax.typeof(x).sharding.spec != sharding.spec:
        x = jax.sharding.reshard(x, sharding)
    return with_axes(x, varying_axes(like))


def replicated(x: Any) -> Any:
    """Replicates an array on all devices of an explicit mesh; returns it unchanged without one."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(sharding.spec))))
