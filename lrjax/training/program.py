"""The compiled program of the engine: a wave of runs, each a pure function of its numbers.

This is the one place where gradients are taken in a loop.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.numerics import Array, ArrayTree
from lrjax.training.objective import Metric, Objective
from lrjax.training.parameters import arrange, is_key, merge, split
from lrjax.training.sharding import RUNS, RunSharding, as_named
from lrjax.transforms.apply import apply_updates
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.transforms.read_rate import get_learning_rate
from lrjax.value import bad_argument


class Carry(NamedTuple):
    """What a run carries from step to step. In a wave every array has the runs first."""

    trained: Any  # the floating parameters, a tree or one vector
    others: ArrayTree  # the parameters that no optimizer changes
    model_state: ArrayTree
    opt_state: ArrayTree
    finite: Array  # bool (): whether all parameters were, when they were last looked at

    @property
    def params(self) -> ArrayTree:
        return merge(self.trained, self.others)


class Identity(NamedTuple):
    """What makes a run this run."""

    numbers: Any  # its hyperparameters
    seed: Array
    seed_index: Array  # in the list of seeds
    is_control: Array  # bool: whether it never updates, and shows what the data do by themselves


class Interval(NamedTuple):
    """The steps of one call; all are numbers, so that any are the same program."""

    begin: Array
    count: Array
    eval_every: Array
    eval_at: Array  # and after this step


@dataclasses.dataclass(frozen=True)
class Program:
    """All that is compiled for; two equal ones share what is compiled, for any number of runs and steps."""

    objective: Objective
    make: Callable[[Any], Any]  # from the numbers of a run to its optimizer
    batch_at: Callable[[Any, Any, Any], Any]  # see `Batches`
    init: Callable[[Any], Any] | None
    metrics: tuple[tuple[str, Metric], ...]
    chunk: int  # the most steps of one call
    vectorized: int  # runs that a device trains at the same time
    stop: bool  # whether runs are left when the parameters of all those that are vectorized aren't finite
    mesh: Mesh  # "runs", and the axes over which a run is sharded
    run_sharding: RunSharding | None

    def optimizer(self, numbers: Any) -> GradientTransformation:
        """That of one run."""
        return as_transformation(self.make(numbers))

    def sharded(self, carry: Carry) -> Carry:
        """What a run carries, inside of the program."""
        return carry if self.run_sharding is None else self.run_sharding.shard_carry(carry)

    @property
    def wave_size(self) -> int:
        return self.mesh.shape[RUNS] * self.vectorized

    @property
    def by_run(self) -> NamedSharding:
        return NamedSharding(self.mesh, as_named(PartitionSpec(RUNS), self.mesh))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


def place(tree: Any, shardings: Any) -> Any:
    """On the devices, by one sharding or a tree of them; every process gives the same tree and keeps its part."""

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if is_key(x):
            return jax.device_put(x, sharding)
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: one(x, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def _on_devices(program: Program, group: Callable[..., Any], runs: Any, *shared: Any) -> Any:
    """`group(runs, *shared)` on each device, side by side. One run alone has no axis: XLA is slower with one of 1."""

    def on_device(runs: Any, *shared: Any) -> Any:
        if program.vectorized > 1:
            return group(runs, *shared)
        return jax.tree.map(lambda x: x[None], group(jax.tree.map(lambda x: x[0], runs), *shared))

    by_run, replicated = program.by_run.spec, PartitionSpec()
    specs = (by_run, *(replicated for _ in shared))
    options = {"mesh": program.mesh, "axis_names": {RUNS}, "check_vma": False}
    mapped = jax.shard_map(on_device, in_specs=specs, out_specs=by_run, **options)
    return mapped(runs, *shared)


def _over_runs(program: Program, one: Callable[..., Any]) -> Callable[..., Any]:
    """`one(run, *shared)` for the runs of a device."""
    if program.vectorized == 1:
        return one
    return lambda runs, *shared: jax.vmap(lambda run: one(run, *shared))(runs)


def start(program: Program, identity: Identity, given: Any) -> Carry:
    """Every run of a wave before its first step. `given` are the parts of the start, where `init` is a tree."""

    def one(identity: Identity, given: Any) -> Carry:
        tx = program.optimizer(identity.numbers)
        parts = given if program.init is None else parts_of(program, tx, program.init(jax.random.key(identity.seed)))
        trained, others, model_state = jax.tree.map(_strong, parts)
        opt_state = jax.tree.map(_strong, tx.init(trained))
        return program.sharded(Carry(trained, others, model_state, opt_state, jnp.array(True)))

    return _on_devices(program, _over_runs(program, one), identity, given)


def parts_of(program: Program, tx: GradientTransformation, found: Any) -> tuple[Any, Any, Any]:
    """(trained, others, model state) of what `init` is, or gave."""
    model_state = None
    if program.objective.has_state:
        if not (isinstance(found, tuple) and len(found) == 2):
            raise bad_argument("Task", "init", "a function that returns (params, model_state), with `has_state`", found)
        found, model_state = found
    trained, others = split(found)
    if program.objective.value_and_grad_fn is None and program.run_sharding is None:
        trained = arrange(tx, trained)  # own gradients are a tree, perhaps one for each example
    return trained, others, model_state


def _strong(x: Any) -> Any:
    """Never a weak dtype."""
    x = jnp.asarray(x)
    return x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)


def advance(
    program: Program, carry: Carry, identity: Identity, active: Any, chunk: Any, interval: Interval, validation: Any
) -> tuple[Carry, Any]:
    """(the runs, what is recorded of each step [runs, chunk]) after some steps of the runs that are active; nan for
    steps that were not made and metrics that were not evaluated."""
    every, stop = _over_runs(program, partial(_step, program)), program.stop
    evaluate = _over_runs(program, partial(_evaluate, program))
    check = _over_runs(program, lambda run: run[0]._replace(finite=run[0].finite & _is_finite(run[0].trained)))

    def group(given: Any, chunk: Any, interval: Interval, validation: Any) -> Any:
        before, identity, active = given
        goes_on = lambda carry: active & (carry.finite | (not stop))

        def steps(loop: Any) -> Any:
            """As far as the next evaluation, or until a loss is not finite."""
            first, carry, record, metrics = loop

            def body(loop: Any) -> Any:
                i, _, carry, record = loop
                after, found = every((carry, identity), chunk, i, interval.begin + i)
                keep = goes_on(carry)
                set_at = lambda buffer, x: buffer.at[..., i].set(jnp.where(keep, x, jnp.nan))
                new = active & carry.finite & ~jnp.isfinite(found["loss"][""])
                return i + 1, ~jnp.any(new), after, jax.tree.map(set_at, record, found)

            end = interval.count
            if program.metrics:
                end = jnp.minimum(_next_evaluation(interval, interval.begin + first) - interval.begin, end)
            more = lambda loop: (loop[0] < end) & loop[1]
            i, _, carry, record = jax.lax.while_loop(more, body, (first, jnp.array(True), carry, record))
            carry = check((carry,))
            if program.metrics:
                due = interval.begin + i == _next_evaluation(interval, interval.begin + i - 1)
                nothing = lambda carry: jax.tree.map(lambda buffer: jnp.full_like(buffer[..., 0], jnp.nan), metrics)
                found = jax.lax.cond(due, lambda carry: evaluate((carry,), validation), nothing, carry)
                metrics = jax.tree.map(lambda buffer, x: buffer.at[..., i - 1].set(x), metrics, found)
            return i, carry, record, metrics

        like = jax.eval_shape(every, (before, identity), chunk, 0, 0)[1]
        empty = lambda like: jax.tree.map(lambda x: jnp.full((*x.shape, program.chunk), jnp.nan, x.dtype), like)
        metrics = empty({name: like["loss"][""] for name, _ in program.metrics})
        more = lambda loop: (loop[0] < interval.count) & jnp.any(goes_on(loop[1]))
        made, carry, record, metrics = jax.lax.while_loop(more, steps, (jnp.int32(0), before, empty(like), metrics))
        if program.vectorized > 1:  # one alone has made no step when it is not active
            carry = jax.vmap(lambda active, new, old: jax.tree.map(partial(_where, active), new, old))(
                active, carry, before
            )
            metrics = jax.tree.map(lambda x: jnp.where(active[:, None], x, jnp.nan), metrics)
        return carry, record | {
            "metrics": metrics,
            "finite": carry.finite,
            "made": jnp.broadcast_to(made, active.shape),
        }

    return _on_devices(program, group, (carry, identity, active), chunk, interval, validation)


def _next_evaluation(interval: Interval, step: Any) -> jax.Array:
    """The first step after this one at whose end the metrics are evaluated."""
    every = (jax.lax.div(step, interval.eval_every) + 1) * interval.eval_every  # without signs: less to compile
    return jnp.where(step < interval.eval_at, jnp.minimum(every, interval.eval_at), every)


def _step(program: Program, run: tuple[Carry, Identity], chunk: Any, i: Any, step: Any) -> tuple[Carry, Any]:
    """(the run after a step, what is recorded of it)."""
    carry, identity = run
    key = jax.random.fold_in(jax.random.key(identity.seed), step) if program.objective.takes_key else None
    batch = program.batch_at(chunk, i, identity.seed_index)
    if program.run_sharding is not None:
        batch = program.run_sharding.shard_batch(batch)
    loss_of = lambda trained: program.objective(merge(trained, carry.others), carry.model_state, batch, key)
    if program.objective.value_and_grad_fn is None:
        (loss, (model_state, aux)), grads = jax.value_and_grad(loss_of, has_aux=True)(carry.trained)
    else:
        (loss, (model_state, aux)), grads = _own_gradients(program.objective, carry, batch, key)
    extra = {"value": loss, "grad": grads}
    if program.objective.loss_fn is not None:
        loss_alone = lambda trained: loss_of(trained)[0]
        extra |= {"value_fn": loss_alone, "obj_fn": loss_alone}
    tx = program.optimizer(identity.numbers)
    updates, opt_state = tx.update(grads, carry.opt_state, carry.trained, **extra)
    trained = apply_updates(carry.trained, updates)
    trained = jax.tree.map(partial(_where, identity.is_control), carry.trained, trained)
    model_state = _same_state(carry.model_state, model_state)
    recorded = {"loss": loss, "learning_rate": _rate_of(opt_state), "aux": aux}
    carry = carry._replace(trained=trained, model_state=model_state, opt_state=opt_state)
    return program.sharded(carry), _named_scalars(recorded)


def _own_gradients(objective: Objective, carry: Carry, batch: Any, key: Any) -> Any:
    """The user's, of the parameters that are trained."""
    found, grads = objective.own_gradients(carry.params, carry.model_state, batch, key)
    is_none = lambda x: x is None
    try:
        return found, jax.tree.map(lambda p, g: None if p is None else g, carry.trained, grads, is_leaf=is_none)
    except ValueError:
        words = f"a function whose gradients are a tree as the parameters, {jax.tree.structure(carry.params)}"
        raise bad_argument("Task", "value_and_grad_fn", words, jax.tree.structure(grads)) from None


def _where(condition: Any, x: Any, y: Any) -> jax.Array:
    return jnp.where(condition, x, y)


def _is_finite(trained: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(trained)]))


def _same_state(old: Any, new: Any) -> Any:
    """The new model state, in the dtypes of the old one."""
    shapes = lambda tree: (jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)])
    if shapes(old) != shapes(new):
        described = lambda tree: jax.tree.map(jnp.shape, tree)
        words = f"a function whose new model state is a tree as the old one, {described(old)}"
        raise bad_argument("Task", "loss_fn", words, described(new))
    return jax.tree.map(lambda a, b: b if is_key(a) else jnp.asarray(b, a.dtype), old, new)


def _rate_of(opt_state: Any) -> Any:
    try:
        return get_learning_rate(opt_state)
    except ValueError:  # an optimizer that isn't lrjax's
        return None


def _named_scalars(recorded: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """By kind and path, in one dtype; rates of single parameters are left out."""
    named: dict[str, dict[str, jax.Array]] = {}
    for kind, tree in recorded.items():
        named[kind] = {}
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not jnp.ndim(x):
                named[kind][name] = jnp.asarray(x, jnp.result_type(float))
            elif kind == "aux":
                words = "a function whose auxiliary numbers are scalars"
                raise bad_argument("Task", "loss_fn", words, f"{name or 'aux'} of shape {jnp.shape(x)}")
    return named


def _evaluate(program: Program, run: tuple[Carry], validation: Any) -> dict[str, jax.Array]:
    """Every metric, over all batches of the validation set."""
    (carry,) = run
    state = (carry.model_state,) if program.objective.has_state else ()
    params, dtype = carry.params, jnp.result_type(float)

    def measure(*batch: Any) -> dict[str, jax.Array]:
        if program.run_sharding is not None:
            batch = tuple(program.run_sharding.shard_batch(x, strict=False) for x in batch)
        found = {name: metric.function(params, *state, *batch) for name, metric in program.metrics}
        for name, x in found.items():
            if jnp.ndim(x):
                raise bad_argument("Task", "metrics", "functions that return a scalar", f"{name}: {jnp.shape(x)}")
        return {name: jnp.asarray(x, dtype) for name, x in found.items()}

    if not validation:
        return measure()
    sizes = [jax.tree.leaves(batches)[0].shape[:2] for batches in validation]  # (batches, examples in each)
    total, alone = sum(count * size for count, size in sizes), lambda batches: jax.tree.map(lambda x: x[0], batches)
    parts = []
    for batches, (count, size) in zip(validation, sizes, strict=True):
        found = measure(alone(batches)) if count == 1 else jax.lax.map(measure, batches)
        parts.append(jax.tree.map(lambda x, share=size / total: jnp.sum(x) * share, found))
    return jax.tree.map(lambda *xs: sum(xs[1:], xs[0]), *parts)
