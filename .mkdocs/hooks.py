"""Pages of the site that are made at build time: the gallery of schedules, the reference, and extending.md."""

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from posixpath import relpath
from typing import Any

from mkdocs.structure.files import File, Files

import lrjax
from lrjax.catalogue import example, example_call
from lrjax.report.reference import Entry, argument_types, families, family, module_summary, section, with_methods
from lrjax.report.svg import caption, horizon, schedule_svg

ROOT = Path(__file__).parents[1]
TYPES = "reference/types.md"
FAMILIES = cache(lambda: families({name: getattr(lrjax, name) for name in dir(lrjax)}))
_CODE = re.compile(r"(?<![`\[])`([^`\n]+)`(?![`\]])")


def on_config(config: Any) -> Any:
    """Puts a page for each file into the navigation, below "Reference"."""
    reference = next(item["Reference"] for item in config.nav if "Reference" in item)
    folders: dict[str, list[Any]] = {}
    for module in FAMILIES():
        folders.setdefault(family(module) or "core", []).append({_title(module): _page(module)})
    reference += [{folder.capitalize(): pages} for folder, pages in folders.items()]
    reference.append({"Types of arguments": TYPES})
    return config


def on_files(files: Files, config: Any) -> Files:
    made = {_page(module): _module_page(module, entries) for module, entries in FAMILIES().items()}
    made |= {"reference/index.md": _index(), TYPES: _types(), "gallery.md": _gallery()}
    made |= {"extending.md": (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links every `lrjax.name`, schedule and optimizer in the text of a page to the reference."""
    path = page.file.src_uri
    if path.endswith(".ipynb") or path.startswith("reference/"):
        return markdown
    fences = re.split(r"(^ *```.*?^ *```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else _linked(part, path, _is_linked) for i, part in enumerate(fences))


def _is_linked(code: str) -> bool:
    """Other names than schedules and optimizers mean too many other things without `lrjax.` before them."""
    places = ("reference/schedules/", "reference/optimizers/")
    return code.startswith("lrjax.") or (code in _values() and _places()[code].startswith(places))


def _linked(text: str, page: str, is_linked: Callable[[str], bool]) -> str:
    """Links the public names in backticks."""

    def link(match: re.Match[str]) -> str:
        name = match[1].removeprefix("lrjax.")
        return f"[{match[0]}]({_link(name, page)})" if name in _places() and is_linked(match[1]) else match[0]

    return _CODE.sub(link, text)


@cache
def _values() -> frozenset[str]:
    return frozenset(entry.name for entries in FAMILIES().values() for entry in entries if entry.is_value)


@cache
def _places() -> dict[str, str]:
    """By name: the page that a public name or a method is on."""
    places = {entry.name: TYPES for entry in argument_types(FAMILIES())}
    for module, entries in FAMILIES().items():
        places |= {entry.name: _page(module) for entry in with_methods({module: entries})}
    return places


def _page(module: str) -> str:
    return f"reference/{module.removeprefix('lrjax.').replace('.', '/')}.md"


def _title(module: str) -> str:
    return module.rsplit(".", 1)[1].replace("_", " ").capitalize()


def _link(name: str, page: str) -> str:
    return f"{relpath(_places()[name], str(Path(page).parent))}#lrjax.{name}"


def _index() -> str:
    lines = ["# Reference", "", "Every public name, by the file that it comes from; in a terminal: `lrjax reference`."]
    for module, entries in FAMILIES().items():
        page = _page(module).removeprefix("reference/")
        lines += ["", f"## [{module.removeprefix('lrjax.')}]({page})", "", _text(module_summary(module)), ""]
        lines += [f"- [`{e.name}`]({_link(e.name, 'reference/index.md')}): {_text(e.summary)}" for e in entries]
    return "\n".join(lines)


def _types() -> str:
    lines = ["# Types of arguments", "", "What the types in the signatures take; any other value raises ValueError."]
    return "\n".join([*lines, *(line for entry in argument_types(FAMILIES()) for line in _entry(entry, TYPES))])


def _gallery() -> str:
    lines = ["# Gallery of schedules"]
    for module, entries in FAMILIES().items():
        if schedules := [entry for entry in entries if entry.is_schedule]:
            lines += ["", f"## {_title(module)}", "", _text(module_summary(module)), ""]
            cards = [line for entry in schedules for line in _card(entry)]
            lines += ['<div class="grid cards" markdown>', "", *cards, "</div>"]
    return "\n".join([*lines, ""])


def _card(entry: Entry) -> list[str]:
    call = example_call(entry.thing).removeprefix("lrjax.")
    link = f"[`{call}`]({_link(entry.name, 'gallery.md')})"
    return [f"-   {_picture(entry)}", "", f"    {link}", "", f"    {_text(entry.summary)}", ""]


def _picture(entry: Entry) -> str:
    schedule = example(entry.thing)
    steps = horizon(schedule)
    svg = schedule_svg(schedule, steps, color="currentColor")
    return f'<span class="schedule">{svg}<small>{caption(schedule, steps)}</small></span>'


def _module_page(module: str, entries: list[Entry]) -> str:
    lines = [f"# {module.removeprefix('lrjax.')}", "", _text(module_summary(module))]
    return "\n".join([*lines, *(line for entry in entries for line in _entry(entry, _page(module)))])


def _entry(entry: Entry, page: str, level: int = 2) -> list[str]:
    lines = ["", f"{'#' * level} `{entry.name}` {{ #lrjax.{entry.name} }}", ""]
    lines += ["```python", entry.signature, "```", ""]
    mine = {entry.name, *re.findall(r"\w+", entry.signature), *(method.name.split(".")[1] for method in entry.methods)}
    text = lambda words: _linked(_text(words), page, lambda code: code not in mine)
    for kind, words in entry.parts:
        match kind:
            case "formula":
                lines += [text(words), "{ .formula }"]
            case "section":
                title, items = section(words)
                lines += [f"**{title}**", "", *(f"- `{name}`: {text(about)}" for name, about in items)]
            case "example":
                lines += ["```pycon", words, "```"]
            case "source":
                lines += [re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text(words))]
            case _:
                lines += [text(words)]
        lines.append("")
    if entry.is_schedule:
        lines += [f"The curve of `{example_call(entry.thing)}`:", "", _picture(entry), ""]
    if entry.is_value:
        lines += ['??? note "Code"', "", *(f"    {line}" for line in ["```python", *_code(entry.thing), "```"]), ""]
    for method in entry.methods:
        lines += _entry(method, page, level + 1)
    return lines


def _code(cls: type) -> list[str]:
    return inspect.getsource(vars(cls)["__wrapped__"]).rstrip().split("\n")


def _text(words: str) -> str:
    """Escapes what Markdown would take for its own, outside of code."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(part if i % 2 else re.sub(r"([\[\]<_])", r"\\\1", part) for i, part in enumerate(parts))
