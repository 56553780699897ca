"""Continues a finished run: `train(start=...)`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import unboxed
from lrjax.training.engine import Engine
from lrjax.training.parameters import Joined, is_joined, split
from lrjax.training.program import Carry
from lrjax.training.result import Run
from lrjax.training.waves import fetch
from lrjax.transforms.guard import guards_in
from lrjax.transforms.migrate import migrate_state
from lrjax.transforms.state_nodes import Node, read_nodes
from lrjax.value import bad_argument

_SHOWN = 5  # paths in an error
_REPLACED = (
    "`start=dataclasses.replace(start, opt_state=lrjax.migrate_state(start.opt_state, optimizer, start.params).state)`"
)
# states whose `hyperparams` repeat numbers of the optimizer
_RECORDED = ("ScheduledState", "InjectHyperparamsState", "InjectStatefulHyperparamsState")


def check_start(caller: str, start: Any, seed: int | None, steps: int) -> int:
    """Checks the argument `start`, and `seed` and `steps` beside it. Returns the seed."""
    if start is None:
        return 0 if seed is None else seed
    if not isinstance(start, Run):
        raise bad_argument(caller, "start", "a Run, of `train` or `Run.load`", start)
    if seed not in (None, start.seed):
        raise bad_argument(caller, "seed", f"left out, or {start.seed} as that of `start`", seed)
    if steps <= len(start.losses):
        raise bad_argument(caller, "steps", counted_from(start), steps)
    if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(split(start.params)[0])):
        raise bad_argument(caller, "start", "a Run that ended with finite parameters", start)
    return start.seed


def counted_from(start: Run) -> str:
    """Returns what `steps` must be beside `start`, for an error."""
    return f"more than the {len(start.losses):,} of `start`: it counts these and the new ones"


def continue_run(engine: Engine, start: Run) -> None:
    """Makes the run of an engine, built with `begin` at the end of `start`, go on from there, and copies its record.

    Raises:
      ValueError: the parameters or the model state are not those of the task, or the optimizer state has numbers that
        the optimizer has no place for.
    """
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), engine.carry_shapes())
    params_like = jax.eval_shape(lambda carry: carry.params, like)
    for kind, given, expected in (
        ("parameters", start.params, params_like),
        ("model state", start.model_state, like.model_state),
    ):
        if _describe(given) != _describe(expected):
            words = f"a Run of this task, with the {kind} {_words(expected)}"
            raise bad_argument(engine.caller, "start", words, _words(given))
    trained, others = split(start.params)
    opt_state = _migrated(engine, start, jax.tree.map(jnp.asarray, trained))
    carry = Carry(trained, others, start.model_state, opt_state, jnp.array(True))
    on_host = jax.tree.map(lambda x: fetch(x) if isinstance(x, jax.Array) else np.asarray(x), carry)
    engine.initial = jax.tree.map(_joined_like, like, on_host, is_leaf=is_joined)
    _copy_record(engine, start)


def _describe(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]


def _words(tree: Any) -> Any:
    return jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", tree)


def _joined_like(like: Any, x: Any) -> Any:
    if not is_joined(like):
        return x
    vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])
    return Joined(vector, like.structure, like.shapes)


def _migrated(engine: Engine, start: Run, trained: Any) -> Any:
    """Returns the optimizer state of `start` for the optimizer of the engine."""
    tx = engine.program.optimizer(jax.tree.map(lambda x: x[0], engine.runs.hyperparams))
    found = migrate_state(start.opt_state, tx, trained, updates=len(start.losses))
    listed = [f"`{path}`" for path in _lost(start.opt_state, found.unused, trained)]
    listed += [f"`{path}` of the new state: {why}" for path, why in found.initial.items() if why != "not saved"]
    if listed:
        without = f"To go on without, `import dataclasses` and give {_REPLACED}."
        if _lost_guard(start, tx, trained):
            raise ValueError(
                f"{engine.caller}: `optimizer` must be guarded, since the run of `start` was: give `guard=True`, or "
                f"`lrjax.guard(optimizer)`. {without}"
            )
        more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise ValueError(
            f"{engine.caller}: `optimizer` must have a place for all that the optimizer of `start` kept. {without} Not "
            f"carried over: {', '.join(listed[:_SHOWN])}{more}."
        )
    structure = jax.tree.structure(jax.eval_shape(tx.init, trained))  # with the boxes of nnx, if there were any
    return structure.unflatten(jax.tree.leaves(found.state))


def _lost_guard(start: Run, tx: Any, trained: Any) -> bool:
    return bool(guards_in(start.opt_state)) and not guards_in(jax.eval_shape(tx.init, trained))


def _lost(state: Any, unused: tuple[str, ...], trained: Any) -> list[str]:
    """Returns the paths of unused numbers that the updates depend on: not of counts, of a scale that is 1, and of what
    a state repeats of the optimizer or of its last update."""
    state = unboxed(state)
    nodes = read_nodes(state, state, jax.eval_shape(lambda: unboxed(trained)))[1]
    paths = set(unused)
    return [
        leaf.name
        for node in nodes
        for (field, _), leaf in node.leaves.items()
        if leaf.name in paths and jnp.issubdtype(leaf.x.dtype, jnp.inexact) and not _is_needless(node, field, leaf.x)
    ]


def _is_needless(node: Node, field: str, x: Any) -> bool:
    if node.is_rate:
        return field != "scale" or bool(np.all(np.asarray(x) == 1))
    return node.kind in _RECORDED and field == "hyperparams"


def _copy_record(engine: Engine, start: Run) -> None:
    """Copies the record of `start` into that of the engine, under the names that this has."""
    record, made = engine.record, len(start.losses)
    record.losses[0, :made] = start.losses
    rates = start.learning_rates if isinstance(start.learning_rates, dict) else {"": start.learning_rates}
    for name, x in record.learning_rates.items():
        if (known := rates.get(name, rates.get(""))) is not None:  # a group of now had the rate of all before
            x[0, :made] = known
    for name in record.aux.keys() & start.aux.keys():
        record.aux[name][0, :made] = start.aux[name]
    for name in record.metrics.keys() & start.metrics.keys():
        record.metrics[name][0, start.evaluated_at - 1] = start.metrics[name]
    record.steps_made[:], record.position[:] = made, (0, made)
    engine.evaluated_before = start.evaluated_at
