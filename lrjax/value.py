"""Values: a pure function together with its hyperparameters, as a frozen pytree.

`value_class` reads a function's signature and makes one frozen dataclass of it: numbers are the leaves, and flags,
strings and functions are part of the structure. So a value has a repr that reads like the call that makes it, equality
and a hash by value, a pickle and a config, and passes through `jit`, `vmap` and `grad` as an argument.
"""

import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jax.tree_util import GetAttrKey, register_pytree_with_keys

from lrjax.domains import Domain, NotInDomain, Requirement, domain_of

V = TypeVar("V", bound="Value")

_EXACT = 2**24  # the whole numbers up to here are float32 numbers

value_classes: dict[str, type["Value"]] = {}  # by config name


class Value:
    """Base of all values. The fields of a subclass are its hyperparameters."""

    _domains: ClassVar[dict[str, Domain]] = {}
    _requirements: ClassVar[tuple[Requirement, ...]] = ()
    _variadic: ClassVar[str | None] = None  # the field that holds *args

    def __post_init__(self) -> None:
        fields = vars(self)
        for name, domain in self._domains.items():
            try:
                fields[name] = domain.accept(fields[name])
            except NotInDomain:
                raise bad_argument(self, name, domain.words, fields[name]) from None
        for rule in self._requirements:
            names = tuple(inspect.signature(rule.holds).parameters)
            numbers = [fields[n] for n in names]
            checkable = rule.structural or all(map(_is_known, numbers))
            if checkable and not rule.holds(*numbers):
                others = ", ".join(f"{n}={fields[n]!r}" for n in names if n != rule.argument)
                got = f"{rule.words} (here {others})" if others else rule.words
                raise bad_argument(self, rule.argument, got, fields[rule.argument])

    def __repr__(self) -> str:
        arguments = []
        for name in hyperparameter_names(self):
            value = vars(self)[name]
            if name == self._variadic:
                arguments += map(_short, value)
            else:
                arguments.append(f"{name}={_short(value)}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, structure = jax.tree.flatten(self)
        theirs, other_structure = jax.tree.flatten(other)
        return structure == other_structure and all(map(_same, mine, theirs))

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(self)
        return hash((structure, tuple(leaves)))


def _is_known(x: Any) -> bool:
    return not any(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(x))


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, jax.core.Tracer) or isinstance(y, jax.core.Tracer):
        return x is y
    return x is y or (jnp.shape(x) == jnp.shape(y) and bool(np.all(np.equal(x, y))))


def _short(x: Any) -> str:
    if isinstance(x, jax.core.Tracer):
        return repr(x)
    if isinstance(x, (np.ndarray, jax.Array)):
        return np.array2string(np.asarray(x), separator=", ", threshold=8, edgeitems=2).replace("\n", "")
    if inspect.isroutine(x):
        return getattr(x, "__qualname__", repr(x))
    return repr(x)


def bad_argument(value: Value | str, argument: str, words: str, got: Any) -> ValueError:
    name = value if isinstance(value, str) else type(value).__name__
    return ValueError(f"{name}: `{argument}` must be {words}, got {reprlib.repr(got)}.")


def hyperparameter_names(value: Value) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(value))  # type: ignore[arg-type]


def value_class(
    function: Callable[..., Any],
    base: type[V],
    call_arguments: Sequence[str],
    requirements: Sequence[Requirement] = (),
    **namespace: Any,
) -> type[V]:
    """Makes the class whose fields are the parameters of `function` that aren't `call_arguments`."""
    parameters = [
        p
        for p in inspect.signature(function, eval_str=True).parameters.values()
        if p.name not in call_arguments and p.kind is not p.VAR_KEYWORD
    ]
    domains = {p.name: d for p in parameters if (d := domain_of(p.annotation)) is not None}
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    fields = [
        (
            p.name,
            Any if p.annotation is p.empty else p.annotation,
            dataclasses.field(
                default=dataclasses.MISSING if p.default is p.empty else p.default,
                kw_only=p.kind is p.KEYWORD_ONLY,
            ),
        )
        for p in parameters
    ]
    if variadic is not None:
        namespace["__init__"] = _variadic_init(variadic)
    cls = dataclasses.make_dataclass(
        function.__name__,
        fields,
        bases=(base,),
        frozen=True,
        eq=False,
        repr=False,
        namespace={
            **namespace,
            "_domains": domains,
            "_requirements": tuple(requirements),
            "_variadic": variadic,
            "__doc__": _documented(function, domains),
        },
    )
    cls.__module__ = function.__module__ or "__main__"  # None in exec; for pickle and doctest
    cls.__qualname__ = function.__qualname__
    function.__doc__ = None  # the class has it: once is enough for doctest
    _register(cls, [p.name for p in parameters])
    value_classes[config_name(cls)] = cls
    return cls


def config_name(cls: type[Value]) -> str:
    """Our own classes by their name alone, a user's by its module too."""
    return cls.__name__ if cls.__module__.startswith("lrjax.") else f"{cls.__module__}.{cls.__qualname__}"


def _variadic_init(name: str) -> Callable[..., None]:
    def __init__(self: Value, *args: Any, **fields: Any) -> None:
        if args and fields or set(fields) - {name}:
            raise TypeError(f"{type(self).__name__}: takes positional arguments only, got {', '.join(fields)}.")
        vars(self)[name] = tuple(fields.get(name, args))
        self.__post_init__()

    return __init__


def _documented(function: Callable[..., Any], domains: dict[str, Domain]) -> str:
    lines = [f"    {name}: {domain.words}." for name, domain in domains.items()]
    doc = inspect.cleandoc(function.__doc__ or "")
    return "\n".join([doc, "", "Args (any other value raises ValueError):", *lines]) if lines else doc


def _register(cls: type[Value], names: Sequence[str]) -> None:
    static = tuple(n for n in names if n in cls._domains and cls._domains[n].static)
    leaves = tuple(n for n in names if n not in static)
    counts = {n for n in names if n in cls._domains and cls._domains[n].whole}
    keys = tuple(map(GetAttrKey, leaves))

    def flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        fields = vars(value)
        return tuple(_as_leaf(fields[n]) for n in leaves), tuple(fields[n] for n in static)

    def flatten_with_keys(value: Any) -> Any:
        children, meta = flatten(value)
        return tuple(zip(keys, children, strict=True)), meta

    def unflatten(meta: Any, children: Any) -> Any:  # no check: the leaves may be anything
        value = object.__new__(cls)
        fields = vars(value)
        for name, leaf in zip(leaves, children, strict=True):
            fields[name] = int(leaf) if name in counts and type(leaf) is float and leaf.is_integer() else leaf
        fields.update(zip(static, meta, strict=True))
        return value

    register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _as_leaf(x: Any) -> Any:
    """Whole numbers flatten to floats where float32 holds them, so that step counts batch and differentiate too."""
    if type(x) is int:
        return float(x) if -_EXACT <= x <= _EXACT else x
    if type(x) is tuple:
        return tuple(map(_as_leaf, x))
    return x


def may_compile(value: Value) -> bool:
    """False where a compiled call would keep a tracer: inside a trace, somebody's function may close over one, and
    the cache of compiled functions would hold it for ever."""
    return not is_tracing() or not _holds_function(value)


_NO_TRACE = get_opaque_trace_state()


def is_tracing() -> bool:
    return get_opaque_trace_state() != _NO_TRACE


def _holds_function(x: Any) -> bool:
    if isinstance(x, Value):
        return any(_holds_function(field) for field in vars(x).values())
    return any(map(_holds_function, x)) if isinstance(x, tuple) else callable(x)


def enter(value: Value) -> dict[str, Any]:
    """The hyperparameters in the form in which they enter a formula; what that is, the domains say."""
    entered = {}
    for name in hyperparameter_names(value):
        x, domain = vars(value)[name], value._domains.get(name)
        if domain is not None and not domain.static:
            _assert_unbatched(value, name, x, domain.rank)
            x = domain.enter(x)
        entered[name] = x
    return entered


def _assert_unbatched(value: Value, name: str, x: Any, rank: int) -> None:
    for leaf in jax.tree.leaves(x, is_leaf=lambda v: isinstance(v, Value)):
        if isinstance(leaf, (jax.Array, np.ndarray)) and leaf.ndim > rank:
            raise ValueError(
                f"{type(value).__name__}: `{name}` is a batch of shape {leaf.shape}. "
                "Map over it with `jax.vmap`, or take one of them."
            )


class Frozen:
    """A tree of flags as a static hyperparameter: hashed and compared by its structure and leaves."""

    def __init__(self, tree: Any):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._key = (structure, tuple(leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return repr(self.tree)


def freeze(x: Any) -> Any:
    """A function as it is, a tree of flags frozen."""
    if x is None or isinstance(x, Frozen) or callable(x):
        return x
    if not all(isinstance(leaf, (bool, np.bool_)) for leaf in jax.tree.leaves(x)):
        raise NotInDomain
    return Frozen(jax.tree.map(bool, x))


def batched(value: V) -> V:
    """The batch with every number as an array of the batch's length, so that `jax.vmap` maps over all of it.

    Raises:
      ValueError: no hyperparameter is a batch, or two have different lengths.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> schedules = lrjax.cosine_decay_schedule(jnp.array([0.1, 0.2]), decay_steps=100)
    >>> jax.vmap(lambda schedule: schedule(50))(lrjax.batched(schedules))
    Array([0.05, 0.1 ], dtype=float32)
    """
    sizes: set[int] = set()

    def note(x: Any, rank: int) -> Any:
        sizes.update(jnp.shape(x)[: jnp.ndim(x) - rank][:1])
        return x

    _map_numbers(value, 0, note)
    if len(sizes) != 1:
        got = f"lengths {sorted(sizes)}" if sizes else "single numbers only"
        raise ValueError(f"batched: `value` must have hyperparameters that are arrays of one length, got {got}.")
    (size,) = sizes

    def spread(x: Any, rank: int) -> Any:
        if jnp.ndim(x) > rank:
            return x
        if isinstance(x, jax.Array):
            return jnp.broadcast_to(x, (size, *x.shape))
        return np.broadcast_to(np.asarray(x, jnp.result_type(x)), (size, *np.shape(x)))  # compiles nothing

    return _map_numbers(value, 0, spread)


def _map_numbers(x: Any, rank: int, change: Callable[[Any, int], Any]) -> Any:
    """A copy with `change(number, dimensions of one argument)` for each leaf."""
    if isinstance(x, Value):
        copy = object.__new__(type(x))
        for name, field in vars(x).items():
            domain = x._domains.get(name)
            kept = domain is not None and domain.static
            vars(copy)[name] = field if kept else _map_numbers(field, domain.rank if domain else 0, change)
        return copy
    is_value = lambda v: isinstance(v, Value)
    map_one = lambda v: _map_numbers(v, 0, change) if is_value(v) else change(v, rank)
    return jax.tree.map(map_one, x, is_leaf=is_value)


def with_hyperparams(value: V, **hyperparams: Any) -> V:
    """A copy in which the named hyperparameters are others, at whatever depth of a chain they stand.

    Raises:
      ValueError: a name isn't there, or is there more than once; the message lists the names that are.

    >>> import lrjax
    >>> tx = lrjax.chain(lrjax.clip_by_global_norm(1.0), lrjax.sgd(0.1))
    >>> lrjax.with_hyperparams(tx, learning_rate=0.01)
    chain(clip_by_global_norm(max_norm=1.0), sgd(learning_rate=0.01, momentum=None, nesterov=False, \
accumulator_dtype=None))
    """
    places = list(_places(value))
    for name in hyperparams:
        found = [path for path, names in places for n in names if n == name]
        if len(found) != 1:
            there = ", ".join(sorted({_dotted(path, n) for path, names in places for n in names}))
            how = f"{len(found)} hyperparameters" if found else "no hyperparameter"
            raise ValueError(f"with_hyperparams: {how} `{name}` in {type(value).__name__}; there are: {there}.")
    return _rebuild(value, hyperparams)


def _dotted(path: tuple[str, ...], name: str) -> str:
    return ".".join((*path, name))


def _places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every value inside this one, outermost first, with its hyperparameters that aren't containers of values."""
    if isinstance(value, Value):
        names = hyperparameter_names(value)
        yield path, tuple(n for n in names if not (isinstance(vars(value)[n], tuple) and _holds_values(vars(value)[n])))
        for n in names:
            yield from _places(vars(value)[n], (*path, n))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _places(item, (*path[:-1], f"{path[-1]}[{i}]") if path else path)


def _holds_values(items: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Value) or (isinstance(x, tuple) and _holds_values(x)) for x in items)


def _rebuild(x: Any, changes: dict[str, Any]) -> Any:
    if isinstance(x, tuple):
        return tuple(_rebuild(item, changes) for item in x)
    if not isinstance(x, Value):
        return x
    fields = {n: changes[n] if n in changes else _rebuild(vars(x)[n], changes) for n in hyperparameter_names(x)}
    return dataclasses.replace(x, **fields)  # type: ignore[type-var]
