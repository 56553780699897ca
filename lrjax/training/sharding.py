"""Shards runs over the axis "runs" of a mesh, and each run, where its task says so, over the other axes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.numerics import path_name
from lrjax.static import HashableTree
from lrjax.value import bad_argument

RUNS = "runs"


def is_spec(x: Any) -> bool:
    return x is None or isinstance(x, PartitionSpec)


def are_specs(x: Any) -> bool:
    """Returns whether this is a `PartitionSpec`, a tree of them, or a function that may return one."""
    return callable(x) or all(map(is_spec, jax.tree.leaves(x, is_leaf=is_spec)))


def normalized_spec(spec: PartitionSpec, mesh: Any) -> PartitionSpec:
    """Writes a spec as JAX does in results, without axes of one device: any other spec would compile again."""
    names = lambda x: x if isinstance(x, tuple) else (x,)
    sharded = [tuple(name for name in names(x) if name and mesh.shape[name] > 1) for x in spec]
    entries = [x[0] if len(x) == 1 else x or None for x in sharded]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


@dataclasses.dataclass(frozen=True)
class Specs:
    """`PartitionSpec`s of the arrays in a tree. Compares by value.

    Args:
      name: the field of the task, for errors.
      given: a prefix of the tree with specs as leaves, or a function from the tree to a prefix.
    """

    name: str
    given: HashableTree | Callable[[Any], Any]

    @classmethod
    def create(cls, name: str, given: Any) -> "Specs":
        return cls(name, given if callable(given) else HashableTree(given))

    def prefix(self, tree: Any) -> Any:
        prefix = self.given.tree if isinstance(self.given, HashableTree) else self.given(tree)
        if not are_specs(prefix):
            raise bad_argument("Task", self.name, "PartitionSpecs in a tree, or a function that returns them", prefix)
        return prefix

    def broadcast(self, prefix: Any, tree: Any, mesh: Any, strict: bool = True) -> Any:
        """Returns a spec for each array of the tree. Where the mesh doesn't divide an array, raises an error or, if not
        `strict`, replicates it."""
        prefix = jax.tree.map(lambda x: PartitionSpec() if x is None else x, prefix, is_leaf=is_spec)
        try:
            specs = jax.tree.broadcast(prefix, tree)
        except ValueError:
            words = f"a prefix of the tree {jax.tree.structure(tree)}"
            raise bad_argument("Task", self.name, words, jax.tree.structure(prefix)) from None

        def fitting(path: Any, x: Any, spec: PartitionSpec) -> PartitionSpec:
            reason = _misfit(spec, np.shape(x), mesh)
            if reason and strict:
                name = path_name(path) or "the array"
                words = f"specs that fit: {name} has the shape {np.shape(x)}, and {reason}"
                raise bad_argument("Task", self.name, words, spec)
            return PartitionSpec() if reason else normalized_spec(spec, mesh)

        return jax.tree_util.tree_map_with_path(fitting, tree, specs)


def _misfit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Any) -> str | None:
    """Returns why an array of this shape cannot be sharded by the spec; None where it can."""
    for axis, names in enumerate(spec):
        names = names if isinstance(names, tuple) else () if names is None else (names,)
        unknown = [name for name in names if name not in mesh.shape or name == RUNS]
        if unknown:
            return f"{unknown[0]!r} is no axis of a run: {[name for name in mesh.axis_names if name != RUNS]}"
        parts = math.prod(mesh.shape[name] for name in names)
        if parts > 1 and (axis >= len(shape) or shape[axis] % parts):
            return f"its axis {axis} has to be split into {parts}"
    return None


@dataclasses.dataclass(frozen=True)
class RunSharding:
    """How one run is sharded over the axes of the mesh other than "runs": parameters and batches by the task's specs,
    each array of the optimizer state as the parameter that it belongs to."""

    params: Specs
    batch: Specs

    @classmethod
    def from_specs(cls, param_specs: Any, batch_specs: Any) -> "RunSharding | None":
        """Returns None where there are no specs: a run is on one device."""
        if param_specs is None and batch_specs is None:
            return None
        return cls(Specs.create("param_specs", param_specs), Specs.create("batch_specs", batch_specs))

    def param_specs(self, params: Any, part: Any, mesh: Any) -> Any:
        """Returns specs of `part`: the parameters with None in place of some."""
        return self.params.broadcast(self.params.prefix(params), part, mesh)

    def state_specs(self, state: Any, trained: Any, specs: Any) -> Any:
        """Returns specs of the optimizer state. An array belongs to a parameter if its path ends in the parameter's
        path and it has the same shape."""
        leaves = zip(jax.tree_util.tree_leaves_with_path(trained), jax.tree.leaves(specs), strict=True)
        known = {(path, np.shape(x)): spec for (path, x), spec in leaves}

        def one(path: Any, x: Any) -> Any:
            suffixes = ((path[start:], np.shape(x)) for start in range(len(path) + 1))
            return next((known[suffix] for suffix in suffixes if suffix in known), PartitionSpec())

        return jax.tree_util.tree_map_with_path(one, state)

    def carry_specs(self, carry: Any, mesh: Any) -> Any:
        """Returns a spec for each array in the carry of a run."""
        trained = self.param_specs(carry.params, carry.trained, mesh)
        others = self.param_specs(carry.params, carry.others, mesh)
        specs = jax.tree.map(lambda x: PartitionSpec(), carry)
        return specs._replace(
            trained=trained, others=others, opt_state=self.state_specs(carry.opt_state, carry.trained, trained)
        )

    def shard_carry(self, carry: Any) -> Any:
        return _shard(carry, self.carry_specs(carry, jax.sharding.get_abstract_mesh()))

    def shard_batch(self, batch: Any, strict: bool = True) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        return _shard(batch, self.batch.broadcast(self.batch.prefix(batch), batch, mesh, strict))


def _shard(tree: Any, specs: Any) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    constrain = lambda x, spec: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
    return jax.tree.map(constrain, tree, specs)


def runs_mesh(caller: str, given: Mesh | None, is_sharded: bool, count: int) -> Mesh:
    """Returns the mesh for `count` runs: all devices along the axis "runs", whatever the axes of the given mesh; or,
    where runs are sharded, the given mesh with the axis "runs" first.

    All axes are Auto, so that a loss written for one device works unchanged. (Arrays on Explicit axes are gathered at a
    `shard_map` over some of the axes, as of JAX 0.10.)
    """
    if given is not None and is_sharded:
        names = [name for name in given.axis_names if name != RUNS]
        if not names:
            raise bad_argument(caller, "mesh", "one with the axes of the task's specs", str(given.axis_names))
        order = [given.axis_names.index(name) for name in given.axis_names if name == RUNS]
        order += [given.axis_names.index(name) for name in names]
        devices = given.devices.transpose(order).reshape(-1, *(given.shape[name] for name in names))
        return Mesh(devices, (RUNS, *names))
    if is_sharded:
        raise bad_argument(caller, "mesh", "one with the axes of the task's specs", None)
    devices = np.array(jax.devices()) if given is None else given.devices.ravel()
    if given is None and jax.process_count() == 1:
        devices = devices[:count]
    return Mesh(devices, (RUNS,))
