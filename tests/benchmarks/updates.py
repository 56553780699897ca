"""Updates: eager, jitted, their compilation and memory, and how many programs three rates make."""

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lrjax
from lrjax.catalogue import public_values
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
CLIPPED = "clip_by_global_norm, adamw"
_TIMED = {name.split(",")[0] for name in OPTIMIZERS}
PACKED = f"{CLIPPED}, packed"  # ours; Optax has nothing like it, so beside its plain chain
CURVATURE = ("sophia",)  # need the loss as a function
TREES = {"1 × 10M": trees.one_array, "144 of a Transformer": trees.transformer, "1,000 × 64": trees.thousand}
THOUSAND = "1,000 × 64"
GOAL = 1.05  # of a jitted update
ALONE = f"{CLIPPED}, new process"
GOALS = {(ALONE, "1 × 10M"): 0.55, (ALONE, "144 of a Transformer"): 0.55, (PACKED, THOUSAND): 0.6}


def measure(quick: bool) -> list[Table]:
    return [_eager(quick), *_jitted(quick), *([] if quick else [_others()]), _traces()]


def _maker(name: str) -> Callable[[Any], Any]:
    if name == PACKED:
        return lambda m: lrjax.packed(OPTIMIZERS[CLIPPED](m)) if m is lrjax else OPTIMIZERS[CLIPPED](m)
    return OPTIMIZERS[name]


def _eager(quick: bool) -> Table:
    table = Table("An update, called eagerly", "optimizer", ["20 arrays", "144 arrays, 0.6M", "144 arrays, 10M"])
    table.goals = {("adam", "20 arrays"): 1 / 8, ("adam", "144 arrays, 0.6M"): 1 / 10}
    blocks, budget = (11, 0.5) if quick else (31, 2.0)
    for name in ("sgd, momentum", "adam", "adamw"):
        for column, tree in zip(table.columns, (trees.small, trees.narrow, trees.transformer), strict=True):
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
    own = lrjax if isinstance(tx, lrjax.GradientTransformation) else optax
    tx = own.with_extra_args_support(tx)  # polyak_sgd needs the loss

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return apply_updates(params, updates), state

    apply_updates = getattr(library, "apply_updates", optax.apply_updates)
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
    table.goals = {(optimizer, name): GOAL for optimizer in OPTIMIZERS for name in names} | GOALS
    costs = [f"{cost}, {name}" for name in names[1:] for cost in ("compile", "bytes")]
    made = Table(f"{title}: its first trace, lowering and compilation; temporary and output bytes", "optimizer", costs)
    made.goals = {(PACKED, f"compile, {THOUSAND}"): 0.5}
    beside_torch = Table(f"{title}, beside PyTorch's own step", "optimizer", names)
    size = (11, 0.6) if quick else (31, 2.0)
    for name in names:
        params = TREES[name]()
        grads = trees.gradients(params)
        _warm(params)
        for optimizer in ("adam", CLIPPED, PACKED) if name == THOUSAND else OPTIMIZERS:
            ours, theirs = (compiled(m, _maker(optimizer)(m), params) for m in (lrjax, optax))
            call = _calls(ours, grads)
            goal = table.goals.get((optimizer, name), GOAL)
            table.add(optimizer, {name: ratio(call, _calls(theirs, grads), *size, goal)})
            if name != names[0]:  # to compile for one array takes no time
                compile_time, memory = ours.seconds / theirs.seconds, ours.bytes / theirs.bytes
                made.add(optimizer, {f"compile, {name}": compile_time, f"bytes, {name}": memory})
            if optimizer == CLIPPED and name != THOUSAND:
                table.add(ALONE, {name: _alone(name)})
            if pytorch.has(optimizer):
                beside_torch.add(optimizer, {name: ratio(call, pytorch.step(optimizer, params, grads), *size)})
    return [table, made, *([beside_torch] if beside_torch.rows else [])]


def _alone(name: str) -> float:
    """The ratio of clip with AdamW in a new process, where what one of them needs besides is fetched at every call."""
    code = f"from tests.benchmarks import updates; print(updates.clipped({name!r}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def clipped(name: str) -> float:
    params = TREES[name]()
    ours, theirs = (compiled(m, OPTIMIZERS[CLIPPED](m), params) for m in (lrjax, optax))
    grads = trees.gradients(params)
    return ratio(_calls(ours, grads), _calls(theirs, grads), 31, 2.0)


def _both() -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """The public optimizers that Optax has too, and that aren't timed above: by name, ours and Optax's."""
    found = {}
    for name, cls in public_values(vars(lrjax)).items():
        theirs = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        if cls.__module__.startswith("lrjax.optimizers.") and theirs and name not in (*CURVATURE, *_TIMED):
            found[name] = (cls, theirs)
    return found


def _others() -> Table:
    """Every other optimizer that Optax has too."""
    table = Table("A jitted update of 144 arrays: the other optimizers", "optimizer", ["time", "bytes"])
    params = trees.transformer()
    grads = trees.gradients(params)
    for name, (make, make_theirs) in _both().items():
        key = {"key": 0} if "key" in inspect.signature(make).parameters else {}
        ours, theirs = (compiled(m, f(1e-3, **key), params) for m, f in ((lrjax, make), (optax, make_theirs)))
        table.goals[name, "time"], table.goals[name, "bytes"] = GOAL, 1.001
        time_ratio = ratio(_calls(ours, grads), _calls(theirs, grads), 15, 1.5, GOAL)
        table.add(name, {"time": time_ratio, "bytes": ours.bytes / theirs.bytes})
    return table


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
