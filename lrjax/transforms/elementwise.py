"""Maps a formula on arrays over trees of parameters: the decorator of transformations that have moments."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, overload

import jax
import jax.numpy as jnp

from lrjax.numerics import Array, cast_to, common_dtype, safe_increment
from lrjax.schedules.base import Schedule
from lrjax.signatures import ValueClass
from lrjax.transforms.base import GradientTransformation, assert_trees_match, is_tracing, transformation_class
from lrjax.transforms.sharding import spec
from lrjax.value import as_arrays, assert_unbatched

Arguments = ParamSpec("Arguments")


class Slot(NamedTuple):
    """How a field of the state, a tree like the parameters, is initialized: by default with zeros.

    `dtype` and `start` name the hyperparameters with the dtype and the initial value; a `real` slot is real for complex
    parameters too; one that `copies` starts as a copy of the parameters; a `scalar` one has one number per array.
    """

    dtype: str | None = None
    start: str | None = None
    real: bool = False
    copies: bool = False
    scalar: bool = False


def is_none(x: Any) -> bool:
    return x is None


def traced_once(leaf: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function on arrays so that it is traced once per shape and dtype; XLA inlines the calls.

    Returns it unchanged outside of a trace, where every update would make, and compile, another function.
    """
    return jax.jit(leaf) if is_tracing() else leaf


def group_small_arrays(leaves: Sequence[Any]) -> list[list[int]]:
    """Returns groups of indices: of up to 32 small arrays of the same shape, dtype and sharding; of one array else.

    A small array costs more to launch and to compile than to read, so one operation for a group of them is faster.
    """
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        key = (jnp.shape(x), jnp.result_type(x), *spec(x)) if jnp.size(x) <= 2**14 else i
        groups.setdefault(key, []).append(i)
    return [group[start : start + 32] for group in groups.values() for start in range(0, len(group), 32)]


@functools.cache
def compute_dtype(dtype: Any) -> Any:
    """Returns the dtype in which a formula on arrays of `dtype` is evaluated: float32 for integers and narrower floats,
    else `dtype` itself."""
    wide = jnp.issubdtype(dtype, jnp.complexfloating) or dtype == jnp.float64
    return dtype if wide else jnp.dtype(jnp.float32)


@functools.cache
def inexact_dtype(dtype: Any) -> Any:
    """Returns the dtype of the update and the moments of an array of `dtype`: the same, but float32 for integers."""
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else compute_dtype(dtype)


@functools.cache
def real_dtype(dtype: Any) -> Any:
    return jnp.finfo(inexact_dtype(dtype)).dtype


def zeros_like(p: Any, dtype: Any = None) -> jax.Array:
    """Returns the initial moment of a parameter."""
    return jnp.zeros_like(p, _moment_dtype(p, dtype))


def _moment_dtype(p: Any, dtype: Any) -> Any:
    """Returns the dtype of a moment that is asked for: a complex one for a complex parameter."""
    own = inexact_dtype(jnp.result_type(p))
    return own if dtype is None else common_dtype(dtype, own) if jnp.iscomplexobj(p) else jnp.dtype(dtype)


def map_updates(formula: Callable[..., Any], updates: Any, *trees: Any, dtypes: Any = None) -> Any:
    """Maps `formula` over the leaves of the updates and of `trees`, in at least float32. The result has the dtype of
    the update (float32 for an integer), or of the leaf of `dtypes`. Where any of the leaves is None, it is None."""

    @traced_once
    def leaf(u: Any, *rest: Any) -> Any:
        own = jnp.result_type(u)
        target = inexact_dtype(own) if dtypes is None else jnp.result_type(rest[-1])
        dtype = compute_dtype(own)
        out = formula(*[x.astype(_real_if_real(dtype, x.dtype)) for x in map(jnp.asarray, (u, *rest[: len(trees)]))])
        return cast_to(out, target)

    others = trees if dtypes is None else (*trees, dtypes)
    has_none = lambda leaves: [x for x in leaves if x is None]
    return jax.tree.map(lambda *leaves: None if has_none(leaves) else leaf(*leaves), updates, *others, is_leaf=is_none)


@functools.cache
def _real_if_real(dtype: Any, other: Any) -> Any:
    """Returns `dtype`, or its real counterpart if `other` is a real dtype."""
    return dtype if jnp.issubdtype(other, jnp.complexfloating) else real_dtype(dtype)


def clip_real(name: str, x: jax.Array, low: Any, high: Any) -> jax.Array:
    """Clips a number by value, which for a complex one has no meaning; `name` is that of the transformation."""
    if jnp.iscomplexobj(x):
        raise TypeError(f"{name}: `updates` must be real, got {x.dtype}.")
    return jnp.clip(x, low, high)


def fill_none(updates: Any, like: Any) -> Any:
    """Replaces None in the updates by zeros, except where `like` has None; there the result is None."""
    fill = lambda g, p: None if p is None else jnp.zeros_like(p) if g is None else g
    return jax.tree.map(fill, updates, like, is_leaf=is_none)


def without_integers(new: Any, updates: Any, params: Any) -> Any:
    """Returns the new updates with None where an integer parameter has no gradient: it takes no floating update."""
    structure = lambda tree: jax.tree.structure(tree, is_leaf=is_none)
    if params is None or structure(new) != structure(updates):  # which may be another tree, of measured numbers
        return new
    is_integer = lambda p: hasattr(p, "dtype") and not jnp.issubdtype(p.dtype, jnp.inexact)
    drop = lambda u, n, p: None if u is None and is_integer(p) else n
    return jax.tree.map(drop, updates, new, params, is_leaf=is_none)


def cast_like(scalar: jax.Array, like: jax.Array) -> jax.Array:
    """Casts a scalar to the real dtype of an array."""
    return scalar.astype(real_dtype(like.dtype))


class _HasCount(Protocol):
    @property
    def count(self) -> Array: ...  # a field, not the method of tuple


class _HasT(Protocol):
    @property
    def t(self) -> Array: ...


@overload  # if the state has a counter, the first argument of the formula is `t`, which isn't a hyperparameter
def elementwise(
    State: type[_HasCount] | type[_HasT], needs_params: bool = False, packable: bool = True, **slots: Slot
) -> Callable[[Callable[Concatenate[Any, Arguments], Any]], ValueClass[Arguments, GradientTransformation]]: ...
@overload
def elementwise(
    State: type[Any], needs_params: bool = False, packable: bool = True, **slots: Slot
) -> Callable[[Callable[Arguments, Any]], ValueClass[Arguments, GradientTransformation]]: ...
def elementwise(State: Any, needs_params: bool = False, packable: bool = True, **slots: Slot) -> Any:
    """Decorator: makes a transformation of a formula in two stages:

        @elementwise(ScaleByAdamState, nu=Slot(real=True))
        def scale_by_adam(t, b1: Decay = 0.9, ...):
            ...                          # scalars of the step, computed once per update
            def leaf(g, mu, nu):         # the formula of one array
                ...
                return update, mu, nu
            return leaf

    The slots are the fields of the `State` except the counters (`count`, `count_m2`, `t`); with `needs_params` the leaf
    is a function of (g, p, slots). `t` counts the updates from 1; a schedule is passed as its value at step t−1.
    The formula is evaluated in float32 for narrower arrays; results are cast to the dtypes of the update and the state.
    A transformation whose leaf reduces its array isn't `packable`.
    """
    counters = [f for f in State._fields if f in ("count", "count_m2", "t")]
    names = [f for f in State._fields if f not in counters]
    specs = [slots.get(name, Slot()) for name in names]

    def init(params: Any, tx: Any) -> Any:
        def init_slot(spec: Slot) -> Any:
            if spec.copies:  # a copy: aliased parameters could not be donated
                return jax.tree.map(jnp.copy, params)
            start = 0 if spec.start is None else getattr(tx, spec.start)
            if spec.start is not None:
                assert_unbatched(tx)
            dtype = None if spec.dtype is None else getattr(tx, spec.dtype)
            shape = () if spec.scalar else None
            return jax.tree.map(lambda p: _init_leaf(p, start, dtype, spec.real, shape), params)

        fields = dict(zip(names, map(init_slot, specs), strict=True))
        return State(**fields, **{counter: jnp.zeros([], jnp.int32) for counter in counters})

    def decorate(formula: Callable[..., Any]) -> Any:
        def update(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
            if needs_params and params is None:
                raise ValueError(f"{formula.__name__}: `params` must be given to `update`, got None.")
            if needs_params:
                assert_trees_match(formula.__name__, updates=updates, params=params)
            count = getattr(state, counters[0]) if counters else None
            new_counts = {counter: safe_increment(count) for counter in counters}
            hyperparams = {k: v(count) if isinstance(v, Schedule) else v for k, v in as_arrays(tx).items()}
            leaf_formulas: dict[Any, Any] = {}

            def formula_in(dtype: Any) -> Any:  # cached by dtype, of which there is mostly one
                if dtype not in leaf_formulas:
                    scalars = {k: v.astype(dtype) if isinstance(v, jax.Array) else v for k, v in hyperparams.items()}
                    t = (new_counts[counters[0]].astype(dtype),) if counters else ()
                    leaf_formulas[dtype] = traced_once(formula(*t, **scalars))
                return leaf_formulas[dtype]

            leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
            slots = [
                _slot_leaves(formula.__name__, treedef, updates, state, *named)
                for named in zip(names, specs, strict=True)
            ]
            params_leaves = [treedef.flatten_up_to(params)] if needs_params else []
            out, *new = _map_leaves(formula_in, leaves, params_leaves, slots, specs)
            unflattened = {n: treedef.unflatten(slot) for n, slot in zip(names, new, strict=True)}
            return treedef.unflatten(out), State(**unflattened, **new_counts)

        return transformation_class(
            formula,
            init,
            update,
            ("t",) if counters else (),
            takes_extra=False,
            _packable=staticmethod(lambda tx: packable),
        )

    return decorate


def _init_leaf(p: Any, start: Any, dtype: Any, real: bool, shape: Any) -> jax.Array:
    dtype = _moment_dtype(p, dtype)
    return jnp.full_like(p, start, dtype=real_dtype(dtype) if real else dtype, shape=shape)


def _slot_leaves(name: str, treedef: Any, updates: Any, state: Any, field: str, spec: Slot) -> list[Any]:
    """Returns the leaves of a slot of the state, in the order of the leaves of the updates."""
    slot = getattr(state, field)
    if not spec.scalar:
        assert_trees_match(name, updates=updates, **{f"state.{field}": slot})
    return treedef.flatten_up_to(slot)


def _map_leaves(
    formula_in: Callable[[Any], Any], leaves: Any, params_leaves: Any, slots: Any, specs: list[Slot]
) -> Any:
    """Returns the leaves of the new updates, then those of each new slot."""
    outputs = []
    for g, *rest in zip(leaves, *params_leaves, *slots, strict=True):
        params, state = rest[: len(params_leaves)], rest[len(params_leaves) :]
        if g is None or [x for x in rest if x is None]:  # no gradient, or no parameter
            output = (None, *state)
        else:
            update_dtype = jnp.result_type(g)
            dtype = compute_dtype(update_dtype)
            formula = formula_in(real_dtype(dtype))
            u, *new = formula(
                *[x.astype(_real_if_real(dtype, x.dtype)) for x in map(jnp.asarray, (g, *params, *state))]
            )
            dtypes = [s.dtype for s in state]
            like = [d for d, spec in zip(dtypes, specs, strict=True) if spec.dtype is None and not spec.real]
            u = u.astype(common_dtype(inexact_dtype(update_dtype), *like))
            output = (u, *map(cast_to, new, dtypes))
        outputs.append(output)
    return zip(*outputs, strict=True) if outputs else [()] * (len(slots) + 1)
