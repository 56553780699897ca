"""Gradient transformations: values with an `init` and an `update`, and the decorators that make them."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, Concatenate, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Domain, NotInDomain, is_function
from lrjax.numerics import Array, ArrayTree, path_name, safe_increment
from lrjax.schedules.base import Schedule, or_schedule
from lrjax.signatures import ValueClass
from lrjax.value import Value, as_arrays, assert_unbatched, may_compile, value_class

Arguments = ParamSpec("Arguments")

# A nested jit that isn't inlined is traced once for all its callers. XLA inlines the call, so the compiled program is
# the same either way.
_INLINE = False


class GradientTransformation(Value):
    """A gradient transformation: a pair of pure functions, as a value, `init(params) -> state` and
    `update(updates, state, params) -> (updates, state)`.

    It can be used in place of Optax's pair: `init, update = tx`, `tx[0]`, `len(tx)` and `tx._replace(update=...)` work.
    `GradientTransformation(init_fn, update_fn)` makes a value of two functions, as Optax's class does.

    Every number of a transformation may be a schedule, or any function of the step. Then its state is a
    `ScheduledState`, which holds the number that the last update used.
    """

    # with the current numbers in place of schedules
    _init_formula: ClassVar["staticmethod[[Any, Any], Any]"]
    _update_formula: ClassVar["staticmethod[[Any, Any, Any, Any, Any], Any]"]
    _takes_extra: ClassVar[bool] = False
    # whether the result is the same when the numbers are stacked into other arrays
    _packable: ClassVar["staticmethod[[Any], bool]"] = staticmethod(lambda tx: False)
    _fields: ClassVar[tuple[str, str]] = ("init", "update")  # of Optax's pair

    def __new__(cls, *args: Any, **kwargs: Any) -> "GradientTransformation":
        if cls is not GradientTransformation and cls._layout is Value._layout:
            raise TypeError(
                f"{cls.__name__}: a transformation is made of its functions, not as a subclass. Decorate a function "
                "with `@lrjax.transformation(init)` or `@lrjax.optimizer`."
            )
        return object.__new__(pair if cls is GradientTransformation else cls)  # type: ignore[arg-type]

    def init(self, params: ArrayTree) -> ArrayTree:
        """Returns the initial state. It isn't compiled, so that the state keeps the sharding of the parameters."""
        return self._init(params)

    def update(
        self, updates: ArrayTree, state: ArrayTree, params: ArrayTree | None = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        """Returns the transformed updates and the next state. This is one compiled call; a transformation that holds a
        user-defined function makes one for each part without such a function."""
        if not self._takes_extra:
            extra_args = {}
        compiled = may_compile(self) and holds_arrays_only((params, extra_args))
        run = _compiled(type(self)) if compiled else type(self)._update
        return run(self, without_float0(updates), state, params, extra_args)

    def _init(self, params: Any) -> Any:
        if not (schedules := _scheduled(self)):
            return self._init_formula(params, self)
        values = {name: schedule(0) for name, schedule in schedules.items()}
        inner_state = self._init_formula(params, _with_values(self, values))
        return ScheduledState(jnp.zeros([], jnp.int32), values, inner_state)

    def _update(self, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
        if not (schedules := _scheduled(self)):
            return self._update_formula(self, updates, state, params, extra_args)
        values = {name: schedule(state.step) for name, schedule in schedules.items()}
        current = _with_values(self, values)
        updates, inner_state = self._update_formula(current, updates, state.inner_state, params, extra_args)
        return updates, ScheduledState(safe_increment(state.step), values, inner_state)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (self.init, self.update)[index]

    def _replace(self, init: Any = None, update: Any = None) -> "GradientTransformation":
        return GradientTransformation(init or self.init, update or self.update)


def without_float0(updates: Any) -> Any:
    """Replaces every `float0` leaf, as `jax.grad(..., allow_int=True)` returns for an integer, by None, which marks a
    parameter without a gradient."""
    if not [u for u in jax.tree.leaves(updates) if getattr(u, "dtype", None) == jax.dtypes.float0]:
        return updates
    return jax.tree.map(lambda u: None if jnp.result_type(u) == jax.dtypes.float0 else u, updates)


_JIT_TYPES = (jax.Array, np.ndarray, np.generic, int, float, complex)


def holds_arrays_only(tree: Any) -> bool:
    """Returns whether `jit` takes the tree as an argument: not where a leaf is a function, as in an unfiltered Equinox
    model, or another object for a user-defined `update`."""
    return not [x for x in jax.tree.leaves(tree) if not isinstance(x, _JIT_TYPES)]


@functools.cache
def _compiled(cls: type[GradientTransformation]) -> Callable[..., Any]:
    def compiled(*arguments: Any) -> Any:
        return cls._update(*arguments)

    compiled.__name__ = cls.__name__  # shows in profiles and in the jaxpr
    return jax.jit(compiled, inline=_INLINE)


def is_tracing() -> bool:
    """Returns whether Python is inside of a trace: of `jit`, `vmap`, `grad` or another transformation."""
    trace_state, outside = _trace_state()
    return trace_state() != outside


@functools.cache
def _trace_state() -> tuple[Callable[[], Any], Any]:
    """Returns the function that returns the current trace state, and its result outside of all traces.

    The function is public since JAX 0.10, and in `jax.core` before. It is called in a new thread, which is in no trace,
    whatever trace the caller is in.
    """
    import jax.extend.core  # here, as it imports Pallas

    found = getattr(jax.extend.core, "get_opaque_trace_state", None)
    trace_state = found or jax.core.get_opaque_trace_state  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as thread:
        return trace_state, thread.submit(trace_state).result()


def update_inner(tx: GradientTransformation, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
    """Updates an inner transformation: by its formula inside of a trace, by a compiled call outside."""
    if is_tracing():
        return tx._update(updates, state, params, extra_args if tx._takes_extra else {})
    return tx.update(updates, state, params, **extra_args)


def assert_trees_match(name: str, **trees: Any) -> None:
    """Raises ValueError, saying where, if structure or shapes of two trees, the updates and another, differ.

    A `None` in either (a parameter without a gradient, a leaf that isn't a parameter) matches any leaf.
    """
    (first, updates), (other_name, other) = trees.items()
    leaves, structure = jax.tree.flatten(updates)
    other_leaves, other_structure = jax.tree.flatten(other)
    shapes = [getattr(x, "shape", ()) for x in leaves]
    if structure == other_structure and shapes == [getattr(x, "shape", ()) for x in other_leaves]:
        return
    paths, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=lambda x: x is None)
    try:
        pairs = [
            (path, a, b)
            for (path, a), b in zip(paths, treedef.flatten_up_to(other), strict=True)
            if a is not None and b is not None and not is_function(b)
        ]
        if all(jnp.shape(a) == jnp.shape(b) for _, a, b in pairs):
            return
        names = [path_name(path) for path, _, _ in pairs]
        named, other_named = ({n: pair[i] for n, pair in zip(names, pairs, strict=True)} for i in (1, 2))
    except ValueError:
        named, other_named = updates, other
    import chex  # here, as it takes longer to import than all of lrjax

    try:
        chex.assert_trees_all_equal_shapes(named, other_named)
    except AssertionError as error:
        raise ValueError(f"{name}: `{first}` must have the structure and shapes of `{other_name}`. {error}") from None


class ScheduledState(NamedTuple):
    """The state of a transformation with scheduled hyperparameters."""

    step: Array  # int32 (): updates so far, the step of the schedules at the next update
    hyperparams: dict[str, Array]  # float32 (): the scheduled numbers of the last update; initially, of the first
    inner_state: ArrayTree  # the state of the transformation itself


def transformation_class(
    function: Callable[..., Any],
    init: Callable[[Any, Any], Any],
    update: Callable[..., Any],
    call_arguments: Sequence[str],
    takes_extra: bool,
    **namespace: Any,
) -> type[GradientTransformation]:
    """Makes the value class of `function`'s hyperparameters, with `init(params, tx)` and `update(tx, updates, state,
    params, extra_args)`.

    Hyperparameters may be schedules; `init` and `update` get their current numbers.
    """
    formulas = {"_init_formula": staticmethod(init), "_update_formula": staticmethod(update)}
    return _make_class(function, call_arguments, takes_extra, **formulas, **namespace)


def _make_class(
    function: Any, call_arguments: Sequence[str], takes_extra: bool, **namespace: Any
) -> type[GradientTransformation]:
    return value_class(
        function,
        GradientTransformation,
        call_arguments,
        change_domain=lambda domain: or_schedule(domain) if domain.schedulable else domain,
        _takes_extra=takes_extra,
        **namespace,
    )


def _scheduled(tx: Any) -> dict[str, Schedule]:
    """Returns the scheduled hyperparameters, except schedules that the transformation evaluates itself."""
    domains = tx._domains
    return {n: x for n, x in vars(tx).items() if isinstance(x, Schedule) and n in domains and domains[n].schedulable}


def _with_values(tx: Any, values: dict[str, Any]) -> Any:
    copy = object.__new__(type(tx))
    counts = {name: jnp.round(x) for name, x in values.items() if tx._domains[name].counts_steps}
    vars(copy).update({**vars(tx), **values, **counts})
    return copy


def transformation(
    init: Callable[[Any, Any], Any], packable: Callable[[Any], bool] = lambda tx: False, **namespace: Any
) -> Callable[[Callable[Concatenate[Any, Any, Any, Arguments], Any]], ValueClass[Arguments, GradientTransformation]]:
    """Decorator: makes a transformation of `fn(updates, state, params, *hyperparameters) -> (updates, state)`.

    `init(params, tx)` returns the initial state. A function with `**extra_args` gets those of `update`. `packable(tx)`
    says whether `packed` may stack its arrays without changing the result; `namespace` holds further methods.
    """

    def decorate(fn: Callable[..., Any]) -> Any:
        takes_extra = _takes_keywords(fn)

        def update(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
            hyperparams = as_arrays(tx)
            variadic = hyperparams.pop(tx._variadic, ()) if tx._variadic else ()
            return fn(updates, state, params, *variadic, **hyperparams, **(extra_args if takes_extra else {}))

        names = ("updates", "state", "params")
        kind = staticmethod(packable)
        return transformation_class(fn, init, update, names, takes_extra, _packable=kind, **namespace)

    return decorate


def _takes_keywords(fn: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())


def optimizer(fn: Callable[Arguments, GradientTransformation]) -> ValueClass[Arguments, GradientTransformation]:
    """Decorator: makes an optimizer of a function that returns a chain; `tx.transforms` are the chain's members."""

    return _make_class(
        fn,
        (),
        takes_extra=True,
        _init=_init_chain,
        _update=_update_chain,
        transforms=_TRANSFORMS,
        _packable=staticmethod(_is_chain_packable),
    )  # type: ignore[return-value]


def _chain_of(tx: Any) -> Any:
    return type(tx).__wrapped__(**vars(tx))


def _init_chain(tx: Any, params: Any) -> Any:
    return _chain_of(tx).init(params)


def _update_chain(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
    assert_unbatched(tx)  # here, so that the message has the optimizer's argument names
    return update_inner(_chain_of(tx), updates, state, params, extra_args)


def _is_chain_packable(tx: Any) -> bool:
    inner = _chain_of(tx)
    return inner._packable(inner)


_TRANSFORMS = property(lambda tx: inner.transforms if (inner := _chain_of(tx))._variadic else (inner,))  # of a chain


def always(tx: Any) -> bool:
    return True


class EmptyState(NamedTuple):
    """The state of a transformation without a state."""


def no_state(params: Any, tx: Any) -> EmptyState:
    return EmptyState()


@transformation(no_state, packable=always)
def identity(updates: Any, state: Any, params: Any):
    """Identity: returns the updates unchanged.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.identity().update(jnp.array([1.0]), lrjax.EmptyState())
    (Array([1.], dtype=float32), EmptyState())
    """
    return updates, state


def _init_pair(self: Any, init: Any = None, update: Any = None, *, init_fn: Any = None, update_fn: Any = None) -> None:
    vars(self).update(
        init_fn=init or init_fn, update_fn=update or update_fn
    )  # Optax's argument names, or those of the fields
    self.__post_init__()


@transformation(lambda params, tx: tx.init_fn(params), __init__=_init_pair)
def pair(updates: Any, state: Any, params: Any, init_fn: Callable, update_fn: Callable, **extra_args: Any):
    """A transformation of two functions, `init(params)` and `update(updates, state, params)`; made by
    `GradientTransformation(init, update)`."""
    return update_fn(updates, state, params, **(extra_args if _takes_keywords(update_fn) else {}))


GradientTransformationExtraArgs = GradientTransformation  # every `update` takes extra arguments


def with_extra_args_support(tx: Any) -> GradientTransformation:
    """Returns a transformation whose `update` accepts any extra arguments; it passes on those that `tx` takes.

    >>> import lrjax
    >>> lrjax.with_extra_args_support(lrjax.scale(2.0))
    scale(step_size=2.0)
    """
    return as_transformation(tx)


def as_transformation(tx: Any) -> GradientTransformation:
    """Converts Optax's pair, or an object with `init` and `update`, to a transformation; returns one as it is."""
    if isinstance(tx, GradientTransformation):
        return tx
    if hasattr(tx, "init") and hasattr(tx, "update"):
        return GradientTransformation(tx.init, tx.update)
    try:
        init, update = tx
    except (TypeError, ValueError):
        raise NotInDomain from None
    if not (callable(init) and callable(update)):
        raise NotInDomain
    return GradientTransformation(init, update)


class _Pair(Protocol):
    """An object with `init` and `update`, to a type checker."""

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def update(self) -> Callable[..., Any]: ...


TransformationLike = _Pair | tuple[Callable[..., Any], Callable[..., Any]]
Transformation = Annotated[
    TransformationLike, Domain("a gradient transformation (a pair of `init` and `update`)", as_transformation)
]
