"""The compiled program of a search: a wave of runs, each a pure function of its numbers."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.transforms.apply import apply_updates
from lrjax.transforms.base import Transformation, as_transformation

SMALL = 2**16  # numbers of a model


@partial(jax.tree_util.register_dataclass, data_fields=["numbers"], meta_fields=["structure", "shapes"])
@dataclasses.dataclass(frozen=True)
class Joined:
    """A tree as one vector."""

    numbers: chex.Array
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def tree(self) -> chex.ArrayTree:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = jnp.split(self.numbers, ends)
        return self.structure.unflatten([x.reshape(shape) for x, shape in zip(parts, self.shapes, strict=True)])


def joined(params: chex.ArrayTree) -> Joined:
    leaves, structure = jax.tree.flatten(params)
    array = np if all(isinstance(x, np.ndarray) for x in leaves) else jnp  # NumPy's are joined without compiling
    return Joined(array.concatenate([array.ravel(x) for x in leaves]), structure, tuple(map(jnp.shape, leaves)))


def tree_of(params: Any) -> chex.ArrayTree:
    return params.tree if isinstance(params, Joined) else params


class Run(NamedTuple):
    """What a run carries from step to step. In a wave every array has the runs first."""

    params: chex.ArrayTree | Joined
    state: chex.ArrayTree
    first: chex.Array  # () the loss before the first update
    alive: chex.Array  # bool (): not diverged


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a search is compiled for; two equal ones share what is compiled, for any number of runs and steps."""

    loss_fn: Callable[..., Any]
    make: Callable[[Any], Any]  # from the numbers of a run to its optimizer
    at: Callable[[Any, Any, Any], Any]  # see `Batches`
    init: Callable[[Any], Any] | None
    eval_fn: Callable[..., Any] | None
    has_aux: bool
    chunk: int  # the most steps of one call
    together: int  # runs that a device vectorises
    diverged_above: float  # a run has diverged when its loss rose by this multiple of its first
    stop: bool  # whether runs are left when all of those that are vectorised have diverged
    mesh: Mesh

    def optimizer(self, numbers: Any) -> Transformation:
        """That of one run."""
        return as_transformation(self.make(numbers))

    @property
    def places(self) -> int:
        """The runs of a wave."""
        return self.mesh.size * self.together

    @property
    def by_run(self) -> NamedSharding:
        # one device: JAX calls results there replicated, and other names would be another program
        return NamedSharding(self.mesh, PartitionSpec("runs") if self.mesh.size > 1 else PartitionSpec())

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


def place(tree: Any, sharding: NamedSharding) -> Any:
    """On the devices; every process gives the same tree and keeps its part."""
    make = lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
    is_placed = lambda x: isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim)
    return jax.tree.map(lambda x: x if is_placed(x) else make(np.asarray(x)), tree)


def _over_runs(program: Program, group: Callable[..., Any], runs: Any, *shared: Any) -> Any:
    """`group(runs, *shared)` on each device, side by side. One run alone has no axis: XLA is slower with one of 1."""

    def on_device(runs: Any, *shared: Any) -> Any:
        if program.together > 1:
            return group(runs, *shared)
        return jax.tree.map(lambda x: x[None], group(jax.tree.map(lambda x: x[0], runs), *shared))

    by_run, whole = program.by_run.spec, PartitionSpec()
    specs = (by_run, *(whole for _ in shared))
    mapped = jax.shard_map(on_device, mesh=program.mesh, in_specs=specs, out_specs=by_run, check_vma=False)
    return mapped(runs, *shared)


def _each(program: Program, one: Callable[..., Any]) -> Callable[..., Any]:
    """`one(run, *shared)` for the runs of a device."""
    if program.together == 1:
        return one
    return lambda runs, *shared: jax.vmap(lambda run: one(run, *shared))(runs)


def arranged(tx: Transformation, params: chex.ArrayTree) -> chex.ArrayTree | Joined:
    """Small models joined for an optimizer that treats all numbers alike: fewer kernels to compile and to start."""
    leaves = jax.tree.leaves(params)
    alike = len({jnp.result_type(x) for x in leaves}) == 1 and tx._per_number(tx)
    return joined(params) if alike and 1 < len(leaves) and sum(jnp.size(x) for x in leaves) <= SMALL else params


@partial(jax.jit, static_argnums=0)
def start(program: Program, numbers: Any, seeds: jax.Array, params: Any) -> Run:
    """Every run of a wave before its first step."""

    def one(given: Any, params: Any) -> Run:
        numbers, seed = given
        if program.init is not None:
            params = program.init(jax.random.key(seed))
        tx = program.optimizer(numbers)
        params = arranged(tx, params)
        run = Run(params, tx.init(params), jnp.zeros([], jnp.result_type(float)), jnp.array(True))
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), run)  # never weak dtypes

    return _over_runs(program, _each(program, one), (numbers, seeds), params)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def advance(
    program: Program, runs: Run, numbers: Any, seeds: jax.Array, awake: Any, chunk: Any, begin: Any, count: Any
) -> Any:
    """(runs, losses [runs, chunk]) after `count` steps from `begin` on of the runs that are awake; the losses of steps
    not made are nan. `seeds` are their places in the list of seeds."""

    def step(given: Any, chunk: Any, i: Any) -> tuple[Run, jax.Array]:
        run, numbers, seed = given
        loss_of = lambda params: program.loss_fn(tree_of(params), program.at(chunk, i, seed))
        found, grads = jax.value_and_grad(loss_of, has_aux=program.has_aux)(run.params)
        loss = found[0] if program.has_aux else found
        tx = program.optimizer(numbers)
        updates, state = tx.update(grads, run.state, run.params, value=loss, grad=grads)
        loss = loss.astype(run.first.dtype)
        first = jnp.where(begin + i == 0, loss, run.first)
        alive = run.alive & (loss - first <= program.diverged_above * jnp.abs(first))  # nan is not
        recorded = jnp.where(run.alive, loss, jnp.nan)
        return Run(apply_updates(run.params, updates), state, first, alive), recorded

    def group(given: Any, chunk: Any, begin: Any, count: Any) -> Any:
        before, numbers, seeds, awake = given

        def goes_on(loop: Any) -> jax.Array:
            i, runs, _ = loop
            return (i < count) & jnp.any(awake & (runs.alive | (not program.stop)))

        def body(loop: Any) -> Any:
            i, runs, losses = loop
            runs, loss = _each(program, step)((runs, numbers, seeds), chunk, i)
            return i + 1, runs, losses.at[..., i].set(jnp.where(awake, loss, jnp.nan))

        losses = jnp.full((*awake.shape, program.chunk), jnp.nan, before.first.dtype)
        _, runs, losses = jax.lax.while_loop(goes_on, body, (jnp.int32(0), before, losses))
        if program.together > 1:  # one alone has made no step when it is not awake
            keep = jax.vmap(lambda awake, new, old: jax.tree.map(lambda n, o: jnp.where(awake, n, o), new, old))
            runs = keep(awake, runs, before)
        return runs, losses

    return _over_runs(program, group, (runs, numbers, seeds, awake), chunk, begin, count)


@partial(jax.jit, static_argnums=0)
def evaluate(program: Program, params: Any, batch: Any) -> jax.Array:
    """[runs]: `eval_fn` of every run of a wave."""
    eval_fn, arguments = program.eval_fn, () if batch is None else (batch,)
    assert eval_fn is not None
    evaluation = lambda params, *batch: eval_fn(tree_of(params), *batch)
    return _over_runs(program, _each(program, evaluation), params, *arguments)
