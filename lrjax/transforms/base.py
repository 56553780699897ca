"""What a gradient transformation is: a value with an `init` and an `update`; and how to make, chain and apply them."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Concatenate, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Domain, NotInDomain, is_function
from lrjax.jax_versions import is_tracing
from lrjax.numerics import Array, ArrayTree, safe_increment
from lrjax.schedules.base import Schedule, or_schedule
from lrjax.signatures import ValueClass
from lrjax.value import Value, as_arrays, assert_unbatched, may_compile, value_class

Arguments = ParamSpec("Arguments")

# An inner jit that isn't inlined is traced once for all its callers; XLA inlines the call, so the compiled program is
# the same either way. The choice stands here alone.
_INLINE = False


class GradientTransformation(Value):
    """A pair of pure functions, as a value: `init(params) -> state` and
    `update(updates, state, params) -> (updates, state)`.

    `init, update = tx` works, as do `tx[0]`, `len(tx)` and `tx._replace(update=...)`, and every place that takes
    Optax's pair takes it. Called with two functions, as Optax's own class, it makes a value of them:
    `GradientTransformation(init_fn, update_fn)`.

    Every number of a transformation may be a schedule, ours or any function of the step. Then its state is a
    `ScheduledState`, which keeps the number that the last update used.
    """

    _init: ClassVar[Callable[..., Any]]
    _update: ClassVar[Callable[..., Any]]
    _takes_extra: ClassVar[bool] = False
    # whether it treats every number alike, however numbers are arranged in arrays
    _packable: ClassVar["staticmethod[[Any], bool]"] = staticmethod(lambda tx: False)
    _fields: ClassVar[tuple[str, str]] = ("init", "update")  # of Optax's pair

    def __new__(cls, *args: Any, **kwargs: Any) -> "GradientTransformation":
        if cls is not GradientTransformation and not hasattr(cls, "_update"):
            raise TypeError(
                f"{cls.__name__}: a transformation is made of its functions, not as a subclass. Decorate a function "
                "with `@lrjax.transformation(init)` or `@lrjax.optimizer`."
            )
        return object.__new__(pair if cls is GradientTransformation else cls)  # type: ignore[arg-type]

    def init(self, params: ArrayTree) -> ArrayTree:
        """The state before the first update. Not compiled: so it keeps the sharding of the parameters."""
        return self._init(params, self)

    def update(
        self, updates: ArrayTree, state: ArrayTree, params: ArrayTree | None = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        """The transformed updates and the next state; one compiled call, or, where a function of somebody else's is in
        the transformation, one for each part of it that has none."""
        if not self._takes_extra:
            extra_args = {}
        run = _compiled(type(self)) if may_compile(self) and holds_arrays_only((params, extra_args)) else self._update
        return run(self, without_float0(updates), state, params, extra_args)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (self.init, self.update)[index]

    def _replace(self, init: Any = None, update: Any = None) -> "GradientTransformation":
        return GradientTransformation(init or self.init, update or self.update)


def without_float0(updates: Any) -> Any:
    """The updates with None, the mark of a parameter without a gradient, in place of every `float0`, which is what
    `jax.grad(..., allow_int=True)` gives an integer."""
    if not [u for u in jax.tree.leaves(updates) if getattr(u, "dtype", None) == jax.dtypes.float0]:
        return updates
    return jax.tree.map(lambda u: None if jnp.result_type(u) == jax.dtypes.float0 else u, updates)


_JIT_TYPES = (jax.Array, np.ndarray, np.generic, int, float, complex)


def holds_arrays_only(tree: Any) -> bool:
    """Whether `jit` takes it: not where a leaf is a function, as in an unfiltered Equinox model, or any other thing
    that somebody's `update` asks for."""
    return not [x for x in jax.tree.leaves(tree) if not isinstance(x, _JIT_TYPES)]


@functools.cache
def _compiled(cls: type[GradientTransformation]) -> Callable[..., Any]:
    def compiled(*arguments: Any) -> Any:
        return cls._update(*arguments)

    compiled.__name__ = cls.__name__  # shows in profiles and in the jaxpr
    return jax.jit(compiled, inline=_INLINE)


def update_inner(tx: GradientTransformation, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
    """The update of a part of a transformation: inside a compiled one its formula, elsewhere a call of its own."""
    if is_tracing():
        return tx._update(tx, updates, state, params, extra_args if tx._takes_extra else {})
    return tx.update(updates, state, params, **extra_args)


def assert_trees_match(name: str, **trees: Any) -> None:
    """Raises an error that shows where the first tree, the updates, and another one differ.

    A `None` in either (a parameter without a gradient, a leaf that is no parameter) agrees with whatever the other has.
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
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _, _ in pairs]
        mine, theirs = ({n: pair[i] for n, pair in zip(names, pairs, strict=True)} for i in (1, 2))
    except ValueError:
        mine, theirs = updates, other
    import chex  # which takes longer to import than all of this package

    try:
        chex.assert_trees_all_equal_shapes(mine, theirs)
    except AssertionError as error:
        raise ValueError(f"{name}: `{first}` must have the structure and shapes of `{other_name}`. {error}") from None


class ScheduledState(NamedTuple):
    """The state of a transformation whose numbers follow schedules."""

    step: Array  # int32 (): updates so far, the step that the schedules see next
    hyperparams: dict[str, Array]  # float32 (): the scheduled numbers of the last update; at first, of the next
    inner_state: ArrayTree  # of the transformation with these numbers


def transformation_class(
    function: Callable[..., Any],
    init: Callable[[Any, Any], Any],
    update: Callable[..., Any],
    call_arguments: Sequence[str],
    takes_extra: bool,
    **namespace: Any,
) -> type[GradientTransformation]:
    """The value class of `function`'s hyperparameters; `update(tx, updates, state, params, extra_args)`.

    Its numbers may be schedules; `init` and `update` see them as numbers.
    """

    def init_scheduled(params: Any, tx: Any) -> Any:
        if not (schedules := _scheduled(tx)):
            return init(params, tx)
        now = {name: schedule(0) for name, schedule in schedules.items()}
        return ScheduledState(jnp.zeros([], jnp.int32), now, init(params, _with_values(tx, now)))

    def update_scheduled(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
        if not (schedules := _scheduled(tx)):
            return update(tx, updates, state, params, extra_args)
        now = {name: schedule(state.step) for name, schedule in schedules.items()}
        updates, inner_state = update(_with_values(tx, now), updates, state.inner_state, params, extra_args)
        return updates, ScheduledState(safe_increment(state.step), now, inner_state)

    return _make_class(function, init_scheduled, update_scheduled, call_arguments, takes_extra, **namespace)


def _make_class(
    function: Any, init: Any, update: Any, call_arguments: Any, takes_extra: bool, **namespace: Any
) -> type[GradientTransformation]:
    return value_class(
        function,
        GradientTransformation,
        call_arguments,
        change_domain=lambda domain: or_schedule(domain) if domain.schedulable else domain,
        _init=staticmethod(init),
        _update=staticmethod(update),
        _takes_extra=takes_extra,
        **namespace,
    )


def _scheduled(tx: Any) -> dict[str, Schedule]:
    """The numbers that are schedules; not those arguments that the transformation itself takes as schedules."""
    domains = tx._domains
    return {n: x for n, x in vars(tx).items() if isinstance(x, Schedule) and n in domains and domains[n].schedulable}


def _with_values(tx: Any, now: dict[str, Any]) -> Any:
    copy = object.__new__(type(tx))
    counts = {name: jnp.round(x) for name, x in now.items() if tx._domains[name].counts_steps}
    vars(copy).update({**vars(tx), **now, **counts})
    return copy


def transformation(
    init: Callable[[Any, Any], Any], packable: Callable[[Any], bool] = lambda tx: False, **namespace: Any
) -> Callable[[Callable[Concatenate[Any, Any, Any, Arguments], Any]], ValueClass[Arguments, GradientTransformation]]:
    """Makes a transformation of `fn(updates, state, params, *hyperparameters) -> (updates, state)`.

    `init(params, tx)` makes its first state. A function with `**extra_args` gets those of `update`. `per_number(tx)`
    says whether it treats every number alike, so that `packed` may rearrange them; `namespace` are further methods.
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
    """Makes a value of its own arguments of a function that returns a chain; `tx.transforms` are the chain's parts."""

    make: Callable[..., GradientTransformation] = fn

    def parts(tx: Any) -> Any:
        return make(**vars(tx))

    def update(tx: Any, updates: Any, state: Any, params: Any, extra_args: Any) -> Any:
        assert_unbatched(tx)  # here, where the names are the optimizer's own
        return update_inner(parts(tx), updates, state, params, extra_args)

    return _make_class(
        fn,
        lambda params, tx: parts(tx).init(params),
        update,
        (),
        takes_extra=True,
        transforms=property(lambda tx: part.transforms if (part := parts(tx))._variadic else (part,)),  # of a chain
        _packable=staticmethod(lambda tx: parts(tx)._packable(parts(tx))),
    )  # type: ignore[return-value]


def always(tx: Any) -> bool:
    return True


class EmptyState(NamedTuple):
    """The state of a transformation that has none."""


def no_state(params: Any, tx: Any) -> EmptyState:
    return EmptyState()


@transformation(no_state, packable=always)
def identity(updates: Any, state: Any, params: Any):
    """Leaves the updates as they are.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.identity().update(jnp.array([1.0]), lrjax.EmptyState())
    (Array([1.], dtype=float32), EmptyState())
    """
    return updates, state


def _init_pair(self: Any, init: Any = None, update: Any = None, *, init_fn: Any = None, update_fn: Any = None) -> None:
    vars(self).update(init_fn=init or init_fn, update_fn=update or update_fn)  # Optax's names, and those of the fields
    self.__post_init__()


@transformation(lambda params, tx: tx.init_fn(params), __init__=_init_pair)
def pair(updates: Any, state: Any, params: Any, init_fn: Callable, update_fn: Callable, **extra_args: Any):
    """Two functions, `init(params)` and `update(updates, state, params)`, as a value: what
    `GradientTransformation(init, update)` makes."""
    return update_fn(updates, state, params, **(extra_args if _takes_keywords(update_fn) else {}))


GradientTransformationExtraArgs = GradientTransformation  # every `update` takes extra arguments


def with_extra_args_support(tx: Any) -> GradientTransformation:
    """A pair of functions as a value, whose `update` takes extra arguments and passes on those that it knows.

    >>> import lrjax
    >>> lrjax.with_extra_args_support(lrjax.scale(2.0))
    scale(step_size=2.0)
    """
    return as_transformation(tx)


def as_transformation(tx: Any) -> GradientTransformation:
    """The transformation itself, or Optax's pair, or anything else with `init` and `update`, as a value."""
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
    """What has an `init` and an `update`, to a type checker."""

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def update(self) -> Callable[..., Any]: ...


TransformationLike = _Pair | tuple[Callable[..., Any], Callable[..., Any]]
Transformation = Annotated[
    TransformationLike, Domain("a gradient transformation (a pair of `init` and `update`)", as_transformation)
]
