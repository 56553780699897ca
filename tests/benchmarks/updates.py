"""Updates: eager, jitted, their compilation and memory, and how many programs three rates make."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lrjax
from tests.benchmarks import pytorch, trees
from tests.benchmarks.table import Table
from tests.benchmarks.timing import ratio

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {  # by library, whose names are the same
    "sgd, momentum": lambda m: m.sgd(1e-3, momentum=0.9),
    "adagrad": lambda m: m.adagrad(1e-3),
    "rmsprop": lambda m: m.rmsprop(1e-3),
    "adam": lambda m: m.adam(1e-3),
    "adamw": lambda m: m.adamw(1e-3),
    "amsgrad": lambda m: m.amsgrad(1e-3),
    "clip_by_global_norm, adamw": lambda m: m.chain(m.clip_by_global_norm(1.0), m.adamw(1e-3)),
}
TREES = {"1 × 10M": trees.one_array, "144 of a Transformer": trees.transformer, "1,000 × 64": trees.thousand}
GOAL = 1.05  # of a jitted update


def measure(quick: bool) -> list[Table]:
    return [_eager(quick), *_jitted(quick), _traces()]


def _eager(quick: bool) -> Table:
    table = Table("An update, called eagerly", "optimizer", ["20 arrays", "144 arrays"])
    table.goals = {("adam", "20 arrays"): 1 / 8}
    blocks, budget = (11, 0.5) if quick else (31, 2.0)
    for name in ("sgd, momentum", "adam", "adamw"):
        for column, tree in zip(table.columns, (trees.small, trees.transformer), strict=True):
            params = tree()
            ours, theirs = (_update(OPTIMIZERS[name](m), params) for m in (lrjax, optax))
            table.add(name, {column: ratio(ours, theirs, blocks, budget)})
    return table


def _update(tx: Any, params: Any) -> Callable[[], Any]:
    grads, state = trees.gradients(params), tx.init(params)
    return lambda: tx.update(grads, state, params)


class Compiled(NamedTuple):
    """A training step without its gradients: update, and `apply_updates`."""

    seconds: float  # of the processor, to trace, lower and compile it for the first time
    bytes: int  # temporary and output
    run: Callable[..., Any]
    start: Any


def compiled(library: Any, tx: Any, params: Any) -> Compiled:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return library.apply_updates(params, updates), state

    state = tx.init(params)
    begin = time.process_time()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    seconds = time.process_time() - begin
    memory = program.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Compiled(seconds, size, program, (params, state))


def _calls(step: Compiled, grads: Any) -> Callable[[], Any]:
    """One call after the other, each with the result of the one before, whose memory it may take."""
    current = jax.tree.map(jnp.copy, step.start)

    def call() -> Any:
        nonlocal current
        current = step.run(*current, grads)
        return current

    return call


def _jitted(quick: bool) -> list[Table]:
    names = list(TREES)[: 2 if quick else 3]
    title = "A jitted update with `apply_updates`"
    table = Table(title, "optimizer", names)
    table.goals = {(optimizer, name): GOAL for optimizer in OPTIMIZERS for name in names}
    costs = [f"{cost}, {name}" for name in names[1:] for cost in ("compile", "bytes")]
    made = Table(f"{title}: its first trace, lowering and compilation; temporary and output bytes", "optimizer", costs)
    beside_torch = Table(f"{title}, beside PyTorch's own step", "optimizer", names)
    size = (11, 0.6) if quick else (31, 2.0)
    for name in names:
        params = TREES[name]()
        grads = trees.gradients(params)
        _warm(params)
        for optimizer, make in OPTIMIZERS.items():
            ours, theirs = (compiled(m, make(m), params) for m in (lrjax, optax))
            call = _calls(ours, grads)
            table.add(optimizer, {name: ratio(call, _calls(theirs, grads), *size, GOAL)})
            if name != names[0]:  # to compile for one array takes no time
                compile_time, memory = ours.seconds / theirs.seconds, ours.bytes / theirs.bytes
                made.add(optimizer, {f"compile, {name}": compile_time, f"bytes, {name}": memory})
            if pytorch.has(optimizer):
                beside_torch.add(optimizer, {name: ratio(call, pytorch.step(optimizer, params, grads), *size)})
    return [table, made, *([beside_torch] if beside_torch.rows else [])]


def _warm(params: Any) -> None:
    """Fills the caches of JAX's own functions for these shapes, so that the library that compiles first doesn't pay."""
    shapes = {str(p.shape): p for p in jax.tree.leaves(params)}
    for make in OPTIMIZERS.values():
        for library in (lrjax, optax):
            tx = make(library)
            jax.jit(tx.update).trace(shapes, tx.init(shapes), shapes)


def _traces() -> Table:
    """How often Python runs through a training step that sees three rates."""
    counts = {}
    for library, is_static in ((lrjax, False), (optax, True)):
        traces = 0

        def step(tx: Any, params: Any, state: Any, grads: Any) -> Any:
            nonlocal traces
            traces += 1
            updates, state = tx.update(grads, state, params)
            return library.apply_updates(params, updates), state  # noqa: B023

        run = jax.jit(step, static_argnums=0 if is_static else ())
        params = trees.small()
        for rate in (1e-3, 1e-2, 1e-1):
            tx = library.adam(rate)
            run(tx, params, tx.init(params), params)
        counts[library.__name__] = traces
    table = Table("Traces of a training step that sees three rates", "optimizer, an argument of the step", list(counts))
    table.add("adam", counts)
    table.goals = {("adam", "lrjax"): 1}
    return table
