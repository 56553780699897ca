"""Lifts a formula on arrays to trees of parameters: the machinery of every transformation that has moments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.numerics import common_dtype, narrowed, safe_increment
from lrjax.transforms.base import assert_agree, transformation_class
from lrjax.value import enter


class Slot(NamedTuple):
    """How a slot of the state begins: a tree like the parameters, filled with a number.

    `dtype` and `start` name the hyperparameters that say so; a `real` slot of a complex parameter is real.
    """

    dtype: str | None = None
    start: str | None = None
    real: bool = False


def is_none(x: Any) -> bool:
    return x is None


def compute_dtype(x: Any) -> Any:
    """The dtype in which a formula is evaluated: float32 for the narrow floats, else the array's own."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"`updates` must be floating or complex, got {dtype}.")
    return common_dtype(dtype, jnp.float32)


def real_dtype(dtype: Any) -> Any:
    return jnp.finfo(dtype).dtype


def map_updates(formula: Callable[..., Any], updates: Any, *trees: Any, dtypes: Any = None) -> Any:
    """`formula` on every leaf of the updates and its like in `trees`, in float32 at least; the result has the dtype of
    the update, or of the leaf of `dtypes`. A leaf that is None stays so."""

    def leaf(u: Any, *rest: Any) -> Any:
        if u is None:
            return None
        like = rest[-1] if dtypes is not None else u
        dtype = compute_dtype(u)
        out = formula(*(jnp.asarray(x).astype(_match(dtype, x)) for x in (u, *rest[: len(trees)])))
        return narrowed(out, jnp.result_type(like))

    others = trees if dtypes is None else (*trees, dtypes)
    return jax.tree.map(leaf, updates, *others, is_leaf=is_none)


def _match(dtype: Any, x: Any) -> Any:
    """`dtype`, but real for a real array."""
    return dtype if jnp.iscomplexobj(x) else real_dtype(dtype)


def cast(scalar: jax.Array, like: jax.Array) -> jax.Array:
    """A scalar in the real dtype of an array."""
    return scalar.astype(real_dtype(like.dtype))


def elementwise(State: Any, **slots: Slot) -> Callable[[Callable[..., Any]], Any]:
    """Makes a transformation of a formula in two stages:

        @elementwise(ScaleByAdamState, nu=Slot(real=True))
        def scale_by_adam(t, b1: Decay = 0.9, ...):
            ...                          # scalars of the step: once for the whole tree
            def leaf(g, mu, nu):         # one expression for each array
                ...
                return update, mu, nu
            return leaf

    The slots are the fields of the `State` but `count`; `t` counts the updates from 1. The scalars come in the dtype
    of the formula, which is float32 for narrower arrays; results go back to the dtypes of the update and the state.
    """
    counts = "count" in State._fields
    names = [f for f in State._fields if f != "count"]
    specs = [slots.get(name, Slot()) for name in names]

    def init(params: Any, tx: Any) -> Any:
        def fill(spec: Slot) -> Any:
            start = 0 if spec.start is None else getattr(tx, spec.start)
            dtype = None if spec.dtype is None else getattr(tx, spec.dtype)
            return jax.tree.map(lambda p: _full(p, start, dtype, spec.real), params)

        filled = dict(zip(names, map(fill, specs), strict=True))
        return State(**filled, **({"count": jnp.zeros([], jnp.int32)} if counts else {}))

    def decorate(formula: Callable[..., Any]) -> Any:
        def update(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
            hyperparams = enter(tx)
            new_count = {"count": safe_increment(state.count)} if counts else {}
            leaf_formulas: dict[Any, Any] = {}

            def formula_in(dtype: Any) -> Any:  # one set of scalars for each dtype, which is mostly one
                if dtype not in leaf_formulas:
                    scalars = {k: v.astype(dtype) if isinstance(v, jax.Array) else v for k, v in hyperparams.items()}
                    t = (new_count["count"].astype(dtype),) if counts else ()
                    leaf_formulas[dtype] = formula(*t, **scalars)
                return leaf_formulas[dtype]

            leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
            columns = [_column(formula.__name__, treedef, updates, name, getattr(state, name)) for name in names]
            out, *new = _rows(formula_in, leaves, columns, specs)
            unflattened = {n: treedef.unflatten(column) for n, column in zip(names, new, strict=True)}
            return treedef.unflatten(out), State(**unflattened, **new_count)

        return transformation_class(formula, init, update, ("t",) if counts else (), takes_extra=False)

    return decorate


def _full(p: Any, start: Any, dtype: Any, real: bool) -> jax.Array:
    dtype = jnp.dtype(dtype or jnp.result_type(p))
    return jnp.full_like(p, start, dtype=real_dtype(dtype) if real else dtype)


def _column(name: str, treedef: Any, updates: Any, field: str, slot: Any) -> list[Any]:
    """The leaves of a slot at the leaves of the updates."""
    assert_agree(name, updates=updates, **{f"state.{field}": slot})
    return treedef.flatten_up_to(slot)


def _rows(formula_in: Callable[[Any], Any], leaves: Any, columns: Any, specs: list[Slot]) -> Any:
    out: list[list[Any]] = [[] for _ in range(len(columns) + 1)]
    for g, *slots in zip(leaves, *columns, strict=True):
        if g is None:  # no gradient: nothing moves
            row = (None, *slots)
        else:
            dtype = compute_dtype(g)
            formula = formula_in(real_dtype(dtype))
            wide = (x.astype(_match(dtype, x)) for x in (jnp.asarray(g), *slots))
            u, *new = formula(*wide)
            like = [s.dtype for s, spec in zip(slots, specs, strict=True) if spec.dtype is None and not spec.real]
            narrow = u.astype(common_dtype(g, *like))
            row = (narrow, *(narrowed(n, s.dtype) for n, s in zip(new, slots, strict=True)))
        for column, x in zip(out, row, strict=True):
            column.append(x)
    return out
