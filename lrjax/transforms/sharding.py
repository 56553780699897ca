"""Sharding as a part of an array's type: on an explicit mesh its `PartitionSpec`, inside of `shard_map` the mesh axes
along which it varies. Without a mesh every function here returns its argument, and adds no operation."""

from typing import Any

import jax

from lrjax.jax_versions import as_varying, manual_axes


def spec(x: Any) -> Any:
    """The `PartitionSpec`, known on an explicit mesh, and the axes along which the array varies."""
    return jax.typeof(x).sharding.spec, varying_axes(x)


def varying_axes(x: Any) -> frozenset[Any]:
    """The manual axes along which an array, or a `jax.ShapeDtypeStruct`, differs from device to device."""
    return manual_axes(_aval(x))


def _aval(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def with_axes(x: Any, axes: frozenset[Any]) -> Any:
    """The array, varying along `axes` too."""
    missing = axes - varying_axes(x)
    return as_varying(x, tuple(missing)) if missing else x


def vary_like(tree: Any, like: Any) -> Any:
    """Each array of the tree, varying along the axes of its like too."""
    return jax.tree.map(lambda x, y: with_axes(x, varying_axes(y)), tree, like)


def vary_as_all(x: Any, tree: Any) -> Any:
    """An array that will be computed from the whole tree, varying along the axes of all its arrays."""
    return with_axes(x, frozenset().union(*map(varying_axes, jax.tree.leaves(tree))))


def shard_like(x: Any, like: Any) -> Any:
    """The array, sharded and varying as another of its shape."""
    sharding = _aval(like).sharding
    if sharding is not None and jax.typeof(x).sharding.spec != sharding.spec:
        x = jax.sharding.reshard(x, sharding)
    return with_axes(x, varying_axes(like))


def replicated(x: Any) -> Any:
    """The array with all its parts on each device; as it is where no mesh is explicit."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(sharding.spec))))
