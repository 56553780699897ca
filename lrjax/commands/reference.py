"""`lrjax reference`: what there is, and what each name means."""

import argparse
import textwrap
from typing import Any

from lrjax.commands.arguments import finish
from lrjax.commands.shared import Refused, ascii_only, columns
from lrjax.parse import by_name
from lrjax.report.reference import families, module_summary, text_of, with_methods
from lrjax.report.terminal import as_ascii


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "reference",
        help="list the public names, or explain one",
        description="Lists the public names by the file that they come from; or explains one, "
        "for example: lrjax reference cosine_decay_schedule",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a public name such as adam, or a method: Task.from_nnx")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    by_module = families(arguments.public)
    if arguments.name is None:
        text = "\n\n".join(_list(module, by_module[module], columns()) for module in by_module)
    else:
        entries = {entry.name: entry for entry in with_methods(by_module)}
        try:
            text = text_of(by_name(arguments.name.removeprefix("lrjax."), entries, "public name"), columns())
        except ValueError as error:
            raise Refused(str(error)) from None
    print(as_ascii(text) if ascii_only() else text)
    return 0


def _list(module: str, entries: Any, width: int) -> str:
    """The names of a module with their summaries."""
    wrapped = lambda words, first, rest: textwrap.wrap(
        words, max(width, 20), initial_indent=first, subsequent_indent=rest, break_long_words=False
    )
    lines = wrapped(f"{module.removeprefix('lrjax.')}: {module_summary(module)}", "", "")
    for entry in entries:
        lines += wrapped(f"{entry.name}  {entry.summary}".rstrip(), "  ", " " * 6)
    return "\n".join(lines)
