"""The command line: it puts the commands together."""

import argparse
import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import lrjax
import lrjax.commands.compare
import lrjax.commands.find
import lrjax.commands.new
import lrjax.commands.plot
import lrjax.commands.reference
import lrjax.commands.sweep
import lrjax.commands.train
import lrjax.commands.tune
from lrjax.commands.shared import Refused
from lrjax.training.interrupt import received_signal

_COMMANDS = (
    lrjax.commands.compare,
    lrjax.commands.find,
    lrjax.commands.sweep,
    lrjax.commands.tune,
    lrjax.commands.train,
    lrjax.commands.new,
    lrjax.commands.plot,
    lrjax.commands.reference,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 where all went well. Ends with status 2 and one line on stderr where an argument was bad."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.typed = shlex.join(["lrjax", *(sys.argv[1:] if argv is None else argv)])
    arguments.public = {name: getattr(lrjax, name) for name in dir(lrjax)}
    if arguments.command is None:
        parser.print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no such character shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = arguments.run(arguments)
        return 128 + number if (number := received_signal()) else status
    except Refused as error:
        arguments.parser.error(" ".join(str(error).split()))
    except BrokenPipeError:  # the reader has seen enough; nothing is left to flush to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 128 + (received_signal() or signal.SIGINT)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line, without the usage
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lrjax", description="Everything people do with a learning rate.")
    parser.add_argument("--version", action="version", version=f"lrjax {lrjax.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
