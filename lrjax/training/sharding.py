"""How runs lie on the devices: side by side along the axis "runs" of a mesh, and each of them, where its task says so,
sharded over the other axes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.static import Frozen
from lrjax.value import bad_argument

RUNS = "runs"


def is_spec(x: Any) -> bool:
    return x is None or isinstance(x, PartitionSpec)


def are_specs(x: Any) -> bool:
    """Whether this is a `PartitionSpec`, a tree of them, or a function that may return one."""
    return callable(x) or all(map(is_spec, jax.tree.leaves(x, is_leaf=is_spec)))


def as_named(spec: PartitionSpec, mesh: Any) -> PartitionSpec:
    """As JAX names it in results, without axes of one device: other names would be another program."""
    names = lambda x: x if isinstance(x, tuple) else (x,)
    kept = [tuple(name for name in names(x) if name and mesh.shape[name] > 1) for x in spec]
    short = [x[0] if len(x) == 1 else x or None for x in kept]
    while short and short[-1] is None:
        short.pop()
    return PartitionSpec(*short)


@dataclasses.dataclass(frozen=True)
class Specs:
    """`PartitionSpec`s of the arrays in a tree. Compares by value.

    Args:
      name: of the task's field, for errors.
      given: a prefix of the tree with specs as leaves, or a function from the tree to one.
    """

    name: str
    given: Frozen | Callable[[Any], Any]

    @classmethod
    def of(cls, name: str, given: Any) -> "Specs":
        return cls(name, given if callable(given) else Frozen(given))

    def prefix(self, tree: Any) -> Any:
        found = self.given.tree if isinstance(self.given, Frozen) else self.given(tree)
        if not are_specs(found):
            raise bad_argument("Task", self.name, "PartitionSpecs in a tree, or a function that returns them", found)
        return found

    def spread(self, prefix: Any, tree: Any, mesh: Any, strict: bool = True) -> Any:
        """A spec for each array of the tree. One that doesn't divide its array is an error, or, if not `strict`, none:
        the array is whole on every device."""
        prefix = jax.tree.map(lambda x: PartitionSpec() if x is None else x, prefix, is_leaf=is_spec)
        try:
            specs = jax.tree.broadcast(prefix, tree)
        except ValueError:
            words = f"a prefix of the tree {jax.tree.structure(tree)}"
            raise bad_argument("Task", self.name, words, jax.tree.structure(prefix)) from None

        def fitting(path: Any, x: Any, spec: PartitionSpec) -> PartitionSpec:
            reason = _misfit(spec, np.shape(x), mesh)
            if reason and strict:
                name = jax.tree_util.keystr(path, simple=True, separator="/") or "the array"
                words = f"specs that fit: {name} has the shape {np.shape(x)}, and {reason}"
                raise bad_argument("Task", self.name, words, spec)
            return PartitionSpec() if reason else as_named(spec, mesh)

        return jax.tree_util.tree_map_with_path(fitting, tree, specs)


def _misfit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Any) -> str | None:
    """Why an array of this shape cannot be sharded so."""
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
    """How one run is sharded over its own axes of the mesh: parameters and batches by the task's specs, each array of
    the optimizer's state as the parameter that it belongs to."""

    params: Specs
    batch: Specs

    @classmethod
    def of(cls, param_specs: Any, batch_specs: Any) -> "RunSharding | None":
        """None where there are no specs: a run is on one device."""
        if param_specs is None and batch_specs is None:
            return None
        return cls(Specs.of("param_specs", param_specs), Specs.of("batch_specs", batch_specs))

    def of_params(self, params: Any, part: Any, mesh: Any) -> Any:
        """Of `part`, the parameters with None in place of some."""
        return self.params.spread(self.params.prefix(params), part, mesh)

    def of_state(self, state: Any, trained: Any, specs: Any) -> Any:
        """An array of the state belongs to a parameter if its path ends in that parameter's, and its shape is the
        same."""
        leaves = zip(jax.tree_util.tree_leaves_with_path(trained), jax.tree.leaves(specs), strict=True)
        known = {(path, np.shape(x)): spec for (path, x), spec in leaves}

        def one(path: Any, x: Any) -> Any:
            ends = ((path[start:], np.shape(x)) for start in range(len(path) + 1))
            return next((known[end] for end in ends if end in known), PartitionSpec())

        return jax.tree_util.tree_map_with_path(one, state)

    def of_carry(self, carry: Any, mesh: Any) -> Any:
        """A spec for each array that a run carries."""
        trained = self.of_params(carry.params, carry.trained, mesh)
        others = self.of_params(carry.params, carry.others, mesh)
        specs = jax.tree.map(lambda x: PartitionSpec(), carry)
        return specs._replace(
            trained=trained, others=others, opt_state=self.of_state(carry.opt_state, carry.trained, trained)
        )

    def shard_carry(self, carry: Any) -> Any:
        return _shard(carry, self.of_carry(carry, jax.sharding.get_abstract_mesh()))

    def shard_batch(self, batch: Any, strict: bool = True) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        return _shard(batch, self.batch.spread(self.batch.prefix(batch), batch, mesh, strict))


def _shard(tree: Any, specs: Any) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    put = lambda x, spec: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
    return jax.tree.map(put, tree, specs)


def runs_mesh(caller: str, given: Mesh | None, is_sharded: bool, count: int) -> Mesh:
    """The mesh of so many runs: all devices along "runs", whatever the axes of the given one; or, where runs are
    sharded, the given one, "runs" in front.

    All axes are Auto, so that a loss for one device goes in as it is. (Explicit ones are gathered where they enter a
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
