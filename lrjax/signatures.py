"""The signature of the class that a decorator makes of a function, as `help`, editors and type checkers show it."""

import ast
import builtins
import inspect
import sys
import textwrap
import typing
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, Union

Arguments = ParamSpec("Arguments")
ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)


class _CalledWith(type, Generic[Arguments, ValueT_co]):
    """A metaclass, to a type checker: calling the class takes the parameters of a function."""

    if TYPE_CHECKING:

        def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> ValueT_co: ...  # type: ignore[override]


# The class of a decorated function, to a type checker: calling it with the function's parameters makes a ValueT. mypy
# needs the second member to narrow by `isinstance`, since it doesn't take an instance of a metaclass for a class.
ValueClass = Union[_CalledWith[Arguments, ValueT], type[ValueT]]  # noqa: UP007  (`|` can't be subscripted)


class SourceSignature:
    """The signature of a class as in the source of its function: `b1: Decay = 0.9`, without what `Decay` expands to.
    Computed on access, since it reads the source file."""

    def __init__(self, function: Callable[..., Any], names: Sequence[str], returns: str):
        self._function, self._names, self._returns = function, names, returns

    @property
    def parameters(self) -> list[inspect.Parameter]:
        parameters = inspect.signature(self._function).parameters
        return [parameters[name] for name in self._names]

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        parts = _parts_in_source(self._function)
        annotated = [p.replace(annotation=parts[p.name].annotation) if p.name in parts else p for p in self.parameters]
        return inspect.Signature(annotated, return_annotation=_SourceText(self._returns))


class _SourceText(str):
    """A part of a signature as it is written in the source; its repr has no quotes."""

    def __repr__(self) -> str:
        return str(self)


class _SourcePart(NamedTuple):
    annotation: Any
    default: Any


def _parts_in_source(function: Callable[..., Any]) -> dict[str, _SourcePart]:
    """Returns the annotation and default of each parameter, and of "return"; {} where there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        definition = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    if not isinstance(definition, ast.FunctionDef):
        return {}
    empty, arguments = inspect.Parameter.empty, definition.args
    written = lambda node: empty if node is None else _SourceText(_unquoted(node))
    verbatim = lambda node: empty if node is None else _SourceText(ast.get_source_segment(source, node))
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    variadic = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    parts = {arg.arg: _SourcePart(written(arg.annotation), verbatim(default)) for arg, default in pairs}
    parts |= {arg.arg: _SourcePart(written(arg.annotation), empty) for arg in variadic}
    return parts | {"return": _SourcePart(written(definition.returns), empty)}


def _unquoted(annotation: ast.expr) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return ast.unparse(annotation)


def call_signatures(name: str, function: Any, width: int = 76) -> str:
    """Returns the signatures of a function, class or method, one for each overload, with annotations and defaults as in
    the source, and one line per parameter where a line would be longer than `width`.

    >>> import lrjax
    >>> call_signatures("constant_schedule", lrjax.constant_schedule)
    'constant_schedule(value: Rate) -> Schedule'
    """
    return "\n".join(
        _call_signature(name, overload, width) for overload in typing.get_overloads(function) or [function]
    )


def _call_signature(name: str, function: Any, width: int) -> str:
    signature = inspect.signature(function)
    in_source = _parts_in_source(vars(function)["__wrapped__"] if isinstance(function, type) else function)
    parameters = [
        p.replace(annotation=in_source[p.name].annotation, default=in_source[p.name].default)
        if p.name in in_source
        else p
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    if "return" in in_source and not isinstance(function, type):
        signature = signature.replace(return_annotation=in_source["return"].annotation)
    signature = signature.replace(parameters=parameters)
    if len(line := f"{name}{signature}") <= width:
        return line
    ends = str(signature.replace(parameters=[])).removeprefix("()")
    return "\n".join([f"{name}(", *(f"    {part}," for part in _with_markers(parameters)), f"){ends}"])


def _with_markers(parameters: Sequence[inspect.Parameter]) -> list[str]:
    """Returns the parameters as text, with the markers `/` and `*` where their kinds need them."""
    parts: list[str] = []
    kinds = [p.kind for p in parameters]
    for i, p in enumerate(parameters):
        if p.kind is p.KEYWORD_ONLY and not {p.VAR_POSITIONAL, p.KEYWORD_ONLY} & set(kinds[:i]):
            parts.append("*")
        parts.append(str(p))
        if p.kind is p.POSITIONAL_ONLY and p.POSITIONAL_ONLY not in kinds[i + 1 :]:
            parts.append("/")
    return parts


def evaluate_annotation(annotation: Any, function: Callable[..., Any], imported_for_types: dict[str, Any]) -> Any:
    """Evaluates an annotation that `from __future__ import annotations` made a string; returns any other as it is.

    Looks its names up in the closure of the function, in the enclosing functions that are still running, in its module,
    and in `imported_for_types`, for names imported under TYPE_CHECKING only.
    """
    if not isinstance(annotation, str):
        return annotation
    closure = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    module = getattr(function, "__globals__", {})
    scopes, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_globals is module:
            scopes.append(frame.f_locals)
        frame = frame.f_back
    names = ChainMap(dict(closure), *map(dict, scopes), module, builtins.__dict__, imported_for_types)
    try:
        return eval(annotation, {}, names)
    except NameError as error:
        raise TypeError(
            f"{function.__name__}: the annotation {annotation!r} must be of names that exist when the function is "
            f"decorated. {error}."
        ) from None
