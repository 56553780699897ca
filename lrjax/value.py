"""Values: frozen pytrees, each a pure function together with its hyperparameters.

`value_class` makes a frozen dataclass from a function's signature: numbers are the leaves of the pytree; bools, strings
and functions are static, part of its structure. A value has a repr that reads like the call that makes it, compares and
hashes by value, can be pickled and written as a config, and can be an argument of `jit`, `vmap` and `grad`.
"""

import dataclasses
import functools
import inspect
import reprlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys

import lrjax.domains as annotation_names
from lrjax.domains import Domain, NotInDomain, Requirement, domain_of, is_function
from lrjax.numerics import LargeCount
from lrjax.signatures import SourceSignature, evaluate_annotation
from lrjax.static import StaticArguments

ValueT = TypeVar("ValueT", bound="Value")

_MAX_EXACT_FLOAT32 = 2**24  # float32 holds every integer up to here exactly

value_classes: dict[str, type["Value"]] = {}  # by config name


class Layout(NamedTuple):
    """The hyperparameters of a class: their order, their defaults, and which are leaves of the pytree, which static."""

    names: tuple[str, ...]
    positional: tuple[str, ...]
    defaults: dict[str, Any]
    leaves: tuple[str, ...]
    static: tuple[str, ...]  # part of the pytree's structure
    numbers: tuple[str, ...]  # those that `as_arrays` converts, each by its domain

    @staticmethod
    def from_parameters(parameters: Sequence[inspect.Parameter], domains: dict[str, Domain]) -> "Layout":
        names = tuple(p.name for p in parameters)
        static = tuple(n for n in names if n in domains and domains[n].static)
        leaves = tuple(n for n in names if n not in static)
        return Layout(
            names,
            positional=tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
            defaults={p.name: p.default for p in parameters if p.default is not p.empty},
            leaves=leaves,
            static=static,
            numbers=tuple(n for n in domains if n not in static),
        )


class _Fields:
    """`__dataclass_fields__` of a value class: for `dataclasses` it is one, whose fields are made when they are asked
    for. Making them for all classes would be half of the time that it takes to import the package."""

    def __get__(self, instance: Any, owner: type) -> dict[str, Any]:
        decorated = next((cls for cls in owner.__mro__ if "__signature__" in vars(cls)), None)
        if decorated is None:
            raise AttributeError(f"{owner.__name__} is not a dataclass")
        return _fields_of(decorated)


@functools.cache
def _fields_of(cls: type) -> dict[str, Any]:
    fields = []
    for p in vars(cls)["__signature__"].parameters:
        default = dataclasses.MISSING if p.default is p.empty else p.default
        field = dataclasses.field(default=default, kw_only=p.kind is p.KEYWORD_ONLY)
        fields.append((p.name, Any if p.annotation is p.empty else p.annotation, field))
    return dataclasses.make_dataclass(cls.__name__, fields).__dataclass_fields__


class Value:
    """Base class of all values. The fields of a subclass are its hyperparameters."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the hyperparameters, which a type checker can't know

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_children",
        "_calls_user_function",
    )  # `__dict__` holds the fields only

    __dataclass_fields__: ClassVar[Any] = _Fields()
    _layout: ClassVar[Layout] = Layout.from_parameters((), {})
    _domains: ClassVar[dict[str, Domain]] = {}
    _requirements: ClassVar[tuple[Requirement, ...]] = ()
    _variadic: ClassVar[str | None] = None  # the field that holds *args

    def __init_subclass__(cls) -> None:  # here, so that an unpickled class is a pytree too
        register_pytree_with_keys(cls, _flatten_with_keys, functools.partial(_unflatten, cls), _flatten)

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # shared: generating one per class slows the import
        fields, layout = vars(self), self._layout
        given = dict(zip(layout.positional, args, strict=False))
        fields.update(layout.defaults)
        fields.update(given)
        fields.update(kwargs)
        fits = len(args) <= len(layout.positional) and given.keys().isdisjoint(kwargs)
        if not fits or fields.keys() != set(layout.names):
            try:
                inspect.signature(type(self)).bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}: {error}") from None
        self.__post_init__()

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __post_init__(self) -> None:
        fields = vars(self)
        for name, domain in self._domains.items():
            try:
                fields[name] = domain.validate(fields[name])
            except NotInDomain:
                raise bad_argument(self, name, domain.description, fields[name]) from None
        for rule in self._requirements:
            names = tuple(inspect.signature(rule.holds).parameters)
            numbers = [fields[n] for n in names]
            checkable = rule.structural or all(map(_is_plain, numbers))
            if checkable and not rule.holds(*numbers):
                others = ", ".join(f"{n}={fields[n]!r}" for n in names if n != rule.argument)
                expected = f"{rule.description} (here {others})" if others else rule.description
                raise bad_argument(self, rule.argument, expected, fields[rule.argument])

    def __repr__(self) -> str:
        arguments = []
        for name in hyperparameter_names(self):
            value = vars(self)[name]
            if name == self._variadic:
                arguments += map(_short_repr, value)
            else:
                arguments.append(f"{name}={_short_repr(value)}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        leaves, structure = jax.tree.flatten(self)
        other_leaves, other_structure = jax.tree.flatten(other)
        return structure == other_structure and all(map(_equal_leaves, leaves, other_leaves))

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(self)
        return hash((structure, tuple(map(_hashable, leaves))))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)


def _is_plain(x: Any) -> bool:
    return not any(isinstance(leaf, (jax.Array, np.ndarray)) or callable(leaf) for leaf in jax.tree.leaves(x))


def _equal_leaves(x: Any, y: Any) -> bool:
    if isinstance(x, jax.core.Tracer) or isinstance(y, jax.core.Tracer):
        return x is y
    return x is y or (jnp.shape(x) == jnp.shape(y) and bool(np.all(np.equal(x, y))))


def _hashable(x: Any) -> Any:
    if isinstance(x, (np.ndarray, jax.Array)) and not isinstance(x, jax.core.Tracer):
        return x.shape, tuple(np.asarray(x).ravel().tolist())
    return x


def _short_repr(x: Any) -> str:
    if isinstance(x, jax.core.Tracer):
        return repr(x)
    if isinstance(x, (np.ndarray, jax.Array)):
        return np.array2string(np.asarray(x), separator=", ", threshold=8, edgeitems=2).replace("\n", "")
    if inspect.isroutine(x):
        return getattr(x, "__qualname__", repr(x))
    return repr(x)


def bad_argument(value: Value | str, argument: str, expected: str, got: Any) -> ValueError:
    name = value if isinstance(value, str) else type(value).__name__
    return ValueError(f"{name}: `{argument}` must be {expected}, got {reprlib.repr(got)}.")


def hyperparameter_names(value: Value) -> tuple[str, ...]:
    return value._layout.names


def value_class(
    function: Callable[..., Any],
    base: type[ValueT],
    call_arguments: Sequence[str],
    requirements: Sequence[Requirement] = (),
    change_domain: Callable[[Domain], Domain] = lambda domain: domain,
    **namespace: Any,
) -> type[ValueT]:
    """Makes a class whose fields are the parameters of `function` except `call_arguments`."""
    parameters = [
        p.replace(annotation=evaluate_annotation(p.annotation, function, annotation_names.__dict__))
        for p in inspect.signature(function).parameters.values()
        if p.name not in call_arguments and p.kind is not p.VAR_KEYWORD
    ]
    for p in parameters:
        if hasattr(base, p.name) and not p.name.startswith("__"):
            raise ValueError(
                f"{function.__name__}: a hyperparameter must not have the name of a method of {base.__name__}, "
                f"got {p.name!r}."
            )
    domains = {p.name: change_domain(d) for p in parameters if (d := domain_of(p.annotation)) is not None}
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if variadic is not None:
        namespace["__init__"] = _variadic_init(variadic)
    layout = Layout.from_parameters(parameters, domains)
    namespace |= {
        "_layout": layout,
        "_domains": domains,
        "_requirements": tuple(requirements),
        "_variadic": variadic,
        "__doc__": _documented(function, domains),
        "__wrapped__": function,
        "__signature__": SourceSignature(function, layout.names, base.__name__),
        "__match_args__": layout.positional,
        "__module__": function.__module__ or "__main__",  # None in exec; for pickle and doctest
        "__qualname__": function.__qualname__,
        # `inspect.getsource` finds the formula by this from Python 3.13 on, by `__wrapped__` before
        "__firstlineno__": getattr(getattr(function, "__code__", None), "co_firstlineno", 1),
    }
    cls: Any = type(function.__name__, (base,), namespace)
    function.__doc__ = None  # moved to the class, so that doctest runs it once
    value_classes[config_name(cls)] = cls
    return cls


def config_name(cls: type[Value]) -> str:
    """Returns the name of a class in a config: of lrjax's own without the module, of a user's with it."""
    return cls.__name__ if cls.__module__.startswith("lrjax.") else f"{cls.__module__}.{cls.__qualname__}"


def _variadic_init(name: str) -> Callable[..., None]:
    def __init__(self: Value, *args: Any, **fields: Any) -> None:
        if args and fields or set(fields) - {name}:
            raise TypeError(f"{type(self).__name__}: takes positional arguments only, got {', '.join(fields)}.")
        vars(self)[name] = tuple(fields.get(name, args))
        self.__post_init__()

    return __init__


def _documented(function: Callable[..., Any], domains: dict[str, Domain]) -> str:
    lines = [f"    {name}: {domain.description}." for name, domain in domains.items()]
    doc = inspect.cleandoc(function.__doc__ or "")
    return "\n".join([doc, "", "Args (any other value raises ValueError):", *lines]) if lines else doc


def _flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    try:
        return value._children  # cached: a value is immutable, and `jit` flattens it at every call
    except AttributeError:
        fields, layout = vars(value), value._layout
        children = [x if type(x := fields[n]) is float else _as_leaf(x) for n in layout.leaves]
        flat = tuple(children), tuple([fields[n] for n in layout.static])
        object.__setattr__(value, "_children", flat)
        return flat


def _flatten_with_keys(value: Any) -> Any:
    children, meta = _flatten(value)
    return tuple(zip(map(GetAttrKey, value._layout.leaves), children, strict=True)), meta


def _unflatten(cls: type[Value], meta: Any, children: Any) -> Any:  # unchecked: JAX puts any object in place of a leaf
    value = object.__new__(cls)
    fields, layout = vars(value), cls._layout
    for name, leaf in zip(layout.leaves, children, strict=True):
        fields[name] = leaf if isinstance(leaf, jax.Array) else _from_leaf(leaf, cls._domains.get(name))
    fields.update(zip(layout.static, meta, strict=True))
    return value


def _as_leaf(x: Any) -> Any:
    """Converts an integer to float, so that numbers of steps can be batched and differentiated too."""
    if type(x) is int:
        return LargeCount.from_int(x) if _MAX_EXACT_FLOAT32 < abs(x) < 2**31 else float(x)
    if type(x) is tuple:
        return tuple(map(_as_leaf, x))
    return x


def _from_leaf(x: Any, domain: Domain | None) -> Any:
    if domain is not None and domain.counts_steps and type(x) is float and x.is_integer():
        return int(x)
    if type(x) is LargeCount and type(x.high) is float and type(x.low) is float:
        return int(x.high + x.low)
    return tuple(_from_leaf(item, None) for item in x) if type(x) is tuple else x


def may_compile(value: Value) -> bool:
    """Returns False where the value holds a user-defined function: it may read global state, branch on a number, or
    hold a tracer or a large array, which the cache of compiled programs would never release."""
    return not _has_user_function(value)


def _has_user_function(x: Any) -> bool:
    if isinstance(x, Value):
        try:
            return x._calls_user_function
        except AttributeError:
            found = any(map(_has_user_function, vars(x).values()))
            object.__setattr__(x, "_calls_user_function", found)
            return found
    if x is None or isinstance(x, (bool, int, float, str, jax.Array, np.ndarray)):
        return False
    if inspect.isfunction(x) and (x.__module__ or "").startswith("lrjax.") and "<" not in x.__qualname__:
        return False
    if isinstance(x, type) and issubclass(x, Value):
        return not x.__module__.startswith("lrjax.")
    if isinstance(x, StaticArguments):
        return any(map(_has_user_function, x.values()))
    if is_function(x):
        return True
    leaves = jax.tree.leaves(x, is_leaf=_is_value)
    return any(leaf is not x and _has_user_function(leaf) for leaf in leaves)


def as_arrays(value: Value) -> dict[str, Any]:
    """Returns the hyperparameters as a formula takes them: numbers as arrays, each converted by its domain."""
    assert_unbatched(value)
    fields = dict(vars(value))
    for name in value._layout.numbers:
        if not isinstance(fields[name], Value):
            fields[name] = value._domains[name].as_array(fields[name])
    return fields


def assert_unbatched(value: Value) -> None:
    """Raises ValueError where a hyperparameter is a batch, for `jax.vmap` to map over."""
    fields = vars(value)
    for name in value._layout.numbers:
        x, rank = fields[name], value._domains[name].rank
        for leaf in (x,) if isinstance(x, (jax.Array, float)) else jax.tree.leaves(x, is_leaf=_is_value):
            if isinstance(leaf, (jax.Array, np.ndarray)) and leaf.ndim > rank:
                raise ValueError(
                    f"{type(value).__name__}: `{name}` is a batch of shape {leaf.shape}. "
                    "Map over it with `jax.vmap`, or take one of them."
                )


def _is_value(x: Any) -> bool:
    return isinstance(x, Value)
