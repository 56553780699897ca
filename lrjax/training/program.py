"""The compiled program of the engine: starts and advances a wave of runs, each a pure function of its inputs."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.numerics import Array, ArrayTree, path_name
from lrjax.training.objective import Metric, Objective
from lrjax.training.parameters import is_key, join_small, merge, split
from lrjax.training.sharding import RUNS, RunSharding, normalized_spec
from lrjax.transforms.apply import apply_updates
from lrjax.transforms.averaging import evaluation_params
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.transforms.lookahead import LookaheadParams
from lrjax.transforms.read_rate import get_learning_rate
from lrjax.value import bad_argument


class Carry(NamedTuple):
    """The carry of a run from step to step. In a wave the first axis of every array is the run."""

    trained: Any  # the floating parameters, a tree or one vector
    others: ArrayTree  # the parameters that are not trained
    model_state: ArrayTree
    opt_state: ArrayTree
    finite: Array  # bool (): whether all parameters were finite at the last check

    @property
    def params(self) -> ArrayTree:
        return merge(self.trained, self.others)

    @property
    def evaluation_params(self) -> ArrayTree:
        """What metrics are given: an average where the optimizer keeps one; with `lookahead` both are the slow ones."""
        found = evaluation_params(self.opt_state, self.trained)
        if isinstance(self.trained, LookaheadParams):
            found = LookaheadParams(found, found)
        return merge(found, self.others)


class RunInputs(NamedTuple):
    """All that a run depends on besides the program and the data."""

    hyperparams: Any
    seed: Array
    seed_index: Array  # in the list of seeds
    is_control: Array  # bool: whether it never updates, to show how the loss changes without training


class Interval(NamedTuple):
    """The steps of one call; traced, so that another length compiles nothing."""

    begin: Array
    count: Array
    eval_every: Array
    eval_at: Array  # and after this step


@dataclasses.dataclass(frozen=True)
class Program:
    """All that the compiled functions depend on; equal programs share them, for any number of runs and steps."""

    objective: Objective
    make_optimizer: Callable[[Any], Any]  # from the hyperparameters of a run
    batch_at: Callable[[Any, Any, Any], Any]  # see `Batches`
    init: Callable[[Any], Any] | None
    metrics: tuple[tuple[str, Metric], ...]
    chunk_size: int  # the most steps of one call
    runs_per_device: int  # that are vectorised
    stop_diverged: bool  # whether a device stops when no run on it has finite parameters
    mesh: Mesh  # "runs", and the axes over which a run is sharded
    run_sharding: RunSharding | None

    def optimizer(self, hyperparams: Any) -> GradientTransformation:
        """Makes the optimizer of one run."""
        return as_transformation(self.make_optimizer(hyperparams))

    def sharded(self, carry: Carry) -> Carry:
        """Constrains the sharding of the carry of a run, inside the program."""
        return carry if self.run_sharding is None else self.run_sharding.shard_carry(carry)

    @property
    def wave_size(self) -> int:
        return self.mesh.shape[RUNS] * self.runs_per_device

    @property
    def by_run(self) -> NamedSharding:
        return NamedSharding(self.mesh, normalized_spec(PartitionSpec(RUNS), self.mesh))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


def put_on_devices(tree: Any, shardings: Any) -> Any:
    """Puts a tree on the devices, by one sharding or a tree of them. All processes pass the same tree, each puts its
    shards."""

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


def _map_over_devices(program: Program, function: Callable[..., Any], runs: Any, *shared: Any) -> Any:
    """Calls `function(runs, *shared)` on each device. A single run has no axis: XLA is slower with an axis of 1."""

    def on_device(runs: Any, *shared: Any) -> Any:
        if program.runs_per_device > 1:
            return function(runs, *shared)
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], runs), *shared))

    by_run, replicated = program.by_run.spec, PartitionSpec()
    specs = (by_run, *(replicated for _ in shared))
    options = {"mesh": program.mesh, "axis_names": {RUNS}, "check_vma": False}
    mapped = jax.shard_map(on_device, in_specs=specs, out_specs=by_run, **options)
    return mapped(runs, *shared)


def _map_over_runs(program: Program, one: Callable[..., Any]) -> Callable[..., Any]:
    """Maps `one(run, *shared)` over the runs of a device."""
    if program.runs_per_device == 1:
        return one
    return lambda runs, *shared: jax.vmap(lambda run: one(run, *shared))(runs)


def start(program: Program, inputs: RunInputs, given_init: Any) -> Carry:
    """Initialises the runs of a wave. `given_init` is what `split_init` returns where `init` is a tree."""

    def one(inputs: RunInputs, given_init: Any) -> Carry:
        tx = program.optimizer(inputs.hyperparams)
        if program.init is None:
            parts = given_init
        else:
            parts = split_init(program, tx, program.init(jax.random.key(inputs.seed)))
        trained, others, model_state = jax.tree.map(_strongly_typed, parts)
        opt_state = jax.tree.map(_strongly_typed, tx.init(trained))
        return program.sharded(Carry(trained, others, model_state, opt_state, jnp.array(True)))

    return _map_over_devices(program, _map_over_runs(program, one), inputs, given_init)


def split_init(program: Program, tx: GradientTransformation, init: Any) -> tuple[Any, Any, Any]:
    """Splits what `init` is, or returned, into (trained parameters, other parameters, model state)."""
    params, model_state = init, None
    if program.objective.has_state:
        if not (isinstance(init, tuple) and len(init) == 2):
            raise bad_argument("Task", "init", "a function that returns (params, model_state), with `has_state`", init)
        params, model_state = init
    trained, others = split(params)
    if program.objective.value_and_grad_fn is None and program.run_sharding is None:
        trained = join_small(tx, trained)  # the user's own gradients are a tree, perhaps per example
    return trained, others, model_state


def _strongly_typed(x: Any) -> Any:
    """Converts a weak dtype to a strong one."""
    x = jnp.asarray(x)
    return x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)


def advance(
    program: Program, carry: Carry, inputs: RunInputs, active: Any, chunk: Any, interval: Interval, validation: Any
) -> tuple[Carry, Any]:
    """Trains the active runs for some steps. Returns (carry, record [runs, chunk_size]), with nan for steps that were
    not made and metrics that were not evaluated."""
    step_runs, stop_diverged = _map_over_runs(program, partial(_step, program)), program.stop_diverged
    evaluate = _map_over_runs(program, partial(_evaluate, program))
    check = _map_over_runs(program, lambda run: run[0]._replace(finite=run[0].finite & _is_finite(run[0].trained)))

    def on_device(runs: Any, chunk: Any, interval: Interval, validation: Any) -> Any:
        before, inputs, active = runs
        continues = lambda carry: active & (carry.finite | (not stop_diverged))

        def steps(loop: Any) -> Any:
            """Trains up to the next evaluation, or until a loss is not finite."""
            first, carry, record, metrics = loop

            def body(loop: Any) -> Any:
                i, _, carry, record = loop
                after, recorded = step_runs((carry, inputs), chunk, i, interval.begin + i)
                mask = continues(carry)
                set_at = lambda buffer, x: buffer.at[..., i].set(jnp.where(mask, x, jnp.nan))
                not_finite = active & carry.finite & ~jnp.isfinite(recorded["loss"][""])
                return i + 1, ~jnp.any(not_finite), after, jax.tree.map(set_at, record, recorded)

            end = interval.count
            if program.metrics:
                end = jnp.minimum(_next_evaluation(interval, interval.begin + first) - interval.begin, end)
            condition = lambda loop: (loop[0] < end) & loop[1]
            i, _, carry, record = jax.lax.while_loop(condition, body, (first, jnp.array(True), carry, record))
            carry = check((carry,))
            if program.metrics:
                is_due = interval.begin + i == _next_evaluation(interval, interval.begin + i - 1)
                skip = lambda carry: jax.tree.map(lambda buffer: jnp.full_like(buffer[..., 0], jnp.nan), metrics)
                evaluated = jax.lax.cond(is_due, lambda carry: evaluate((carry,), validation), skip, carry)
                metrics = jax.tree.map(lambda buffer, x: buffer.at[..., i - 1].set(x), metrics, evaluated)
            return i, carry, record, metrics

        shapes = jax.eval_shape(step_runs, (before, inputs), chunk, 0, 0)[1]
        buffers = lambda tree: jax.tree.map(lambda x: jnp.full((*x.shape, program.chunk_size), jnp.nan, x.dtype), tree)
        metrics = buffers({name: shapes["loss"][""] for name, _ in program.metrics})
        condition = lambda loop: (loop[0] < interval.count) & jnp.any(continues(loop[1]))
        begin = (jnp.int32(0), before, buffers(shapes), metrics)
        steps_made, carry, record, metrics = jax.lax.while_loop(condition, steps, begin)
        if program.runs_per_device > 1:  # a single run that is not active has made no step
            carry = jax.vmap(lambda active, new, old: jax.tree.map(partial(_where, active), new, old))(
                active, carry, before
            )
            metrics = jax.tree.map(lambda x: jnp.where(active[:, None], x, jnp.nan), metrics)
        return carry, record | {
            "metrics": metrics,
            "finite": carry.finite,
            "steps_made": jnp.broadcast_to(steps_made, active.shape),
        }

    return _map_over_devices(program, on_device, (carry, inputs, active), chunk, interval, validation)


def _next_evaluation(interval: Interval, step: Any) -> jax.Array:
    """Returns the first step after this one at whose end the metrics are evaluated."""
    every = (jax.lax.div(step, interval.eval_every) + 1) * interval.eval_every  # steps are >= 0: `//` compiles to more
    return jnp.where(step < interval.eval_at, jnp.minimum(every, interval.eval_at), every)


def _step(program: Program, run: tuple[Carry, RunInputs], chunk: Any, i: Any, step: Any) -> tuple[Carry, Any]:
    """Trains a run for a step. Returns (carry, what is recorded)."""
    carry, inputs = run
    key = jax.random.fold_in(jax.random.key(inputs.seed), step) if program.objective.takes_key else None
    batch = program.batch_at(chunk, i, inputs.seed_index)
    if program.run_sharding is not None:
        batch = program.run_sharding.shard_batch(batch)
    loss_of = lambda trained: program.objective(merge(trained, carry.others), carry.model_state, batch, key)
    if program.objective.value_and_grad_fn is None:
        (loss, (model_state, aux)), grads = jax.value_and_grad(loss_of, has_aux=True)(carry.trained)
    else:
        (loss, (model_state, aux)), grads = _user_value_and_grad(program.objective, carry, batch, key)
    extra = {"value": loss, "grad": grads}
    if program.objective.loss_fn is not None:
        value_fn = lambda trained: loss_of(trained)[0]
        extra |= {"value_fn": value_fn, "obj_fn": value_fn}
    tx = program.optimizer(inputs.hyperparams)
    updates, opt_state = tx.update(grads, carry.opt_state, carry.trained, **extra)
    trained = apply_updates(carry.trained, updates)
    trained = jax.tree.map(partial(_where, inputs.is_control), carry.trained, trained)
    model_state = _cast_state(carry.model_state, model_state)
    recorded = {"loss": loss, "learning_rate": _rate_of(opt_state), "aux": aux}
    carry = carry._replace(trained=trained, model_state=model_state, opt_state=opt_state)
    return program.sharded(carry), _named_scalars(recorded)


def _user_value_and_grad(objective: Objective, carry: Carry, batch: Any, key: Any) -> Any:
    """Calls the user's `value_and_grad_fn`, and drops the gradients of parameters that are not trained."""
    value, grads = objective.user_value_and_grad(carry.params, carry.model_state, batch, key)
    is_none = lambda x: x is None
    try:
        return value, jax.tree.map(lambda p, g: None if p is None else g, carry.trained, grads, is_leaf=is_none)
    except ValueError:
        words = f"a function whose gradients are a tree as the parameters, {jax.tree.structure(carry.params)}"
        raise bad_argument("Task", "value_and_grad_fn", words, jax.tree.structure(grads)) from None


def _where(condition: Any, x: Any, y: Any) -> jax.Array:
    return jnp.where(condition, x, y)


def _is_finite(trained: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(trained)]))


def _cast_state(old: Any, new: Any) -> Any:
    """Casts the new model state to the dtypes of the old one; the shapes must be the same."""
    layout = lambda tree: (jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)])
    if layout(old) != layout(new):
        shapes = lambda tree: jax.tree.map(jnp.shape, tree)
        words = f"a function whose new model state is a tree as the old one, {shapes(old)}"
        raise bad_argument("Task", "loss_fn", words, shapes(new))
    return jax.tree.map(lambda a, b: b if is_key(a) else jnp.asarray(b, a.dtype), old, new)


def _rate_of(opt_state: Any) -> Any:
    try:
        return get_learning_rate(opt_state)
    except ValueError:  # an optimizer of another library
        return None


def _named_scalars(recorded: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """Names scalars by kind and path and casts them to one dtype; leaves out per-parameter rates."""
    named: dict[str, dict[str, jax.Array]] = {}
    for kind, tree in recorded.items():
        named[kind] = {}
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            if not jnp.ndim(x):
                named[kind][name] = jnp.asarray(x, jnp.result_type(float))
            elif kind == "aux":
                words = "a function whose auxiliary numbers are scalars"
                raise bad_argument("Task", "loss_fn", words, f"{name or 'aux'} of shape {jnp.shape(x)}")
    return named


def _evaluate(program: Program, run: tuple[Carry], validation: Any) -> dict[str, jax.Array]:
    """Evaluates every metric, over all batches of the validation set."""
    (carry,) = run
    state = (carry.model_state,) if program.objective.has_state else ()
    params, dtype = carry.evaluation_params, jnp.result_type(float)

    def measure(*batch: Any) -> dict[str, jax.Array]:
        if program.run_sharding is not None:
            batch = tuple(program.run_sharding.shard_batch(x, strict=False) for x in batch)
        values = {name: metric.function(params, *state, *batch) for name, metric in program.metrics}
        for name, x in values.items():
            if jnp.ndim(x):
                raise bad_argument("Task", "metrics", "functions that return a scalar", f"{name}: {jnp.shape(x)}")
        return {name: jnp.asarray(x, dtype) for name, x in values.items()}

    if not validation:
        return measure()
    sizes = [jax.tree.leaves(batches)[0].shape[:2] for batches in validation]  # (batches, examples in each)
    total, first = sum(count * size for count, size in sizes), lambda batches: jax.tree.map(lambda x: x[0], batches)
    parts = []
    for batches, (count, size) in zip(validation, sizes, strict=True):
        values = measure(first(batches)) if count == 1 else jax.lax.map(measure, batches)
        parts.append(jax.tree.map(lambda x, weight=size / total: jnp.sum(x) * weight, values))
    return jax.tree.map(lambda *xs: sum(xs[1:], xs[0]), *parts)
