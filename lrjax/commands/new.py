"""`lrjax new`: a task to start from."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from lrjax.commands.arguments import finish
from lrjax.commands.shared import Refused, check_writable, write
from lrjax.tasks.file import FRAMEWORKS, template


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "new",
        help="write a task to start from",
        description="Writes a short training task as a Python file, which runs as it is.",
    )
    parser.add_argument("file", type=Path, metavar="TASK.py", help="the file, which must not be there yet")
    words = "what the model is written in (default: jax)"
    parser.add_argument("--for", dest="framework", choices=FRAMEWORKS, default="jax", help=words)
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    path = arguments.file
    check_writable(path, "TASK.py")
    if path.exists():
        raise Refused(f"{str(path)!r} exists already, and stays as it is.")
    write(path, template(path.name, arguments.framework))
    print(f"try: lrjax tune {shlex.quote(str(path))}", file=sys.stderr)
    return 0
