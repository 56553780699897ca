"""`lrjax reference`: what there is, and what each name means."""

import argparse
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

from lrjax.commands.arguments import finish
from lrjax.commands.shared import Refused, ascii_only, columns
from lrjax.parse import by_name
from lrjax.report.reference import Entry, argument_types, families, module_summary, text_of, with_methods
from lrjax.report.terminal import as_ascii


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "reference",
        help="list the public names, or explain one",
        description="Lists the public names by the file that they come from; or explains one, "
        "for example: lrjax reference cosine_decay_schedule",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a public name, or a method such as Task.from_nnx")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    by_module = families(arguments.public)
    types = argument_types(by_module)
    if arguments.name is None:
        heads = {module: f"{module.removeprefix('lrjax.')}: {module_summary(module)}" for module in by_module}
        lists = [_list(heads[module], entries) for module, entries in by_module.items()]
        text = "\n\n".join([*lists, _list("Types of arguments:", types)])
    else:
        entries = {entry.name: entry for entry in [*types, *with_methods(by_module)]}
        try:
            text = text_of(by_name(arguments.name.removeprefix("lrjax."), entries, "public name"), columns())
        except ValueError as error:
            raise Refused(str(error)) from None
    print(as_ascii(text) if ascii_only() else text)
    return 0


def _list(head: str, entries: Sequence[Entry]) -> str:
    """The names of a module with their summaries."""
    wrap = partial(textwrap.wrap, width=max(columns(), 20), break_long_words=False, subsequent_indent=" " * 6)
    lines = textwrap.wrap(head, max(columns(), 20), break_long_words=False)
    for entry in entries:
        lines += wrap(f"{entry.name}  {entry.summary}".rstrip(), initial_indent="  ")
    return "\n".join(lines)
