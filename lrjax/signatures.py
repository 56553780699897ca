"""What `help`, an editor and a type checker see of the class that a decorator makes of a function."""

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
    """A class that is called with the parameters of a function."""

    if TYPE_CHECKING:

        def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> ValueT_co: ...  # type: ignore[override]


# To a type checker, the class of a decorated function: called with the function's parameters it makes a V. mypy needs
# the second part, which takes any arguments, to narrow by `isinstance`: an object of a metaclass is no class to it.
ValueClass = Union[_CalledWith[Arguments, ValueT], type[ValueT]]  # noqa: UP007  (`|` can't be subscripted)


class SourceSignature:
    """The signature of a class as its function was written, `b1: Decay = 0.9`, and not with all that `Decay` is. It is
    made when somebody asks for it: it reads the source."""

    def __init__(self, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], returns: str):
        self._function, self._parameters, self._returns = function, parameters, returns

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        written = _parts_in_source(self._function)
        annotated = [
            p.replace(annotation=written[p.name].annotation) if p.name in written else p for p in self._parameters
        ]
        return inspect.Signature(annotated, return_annotation=_SourceText(self._returns))


class _SourceText(str):
    """A part of a signature, shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


class _SourcePart(NamedTuple):
    annotation: Any
    default: Any


def _parts_in_source(function: Callable[..., Any]) -> dict[str, _SourcePart]:
    """By parameter, and "return" for what is returned; empty where the source isn't known."""
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
    """How `function`, a class of its formula, or a method can be called, with annotations and defaults as they are
    written; a line for each parameter where one line is too long; each overload.

    >>> import lrjax
    >>> call_signatures("constant_schedule", lrjax.constant_schedule)
    'constant_schedule(value: Rate) -> Schedule'
    """
    return "\n".join(
        _call_signature(name, overload, width) for overload in typing.get_overloads(function) or [function]
    )


def _call_signature(name: str, function: Any, width: int) -> str:
    signature = inspect.signature(function)
    written = _parts_in_source(vars(function)["__wrapped__"] if isinstance(function, type) else function)
    parameters = [
        p.replace(annotation=written[p.name].annotation, default=written[p.name].default) if p.name in written else p
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    if "return" in written and not isinstance(function, type):
        signature = signature.replace(return_annotation=written["return"].annotation)
    signature = signature.replace(parameters=parameters)
    if len(line := f"{name}{signature}") <= width:
        return line
    ends = str(signature.replace(parameters=[])).removeprefix("()")
    return "\n".join([f"{name}(", *(f"    {part}," for part in _with_markers(parameters)), f"){ends}"])


def _with_markers(parameters: Sequence[inspect.Parameter]) -> list[str]:
    """The parameters as text, with `/` and `*` between them where their kinds need it."""
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
    """The annotation itself, where `from __future__ import annotations` made a string of it.

    Its names are looked up where the function was written: in its closure, in the functions around it that are still
    running, in its module; and, for names that were imported for the type checker alone, in the last argument.
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
