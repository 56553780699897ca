"""Calls of a jitted step from Python: what an optimizer as an argument costs beside one in a closure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lrjax
from tests.benchmarks.table import Table
from tests.benchmarks.timing import difference, ratio

LEAVES = {"20 leaves": 8, "144 leaves": 70, "1,000 leaves": 498}  # of a state: two for each parameter, and four
GOAL = 15  # microseconds


def measure(quick: bool) -> list[Table]:
    table = Table(
        "A jitted step with Adam, called from Python: beside Optax's in a closure, and microseconds beside our own",
        "optimizer",
        list(LEAVES),
    )
    in_a_closure, as_argument, of_arrays = (
        "in a closure, / Optax's",
        "as an argument, µs",
        "as an argument of arrays, µs",
    )
    # a Python number takes about 4 µs; with 1,000 arrays the time of the step itself varies by more
    table.goals = {(of_arrays, column): GOAL for column in list(LEAVES)[:2]}
    blocks, budget = (11, 0.5) if quick else (51, 3.0)
    for column, n in LEAVES.items():
        params = {f"p{i}": jnp.ones(4) for i in range(n)}
        ours, theirs = lrjax.adam(1e-3), optax.adam(1e-3)
        closure, argument = _closure(lrjax, ours, params), _argument(ours, params)
        table.add(in_a_closure, {column: ratio(closure, _closure(optax, theirs, params), blocks, budget)})
        table.add(as_argument, {column: difference(argument, closure, blocks, budget)})
        arrays = _argument(jax.tree.map(jnp.asarray, ours), params)
        table.add(of_arrays, {column: difference(arrays, closure, blocks, budget)})
    return [table]


def _step(library: Any, tx: Any, params: Any, state: Any) -> Any:
    updates, state = tx.update(params, state, params)
    return library.apply_updates(params, updates), state


def _closure(library: Any, tx: Any, params: Any) -> Callable[[], Any]:
    step, state = jax.jit(lambda params, state: _step(library, tx, params, state)), tx.init(params)
    return lambda: step(params, state)


def _argument(tx: Any, params: Any) -> Callable[[], Any]:
    step, state = jax.jit(lambda tx, params, state: _step(lrjax, tx, params, state)), tx.init(params)
    return lambda: step(tx, params, state)
