"""The reference: splits signatures and docstrings of public names into parts, for the terminal and the site."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any, get_origin

from lrjax.catalogue import example
from lrjax.domains import domain_of
from lrjax.report.svg import horizon
from lrjax.report.terminal import plot
from lrjax.schedules.base import Schedule
from lrjax.signatures import call_signatures
from lrjax.value import Value

_FAMILIES = ("schedules", "optimizers", "transforms", "training", "search")  # in this order; others follow
_ORDER = ("summary", "formula", "text", "section", "source", "example")
_SECTION = re.compile(r"([A-Z][^\n]*):\n((?: {2,}\S.*(?:\n|$))+)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public name, or a method of one."""

    name: str
    thing: Any
    signature: str  # or the fields of a class, as written in the source
    parts: tuple[tuple[str, str], ...]  # (kind, text) of the docstring, in the order of `_ORDER`
    methods: tuple["Entry", ...] = ()

    @property
    def summary(self) -> str:
        return next((" ".join(text.split()) for kind, text in self.parts if kind == "summary"), "")

    @property
    def is_value(self) -> bool:
        """Whether a decorator such as `schedule` or `optimizer` made it."""
        return isinstance(self.thing, type) and "__wrapped__" in vars(self.thing)

    @property
    def is_schedule(self) -> bool:
        return self.is_value and issubclass(self.thing, Schedule)


def families(names: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Returns the entries of the public names (of `dir(lrjax)`) by module, in the order of its source."""
    by_module: dict[str, list[tuple[int, Entry]]] = {}
    for name, thing in names.items():
        if not name.startswith("_") and not isinstance(thing, ModuleType):
            module = _module_of(name, thing)
            by_module.setdefault(module, []).append((_definitions(module)[name].lineno, _entry(name, thing, module)))
    rank = lambda module: _FAMILIES.index(folder) if (folder := family(module)) in _FAMILIES else len(_FAMILIES)
    ordered = sorted(by_module, key=lambda module: (rank(module), module))
    return {module: [entry for _, entry in sorted(by_module[module], key=lambda pair: pair[0])] for module in ordered}


def family(module: str) -> str:
    """Returns the folder of a module.

    >>> family("lrjax.schedules.decay"), family("lrjax.parse")
    ('schedules', '')
    """
    return ".".join(module.split(".")[1:-1])


def with_methods(by_module: Mapping[str, list[Entry]]) -> Iterator[Entry]:
    for entries in by_module.values():
        for entry in entries:
            yield entry
            yield from entry.methods


def argument_types(by_module: Mapping[str, list[Entry]]) -> list[Entry]:
    """Returns the types in signatures of values that are not public, such as `Decay`, with their domains."""
    public = {entry.name for entries in by_module.values() for entry in entries}
    types: dict[str, Entry] = {}
    for entry in (entry for entries in by_module.values() for entry in entries if entry.is_value):
        names = vars(entry.thing)["__wrapped__"].__globals__
        for name in set(re.findall(r"\w+", entry.signature)) - public - set(types):
            if get_origin(names.get(name)) is Annotated:
                module = _module_of(name, names[name])
                types[name] = _type(name, names[name], _definitions(module)[name], f"{module}.{name}")
    return [types[name] for name in sorted(types)]


def module_summary(module: str) -> str:
    return (inspect.getdoc(sys.modules[module]) or "").split("\n\n")[0].replace("\n", " ")


def section(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Parses a section of a docstring into its title and its items (name, text).

    >>> section("Args:\\n  low: the lowest\\n    rate.\\n  high: the highest.")
    ('Args', [('low', 'the lowest rate.'), ('high', 'the highest.')])
    """
    title, body = text.split(":\n", 1)
    items = re.split(r"\n(?=\S)", textwrap.dedent(body).strip())
    return title, [(name, " ".join(words.split())) for name, _, words in (item.partition(": ") for item in items)]


def text_of(entry: Entry, columns: int) -> str:
    """Formats an entry for a terminal, with the curve of a schedule."""
    wrap = functools.partial(textwrap.fill, width=max(columns, 20), break_long_words=False, break_on_hyphens=False)
    lines = [entry.signature]
    for kind, text in entry.parts:
        if kind == "section":
            title, items = section(text)
            lines += ["", f"{title}:"]
            lines += [wrap(f"{name}: {about}", initial_indent="  ", subsequent_indent="    ") for name, about in items]
        elif kind == "example" or text.startswith(("- ", "  ")):
            lines += ["", text]
        else:
            lines += ["", wrap(" ".join(text.split()))]
    if entry.is_schedule:
        schedule: Any = example(entry.thing)
        lines += ["", wrap(f"The curve of {schedule!r}:"), plot(schedule, horizon(schedule), columns)]
    for method in entry.methods:
        lines += ["", *textwrap.indent(text_of(method, columns - 2), "  ").split("\n")]
    return "\n".join(line.rstrip() for line in lines)


def _module_of(name: str, thing: Any) -> str:
    """Returns the module that defines a public name."""
    if getattr(thing, "__name__", None) == name:
        return thing.__module__
    return next(m for m in sorted(sys.modules) if m.startswith("lrjax.") and name in _definitions(m))


@functools.cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Returns the top-level definitions in the source of a module, by name."""
    definitions: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                definitions[name] = node
            case ast.Assign(targets=targets):
                definitions |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = node
    return definitions


def _entry(name: str, thing: Any, module: str) -> Entry:
    node = _definitions(module)[name]
    if getattr(thing, "__name__", None) != name:  # another name, or a type
        if isinstance(thing, type):
            return Entry(name, thing, ast.unparse(node), (("summary", f"The same as `{thing.__name__}`."),))
        return _type(name, thing, node, name)
    if not isinstance(node, ast.ClassDef):
        return Entry(name, thing, call_signatures(name, thing), _parts(thing))
    parts, (fields, comments) = _parts(thing), _fields(node, module)
    if fields:
        signature = "\n".join([f"class {name}:", *fields])
    elif inspect.isfunction(init := vars(thing).get("__init__")):
        signature = call_signatures(name, init).removesuffix(" -> None")
    else:
        signature = f"class {name}"
    if comments:
        parts = _in_order([*parts, ("section", "\n  ".join(["Fields:", *comments]))])
    return Entry(name, thing, signature, parts, _methods(name, thing))


def _type(name: str, thing: Any, node: Any, shown: str) -> Entry:
    """Returns the entry of a type for annotations, with its domain in words."""
    written, domain = getattr(node, "value", node), domain_of(thing)
    if get_origin(thing) is Annotated and isinstance(written, ast.Subscript) and isinstance(written.slice, ast.Tuple):
        written = written.slice.elts[0]
    words = f"A type: {domain!r}." if domain else "A type, for annotations."
    return Entry(name, thing, f"{shown} = {ast.unparse(written)}", (("summary", words),))


def _fields(node: ast.ClassDef, module: str) -> tuple[list[str], list[str]]:
    """Returns the fields of a dataclass or NamedTuple as written in the source, and the comments behind them."""
    lines = inspect.getsource(sys.modules[module]).split("\n")
    declared = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    fields, comments = [], []
    for part in declared:
        name, written = ast.unparse(part.target), ast.unparse(part)
        if "ClassVar" in written or name.startswith("_") and name != "_":  # `_: KW_ONLY`
            continue
        fields.append(f"    {written}")
        _, _, comment = lines[(part.end_lineno or part.lineno) - 1][part.end_col_offset :].partition("#")
        comments += [f"{name}: {comment.strip()}"] if comment else []
    return fields, comments


def _methods(name: str, cls: type) -> tuple[Entry, ...]:
    """Returns the public methods of a class in the order of the source, then those of its lrjax base classes."""
    methods: dict[str, Entry] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("lrjax.") or (base is Value and cls is not Value):
            continue
        for method, thing in vars(base).items():
            function = _function_of(thing)
            if method.startswith("_") or method in methods or function is None:
                continue
            full, is_property = f"{name}.{method}", isinstance(thing, (property, functools.cached_property))
            call = call_signatures(full, thing.__get__(None, cls) if isinstance(thing, classmethod) else function)
            signature = call.replace("()", "", 1) if is_property else call
            methods[method] = Entry(full, function, signature, _parts(function))
    return tuple(methods.values())


def _function_of(thing: Any) -> Any:
    match thing:
        case property():
            return thing.fget
        case functools.cached_property():
            return thing.func
        case classmethod() | staticmethod():
            return thing.__func__
    return thing if inspect.isfunction(thing) else None


def _parts(thing: Any) -> tuple[tuple[str, str], ...]:
    """Splits a docstring into parts, in the order of `_ORDER`; none for a generated docstring."""
    doc = inspect.cleandoc(vars(thing).get("__doc__") or "" if isinstance(thing, type) else thing.__doc__ or "")
    if not doc or doc.startswith(f"{thing.__name__}("):  # of a NamedTuple
        return ()
    is_value = isinstance(thing, type) and "__wrapped__" in vars(thing)
    parts: list[tuple[str, str]] = []
    for i, text in enumerate(re.split(r"\n\n+", doc)):
        is_formula = i == 1 and is_value and re.search(r" = | ← ", text)
        kind = (
            "summary" if i == 0
            else "example" if text.startswith(">>>")
            else "section" if _SECTION.fullmatch(text)
            else "source" if text.startswith("Source:")
            else "formula" if is_formula
            else "text"
        )  # fmt: skip
        parts.append((kind, text))
    return _in_order(parts)


def _in_order(parts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(parts, key=lambda part: _ORDER.index(part[0])))
